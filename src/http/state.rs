//! What the handlers work with: cheap handles on the rooms below, taken apart by the extractors.

use std::sync::Arc;

use axum::extract::FromRef;
use axum::http::HeaderMap;
use axum::http::header::CONTENT_LENGTH;
use jiff::Timestamp;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::problem::Problem;
use crate::config::Live;
use crate::domain::Clock;
use crate::jobs::{History, ManagerHandle};
use crate::security::SecurityManager;
use crate::store::Store;
use crate::store::log::LogStore;

/// Most answers that may stream at once: each holds a connection and wakes at every change.
const MAX_STREAMS: usize = 256;
/// Most large webhooks that may be taken in at once: their bodies are held in memory before anybody has shown a secret.
const MAX_LARGE_BODIES: usize = 8;
/// From this size on a webhook is large; GitLab's events have a few KiB.
const LARGE_BODY: u64 = 1 << 20;

/// Everything that the handlers need. Cloned per request, so every part is a handle.
#[derive(Debug, Clone)]
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
    pub config: Live,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// The last hours in numbers.
    pub history: Arc<History>,
    /// When the daemon started.
    pub started_at: Timestamp,
    /// What is rationed.
    pub rations: Rations,
}

impl AppState {
    /// The state of a daemon that starts now.
    #[must_use]
    pub fn new(
        store: Arc<dyn Store>,
        logs: Arc<LogStore>,
        manager: ManagerHandle,
        security: Arc<SecurityManager>,
        config: impl Into<Live>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let started_at = clock.now();
        Self { store, logs, manager, security, config: config.into(), clock, history: Arc::default(), started_at, rations: Rations::default() }
    }
}

impl FromRef<AppState> for Arc<dyn Store> {
    fn from_ref(state: &AppState) -> Self {
        Arc::clone(&state.store)
    }
}

/// What of the daemon's room one kind of request may hold at once.
#[derive(Debug, Clone)]
pub struct Rations {
    streams: Arc<Semaphore>,
    large_bodies: Arc<Semaphore>,
}

impl Default for Rations {
    fn default() -> Self {
        Self { streams: Arc::new(Semaphore::new(MAX_STREAMS)), large_bodies: Arc::new(Semaphore::new(MAX_LARGE_BODIES)) }
    }
}

/// Held as long as the room is needed.
#[derive(Debug)]
pub struct Permit {
    _permit: OwnedSemaphorePermit,
}

impl Rations {
    /// Room for one more stream.
    ///
    /// # Errors
    /// When as many are open as may.
    pub fn stream(&self) -> Result<Permit, Problem> {
        let permit = Arc::clone(&self.streams).try_acquire_owned().map_err(|_| Problem::TooManyStreams)?;
        Ok(Permit { _permit: permit })
    }

    /// Room for a body of the size that is announced, waited for if need be; `None` when it is small and needs none.
    pub async fn body(&self, headers: &HeaderMap) -> Option<Permit> {
        let announced = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        if announced.is_some_and(|bytes| bytes < LARGE_BODY) {
            return None;
        }
        // The semaphore is never closed.
        Arc::clone(&self.large_bodies).acquire_owned().await.ok().map(|permit| Permit { _permit: permit })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_bounded_and_come_back() {
        let rations = Rations::default();
        let mut open: Vec<Permit> = (0..MAX_STREAMS).map(|_| rations.stream().expect("room")).collect();
        assert_eq!(rations.stream().err(), Some(Problem::TooManyStreams));
        open.pop();
        assert!(rations.stream().is_ok());
    }

    #[tokio::test]
    async fn only_large_bodies_take_room() {
        let rations = Rations::default();
        let announced = |bytes: u64| HeaderMap::from_iter([(CONTENT_LENGTH, bytes.into())]);
        assert!(rations.body(&announced(4096)).await.is_none());
        assert!(rations.body(&announced(LARGE_BODY)).await.is_some());
        assert!(rations.body(&HeaderMap::new()).await.is_some(), "a body of unknown length may be large");
    }
}
