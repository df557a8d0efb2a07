//! Takes away what has ended long ago, with everything that belongs to it, a bounded batch at a time.
//!
//! Every table that grows is named here once: `jobs`, `attempts`, `events`, `gpu_usage`, `idempotency`, `gitlab_jobs`, `runners`,
//! `requirements`, `project_usage` and `shares`. (`deliveries` and `idempotency` also go by their own age, `project_usage_hours` with every end
//! of an attempt; `images`, `gpu_records` and `drains` are as many as there are images, GPUs and machines.)

use rusqlite::{Connection, OptionalExtension as _, params};

use super::fault::Outcome;
use super::rows;
use crate::domain::JobId;
use crate::store::retention::{Forgotten, Keep};

/// Most jobs that go in one batch.
pub(super) const JOBS_AT_ONCE: u32 = 200;
/// Rows after which a batch ends, so that others are not kept waiting.
pub(super) const ROWS_AT_ONCE: u32 = 5_000;

/// The rule: a job that ended before `?1` and that no runner has which is not gone, oldest end first.
pub(super) const DUE: &str = "SELECT id, requirement_id FROM jobs j INDEXED BY jobs_by_end WHERE ended_at < ?1 \
     AND NOT EXISTS (SELECT 1 FROM runners r WHERE r.job_id = j.id AND r.state <> 'gone') ORDER BY ended_at LIMIT ?2";

/// Everything that belongs to a job and has one row or few.
const OF_JOB: [&str; 7] = [
    "DELETE FROM attempts WHERE job_id = ?1",
    "DELETE FROM gpu_usage WHERE job_id = ?1",
    "DELETE FROM idempotency WHERE job_id = ?1",
    "DELETE FROM gitlab_jobs WHERE job_id = ?1",
    "DELETE FROM runners WHERE job_id = ?1",
    // One that repeats it stays, and forgets whom it repeats.
    "UPDATE jobs SET retry_of = NULL WHERE retry_of = ?1",
    "DELETE FROM jobs WHERE id = ?1",
];

/// The newest requirement stays, so that no id is given twice: somebody may still hold one.
const REQUIREMENT: &str = "DELETE FROM requirements WHERE id = ?1 AND id < (SELECT max(id) FROM requirements) \
     AND NOT EXISTS (SELECT 1 FROM jobs WHERE requirement_id = ?1)";

pub(super) const EVENTS_OF_JOB: &str = "DELETE FROM events WHERE seq IN (SELECT seq FROM events WHERE job_id = ?1 LIMIT ?2)";

/// What belongs to no job, by its own age.
pub(super) const OF_NO_JOB: [&str; 2] = [
    "DELETE FROM runners WHERE id IN (SELECT id FROM runners INDEXED BY runners_gone WHERE state = 'gone' AND job_id IS NULL AND state_since < ?1 LIMIT ?2)",
    "DELETE FROM events WHERE seq IN (SELECT seq FROM events INDEXED BY events_of_no_job WHERE job_id IS NULL AND at < ?1 LIMIT ?2)",
];

pub(super) const USAGE: &str =
    "DELETE FROM project_usage WHERE project IN (SELECT project FROM project_usage INDEXED BY project_usage_by_end WHERE last_at < ?1 LIMIT ?2)";

/// Takes one batch away.
pub(super) fn forget(connection: &Connection, keep: &Keep) -> Outcome<Forgotten> {
    let mut batch = Batch { connection, done: Forgotten::default() };
    batch.jobs(keep)?;
    let since = rows::millis(keep.since);
    for sql in OF_NO_JOB {
        batch.some(sql, since)?;
    }
    batch.some(USAGE, rows::millis(keep.usage_since))?;
    batch.turns()?;
    let Batch { mut done, .. } = batch;
    // Where some went by their age, more may have to go by their number.
    done.is_all = done.rows < u64::from(ROWS_AT_ONCE) && done.jobs.is_empty();
    Ok(done)
}

struct Batch<'c> {
    connection: &'c Connection,
    done: Forgotten,
}

