//! What is wrong with a value from outside, always with the field's name.

use std::fmt;

/// One faulty field of a request or of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldFault {
    /// Dotted path of the field, for example `gpus.count`.
    pub field: String,
    /// What is wrong and which values are allowed, as the rest of a sentence that begins with the field's name.
    pub message: String,
}

impl FieldFault {
    /// A fault of `field`.
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into() }
    }
}

impl fmt::Display for FieldFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.field, self.message)
    }
}

impl std::error::Error for FieldFault {}

/// An error with its causes in one line, each once: what a log line or a record shows.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
