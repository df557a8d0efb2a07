//! The simulated machine's GPUs, and the daemon's look at them: which processes are on each is what really runs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use runner_coordinator::domain::{Gpu, GpuHealth, GpuId, GpuProcess, GpuRole, GpuVendor, GpuVitals, MemoryBytes, Reading, Sharing, Wiring};
use runner_coordinator::jobs::ManagerHandle;
use runner_coordinator::platform::{Inventory, PlatformManager};

use crate::world::World;

/// How many there are.
pub(crate) const GPUS: u32 = 2;
const EVERY: Duration = Duration::from_secs(2);

fn id(index: u32) -> GpuId {
    GpuId::from_trusted(format!("GPU-{index}"))
}

fn gpu(index: u32) -> Gpu {
    Gpu {
        id: id(index),
        vendor: GpuVendor::Nvidia,
        index,
        pci: Reading::NotSupported,
        model: Reading::Known("a card".to_owned()),
        memory: Reading::Known(MemoryBytes(16 << 30)),
        compute: Reading::NotSupported,
        driver: Reading::NotSupported,
        numa_node: Reading::NotSupported,
        wiring: Wiring::default(),
        sharing: Sharing::Exclusive,
        nodes: Vec::new(),
        role: GpuRole::Card,
        health: GpuHealth::Healthy,
    }
}

fn vitals(world: &World, index: u32) -> GpuVitals {
    let now = world.now();
    let busy = world.engine().is_busy(&id(index), now);
    GpuVitals {
        memory_used: Reading::Known(MemoryBytes(if busy { 8 << 30 } else { 0 })),
        processes: Reading::Known(if busy { vec![GpuProcess { pid: 100 + index, memory: Reading::NotSupported }] } else { Vec::new() }),
        uncorrected_errors: Reading::NotSupported,
        ..GpuVitals::unreadable("not simulated")
    }
}

/// One look, as the daemon's watch does it. Tells whether something became different.
pub(crate) fn look(world: &World, platform: &PlatformManager) -> bool {
    let now = world.time.now_wall();
    let found = Inventory {
        gpus: (0..GPUS).map(gpu).collect(),
        vitals: (0..GPUS).map(|index| (id(index), vitals(world, index))).collect(),
        notes: Vec::new(),
        emulated: Vec::new(),
    };
    let findings = platform.examine_gpus(&found, &BTreeMap::from([(GpuVendor::Nvidia, now)]), now);
    platform.on_devices(found);
    !findings.is_empty()
}

/// Looks every now and then, and when a job has left one.
pub(crate) async fn watch(world: Arc<World>, platform: Arc<PlatformManager>, handle: ManagerHandle) {
    loop {
        tokio::select! {
            biased;
            () = platform.look_wanted() => {}
            () = tokio::time::sleep(EVERY) => {}
        }
        if look(&world, &platform) {
            handle.nudge();
        }
    }
}