impl Batch<'_> {
    fn left(&self) -> u32 {
        ROWS_AT_ONCE.saturating_sub(u32::try_from(self.done.rows).unwrap_or(u32::MAX))
    }

    fn jobs(&mut self, keep: &Keep) -> Outcome<()> {
        let mut due = due(self.connection, rows::millis(keep.since), JOBS_AT_ONCE)?;
        if due.is_empty() {
            let excess = ended(self.connection)?.saturating_sub(u64::from(keep.most_jobs));
            due = self::due(self.connection, rows::millis(keep.spare_since), u32::try_from(excess).unwrap_or(u32::MAX).min(JOBS_AT_ONCE))?;
        }
        let mut requirements = Vec::new();
        for (job, requirement) in due {
            let asked = self.left();
            let events = self.run(EVENTS_OF_JOB, params![job.as_str(), asked])?;
            if events >= u64::from(asked) {
                // Its history is longer than what is left of the batch: the next one goes on with it.
                break;
            }
            for sql in OF_JOB {
                self.run(sql, [job.as_str()])?;
            }
            self.done.jobs.push(job);
            requirements.push(requirement);
        }
        requirements.sort_unstable();
        requirements.dedup();
        for requirement in requirements {
            self.run(REQUIREMENT, [requirement])?;
        }
        Ok(())
    }

    /// Runs what takes away no more than so many rows that are older.
    fn some(&mut self, sql: &str, before: i64) -> Outcome<()> {
        let most = self.left();
        self.run(sql, params![before, most]).map(|_| ())
    }

    /// While nothing waits nobody's turn is remembered: all begin together where the one that got furthest ended (start-time fair queueing's
    /// own rule for the end of a busy time). So names of projects that come once do not gather.
    fn turns(&mut self) -> Outcome<()> {
        let waits = "SELECT 1 FROM queue_lengths WHERE jobs > 0 LIMIT 1";
        if self.connection.prepare_cached(waits)?.query_row([], |_| Ok(())).optional()?.is_some() {
            return Ok(());
        }
        let furthest = "INSERT INTO share_times (priority, at) SELECT priority, max(served) FROM shares WHERE true GROUP BY priority \
                        ON CONFLICT (priority) DO UPDATE SET at = max(at, excluded.at)";
        self.connection.prepare_cached(furthest)?.execute([])?;
        self.run("DELETE FROM shares", []).map(|_| ())
    }

    fn run(&mut self, sql: &str, params: impl rusqlite::Params) -> Outcome<u64> {
        let rows = self.connection.prepare_cached(sql)?.execute(params)? as u64;
        self.done.rows += rows;
        Ok(rows)
    }
}

fn due(connection: &Connection, before: i64, most: u32) -> Outcome<Vec<(JobId, i64)>> {
    let mut statement = connection.prepare_cached(DUE)?;
    let found = statement.query_map(params![before, most], |row| Ok((JobId::from_trusted(row.get::<_, String>(0)?), row.get(1)?)))?;
    Ok(found.collect::<rusqlite::Result<_>>()?)
}

/// How many ended jobs are kept.
fn ended(connection: &Connection) -> Outcome<u64> {
    let mut statement = connection.prepare_cached("SELECT sum(jobs) FROM job_counts WHERE state IN ('succeeded', 'failed', 'canceled')")?;
    rows::number("a count", statement.query_row([], |row| row.get(0))?)
}

/// Which of these jobs have no log to keep: those that are not there, and those that [`DUE`] would take.
pub(super) fn without_logs(connection: &Connection, jobs: &[JobId], before: i64) -> Outcome<Vec<JobId>> {
    let mut kept = connection.prepare_cached(
        "SELECT 1 FROM jobs j WHERE id = ?1 AND (ended_at IS NULL OR ended_at >= ?2 \
         OR EXISTS (SELECT 1 FROM runners r WHERE r.job_id = j.id AND r.state <> 'gone'))",
    )?;
    let mut without = Vec::new();
    for job in jobs {
        if kept.query_row(params![job.as_str(), before], |_| Ok(())).optional()?.is_none() {
            without.push(job.clone());
        }
    }
    Ok(without)
}

#[cfg(test)]
#[path = "retention_tests.rs"]
mod tests;
