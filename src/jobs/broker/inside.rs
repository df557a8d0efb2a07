//! What a job may ask of its coordinator from inside its container: tell how far it is, and read its own record.

use std::time::Duration;

use jiff::SignedDuration;

use crate::domain::{EventKind, Job};

use super::{Broker, BrokerError, RETRY_SOON, warn_store};

/// Least time between two reports of progress; each is a row in the history.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);
/// Longest text of a report, in characters.
pub(super) const PROGRESS_MAX_CHARS: usize = 500;

impl Broker {
    /// Notes how far a runner's job is, by its own words.
    ///
    /// # Errors
    /// When the token opens no job that runs, the message is empty or too long, or the last report was less than a second ago.
    pub async fn progress(&self, token: &str, message: &str, percent: Option<u8>) -> Result<(), BrokerError> {
        let present = self.at_work(token).await?;
        if present.has_ended() {
            return Err(BrokerError::Denied);
        }
        let length = message.chars().count();
        if length == 0 || length > PROGRESS_MAX_CHARS {
            return Err(BrokerError::Malformed("message must be 1 to 500 characters"));
        }
        if percent.is_some_and(|percent| percent > 100) {
            return Err(BrokerError::Malformed("percent must be 0 to 100"));
        }
        let now = self.parts.clock.now();
        let since = now.checked_sub(SignedDuration::from_secs(1)).unwrap_or(now);
        if !self.sessions.may_progress(&present.runner, since, now) {
            return Err(BrokerError::TooOften { retry_after: PROGRESS_INTERVAL });
        }
        let kind = EventKind::Progress { message: message.to_owned(), percent };
        self.parts.store.note(&present.runner, kind, now).await.map_err(|error| {
            warn_store(&error, "note a job's progress");
            BrokerError::Unavailable { retry_after: RETRY_SOON }
        })
    }

    /// A runner's own job.
    ///
    /// # Errors
    /// When the token opens no job.
    pub async fn record(&self, token: &str) -> Result<Job, BrokerError> {
        self.at_work(token).await.map(|present| present.job)
    }
}
