//! Reading and writing jobs and their attempts.

use std::fmt::Write as _;

use tokio_postgres::types::ToSql;

use super::fault::Outcome;
use super::transaction::Tx;
use crate::domain::{Attempt, ClassName, GitLabJob, Job, JobId, JobState, ProjectName, RequirementId};
use crate::store::rows::{self, Row as _, corrupt};
use crate::store::{JobFilter, MAX_OFFERS};

/// One job.
pub(super) async fn find(tx: &Tx<'_>, id: &str) -> Outcome<Option<Job>> {
    tx.one(&format!("{} WHERE j.id = $1", rows::JOB), &[&id]).await?.as_ref().map(rows::job).transpose()
}

/// The same, and nobody else changes it before this transaction ends.
pub(super) async fn lock(tx: &Tx<'_>, id: &str) -> Outcome<Option<Job>> {
    // First the lock, then the reading: what is joined to a row that was waited for is of before.
    match tx.one("SELECT 1 AS one FROM jobs WHERE id = $1 FOR UPDATE", &[&id]).await? {
        Some(_) => find(tx, id).await,
        None => Ok(None),
    }
}

/// One job that another row says is there.
pub(super) async fn expect(tx: &Tx<'_>, id: &str) -> Outcome<Job> {
    there(find(tx, id).await?, id)
}

/// The same, locked.
pub(super) async fn expect_locked(tx: &Tx<'_>, id: &str) -> Outcome<Job> {
    there(lock(tx, id).await?, id)
}

fn there(job: Option<Job>, id: &str) -> Outcome<Job> {
    job.ok_or_else(|| corrupt(format!("job {id} is not there")).into())
}

/// Stores a new job.
pub(super) async fn insert(tx: &Tx<'_>, job: &Job, requirement: RequirementId, share: i64) -> Outcome<()> {
    let not_before = match &job.state {
        JobState::Queued { not_before } => not_before.map(rows::millis),
        JobState::Starting | JobState::Running | JobState::Ended { .. } => return Err(corrupt("a new job that does not wait").into()),
    };
    let sql = "INSERT INTO jobs (id, requirement_id, source, project, class, priority, spec, state, not_before, created_at, share, retry_of) \
               VALUES ($1, $2, $3, $4, $5, $6, $7, 'queued', $8, $9, $10, $11)";
    tx.execute(
        sql,
        &[
            &job.id.as_str(),
            &requirement.0,
            &job.spec.source.as_str(),
            &job.spec.project.as_ref().map(ProjectName::as_str),
            &job.spec.requirement.class.as_str(),
            &i64::from(job.spec.priority),
            &rows::json(&job.spec)?,
            &not_before,
            &rows::millis(job.created_at),
            &share,
            &job.retry_of.as_ref().map(JobId::as_str),
        ],
    )
    .await?;
    Ok(())
}

/// Writes what can change of a job, its latest attempt included; one that has ended is forgotten as far as only the broker needs it.
pub(super) async fn update(tx: &Tx<'_>, job: &Job) -> Outcome<()> {
    let (not_before, ended_at, outcome) = rows::state_columns(&job.state)?;
    let sql = "UPDATE jobs SET state = $2, not_before = $3, ended_at = $4, outcome = $5, attempt = $6, infrastructure_failures = $7, \
               own_failures = $8, cancel_reason = $9, cancel_at = $10, image = $11 WHERE id = $1";
    tx.execute(
        sql,
        &[
            &job.id.as_str(),
            &job.state.name(),
            &not_before,
            &ended_at,
            &outcome,
            &job.attempt.as_ref().map_or(0, |attempt| i64::from(attempt.number)),
            &i64::from(job.infrastructure_failures),
            &i64::from(job.own_failures),
            &job.cancel.as_ref().map(|cancel| cancel.reason.as_str()),
            &job.cancel.as_ref().map(|cancel| rows::millis(cancel.at)),
            &job.image.as_ref().map(rows::json).transpose()?,
        ],
    )
    .await?;
    if let Some(attempt) = &job.attempt {
        save_attempt(tx, &job.id, attempt).await?;
    }
    if job.has_ended() {
        let sql = "UPDATE gitlab_jobs SET reference = NULL, token = NULL, payload = NULL WHERE job_id = $1 AND token IS NOT NULL";
        tx.execute(sql, &[&job.id.as_str()]).await?;
    }
    Ok(())
}

async fn save_attempt(tx: &Tx<'_>, job: &JobId, attempt: &Attempt) -> Outcome<()> {
    let (ended_at, outcome) = rows::end_columns(attempt)?;
    let sql = "INSERT INTO attempts (job_id, number, runner_id, host, placement, started_at, ended_at, outcome) \
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (job_id, number) DO UPDATE SET \
               placement = excluded.placement, started_at = excluded.started_at, ended_at = excluded.ended_at, outcome = excluded.outcome";
    tx.execute(
        sql,
        &[
            &job.as_str(),
            &i64::from(attempt.number),
            &attempt.runner.as_str(),
            &attempt.host.as_str(),
            &rows::json(&attempt.placement)?,
            &attempt.started_at.map(rows::millis),
            &ended_at,
            &outcome,
        ],
    )
    .await?;
    Ok(())
}

/// All attempts of a job.
pub(super) async fn attempts(tx: &Tx<'_>, job: &JobId) -> Outcome<Vec<Attempt>> {
    let found = tx.all(&format!("{} WHERE job_id = $1 ORDER BY number", rows::ATTEMPT), &[&job.as_str()]).await?;
    found.iter().map(rows::attempt).collect()
}

