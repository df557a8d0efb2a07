//! What happens to a runner and its job: lock, load, let the domain decide, write what came out. The runner is locked before its job, always.

use jiff::Timestamp;

use super::fault::Outcome;
use super::lease::Lease;
use super::transaction::Tx;
use super::{history, jobs, runners, usage};
use crate::domain::job::CancelEffect;
use crate::domain::{Aggregate, EndReason, EventKind, Job, JobId, Runner, RunnerId, Step};
use crate::store::count::{Start, Taken};
use crate::store::ended::Ended;
use crate::store::rules::cancel_events;

/// Takes a step.
pub(super) async fn apply(tx: &Tx<'_>, lease: &Lease, runner: &RunnerId, step: &Step, at: Timestamp) -> Outcome<Taken> {
    let before = locked(tx, runner).await?;
    lease.check(tx).await?;
    let mut after = before.clone();
    let events = after.apply(step, at)?;
    if after.runner != before.runner {
        runners::save(tx, &after.runner, runners::Save::Update).await?;
    }
    if let Some(job) = after.job.as_ref().filter(|job| before.job.as_ref() != Some(job)) {
        jobs::update(tx, job).await?;
        let attempt = job.attempt.as_ref().filter(|attempt| attempt.ended.is_some());
        let was_open = before.job.as_ref().and_then(|job| job.attempt.as_ref()).is_some_and(|attempt| attempt.ended.is_none());
        if let Some(attempt) = attempt.filter(|_| was_open) {
            usage::ended(tx, job, attempt, at).await?;
        }
    }
    for event in &events {
        history::add(tx, &history::About::Runner(&after.runner), event, at).await?;
    }
    let start = if Taken::is_start(&before, &after) { started(tx, after.job.as_ref()).await? } else { Start::None };
    let ended = match after.job.as_ref().filter(|job| job.has_ended() && before.job.as_ref().is_some_and(|before| !before.has_ended())) {
        Some(job) => Some(end_of(tx, job).await?),
        None => None,
    };
    Ok(Taken { after, events, start, ended })
}

/// A runner with its job, both locked.
async fn locked(tx: &Tx<'_>, runner: &RunnerId) -> Outcome<Aggregate> {
    let runner = runners::lock(tx, runner).await?;
    let job = match &runner.job {
        Some((job, _)) => Some(jobs::expect_locked(tx, job.as_str()).await?),
        None => None,
    };
    Ok(Aggregate::new(runner, job))
}

/// Whether a job whose attempt has just begun had begun before.
async fn started(tx: &Tx<'_>, job: Option<&Job>) -> Outcome<Start> {
    let Some((job, attempt)) = job.and_then(|job| Some((job, job.attempt.as_ref()?))) else { return Ok(Start::None) };
    if attempt.number == 1 {
        return Ok(Start::First);
    }
    let earlier = "SELECT 1 AS one FROM attempts WHERE job_id = $1 AND number < $2 AND started_at IS NOT NULL LIMIT 1";
    let before = tx.one(earlier, &[&job.id.as_str(), &i64::from(attempt.number)]).await?;
    Ok(if before.is_some() { Start::Again } else { Start::First })
}

/// Adds to a runner's history; answers the runner.
pub(super) async fn note(tx: &Tx<'_>, lease: &Lease, runner: &RunnerId, kind: &EventKind, at: Timestamp) -> Outcome<Runner> {
    let runner = runners::lock(tx, runner).await?;
    lease.check(tx).await?;
    history::add(tx, &history::About::Runner(&runner), kind, at).await?;
    Ok(runner)
}

/// A job and what became of the wish to end it, where there is one; and its end, if that was it.
pub(super) type Cancelled = (Option<(Job, CancelEffect)>, Option<Ended>);

/// Notes that a job should end.
pub(super) async fn cancel(tx: &Tx<'_>, id: &JobId, reason: EndReason, at: Timestamp) -> Outcome<Cancelled> {
    let Some(mut job) = jobs::lock(tx, id.as_str()).await? else { return Ok((None, None)) };
    let effect = job.cancel(reason, at);
    let events = cancel_events(&effect, reason);
    if !events.is_empty() {
        jobs::update(tx, &job).await?;
    }
    for event in &events {
        history::add(tx, &history::About::Job(&job), event, at).await?;
    }
    let ended = if effect == CancelEffect::Ended { Some(end_of(tx, &job).await?) } else { None };
    Ok((Some((job, effect)), ended))
}

/// What is to be told of a job that has just ended.
async fn end_of(tx: &Tx<'_>, job: &Job) -> Outcome<Ended> {
    let beginning = match &job.attempt {
        Some(attempt) => history::beginning_of(tx, &job.id, attempt.number).await?,
        None => Vec::new(),
    };
    Ok(Ended::of(job.clone(), &beginning))
}
