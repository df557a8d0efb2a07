//! Rows to the domain and back, whichever database they are of. A row that makes no sense is an error, never a default.
//!
//! Every store has these columns under these names: whole numbers as 64 bits, all else as text.

use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::StoreError;
use crate::domain::job::CancelRequest;
use crate::domain::{self, Attempt, ClassName, EndReason, Event, HostId, Job, JobId, JobState, Runner, RunnerId, RunnerOrigin, RunnerState};

/// A row that a database answered.
pub(super) trait Row {
    /// Why a column could not be read; holds also what a row can be wrong about.
    type Fault: From<Corrupt>;

    /// A column that holds text.
    fn maybe_text(&self, column: &str) -> Result<Option<String>, Self::Fault>;

    /// A column that holds a whole number.
    fn maybe_integer(&self, column: &str) -> Result<Option<i64>, Self::Fault>;

    /// The same where there must be a text.
    fn text(&self, column: &str) -> Result<String, Self::Fault> {
        self.maybe_text(column)?.ok_or_else(|| corrupt(format!("{column} is not there")).into())
    }

    /// The same where there must be a number.
    fn integer(&self, column: &str) -> Result<i64, Self::Fault> {
        self.maybe_integer(column)?.ok_or_else(|| corrupt(format!("{column} is not there")).into())
    }
}

/// What about a stored value makes no sense.
#[derive(Debug)]
pub(super) struct Corrupt(String);

impl From<Corrupt> for StoreError {
    fn from(Corrupt(what): Corrupt) -> Self {
        Self::Corrupt(what)
    }
}

/// A value that makes no sense, in words.
pub(super) fn corrupt(what: impl Into<String>) -> Corrupt {
    Corrupt(what.into())
}

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
pub(super) fn time(millis: i64) -> Result<Timestamp, Corrupt> {
    Timestamp::from_millisecond(millis).map_err(|_| corrupt(format!("{millis} is no time")))
}

/// A value as JSON.
pub(super) fn json<T: Serialize>(value: &T) -> Result<String, Corrupt> {
    serde_json::to_string(value).map_err(|error| corrupt(format!("a value cannot be written as JSON: {error}")))
}

/// A value from stored JSON.
pub(super) fn from_json<T: DeserializeOwned>(what: &str, text: &str) -> Result<T, Corrupt> {
    // serde's message may quote the text, and a text may hold a secret: only its place is told.
    serde_json::from_str(text).map_err(|error| corrupt(format!("{what}: unreadable JSON at column {}", error.column())))
}

/// A stored count or number.
pub(super) fn number<T: TryFrom<i64>>(what: &str, value: i64) -> Result<T, Corrupt> {
    T::try_from(value).map_err(|_| corrupt(format!("{what} is {value}")))
}

/// A stored reason.
pub(super) fn reason(name: &str) -> Result<EndReason, Corrupt> {
    EndReason::from_name(name).ok_or_else(|| corrupt(format!("there is no reason {name:?}")))
}

fn optional_time<R: Row>(row: &R, column: &str) -> Result<Option<Timestamp>, R::Fault> {
    Ok(row.maybe_integer(column)?.map(time).transpose()?)
}

/// A job with its latest attempt, from [`JOB`].
pub(super) fn job<R: Row>(row: &R) -> Result<Job, R::Fault> {
    let id = row.text("id")?;
    let latest: u32 = number("a job's attempt", row.integer("attempt")?)?;
    let joined = row.maybe_integer("number")?;
    let attempt = match (latest, joined) {
        (0, None) => None,
        (1.., Some(_)) => Some(attempt(row)?),
        (0, Some(_)) | (1.., None) => return Err(corrupt(format!("attempt {latest} of job {id} is not there")).into()),
    };
    let cancel = match (row.maybe_text("cancel_reason")?, optional_time(row, "cancel_at")?) {
        (None, None) => None,
        (Some(name), Some(at)) => Some(CancelRequest { reason: reason(&name)?, at }),
        (Some(_), None) | (None, Some(_)) => return Err(corrupt(format!("half a cancel request of job {id}")).into()),
    };
    Ok(Job {
        spec: from_json("a job's spec", &row.text("spec")?)?,
        state: job_state(row, &id)?,
        attempt,
        infrastructure_failures: number("infrastructure_failures", row.integer("infrastructure_failures")?)?,
        own_failures: number("own_failures", row.integer("own_failures")?)?,
        cancel,
        created_at: time(row.integer("created_at")?)?,
        retry_of: row.maybe_text("retry_of")?.map(JobId::from_trusted),
        image: row.maybe_text("image")?.map(|text| from_json("a job's image", &text)).transpose()?,
        id: JobId::from_trusted(id),
    })
}

fn job_state<R: Row>(row: &R, id: &str) -> Result<JobState, R::Fault> {
    let name = row.text("state")?;
    let not_before = optional_time(row, "not_before")?;
    let outcome = row.maybe_text("outcome")?.map(|text| from_json("a job's outcome", &text)).transpose()?;
    let state = match (name.as_str(), not_before, optional_time(row, "ended_at")?, outcome) {
        ("queued", not_before, None, None) => JobState::Queued { not_before },
        ("starting", None, None, None) => JobState::Starting,
        ("running", None, None, None) => JobState::Running,
        (_, None, Some(at), Some(outcome)) => JobState::Ended { at, outcome },
        _ => return Err(corrupt(format!("the state {name:?} of job {id} does not agree with its other columns")).into()),
    };
    if state.name() != name {
        return Err(corrupt(format!("job {id} is {name:?} but its outcome is that of one that {}", state.name())).into());
    }
    Ok(state)
}

