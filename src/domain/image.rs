//! References to container images, by the rules of the distribution project's `reference` package.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::fault::FieldFault;

/// The registry of references that name none.
pub(super) const DOCKER: &str = "docker.io";

/// A reference that an engine will understand: `[registry/]name[:tag][@digest]`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ImageRef(String);

/// The image that all containers of a job are made of, as it was when the first was made: a tag that moves between two attempts changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinnedImage {
    /// The engine's id of it, `sha256:…`.
    pub id: String,
    /// `name@sha256:…` when it came from a registry.
    pub digest: Option<String>,
}

impl PinnedImage {
    /// The digest, else the id: what tells it from every other image.
    #[must_use]
    pub fn identity(&self) -> &str {
        self.digest.as_deref().unwrap_or(&self.id)
    }
}

impl ImageRef {
    /// Whether it names a digest, so that nobody can put another image in its place.
    #[must_use]
    pub fn names_digest(&self) -> bool {
        self.0.contains('@')
    }

    /// Takes a reference that was checked before it was stored.
    pub fn from_trusted(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The reference as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Checks a reference from outside.
    ///
    /// # Errors
    /// Names `field` when no engine would understand the text.
    pub fn parse(field: &str, text: &str) -> Result<Self, FieldFault> {
        if is_reference(text) {
            return Ok(Self(text.to_owned()));
        }
        Err(FieldFault::new(field, "must be an image reference such as debian:bookworm or registry.example.com/team/app@sha256:…"))
    }

    /// The registry's host (and port) that the image is pulled from; Docker's own when none is named.
    #[must_use]
    pub fn registry(&self) -> &str {
        match self.0.split_once('/') {
            Some((first, _)) if is_registry(first) => first,
            _ => DOCKER,
        }
    }

    /// The same without tag and digest: what a registry keeps together.
    #[must_use]
    pub fn repository(&self) -> String {
        let qualified = self.qualified();
        let path = qualified.0.split('@').next().unwrap_or_default();
        without_tag(path).0.to_owned()
    }

    /// The same with everything that Docker adds by itself, so that one image has one spelling: `alpine` becomes
    /// `docker.io/library/alpine:latest`. An engine cannot take it for an image's id either.
    #[must_use]
    pub fn qualified(&self) -> Self {
        let (registry, path) = match self.0.split_once('/') {
            // What stands behind Docker's other name is a path, whatever it looks like.
            Some(("index.docker.io", path)) => (DOCKER, path),
            Some((first, path)) if is_registry(first) => (first, path),
            _ => (DOCKER, self.0.as_str()),
        };
        let library = if registry == DOCKER && !path.contains('/') { "library/" } else { "" };
        let tag = if path.contains('@') || without_tag(path).1.is_some() { "" } else { ":latest" };
        Self(format!("{registry}/{library}{path}{tag}"))
    }

    /// The reference without tag and digest, and the tag or digest to pull (`latest` when none is named).
    #[must_use]
    pub fn name_and_version(&self) -> (&str, &str) {
        if let Some((name, digest)) = self.0.split_once('@') {
            return (without_tag(name).0, digest);
        }
        let (name, tag) = without_tag(&self.0);
        (name, tag.unwrap_or("latest"))
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Docker takes the first part for a registry when it could not be a user's name.
pub(super) fn is_registry(part: &str) -> bool {
    part == "localhost" || part.contains(['.', ':'])
}

fn without_tag(text: &str) -> (&str, Option<&str>) {
    match text.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (text, None),
    }
}

fn is_reference(text: &str) -> bool {
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (text, None),
    };
    let (name, tag) = without_tag(rest);
    let (registry, path) = match name.split_once('/') {
        Some((first, path)) if is_registry(first) => (Some(first), path),
        _ => (None, name),
    };
    name.len() <= 255 && registry.is_none_or(is_host) && path.split('/').all(is_path_part) && tag.is_none_or(is_tag) && digest.is_none_or(is_digest)
}

fn is_host(host: &str) -> bool {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) => (name, Some(port)),
        None => (host, None),
    };
    let label = |l: &str| !l.is_empty() && l.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') && !l.starts_with('-') && !l.ends_with('-');
    name.split('.').all(label) && port.is_none_or(is_port)
}

