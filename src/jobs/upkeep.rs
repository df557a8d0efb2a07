//! What has to be done now and then, whatever happens: GitLab hears of jobs that wait here, and old deliveries are forgotten.

use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};

use super::broker::Claim;
use super::deps::Shared;
use super::drain::goes_back;
use crate::domain::{EndReason, Job, JobState, Source, chain};
use crate::store::{JobFilter, StoreError};

/// Time between two words to GitLab about a job that waits here; GitLab gives a silent one up after an hour.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// Rounds of [`KEEP_ALIVE`] between two clearings of old deliveries.
const FORGET_EVERY: u32 = 120;
/// Waiting jobs that are read at once.
const PAGE: u32 = 500;

/// Goes its rounds until told to stop.
pub(super) async fn run(shared: &Arc<Shared>) {
    let mut round: u32 = 0;
    let mut status = shared.deps.handle.status.clone();
    let mut was_drained = status.borrow().drain.is_some();
    loop {
        if round.is_multiple_of(FORGET_EVERY) {
            forget_deliveries(shared).await;
        }
        round = round.wrapping_add(1);
        tokio::select! {
            biased;
            () = shared.deps.stop.cancelled() => return,
            () = tokio::time::sleep(KEEP_ALIVE) => {}
            // What waits here goes back at once. An error means that the manager is gone; `stop` comes next.
            Ok(_) = status.wait_for(|status| status.drain.is_some() != was_drained) => {}
        }
        // Before the round: what changes while it goes on leads to another at once.
        was_drained = status.borrow().drain.is_some();
        let Some(kept) = shared.deps.stop.run_until_cancelled(keep_alive(shared)).await else { return };
        if let Err(error) = kept {
            warn!(error = chain(&error), "GitLab was not told which of its jobs wait here");
        }
    }
}

async fn forget_deliveries(shared: &Shared) {
    let deps = &shared.deps;
    let Ok(before) = deps.clock.now().checked_sub(deps.config.current().limits.delivery_memory) else { return };
    match deps.store.forget_deliveries(before).await {
        Ok(0) => {}
        Ok(forgotten) => info!(forgotten, "old deliveries were forgotten"),
        Err(error) => warn!(error = chain(&error), "old deliveries could not be forgotten"),
    }
}

/// Tells GitLab of its jobs that wait here or whose container is being made, and hears which of them nobody wants any more.
pub(super) async fn keep_alive(shared: &Shared) -> Result<(), StoreError> {
    let deps = &shared.deps;
    if deps.gitlab.is_none() {
        return Ok(());
    }
    let mut filter = JobFilter { states: vec!["queued".to_owned(), "starting".to_owned()], limit: PAGE, ..JobFilter::default() };
    loop {
        let waiting = deps.store.jobs(filter.clone()).await?;
        for job in waiting.iter().filter(|job| job.spec.source == Source::GitLab) {
            keep_one_alive(shared, job).await?;
        }
        if waiting.len() < usize::try_from(PAGE).unwrap_or(usize::MAX) {
            return Ok(());
        }
        filter.before = waiting.last().map(|job| job.id.clone());
    }
}

async fn keep_one_alive(shared: &Shared, job: &Job) -> Result<(), StoreError> {
    let deps = &shared.deps;
    let reason = match deps.broker.keep_alive(job).await {
        claim @ (Claim::Taken | Claim::Reserved | Claim::NotReachable) => {
            // In a fleet another machine takes it.
            if goes_back(job, claim) && deps.handle.status().drain.is_some() && deps.store.fleet().is_none() {
                deps.handle.give_back(job.id.clone()).await;
            }
            return Ok(());
        }
        // GitLab may have given it to us again since; it says so when the runner asks for the job.
        Claim::Gone(EndReason::ReturnedToGitlab) if matches!(job.state, JobState::Starting) => return Ok(()),
        Claim::Gone(reason) => reason,
    };
    info!(job.id = %job.id, %reason, "the job is no longer wanted here");
    deps.store.cancel_job(&job.id, reason, deps.clock.now()).await?;
    deps.handle.nudge();
    Ok(())
}