/// An attempt, from [`ATTEMPT`] or [`JOB`].
pub(super) fn attempt<R: Row>(row: &R) -> Result<Attempt, R::Fault> {
    let outcome = row.maybe_text("attempt_outcome")?.map(|text| from_json("an attempt's outcome", &text)).transpose()?;
    let ended = match (optional_time(row, "attempt_ended_at")?, outcome) {
        (None, None) => None,
        (Some(at), Some(outcome)) => Some((at, outcome)),
        (Some(_), None) | (None, Some(_)) => return Err(corrupt("half an end of an attempt").into()),
    };
    Ok(Attempt {
        number: number("an attempt's number", row.integer("number")?)?,
        runner: RunnerId::from_trusted(row.text("runner_id")?),
        host: HostId::from_trusted(row.text("host")?),
        placement: from_json("an attempt's placement", &row.text("placement")?)?,
        started_at: optional_time(row, "started_at")?,
        ended,
    })
}

/// A runner, from [`RUNNER`].
pub(super) fn runner<R: Row>(row: &R) -> Result<Runner, R::Fault> {
    let id = row.text("id")?;
    let origin = row.text("origin")?;
    let job = match (row.maybe_text("job_id")?, row.maybe_integer("attempt")?) {
        (None, None) => None,
        (Some(job), Some(attempt)) => Some((JobId::from_trusted(job), number("a runner's attempt", attempt)?)),
        (Some(_), None) | (None, Some(_)) => return Err(corrupt(format!("half a job of runner {id}")).into()),
    };
    Ok(Runner {
        class: ClassName::from_trusted(row.text("class")?),
        host: HostId::from_trusted(row.text("host")?),
        origin: RunnerOrigin::from_name(&origin).ok_or_else(|| corrupt(format!("there is no origin {origin:?}")))?,
        state: runner_state(row, &id)?,
        state_since: time(row.integer("state_since")?)?,
        job,
        placement: from_json("a runner's placement", &row.text("placement")?)?,
        container: row.maybe_text("container")?,
        created_at: time(row.integer("created_at")?)?,
        last_contact_at: optional_time(row, "last_contact_at")?,
        restarts: number("a runner's restarts", row.integer("restarts")?)?,
        engine_epoch: number("a runner's engine_epoch", row.integer("engine_epoch")?)?,
        id: RunnerId::from_trusted(id),
    })
}

fn runner_state<R: Row>(row: &R, id: &str) -> Result<RunnerState, R::Fault> {
    let name = row.text("state")?;
    let start_sent = optional_time(row, "start_sent")?;
    let why = row.maybe_text("reason")?.map(|name| reason(&name)).transpose()?;
    match (name.as_str(), start_sent, why) {
        ("starting", start_sent, None) => Ok(RunnerState::Starting { start_sent }),
        ("idle", None, None) => Ok(RunnerState::Idle),
        ("busy", None, None) => Ok(RunnerState::Busy),
        ("stopping", None, reason) => Ok(RunnerState::Stopping { reason }),
        ("lost", None, Some(reason)) => Ok(RunnerState::Lost { reason }),
        ("gone", None, reason) => Ok(RunnerState::Gone { reason }),
        _ => Err(corrupt(format!("the state {name:?} of runner {id} does not agree with its other columns")).into()),
    }
}

/// An entry of the history, from [`EVENT`].
pub(super) fn event<R: Row>(row: &R) -> Result<Event, R::Fault> {
    Ok(Event {
        seq: row.integer("seq")?,
        at: time(row.integer("at")?)?,
        job: row.maybe_text("job_id")?.map(JobId::from_trusted),
        runner: row.maybe_text("runner_id")?.map(RunnerId::from_trusted),
        attempt: row.maybe_integer("attempt")?.map(|attempt| number("an event's attempt", attempt)).transpose()?,
        kind: from_json::<domain::EventKind>("an event", &row.text("body")?)?,
    })
}

/// The columns `not_before`, `ended_at` and `outcome`.
type StateColumns = (Option<i64>, Option<i64>, Option<String>);

/// The columns of a job's state.
pub(super) fn state_columns(state: &JobState) -> Result<StateColumns, Corrupt> {
    Ok(match state {
        JobState::Queued { not_before } => (not_before.map(millis), None, None),
        JobState::Starting | JobState::Running => (None, None, None),
        JobState::Ended { at, outcome } => (None, Some(millis(*at)), Some(json(outcome)?)),
    })
}

/// The columns of an attempt's end: `ended_at` and `outcome`.
pub(super) fn end_columns(attempt: &Attempt) -> Result<(Option<i64>, Option<String>), Corrupt> {
    Ok(match &attempt.ended {
        Some((at, outcome)) => (Some(millis(*at)), Some(json(outcome)?)),
        None => (None, None),
    })
}

/// A runner's columns `start_sent` and `engine_epoch`.
pub(super) fn start_columns(runner: &Runner) -> Result<(Option<i64>, i64), Corrupt> {
    let start_sent = match runner.state {
        RunnerState::Starting { start_sent } => start_sent.map(millis),
        RunnerState::Idle | RunnerState::Busy | RunnerState::Stopping { .. } | RunnerState::Lost { .. } | RunnerState::Gone { .. } => None,
    };
    Ok((start_sent, i64::try_from(runner.engine_epoch).map_err(|_| corrupt("an engine_epoch beyond 2^63"))?))
}
