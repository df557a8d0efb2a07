//! Writes down how an attempt ended; for a job of GitLab, GitLab hears it first, so that both sides agree.

use std::sync::Arc;
use std::time::Duration;

use tracing::warn;

use super::broker::ReportResult;
use super::deps::{OpError, Shared};
use crate::domain::job::CancelEffect;
use crate::domain::retry::Next;
use crate::domain::{Aggregate, EndReason, GitLabJob, Job, JobId, Outcome, Source, Step};
use crate::store::StoreError;

/// How long GitLab's silence may hold up a job's end. Past it, GitLab finds out by itself (its own sweep of stuck jobs).
const REPORT_PATIENCE: Duration = Duration::from_secs(10 * 60);
/// How often GitLab is told of a job that was cancelled here while it waited.
const CANCEL_TRIES: u32 = 20;
/// Wait before it is told again.
const CANCEL_RETRY: Duration = Duration::from_secs(15);

/// Ends a job of GitLab that waits here; GitLab is told afterwards, so that nothing can start it meanwhile.
pub(super) async fn cancel_waiting(shared: &Arc<Shared>, id: &JobId, reason: EndReason) -> Result<Option<(Job, CancelEffect)>, StoreError> {
    let deps = &shared.deps;
    // Read before: with the job's end the store forgets the token with which GitLab is told.
    let gitlab = deps.store.gitlab_job(id).await?;
    let cancelled = deps.store.cancel_job(id, reason, deps.clock.now()).await?;
    if let (Some(gitlab), Some((job, CancelEffect::Ended))) = (gitlab, cancelled.clone()) {
        let shared = Arc::clone(shared);
        deps.tracker.spawn(async move { tell_of_cancel(&shared, &job, &gitlab, reason).await });
    }
    Ok(cancelled)
}

async fn tell_of_cancel(shared: &Shared, job: &Job, gitlab: &GitLabJob, reason: EndReason) {
    let deps = &shared.deps;
    let outcome = Outcome::Canceled { reason, detail: None };
    for _ in 0..CANCEL_TRIES {
        if deps.broker.report_unstarted(job, gitlab.clone(), &outcome).await != ReportResult::NotReachable {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(CANCEL_RETRY) => {}
            () = deps.stop.cancelled() => break,
        }
    }
    warn!(job.id = %job.id, "GitLab was not told that the job was cancelled here: it did not answer");
}

/// Ends the attempt with this outcome, or the runner, when it has no job.
pub(super) async fn conclude(shared: &Arc<Shared>, aggregate: &Aggregate, outcome: Outcome) -> Result<(), OpError> {
    let deps = &shared.deps;
    let runner = &aggregate.runner.id;
    let Some(job) = &aggregate.job else {
        let reason = outcome.reason().unwrap_or(EndReason::RunnerExited);
        warn!(runner.id = %runner, %reason, detail = outcome.detail(), "a runner ended without a job");
        deps.store.apply(runner, Step::StopOrdered { reason }, deps.clock.now()).await?;
        return Ok(());
    };
    let retry = shared.retry_policy();
    let ends = retry.next(job, &outcome, deps.clock.now()) == Next::End;
    let open = job.attempt.as_ref().is_some_and(|attempt| attempt.ended.is_none());
    if job.spec.source == Source::GitLab && ends && open {
        let waited = deps.clock.now().duration_since(aggregate.runner.state_since);
        let patient = waited < jiff::SignedDuration::try_from(REPORT_PATIENCE).unwrap_or(jiff::SignedDuration::ZERO);
        match deps.broker.report_end(job, &outcome).await {
            ReportResult::Told | ReportResult::GitLabAlreadyKnew => {}
            ReportResult::NotReachable if patient => return Err(OpError::NotYet("GitLab could not be told of the job's end")),
            ReportResult::NotReachable => warn!(job.id = %job.id, "GitLab was not told of the job's end: it did not answer for too long"),
        }
    }
    match deps.store.apply(runner, Step::JobEnded { outcome, retry }, deps.clock.now()).await {
        // The runner itself told how it went in the meantime.
        Ok(_) | Err(StoreError::Refused(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
