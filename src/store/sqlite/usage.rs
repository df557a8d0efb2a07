//! What attempts used of their GPUs, and the sums by project.

use std::collections::BTreeMap;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::fault::{Fault, Outcome};
use super::rows;
use crate::domain::{Attempt, GpuUsage, Job, JobId, ProjectName, ProjectUsage};
use crate::store::rules::{Spent, hour};

/// Writes what attempts used so far, in place of what was known; of one that has ended nothing changes any more.
pub(super) fn write(connection: &Connection, usage: &[(JobId, u32, GpuUsage)]) -> Outcome<()> {
    let mut statement = connection.prepare_cached(
        "INSERT INTO gpu_usage (job_id, attempt, usage) SELECT job_id, number, ?3 FROM attempts WHERE job_id = ?1 AND number = ?2 AND ended_at IS NULL \
         ON CONFLICT (job_id, attempt) DO UPDATE SET usage = excluded.usage",
    )?;
    for (job, attempt, usage) in usage {
        statement.execute(params![job.as_str(), attempt, rows::json(usage)?])?;
    }
    Ok(())
}

/// What each attempt of a job used.
pub(super) fn of_job(connection: &Connection, job: &JobId) -> Outcome<BTreeMap<u32, GpuUsage>> {
    let mut statement = connection.prepare_cached("SELECT attempt, usage FROM gpu_usage WHERE job_id = ?1")?;
    let read = |row: &rusqlite::Row<'_>| Ok::<_, Fault>((row.get(0)?, rows::from_json("what a job used", &row.get::<_, String>(1)?)?));
    statement.query_and_then([job.as_str()], read)?.collect()
}

/// Adds an attempt that has just ended to its project's sums; to be called in the commit of its end.
pub(super) fn ended(connection: &Connection, job: &Job, attempt: &Attempt, at: Timestamp) -> Outcome<()> {
    if attempt.placement.devices.is_empty() {
        return Ok(());
    }
    let project = job.spec.project.as_ref().map_or("", ProjectName::as_str);
    let mut known = connection.prepare_cached("SELECT usage FROM gpu_usage WHERE job_id = ?1 AND attempt = ?2")?;
    let known: Option<String> = known.query_row(params![job.id.as_str(), attempt.number], |row| row.get(0)).optional()?;
    let usage: Option<GpuUsage> = known.map(|text| rows::from_json("what a job used", &text)).transpose()?;
    let Spent { millis, energy } = Spent::by(attempt, usage.as_ref(), at);
    connection
        .prepare_cached(
            "INSERT INTO project_usage (project, attempts, gpu_millis, energy, last_at) VALUES (?1, 1, ?2, ?3, ?4) ON CONFLICT (project) DO UPDATE SET \
             attempts = attempts + 1, gpu_millis = gpu_millis + excluded.gpu_millis, energy = energy + excluded.energy, last_at = max(last_at, excluded.last_at)",
        )?
        .execute(params![project, millis, energy, rows::millis(at)])?;
    let hour = hour(at);
    connection
        .prepare_cached(
            "INSERT INTO project_usage_hours (hour, project, gpu_millis) VALUES (?1, ?2, ?3) \
             ON CONFLICT (hour, project) DO UPDATE SET gpu_millis = gpu_millis + excluded.gpu_millis",
        )?
        .execute(params![hour, project, millis])?;
    connection.prepare_cached("DELETE FROM project_usage_hours WHERE hour <= ?1")?.execute([hour - 24])?;
    Ok(())
}

pub(super) const MOST: &str = "SELECT project, attempts, gpu_millis, energy, \
     (SELECT coalesce(sum(h.gpu_millis), 0) FROM project_usage_hours h WHERE h.project = p.project AND h.hour BETWEEN ?1 AND ?2) \
     FROM project_usage p ORDER BY gpu_millis DESC LIMIT ?3";

/// The projects that used most.
pub(super) fn most(connection: &Connection, now: Timestamp, most: u32) -> Outcome<Vec<ProjectUsage>> {
    let hour = hour(now);
    let mut statement = connection.prepare_cached(MOST)?;
    let read = |row: &rusqlite::Row<'_>| {
        let project: String = row.get(0)?;
        Ok::<_, Fault>(ProjectUsage {
            project: Some(project).filter(|project| !project.is_empty()).map(ProjectName::from_trusted),
            attempts: rows::number("a count", row.get(1)?)?,
            gpu_millis: rows::number("GPU time", row.get(2)?)?,
            energy_millijoules: rows::number("energy", row.get(3)?)?,
            gpu_millis_of_day: rows::number("GPU time", row.get(4)?)?,
        })
    };
    statement.query_and_then(params![hour - 23, hour, most], read)?.collect()
}
