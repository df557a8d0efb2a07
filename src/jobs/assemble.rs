//! Puts together what the manager works with: for the composition root, and for tests that put something else in the world's place.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::broker::{Broker, BrokerParts};
use super::contacts::Contacts;
use super::deps::{Deps, retry_policy};
use super::manager::{Seat, channel};
use super::proof::Proof;
use super::vitals::Vitals;
use crate::config::Live;
use crate::docker::Driver;
use crate::domain::Clock;
use crate::firewall::Netfilter;
use crate::gitlab::{GitLab, Listing};
use crate::metrics::Metrics;
use crate::platform::PlatformManager;
use crate::security::SecurityManager;
use crate::store::Store;
use crate::store::log::LogStore;

/// The world as the manager meets it.
#[derive(Debug)]
pub struct Seams {
    /// The durable queue.
    pub store: Arc<dyn Store>,
    /// The engine.
    pub driver: Arc<dyn Driver>,
    /// The kernel's packet filter.
    pub netfilter: Arc<dyn Netfilter>,
    /// The machine.
    pub platform: Arc<PlatformManager>,
    /// Tokens and profiles.
    pub security: Arc<SecurityManager>,
    /// What proves the ends of jobs.
    pub proof: Proof,
    /// Logs of jobs.
    pub logs: Arc<LogStore>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// The settings.
    pub config: Live,
    /// GitLab, where one is configured.
    pub gitlab: Option<Arc<dyn GitLab>>,
    /// What GitLab says of jobs, where an access token to read it is configured.
    pub listing: Option<Arc<dyn Listing>>,
    /// The base URL at which runners reach the broker, once it listens.
    pub broker_url: watch::Receiver<Option<String>>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

impl Seams {
    /// Makes the broker, the manager's handle and what they share; with the seat that [`super::JobManager::new`] takes. Tasks are counted by
    /// `tracker` and told to finish by `stop`.
    #[must_use]
    pub fn assemble(self, tracker: TaskTracker, stop: CancellationToken) -> (Deps, Seat) {
        let contacts = Arc::new(Contacts::default());
        let vitals = Arc::new(Vitals::new(Arc::clone(&contacts)));
        let (handle, seat) = channel(Arc::clone(&self.store), Arc::clone(&self.clock), Arc::clone(&vitals), self.platform.facts());
        let (nudged, retrying) = (handle.clone(), self.config.clone());
        let broker = Arc::new(Broker::new(BrokerParts {
            store: Arc::clone(&self.store),
            gitlab: self.gitlab.clone(),
            security: Arc::clone(&self.security),
            logs: Arc::clone(&self.logs),
            clock: Arc::clone(&self.clock),
            host: self.config.current().host.name.clone(),
            contacts,
            retry: Arc::new(move || retry_policy(&retrying.current())),
            nudge: Arc::new(move || nudged.nudge()),
        }));
        (Deps { seams: self, broker, vitals, handle, tracker, stop }, seat)
    }
}
