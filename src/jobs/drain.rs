//! A machine that is to get empty: it claims nothing, asks GitLab for nothing and keeps no runner warm, and what runs on it ends by itself.
//!
//! Whether it is so stands in the store and is read by every pass, so that a restart changes nothing. What GitLab gave away and has not begun
//! here goes back to GitLab where GitLab still waits for our word; else it waits, as a job of the API does, until the machine is resumed.

use tracing::{info, warn};

use super::broker::Claim;
use super::deps::Shared;
use super::handle::HostWish;
use crate::domain::job::CancelEffect;
use crate::domain::{Aggregate, Drain, EndReason, Job, JobId, JobState, Runner, RunnerState, Source, Step, chain};
use crate::store::StoreError;

/// Does what somebody wishes with this machine, and writes it down before it answers.
pub(super) async fn wish(shared: &Shared, wish: HostWish) -> Result<(), StoreError> {
    let deps = &shared.deps;
    let host = &deps.config.current().host.name;
    let before = deps.store.drain(host).await?;
    let after = match wish {
        HostWish::Drain { by, reason } => Some(Drain::asked(before.clone(), by, reason, deps.clock.now())),
        HostWish::Resume => None,
    };
    if after == before {
        return Ok(());
    }
    deps.store.set_drain(host, after.as_ref()).await?;
    if let Some(drain) = &after {
        warn!(host.id = %host, "host {host} takes no new work: {drain}");
    } else {
        info!(host.id = %host, "host {host} takes work again");
        // What GitLab rang for meanwhile may still wait there.
        deps.handle.ring();
    }
    Ok(())
}

/// Runners that a machine does not keep which is to get empty: those that wait for work, or are being started to.
fn superfluous(open: &[Aggregate]) -> impl Iterator<Item = &Runner> {
    let waits = |runner: &&Runner| runner.job.is_none() && matches!(runner.state, RunnerState::Starting { .. } | RunnerState::Idle);
    open.iter().map(|aggregate| &aggregate.runner).filter(waits)
}

/// Ends the runners that have no work.
pub(super) async fn clear(shared: &Shared, open: &[Aggregate]) -> Result<(), StoreError> {
    let deps = &shared.deps;
    for runner in superfluous(open) {
        info!(runner.id = %runner.id, "a runner without work ends, for the machine is drained");
        match deps.store.apply(&runner.id, Step::StopOrdered { reason: EndReason::RunnerTerminated }, deps.clock.now()).await {
            // It was told to end meanwhile.
            Ok(_) | Err(StoreError::Refused(_)) => deps.handle.nudge(),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Whether a job of GitLab goes back: nothing of it has begun here, and GitLab still waits for our word.
pub(super) fn goes_back(job: &Job, claim: Claim) -> bool {
    let untouched = job.spec.source == Source::GitLab && matches!(job.state, JobState::Queued { .. }) && job.attempt.is_none();
    untouched && claim == Claim::Reserved
}

/// Gives a job back to GitLab that waits here. Nothing has to be sent: with its end here the store forgets its token, nobody says any more
/// that it is wanted, and GitLab offers it to others. Called by the manager's own task, so that no pass claims it meanwhile.
pub(super) async fn give_back(shared: &Shared, job: &JobId) {
    let deps = &shared.deps;
    let done = async {
        let waits = deps.store.job(job).await?.is_some_and(|job| goes_back(&job, Claim::Reserved));
        if !waits || deps.store.drain(&deps.config.current().host.name).await?.is_none() {
            return Ok(None);
        }
        deps.store.cancel_job(job, EndReason::ReturnedToGitlab, deps.clock.now()).await
    };
    match done.await {
        Ok(Some((_, CancelEffect::Ended))) => info!(job.id = %job, "job {job} goes back to GitLab, for the machine is drained"),
        Ok(_) => {}
        Err(error) => warn!(job.id = %job, error = chain(&error), "a job could not be given back to GitLab yet"),
    }
}

#[cfg(test)]
#[path = "drain_tests.rs"]
mod tests;
