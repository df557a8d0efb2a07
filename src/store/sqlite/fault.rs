//! What can go wrong inside one operation, before it is told to the caller in the store's own words.

use super::damage::is_damage;
use crate::domain::Refused;
use crate::store::rows::Corrupt;
use crate::store::{ANSWERS_WITHIN, StoreError};

/// What an operation ends with.
pub(in crate::store) type Outcome<T> = Result<T, Fault>;

/// Why an operation failed.
#[derive(Debug)]
pub(in crate::store) enum Fault {
    /// In words that the caller gets as they are.
    Store(StoreError),
    /// `SQLite` failed.
    Sqlite(rusqlite::Error),
    /// Our own code panicked.
    Panicked(String),
}

impl Fault {
    /// A row that makes no sense.
    pub(super) fn corrupt(what: impl Into<String>) -> Self {
        Self::Store(StoreError::Corrupt(what.into()))
    }

    /// What is wrong with the file, if this shows that something is.
    pub(super) fn damage(&self) -> Option<String> {
        match self {
            Self::Store(StoreError::Corrupt(what)) => Some(what.clone()),
            Self::Sqlite(error) if is_damage(error) || makes_no_sense(error) => Some(error.to_string()),
            Self::Store(_) | Self::Sqlite(_) | Self::Panicked(_) => None,
        }
    }

    /// Tells it to the caller.
    pub(super) fn into_store_error(self, doing: &'static str) -> StoreError {
        match self {
            Self::Store(error) => error,
            Self::Sqlite(error) if makes_no_sense(&error) => StoreError::Corrupt(error.to_string()),
            Self::Sqlite(error) => StoreError::Unavailable { doing, source: Box::new(error) },
            Self::Panicked(words) => unavailable(doing, format!("an operation panicked: {words}")),
        }
    }
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<Corrupt> for Fault {
    fn from(corrupt: Corrupt) -> Self {
        Self::Store(corrupt.into())
    }
}

impl From<Refused> for Fault {
    fn from(refused: Refused) -> Self {
        Self::Store(StoreError::Refused(refused))
    }
}

/// Whether a row holds what we never write.
fn makes_no_sense(error: &rusqlite::Error) -> bool {
    use rusqlite::Error::{FromSqlConversionFailure, IntegralValueOutOfRange, InvalidColumnType, Utf8Error};
    matches!(error, InvalidColumnType(..) | FromSqlConversionFailure(..) | IntegralValueOutOfRange(..) | Utf8Error(..))
}

/// The store failed for the reason given.
pub(super) fn unavailable(doing: &'static str, why: String) -> StoreError {
    StoreError::Unavailable { doing, source: why.into() }
}

/// The store took too long.
pub(super) fn overdue(doing: &'static str) -> StoreError {
    StoreError::Overdue { doing, after: ANSWERS_WITHIN }
}

/// The store's thread has ended.
pub(super) fn gone(doing: &'static str) -> StoreError {
    unavailable(doing, "the store has been closed".to_owned())
}
