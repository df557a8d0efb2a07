//! `[fleet]`: daemons that share one database.

use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};

use super::section::Section;
use super::values::{self, DAY, SECOND, duration};

/// The address of a `PostgreSQL` database, which may hold a password: never shown.
#[derive(Clone)]
pub struct DatabaseUrl(SecretString);

impl DatabaseUrl {
    /// An address in `PostgreSQL`'s own form.
    #[must_use]
    pub fn new(url: SecretString) -> Self {
        Self(url)
    }

    /// The address.
    #[must_use]
    pub fn secret(&self) -> &SecretString {
        &self.0
    }
}

impl PartialEq for DatabaseUrl {
    fn eq(&self, other: &Self) -> bool {
        self.0.expose_secret() == other.0.expose_secret()
    }
}

impl Eq for DatabaseUrl {}

impl std::fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DatabaseUrl(…)")
    }
}

/// What daemons that share one database need of each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fleet {
    /// `fleet.host_lost_after`, default `2m`: how long a machine may be silent before its jobs are ended as `host_lost` by the others.
    pub host_lost_after: Duration,
    /// `fleet.url`, default none: where the API of this daemon is reached from elsewhere, for what only it can answer. Without a slash at the end.
    pub url: Option<String>,
}

impl Default for Fleet {
    fn default() -> Self {
        Self { host_lost_after: Duration::from_secs(120), url: None }
    }
}

/// Reads `[fleet]`.
pub(super) fn read(section: &mut Section<'_>) -> Fleet {
    let base = Fleet::default();
    Fleet {
        host_lost_after: section.parsed("host_lost_after", duration(30 * SECOND..=DAY)).unwrap_or(base.host_lost_after),
        url: section.parsed("url", values::base_url),
    }
}
