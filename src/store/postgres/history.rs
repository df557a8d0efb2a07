//! The history, and the counts.

use jiff::Timestamp;
use tokio_postgres::Row;

use super::fault::Outcome;
use super::transaction::Tx;
use crate::domain::{ClassName, Event, EventKind, JobId, ProjectName};
use crate::store::rows::{self, Row as _, corrupt};
pub(super) use crate::store::rules::About;
use crate::store::{ClassQueue, Counts, EventQuery, QueueGroup};

/// Most keys that are forgotten in one operation, so that others are not kept waiting.
const FORGET_AT_ONCE: i64 = 5_000;

/// Adds an entry.
pub(super) async fn add(tx: &Tx<'_>, about: &About<'_>, kind: &EventKind, at: Timestamp) -> Outcome<()> {
    let (job, runner, attempt) = about.parts();
    let sql = "INSERT INTO events (at, job_id, runner_id, attempt, body) VALUES ($1, $2, $3, $4, $5)";
    tx.execute(sql, &[&rows::millis(at), &job, &runner, &attempt.map(i64::from), &rows::json(kind)?]).await?;
    Ok(())
}

/// Entries of one job, oldest first: whoever writes one holds the job or its runner, so they are seen in order.
pub(super) async fn of_job(tx: &Tx<'_>, job: &JobId, query: &EventQuery) -> Outcome<Vec<Event>> {
    let sql = format!("{} WHERE job_id = $1 AND seq > $2 ORDER BY seq LIMIT $3", rows::EVENT);
    tx.all(&sql, &[&job.as_str(), &query.after, &i64::from(query.limit)]).await?.iter().map(rows::event).collect()
}

fn count(row: Option<Row>) -> Outcome<i64> {
    row.ok_or_else(|| corrupt("no count"))?.integer("n")
}

/// Most entries that are read of an attempt's beginning: far more than an image's pull makes.
const MOST_OF_BEGINNING: i64 = 500;

/// The first entries of an attempt.
pub(super) async fn beginning_of(tx: &Tx<'_>, job: &JobId, attempt: u32) -> Outcome<Vec<Event>> {
    let sql = format!("{} WHERE job_id = $1 AND attempt = $2 ORDER BY seq LIMIT $3", rows::EVENT);
    tx.all(&sql, &[&job.as_str(), &i64::from(attempt), &MOST_OF_BEGINNING]).await?.iter().map(rows::event).collect()
}

/// The last entry of a job's history.
pub(super) async fn latest(tx: &Tx<'_>, job: &JobId) -> Outcome<Option<Event>> {
    let found = tx.one(&format!("{} WHERE job_id = $1 ORDER BY seq DESC LIMIT 1", rows::EVENT), &[&job.as_str()]).await?;
    found.as_ref().map(rows::event).transpose()
}

/// The position of the newest entry that there ever was: positions go on where they were when the newest entries are gone.
pub(super) async fn newest(tx: &Tx<'_>) -> Outcome<i64> {
    let sql = "SELECT coalesce(pg_sequence_last_value(pg_get_serial_sequence('events', 'seq')::regclass), 0) AS n";
    count(tx.one(sql, &[]).await?)
}

/// Forgets some of the deliveries that are older than `before`; tells how many.
pub(super) async fn forget_deliveries(tx: &Tx<'_>, before: Timestamp) -> Outcome<u64> {
    let sql = "DELETE FROM deliveries WHERE key IN (SELECT key FROM deliveries WHERE at < $1 LIMIT $2)";
    tx.execute(sql, &[&rows::millis(before), &FORGET_AT_ONCE]).await
}

