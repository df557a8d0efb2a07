//! What is wrong with a configuration, told all at once, so that an operator mends it in one go.

use std::fmt;

/// One fault, with where it stands. Never repeats the faulty value, which may be a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigFault {
    /// The file, or the environment variable; `configuration` when the key is given nowhere.
    pub source: String,
    /// Dotted key such as `classes[1].memory`, counted from 0; `None` when the whole source is at fault.
    pub key: Option<String>,
    /// The rest of a sentence that begins with the key or the source.
    pub message: String,
}

impl fmt::Display for ConfigFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.key {
            Some(key) => write!(f, "{}: {key} {}", self.source, self.message),
            None => write!(f, "{}: {}", self.source, self.message),
        }
    }
}

/// Every fault of a configuration, one a line. Never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigFaults(pub Vec<ConfigFault>);

impl ConfigFaults {
    /// One fault of a whole source.
    pub(super) fn of_source(source: impl Into<String>, message: impl Into<String>) -> Self {
        Self(vec![ConfigFault { source: source.into(), key: None, message: message.into() }])
    }
}

impl fmt::Display for ConfigFaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.0.iter().enumerate() {
            let newline = if index == 0 { "" } else { "\n" };
            write!(f, "{newline}{fault}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigFaults {}