/// Digits alone: a sign is read as part of a number, and no engine takes it.
fn is_port(port: &str) -> bool {
    port.bytes().all(|digit| digit.is_ascii_digit()) && port.parse::<u16>().is_ok()
}

/// Lower-case letters and digits, parted by one `.`, one or two `_`, or any number of `-`.
fn is_path_part(part: &str) -> bool {
    let alnum = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let separators_ok = part.split(alnum).all(|run| matches!(run, "" | "." | "_" | "__") || run.chars().all(|c| c == '-'));
    part.starts_with(alnum) && part.ends_with(alnum) && separators_ok
}

fn is_tag(tag: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    !tag.is_empty() && tag.len() <= 128 && tag.chars().all(legal) && !tag.starts_with(['.', '-'])
}

fn is_digest(digest: &str) -> bool {
    let hex = |h: &str, n| h.len() == n && h.chars().all(|c| c.is_ascii_digit() || ('a'..='f').contains(&c));
    match digest.split_once(':') {
        Some(("sha256", h)) => hex(h, 64),
        Some(("sha512", h)) => hex(h, 128),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_references_and_refuses_the_rest() {
        let digest = format!("app@sha256:{}", "a".repeat(64));
        for good in ["debian", "debian:bookworm", "rc-test/busybox:1", "localhost:5000/a/b:1", "registry.example.com/team/app", "a__b/c-d.e", &digest]
        {
            assert!(ImageRef::parse("image", good).is_ok(), "{good} was refused");
        }
        for bad in [
            "",
            "Debian",
            "a//b",
            "a b",
            "-a",
            "a:",
            "a:-x",
            "a@sha256:1",
            "a..b",
            "http://x/y",
            "a___b",
            "x.y:99999/a",
            "x.y:+80/a",
            "a\n",
            "a/",
            ":tag",
            "@",
        ] {
            assert!(ImageRef::parse("image", bad).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn knows_where_to_pull_from() {
        let parts = |text: &str| {
            let image = ImageRef::parse("image", text).expect("a reference");
            let (name, version) = image.name_and_version();
            (image.registry().to_owned(), name.to_owned(), version.to_owned())
        };
        assert_eq!(parts("debian"), ("docker.io".into(), "debian".into(), "latest".into()));
        assert_eq!(parts("localhost:5000/a:2"), ("localhost:5000".into(), "localhost:5000/a".into(), "2".into()));
        assert_eq!(parts("team/app:1"), ("docker.io".into(), "team/app".into(), "1".into()));
    }

    #[test]
    fn one_image_has_one_qualified_spelling() {
        let digest = format!("@sha256:{}", "a".repeat(64));
        for (text, qualified) in [
            ("alpine", "docker.io/library/alpine:latest".to_owned()),
            ("docker.io/alpine:3", "docker.io/library/alpine:3".to_owned()),
            ("index.docker.io/library/alpine:3", "docker.io/library/alpine:3".to_owned()),
            ("index.docker.io/r.example.com/app", "docker.io/r.example.com/app:latest".to_owned()),
            ("team/app", "docker.io/team/app:latest".to_owned()),
            ("localhost:5000/app", "localhost:5000/app:latest".to_owned()),
            ("localhost/a/b:1", "localhost/a/b:1".to_owned()),
            (&format!("app{digest}"), format!("docker.io/library/app{digest}")),
            (&format!("r.example.com:1/app:2{digest}"), format!("r.example.com:1/app:2{digest}")),
        ] {
            let image = ImageRef::parse("image", text).expect("a reference").qualified();
            assert_eq!(image.as_str(), qualified);
            assert_eq!(image.qualified(), image);
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in ".{0,80}") {
            if let Ok(image) = ImageRef::parse("image", &text) {
                let _ = (image.registry().len(), image.name_and_version());
                prop_assert_eq!(image.qualified().qualified(), image.qualified());
            }
        }
    }
}
