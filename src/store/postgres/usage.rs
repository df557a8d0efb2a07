//! What attempts used of their GPUs, and the sums by project.

use std::collections::BTreeMap;

use jiff::Timestamp;
use tokio_postgres::Row;

use super::fault::Outcome;
use super::transaction::Tx;
use crate::domain::{Attempt, GpuUsage, Job, JobId, ProjectName, ProjectUsage};
use crate::store::rows::{self, Row as _};
use crate::store::rules::{Spent, hour};

/// Writes what attempts used so far, in place of what was known; of one that has ended nothing changes any more.
pub(super) async fn write(tx: &Tx<'_>, usage: &[(JobId, u32, GpuUsage)]) -> Outcome<()> {
    let sql = "INSERT INTO gpu_usage (job_id, attempt, usage) SELECT job_id, number, $3 FROM attempts WHERE job_id = $1 AND number = $2 AND ended_at IS NULL \
               FOR UPDATE ON CONFLICT (job_id, attempt) DO UPDATE SET usage = excluded.usage";
    for (job, attempt, usage) in usage {
        tx.execute(sql, &[&job.as_str(), &i64::from(*attempt), &rows::json(usage)?]).await?;
    }
    Ok(())
}

/// What each attempt of a job used.
pub(super) async fn of_job(tx: &Tx<'_>, job: &JobId) -> Outcome<BTreeMap<u32, GpuUsage>> {
    let read = |row: &Row| Ok((rows::number("an attempt", row.integer("attempt")?)?, rows::from_json("what a job used", &row.text("usage")?)?));
    tx.all("SELECT attempt, usage FROM gpu_usage WHERE job_id = $1", &[&job.as_str()]).await?.iter().map(read).collect()
}

/// Adds an attempt that has just ended to its project's sums; to be called in the commit of its end.
pub(super) async fn ended(tx: &Tx<'_>, job: &Job, attempt: &Attempt, at: Timestamp) -> Outcome<()> {
    if attempt.placement.devices.is_empty() {
        return Ok(());
    }
    let project = job.spec.project.as_ref().map_or("", ProjectName::as_str);
    let known = tx.one("SELECT usage FROM gpu_usage WHERE job_id = $1 AND attempt = $2", &[&job.id.as_str(), &i64::from(attempt.number)]).await?;
    let usage: Option<GpuUsage> = match known {
        Some(row) => Some(rows::from_json("what a job used", &row.text("usage")?)?),
        None => None,
    };
    let Spent { millis, energy } = Spent::by(attempt, usage.as_ref(), at);
    let sql = "INSERT INTO project_usage AS p (project, attempts, gpu_millis, energy, last_at) VALUES ($1, 1, $2, $3, $4) ON CONFLICT (project) DO UPDATE SET \
               attempts = p.attempts + 1, gpu_millis = p.gpu_millis + excluded.gpu_millis, energy = p.energy + excluded.energy, \
               last_at = greatest(p.last_at, excluded.last_at)";
    tx.execute(sql, &[&project, &millis, &energy, &rows::millis(at)]).await?;
    let hour = hour(at);
    let sql = "INSERT INTO project_usage_hours AS p (hour, project, gpu_millis) VALUES ($1, $2, $3) \
               ON CONFLICT (hour, project) DO UPDATE SET gpu_millis = p.gpu_millis + excluded.gpu_millis";
    tx.execute(sql, &[&hour, &project, &millis]).await?;
    tx.execute("DELETE FROM project_usage_hours WHERE hour <= $1", &[&(hour - 24)]).await?;
    Ok(())
}

/// The projects that used most.
pub(super) async fn most(tx: &Tx<'_>, now: Timestamp, most: u32) -> Outcome<Vec<ProjectUsage>> {
    let hour = hour(now);
    let sql = "SELECT project, attempts, gpu_millis, energy, \
               (SELECT coalesce(sum(h.gpu_millis), 0)::bigint FROM project_usage_hours h WHERE h.project = p.project AND h.hour BETWEEN $1 AND $2) AS of_day \
               FROM project_usage p ORDER BY gpu_millis DESC LIMIT $3";
    let read = |row: &Row| {
        Ok(ProjectUsage {
            project: Some(row.text("project")?).filter(|project| !project.is_empty()).map(ProjectName::from_trusted),
            attempts: rows::number("a count", row.integer("attempts")?)?,
            gpu_millis: rows::number("GPU time", row.integer("gpu_millis")?)?,
            energy_millijoules: rows::number("energy", row.integer("energy")?)?,
            gpu_millis_of_day: rows::number("GPU time", row.integer("of_day")?)?,
        })
    };
    tx.all(sql, &[&(hour - 23), &hour, &i64::from(most)]).await?.iter().map(read).collect()
}
