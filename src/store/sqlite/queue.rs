//! The queue: what comes in, what waits, and who gets it. Nothing here reads more of the queue than its heads.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::caps::Caps;
use super::fault::{Fault, Outcome};
use super::{caps, deliveries, history, jobs, rows, runners, share};
use crate::domain::{Aggregate, EventKind, JobId, Requirement, RequirementId, Runner, RunnerId, Start};
use crate::store::rules::requirement_key;
use crate::store::{Candidate, IdempotencyKey, NewJob, Submission, Waiting};

/// Takes a job in, or tells why not.
pub(super) fn submit(connection: &Connection, new: &NewJob) -> Outcome<Submission> {
    if let Some(earlier) = earlier(connection, new)? {
        return Ok(earlier);
    }
    let project = new.job.spec.project.as_ref().map_or("", |project| project.as_str());
    let mut statement = connection.prepare_cached("SELECT jobs FROM queue_lengths WHERE project = ?1")?;
    let waiting: i64 = statement.query_row([project], |row| row.get(0)).optional()?.unwrap_or(0);
    if waiting >= i64::from(new.queue_limit) {
        return Ok(Submission::QueueFull { limit: new.queue_limit });
    }
    let mut statement = connection.prepare_cached("SELECT jobs FROM job_counts WHERE state = 'queued'")?;
    let all: i64 = statement.query_row([], |row| row.get(0)).optional()?.unwrap_or(0);
    if all >= i64::from(new.whole_queue_limit) {
        return Ok(Submission::WholeQueueFull { limit: new.whole_queue_limit });
    }
    let requirement = requirement_id(connection, &new.job.spec.requirement, caps::lane(connection, project)?)?;
    let share = share::promise(connection, &new.job, new.weight, waiting)?;
    jobs::insert(connection, &new.job, requirement, share)?;
    if let Some(gitlab) = &new.gitlab {
        jobs::insert_gitlab(connection, &new.job.id, gitlab)?;
        deliveries::tell_of_bell(connection, &new.job, &gitlab.reference)?;
    }
    if let Some(IdempotencyKey { key, body_sha256 }) = &new.idempotency {
        connection.prepare_cached("INSERT INTO idempotency (key, body_sha256, job_id, at) VALUES (?1, ?2, ?3, ?4)")?.execute(params![
            key,
            body_sha256,
            new.job.id.as_str(),
            rows::millis(new.job.created_at)
        ])?;
    }
    history::add(connection, &history::About::Job(&new.job), &EventKind::Submitted, new.job.created_at)?;
    Ok(Submission::Created(Box::new(jobs::expect(connection, new.job.id.as_str())?)))
}

/// What became of the same submission when it came before.
fn earlier(connection: &Connection, new: &NewJob) -> Outcome<Option<Submission>> {
    // The very same, of which whoever repeats it never heard that it was stored; it may have ended since.
    if let Some(job) = jobs::find(connection, new.job.id.as_str())? {
        return Ok(Some(Submission::Existing(Box::new(job))));
    }
    if let Some(IdempotencyKey { key, body_sha256 }) = &new.idempotency {
        let mut statement = connection.prepare_cached("SELECT body_sha256, job_id FROM idempotency WHERE key = ?1")?;
        let known: Option<(Vec<u8>, String)> = statement.query_row([key], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
        if let Some((body, job)) = known {
            if body != body_sha256 {
                return Ok(Some(Submission::KeyReused));
            }
            return Ok(Some(Submission::Existing(Box::new(jobs::expect(connection, &job)?))));
        }
    }
    let Some(gitlab) = &new.gitlab else { return Ok(None) };
    let Some(job) = jobs::of_gitlab(connection, gitlab)? else { return Ok(None) };
    let job = jobs::expect(connection, job.as_str())?;
    if job.has_ended() {
        // It was given back, and GitLab offers it again.
        return Ok(None);
    }
    jobs::renew_gitlab(connection, &job.id, gitlab)?;
    Ok(Some(Submission::Existing(Box::new(job))))
}

/// The id of a requirement: one for the jobs of each project that has limits, and one for those of all others ([`caps::lane`]).
pub(super) fn requirement_id(connection: &Connection, requirement: &Requirement, lane: &str) -> Outcome<RequirementId> {
    let key = requirement_key(requirement, lane);
    let mut known = connection.prepare_cached("SELECT id FROM requirements WHERE key = ?1")?;
    if let Some(id) = known.query_row([&key], |row| row.get(0)).optional()? {
        return Ok(RequirementId(id));
    }
    connection.prepare_cached("INSERT INTO requirements (key, class, spec, project) VALUES (?1, ?2, ?3, ?4)")?.execute(params![
        key,
        requirement.class.as_str(),
        rows::json(requirement)?,
        lane
    ])?;
    Ok(RequirementId(connection.last_insert_rowid()))
}

/// The first waiting job of a requirement. Ordered so that the best of several is the smallest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Head {
    priority: std::cmp::Reverse<i64>,
    share: i64,
    order_key: i64,
    job: String,
    created_at: i64,
}

