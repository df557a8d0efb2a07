//! Webhook deliveries: remembered so that a double is known, and told in the history of the jobs that they were about.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::fault::Outcome;
use super::{history, jobs, rows};
use crate::domain::{EventKind, GitLabRef, Job};
use crate::store::rules::RINGS;
use crate::store::{DeliveredJob, Delivery, Recorded};

/// Remembers a delivery, and notes it with its job when that is open here already. Of each status only the first is noted, so that a history
/// grows by no more than there are statuses.
pub(super) fn record(connection: &Connection, delivery: &Delivery, at: Timestamp) -> Outcome<Recorded> {
    let about = delivery.about.as_ref().and_then(|about| Some((about, i64::try_from(about.gitlab_id).ok()?)));
    let told_before = match about {
        Some((about, id)) => latest(connection, &about.url, id, &about.status)?.is_some(),
        None => true,
    };
    let mut statement = connection.prepare_cached(
        "INSERT INTO deliveries (key, event, outcome, at, url, gitlab_id, status) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (key) DO NOTHING",
    )?;
    let (url, status) = about.map(|(about, _)| (&about.url, &about.status)).unzip();
    let id = about.map(|(_, id)| id);
    let added = statement.execute(params![delivery.key, delivery.event, delivery.outcome, rows::millis(at), url, id, status])?;
    if added != 1 {
        return Ok(Recorded::Duplicate);
    }
    if let Some((about, _)) = about.filter(|_| !told_before) {
        note(connection, about, at)?;
    }
    Ok(Recorded::First)
}

fn note(connection: &Connection, about: &DeliveredJob, at: Timestamp) -> Outcome<()> {
    let Some(id) = jobs::of_gitlab_id(connection, &about.url, about.gitlab_id)?.into_iter().next() else { return Ok(()) };
    let job = jobs::expect(connection, id.as_str())?;
    if job.has_ended() {
        return Ok(());
    }
    history::add(connection, &history::About::Job(&job), &EventKind::Webhook { status: about.status.clone() }, at)
}

/// Begins a new job's history with the delivery that rang for it last, if one did.
pub(super) fn tell_of_bell(connection: &Connection, job: &Job, reference: &GitLabRef) -> Outcome<()> {
    let Ok(id) = i64::try_from(reference.job_id) else { return Ok(()) };
    let Some(at) = latest(connection, &reference.url, id, RINGS)? else { return Ok(()) };
    history::add(connection, &history::About::Job(job), &EventKind::Webhook { status: RINGS.to_owned() }, rows::time(at)?)
}

pub(super) const LATEST: &str =
    "SELECT at FROM deliveries INDEXED BY deliveries_by_job WHERE gitlab_id = ?1 AND url = ?2 AND status = ?3 ORDER BY at DESC LIMIT 1";

/// When the latest delivery came that told of this status.
fn latest(connection: &Connection, url: &str, gitlab_id: i64, status: &str) -> Outcome<Option<i64>> {
    let mut statement = connection.prepare_cached(LATEST)?;
    Ok(statement.query_row(params![gitlab_id, url, status], |row| row.get(0)).optional()?)
}
