//! Limits of single projects: what is configured, what each has, and which of its jobs have requirements of their own for it.

use std::collections::{BTreeMap, BTreeSet};

use super::fault::Outcome;
use super::locks::{self, Lock};
use super::queue;
use super::transaction::Tx;
use crate::domain::{CapReached, InUse, ProjectCap, ProjectName, Requirement};
use crate::store::rows::{self, Row as _, corrupt};

/// Puts the limits in place of those before, and moves the waiting jobs of projects that have one now and had none, or the other way.
pub(super) async fn set(tx: &Tx<'_>, caps: &[ProjectCap]) -> Outcome<()> {
    locks::take(tx, Lock::Submitting).await?;
    let before = names(tx).await?;
    let now: BTreeSet<String> = caps.iter().map(|cap| cap.project.as_str().to_owned()).collect();
    let left: Vec<&str> = before.difference(&now).map(String::as_str).collect();
    tx.execute("DELETE FROM project_caps WHERE project = ANY($1)", &[&left]).await?;
    for cap in caps {
        let sql = "INSERT INTO project_caps (project, max_running, max_gpus) VALUES ($1, $2, $3) ON CONFLICT (project) DO UPDATE \
                   SET max_running = excluded.max_running, max_gpus = excluded.max_gpus \
                   WHERE (project_caps.max_running, project_caps.max_gpus) IS DISTINCT FROM (excluded.max_running, excluded.max_gpus)";
        tx.execute(sql, &[&cap.project.as_str(), &cap.max_running.map(i64::from), &cap.max_gpus.map(i64::from)]).await?;
    }
    for project in before.symmetric_difference(&now) {
        move_jobs(tx, project).await?;
    }
    Ok(())
}

/// Gives the open jobs of a project the requirements that they would get now.
async fn move_jobs(tx: &Tx<'_>, project: &str) -> Outcome<()> {
    let lane = lane(tx, project).await?;
    let sql = "SELECT DISTINCT r.id, r.spec FROM jobs j JOIN requirements r ON r.id = j.requirement_id \
               WHERE j.project = $1 AND j.state IN ('queued', 'starting', 'running')";
    for row in tx.all(sql, &[&project]).await? {
        let requirement: Requirement = rows::from_json("a requirement", &row.text("spec")?)?;
        let new = queue::requirement_id(tx, &requirement, lane).await?;
        let sql = "UPDATE jobs SET requirement_id = $3 WHERE project = $1 AND state IN ('queued', 'starting', 'running') AND requirement_id = $2";
        tx.execute(sql, &[&project, &row.integer("id")?, &new.0]).await?;
    }
    Ok(())
}

async fn names(tx: &Tx<'_>) -> Outcome<BTreeSet<String>> {
    tx.all("SELECT project FROM project_caps", &[]).await?.iter().map(|row| row.text("project")).collect()
}

/// The `project` column of the requirements of a project's jobs: its name when it has limits, else empty.
pub(super) async fn lane<'p>(tx: &Tx<'_>, project: &'p str) -> Outcome<&'p str> {
    let known = tx.one("SELECT 1 AS one FROM project_caps WHERE project = $1", &[&project]).await?;
    Ok(if known.is_some() { project } else { "" })
}

/// The limits and what is used of them, each read once however often it is asked about.
#[derive(Debug, Default)]
pub(super) struct Caps(BTreeMap<String, Option<(ProjectCap, InUse)>>);

impl Caps {
    /// What keeps a job with so many GPUs of a requirement with this `project` column from starting.
    pub(super) async fn reached(&mut self, tx: &Tx<'_>, project: &str, gpus: u32) -> Outcome<Option<CapReached>> {
        if project.is_empty() {
            return Ok(None);
        }
        if !self.0.contains_key(project) {
            self.0.insert(project.to_owned(), read(tx, project).await?);
        }
        Ok(self.0.get(project).and_then(Option::as_ref).and_then(|(cap, used)| cap.reached(*used, gpus)))
    }
}

async fn read(tx: &Tx<'_>, project: &str) -> Outcome<Option<(ProjectCap, InUse)>> {
    let Some(cap) = tx.one("SELECT max_running, max_gpus FROM project_caps WHERE project = $1", &[&project]).await? else { return Ok(None) };
    let most = |column: &str| Ok::<_, super::fault::Fault>(cap.maybe_integer(column)?.map(|most| rows::number("a limit", most)).transpose()?);
    let cap = ProjectCap { project: ProjectName::from_trusted(project), max_running: most("max_running")?, max_gpus: most("max_gpus")? };
    let sql = "SELECT count(*) AS jobs, coalesce(sum(r.gpus), 0)::bigint AS gpus FROM jobs j JOIN requirements r ON r.id = j.requirement_id \
               WHERE j.project = $1 AND j.state IN ('starting', 'running')";
    let used = tx.one(sql, &[&project]).await?.ok_or_else(|| corrupt("no count"))?;
    let used = InUse { jobs: rows::number("a count", used.integer("jobs")?)?, gpus: rows::number("a count", used.integer("gpus")?)? };
    Ok(Some((cap, used)))
}
