//! Machines of the fleet that are silent for too long: their jobs end here as `host_lost`, and are tried again where the policy allows.
//!
//! Their leases are void from then on, so whatever their daemons still write of those jobs is refused; when one of them is back it finds no runner
//! that is still its own, and takes its containers away as strays.

use std::sync::Arc;

use tracing::warn;

use super::conclude::conclude;
use super::deps::{OpError, Shared};
use crate::domain::{Aggregate, EndReason, HostId, Outcome, RunnerState, Step, chain};
use crate::store::StoreError;
use crate::store::fleet::{Fleet, RENEWS_EVERY};

/// Looks until told to stop.
pub(super) async fn run(shared: &Arc<Shared>) {
    let deps = &shared.deps;
    let Some(fleet) = deps.store.fleet() else { return };
    loop {
        tokio::select! {
            biased;
            () = deps.stop.cancelled() => return,
            () = tokio::time::sleep(RENEWS_EVERY) => {}
        }
        if let Some(Err(error)) = deps.stop.run_until_cancelled(look(shared, fleet)).await {
            warn!(error = chain(&error), "it could not be looked for lost machines");
        }
    }
}

async fn look(shared: &Arc<Shared>, fleet: &dyn Fleet) -> Result<(), StoreError> {
    let silent_for = shared.deps.config.current().fleet.host_lost_after;
    for host in fleet.fence_lost(silent_for).await? {
        let open = shared.deps.store.open_runners(&host).await?;
        warn!(%host, runners = open.len(), "a machine has been silent for too long: its jobs end as lost");
        for aggregate in &open {
            if let Err(error) = end(shared, &host, aggregate).await {
                // It is seen to again with the next look.
                warn!(%host, runner.id = %aggregate.runner.id, error = chain(&error), "a runner of a lost machine could not be ended");
            }
        }
        shared.deps.handle.nudge();
    }
    Ok(())
}

/// Brings a runner of a lost machine to its end, whatever of the way is done already.
async fn end(shared: &Arc<Shared>, host: &HostId, aggregate: &Aggregate) -> Result<(), OpError> {
    let (store, runner) = (&shared.deps.store, &aggregate.runner.id);
    if aggregate.has_open_attempt() {
        let outcome = Outcome::infrastructure(EndReason::HostLost, format!("machine {host} was silent for too long"));
        conclude(shared, aggregate, outcome).await?;
    } else if !matches!(aggregate.runner.state, RunnerState::Stopping { .. } | RunnerState::Lost { .. }) {
        taken(store.apply(runner, Step::StopOrdered { reason: EndReason::HostLost }, shared.deps.clock.now()).await)?;
    }
    for step in [Step::Exited, Step::Removed] {
        taken(store.apply(runner, step, shared.deps.clock.now()).await)?;
    }
    Ok(())
}

/// A step that was taken before is none.
fn taken<T>(applied: Result<T, StoreError>) -> Result<(), StoreError> {
    match applied {
        Ok(_) | Err(StoreError::Refused(_)) => Ok(()),
        Err(error) => Err(error),
    }
}
