//! Rows to the domain and back. A row that makes no sense is an error, never a default.

use jiff::Timestamp;
use rusqlite::Row;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::fault::{Fault, Outcome};
use crate::domain::job::CancelRequest;
use crate::domain::{self, Attempt, ClassName, EndReason, Event, HostId, Job, JobId, JobState, Runner, RunnerId, RunnerOrigin, RunnerState};

/// What [`job`] reads.
pub(super) const JOB: &str = "SELECT j.id, j.spec, j.state, j.not_before, j.ended_at, j.outcome, j.attempt, j.infrastructure_failures, \
     j.own_failures, j.cancel_reason, j.cancel_at, j.created_at, j.retry_of, j.image, a.number, a.runner_id, a.host, a.placement, a.started_at, \
     a.ended_at AS attempt_ended_at, a.outcome AS attempt_outcome \
     FROM jobs j LEFT JOIN attempts a ON a.job_id = j.id AND a.number = j.attempt";

/// What [`attempt`] reads.
pub(super) const ATTEMPT: &str = "SELECT number, runner_id, host, placement, started_at, ended_at AS attempt_ended_at, \
     outcome AS attempt_outcome FROM attempts";

/// What [`runner`] reads.
pub(super) const RUNNER: &str = "SELECT id, class, host, origin, state, state_since, start_sent, reason, job_id, attempt, placement, \
     container, created_at, last_contact_at, restarts, engine_epoch FROM runners";

/// What [`event`] reads.
pub(super) const EVENT: &str = "SELECT seq, at, job_id, runner_id, attempt, body FROM events";

/// A time as it is stored.
pub(super) fn millis(time: Timestamp) -> i64 {
    time.as_millisecond()
}

/// A stored time.
pub(super) fn time(millis: i64) -> Outcome<Timestamp> {
    Timestamp::from_millisecond(millis).map_err(|_| Fault::corrupt(format!("{millis} is no time")))
}

/// A value as JSON.
pub(super) fn json<T: Serialize>(value: &T) -> Outcome<String> {
    serde_json::to_string(value).map_err(|error| Fault::corrupt(format!("a value cannot be written as JSON: {error}")))
}

/// A value from stored JSON.
pub(super) fn from_json<T: DeserializeOwned>(what: &str, text: &str) -> Outcome<T> {
    // serde's message may quote the text, and a text may hold a secret: only its place is told.
    serde_json::from_str(text).map_err(|error| Fault::corrupt(format!("{what}: unreadable JSON at column {}", error.column())))
}

/// A stored count or number.
pub(super) fn number<T: TryFrom<i64>>(what: &str, value: i64) -> Outcome<T> {
    T::try_from(value).map_err(|_| Fault::corrupt(format!("{what} is {value}")))
}

/// A stored reason.
pub(super) fn reason(name: &str) -> Outcome<EndReason> {
    EndReason::from_name(name).ok_or_else(|| Fault::corrupt(format!("there is no reason {name:?}")))
}

fn optional_time(row: &Row<'_>, column: &str) -> Outcome<Option<Timestamp>> {
    row.get::<_, Option<i64>>(column)?.map(time).transpose()
}

/// A job with its latest attempt, from [`JOB`].
pub(super) fn job(row: &Row<'_>) -> Outcome<Job> {
    let id: String = row.get("id")?;
    let latest: u32 = number("a job's attempt", row.get("attempt")?)?;
    let joined: Option<i64> = row.get("number")?;
    let attempt = match (latest, joined) {
        (0, None) => None,
        (1.., Some(_)) => Some(attempt(row)?),
        (0, Some(_)) | (1.., None) => return Err(Fault::corrupt(format!("attempt {latest} of job {id} is not there"))),
    };
    let cancel = match (row.get::<_, Option<String>>("cancel_reason")?, optional_time(row, "cancel_at")?) {
        (None, None) => None,
        (Some(name), Some(at)) => Some(CancelRequest { reason: reason(&name)?, at }),
        (Some(_), None) | (None, Some(_)) => return Err(Fault::corrupt(format!("half a cancel request of job {id}"))),
    };
    Ok(Job {
        spec: from_json("a job's spec", row.get_ref("spec")?.as_str().map_err(rusqlite::Error::from)?)?,
        state: job_state(row, &id)?,
        attempt,
        infrastructure_failures: number("infrastructure_failures", row.get("infrastructure_failures")?)?,
        own_failures: number("own_failures", row.get("own_failures")?)?,
        cancel,
        created_at: time(row.get("created_at")?)?,
        retry_of: row.get::<_, Option<String>>("retry_of")?.map(JobId::from_trusted),
        image: row.get::<_, Option<String>>("image")?.map(|text| from_json("a job's image", &text)).transpose()?,
        id: JobId::from_trusted(id),
    })
}

