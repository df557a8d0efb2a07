//! The values of labels. Each different one is a series that Prometheus keeps for weeks, so they come from sets that are bounded by the
//! program, its configuration or the machine, and never from a request.

use std::borrow::Cow;

/// A label's value.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Label(Cow<'static, str>);

impl Label {
    /// A value of a set that the configuration or the machine bounds: the name of a class, the id of a GPU, the template of a route. What a
    /// client sends must not come here.
    #[must_use]
    pub fn of_bounded_set(text: &str) -> Self {
        Self(Cow::Owned(text.to_owned()))
    }

    /// A phrase of the program as one word: `store a job` is `store_a_job`.
    #[must_use]
    pub fn phrase(text: &'static str) -> Self {
        if text.contains(' ') { Self(Cow::Owned(text.replace(' ', "_"))) } else { Self(Cow::Borrowed(text)) }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&'static str> for Label {
    fn from(text: &'static str) -> Self {
        Self(Cow::Borrowed(text))
    }
}
