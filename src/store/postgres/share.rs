//! Fair share between projects, as [`crate::store::sqlite`] has it: start-time fair queueing (Goyal, Vin and Cheng, 1996), one queue per priority.

use super::fault::Outcome;
use super::transaction::Tx;
use crate::domain::{Job, ProjectName};
use crate::store::rows::{Row as _, corrupt};
use crate::store::rules::SHARE_COST;

/// The start tag of a new job. `waiting` is how many jobs wait for its project: with none, what it was promised and then cancelled is forgotten.
/// To be called while no other job is taken in.
pub(super) async fn promise(tx: &Tx<'_>, job: &Job, weight: u32, waiting: i64) -> Outcome<i64> {
    let (priority, project) = (i64::from(job.spec.priority), project(job));
    let cost = SHARE_COST / i64::from(weight.max(1));
    let sql = "SELECT greatest(coalesce((SELECT at FROM share_times WHERE priority = $1), 0), \
               coalesce((SELECT CASE WHEN $3 THEN served ELSE promised END FROM shares WHERE priority = $1 AND project = $2), 0)) AS start";
    let start = tx.one(sql, &[&priority, &project, &(waiting == 0)]).await?.ok_or_else(|| corrupt("no start tag"))?.integer("start")?;
    let sql = "INSERT INTO shares (priority, project, promised, served, cost) VALUES ($1, $2, $3, 0, $4) \
               ON CONFLICT (priority, project) DO UPDATE SET promised = excluded.promised, cost = excluded.cost";
    tx.execute(sql, &[&priority, &project, &(start + cost), &cost]).await?;
    Ok(start)
}

/// Notes that a job was claimed: the time of its queue moves to its tag, and projects that it overtakes need no memory any more. In a transaction
/// of its own after the claim's, because all claims meet in these rows: were it lost, one project would have one turn more.
pub(super) async fn serve(tx: &Tx<'_>, job: &Job, tag: i64) -> Outcome<()> {
    let (priority, project) = (i64::from(job.spec.priority), project(job));
    // Nobody waits for the disk while he holds them.
    tx.one("SELECT set_config('synchronous_commit', 'off', true) AS off", &[]).await?;
    let sql = "INSERT INTO share_times (priority, at) VALUES ($1, $2) ON CONFLICT (priority) DO UPDATE SET at = excluded.at WHERE share_times.at < excluded.at";
    tx.execute(sql, &[&priority, &tag]).await?;
    tx.execute("UPDATE shares SET served = greatest(served, $3 + cost) WHERE priority = $1 AND project = $2", &[&priority, &project, &tag]).await?;
    let sql = "DELETE FROM shares WHERE (priority, project) IN (SELECT priority, project FROM shares WHERE priority = $1 AND promised <= $2 FOR UPDATE SKIP LOCKED)";
    tx.execute(sql, &[&priority, &tag]).await?;
    Ok(())
}

fn project(job: &Job) -> &str {
    job.spec.project.as_ref().map_or("", ProjectName::as_str)
}
