//! Limits of single projects: what is configured, what each has, and which of its jobs have requirements of their own for it.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::{Connection, OptionalExtension as _, params};

use super::fault::Outcome;
use super::{queue, rows};
use crate::domain::{CapReached, InUse, ProjectCap, ProjectName, Requirement};

/// Puts the limits in place of those before, and moves the waiting jobs of projects that have one now and had none, or the other way.
pub(super) fn set(connection: &Connection, caps: &[ProjectCap]) -> Outcome<()> {
    let before = names(connection)?;
    connection.execute("DELETE FROM project_caps", [])?;
    for cap in caps {
        connection.prepare_cached("INSERT INTO project_caps (project, max_running, max_gpus) VALUES (?1, ?2, ?3)")?.execute(params![
            cap.project.as_str(),
            cap.max_running,
            cap.max_gpus
        ])?;
    }
    for project in before.symmetric_difference(&names(connection)?) {
        move_jobs(connection, project)?;
    }
    Ok(())
}

/// Gives the open jobs of a project the requirements that they would get now.
fn move_jobs(connection: &Connection, project: &str) -> Outcome<()> {
    let lane = lane(connection, project)?;
    let mut of_project = connection.prepare_cached(
        "SELECT DISTINCT r.id, r.spec FROM jobs j JOIN requirements r ON r.id = j.requirement_id \
         WHERE j.project = ?1 AND j.state IN ('queued', 'starting', 'running')",
    )?;
    let found = of_project.query_map([project], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?)))?;
    for (old, spec) in found.collect::<rusqlite::Result<Vec<_>>>()? {
        let requirement: Requirement = rows::from_json("a requirement", &spec)?;
        let new = queue::requirement_id(connection, &requirement, lane)?;
        connection
            .prepare_cached(
                "UPDATE jobs SET requirement_id = ?3 WHERE project = ?1 AND state IN ('queued', 'starting', 'running') AND requirement_id = ?2",
            )?
            .execute(params![project, old, new.0])?;
    }
    Ok(())
}

fn names(connection: &Connection) -> Outcome<BTreeSet<String>> {
    let mut statement = connection.prepare_cached("SELECT project FROM project_caps")?;
    Ok(statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?)
}

/// The `project` column of the requirements of a project's jobs: its name when it has limits, else empty.
pub(super) fn lane<'p>(connection: &Connection, project: &'p str) -> Outcome<&'p str> {
    let mut statement = connection.prepare_cached("SELECT 1 FROM project_caps WHERE project = ?1")?;
    Ok(if statement.exists([project])? { project } else { "" })
}

/// The limits and what is used of them, each read once however often it is asked about.
#[derive(Debug, Default)]
pub(super) struct Caps(BTreeMap<String, Option<(ProjectCap, InUse)>>);

impl Caps {
    /// What keeps a job of a requirement with this `project` column from starting.
    pub(super) fn reached(&mut self, connection: &Connection, project: &str, requirement: &Requirement) -> Outcome<Option<CapReached>> {
        if project.is_empty() {
            return Ok(None);
        }
        if !self.0.contains_key(project) {
            self.0.insert(project.to_owned(), read(connection, project)?);
        }
        Ok(self.0.get(project).and_then(Option::as_ref).and_then(|(cap, used)| cap.reached(*used, requirement.gpu_count())))
    }
}

pub(super) const USED: &str = "SELECT count(*), coalesce(sum(json_extract(r.spec, '$.gpus.count')), 0) \
     FROM jobs j INDEXED BY jobs_by_project JOIN requirements r ON r.id = j.requirement_id \
     WHERE j.project = ?1 AND j.state IN ('starting', 'running')";

fn read(connection: &Connection, project: &str) -> Outcome<Option<(ProjectCap, InUse)>> {
    let mut statement = connection.prepare_cached("SELECT max_running, max_gpus FROM project_caps WHERE project = ?1")?;
    let cap: Option<(Option<u32>, Option<u32>)> = statement.query_row([project], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    let Some((max_running, max_gpus)) = cap else { return Ok(None) };
    let mut statement = connection.prepare_cached(USED)?;
    let used = statement.query_row([project], |row| Ok(InUse { jobs: row.get(0)?, gpus: row.get(1)? }))?;
    Ok(Some((ProjectCap { project: ProjectName::from_trusted(project), max_running, max_gpus }, used)))
}
