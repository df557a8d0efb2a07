//! Reads the configuration again while the daemon runs: all of it is taken over, or nothing.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tracing::{error, info, warn};

use super::App;
use crate::config::{Changes, Config, ConfigFaults, Live};
use crate::domain::{Clock, chain};
use crate::jobs::ManagerHandle;
use crate::metrics::Metrics;
use crate::security::audit::{Act, AuditLog};
use crate::store::{Store, StoreError};
use crate::telemetry::{LogLevel, TelemetryError};

/// Why the configuration was not taken over. Nothing has changed.
#[derive(Debug, thiserror::Error)]
enum ReloadError {
    #[error(transparent)]
    Faulty(#[from] ConfigFaults),
    #[error("log.level cannot be used")]
    Level(#[from] TelemetryError),
    #[error("the limits of projects could not be stored")]
    Store(#[from] StoreError),
    #[error("http.tokens must not be empty, because others reach {0}, which systemd handed over: everyone could run jobs")]
    Exposed(SocketAddr),
    #[error("the reading was broken off")]
    BrokenOff,
}

/// Puts a changed configuration in force.
#[derive(Debug)]
pub struct Reloader {
    file: Option<PathBuf>,
    address: SocketAddr,
    live: Live,
    store: Arc<dyn Store>,
    handle: ManagerHandle,
    clock: Arc<dyn Clock>,
    level: LogLevel,
    metrics: Arc<Metrics>,
    audit: AuditLog,
}

impl Reloader {
    /// For a daemon that was started with the configuration in `file`, or in none that was named.
    #[must_use]
    pub fn new(app: &App, file: Option<&Path>, clock: Arc<dyn Clock>, level: LogLevel) -> Self {
        let App { address, handle, store, config, metrics, audit } = app;
        let (metrics, audit) = (Arc::clone(metrics), audit.clone());
        Self {
            file: file.map(Path::to_path_buf),
            address: *address,
            live: config.clone(),
            store: Arc::clone(store),
            handle: handle.clone(),
            clock,
            level,
            metrics,
            audit,
        }
    }

    /// Reads the configuration from where the start read it, and puts it in force if nothing is wrong with it. Logs what came of it, and answers
    /// the same in one line.
    pub async fn reload(&self) -> String {
        let said = self.reload_aloud().await;
        self.audit.note(Act::of_daemon("configuration.reload", &said), self.clock.now());
        said
    }

    async fn reload_aloud(&self) -> String {
        match self.try_reload().await {
            Ok(changes) => {
                let said = told(&changes);
                info!(changed = ?changes.applied, needs_restart = ?changes.restart, "configuration reloaded: {said}");
                if changes.applied.iter().any(|key| key == "log.level") && self.level.is_fixed() {
                    warn!("log.level has no effect: --log or RUNNER_COORDINATOR_LOG says what is logged");
                }
                format!("configuration reloaded: {said}")
            }
            Err(refused) => {
                let faults = faults_of(&refused);
                for fault in &faults {
                    error!(fault, "the configuration was not reloaded, everything is as before: {fault}");
                }
                self.live.refuse(faults.join("\n"));
                format!("the configuration was not reloaded: {}", faults.first().map_or("", String::as_str))
            }
        }
    }

    async fn try_reload(&self) -> Result<Changes, ReloadError> {
        let file = self.file.clone();
        let read = tokio::task::spawn_blocking(move || Config::from_process(file.as_deref())).await.map_err(|_| ReloadError::BrokenOff)?;
        let (config, changes) = self.live.current().taking_over(read?)?;
        // What systemd hands over may be another address than http.listen.
        if config.http.tokens.is_empty() && !self.address.ip().to_canonical().is_loopback() {
            return Err(ReloadError::Exposed(self.address));
        }
        let filter = LogLevel::read(&config.log.level)?;
        // What can fail comes first; from here on nothing does.
        self.store.set_caps(&config.caps()).await?;
        self.level.set(filter);
        self.metrics.configure(config.classes.iter().map(|class| &class.name));
        self.live.replace(config, &changes, self.clock.now());
        self.handle.nudge();
        Ok(changes)
    }
}

fn told(changes: &Changes) -> String {
    let Changes { applied, restart } = changes;
    match (applied.is_empty(), restart.is_empty()) {
        (true, true) => "nothing changed".to_owned(),
        (false, true) => format!("changed {}", applied.join(", ")),
        (true, false) => format!("nothing changed; needs a restart: {}", restart.join(", ")),
        (false, false) => format!("changed {}; needs a restart: {}", applied.join(", "), restart.join(", ")),
    }
}

fn faults_of(error: &ReloadError) -> Vec<String> {
    match error {
        ReloadError::Faulty(ConfigFaults(faults)) => faults.iter().map(ToString::to_string).collect(),
        ReloadError::Level(_) | ReloadError::Store(_) | ReloadError::Exposed(_) | ReloadError::BrokenOff => vec![chain(error)],
    }
}
