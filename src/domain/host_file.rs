//! A file of the engine's machine that an administrator names to be shown to containers.

use std::fmt;

use super::fault::FieldFault;

/// Directories of the kernel and of sockets: nothing in them is a program, and much in them is a way out of a container.
const NEVER: [&str; 5] = ["proc", "sys", "dev", "run", "var/run"];

/// An absolute path without any detour, so that it means to the engine what it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFile(String);

impl HostFile {
    /// Longest path that Linux takes.
    const MAX_BYTES: usize = 4095;

    /// Checks a path from outside. Whether the file is there only the engine's machine can tell.
    ///
    /// # Errors
    /// Names `field` when the path is not absolute, takes a detour, or leads to where no program is.
    pub fn parse(field: &str, path: &str) -> Result<Self, FieldFault> {
        let fault = |message: &str| Err(FieldFault::new(field, message));
        let Some(rest) = path.strip_prefix('/') else { return fault("must be an absolute path such as /usr/local/bin/gitlab-runner") };
        let normal = |part: &str| !matches!(part, "" | "." | "..") && !part.chars().any(char::is_control);
        if path.len() > Self::MAX_BYTES || !rest.split('/').all(normal) {
            return fault("must be a path without '.', '..', empty parts and control characters, at most 4095 bytes long");
        }
        if NEVER.iter().any(|never| rest.strip_prefix(never).is_some_and(|after| after.is_empty() || after.starts_with('/'))) {
            return fault("must not be in /proc, /sys, /dev, /run or /var/run");
        }
        Ok(Self(path.to_owned()))
    }

    /// A path of our own making, absolute and without any detour.
    #[must_use]
    pub fn from_trusted(path: String) -> Self {
        Self(path)
    }

    /// The path as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HostFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn takes_a_plain_path_and_nothing_that_leads_elsewhere() {
        for good in ["/usr/local/lib/runner-coordinator/gitlab-runner", "/a b", "/runner", "/processes/x", "/var/running"] {
            assert_eq!(HostFile::parse("f", good).expect("a path").as_str(), good);
        }
        let long = format!("/{}", "a".repeat(4095));
        for bad in ["", "/", "a", "./a", "/a/", "/a//b", "/a/../b", "/a/./b", "/..", "/a\n", "/proc/self/exe", "/sys", "/dev/sda", "/run/docker.sock"]
            .into_iter()
            .chain(["/var/run/docker.sock", "/run", long.as_str()])
        {
            assert!(HostFile::parse("f", bad).is_err(), "{bad:?} was taken");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_taken_is_the_path_that_it_names(path in "[/.a-z]{0,12}") {
            if HostFile::parse("f", &path).is_ok() {
                // What the standard library makes of the path's parts, put together again, is the path.
                let parts: std::path::PathBuf = std::path::Path::new(&path).components().collect();
                prop_assert_eq!(parts.to_str(), Some(path.as_str()));
                prop_assert!(std::path::Path::new(&path).is_absolute() && !path.contains("/../") && !path.ends_with("/.."));
            }
        }
    }
}
