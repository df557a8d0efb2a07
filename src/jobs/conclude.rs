//! Writes down how an attempt ended; for a job of GitLab, GitLab hears it first, so that both sides agree.

use std::sync::Arc;
use std::time::Duration;

use tracing::warn;

use super::broker::ReportResult;
use super::deps::{OpError, Shared};
use crate::domain::job::CancelEffect;
use crate::domain::retry::Next;
use crate::domain::{Aggregate, EndReason, Job, Outcome, Source, Step};
use crate::store::StoreError;

/// How long GitLab's silence may hold up a job's end. Past it, GitLab finds out by itself (its own sweep of stuck jobs).
const REPORT_PATIENCE: Duration = Duration::from_secs(10 * 60);

/// Ends a job of GitLab that waits here. GitLab hears it first, as well as it can be reached: if the daemon dies in between, the job is
/// found unwanted at the next word about it.
pub(super) async fn cancel_waiting(shared: &Arc<Shared>, job: &Job, reason: EndReason) -> Result<Option<(Job, CancelEffect)>, StoreError> {
    let deps = &shared.deps;
    if let Some(gitlab) = deps.store.gitlab_job(&job.id).await? {
        let outcome = Outcome::Canceled { reason, detail: None };
        if deps.broker.report_unstarted(job, gitlab, &outcome).await == ReportResult::NotReachable {
            warn!(job.id = %job.id, "GitLab was not told that the job was cancelled here: it did not answer");
        }
    }
    deps.store.cancel_job(&job.id, reason, deps.clock.now()).await
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
