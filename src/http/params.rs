//! Query parameters: every one that is given is known and makes sense, or all that do not are named at once.

use axum::extract::{FromRequestParts, Query};
use axum::http::request::Parts;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::problem::Problem;
use crate::domain::FieldFault;

/// Elements of a page when the client does not say.
pub(super) const DEFAULT_LIMIT: u32 = 50;
/// Most elements of a page.
pub const MAX_LIMIT: u32 = 500;
/// Longest cursor; ours are far shorter.
pub(super) const MAX_CURSOR_BYTES: usize = 256;

/// The query parameters of a request, not yet taken.
#[derive(Debug)]
pub struct Params {
    pairs: Vec<(String, String)>,
    known: Vec<&'static str>,
    faults: Vec<FieldFault>,
}

impl<S: Send + Sync> FromRequestParts<S> for Params {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Query(pairs) = Query::<Vec<(String, String)>>::from_request_parts(parts, state)
            .await
            .map_err(|error| Problem::parameter("query", super::problem::quoted(&error.body_text())))?;
        Ok(Self { pairs, known: Vec::new(), faults: Vec::new() })
    }
}

impl Params {
    /// Takes a parameter that may be given once.
    pub fn take(&mut self, name: &'static str) -> Option<String> {
        self.known.push(name);
        let mut values = self.pairs.extract_if(.., |(given, _)| given == name).map(|(_, value)| value);
        let first = values.next();
        let more = values.count() > 0;
        if more {
            self.fault(name, "must be given once");
        }
        first
    }

    /// Takes a parameter and reads it; what cannot be read is remembered as a fault.
    pub fn read<T>(&mut self, name: &'static str, read: impl FnOnce(&str, &str) -> Result<T, FieldFault>) -> Option<T> {
        let value = self.take(name)?;
        read(name, &value).map_err(|fault| self.faults.push(fault)).ok()
    }

    /// Takes a list, parted by commas, of names from a closed set.
    pub fn names(&mut self, name: &'static str, allowed: &[&'static str]) -> Vec<String> {
        let Some(value) = self.take(name) else { return Vec::new() };
        let names: Vec<String> = value.split(',').map(|one| one.trim().to_owned()).collect();
        if names.iter().any(|one| !allowed.contains(&one.as_str())) {
            self.fault(name, format!("must be one or more of {}, parted by commas", allowed.join(", ")));
        }
        names
    }

    /// Takes `true` or `false`; `false` when it is not given.
    pub fn flag(&mut self, name: &'static str) -> bool {
        match self.take(name).as_deref() {
            None | Some("false") => false,
            Some("true") => true,
            Some(_) => {
                self.fault(name, "must be true or false");
                false
            }
        }
    }

    /// Takes `limit`.
    pub fn limit(&mut self) -> u32 {
        let read = |name: &str, text: &str| {
            let in_range = text.parse().ok().filter(|limit| (1..=MAX_LIMIT).contains(limit));
            in_range.ok_or_else(|| FieldFault::new(name, format!("must be 1 to {MAX_LIMIT}")))
        };
        self.read("limit", read).unwrap_or(DEFAULT_LIMIT)
    }

    /// Takes `cursor`: the id after which the page begins.
    pub fn cursor(&mut self) -> Option<String> {
        self.read("cursor", |name, text| cursor_id(text).ok_or_else(|| FieldFault::new(name, "must be a next_cursor of an earlier answer")))
    }

    /// Ends the taking: nothing unknown may be left.
    ///
    /// # Errors
    /// Names every parameter that is unknown or makes no sense.
    pub fn finish(mut self) -> Result<(), Problem> {
        let known = if self.known.is_empty() { "none".to_owned() } else { self.known.join(", ") };
        for (name, _) in std::mem::take(&mut self.pairs) {
            self.fault(&super::problem::quoted(&name), format!("is not known here; known: {known}"));
        }
        if self.faults.is_empty() { Ok(()) } else { Err(Problem::InvalidParameters(self.faults)) }
    }

    fn fault(&mut self, name: &str, message: impl Into<String>) {
        self.faults.push(FieldFault::new(name, message));
    }
}

/// The cursor that continues after the element with this id. Opaque, so that what is in it may change.
pub fn cursor_after(id: &str) -> String {
    URL_SAFE_NO_PAD.encode(format!("1:{id}"))
}

fn cursor_id(cursor: &str) -> Option<String> {
    let bytes = URL_SAFE_NO_PAD.decode(cursor.get(..).filter(|text| text.len() <= MAX_CURSOR_BYTES)?).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let id = text.strip_prefix("1:")?;
    (!id.is_empty()).then(|| id.to_owned())
}

/// Cuts a list that was asked for with one element more than the page holds, and makes the cursor of the next page.
pub fn page<T>(found: Vec<T>, limit: u32, id: impl Fn(&T) -> &str) -> (Vec<T>, Option<String>) {
    page_after(found, limit, |last| cursor_after(id(last)))
}

/// Cuts a list in the same way, and says with `position`, of the page's last element, what the next page comes after.
pub fn page_after<T, P>(mut found: Vec<T>, limit: u32, position: impl FnOnce(&T) -> P) -> (Vec<T>, Option<P>) {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| more).map(position);
    (found, next)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn params(pairs: &[(&str, &str)]) -> Params {
        let pairs = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Params { pairs, known: Vec::new(), faults: Vec::new() }
    }

    #[test]
    fn all_faults_are_named_at_once() {
        let mut params = params(&[("limit", "0"), ("state", "done"), ("colour", "red"), ("follow", "yes"), ("follow", "true")]);
        params.limit();
        params.names("state", &["queued", "running"]);
        params.flag("follow");
        let Err(Problem::InvalidParameters(faults)) = params.finish() else { panic!("taken") };
        insta::assert_snapshot!(faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"));
    }

    #[test]
    fn a_page_has_a_cursor_only_when_there_is_more() {
        let page_of = |count: usize| page((0..count).map(|n| n.to_string()).collect(), 2, |id: &String| id);
        assert_eq!(page_of(2), (vec!["0".to_owned(), "1".to_owned()], None));
        assert_eq!(page_of(3).1.as_deref().and_then(cursor_id).as_deref(), Some("1"));
    }

    proptest! {
        #[test]
        fn a_cursor_reads_back(id in "[0-9a-f]{1,40}") {
            prop_assert_eq!(cursor_id(&cursor_after(&id)), Some(id));
        }

        #[test]
        fn no_cursor_panics(text in ".{0,300}") {
            let _ = cursor_id(&text);
        }
    }
}
