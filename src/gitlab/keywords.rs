//! What a job's `.gitlab-ci.yml` asks of its container, read from GitLab's description of the job.
//!
//! GitLab leaves it to the runner to put variables into the image's name, so `image: $CI_REGISTRY_IMAGE/build` arrives as it was written.

use serde_json::Value;

use crate::domain::{Keywords, NamedImage};

/// Longest name that is kept, in bytes: more than any image reference has, so a longer one is unreadable and stays so.
const MAX_NAME: usize = 1024;
/// Longest name that people are shown, in characters.
const MAX_SHOWN: usize = 200;
/// How deep variables are looked for in the values of variables. GitLab has done it already; the official runner goes this deep.
const MAX_DEPTH: u32 = 2;
/// Most variables that are put in, so that no job can keep us busy.
const MAX_STEPS: u32 = 64;

/// Reads both keywords. What is missing or of another kind was not named.
pub(super) fn read(image: &Value, services: &Value, variables: &Value) -> Keywords {
    let written = image["name"].as_str().or_else(|| image.as_str()).filter(|name| !name.is_empty());
    let image = written.map(|written| {
        let mut expansion = Expansion { variables: variables.as_array().map_or(&[], Vec::as_slice), out: String::new(), steps: 0, masked: false };
        expansion.expand(written, MAX_DEPTH);
        let shown = if expansion.masked || expansion.out.is_empty() { written } else { &expansion.out };
        NamedImage { shown: shown.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_SHOWN).collect(), name: expansion.out }
    });
    Keywords { image, has_services: services.as_array().is_some_and(|services| !services.is_empty()) }
}

/// A name in the making.
struct Expansion<'v> {
    variables: &'v [Value],
    out: String,
    steps: u32,
    masked: bool,
}

impl<'v> Expansion<'v> {
    /// Adds `text` with the values of its `$NAME` and `${NAME}`; an unknown one has none. Any other `$` stays, and makes the name unreadable.
    fn expand(&mut self, text: &str, depth: u32) {
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('$') {
            self.push(before);
            let Some((name, left)) = variable(after) else {
                self.push("$");
                rest = after;
                continue;
            };
            self.steps += 1;
            if self.steps > MAX_STEPS || self.out.len() >= MAX_NAME {
                self.push("$");
                return;
            }
            self.put_in(name, depth);
            rest = left;
        }
        self.push(rest);
    }

    fn put_in(&mut self, name: &str, depth: u32) {
        let Some(variable) = self.find(name) else { return };
        let flag = |key: &str| variable[key].as_bool().unwrap_or(false);
        self.masked |= flag("masked");
        let value = variable["value"].as_str().unwrap_or_default();
        if flag("file") {
            // Its value for the job is the path of a file, which is no image.
            self.push("$");
        } else if flag("raw") || depth == 0 {
            self.push(value);
        } else {
            self.expand(value, depth - 1);
        }
    }

    /// Of several with the same name the last counts.
    fn find(&self, name: &str) -> Option<&'v Value> {
        self.variables.iter().rev().find(|variable| variable["key"].as_str() == Some(name))
    }

    /// Adds what there is room for.
    fn push(&mut self, text: &str) {
        let room = MAX_NAME.saturating_sub(self.out.len());
        let end = (0..=room.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        self.out.push_str(&text[..end]);
    }
}

/// The variable's name at the beginning of a text that follows a `$`, and what comes behind it.
fn variable(text: &str) -> Option<(&str, &str)> {
    if let Some(braced) = text.strip_prefix('{') {
        return braced.split_once('}').filter(|(name, _)| !name.is_empty());
    }
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn variables() -> Value {
        json!([
            {"key": "CI_REGISTRY_IMAGE", "value": "registry.example.com/team/app", "public": true},
            {"key": "TAG", "value": "1"}, {"key": "TAG", "value": "2"},
            {"key": "NESTED", "value": "$CI_REGISTRY_IMAGE/sub:$TAG"},
            {"key": "RAW", "value": "$TAG", "raw": true},
            {"key": "FILE", "value": "certificate", "file": true},
            {"key": "SECRET", "value": "hush", "masked": true}, {"key": "OVER", "value": "${SECRET}"},
            {"key": "LOOP", "value": "$LOOP$LOOP"}, {"key": 3}, "x"
        ])
    }

    fn name(written: &str) -> NamedImage {
        read(&json!({ "name": written }), &Value::Null, &variables()).image.expect("an image")
    }

    #[test]
    fn variables_are_put_in_as_the_official_runner_does() {
        for (written, name_of) in [
            ("debian", "debian"),
            ("$CI_REGISTRY_IMAGE/build:${TAG}", "registry.example.com/team/app/build:2"),
            ("$NESTED", "registry.example.com/team/app/sub:2"),
            ("a$RAW", "a$TAG"),
            ("a$UNKNOWN", "a"),
            ("a$FILE", "a$"),
            ("a$", "a$"),
            ("a${", "a${"),
            ("a${}b", "a${}b"),
            ("a$-b", "a$-b"),
        ] {
            assert_eq!(name(written).name, name_of, "{written}");
            assert_eq!(name(written).shown, name_of, "{written}");
        }
    }

    #[test]
    fn a_masked_value_is_not_shown() {
        for written in ["r.example.com/$SECRET", "r.example.com/$OVER"] {
            let image = name(written);
            assert_eq!((image.name.as_str(), image.shown.as_str()), ("r.example.com/hush", written));
        }
    }

    #[test]
    fn a_name_that_comes_to_nothing_is_still_one() {
        assert_eq!(name("$UNKNOWN"), NamedImage { name: String::new(), shown: "$UNKNOWN".to_owned() });
    }

    #[test]
    fn only_named_services_count() {
        let services = |services: Value| read(&Value::Null, &services, &Value::Null);
        for none in [json!(null), json!([]), json!({}), json!("x"), json!(3)] {
            assert_eq!(services(none), Keywords::default());
        }
        assert!(services(json!([{"name": "postgres"}])).has_services);
        for none in [json!({}), json!({"name": ""}), json!({"name": 3}), json!([]), json!("")] {
            assert_eq!(read(&none, &Value::Null, &Value::Null), Keywords::default());
        }
        assert_eq!(read(&json!("debian"), &Value::Null, &Value::Null).image.map(|image| image.name).as_deref(), Some("debian"));
    }

    #[test]
    fn no_job_keeps_us_busy() {
        let image = name(&"$LOOP".repeat(10_000));
        assert!(image.name.len() <= MAX_NAME && image.shown.chars().count() <= MAX_SHOWN, "{image:?}");
        assert!(crate::domain::ImageRef::parse("image", &name(&"a".repeat(5000)).name).is_err());
        assert!(crate::domain::ImageRef::parse("image", &name(&format!("a{}", "$UNKNOWN".repeat(100))).name).is_err(), "cut short is unreadable");
    }

    proptest! {
        #[test]
        fn never_panics_and_stays_small(written in "[a$ü{}A-D]{0,400}", value in "[a$ü{}A-D]{0,400}") {
            let variables = json!([{"key": "A", "value": value.clone()}, {"key": "B", "value": value, "masked": true}]);
            if let Some(image) = read(&json!({ "name": written }), &Value::Null, &variables).image {
                prop_assert!(image.name.len() <= MAX_NAME);
            }
        }
    }
}
