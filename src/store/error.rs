//! Why a store did not do what it was asked to.

use crate::domain::step::Refused;
use crate::domain::{HostId, RunnerId};
use std::time::Duration;

/// What can go wrong in a store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The step contradicts what is stored; nothing has changed.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// There is no such runner.
    #[error("there is no runner {0}")]
    UnknownRunner(RunnerId),
    /// The database cannot be reached, is full, or failed.
    #[error("the store failed while it was to {doing}")]
    Unavailable {
        /// What was being done, as a verb phrase.
        doing: &'static str,
        /// The database's own error.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It did not answer in time. What was asked may still have been done, unless it had not begun by then.
    #[error("the store did not answer within {} s when it was to {doing}", after.as_secs())]
    Overdue {
        /// What was being done, as a verb phrase.
        doing: &'static str,
        /// How long it was waited for.
        after: Duration,
    },
    /// The other daemons took this machine for lost and ended its jobs; nothing that it writes of them counts any more.
    #[error("machine {0} was silent for so long that the others took it for lost")]
    Fenced(HostId),
    /// A row does not make sense: the file was changed by another program, or by a newer version of this one.
    #[error("a stored row makes no sense: {0}")]
    Corrupt(String),
}

impl StoreError {
    /// The kind, in a word: for metrics.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Refused(_) => "refused",
            Self::UnknownRunner(_) => "unknown_runner",
            Self::Unavailable { .. } => "unavailable",
            Self::Overdue { .. } => "overdue",
            Self::Fenced(_) => "fenced",
            Self::Corrupt(_) => "corrupt",
        }
    }
}