/// Which jobs of a requirement to look at.
#[derive(Debug, Clone, Copy)]
enum From {
    Anywhere,
    GitLab,
}

pub(super) const HEAD: &str = "SELECT priority, share, order_key, id, created_at FROM jobs INDEXED BY jobs_ready \
     WHERE requirement_id = ?1 AND state = 'queued' AND not_before IS NULL ORDER BY priority DESC, share, order_key LIMIT 1";
pub(super) const GITLAB_HEAD: &str = "SELECT priority, share, order_key, id, created_at FROM jobs INDEXED BY jobs_ready_gitlab \
     WHERE requirement_id = ?1 AND state = 'queued' AND not_before IS NULL AND source = 'gitlab' ORDER BY priority DESC, share, order_key LIMIT 1";

fn head(connection: &Connection, requirement: RequirementId, from: From) -> Outcome<Option<Head>> {
    let mut statement = connection.prepare_cached(match from {
        From::Anywhere => HEAD,
        From::GitLab => GITLAB_HEAD,
    })?;
    let read = |row: &rusqlite::Row<'_>| {
        let priority = std::cmp::Reverse(row.get(0)?);
        Ok(Head { priority, share: row.get(1)?, order_key: row.get(2)?, job: row.get(3)?, created_at: row.get(4)? })
    };
    Ok(statement.query_row([requirement.0], read).optional()?)
}

/// The requirements for which jobs wait, best head first. How many is a counter that the database keeps, so the queue is not read.
pub(super) fn waiting(connection: &Connection) -> Outcome<Vec<Waiting>> {
    let mut statement = connection.prepare_cached("SELECT id, spec, ready, project FROM requirements WHERE ready > 0")?;
    let (mut caps, mut found) = (Caps::default(), Vec::new());
    let read = |row: &rusqlite::Row<'_>| Ok::<_, Fault>((row.get(0)?, row.get::<_, String>(1)?, row.get::<_, i64>(2)?, row.get::<_, String>(3)?));
    for row in statement.query_and_then([], read)? {
        let (id, spec, ready, project) = row?;
        let id = RequirementId(id);
        let head = head(connection, id, From::Anywhere)?.ok_or_else(|| Fault::corrupt(format!("requirement {} has no first job", id.0)))?;
        let requirement: Requirement = rows::from_json("a requirement", &spec)?;
        let capped = caps.reached(connection, &project, &requirement)?;
        let since = rows::time(head.created_at)?;
        found.push((head, Waiting { id, requirement, jobs: rows::number("a count", ready)?, since, capped }));
    }
    found.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    Ok(found.into_iter().map(|(_, waiting)| waiting).collect())
}

// One range of the index each: together they are what `HEAD` would answer before a given job.
pub(super) const AHEAD_BY_PRIORITY: &str = "SELECT count(*) FROM (SELECT 1 FROM jobs INDEXED BY jobs_ready \
     WHERE requirement_id = ?1 AND state = 'queued' AND not_before IS NULL AND priority > ?2 LIMIT ?3)";
pub(super) const AHEAD_BY_SHARE: &str = "SELECT count(*) FROM (SELECT 1 FROM jobs INDEXED BY jobs_ready \
     WHERE requirement_id = ?1 AND state = 'queued' AND not_before IS NULL AND priority = ?2 AND share < ?3 LIMIT ?4)";
pub(super) const AHEAD_BY_AGE: &str = "SELECT count(*) FROM (SELECT 1 FROM jobs INDEXED BY jobs_ready \
     WHERE requirement_id = ?1 AND state = 'queued' AND not_before IS NULL AND priority = ?2 AND share = ?3 AND order_key < ?4 LIMIT ?5)";

/// How many waiting jobs of some requirements would be claimed before a job, counted up to `most`.
pub(super) fn ahead(connection: &Connection, job: &JobId, among: &[RequirementId], most: u32) -> Outcome<u32> {
    let mut place = connection.prepare_cached("SELECT priority, share, order_key FROM jobs WHERE id = ?1")?;
    let place: Option<(i64, i64, i64)> = place.query_row([job.as_str()], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).optional()?;
    let Some((priority, share, order_key)) = place else { return Ok(0) };
    let mut by_priority = connection.prepare_cached(AHEAD_BY_PRIORITY)?;
    let mut by_share = connection.prepare_cached(AHEAD_BY_SHARE)?;
    let mut by_age = connection.prepare_cached(AHEAD_BY_AGE)?;
    let mut found: u32 = 0;
    for RequirementId(requirement) in among {
        found += by_priority.query_row(params![requirement, priority, most - found], |row| row.get::<_, u32>(0))?;
        found += by_share.query_row(params![requirement, priority, share, most - found], |row| row.get::<_, u32>(0))?;
        found += by_age.query_row(params![requirement, priority, share, order_key, most - found], |row| row.get::<_, u32>(0))?;
        if found >= most {
            break;
        }
    }
    Ok(found)
}

