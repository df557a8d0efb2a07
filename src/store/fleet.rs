//! What daemons that share a database know of each other's machines.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::StoreError;
use crate::domain::{HostFacts, HostId};

/// How often a daemon renews the lease of its machine.
pub const RENEWS_EVERY: Duration = Duration::from_secs(5);
/// How long a lease lasts that is not renewed.
pub const LEASE_LASTS: Duration = Duration::from_secs(20);

/// What a daemon tells the others of its machine, each time it renews its lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostReport {
    /// What the machine is made of.
    pub facts: HostFacts,
    /// The daemon's version.
    pub version: String,
    /// Where its API is reached from elsewhere.
    pub url: Option<String>,
    /// The machine as its own API shows it, in JSON: for those who show it.
    pub shown: String,
}

/// A machine of the fleet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FleetHost {
    /// Its name.
    pub host: HostId,
    /// What its daemon told last; `None` before the first time, and where a newer one tells what cannot be read here.
    pub report: Option<HostReport>,
    /// For how long it has been silent, by the database's clock.
    pub silent: Duration,
}

impl FleetHost {
    /// Whether its lease holds.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.silent < LEASE_LASTS
    }
}

/// What became of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    /// It goes on.
    Renewed,
    /// The others had taken this machine for lost and ended its jobs; a new lease was taken.
    TakenAnew,
}

/// The part of a store that daemons on several machines share.
#[async_trait]
pub trait Fleet: Send + Sync + std::fmt::Debug {
    /// Renews this machine's lease and tells the others of it.
    async fn renew(&self, report: &HostReport) -> Result<Renewal, StoreError>;

    /// All machines that ever had a lease, by name.
    async fn hosts(&self) -> Result<Vec<FleetHost>, StoreError>;

    /// Machines that have been silent for longer and have open runners, whose end this daemon is to bring about. Their leases are void from now on, so
    /// that nothing which they still write counts. None of them, until this machine's own lease was renewed in time for as long as one lasts: after
    /// an outage of the database all have been silent.
    async fn fence_lost(&self, silent_for: Duration) -> Result<Vec<HostId>, StoreError>;

    /// Ticks when another daemon changed something.
    fn elsewhere(&self) -> watch::Receiver<u64>;
}
