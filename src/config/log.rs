//! `[log]`: which lines the daemon logs, and in which form.

use super::section::Section;
use super::values;
use crate::domain::FieldFault;

/// Longest filter, in bytes.
const MAX_FILTER: usize = 1024;

/// Which lines the daemon logs, and in which form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// `log.level`, default `info`: a level, or a list such as `info,runner_coordinator::jobs=debug`. `--log` wins over it.
    pub level: String,
    /// `log.format`, default `text`. `--log-format` wins over it.
    pub format: LogFormat,
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: LogFormat::Text }
    }
}

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// `text`: on standard error, for people.
    Text,
    /// `json`: on standard error, for programs.
    Json,
    /// `journald`: to systemd's journal, each field as a field of its own.
    Journald,
}

impl LogFormat {
    /// Every choice, in the order in which messages list them.
    pub const ALL: [Self; 3] = [Self::Text, Self::Json, Self::Journald];

    /// The name in the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
            Self::Journald => "journald",
        }
    }
}

/// Reads `[log]`.
pub(super) fn read(section: &mut Section<'_>) -> Log {
    let base = Log::default();
    Log {
        level: section.parsed("level", filter).unwrap_or(base.level),
        format: section.parsed("format", values::choice(&LogFormat::ALL, LogFormat::as_str)).unwrap_or(base.format),
    }
}

/// The form of a filter is the business of who filters; here it only has to be a line of text.
fn filter(field: &str, text: &str) -> Result<String, FieldFault> {
    if text.trim().is_empty() || text.len() > MAX_FILTER || text.chars().any(char::is_control) {
        return Err(FieldFault::new(field, format!("must be a level or a list of them, 1 to {MAX_FILTER} bytes without control characters")));
    }
    Ok(text.to_owned())
}
