//! Which images an administrator allows: patterns over references, with `*` for any text.

use super::fault::FieldFault;
use super::image::{DOCKER, ImageRef, is_registry};

/// A pattern for [`ImageRef::qualified`] references. It is completed as Docker completes a reference, so that `alpine:*` means images of
/// that name at Docker's own registry and not those of a registry that somebody calls `alpine`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImagePattern {
    /// As it was written, for people.
    written: String,
    /// With everything that Docker adds.
    full: String,
}

impl ImagePattern {
    /// Longest pattern; longer than any reference that could match.
    const MAX_BYTES: usize = 600;

    /// Checks a pattern from outside.
    ///
    /// # Errors
    /// Names `field` when the text holds what no reference can, so that it would never match.
    pub fn parse(field: &str, text: &str) -> Result<Self, FieldFault> {
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '*' | '.' | '_' | '-' | '/' | ':' | '@');
        if text.is_empty() || text.len() > Self::MAX_BYTES || !text.chars().all(legal) {
            return Err(FieldFault::new(field, "must be a pattern of image references such as registry.example.com/* or alpine:*"));
        }
        Ok(Self { written: text.to_owned(), full: completed(text) })
    }

    /// Whether the image is meant. Every `*` stands for any text, slashes and colons too.
    #[must_use]
    pub fn matches(&self, image: &ImageRef) -> bool {
        glob(self.full.as_bytes(), image.qualified().as_str().as_bytes())
    }

    /// The pattern as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.written
    }
}

fn completed(text: &str) -> String {
    let text = text.strip_prefix("index.docker.io/").map_or_else(|| text.to_owned(), |rest| format!("{DOCKER}/{rest}"));
    let name = match text.split_once('/') {
        // A star alone in the registry's place is for any registry.
        Some((first, _)) if is_registry(first) || first == "*" => text,
        None if text == "*" => text,
        Some(_) | None => format!("{DOCKER}/{text}"),
    };
    // Docker's own registry keeps one-word names below `library`.
    let name = match name.strip_prefix("docker.io/") {
        Some(one) if !one.contains('/') && one != "*" => format!("{DOCKER}/library/{one}"),
        Some(_) | None => name,
    };
    let last = name.rsplit('/').next().unwrap_or_default();
    let tag = if last.contains([':', '@']) || last.ends_with('*') { "" } else { ":latest" };
    format!("{name}{tag}")
}

/// Whether the pattern covers the whole text. Goes back to the last star only, so the cost is at most pattern times text.
pub(super) fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut seen) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while seen < text.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at + 1, seen));
                at += 1;
            }
            Some(byte) if *byte == text[seen] => {
                at += 1;
                seen += 1;
            }
            Some(_) | None => {
                let Some((after, from)) = star else { return false };
                star = Some((after, from + 1));
                (at, seen) = (after, from + 1);
            }
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(pattern: &str, image: &str) -> bool {
        let image = ImageRef::parse("image", image).expect("a reference");
        ImagePattern::parse("p", pattern).expect("a pattern").matches(&image)
    }

    #[test]
    fn a_pattern_means_what_docker_would_read_in_it() {
        let digest = format!("alpine:3@sha256:{}", "a".repeat(64));
        for (pattern, image) in [
            ("*", "anything/at:all"),
            ("alpine:*", "alpine"),
            ("alpine:*", "docker.io/library/alpine:3"),
            ("alpine:*", &digest),
            ("alpine", "alpine:latest"),
            ("docker.io/alpine", "alpine"),
            ("docker.io/*", "team/app:1"),
            ("index.docker.io/team/*", "team/app:1"),
            ("team/*", "team/app/sub:1"),
            ("registry.example.com/*", "registry.example.com/team/app"),
            ("registry.example.com:5000/team/*:stable", "registry.example.com:5000/team/app:stable"),
            ("*/app:*", "registry.example.com/app:2"),
            ("te*/app:1", "team/app:1"),
            ("localhost/a", "localhost/a"),
        ] {
            assert!(matches(pattern, image), "{pattern} does not take {image}");
        }
        for (pattern, image) in [
            ("alpine", "alpine:3"),
            ("alpine:*", "alpine:5000/evil/image"),
            ("alpine:*", "evil/alpine:3"),
            ("team/*", "team.example.com/app"),
            ("registry.example.com/*", "registry.example.com.evil.org/app"),
            ("registry.example.com/*", "evil/registry.example.com/app"),
            ("docker.io/*", "registry.example.com/app"),
            ("registry.example.com/team/*", "registry.example.com/other/app"),
            ("te*/app:1", "te.example.com/app:1"),
            ("alpine:3", &digest),
        ] {
            assert!(!matches(pattern, image), "{pattern} takes {image}");
        }
    }

    #[test]
    fn what_no_reference_can_hold_is_no_pattern() {
        for bad in ["", " ", "alpine?", "[a]", "a,b", "$X", &"a".repeat(601)] {
            assert!(ImagePattern::parse("p", bad).is_err(), "{bad:?} was taken");
        }
    }

    /// The plainest rule there is: exponential, and right.
    fn by_definition(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern, text) {
            ([], []) => true,
            ([b'*', rest @ ..], _) => by_definition(rest, text) || (!text.is_empty() && by_definition(pattern, &text[1..])),
            ([p, pattern @ ..], [t, text @ ..]) => p == t && by_definition(pattern, text),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn the_quick_way_decides_like_the_definition(pattern in "[ab*]{0,8}", text in "[ab]{0,10}") {
            prop_assert_eq!(glob(pattern.as_bytes(), text.as_bytes()), by_definition(pattern.as_bytes(), text.as_bytes()));
        }

        #[test]
        fn a_reference_is_a_pattern_for_itself_only(one in "([a-c]{1,3}(\\.[a-c]|:[1-9])?/)?[a-c]{1,3}(:[a-c])?", other in "([a-c]{1,3}(\\.[a-c]|:[1-9])?/)?[a-c]{1,3}(:[a-c])?") {
            let same = ImageRef::from_trusted(one.as_str()).qualified() == ImageRef::from_trusted(other.as_str()).qualified();
            prop_assert_eq!(matches(&one, &other), same);
        }

        #[test]
        fn a_pattern_below_a_registry_never_leaves_it(rest in "[a-c*/:]{0,8}", image in "[a-c.]{1,6}(:[1-9])?(/[a-c]{1,3}){0,2}(:[a-c])?") {
            if let (Ok(pattern), Ok(image)) = (ImagePattern::parse("p", &format!("r.example.com/{rest}")), ImageRef::parse("i", &image)) {
                prop_assert!(!pattern.matches(&image) || image.registry() == "r.example.com");
            }
        }
    }
}
