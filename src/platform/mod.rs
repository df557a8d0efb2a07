//! The machine: what it is made of and what fits on it.
//!
//! [`PlatformManager`] keeps the facts; [`fit`] decides over them with pure functions.

pub mod explain;
pub mod fit;
mod probe;

use std::sync::{PoisonError, RwLock};

pub use fit::{Ever, Ledger, Unfit, fits_ever};
pub use probe::{HostProbe, KernelFacts, SystemProbe};

use crate::config::Host;
use crate::docker::EngineInfo;
use crate::domain::{Arch, CpuMillis, HostFacts, MemoryBytes};

/// Knows the machine. Before the engine answered for the first time, what the kernel tells; afterwards what the engine reports, for
/// it is the engine that runs the jobs, and it may live in a virtual machine or on another host.
#[derive(Debug)]
pub struct PlatformManager {
    caps: Host,
    facts: RwLock<HostFacts>,
}

impl PlatformManager {
    /// Reads what the kernel tells.
    #[must_use]
    pub fn new(caps: Host, probe: &dyn HostProbe) -> Self {
        let kernel = probe.probe();
        let facts = facts(&caps, Arch::from_machine(&kernel.machine), kernel.cpus, kernel.memory, Vec::new());
        Self { caps, facts: RwLock::new(facts) }
    }

    /// What is known of the machine.
    #[must_use]
    pub fn facts(&self) -> HostFacts {
        self.facts.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes what the engine reports.
    pub fn on_engine(&self, engine: &EngineInfo) {
        let fresh = facts(&self.caps, engine.arch, CpuMillis(u64::from(engine.cpus).saturating_mul(1000)), engine.memory, engine.runtimes.clone());
        let mut facts = self.facts.write().unwrap_or_else(PoisonError::into_inner);
        if *facts != fresh {
            tracing::info!(arch = fresh.arch.map(Arch::as_str), cpus = %fresh.cpus, memory = %fresh.memory, "this machine, as the engine reports it");
            *facts = fresh;
        }
    }
}

fn facts(caps: &Host, arch: Option<Arch>, cpus: CpuMillis, memory: MemoryBytes, runtimes: Vec<String>) -> HostFacts {
    HostFacts {
        id: caps.name.clone(),
        arch,
        cpus: caps.cpus.map_or(cpus, |cap| cap.min(cpus)),
        memory: caps.memory.map_or(memory, |cap| cap.min(memory)),
        gpus: Vec::new(),
        runtimes,
    }
}