/// How much of what there is: sums that the database keeps for jobs, an index over the few open runners.
pub(super) async fn counts(tx: &Tx<'_>) -> Outcome<Counts> {
    let read = |row: &Row| Ok((row.text("state")?, rows::number("a count", row.integer("n")?)?));
    let jobs = "SELECT key AS state, sum(n)::bigint AS n FROM tallies WHERE kind = 'state' GROUP BY key HAVING sum(n) <> 0 ORDER BY key";
    let runners =
        "SELECT state, count(*) AS n FROM runners WHERE state IN ('starting', 'idle', 'busy', 'stopping', 'lost') GROUP BY state ORDER BY state";
    let oldest = tx.one("SELECT created_at FROM jobs WHERE state = 'queued' ORDER BY created_at LIMIT 1", &[]).await?;
    Ok(Counts {
        jobs: tx.all(jobs, &[]).await?.iter().map(read).collect::<Outcome<_>>()?,
        runners: tx.all(runners, &[]).await?.iter().map(read).collect::<Outcome<_>>()?,
        oldest_queued_at: oldest.map(|row| Ok::<_, super::fault::Fault>(rows::time(row.integer("created_at")?)?)).transpose()?,
    })
}

/// Waiting jobs by class and project: of the `most` oldest, found by their index.
pub(super) async fn queue_groups(tx: &Tx<'_>, most: u32) -> Outcome<Vec<QueueGroup>> {
    let sql = "SELECT class, project, count(*) AS n, min(created_at) AS oldest FROM \
                 (SELECT class, project, created_at FROM jobs WHERE state = 'queued' ORDER BY created_at LIMIT $1) AS oldest \
               GROUP BY class, project ORDER BY min(created_at), class, project NULLS FIRST";
    let read = |row: &Row| {
        Ok(QueueGroup {
            class: ClassName::from_trusted(row.text("class")?),
            project: row.maybe_text("project")?.map(ProjectName::from_trusted),
            jobs: rows::number("a count", row.integer("n")?)?,
            oldest: rows::time(row.integer("oldest")?)?,
        })
    };
    tx.all(sql, &[&i64::from(most)]).await?.iter().map(read).collect()
}

/// What waits for each class: sums that the database keeps, and the first entry of an index.
pub(super) async fn class_queues(tx: &Tx<'_>, classes: &[ClassName]) -> Outcome<Vec<ClassQueue>> {
    let ready =
        "SELECT coalesce(sum(n), 0)::bigint AS n FROM tallies t JOIN requirements r ON r.id = t.key::bigint WHERE kind = 'ready' AND r.class = $1";
    // Ids sort by time, so the first one is the oldest.
    let oldest = "SELECT created_at FROM jobs WHERE class = $1 AND state = 'queued' ORDER BY id LIMIT 1";
    let mut queues = Vec::with_capacity(classes.len());
    for class in classes {
        let first = tx.one(oldest, &[&class.as_str()]).await?;
        queues.push(ClassQueue {
            class: class.clone(),
            ready: rows::number("a count", count(tx.one(ready, &[&class.as_str()]).await?)?)?,
            oldest: first.map(|row| Ok::<_, super::fault::Fault>(rows::time(row.integer("created_at")?)?)).transpose()?,
        });
    }
    Ok(queues)
}

/// Writes, so that a full disk or a server that only reads is noticed.
pub(super) async fn ping(tx: &Tx<'_>) -> Outcome<()> {
    match tx.execute("UPDATE meta SET value = (value::bigint + 1)::text WHERE key = 'ping'", &[]).await? {
        1 => Ok(()),
        _ => Err(corrupt("the row for pings is not there").into()),
    }
}

/// Puts rows of the same number together, so that a sum reads few. One daemon at a time.
pub(super) async fn put_together(tx: &Tx<'_>) -> Outcome<u64> {
    let sql = "WITH gone AS (DELETE FROM tallies WHERE ctid IN (SELECT ctid FROM tallies FOR UPDATE SKIP LOCKED) RETURNING kind, key, n) \
               INSERT INTO tallies (kind, key, n) SELECT kind, key, sum(n) FROM gone GROUP BY kind, key HAVING sum(n) <> 0";
    tx.execute(sql, &[]).await
}
