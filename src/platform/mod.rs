//! The machine: what it is made of and what fits on it.
//!
//! [`PlatformManager`] keeps the facts, [`devices`] finds the GPUs among them, and [`fit`] decides over them with pure functions.

mod choose;
pub mod devices;
pub mod explain;
pub mod fit;
mod probe;
pub mod process;
mod share;

use std::collections::{BTreeMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::Notify;

pub use devices::watch::Inventory;
pub use fit::{Ever, Ledger, Unfit, fits_ever};
pub use probe::{HostProbe, KernelFacts, SystemProbe};

use crate::config::Host;
use crate::docker::EngineInfo;
use crate::domain::{
    Arch, CpuMillis, Gpu, GpuId, GpuRecord, GpuRole, GpuVendor, GpuVitals, HostFacts, MemoryBytes, ModelPattern, Quarantine, Sharing,
};
use devices::ward::{Finding, Reading, Ward};

/// Knows the machine. Before the engine answered for the first time, what the kernel tells; afterwards what the engine reports, for
/// it is the engine that runs the jobs, and it may live in a virtual machine or on another host.
#[derive(Debug)]
pub struct PlatformManager {
    caps: Host,
    facts: RwLock<HostFacts>,
    inventory: RwLock<Inventory>,
    ward: Mutex<Ward>,
    look: Notify,
    shared: Vec<ModelPattern>,
}

impl PlatformManager {
    /// Reads what the kernel tells.
    #[must_use]
    pub fn new(caps: Host, probe: &dyn HostProbe) -> Self {
        let kernel = probe.probe();
        let facts = facts(&caps, Arch::from_machine(&kernel.machine), kernel.cpus, kernel.memory, Vec::new());
        Self { caps, facts: RwLock::new(facts), inventory: RwLock::default(), ward: Mutex::default(), look: Notify::new(), shared: Vec::new() }
    }

    /// Lets a GPU in quarantine be tested again for the first time after this long.
    #[must_use]
    pub fn rechecking_after(self, wait: Duration) -> Self {
        Self { ward: Mutex::new(Ward::new(wait)), ..self }
    }

    /// Opens the cards for sharing whose id or model is among these.
    #[must_use]
    pub fn sharing(self, shared: Vec<ModelPattern>) -> Self {
        Self { shared, ..self }
    }

    /// Notes on cards that a look found whether they are open for sharing.
    pub fn note_sharing(&self, gpus: &mut [Gpu]) {
        for gpu in gpus.iter_mut().filter(|gpu| gpu.role == GpuRole::Card) {
            let meant = |pattern: &ModelPattern| pattern.matches(gpu.id.as_str()) || gpu.model.known().is_some_and(|model| pattern.matches(model));
            gpu.sharing = if self.shared.iter().any(meant) { Sharing::Open } else { Sharing::Exclusive };
        }
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
        add_devices(&mut facts, &inventory, &self.ward());
        *self.inventory.write().unwrap_or_else(PoisonError::into_inner) = inventory;
    }

    /// Takes what the engine reports.
    pub fn on_engine(&self, engine: &EngineInfo) {
        let mut fresh =
            facts(&self.caps, engine.arch, CpuMillis(u64::from(engine.cpus).saturating_mul(1000)), engine.memory, engine.runtimes.clone());
        let mut facts = self.facts.write().unwrap_or_else(PoisonError::into_inner);
        add_devices(&mut fresh, &self.inventory(), &self.ward());
        if *facts != fresh {
            tracing::info!(arch = fresh.arch.map(Arch::as_str), cpus = %fresh.cpus, memory = %fresh.memory, "this machine, as the engine reports it");
            *facts = fresh;
        }
    }
}

/// Which of its GPUs are kept from jobs although they answer: see [`devices::ward`].
impl PlatformManager {
    /// Takes over what was remembered of its GPUs, before anybody looks at them.
    pub fn recall_gpus(&self, records: Vec<GpuRecord>, now: Timestamp) {
        self.ward().recall(records, now);
        self.refresh();
    }

    /// Notes which GPUs containers hold, all of them. Those that none holds any more are nobody's until they were looked at.
    pub fn hold_gpus(&self, held: &HashSet<GpuId>, now: Timestamp) {
        let ended = self.ward().hold(held, now);
        if ended {
            self.refresh();
            self.look.notify_one();
        }
    }

    /// Notes that containers are about to hold these GPUs too.
    pub fn take_gpus<'g>(&self, gpus: impl IntoIterator<Item = &'g GpuId>, now: Timestamp) {
        self.ward().take(gpus, now);
    }

    /// Judges what a round of looks found, each vendor's asked at its time; to be followed by [`Self::on_devices`].
    pub fn examine_gpus(&self, found: &Inventory, asked_at: &BTreeMap<GpuVendor, Timestamp>, now: Timestamp) -> Vec<Finding> {
        let reading = |gpu| reading(found, gpu, asked_at);
        self.ward().examine(found.gpus.iter().filter_map(reading), now)
    }

    /// Puts a GPU into quarantine by hand.
    pub fn quarantine_gpu(&self, gpu: &GpuId, reason: &str, now: Timestamp) -> Quarantine {
        let quarantine = self.ward().quarantine(gpu, reason, now);
        self.refresh();
        quarantine
    }

    /// Lets a GPU out of quarantine; tells what it was there for.
    pub fn release_gpu(&self, gpu: &GpuId, now: Timestamp) -> Option<Quarantine> {
        let released = self.ward().release(gpu, now);
        self.refresh();
        released
    }

    /// The GPUs in quarantine.
    #[must_use]
    pub fn quarantines(&self) -> BTreeMap<GpuId, Quarantine> {
        self.ward().quarantines()
    }

    /// In how long somebody should look at the GPUs, if before the next regular look.
    #[must_use]
    pub fn next_look(&self, now: Timestamp) -> Option<Duration> {
        self.ward().next_look(now)
    }

    /// Waits until somebody should look at the GPUs at once.
    pub async fn look_wanted(&self) {
        self.look.notified().await;
    }

    /// What the store has to be told of the GPUs: records to write, and GPUs to forget.
    #[must_use]
    pub fn unsaved_gpus(&self) -> (Vec<GpuRecord>, Vec<GpuId>) {
        self.ward().unsaved()
    }

    /// Notes that the store was told.
    pub fn saved_gpus(&self, records: Vec<GpuRecord>, forgotten: &[GpuId]) {
        self.ward().saved(records, forgotten);
    }

    fn ward(&self) -> MutexGuard<'_, Ward> {
        self.ward.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refresh(&self) {
        let mut facts = self.facts.write().unwrap_or_else(PoisonError::into_inner);
        add_devices(&mut facts, &self.inventory(), &self.ward());
    }
}

fn reading<'a>(found: &'a Inventory, gpu: &'a Gpu, asked_at: &BTreeMap<GpuVendor, Timestamp>) -> Option<Reading<'a>> {
    Some(Reading { gpu, vitals: found.vitals.get(&gpu.id), asked_at: *asked_at.get(&gpu.vendor)? })
}

/// Puts what was found of devices to what is known of the machine. What it runs natively is not emulated.
fn add_devices(facts: &mut HostFacts, inventory: &Inventory, ward: &Ward) {
    facts.gpus = inventory.gpus.iter().map(|gpu| Gpu { health: ward.health(gpu), ..gpu.clone() }).collect();
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
