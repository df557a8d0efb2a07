//! The manager's part in the health of GPUs: it knows which containers hold which, and tells the store what has to outlive the daemon.

use std::collections::HashSet;

use jiff::Timestamp;
use tracing::{info, warn};

use super::deps::Shared;
use super::handle::{GpuMark, GpuMarked};
use super::observer::{EngineSight, EngineView};
use crate::domain::{Aggregate, EndReason, GpuId, HostFacts, RunnerState, Step};
use crate::store::StoreError;

/// Tells the platform which GPUs containers hold, those of containers that no runner knows among them. Without an engine nobody knows.
pub(super) fn hold(shared: &Shared, open: &[Aggregate], view: &EngineView, now: Timestamp) {
    let EngineSight::Up { containers, .. } = &view.sight else { return };
    let of_runners = open.iter().flat_map(|aggregate| &aggregate.runner.placement.devices);
    let held: HashSet<GpuId> = of_runners.chain(containers.values().flat_map(|container| &container.devices)).cloned().collect();
    shared.deps.platform.hold_gpus(&held, now);
}

/// Ends runners that wait for work with a GPU that is fit for none.
pub(super) async fn evict(shared: &Shared, facts: &HostFacts, open: &[Aggregate], now: Timestamp) -> Result<(), StoreError> {
    let unfit: HashSet<&GpuId> = facts.gpus.iter().filter(|gpu| !gpu.health.is_sound()).map(|gpu| &gpu.id).collect();
    let waits = open.iter().map(|aggregate| &aggregate.runner).filter(|runner| runner.state == RunnerState::Idle && runner.job.is_none());
    for runner in waits {
        let Some(gpu) = runner.placement.devices.iter().find(|gpu| unfit.contains(gpu)) else { continue };
        info!(runner.id = %runner.id, gpu.id = %gpu, "a runner that waits ends, for its GPU cannot be used");
        match shared.deps.store.apply(&runner.id, Step::StopOrdered { reason: EndReason::RunnerTerminated }, now).await {
            // It was told to end meanwhile.
            Ok(_) | Err(StoreError::Refused(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Writes down what changed. What could not be written is written the next time.
pub(super) async fn save(shared: &Shared) -> Result<(), StoreError> {
    let deps = &shared.deps;
    let (records, forgotten) = deps.platform.unsaved_gpus();
    if records.is_empty() && forgotten.is_empty() {
        return Ok(());
    }
    deps.store.write_gpu_records(&deps.config.current().host.name, &records, &forgotten).await?;
    deps.platform.saved_gpus(records, &forgotten);
    Ok(())
}

/// Does what somebody wishes with a GPU, and writes it down before it answers.
pub(super) async fn mark(shared: &Shared, gpu: &GpuId, mark: GpuMark) -> Result<GpuMarked, StoreError> {
    let platform = &shared.deps.platform;
    let is_there = platform.inventory().gpus.iter().any(|one| one.id == *gpu) || platform.quarantines().contains_key(gpu);
    if !is_there {
        return Ok(GpuMarked::Unknown);
    }
    let now = shared.deps.clock.now();
    match mark {
        GpuMark::Quarantine { reason } => {
            let quarantine = platform.quarantine_gpu(gpu, &reason, now);
            warn!(gpu.id = %gpu, reason, "GPU {gpu} is given to nobody, {quarantine}");
        }
        GpuMark::Release => {
            if let Some(quarantine) = platform.release_gpu(gpu, now) {
                info!(gpu.id = %gpu, "GPU {gpu} was released by hand; it was {quarantine}");
            }
        }
    }
    save(shared).await?;
    shared.deps.handle.nudge();
    Ok(GpuMarked::Done)
}
