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
