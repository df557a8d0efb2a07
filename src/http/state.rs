//! What the handlers work with: cheap handles on the rooms below, taken apart by the extractors.

use std::sync::Arc;

use axum::extract::FromRef;
use jiff::Timestamp;

use super::pace::Pace;
use super::rations::Rations;
use crate::config::Live;
use crate::domain::Clock;
use crate::jobs::{History, ManagerHandle};
use crate::metrics::Metrics;
use crate::security::SecurityManager;
use crate::security::audit::AuditLog;
use crate::store::Store;
use crate::store::log::LogStore;

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
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What was done by whom.
    pub audit: AuditLog,
    /// When the daemon started.
    pub started_at: Timestamp,
    /// What is rationed.
    pub rations: Rations,
    /// How often each caller came lately.
    pub pace: Pace,
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
        Self {
            store,
            logs,
            manager,
            security,
            config: config.into(),
            clock,
            history: Arc::default(),
            metrics: Arc::default(),
            audit: AuditLog::default(),
            started_at,
            rations: Rations::default(),
            pace: Pace::default(),
        }
    }
}

impl FromRef<AppState> for Arc<dyn Store> {
    fn from_ref(state: &AppState) -> Self {
        Arc::clone(&state.store)
    }
}
