//! Who gets which job.
//!
//! A claim locks one row: the head of the best requirement that nobody else is taking at this moment, in one statement, so any number of daemons
//! claim at once and none waits for another. Only where projects have limits do those take turns who would start a job of the same project.

use jiff::Timestamp;

use super::caps::Caps;
use super::fault::Outcome;
use super::lease::Lease;
use super::transaction::Tx;
use super::{history, jobs, locks, runners};
use crate::domain::{Aggregate, EventKind, Requirement, RequirementId, RunnerId, Start};
use crate::store::Candidate;
use crate::store::rows::{self, Row as _, corrupt};

/// A job that was bound, and its start tag in the fair share.
#[derive(Debug)]
pub(super) struct Bound {
    /// The runner and its job.
    pub(super) aggregate: Aggregate,
    /// The tag.
    pub(super) share: i64,
}

/// Claims the best waiting job of all candidates for its candidate's runner.
pub(super) async fn claim(tx: &Tx<'_>, lease: &Lease, candidates: &[Candidate], at: Timestamp) -> Outcome<Option<Bound>> {
    let ids: Vec<i64> = candidates.iter().map(|candidate| candidate.requirement.0).collect();
    let open = without_capped(tx, ids).await?;
    let Some(head) = head(tx, open, Source::Any).await? else { return Ok(None) };
    lease.check(tx).await?;
    let candidate = candidates.iter().find(|candidate| candidate.requirement == head.requirement);
    let candidate = candidate.ok_or_else(|| corrupt("a requirement that was not asked for"))?;
    let (aggregate, event) = Aggregate::bind(candidate.runner.clone(), jobs::expect(tx, &head.job).await?, at)?;
    save(tx, &aggregate, &event, at, runners::Save::Insert).await?;
    Ok(Some(Bound { aggregate, share: head.share }))
}

/// Gives the best waiting job of GitLab of the runner's class that a waiting runner may take to the runner.
pub(super) async fn assign(tx: &Tx<'_>, lease: &Lease, runner: &RunnerId, at: Timestamp) -> Outcome<Option<Bound>> {
    let runner = runners::lock(tx, runner).await?;
    let mut ids = Vec::new();
    let sql = "SELECT id, spec FROM requirements WHERE class = $1 AND EXISTS (SELECT 1 FROM jobs j WHERE j.requirement_id = requirements.id \
               AND j.state = 'queued' AND j.not_before IS NULL AND j.source = 'gitlab')";
    for row in tx.all(sql, &[&runner.class.as_str()]).await? {
        let requirement: Requirement = rows::from_json("a requirement", &row.text("spec")?)?;
        match requirement.start {
            Start::Any => ids.push(row.integer("id")?),
            Start::Fresh => {}
        }
    }
    let open = without_capped(tx, ids).await?;
    let Some(head) = head(tx, open, Source::GitLab).await? else { return Ok(None) };
    lease.check(tx).await?;
    let (aggregate, event) = Aggregate::bind(runner, jobs::expect(tx, &head.job).await?, at)?;
    save(tx, &aggregate, &event, at, runners::Save::Update).await?;
    Ok(Some(Bound { aggregate, share: head.share }))
}

/// Which jobs of a requirement to look at.
#[derive(Debug, Clone, Copy)]
enum Source {
    Any,
    GitLab,
}

/// A waiting job that this transaction has to itself.
#[derive(Debug)]
struct Head {
    requirement: RequirementId,
    job: String,
    share: i64,
}

/// Locks the first job of the requirement with the best head. What others hold is passed over; a requirement of which they hold everything that
/// waits is left to them, and the next best is looked at.
async fn head(tx: &Tx<'_>, mut requirements: Vec<i64>, source: Source) -> Outcome<Option<Head>> {
    let of = match source {
        Source::Any => "",
        Source::GitLab => " AND j.source = 'gitlab'",
    };
    let heads = format!(
        "SELECT r.id FROM unnest($1::bigint[]) AS r (id) CROSS JOIN LATERAL (SELECT j.priority, j.share, j.order_key FROM jobs j \
         WHERE j.requirement_id = r.id AND j.state = 'queued' AND j.not_before IS NULL{of} ORDER BY j.priority DESC, j.share, j.order_key LIMIT 1) AS h \
         ORDER BY h.priority DESC, h.share, h.order_key LIMIT 1"
    );
    let sql = format!(
        "WITH best AS MATERIALIZED ({heads}) SELECT best.id AS best, j.id, j.share FROM best LEFT JOIN LATERAL (SELECT j.id, j.share FROM jobs j \
         WHERE j.requirement_id = best.id AND j.state = 'queued' AND j.not_before IS NULL{of} ORDER BY j.priority DESC, j.share, j.order_key \
         LIMIT 1 FOR UPDATE SKIP LOCKED) AS j ON true"
    );
    while !requirements.is_empty() {
        let Some(row) = tx.one(&sql, &[&requirements]).await? else { return Ok(None) };
        let best = row.integer("best")?;
        if let Some(job) = row.maybe_text("id")? {
            return Ok(Some(Head { requirement: RequirementId(best), job, share: row.integer("share")? }));
        }
        requirements.retain(|id| *id != best);
    }
    Ok(None)
}

/// The requirements without those whose project's limits keep their jobs from starting. Of a project with limits only one at a time counts what it
/// has, until its job is bound.
async fn without_capped(tx: &Tx<'_>, requirements: Vec<i64>) -> Outcome<Vec<i64>> {
    let sql = "SELECT id, project, gpus FROM requirements WHERE id = ANY($1) AND project <> ''";
    let lanes = tx.all(sql, &[&requirements]).await?;
    if lanes.is_empty() {
        return Ok(requirements);
    }
    locks::take_projects(tx, lanes.iter().map(|row| row.text("project")).collect::<Outcome<_>>()?).await?;
    let (mut caps, mut capped) = (Caps::default(), Vec::new());
    for row in &lanes {
        let gpus = rows::number("a count of GPUs", row.integer("gpus")?)?;
        if caps.reached(tx, &row.text("project")?, gpus).await?.is_some() {
            capped.push(row.integer("id")?);
        }
    }
    Ok(requirements.into_iter().filter(|id| !capped.contains(id)).collect())
}

async fn save(tx: &Tx<'_>, bound: &Aggregate, event: &EventKind, at: Timestamp, how: runners::Save) -> Outcome<()> {
    if let Some(job) = &bound.job {
        jobs::update(tx, job).await?;
    }
    runners::save(tx, &bound.runner, how).await?;
    history::add(tx, &history::About::Runner(&bound.runner), event, at).await
}
