//! What a class opens beyond the default: its containers may do more than they need. One place decides what counts, for `check` and for the records of jobs.

use std::fmt;

use super::{Class, Destination, JobImage, Network};
use crate::domain::{HostFile, ImagePattern};

/// One thing that a class opens. As text it begins with the key that opens it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening<'a> {
    /// `network = "open"`.
    Network,
    /// `network_allow`.
    NetworkAllow(&'a [Destination]),
    /// Another `runtime` than `runc`.
    Runtime(&'a str),
    /// `job_image = "allow"`: of jobs of GitLab that name an image.
    JobImage {
        /// The images that they may name; empty for any.
        images: &'a [ImagePattern],
        /// The file of the machine that such a container is shown.
        runner_binary: &'a HostFile,
    },
}

impl fmt::Display for Opening<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network => f.write_str("network = \"open\": jobs reach the machine itself and every private network"),
            Self::NetworkAllow(allowed) => {
                let allowed: Vec<String> = allowed.iter().map(ToString::to_string).collect();
                write!(f, "network_allow: jobs reach {}", allowed.join(", "))
            }
            Self::Runtime(runtime) => write!(f, "runtime = \"{runtime}\""),
            Self::JobImage { images, runner_binary } => {
                let which = if images.is_empty() { "any image".to_owned() } else { format!("{} pattern(s) of images", images.len()) };
                write!(f, "job_image = \"allow\": jobs choose {which}, and see {} read-only", runner_binary.as_str())
            }
        }
    }
}

impl Class {
    /// Everything that it opens; nothing by default. Each key is named here, so that a new one is not forgotten.
    #[must_use]
    pub fn openings(&self) -> Vec<Opening<'_>> {
        let Self {
            network,
            network_allow,
            runtime,
            job_image,
            // More or less of what every container has; `user` is never root.
            cpus: _,
            memory: _,
            pids: _,
            timeout: _,
            tmp_size: _,
            user: _,
            // Told by themselves: the record names the devices.
            gpus: _,
            // Which work it takes, and what that is made of.
            name: _,
            image: _,
            tags: _,
            arch: _,
            emulation: _,
            warm: _,
            max_runners: _,
            priority: _,
            gitlab_token: _,
            pull: _,
            require_digest: _,
            shell: _,
        } = self;
        let network = match network {
            Network::None | Network::Isolated | Network::Allowlist => None,
            Network::Open => Some(Opening::Network),
        };
        let allowed = (!network_allow.is_empty()).then_some(Opening::NetworkAllow(network_allow));
        let runtime = (runtime != Self::DEFAULT_RUNTIME).then_some(Opening::Runtime(runtime));
        let images = match job_image {
            JobImage::Deny | JobImage::Ignore => None,
            JobImage::Allow { images, runner_binary } => Some(Opening::JobImage { images, runner_binary }),
        };
        [network, allowed, runtime, images].into_iter().flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ClassName;

    fn default() -> Class {
        Class::named(ClassName::from_trusted("a"))
    }

    fn told(class: &Class) -> Vec<String> {
        class.openings().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_default_opens_nothing_and_neither_does_what_is_stricter() {
        for network in [Network::None, Network::Isolated, Network::Allowlist] {
            for job_image in [JobImage::Deny, JobImage::Ignore] {
                assert_eq!(told(&Class { network, job_image, ..default() }), Vec::<String>::new());
            }
        }
    }

    #[test]
    fn each_key_opens_by_itself_and_is_named() {
        let allow = ["10.0.0.0/8", "git.example.com:443"].map(|text| Destination::parse("f", text).expect("a destination")).to_vec();
        let runner_binary = HostFile::parse("f", "/opt/gitlab-runner").expect("a file");
        let lends = |images| JobImage::Allow { images, runner_binary: runner_binary.clone() };
        let pattern = ImagePattern::parse("f", "rc-test/*").expect("a pattern");
        let whole =
            Class { network: Network::Open, network_allow: allow.clone(), runtime: "runsc".to_owned(), job_image: lends(vec![pattern]), ..default() };
        assert_eq!(told(&Class { network: Network::Open, ..default() }), told(&whole)[..1]);
        assert_eq!(told(&Class { network_allow: allow, ..default() }), told(&whole)[1..2]);
        assert_eq!(told(&Class { runtime: "runsc".to_owned(), ..default() }), told(&whole)[2..3]);
        assert_eq!(
            told(&Class { job_image: lends(Vec::new()), ..default() }),
            ["job_image = \"allow\": jobs choose any image, and see /opt/gitlab-runner read-only"]
        );
        insta::assert_snapshot!(told(&whole).join("\n"), @r#"
        network = "open": jobs reach the machine itself and every private network
        network_allow: jobs reach 10.0.0.0/8, git.example.com:443
        runtime = "runsc"
        job_image = "allow": jobs choose 1 pattern(s) of images, and see /opt/gitlab-runner read-only
        "#);
    }
}
