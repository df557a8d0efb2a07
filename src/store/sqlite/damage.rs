//! Damage that the check at the start did not meet and a later read does: said once, aloud, with the way back, and remembered for `/health`.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use tracing::error;

use super::fault::Fault;

/// Whether the database was found damaged since it was opened.
#[derive(Debug)]
pub(super) struct Damage {
    path: PathBuf,
    found: OnceLock<String>,
}

impl Damage {
    /// None is known yet.
    pub(super) fn none_in(path: &Path) -> Self {
        Self { path: path.to_owned(), found: OnceLock::new() }
    }

    /// What was found first.
    pub(super) fn found(&self) -> Option<&str> {
        self.found.get().map(String::as_str)
    }

    /// Takes note if a fault shows damage.
    pub(super) fn heed(&self, fault: &Fault) {
        if let Some(what) = fault.damage() {
            self.note(&what);
        }
    }

    /// The same for a failure of `SQLite` outside of an operation.
    pub(super) fn heed_sqlite(&self, failure: &rusqlite::Error) {
        if is_damage(failure) {
            self.note(&failure.to_string());
        }
    }

    fn note(&self, what: &str) {
        if self.found.set(what.to_owned()).is_ok() {
            error!(
                database = %self.path.display(),
                damage = what,
                "{} is damaged: {what}; stop the daemon and put a backup in its place: runner-coordinator restore FILE",
                self.path.display()
            );
        }
    }
}

/// What a failure that [is damage](is_damage) means for who has the file.
pub(super) fn meaning(failure: &rusqlite::Error) -> String {
    match failure.sqlite_error_code() {
        Some(rusqlite::ErrorCode::NotADatabase) => format!("it is no database, or its beginning is damaged: {failure}"),
        _ => format!("it is damaged: {failure}"),
    }
}

/// Whether a failure of `SQLite` shows that the file is not as it was written.
pub(super) fn is_damage(failure: &rusqlite::Error) -> bool {
    matches!(failure.sqlite_error_code(), Some(rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase))
}

#[cfg(test)]
#[path = "damage_tests.rs"]
mod tests;
