//! What the manager says of itself: see [`Status`].

use std::collections::{BTreeMap, HashSet};

use jiff::Timestamp;
use tokio::time::Instant;

use super::deps::Shared;
use super::handle::{EngineState, Status};
use super::observer::EngineSight;
use super::stuck::Stuck;
use crate::domain::{Aggregate, ClassName, CpuMillis, Drain, GpuId, HostFacts, MemoryBytes};

/// Before the first pass.
pub(super) fn initial(facts: HostFacts, now: Timestamp) -> Status {
    Status {
        engine: EngineState::Unknown,
        unseen: None,
        facts,
        disks: Vec::new(),
        disks_silent: None,
        unguarded: None,
        gpu_vitals: BTreeMap::new(),
        used_cpus: CpuMillis(0),
        used_memory: MemoryBytes(0),
        devices_in_use: Vec::new(),
        quarantines: BTreeMap::new(),
        intake: Vec::new(),
        gitlab_queue: None,
        broker: None,
        passes: 0,
        last_tick_at: now,
        last_tick: Instant::now(),
        last_tick_error: None,
        stopping: false,
        drain: None,
        runners: 0,
        stuck: Stuck::default(),
        askable: HashSet::new(),
    }
}

/// Of a machine that has nothing, before the first pass.
#[cfg(test)]
pub(super) fn of_nothing() -> Status {
    let facts = HostFacts {
        id: crate::domain::HostId::from_trusted("box1"),
        arch: None,
        cpus: CpuMillis(0),
        memory: MemoryBytes(0),
        emulated: Vec::new(),
        gpus: Vec::new(),
        notes: Vec::new(),
        runtimes: Vec::new(),
    };
    initial(facts, Timestamp::UNIX_EPOCH)
}

/// After a pass: what was published before, with what is known outside of the pass.
pub(super) fn status(shared: &Shared, before: &Status, error: Option<String>) -> Status {
    let engine = match shared.observer.view().sight {
        EngineSight::Unknown => EngineState::Unknown,
        EngineSight::Up { info, since, .. } => EngineState::Up { version: info.version.clone(), since },
        EngineSight::Down { error, since } => EngineState::Down { error, since },
    };
    let filtered = shared.deps.config.current().classes.iter().any(|class| class.network.is_filtered());
    Status {
        engine,
        unseen: shared.observer.unseen(),
        facts: shared.deps.platform.facts(),
        disks: shared.disks.read(),
        disks_silent: shared.disks.silent(),
        unguarded: shared.networks.unguarded().filter(|_| filtered),
        gpu_vitals: shared.deps.platform.gpu_vitals(),
        quarantines: shared.deps.platform.quarantines(),
        broker: shared.deps.broker_url.borrow().clone(),
        intake: shared.intake.read(),
        gitlab_queue: shared.queue_there.read(),
        passes: before.passes.wrapping_add(1),
        last_tick_at: shared.deps.clock.now(),
        last_tick: Instant::now(),
        last_tick_error: error,
        stopping: shared.deps.stop.is_cancelled(),
        ..before.clone()
    }
}

/// The numbers that only a whole pass knows.
#[derive(Debug)]
pub(super) struct Planned {
    used: (CpuMillis, MemoryBytes),
    devices: Vec<GpuId>,
    drain: Option<Drain>,
    runners: usize,
    askable: HashSet<ClassName>,
}

impl Planned {
    pub(super) fn new(used: (CpuMillis, MemoryBytes), open: &[Aggregate], askable: HashSet<ClassName>, drain: Option<Drain>) -> Self {
        let mut devices: Vec<GpuId> = open.iter().flat_map(|aggregate| aggregate.runner.placement.devices.clone()).collect();
        devices.sort();
        Self { used, devices, askable, drain, runners: open.len() }
    }

    pub(super) fn write(self, status: &mut Status) {
        (status.used_cpus, status.used_memory) = self.used;
        status.devices_in_use = self.devices;
        (status.drain, status.runners) = (self.drain, self.runners);
        status.askable = self.askable;
    }
}
