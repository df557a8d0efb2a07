//! The queue: what comes in, what waits, and who gets it. Nothing here reads more of the queue than its heads.

use jiff::Timestamp;
use tokio_postgres::Row;

use super::caps::Caps;
use super::fault::Outcome;
use super::locks::{self, Lock};
use super::transaction::Tx;
use super::{caps, deliveries, history, jobs, share};
use crate::domain::{EventKind, JobId, ProjectName, Requirement, RequirementId};
use crate::store::rows::{self, Row as _, corrupt};
use crate::store::rules::requirement_key;
use crate::store::{IdempotencyKey, NewJob, Submission, Waiting};

/// Takes a job in, or tells why not. Submissions take turns, so that keys, limits and turns between projects are exact.
pub(super) async fn submit(tx: &Tx<'_>, new: &NewJob) -> Outcome<Submission> {
    locks::take(tx, Lock::Submitting).await?;
    if let Some(earlier) = earlier(tx, new).await? {
        return Ok(earlier);
    }
    let project = new.job.spec.project.as_ref().map_or("", ProjectName::as_str);
    let (waiting, all) = waiting_jobs(tx, project).await?;
    if waiting >= i64::from(new.queue_limit) {
        return Ok(Submission::QueueFull { limit: new.queue_limit });
    }
    if all >= i64::from(new.whole_queue_limit) {
        return Ok(Submission::WholeQueueFull { limit: new.whole_queue_limit });
    }
    let lane = caps::lane(tx, project).await?;
    let requirement = requirement_id(tx, &new.job.spec.requirement, lane).await?;
    let share = share::promise(tx, &new.job, new.weight, waiting).await?;
    jobs::insert(tx, &new.job, requirement, share).await?;
    if let Some(gitlab) = &new.gitlab {
        jobs::insert_gitlab(tx, &new.job.id, gitlab).await?;
        deliveries::tell_of_bell(tx, &new.job, &gitlab.reference).await?;
    }
    if let Some(IdempotencyKey { key, body_sha256 }) = &new.idempotency {
        let sql = "INSERT INTO idempotency (key, body_sha256, job_id, at) VALUES ($1, $2, $3, $4)";
        tx.execute(sql, &[key, &body_sha256.as_slice(), &new.job.id.as_str(), &rows::millis(new.job.created_at)]).await?;
    }
    history::add(tx, &history::About::Job(&new.job), &EventKind::Submitted, new.job.created_at).await?;
    Ok(Submission::Created(Box::new(jobs::expect(tx, new.job.id.as_str()).await?)))
}

/// How many jobs wait for a project, and in all.
async fn waiting_jobs(tx: &Tx<'_>, project: &str) -> Outcome<(i64, i64)> {
    let sql = "SELECT coalesce(sum(n) FILTER (WHERE kind = 'queue'), 0)::bigint AS own, coalesce(sum(n) FILTER (WHERE kind = 'state'), 0)::bigint AS whole \
               FROM tallies WHERE (kind = 'queue' AND key = $1) OR (kind = 'state' AND key = 'queued')";
    let row = tx.one(sql, &[&project]).await?.ok_or_else(|| corrupt("no count"))?;
    Ok((row.integer("own")?, row.integer("whole")?))
}

/// What became of the same submission when it came before.
async fn earlier(tx: &Tx<'_>, new: &NewJob) -> Outcome<Option<Submission>> {
    // The very same, of which whoever repeats it never heard that it was stored; it may have ended since.
    if let Some(job) = jobs::find(tx, new.job.id.as_str()).await? {
        return Ok(Some(Submission::Existing(Box::new(job))));
    }
    if let Some(IdempotencyKey { key, body_sha256 }) = &new.idempotency
        && let Some(known) = tx.one("SELECT body_sha256, job_id FROM idempotency WHERE key = $1", &[key]).await?
    {
        let body: Vec<u8> = known.try_get("body_sha256")?;
        if body != body_sha256 {
            return Ok(Some(Submission::KeyReused));
        }
        return Ok(Some(Submission::Existing(Box::new(jobs::expect(tx, &known.text("job_id")?).await?))));
    }
    let Some(gitlab) = &new.gitlab else { return Ok(None) };
    let Some(job) = jobs::of_gitlab(tx, gitlab).await? else { return Ok(None) };
    if jobs::expect(tx, job.as_str()).await?.has_ended() {
        // It was given back, and GitLab offers it again.
        return Ok(None);
    }
    // Locked, so that it does not end meanwhile: what only the broker needs is not to come back after the end.
    let job = jobs::expect_locked(tx, job.as_str()).await?;
    if job.has_ended() {
        return Ok(None);
    }
    jobs::renew_gitlab(tx, &job.id, gitlab).await?;
    Ok(Some(Submission::Existing(Box::new(job))))
}

