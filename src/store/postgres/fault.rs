//! What can go wrong inside one operation, before it is told to the caller in the store's own words.

use deadpool_postgres::PoolError;
use tokio_postgres::error::SqlState;

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
    /// `PostgreSQL` failed, or the way to it.
    Postgres(tokio_postgres::Error),
    /// No connection was to be had.
    NoConnection(Box<dyn std::error::Error + Send + Sync>),
    /// The time for an answer was over.
    Overdue,
}

/// What a failed try left behind, and what that allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    /// The server undid it for the sake of another; the same may be tried again.
    TryAgain,
    /// The connection is of no use any more.
    Disconnected,
    /// It failed by itself.
    Failed,
}

impl Fault {
    /// What it left behind.
    pub(super) fn after(&self) -> After {
        match self {
            Self::Store(_) => After::Failed,
            Self::NoConnection(_) | Self::Overdue => After::Disconnected,
            Self::Postgres(error) => match error.code() {
                Some(code) if undone_for_another(code) => After::TryAgain,
                Some(code) if *code == SqlState::READ_ONLY_SQL_TRANSACTION || is_shutdown(code) => After::Disconnected,
                Some(_) => After::Failed,
                None => After::Disconnected,
            },
        }
    }

    /// Tells it to the caller.
    pub(super) fn into_store_error(self, doing: &'static str) -> StoreError {
        match self {
            Self::Store(error) => error,
            Self::Postgres(error) if error.code() == Some(&SqlState::QUERY_CANCELED) => overdue(doing),
            Self::Postgres(error) => StoreError::Unavailable { doing, source: Box::new(error) },
            Self::NoConnection(source) => StoreError::Unavailable { doing, source },
            Self::Overdue => overdue(doing),
        }
    }
}

fn overdue(doing: &'static str) -> StoreError {
    StoreError::Overdue { doing, after: ANSWERS_WITHIN }
}

fn undone_for_another(code: &SqlState) -> bool {
    [SqlState::T_R_SERIALIZATION_FAILURE, SqlState::T_R_DEADLOCK_DETECTED].contains(code)
}

/// Class 57P: the server ends connections, because it stops, crashed or does not serve yet.
fn is_shutdown(code: &SqlState) -> bool {
    code.code().starts_with("57P")
}

impl From<tokio_postgres::Error> for Fault {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Postgres(error)
    }
}

impl From<PoolError> for Fault {
    fn from(error: PoolError) -> Self {
        match error {
            PoolError::Backend(error) => Self::NoConnection(Box::new(error)),
            error => Self::NoConnection(Box::new(error)),
        }
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
