//! Takes away what has ended long ago, with everything that belongs to it, a bounded batch at a time.
//!
//! Every table that grows is named here once: `jobs`, `attempts`, `events`, `gpu_usage`, `idempotency`, `gitlab_jobs`, `runners`,
//! `requirements`, `project_usage` and `shares`. (`deliveries` go by their own age, `project_usage_hours` with every end of an attempt; `tallies` are
//! put together; `images`, `gpu_records` and `drains` are as many as there are images, GPUs and machines.)

use super::fault::Outcome;
use super::locks::{self, Lock};
use super::transaction::{Tx, Values};
use crate::domain::JobId;
use crate::store::retention::{Forgotten, Keep};
use crate::store::rows::{self, Row as _};

/// Most jobs that go in one batch.
const JOBS_AT_ONCE: u32 = 200;
/// Rows after which a batch ends, so that others are not kept waiting.
const ROWS_AT_ONCE: u32 = 5_000;

/// The rule: a job that ended before `$1` and that no runner has which is not gone, oldest end first.
const DUE: &str = "SELECT id, requirement_id FROM jobs j WHERE ended_at < $1 \
     AND NOT EXISTS (SELECT 1 FROM runners r WHERE r.job_id = j.id AND r.state <> 'gone') ORDER BY ended_at LIMIT $2 FOR UPDATE SKIP LOCKED";

/// Everything that belongs to a job and has one row or few.
const OF_JOB: [&str; 7] = [
    "DELETE FROM attempts WHERE job_id = $1",
    "DELETE FROM gpu_usage WHERE job_id = $1",
    "DELETE FROM idempotency WHERE job_id = $1",
    "DELETE FROM gitlab_jobs WHERE job_id = $1",
    "DELETE FROM runners WHERE job_id = $1",
    // One that repeats it stays, and forgets whom it repeats.
    "UPDATE jobs SET retry_of = NULL WHERE retry_of = $1",
    "DELETE FROM jobs WHERE id = $1",
];

const REQUIREMENT: &str = "DELETE FROM requirements WHERE id = $1 AND NOT EXISTS (SELECT 1 FROM jobs WHERE requirement_id = $1)";

const EVENTS_OF_JOB: &str = "DELETE FROM events WHERE seq IN (SELECT seq FROM events WHERE job_id = $1 LIMIT $2)";

/// What belongs to no job, by its own age.
const OF_NO_JOB: [&str; 2] = [
    "DELETE FROM runners WHERE id IN (SELECT id FROM runners WHERE state = 'gone' AND job_id IS NULL AND state_since < $1 LIMIT $2)",
    "DELETE FROM events WHERE seq IN (SELECT seq FROM events WHERE job_id IS NULL AND at < $1 LIMIT $2)",
];

const USAGE: &str = "DELETE FROM project_usage WHERE project IN (SELECT project FROM project_usage WHERE last_at < $1 LIMIT $2)";

/// Takes one batch away. Nothing, while another daemon does.
pub(super) async fn forget(tx: &Tx<'_>, keep: &Keep) -> Outcome<Forgotten> {
    if !locks::try_take(tx, Lock::Forgetting).await? {
        return Ok(Forgotten { is_all: true, ..Forgotten::default() });
    }
    let mut batch = Batch { tx, done: Forgotten::default() };
    batch.jobs(keep).await?;
    let since = rows::millis(keep.since);
    for sql in OF_NO_JOB {
        batch.some(sql, since).await?;
    }
    batch.some(USAGE, rows::millis(keep.usage_since)).await?;
    batch.turns().await?;
    let Batch { mut done, .. } = batch;
    // Where some went by their age, more may have to go by their number.
    done.is_all = done.rows < u64::from(ROWS_AT_ONCE) && done.jobs.is_empty();
    Ok(done)
}

struct Batch<'t, 'c> {
    tx: &'t Tx<'c>,
    done: Forgotten,
}

impl Batch<'_, '_> {
    fn left(&self) -> u32 {
        ROWS_AT_ONCE.saturating_sub(u32::try_from(self.done.rows).unwrap_or(u32::MAX))
    }