fn job_state(row: &Row<'_>, id: &str) -> Outcome<JobState> {
    let name: String = row.get("state")?;
    let not_before = optional_time(row, "not_before")?;
    let outcome = row.get::<_, Option<String>>("outcome")?.map(|text| from_json("a job's outcome", &text)).transpose()?;
    let state = match (name.as_str(), not_before, optional_time(row, "ended_at")?, outcome) {
        ("queued", not_before, None, None) => JobState::Queued { not_before },
        ("starting", None, None, None) => JobState::Starting,
        ("running", None, None, None) => JobState::Running,
        (_, None, Some(at), Some(outcome)) => JobState::Ended { at, outcome },
        _ => return Err(Fault::corrupt(format!("the state {name:?} of job {id} does not agree with its other columns"))),
    };
    if state.name() != name {
        return Err(Fault::corrupt(format!("job {id} is {name:?} but its outcome is that of one that {}", state.name())));
    }
    Ok(state)
}

/// An attempt, from [`ATTEMPT`] or [`JOB`].
pub(super) fn attempt(row: &Row<'_>) -> Outcome<Attempt> {
    let outcome = row.get::<_, Option<String>>("attempt_outcome")?.map(|text| from_json("an attempt's outcome", &text)).transpose()?;
    let ended = match (optional_time(row, "attempt_ended_at")?, outcome) {
        (None, None) => None,
        (Some(at), Some(outcome)) => Some((at, outcome)),
        (Some(_), None) | (None, Some(_)) => return Err(Fault::corrupt("half an end of an attempt")),
    };
    Ok(Attempt {
        number: number("an attempt's number", row.get("number")?)?,
        runner: RunnerId::from_trusted(row.get::<_, String>("runner_id")?),
        host: HostId::from_trusted(row.get::<_, String>("host")?),
        placement: from_json("an attempt's placement", &row.get::<_, String>("placement")?)?,
        started_at: optional_time(row, "started_at")?,
        ended,
    })
}

/// A runner, from [`RUNNER`].
pub(super) fn runner(row: &Row<'_>) -> Outcome<Runner> {
    let id: String = row.get("id")?;
    let origin: String = row.get("origin")?;
    let job = match (row.get::<_, Option<String>>("job_id")?, row.get::<_, Option<i64>>("attempt")?) {
        (None, None) => None,
        (Some(job), Some(attempt)) => Some((JobId::from_trusted(job), number("a runner's attempt", attempt)?)),
        (Some(_), None) | (None, Some(_)) => return Err(Fault::corrupt(format!("half a job of runner {id}"))),
    };
    Ok(Runner {
        class: ClassName::from_trusted(row.get::<_, String>("class")?),
        host: HostId::from_trusted(row.get::<_, String>("host")?),
        origin: RunnerOrigin::from_name(&origin).ok_or_else(|| Fault::corrupt(format!("there is no origin {origin:?}")))?,
        state: runner_state(row, &id)?,
        state_since: time(row.get("state_since")?)?,
        job,
        placement: from_json("a runner's placement", &row.get::<_, String>("placement")?)?,
        container: row.get("container")?,
        created_at: time(row.get("created_at")?)?,
        last_contact_at: optional_time(row, "last_contact_at")?,
        restarts: number("a runner's restarts", row.get("restarts")?)?,
        engine_epoch: number("a runner's engine_epoch", row.get("engine_epoch")?)?,
        id: RunnerId::from_trusted(id),
    })
}

fn runner_state(row: &Row<'_>, id: &str) -> Outcome<RunnerState> {
    let name: String = row.get("state")?;
    let start_sent = optional_time(row, "start_sent")?;
    let why = row.get::<_, Option<String>>("reason")?.map(|name| reason(&name)).transpose()?;
    match (name.as_str(), start_sent, why) {
        ("starting", start_sent, None) => Ok(RunnerState::Starting { start_sent }),
        ("idle", None, None) => Ok(RunnerState::Idle),
        ("busy", None, None) => Ok(RunnerState::Busy),
        ("stopping", None, reason) => Ok(RunnerState::Stopping { reason }),
        ("lost", None, Some(reason)) => Ok(RunnerState::Lost { reason }),
        ("gone", None, reason) => Ok(RunnerState::Gone { reason }),
        _ => Err(Fault::corrupt(format!("the state {name:?} of runner {id} does not agree with its other columns"))),
    }
}

/// An entry of the history, from [`EVENT`].
pub(super) fn event(row: &Row<'_>) -> Outcome<Event> {
    Ok(Event {
        seq: row.get("seq")?,
        at: time(row.get("at")?)?,
        job: row.get::<_, Option<String>>("job_id")?.map(JobId::from_trusted),
        runner: row.get::<_, Option<String>>("runner_id")?.map(RunnerId::from_trusted),
        attempt: row.get::<_, Option<i64>>("attempt")?.map(|attempt| number("an event's attempt", attempt)).transpose()?,
        kind: from_json::<domain::EventKind>("an event", &row.get::<_, String>("body")?)?,
    })
}

#[cfg(test)]
#[path = "rows_tests.rs"]
mod tests;
