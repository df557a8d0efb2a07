//! How the settings came into force, as `/status` tells it: keys, never values.

use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use crate::config::Loading;

/// How the settings came into force.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ConfigurationInForce)]
pub(super) struct ConfigurationDto {
    /// When those in force were read: at the start, or at the latest reload that was not refused.
    #[schema(value_type = String, format = DateTime)]
    loaded_at: Timestamp,
    /// What that reload changed, by dotted key; empty after a start.
    changed: Vec<String>,
    /// What differs in the file since the start and takes effect at the next one, by dotted key.
    needs_restart: Vec<String>,
    /// What was wrong with the configuration when the latest reload was refused, one fault a line; `null` after one that was not.
    error: Option<String>,
}

impl From<Loading> for ConfigurationDto {
    fn from(loading: Loading) -> Self {
        let Loading { loaded_at, changed, needs_restart, error } = loading;
        Self { loaded_at, changed, needs_restart, error }
    }
}
