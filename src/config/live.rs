//! The settings in force. They may be replaced as a whole while the daemon runs; whoever decides something takes one snapshot and decides by it.

use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use tokio::sync::watch;

use super::Config;
use super::diff::Changes;

/// The settings in force, shared by everybody. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Live(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    current: watch::Sender<Arc<Config>>,
    loading: Mutex<Loading>,
}

/// How the settings came into force.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Loading {
    /// When those in force were read.
    pub loaded_at: Timestamp,
    /// What the latest reload changed, by dotted key; empty after a start.
    pub changed: Vec<String>,
    /// What differs in the file and takes effect at the next start, by dotted key.
    pub needs_restart: Vec<String>,
    /// Why the latest reload was refused; then everything is as it was before.
    pub error: Option<String>,
}

impl Live {
    /// These settings, read at that time.
    #[must_use]
    pub fn new(config: Config, loaded_at: Timestamp) -> Self {
        let loading = Loading { loaded_at, ..Loading::default() };
        Self(Arc::new(Inner { current: watch::Sender::new(Arc::new(config)), loading: Mutex::new(loading) }))
    }

    /// What is in force now.
    #[must_use]
    pub fn current(&self) -> Arc<Config> {
        Arc::clone(&self.0.current.borrow())
    }

    /// Tells of every change from now on.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<Config>> {
        self.0.current.subscribe()
    }

    /// How the settings came into force.
    #[must_use]
    pub fn loading(&self) -> Loading {
        self.0.loading.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts these settings in force, all at once.
    pub fn replace(&self, config: Config, changes: &Changes, at: Timestamp) {
        let loading = Loading { loaded_at: at, changed: changes.applied.clone(), needs_restart: changes.restart.clone(), error: None };
        // Held over both, so that nobody is told of settings that are not in force yet.
        let mut told = self.0.loading.lock().unwrap_or_else(PoisonError::into_inner);
        self.0.current.send_replace(Arc::new(config));
        *told = loading;
    }

    /// Notes why other settings were refused.
    pub fn refuse(&self, why: String) {
        self.0.loading.lock().unwrap_or_else(PoisonError::into_inner).error = Some(why);
    }
}

impl From<Arc<Config>> for Live {
    fn from(config: Arc<Config>) -> Self {
        Self::new(Arc::unwrap_or_clone(config), Timestamp::UNIX_EPOCH)
    }
}

impl From<&Config> for Live {
    fn from(config: &Config) -> Self {
        Self::new(config.clone(), Timestamp::UNIX_EPOCH)
    }
}
