//! What can go wrong inside one operation, before it is told to the caller in the store's own words.

use crate::domain::Refused;
use crate::store::{ANSWERS_WITHIN, StoreError};

/// What an operation ends with.
pub(super) type Outcome<T> = Result<T, Fault>;

/// Why an operation failed.
#[derive(Debug)]
pub(super) enum Fault {
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

    /// Tells it to the caller.
    pub(super) fn into_store_error(self, doing: &'static str) -> StoreError {
        match self {
            Self::Store(error) => error,
            Self::Sqlite(
                error @ (rusqlite::Error::InvalidColumnType(..)
                | rusqlite::Error::FromSqlConversionFailure(..)
                | rusqlite::Error::IntegralValueOutOfRange(..)
                | rusqlite::Error::Utf8Error(..)),
            ) => StoreError::Corrupt(error.to_string()),
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

impl From<Refused> for Fault {
    fn from(refused: Refused) -> Self {
        Self::Store(StoreError::Refused(refused))
    }
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