/// The id of a requirement: one for the jobs of each project that has limits, and one for those of all others ([`caps::lane`]).
pub(super) async fn requirement_id(tx: &Tx<'_>, requirement: &Requirement, lane: &str) -> Outcome<RequirementId> {
    let key = requirement_key(requirement, lane);
    if let Some(known) = tx.one("SELECT id FROM requirements WHERE key = $1", &[&key]).await? {
        return Ok(RequirementId(known.integer("id")?));
    }
    let sql = "INSERT INTO requirements (key, class, spec, project, gpus) VALUES ($1, $2, $3, $4, $5) \
               ON CONFLICT (key) DO UPDATE SET key = excluded.key RETURNING id";
    let gpus = i64::from(requirement.gpu_count());
    let made = tx.write_one(sql, &[&key, &requirement.class.as_str(), &rows::json(requirement)?, &lane, &gpus]).await?;
    Ok(RequirementId(made.ok_or_else(|| corrupt("a requirement was not stored"))?.integer("id")?))
}

/// The requirements for which jobs wait, best head first. How many is a sum that the database keeps, so the queue is not read.
pub(super) async fn waiting(tx: &Tx<'_>) -> Outcome<Vec<Waiting>> {
    let sql = "SELECT r.id, r.spec, r.project, t.n, h.created_at FROM \
                 (SELECT key::bigint AS id, sum(n)::bigint AS n FROM tallies WHERE kind = 'ready' GROUP BY key HAVING sum(n) > 0) AS t \
               JOIN requirements r ON r.id = t.id \
               CROSS JOIN LATERAL (SELECT j.priority, j.share, j.order_key, j.created_at FROM jobs j WHERE j.requirement_id = r.id \
                 AND j.state = 'queued' AND j.not_before IS NULL ORDER BY j.priority DESC, j.share, j.order_key LIMIT 1) AS h \
               ORDER BY h.priority DESC, h.share, h.order_key";
    let (mut caps, mut found) = (Caps::default(), Vec::new());
    for row in tx.all(sql, &[]).await? {
        let requirement: Requirement = rows::from_json("a requirement", &row.text("spec")?)?;
        let capped = caps.reached(tx, &row.text("project")?, requirement.gpu_count()).await?;
        let (jobs, since) = (rows::number("a count", row.integer("n")?)?, rows::time(row.integer("created_at")?)?);
        found.push(Waiting { id: RequirementId(row.integer("id")?), requirement, jobs, since, capped });
    }
    Ok(found)
}

/// How many waiting jobs of some requirements would be claimed before a job, counted up to `most`.
pub(super) async fn ahead(tx: &Tx<'_>, job: &JobId, among: &[RequirementId], most: u32) -> Outcome<u32> {
    // One range of the index each: together they are what a claim would find before a given job.
    let ranges = [
        "j.priority > p.priority",
        "j.priority = p.priority AND j.share < p.share",
        "j.priority = p.priority AND j.share = p.share AND j.order_key < p.order_key",
    ];
    let counted = ranges.map(|range| {
        format!(
            "(SELECT count(*) FROM (SELECT 1 FROM jobs j WHERE j.requirement_id = r.id AND j.state = 'queued' AND j.not_before IS NULL \
             AND {range} LIMIT $3) AS before)"
        )
    });
    let sql = format!(
        "SELECT least(coalesce(sum({}), 0), $3)::bigint AS n FROM (SELECT priority, share, order_key FROM jobs WHERE id = $1) AS p \
         CROSS JOIN unnest($2::bigint[]) AS r (id)",
        counted.join(" + ")
    );
    let among: Vec<i64> = among.iter().map(|requirement| requirement.0).collect();
    let row = tx.one(&sql, &[&job.as_str(), &among, &i64::from(most)]).await?.ok_or_else(|| corrupt("no count"))?;
    Ok(rows::number("a count", row.integer("n")?)?)
}

/// Makes jobs startable whose back-off is over; tells when the next one is due.
pub(super) async fn promote_due(tx: &Tx<'_>, at: Timestamp) -> Outcome<Option<Timestamp>> {
    // What somebody else holds is promoted by him, or by the next call.
    let sql = "UPDATE jobs SET not_before = NULL WHERE id IN (SELECT id FROM jobs WHERE state = 'queued' AND not_before IS NOT NULL \
               AND not_before <= $1 FOR UPDATE SKIP LOCKED)";
    tx.execute(sql, &[&rows::millis(at)]).await?;
    let next = "SELECT not_before FROM jobs WHERE state = 'queued' AND not_before IS NOT NULL ORDER BY not_before LIMIT 1";
    let read = |row: Row| Ok(rows::time(row.integer("not_before")?)?);
    tx.one(next, &[]).await?.map(read).transpose()
}
