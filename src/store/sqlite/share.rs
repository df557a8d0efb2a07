//! Fair share between projects: start-time fair queueing (Goyal, Vin and Cheng, 1996), one queue per priority.
//!
//! Every job gets a start tag when it is stored: where its project's jobs before it end, but not before the time of the queue, which is
//! the largest tag that was claimed. A job ends its cost after its start, and costs the less the more its project weighs. The jobs are then
//! claimed by their tags, so projects take turns by weight, whoever came first and however many jobs he brought.

use rusqlite::{Connection, OptionalExtension as _, params};

use super::fault::Outcome;
use crate::domain::{Job, ProjectName};
use crate::store::rules::SHARE_COST;

pub(super) const FORGET: &str = "DELETE FROM shares INDEXED BY shares_behind WHERE priority = ?1 AND promised <= ?2";

/// The start tag of a new job. `waiting` is how many jobs wait for its project: with none, what it was promised and then cancelled is forgotten.
pub(super) fn promise(connection: &Connection, job: &Job, weight: u32, waiting: i64) -> Outcome<i64> {
    let (priority, project) = (job.spec.priority, project(job));
    let cost = SHARE_COST / i64::from(weight.max(1));
    let mut now = connection.prepare_cached("SELECT at FROM share_times WHERE priority = ?1")?;
    let now: i64 = now.query_row([priority], |row| row.get(0)).optional()?.unwrap_or(0);
    let mut own = connection.prepare_cached("SELECT promised, served FROM shares WHERE priority = ?1 AND project = ?2")?;
    let own: Option<(i64, i64)> = own.query_row(params![priority, project], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    let start = own.map_or(now, |(promised, served)| now.max(if waiting == 0 { served } else { promised }));
    connection
        .prepare_cached(
            "INSERT INTO shares (priority, project, promised, served, cost) VALUES (?1, ?2, ?3, 0, ?4) \
             ON CONFLICT (priority, project) DO UPDATE SET promised = excluded.promised, cost = excluded.cost",
        )?
        .execute(params![priority, project, start + cost, cost])?;
    Ok(start)
}

/// Notes that a job was claimed: the time of its queue moves to its tag, and projects that it overtakes need no memory any more.
pub(super) fn serve(connection: &Connection, job: &Job, tag: i64) -> Outcome<()> {
    let (priority, project) = (job.spec.priority, project(job));
    connection
        .prepare_cached("INSERT INTO share_times (priority, at) VALUES (?1, ?2) ON CONFLICT (priority) DO UPDATE SET at = max(at, excluded.at)")?
        .execute(params![priority, tag])?;
    connection
        .prepare_cached("UPDATE shares SET served = max(served, ?3 + cost) WHERE priority = ?1 AND project = ?2")?
        .execute(params![priority, project, tag])?;
    connection.prepare_cached(FORGET)?.execute(params![priority, tag])?;
    Ok(())
}

fn project(job: &Job) -> &str {
    job.spec.project.as_ref().map_or("", ProjectName::as_str)
}
