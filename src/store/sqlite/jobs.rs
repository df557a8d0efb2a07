//! Reading and writing jobs and their attempts.

use std::fmt::Write as _;

use rusqlite::{Connection, OptionalExtension as _, ToSql, named_params, params};

use super::fault::{Fault, Outcome};
use super::rows;
use crate::domain::{Attempt, GitLabJob, Job, JobId, JobState, RequirementId};
use crate::store::{JobFilter, MAX_OFFERS};

/// One job.
pub(super) fn find(connection: &Connection, id: &str) -> Outcome<Option<Job>> {
    let mut statement = connection.prepare_cached(&format!("{} WHERE j.id = ?1", rows::JOB))?;
    let found = statement.query_and_then([id], rows::job)?.next();
    found.transpose()
}

/// One job that another row says is there.
pub(super) fn expect(connection: &Connection, id: &str) -> Outcome<Job> {
    find(connection, id)?.ok_or_else(|| Fault::corrupt(format!("job {id} is not there")))
}

/// Stores a new job.
pub(super) fn insert(connection: &Connection, job: &Job, requirement: RequirementId, share: i64) -> Outcome<()> {
    let not_before = match &job.state {
        JobState::Queued { not_before } => not_before.map(rows::millis),
        JobState::Starting | JobState::Running | JobState::Ended { .. } => return Err(Fault::corrupt("a new job that does not wait")),
    };
    connection
        .prepare_cached(
            "INSERT INTO jobs (id, requirement_id, source, project, class, priority, spec, state, not_before, created_at, share, retry_of) \
             VALUES (:id, :requirement, :source, :project, :class, :priority, :spec, 'queued', :not_before, :created_at, :share, :retry_of)",
        )?
        .execute(named_params! {
            ":id": job.id.as_str(),
            ":requirement": requirement.0,
            ":source": job.spec.source.as_str(),
            ":project": job.spec.project.as_ref().map(crate::domain::ids::ProjectName::as_str),
            ":class": job.spec.requirement.class.as_str(),
            ":priority": job.spec.priority,
            ":spec": rows::json(&job.spec)?,
            ":not_before": not_before,
            ":created_at": rows::millis(job.created_at),
            ":share": share,
            ":retry_of": job.retry_of.as_ref().map(JobId::as_str),
        })?;
    Ok(())
}

/// Writes what can change of a job, its latest attempt included; one that has ended is forgotten as far as only the broker needs it.
pub(super) fn update(connection: &Connection, job: &Job) -> Outcome<()> {
    let (not_before, ended_at, outcome) = rows::state_columns(&job.state)?;
    connection
        .prepare_cached(
            "UPDATE jobs SET state = :state, not_before = :not_before, ended_at = :ended_at, outcome = :outcome, attempt = :attempt, \
             infrastructure_failures = :infrastructure, own_failures = :own, cancel_reason = :reason, cancel_at = :cancel_at, \
             image = :image WHERE id = :id",
        )?
        .execute(named_params! {
            ":id": job.id.as_str(),
            ":state": job.state.name(),
            ":not_before": not_before,
            ":ended_at": ended_at,
            ":outcome": outcome,
            ":attempt": job.attempt.as_ref().map_or(0, |attempt| attempt.number),
            ":infrastructure": job.infrastructure_failures,
            ":own": job.own_failures,
            ":reason": job.cancel.as_ref().map(|cancel| cancel.reason.as_str()),
            ":cancel_at": job.cancel.as_ref().map(|cancel| rows::millis(cancel.at)),
            ":image": job.image.as_ref().map(rows::json).transpose()?,
        })?;
    if let Some(attempt) = &job.attempt {
        save_attempt(connection, &job.id, attempt)?;
    }
    if job.has_ended() {
        connection
            .prepare_cached("UPDATE gitlab_jobs SET reference = NULL, token = NULL, payload = NULL WHERE job_id = ?1 AND token IS NOT NULL")?
            .execute([job.id.as_str()])?;
    }
    Ok(())
}

fn save_attempt(connection: &Connection, job: &JobId, attempt: &Attempt) -> Outcome<()> {
    let (ended_at, outcome) = rows::end_columns(attempt)?;
    connection
        .prepare_cached(
            "INSERT INTO attempts (job_id, number, runner_id, host, placement, started_at, ended_at, outcome) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT (job_id, number) DO UPDATE SET \
             placement = excluded.placement, started_at = excluded.started_at, ended_at = excluded.ended_at, outcome = excluded.outcome",
        )?
        .execute(params![
            job.as_str(),
            attempt.number,
            attempt.runner.as_str(),
            attempt.host.as_str(),
            rows::json(&attempt.placement)?,
            attempt.started_at.map(rows::millis),
            ended_at,
            outcome,
        ])?;
    Ok(())
}

/// All attempts, first to latest.
pub(super) fn attempts(connection: &Connection, job: &JobId) -> Outcome<Vec<Attempt>> {
    let mut statement = connection.prepare_cached(&format!("{} WHERE job_id = ?1 ORDER BY number", rows::ATTEMPT))?;
    let found = statement.query_and_then([job.as_str()], rows::attempt)?;
    found.collect()
}

pub(super) const LATEST_RETRY: &str = "SELECT id FROM jobs INDEXED BY jobs_by_retry WHERE retry_of = ?1 ORDER BY id DESC LIMIT 1";

/// The latest job that repeats the request of this one. Ids of jobs grow with time.
pub(super) fn latest_retry(connection: &Connection, job: &JobId) -> Outcome<Option<JobId>> {
    let mut statement = connection.prepare_cached(LATEST_RETRY)?;
    Ok(statement.query_row([job.as_str()], |row| row.get::<_, String>(0)).optional()?.map(JobId::from_trusted))
}

