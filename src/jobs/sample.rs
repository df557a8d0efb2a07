//! Reads now and then what each running container uses, and its GPUs.

use std::sync::Arc;
use std::time::Duration;

use super::deps::Shared;
use super::meter::Meter;
use super::observer::EngineSight;
use crate::docker::ContainerState;

/// Time between two samples of one container.
const EVERY: Duration = Duration::from_secs(10);

/// Samples until told to stop.
pub(super) async fn run(shared: &Arc<Shared>) {
    let mut meter = Meter::default();
    loop {
        tokio::select! {
            biased;
            () = shared.deps.stop.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
        shared.deps.stop.run_until_cancelled(meter.read(shared)).await;
        let EngineSight::Up { containers, .. } = shared.observer.view().sight else { continue };
        for facts in containers.values().filter(|facts| matches!(facts.state, ContainerState::Running { .. })) {
            let Some(owner) = &facts.owner else { continue };
            // A container that ended meanwhile, or an engine that is busy, costs one sample.
            let usage = shared.deps.stop.run_until_cancelled(shared.deps.driver.usage(&facts.name)).await;
            if let Some(Ok(Some(usage))) = usage {
                shared.deps.vitals.used(&owner.runner, usage.cpu_nanos, usage.memory.0, usage.pids, shared.deps.clock.now());
            }
        }
    }
}
