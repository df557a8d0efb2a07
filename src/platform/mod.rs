//! The machine: what it is made of and what fits on it.
//!
//! [`PlatformManager`] keeps the facts, [`devices`] finds the GPUs among them, and [`fit`] decides over them with pure functions.

mod choose;
pub mod devices;
pub mod explain;
pub mod fit;
mod probe;

use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock};

pub use devices::watch::Inventory;
pub use fit::{Ever, Ledger, Unfit, fits_ever};
pub use probe::{HostProbe, KernelFacts, SystemProbe};

use crate::config::Host;
use crate::docker::EngineInfo;
use crate::domain::{Arch, CpuMillis, GpuId, GpuVitals, HostFacts, MemoryBytes};

/// Knows the machine. Before the engine answered for the first time, what the kernel tells; afterwards what the engine reports, for
/// it is the engine that runs the jobs, and it may live in a virtual machine or on another host.
#[derive(Debug)]
pub struct PlatformManager {
    caps: Host,
    facts: RwLock<HostFacts>,
    inventory: RwLock<Inventory>,
}

impl PlatformManager {
    /// Reads what the kernel tells.
    #[must_use]
    pub fn new(caps: Host, probe: &dyn HostProbe) -> Self {
        let kernel = probe.probe();
        let facts = facts(&caps, Arch::from_machine(&kernel.machine), kernel.cpus, kernel.memory, Vec::new());
        Self { caps, facts: RwLock::new(facts), inventory: RwLock::default() }
    }

    /// What is known of the machine.
    #[must_use]
    pub fn facts(&self) -> HostFacts {
        self.facts.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What is known of its devices.
    #[must_use]
    pub fn inventory(&self) -> Inventory {
        self.inventory.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What its GPUs are doing, as the last look found it.
    #[must_use]
    pub fn gpu_vitals(&self) -> BTreeMap<GpuId, GpuVitals> {
        self.inventory.read().unwrap_or_else(PoisonError::into_inner).vitals.clone()
    }

    /// Takes what a look at its devices found.
    pub fn on_devices(&self, inventory: Inventory) {
        let mut facts = self.facts.write().unwrap_or_else(PoisonError::into_inner);
        add_devices(&mut facts, &inventory);
        *self.inventory.write().unwrap_or_else(PoisonError::into_inner) = inventory;
    }

    /// Takes what the engine reports.
    pub fn on_engine(&self, engine: &EngineInfo) {
        let mut fresh =
            facts(&self.caps, engine.arch, CpuMillis(u64::from(engine.cpus).saturating_mul(1000)), engine.memory, engine.runtimes.clone());
        let mut facts = self.facts.write().unwrap_or_else(PoisonError::into_inner);
        add_devices(&mut fresh, &self.inventory());
        if *facts != fresh {
            tracing::info!(arch = fresh.arch.map(Arch::as_str), cpus = %fresh.cpus, memory = %fresh.memory, "this machine, as the engine reports it");
            *facts = fresh;
        }
    }
}

/// Puts what was found of devices to what is known of the machine. What it runs natively is not emulated.
fn add_devices(facts: &mut HostFacts, inventory: &Inventory) {
    facts.gpus.clone_from(&inventory.gpus);
    facts.notes.clone_from(&inventory.notes);
    facts.emulated = inventory.emulated.iter().copied().filter(|arch| facts.arch != Some(*arch)).collect();
}

fn facts(caps: &Host, arch: Option<Arch>, cpus: CpuMillis, memory: MemoryBytes, runtimes: Vec<String>) -> HostFacts {
    HostFacts {
        id: caps.name.clone(),
        arch,
        cpus: caps.cpus.map_or(cpus, |cap| cap.min(cpus)),
        memory: caps.memory.map_or(memory, |cap| cap.min(memory)),
        emulated: Vec::new(),
        gpus: Vec::new(),
        notes: Vec::new(),
        runtimes,
    }
}
