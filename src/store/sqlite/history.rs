//! The history, the keys against doubles, and the counts.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::fault::{Fault, Outcome};
use super::rows;
use crate::domain::{ClassName, Event, EventKind, JobId, ProjectName};
pub(super) use crate::store::rules::About;
use crate::store::{ClassQueue, Counts, EventQuery, QueueGroup};

/// Most keys that are forgotten in one operation, so that others are not kept waiting.
pub(super) const FORGET_AT_ONCE: u32 = 5_000;

/// Adds an entry.
pub(super) fn add(connection: &Connection, about: &About<'_>, kind: &EventKind, at: Timestamp) -> Outcome<()> {
    let (job, runner, attempt) = about.parts();
    let mut statement = connection.prepare_cached("INSERT INTO events (at, job_id, runner_id, attempt, body) VALUES (?1, ?2, ?3, ?4, ?5)")?;
    statement.execute(params![rows::millis(at), job, runner, attempt, rows::json(kind)?])?;
    Ok(())
}

/// Reads entries, oldest first.
pub(super) fn events(connection: &Connection, query: &EventQuery) -> Outcome<Vec<Event>> {
    let found: Vec<Event> = if let Some(job) = &query.job {
        let mut statement = connection.prepare_cached(&format!("{} WHERE job_id = ?1 AND seq > ?2 ORDER BY seq LIMIT ?3", rows::EVENT))?;
        statement.query_and_then(params![job.as_str(), query.after, query.limit], rows::event)?.collect::<Outcome<_>>()?
    } else {
        let mut statement = connection.prepare_cached(&format!("{} WHERE seq > ?1 ORDER BY seq LIMIT ?2", rows::EVENT))?;
        statement.query_and_then(params![query.after, query.limit], rows::event)?.collect::<Outcome<_>>()?
    };
    Ok(found)
}

/// Most entries that are read of an attempt's beginning: far more than an image's pull makes.
const MOST_OF_BEGINNING: u32 = 500;

/// The first entries of an attempt.
pub(super) fn beginning_of(connection: &Connection, job: &JobId, attempt: u32) -> Outcome<Vec<Event>> {
    let mut statement = connection.prepare_cached(&format!("{} WHERE job_id = ?1 AND attempt = ?2 ORDER BY seq LIMIT ?3", rows::EVENT))?;
    let found = statement.query_and_then(params![job.as_str(), attempt, MOST_OF_BEGINNING], rows::event)?;
    found.collect()
}

pub(super) const LATEST: &str = "WHERE job_id = ?1 ORDER BY seq DESC LIMIT 1";

/// The last entry of a job's history.
pub(super) fn latest(connection: &Connection, job: &JobId) -> Outcome<Option<Event>> {
    let mut statement = connection.prepare_cached(&format!("{} {LATEST}", rows::EVENT))?;
    let found = statement.query_and_then([job.as_str()], rows::event)?.next();
    found.transpose()
}

/// Forgets some of the deliveries that are older than `before`; tells how many.
pub(super) fn forget_deliveries(connection: &Connection, before: Timestamp) -> Outcome<u64> {
    let sql = "DELETE FROM deliveries WHERE key IN (SELECT key FROM deliveries WHERE at < ?1 LIMIT ?2)";
    Ok(connection.prepare_cached(sql)?.execute(params![rows::millis(before), FORGET_AT_ONCE])? as u64)
}

/// How much of what there is: counters for jobs, an index over the few open runners.
pub(super) fn counts(connection: &Connection) -> Outcome<Counts> {
    let count = |sql: &str| -> Outcome<Vec<(String, u64)>> {
        let mut statement = connection.prepare_cached(sql)?;
        let read = |row: &rusqlite::Row<'_>| Ok::<_, Fault>((row.get(0)?, rows::number("a count", row.get(1)?)?));
        statement.query_and_then([], read)?.collect()
    };
    let mut oldest = connection.prepare_cached("SELECT min(created_at) FROM jobs INDEXED BY jobs_oldest WHERE state = 'queued'")?;
    Ok(Counts {
        jobs: count("SELECT state, jobs FROM job_counts WHERE jobs > 0 ORDER BY state")?,
        runners: count(
            "SELECT state, count(*) FROM runners WHERE state IN ('starting', 'idle', 'busy', 'stopping', 'lost') GROUP BY state ORDER BY state",
        )?,
        oldest_queued_at: oldest.query_row([], |row| row.get::<_, Option<i64>>(0))?.map(rows::time).transpose()?,
    })
}

/// The position of the newest entry that there ever was: positions go on where they were when the newest entries are gone.
pub(super) fn newest(connection: &Connection) -> Outcome<i64> {
    let mut statement = connection.prepare_cached("SELECT seq FROM sqlite_sequence WHERE name = 'events'")?;
    Ok(statement.query_row([], |row| row.get(0)).optional()?.unwrap_or(0))
}

/// Waiting jobs by class and project: of the `most` oldest, found by their index.
pub(super) fn queue_groups(connection: &Connection, most: u32) -> Outcome<Vec<QueueGroup>> {
    let mut statement = connection.prepare_cached(
        "SELECT class, project, count(*), min(created_at) FROM
           (SELECT class, project, created_at FROM jobs INDEXED BY jobs_oldest WHERE state = 'queued' ORDER BY created_at LIMIT ?1)
         GROUP BY class, project ORDER BY min(created_at), class, project",
    )?;
    let read = |row: &rusqlite::Row<'_>| {
        Ok::<_, Fault>(QueueGroup {
            class: ClassName::from_trusted(row.get::<_, String>(0)?),
            project: row.get::<_, Option<String>>(1)?.map(ProjectName::from_trusted),
            jobs: rows::number("a count", row.get(2)?)?,
            oldest: rows::time(row.get(3)?)?,
        })
    };
    statement.query_and_then([most], read)?.collect()
}

pub(super) const READY_OF_CLASS: &str = "SELECT ifnull(sum(ready), 0) FROM requirements WHERE class = ?1 AND ready > 0";
// Ids sort by time, so the first one is the oldest.
pub(super) const OLDEST_OF_CLASS: &str =
    "SELECT created_at FROM jobs INDEXED BY jobs_by_class WHERE class = ?1 AND state = 'queued' ORDER BY id LIMIT 1";

/// What waits for each class: a counter that the database keeps, and the first entry of an index.
pub(super) fn class_queues(connection: &Connection, classes: &[ClassName]) -> Outcome<Vec<ClassQueue>> {
    let (mut ready, mut oldest) = (connection.prepare_cached(READY_OF_CLASS)?, connection.prepare_cached(OLDEST_OF_CLASS)?);
    let of = |class: &ClassName| {
        Ok(ClassQueue {
            class: class.clone(),
            ready: rows::number("a count", ready.query_row([class.as_str()], |row| row.get(0))?)?,
            oldest: oldest.query_row([class.as_str()], |row| row.get(0)).optional()?.map(rows::time).transpose()?,
        })
    };
    classes.iter().map(of).collect()
}

/// Writes, so that a full disk or a lost mount is noticed.
pub(super) fn ping(connection: &Connection) -> Outcome<()> {
    let written = connection.prepare_cached("UPDATE meta SET value = value + 1 WHERE key = 'ping'")?.execute([])?;
    if written == 1 { Ok(()) } else { Err(Fault::corrupt("the row for pings is not there")) }
}