    async fn jobs(&mut self, keep: &Keep) -> Outcome<()> {
        let mut due = self.due(rows::millis(keep.since), JOBS_AT_ONCE).await?;
        if due.is_empty() {
            let excess = self.ended().await?.saturating_sub(u64::from(keep.most_jobs));
            due = self.due(rows::millis(keep.spare_since), u32::try_from(excess).unwrap_or(u32::MAX).min(JOBS_AT_ONCE)).await?;
        }
        let mut requirements = Vec::new();
        for (job, requirement) in due {
            let asked = self.left();
            let events = self.run(EVENTS_OF_JOB, &[&job.as_str(), &i64::from(asked)]).await?;
            if events >= u64::from(asked) {
                // Its history is longer than what is left of the batch: the next one goes on with it.
                break;
            }
            for sql in OF_JOB {
                self.run(sql, &[&job.as_str()]).await?;
            }
            self.done.jobs.push(job);
            requirements.push(requirement);
        }
        requirements.sort_unstable();
        requirements.dedup();
        if !requirements.is_empty() {
            // Nobody is giving one of them a new job.
            locks::take(self.tx, Lock::Submitting).await?;
        }
        for requirement in requirements {
            self.run(REQUIREMENT, &[&requirement]).await?;
        }
        Ok(())
    }

    /// Runs what takes away no more than so many rows that are older.
    async fn some(&mut self, sql: &str, before: i64) -> Outcome<()> {
        let most = i64::from(self.left());
        self.run(sql, &[&before, &most]).await.map(|_| ())
    }

    /// While nothing waits nobody's turn is remembered: all begin together where the one that got furthest ended (start-time fair queueing's
    /// own rule for the end of a busy time). So names of projects that come once do not gather.
    async fn turns(&mut self) -> Outcome<()> {
        if self.tx.one("SELECT 1 AS one FROM shares LIMIT 1", &[]).await?.is_none() {
            return Ok(());
        }
        locks::take(self.tx, Lock::Submitting).await?;
        if self.tx.one("SELECT 1 AS one FROM jobs WHERE state = 'queued' LIMIT 1", &[]).await?.is_some() {
            return Ok(());
        }
        let furthest = "INSERT INTO share_times AS t (priority, at) SELECT priority, max(served) FROM shares GROUP BY priority \
                        ON CONFLICT (priority) DO UPDATE SET at = greatest(t.at, excluded.at)";
        self.tx.execute(furthest, &[]).await?;
        self.run("DELETE FROM shares", &[]).await.map(|_| ())
    }

    async fn run(&mut self, sql: &str, values: Values<'_>) -> Outcome<u64> {
        let rows = self.tx.execute(sql, values).await?;
        self.done.rows += rows;
        Ok(rows)
    }

    async fn due(&self, before: i64, most: u32) -> Outcome<Vec<(JobId, i64)>> {
        let found = self.tx.all(DUE, &[&before, &i64::from(most)]).await?;
        found.iter().map(|row| Ok((JobId::from_trusted(row.text("id")?), row.integer("requirement_id")?))).collect()
    }

    /// How many ended jobs are kept.
    async fn ended(&self) -> Outcome<u64> {
        let sql = "SELECT coalesce(sum(n), 0)::bigint AS n FROM tallies WHERE kind = 'state' AND key IN ('succeeded', 'failed', 'canceled')";
        let count = self.tx.one(sql, &[]).await?.map_or(Ok(0), |row| row.integer("n"))?;
        Ok(rows::number("a count", count)?)
    }
}

/// Which of these jobs have no log to keep: those that are not there, and those that [`DUE`] would take.
pub(super) async fn without_logs(tx: &Tx<'_>, jobs: &[JobId], before: i64) -> Outcome<Vec<JobId>> {
    let sql = "SELECT asked.id FROM unnest($1::text[]) WITH ORDINALITY AS asked (id, place) WHERE NOT EXISTS \
               (SELECT 1 FROM jobs j WHERE j.id = asked.id AND (ended_at IS NULL OR ended_at >= $2 \
                OR EXISTS (SELECT 1 FROM runners r WHERE r.job_id = j.id AND r.state <> 'gone'))) ORDER BY place";
    let asked: Vec<&str> = jobs.iter().map(JobId::as_str).collect();
    tx.all(sql, &[&asked, &before]).await?.iter().map(|row| Ok(JobId::from_trusted(row.text("id")?))).collect()
}