/// Makes jobs startable whose back-off is over; tells when the next one is due.
pub(super) fn promote_due(connection: &Connection, at: Timestamp) -> Outcome<Option<Timestamp>> {
    connection
        .prepare_cached(
            "UPDATE jobs INDEXED BY jobs_due SET not_before = NULL WHERE state = 'queued' AND not_before IS NOT NULL AND not_before <= ?1",
        )?
        .execute([rows::millis(at)])?;
    let mut next =
        connection.prepare_cached("SELECT min(not_before) FROM jobs INDEXED BY jobs_due WHERE state = 'queued' AND not_before IS NOT NULL")?;
    next.query_row([], |row| row.get::<_, Option<i64>>(0))?.map(rows::time).transpose()
}

/// Claims the best waiting job of all candidates for its candidate's runner.
pub(super) fn claim(connection: &Connection, candidates: &[Candidate], at: Timestamp) -> Outcome<Option<Aggregate>> {
    let mut best: Option<(Head, &Candidate)> = None;
    let mut caps = Caps::default();
    for candidate in candidates {
        if is_capped(connection, candidate.requirement, &mut caps)? {
            continue;
        }
        if let Some(head) = head(connection, candidate.requirement, From::Anywhere)?
            && best.as_ref().is_none_or(|(other, _)| head < *other)
        {
            best = Some((head, candidate));
        }
    }
    let Some((head, candidate)) = best else { return Ok(None) };
    let job = jobs::expect(connection, &head.job)?;
    let (bound, event) = Aggregate::bind(candidate.runner.clone(), job, at)?;
    save_bound(connection, &bound, &event, &head, at, runners::insert)?;
    Ok(Some(bound))
}

/// Whether its project's limits keep the jobs of a requirement from starting.
fn is_capped(connection: &Connection, requirement: RequirementId, caps: &mut Caps) -> Outcome<bool> {
    let mut statement = connection.prepare_cached("SELECT project, spec FROM requirements WHERE id = ?1 AND project <> ''")?;
    let capped: Option<(String, String)> = statement.query_row([requirement.0], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    let Some((project, spec)) = capped else { return Ok(false) };
    Ok(caps.reached(connection, &project, &rows::from_json("a requirement", &spec)?)?.is_some())
}

/// Gives the best waiting job of GitLab of the runner's class that a waiting runner may take to the runner.
pub(super) fn assign(connection: &Connection, runner: &RunnerId, at: Timestamp) -> Outcome<Option<Aggregate>> {
    let runner = runners::expect(connection, runner)?;
    let mut statement = connection.prepare_cached("SELECT id, spec, project FROM requirements WHERE class = ?1 AND ready > 0")?;
    let (mut caps, mut best) = (Caps::default(), None::<Head>);
    let read = |row: &rusqlite::Row<'_>| Ok::<_, Fault>((row.get(0)?, row.get::<_, String>(1)?, row.get::<_, String>(2)?));
    for row in statement.query_and_then([runner.class.as_str()], read)? {
        let (id, spec, project) = row?;
        let requirement: Requirement = rows::from_json("a requirement", &spec)?;
        if caps.reached(connection, &project, &requirement)?.is_some() {
            continue;
        }
        match requirement.start {
            Start::Any => best = [best, head(connection, RequirementId(id), From::GitLab)?].into_iter().flatten().min(),
            Start::Fresh => {}
        }
    }
    let Some(head) = best else { return Ok(None) };
    let (bound, event) = Aggregate::bind(runner, jobs::expect(connection, &head.job)?, at)?;
    save_bound(connection, &bound, &event, &head, at, runners::update)?;
    Ok(Some(bound))
}

fn save_bound(
    connection: &Connection,
    bound: &Aggregate,
    event: &EventKind,
    head: &Head,
    at: Timestamp,
    save_runner: fn(&Connection, &Runner) -> Outcome<()>,
) -> Outcome<()> {
    if let Some(job) = &bound.job {
        jobs::update(connection, job)?;
        share::serve(connection, job, head.share)?;
    }
    save_runner(connection, &bound.runner)?;
    history::add(connection, &history::About::Runner(&bound.runner), event, at)
}
