//! What containers can reach, enforced below them: rules of nftables on the bridges that their networks are, in tables of our own.
//!
//! The kernel keeps the rules when the coordinator ends or the engine restarts, and neither of them touches the other's. Whoever takes them
//! away (`nft flush ruleset`, a restart of `nftables.service`) is noticed, for they are read back and compared. [`Rules`] says which rules, as
//! a pure function; [`Netfilter`] is the seam to the kernel; [`Firewall`] sees to it that the two agree.

#[cfg(test)]
pub(crate) mod fixture;
mod names;
mod nft;
mod rules;

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::Mutex;
use tracing::{info, warn};

pub use names::Names;
pub use nft::Nft;
pub use rules::{Allowed, Guarded, Reach, Rules};

/// Why the rules are not as they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FirewallError {
    /// There is no nftables.
    #[error("there is no program nft: install the package nftables")]
    Absent,
    /// The kernel does not let us.
    #[error("the coordinator may not set rules of the firewall, for which it needs the capability CAP_NET_ADMIN: nft says: {0}")]
    Forbidden(String),
    /// The rules would be set where no container of ours passes.
    #[error(
        "the engine's bridge {0} is not among the coordinator's network interfaces: it has to be in the engine's network namespace to set its rules"
    )]
    Elsewhere(String),
    /// It did not work.
    #[error("nft failed: {0}")]
    Failed(String),
    /// Rules were set, and others are there.
    #[error("the kernel does not show the rules that were set")]
    Unseen,
}

/// The kernel's packet filter and what else of the network is asked.
#[async_trait]
pub trait Netfilter: Send + Sync + std::fmt::Debug {
    /// Has nftables carry out a script, all of it or nothing. Tells what it printed.
    async fn run(&self, script: &str) -> Result<String, FirewallError>;

    /// Whether an interface is in our network namespace, to which the rules apply.
    fn sees(&self, interface: &str) -> bool;

    /// The addresses of a name.
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>>;

    /// The machine's name servers, which the engine hands on to containers.
    fn name_servers(&self) -> Vec<IpAddr>;
}

/// Keeps the rules.
#[derive(Debug)]
pub struct Firewall {
    netfilter: Arc<dyn Netfilter>,
    kept: Mutex<Option<Kept>>,
}

/// What is to be in force, and how the kernel showed it right after it was set; `None` until then.
#[derive(Debug)]
struct Kept {
    rules: Rules,
    shown: Option<String>,
}

impl Firewall {
    /// Nothing is set yet; what an earlier run left stays until the first [`Self::hold`].
    #[must_use]
    pub fn new(netfilter: Arc<dyn Netfilter>) -> Self {
        Self { netfilter, kept: Mutex::new(None) }
    }

    /// The kernel's side.
    #[must_use]
    pub fn netfilter(&self) -> &Arc<dyn Netfilter> {
        &self.netfilter
    }

    /// Sees to it that these are the rules in force: sets them when they are new, and again when somebody changed or removed them. One set of
    /// rules takes the place of another at once, with no moment between.
    ///
    /// # Errors
    /// When they are not in force.
    pub async fn hold(&self, rules: &Rules) -> Result<(), FirewallError> {
        let mut kept = self.kept.lock().await;
        if kept.as_ref().is_none_or(|kept| kept.rules != *rules) {
            *kept = Some(Kept { rules: rules.clone(), shown: None });
        }
        self.keep(&mut kept).await
    }

    /// The same for the rules of before, where it is not known which they should be now. Nothing where there were none.
    ///
    /// # Errors
    /// When they are not in force.
    pub async fn hold_as_before(&self) -> Result<(), FirewallError> {
        self.keep(&mut *self.kept.lock().await).await
    }

    async fn keep(&self, kept: &mut Option<Kept>) -> Result<(), FirewallError> {
        let Some(Kept { rules, shown }) = kept else { return Ok(()) };
        // One that has just gone is no reason to leave the others without.
        if let (Some(first), false) = (rules.networks.first(), rules.networks.iter().any(|guarded| self.netfilter.sees(&guarded.bridge))) {
            return Err(FirewallError::Elsewhere(first.bridge.clone()));
        }
        if let Some(before) = &*shown {
            match self.shown(rules).await {
                Ok(now) if now == *before => return Ok(()),
                Ok(_) => warn!(table = rules.table, "somebody changed the rules of the firewall; they are set again"),
                Err(error @ (FirewallError::Absent | FirewallError::Forbidden(_))) => return Err(error),
                Err(error) => warn!(table = rules.table, %error, "the rules of the firewall are gone; they are set again"),
            }
        }
        *shown = None;
        self.netfilter.run(&rules.script()).await?;
        let now = self.shown(rules).await?;
        if !rules.networks.iter().all(|guarded| now.contains(&guarded.bridge)) {
            return Err(FirewallError::Unseen);
        }
        info!(table = rules.table, networks = rules.networks.len(), "the rules of the firewall are set");
        *shown = Some(now);
        Ok(())
    }

    /// How the kernel shows the tables.
    async fn shown(&self, rules: &Rules) -> Result<String, FirewallError> {
        let mut shown = String::new();
        for list in rules.lists() {
            shown.push_str(&self.netfilter.run(&list).await?);
        }
        Ok(shown)
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