/// Jobs, newest first.
pub(super) fn list(connection: &Connection, filter: &JobFilter) -> Outcome<Vec<Job>> {
    let mut found = Vec::new();
    for state in filter.asked_states() {
        found.append(&mut page(connection, filter, state)?);
    }
    found.sort_unstable_by(|a, b| b.id.cmp(&a.id));
    found.truncate(filter.limit as usize);
    Ok(found)
}

fn page(connection: &Connection, filter: &JobFilter, state: Option<&str>) -> Outcome<Vec<Job>> {
    let project = filter.project.as_ref().map(crate::domain::ids::ProjectName::as_str);
    let class = filter.class.as_ref().map(crate::domain::ids::ClassName::as_str);
    let before = filter.before.as_ref().map(crate::domain::ids::JobId::as_str);
    let parts = [("j.project = ", project), ("j.class = ", class), ("j.state = ", state), ("j.id < ", before)];
    query_page(connection, rows::JOB, &parts, "j.id", filter.limit, rows::job)
}

/// One page of a list: only the conditions that are given are in the text, so that the planner finds their index.
pub(super) fn query_page<T>(
    connection: &Connection,
    select: &str,
    conditions: &[(&str, Option<&str>)],
    order: &str,
    limit: u32,
    read: fn(&rusqlite::Row<'_>) -> Outcome<T>,
) -> Outcome<Vec<T>> {
    let mut sql = select.to_owned();
    let mut values: Vec<&dyn ToSql> = Vec::new();
    for (condition, value) in conditions {
        if let Some(value) = value {
            sql.push_str(if values.is_empty() { " WHERE " } else { " AND " });
            sql.push_str(condition);
            sql.push('?');
            values.push(value);
        }
    }
    let _ = write!(sql, " ORDER BY {order} DESC LIMIT ?");
    values.push(&limit);
    let mut statement = connection.prepare_cached(&sql)?;
    let found = statement.query_and_then(values.as_slice(), read)?;
    found.collect()
}

/// Stores what the broker needs of a job.
pub(super) fn insert_gitlab(connection: &Connection, job: &JobId, gitlab: &GitLabJob) -> Outcome<()> {
    connection
        .prepare_cached("INSERT INTO gitlab_jobs (job_id, url, gitlab_id, reference, token, payload) VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?
        .execute(params![job.as_str(), gitlab.reference.url, gitlab_id(gitlab)?, rows::json(&gitlab.reference)?, gitlab.token, gitlab.payload])?;
    Ok(())
}

/// Stores a later offer of the same job: what the broker needs is what GitLab said last.
pub(super) fn renew_gitlab(connection: &Connection, job: &JobId, gitlab: &GitLabJob) -> Outcome<()> {
    connection.prepare_cached("UPDATE gitlab_jobs SET reference = ?2, token = ?3, payload = ?4 WHERE job_id = ?1")?.execute(params![
        job.as_str(),
        rows::json(&gitlab.reference)?,
        gitlab.token,
        gitlab.payload
    ])?;
    Ok(())
}

/// The newest job of ours that was made of a job of GitLab.
pub(super) fn of_gitlab(connection: &Connection, gitlab: &GitLabJob) -> Outcome<Option<JobId>> {
    Ok(seek_gitlab(connection, &gitlab.reference.url, gitlab_id(gitlab)?, 1)?.pop())
}

/// All of them by what an event says, newest first. No id that cannot be stored is ours.
pub(super) fn of_gitlab_id(connection: &Connection, url: &str, gitlab_id: u64) -> Outcome<Vec<JobId>> {
    let Ok(gitlab_id) = i64::try_from(gitlab_id) else { return Ok(Vec::new()) };
    seek_gitlab(connection, url, gitlab_id, MAX_OFFERS)
}

fn seek_gitlab(connection: &Connection, url: &str, gitlab_id: i64, most: u32) -> Outcome<Vec<JobId>> {
    // Ids of jobs grow with time.
    let mut statement = connection.prepare_cached(
        "SELECT job_id FROM gitlab_jobs INDEXED BY gitlab_jobs_by_id WHERE url = ?1 AND gitlab_id = ?2 ORDER BY job_id DESC LIMIT ?3",
    )?;
    let found = statement.query_map(params![url, gitlab_id, most], |row| row.get::<_, String>(0))?;
    Ok(found.map(|id| id.map(JobId::from_trusted)).collect::<Result<_, _>>()?)
}

fn gitlab_id(gitlab: &GitLabJob) -> Outcome<i64> {
    i64::try_from(gitlab.reference.job_id).map_err(|_| Fault::corrupt(format!("{} is no id of a job of GitLab", gitlab.reference.job_id)))
}

/// What the broker needs, until the job ends.
pub(super) fn gitlab(connection: &Connection, job: &JobId) -> Outcome<Option<GitLabJob>> {
    let mut statement = connection.prepare_cached("SELECT reference, token, payload FROM gitlab_jobs WHERE job_id = ?1")?;
    let row = statement.query_row([job.as_str()], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).optional()?;
    let (reference, token, payload): (Option<String>, Option<String>, Option<String>) = row.unwrap_or_default();
    match (reference, token, payload) {
        (Some(reference), Some(token), Some(payload)) => {
            Ok(Some(GitLabJob { reference: rows::from_json("a job's origin", &reference)?, token, payload }))
        }
        (None, None, None) => Ok(None),
        _ => Err(Fault::corrupt(format!("half of what the broker needs of job {job}"))),
    }
}