/// The latest job that repeats the request of this one. Ids of jobs grow with time.
pub(super) async fn latest_retry(tx: &Tx<'_>, job: &JobId) -> Outcome<Option<JobId>> {
    let found = tx.one("SELECT id FROM jobs WHERE retry_of = $1 ORDER BY id DESC LIMIT 1", &[&job.as_str()]).await?;
    found.map(|row| Ok(JobId::from_trusted(row.text("id")?))).transpose()
}

/// Jobs, newest first.
pub(super) async fn list(tx: &Tx<'_>, filter: &JobFilter) -> Outcome<Vec<Job>> {
    let mut found = Vec::new();
    for state in filter.asked_states() {
        let project = filter.project.as_ref().map(ProjectName::as_str);
        let class = filter.class.as_ref().map(ClassName::as_str);
        let before = filter.before.as_ref().map(JobId::as_str);
        let parts = [("j.project = ", project), ("j.class = ", class), ("j.state = ", state), ("j.id < ", before)];
        for row in page(tx, rows::JOB, &parts, "j.id", filter.limit).await? {
            found.push(rows::job(&row)?);
        }
    }
    found.sort_unstable_by(|a, b| b.id.cmp(&a.id));
    found.truncate(filter.limit as usize);
    Ok(found)
}

/// One page of a list: only the conditions that are given are in the text, so that the planner finds their index.
pub(super) async fn page(
    tx: &Tx<'_>,
    select: &str,
    conditions: &[(&str, Option<&str>)],
    order: &str,
    limit: u32,
) -> Outcome<Vec<tokio_postgres::Row>> {
    let limit = i64::from(limit);
    let mut sql = select.to_owned();
    let mut values: Vec<&(dyn ToSql + Sync)> = Vec::new();
    for (condition, value) in conditions {
        if let Some(value) = value {
            sql.push_str(if values.is_empty() { " WHERE " } else { " AND " });
            values.push(value);
            let _ = write!(sql, "{condition}${}", values.len());
        }
    }
    values.push(&limit);
    let _ = write!(sql, " ORDER BY {order} DESC LIMIT ${}", values.len());
    tx.all(&sql, &values).await
}

/// Stores what the broker needs of a job.
pub(super) async fn insert_gitlab(tx: &Tx<'_>, job: &JobId, gitlab: &GitLabJob) -> Outcome<()> {
    let sql = "INSERT INTO gitlab_jobs (job_id, url, gitlab_id, reference, token, payload) VALUES ($1, $2, $3, $4, $5, $6)";
    let reference = rows::json(&gitlab.reference)?;
    tx.execute(sql, &[&job.as_str(), &gitlab.reference.url, &gitlab_id(gitlab)?, &reference, &gitlab.token, &gitlab.payload]).await?;
    Ok(())
}

/// Stores a later offer of the same job: what the broker needs is what GitLab said last.
pub(super) async fn renew_gitlab(tx: &Tx<'_>, job: &JobId, gitlab: &GitLabJob) -> Outcome<()> {
    let sql = "UPDATE gitlab_jobs SET reference = $2, token = $3, payload = $4 WHERE job_id = $1";
    tx.execute(sql, &[&job.as_str(), &rows::json(&gitlab.reference)?, &gitlab.token, &gitlab.payload]).await?;
    Ok(())
}

/// The newest job of ours that was made of a job of GitLab.
pub(super) async fn of_gitlab(tx: &Tx<'_>, gitlab: &GitLabJob) -> Outcome<Option<JobId>> {
    Ok(seek_gitlab(tx, &gitlab.reference.url, gitlab_id(gitlab)?, 1).await?.pop())
}

/// All of them by what an event says, newest first. No id that cannot be stored is ours.
pub(super) async fn of_gitlab_id(tx: &Tx<'_>, url: &str, gitlab_id: u64) -> Outcome<Vec<JobId>> {
    match i64::try_from(gitlab_id) {
        Ok(gitlab_id) => seek_gitlab(tx, url, gitlab_id, MAX_OFFERS).await,
        Err(_) => Ok(Vec::new()),
    }
}

async fn seek_gitlab(tx: &Tx<'_>, url: &str, gitlab_id: i64, most: u32) -> Outcome<Vec<JobId>> {
    let sql = "SELECT job_id FROM gitlab_jobs WHERE url = $1 AND gitlab_id = $2 ORDER BY job_id DESC LIMIT $3";
    let found = tx.all(sql, &[&url, &gitlab_id, &i64::from(most)]).await?;
    found.iter().map(|row| Ok(JobId::from_trusted(row.text("job_id")?))).collect()
}

fn gitlab_id(gitlab: &GitLabJob) -> Outcome<i64> {
    Ok(i64::try_from(gitlab.reference.job_id).map_err(|_| corrupt(format!("{} is no id of a job of GitLab", gitlab.reference.job_id)))?)
}

/// What the broker needs, until the job ends.
pub(super) async fn gitlab(tx: &Tx<'_>, job: &JobId) -> Outcome<Option<GitLabJob>> {
    let Some(row) = tx.one("SELECT reference, token, payload FROM gitlab_jobs WHERE job_id = $1", &[&job.as_str()]).await? else {
        return Ok(None);
    };
    match (row.maybe_text("reference")?, row.maybe_text("token")?, row.maybe_text("payload")?) {
        (Some(reference), Some(token), Some(payload)) => {
            Ok(Some(GitLabJob { reference: rows::from_json("a job's origin", &reference)?, token, payload }))
        }
        (None, None, None) => Ok(None),
        _ => Err(corrupt(format!("half of what the broker needs of job {job}")).into()),
    }
}
