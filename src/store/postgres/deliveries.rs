//! Webhook deliveries: remembered so that a double is known, and told in the history of the jobs that they were about.

use jiff::Timestamp;

use super::fault::Outcome;
use super::transaction::Tx;
use super::{history, jobs};
use crate::domain::{EventKind, GitLabRef, Job};
use crate::store::rows::{self, Row as _};
use crate::store::rules::RINGS;
use crate::store::{DeliveredJob, Delivery, Recorded};

/// Remembers a delivery, and notes it with its job when that is open here already. Of each status only the first is noted, so that a history
/// grows by no more than there are statuses.
pub(super) async fn record(tx: &Tx<'_>, delivery: &Delivery, at: Timestamp) -> Outcome<Recorded> {
    let about = delivery.about.as_ref().and_then(|about| Some((about, i64::try_from(about.gitlab_id).ok()?)));
    let told_before = match about {
        Some((about, id)) => latest(tx, &about.url, id, &about.status).await?.is_some(),
        None => true,
    };
    let sql =
        "INSERT INTO deliveries (key, event, outcome, at, url, gitlab_id, status) VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (key) DO NOTHING";
    let (url, status) = about.map(|(about, _)| (&about.url, &about.status)).unzip();
    let id = about.map(|(_, id)| id);
    if tx.execute(sql, &[&delivery.key, &delivery.event, &delivery.outcome, &rows::millis(at), &url, &id, &status]).await? != 1 {
        return Ok(Recorded::Duplicate);
    }
    if let Some((about, _)) = about.filter(|_| !told_before) {
        note(tx, about, at).await?;
    }
    Ok(Recorded::First)
}

async fn note(tx: &Tx<'_>, about: &DeliveredJob, at: Timestamp) -> Outcome<()> {
    let Some(id) = jobs::of_gitlab_id(tx, &about.url, about.gitlab_id).await?.into_iter().next() else { return Ok(()) };
    let job = jobs::expect_locked(tx, id.as_str()).await?;
    if job.has_ended() {
        return Ok(());
    }
    history::add(tx, &history::About::Job(&job), &EventKind::Webhook { status: about.status.clone() }, at).await
}

/// Begins a new job's history with the delivery that rang for it last, if one did.
pub(super) async fn tell_of_bell(tx: &Tx<'_>, job: &Job, reference: &GitLabRef) -> Outcome<()> {
    let Ok(id) = i64::try_from(reference.job_id) else { return Ok(()) };
    let Some(at) = latest(tx, &reference.url, id, RINGS).await? else { return Ok(()) };
    history::add(tx, &history::About::Job(job), &EventKind::Webhook { status: RINGS.to_owned() }, rows::time(at)?).await
}

/// When the latest delivery came that told of this status.
async fn latest(tx: &Tx<'_>, url: &str, gitlab_id: i64, status: &str) -> Outcome<Option<i64>> {
    let sql = "SELECT at FROM deliveries WHERE gitlab_id = $1 AND url = $2 AND status = $3 ORDER BY at DESC LIMIT 1";
    tx.one(sql, &[&gitlab_id, &url, &status]).await?.map(|row| row.integer("at")).transpose()
}
