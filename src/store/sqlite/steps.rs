//! What happens to a runner and its job: load, let the domain decide, write what came out.

use jiff::Timestamp;
use rusqlite::{Connection, params};

use super::fault::Outcome;
use super::{history, jobs, runners, usage};
use crate::domain::job::CancelEffect;
use crate::domain::{EndReason, EventKind, Job, JobId, Runner, RunnerId, Step};
use crate::store::count::{Start, Taken};
use crate::store::ended::Ended;
use crate::store::rules::cancel_events;

/// Takes a step.
pub(super) fn apply(connection: &Connection, runner: &RunnerId, step: &Step, at: Timestamp) -> Outcome<Taken> {
    let before = runners::with_job(connection, runners::expect(connection, runner)?)?;
    let mut after = before.clone();
    let events = after.apply(step, at)?;
    if after.runner != before.runner {
        runners::update(connection, &after.runner)?;
    }
    if let Some(job) = after.job.as_ref().filter(|job| before.job.as_ref() != Some(job)) {
        jobs::update(connection, job)?;
        let attempt = job.attempt.as_ref().filter(|attempt| attempt.ended.is_some());
        let was_open = before.job.as_ref().and_then(|job| job.attempt.as_ref()).is_some_and(|attempt| attempt.ended.is_none());
        if let Some(attempt) = attempt.filter(|_| was_open) {
            usage::ended(connection, job, attempt, at)?;
        }
    }
    for event in &events {
        history::add(connection, &history::About::Runner(&after.runner), event, at)?;
    }
    let start = if Taken::is_start(&before, &after) { started(connection, after.job.as_ref())? } else { Start::None };
    let ended = after.job.as_ref().filter(|job| job.has_ended() && before.job.as_ref().is_some_and(|before| !before.has_ended()));
    let ended = ended.map(|job| end_of(connection, job)).transpose()?;
    Ok(Taken { after, events, start, ended })
}

/// Whether a job whose attempt has just begun had begun before.
fn started(connection: &Connection, job: Option<&Job>) -> Outcome<Start> {
    let Some((job, attempt)) = job.and_then(|job| Some((job, job.attempt.as_ref()?))) else { return Ok(Start::None) };
    if attempt.number == 1 {
        return Ok(Start::First);
    }
    let mut earlier =
        connection.prepare_cached("SELECT EXISTS (SELECT 1 FROM attempts WHERE job_id = ?1 AND number < ?2 AND started_at IS NOT NULL)")?;
    let before: bool = earlier.query_row(params![job.id.as_str(), attempt.number], |row| row.get(0))?;
    Ok(if before { Start::Again } else { Start::First })
}

/// Adds to a runner's history; answers the runner.
pub(super) fn note(connection: &Connection, runner: &RunnerId, kind: &EventKind, at: Timestamp) -> Outcome<Runner> {
    let runner = runners::expect(connection, runner)?;
    history::add(connection, &history::About::Runner(&runner), kind, at)?;
    Ok(runner)
}

/// A job and what became of the wish to end it, where there is one; and its end, if that was it.
pub(super) type Cancelled = (Option<(Job, CancelEffect)>, Option<Ended>);

/// Notes that a job should end.
pub(super) fn cancel(connection: &Connection, id: &JobId, reason: EndReason, at: Timestamp) -> Outcome<Cancelled> {
    let Some(mut job) = jobs::find(connection, id.as_str())? else { return Ok((None, None)) };
    let effect = job.cancel(reason, at);
    let events = cancel_events(&effect, reason);
    if !events.is_empty() {
        jobs::update(connection, &job)?;
    }
    for event in &events {
        history::add(connection, &history::About::Job(&job), event, at)?;
    }
    let ended = if effect == CancelEffect::Ended { Some(end_of(connection, &job)?) } else { None };
    Ok((Some((job, effect)), ended))
}

/// What is to be told of a job that has just ended.
fn end_of(connection: &Connection, job: &Job) -> Outcome<Ended> {
    let beginning = match &job.attempt {
        Some(attempt) => history::beginning_of(connection, &job.id, attempt.number)?,
        None => Vec::new(),
    };
    Ok(Ended::of(job.clone(), &beginning))
}
