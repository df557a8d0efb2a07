//! Writes down how an attempt ended; for a job of GitLab, GitLab hears it first, so that both sides agree.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};

use super::broker::{Claim, KnownEnd, ReportResult};
use super::deps::{OpError, Shared};
use super::stopping::until_stopped;
use crate::domain::job::CancelEffect;
use crate::domain::retry::Next;
use crate::domain::{Aggregate, EndReason, Failure, GitLabJob, Job, JobId, JobState, Outcome, RunnerId, Source, Step, Work};
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
        match until_stopped(&deps.stop, deps.broker.report_unstarted(job, gitlab.clone(), &outcome)).await {
            Some(ReportResult::NotReachable) => {}
            Some(ReportResult::Told | ReportResult::GitLabAlreadyKnew(_)) => return,
            None => break,
        }
        tokio::select! {
            biased;
            () = deps.stop.cancelled() => break,
            () = tokio::time::sleep(CANCEL_RETRY) => {}
        }
    }
    warn!(job.id = %job.id, "GitLab was not told that the job was cancelled here: it did not answer");
}

/// Ends the attempt with this outcome, or the runner, when it has no job.
pub(super) async fn conclude(shared: &Arc<Shared>, aggregate: &Aggregate, mut outcome: Outcome) -> Result<(), OpError> {
    let deps = &shared.deps;
    let runner = &aggregate.runner.id;
    // Read again: the broker may have handed the job over, or stored its end, since this operation began.
    let Some(Aggregate { job, .. }) = deps.store.runner(runner).await? else { return Ok(()) };
    let Some(job) = job else {
        let reason = outcome.reason().unwrap_or(EndReason::RunnerExited);
        warn!(runner.id = %runner, %reason, detail = outcome.detail(), "a runner ended without a job");
        deps.store.apply(runner, Step::StopOrdered { reason }, deps.clock.now()).await?;
        return Ok(());
    };
    let retry = shared.retry_policy();
    let ends = retry.next(&job, &outcome, deps.clock.now()) == Next::End;
    let returned = if ends { give_back(shared, &job, &outcome).await? } else { None };
    if let Some(returned) = returned {
        outcome = returned;
    } else if is_told(&job, &outcome) && ends {
        match deps.broker.report_end(&job, &outcome).await {
            ReportResult::Told | ReportResult::GitLabAlreadyKnew(KnownEnd::Failed) => {}
            ReportResult::GitLabAlreadyKnew(KnownEnd::Succeeded) => outcome = Outcome::Succeeded,
            ReportResult::GitLabAlreadyKnew(KnownEnd::Canceled) => {
                let reason = job.cancel.as_ref().map_or(EndReason::CanceledInGitlab, |cancel| cancel.reason);
                outcome = Outcome::Canceled { reason, detail: None };
            }
            ReportResult::NotReachable if shared.untold.is_patient(runner) => {
                return Err(OpError::NotYet("GitLab could not be told of the job's end"));
            }
            ReportResult::NotReachable => warn!(job.id = %job.id, "GitLab was not told of the job's end: it did not answer for too long"),
        }
    }
    match deps.store.apply(runner, Step::JobEnded { outcome, retry }, deps.clock.now()).await {
        // The runner itself told how it went in the meantime.
        Ok(_) | Err(StoreError::Refused(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Whether GitLab hears of the end of a job's attempt. What GitLab took back is not ours to end: it may be another runner's, or ours once more.
fn is_told(job: &Job, outcome: &Outcome) -> bool {
    let asked = job.cancel.as_ref().map(|cancel| cancel.reason);
    let was_taken_back = [asked, outcome.reason()].contains(&Some(EndReason::ReturnedToGitlab));
    job.spec.source == Source::GitLab && job.has_open_attempt() && !was_taken_back
}

/// Gives a job that did not begin back to GitLab, where GitLab still waits for our word: the outcome that says so. Nothing has to be sent:
/// with the job's end the store forgets its token, nobody says any more that it is wanted here, and GitLab offers it again.
async fn give_back(shared: &Shared, job: &Job, outcome: &Outcome) -> Result<Option<Outcome>, StoreError> {
    let deps = &shared.deps;
    let Work::GitLab(reference) = &job.spec.work else { return Ok(None) };
    let Outcome::Failed(failure) = outcome else { return Ok(None) };
    if failure.reason == EndReason::Unsupported {
        // Its people are to read at once what is refused, and not after another round.
        return Ok(None);
    }
    if !may_go_back(job, deps.store.jobs_of_gitlab(&reference.url, reference.job_id).await?.len()) {
        return Ok(None);
    }
    if deps.broker.keep_alive(job).await != Claim::Reserved {
        return Ok(None);
    }
    info!(job.id = %job.id, reason = %failure.reason, "the job could not be started here and is given back to GitLab");
    let detail = failure.detail.as_deref().map(|detail| format!("{detail}; ")).unwrap_or_default();
    Ok(Some(Outcome::Failed(Failure { detail: Some(format!("{detail}the job was given back to GitLab")), ..failure.clone() })))
}

/// Only what no runner has seen goes back, and only once: what fails here again would come round for ever.
fn may_go_back(job: &Job, offers: usize) -> bool {
    matches!(job.state, JobState::Starting) && job.has_open_attempt() && job.cancel.is_none() && offers <= 1
}

/// Since when GitLab cannot be told of the ends of which runners' jobs.
#[derive(Debug, Default)]
pub(super) struct Untold(Mutex<HashMap<RunnerId, Instant>>);

impl Untold {
    /// Whether GitLab's silence about this runner's job is still to be waited out.
    fn is_patient(&self, runner: &RunnerId) -> bool {
        self.lock().entry(runner.clone()).or_insert_with(Instant::now).elapsed() < REPORT_PATIENCE
    }

    /// Forgets runners that are gone, so that nothing grows.
    pub(super) fn retain(&self, keep: impl Fn(&RunnerId) -> bool) {
        self.lock().retain(|runner, _| keep(runner));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<RunnerId, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::job::CancelRequest;
    use crate::domain::{Attempt, CpuMillis, HostId, MemoryBytes, Placement};
    use crate::store::contract_tests::{command, gitlab, requirement};

    #[test]
    fn gitlab_hears_of_ends_that_are_its_own_and_not_of_what_it_took_back() {
        let placement = Placement { cpus: CpuMillis(1), memory: MemoryBytes(1), devices: Vec::new(), share: None, opened: None };
        let attempt =
            Attempt { number: 1, runner: RunnerId::from_trusted("r1"), host: HostId::from_trusted("box1"), placement, started_at: None, ended: None };
        let begun = |job: Job| Job { attempt: Some(attempt.clone()), ..job };
        let (theirs, ours) = (gitlab(requirement("default", 1000), 0, 7).job, command(requirement("default", 1000), 0).job);
        let canceled = |reason| Outcome::Canceled { reason, detail: None };
        let failed = Outcome::infrastructure(EndReason::StartFailed, "no");
        assert!(is_told(&begun(theirs.clone()), &failed));
        assert!(is_told(&begun(theirs.clone()), &canceled(EndReason::CanceledByUser)));
        assert!(!is_told(&begun(theirs.clone()), &canceled(EndReason::ReturnedToGitlab)), "somebody may be at it, and that may be us");
        let cancel = CancelRequest { reason: EndReason::ReturnedToGitlab, at: jiff::Timestamp::UNIX_EPOCH };
        assert!(!is_told(&Job { cancel: Some(cancel), ..begun(theirs.clone()) }, &failed), "however it ended here");
        assert!(!is_told(&theirs, &failed), "nobody was at it");
        assert!(!is_told(&begun(ours), &failed));
    }
}
