//! What the handlers work with: cheap handles on the rooms below, taken apart by the extractors.

use std::sync::Arc;

use axum::extract::FromRef;
use jiff::Timestamp;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::problem::Problem;
use crate::config::Config;
use crate::domain::Clock;
use crate::jobs::handle::ManagerHandle;
use crate::security::SecurityManager;
use crate::store::Store;
use crate::store::logs::LogStore;

/// Most answers that may stream at once: each holds a connection and wakes at every change.
const MAX_STREAMS: usize = 256;

/// Everything that the handlers need. Cloned per request, so every part is a handle.
#[derive(Clone, FromRef)]
pub struct AppState {
    /// The durable queue.
    pub store: Arc<dyn Store>,
    /// The logs of jobs.
    pub logs: Arc<LogStore>,
    /// The job manager.
    pub manager: ManagerHandle,
    /// Tokens, webhook secrets, environment rules.
    pub security: Arc<SecurityManager>,
    /// The settings.
    pub config: Arc<Config>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// Who this daemon is.
    pub identity: Identity,
    /// The open streams.
    pub streams: Streams,
}

/// Who this daemon is and since when.
#[derive(Debug, Clone)]
pub struct Identity {
    /// When it started.
    pub started_at: Timestamp,
    /// Its version.
    pub version: &'static str,
}

/// The answers that stream: how many there may be, and when they must end.
#[derive(Debug, Clone)]
pub struct Streams {
    permits: Arc<Semaphore>,
    stopping: CancellationToken,
}

impl Streams {
    /// Streams that end when `stopping` is cancelled, so that no reader of a log keeps the daemon from stopping.
    #[must_use]
    pub fn new(stopping: CancellationToken) -> Self {
        Self { permits: Arc::new(Semaphore::new(MAX_STREAMS)), stopping }
    }

    /// Room for one more stream; given back when the permit is dropped with the stream.
    ///
    /// # Errors
    /// When as many are open as may.
    pub fn open(&self) -> Result<StreamPermit, Problem> {
        let permit = Arc::clone(&self.permits).try_acquire_owned().map_err(|_| Problem::TooManyStreams)?;
        Ok(StreamPermit { _permit: permit, stopping: self.stopping.clone() })
    }
}

/// Held by an open stream.
#[derive(Debug)]
pub struct StreamPermit {
    _permit: OwnedSemaphorePermit,
    stopping: CancellationToken,
}

impl StreamPermit {
    /// Whether the daemon stops and the stream must end.
    pub fn is_stopped(&self) -> bool {
        self.stopping.is_cancelled()
    }

    /// Resolves when the daemon stops and the stream must end.
    pub async fn stopped(&self) {
        self.stopping.cancelled().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_bounded_and_come_back() {
        let streams = Streams::new(CancellationToken::new());
        let mut open: Vec<StreamPermit> = (0..MAX_STREAMS).map(|_| streams.open().expect("room")).collect();
        assert_eq!(streams.open().err(), Some(Problem::TooManyStreams));
        open.pop();
        assert!(streams.open().is_ok());
    }
}
