//! Reading and writing runners.

use super::fault::Outcome;
use super::jobs;
use super::transaction::Tx;
use crate::domain::{Aggregate, ClassName, EndReason, HostId, JobId, Runner, RunnerId};
use crate::store::rows;
use crate::store::{RunnerFilter, StoreError};

/// One runner.
pub(super) async fn find(tx: &Tx<'_>, id: &RunnerId) -> Outcome<Option<Runner>> {
    tx.one(&format!("{} WHERE id = $1", rows::RUNNER), &[&id.as_str()]).await?.as_ref().map(rows::runner).transpose()
}

/// One runner that must be there; nobody else changes it before this transaction ends.
pub(super) async fn lock(tx: &Tx<'_>, id: &RunnerId) -> Outcome<Runner> {
    let found = tx.one(&format!("{} WHERE id = $1 FOR UPDATE", rows::RUNNER), &[&id.as_str()]).await?;
    found.as_ref().map(rows::runner).transpose()?.ok_or_else(|| StoreError::UnknownRunner(id.clone()).into())
}

/// A runner with its job.
pub(super) async fn with_job(tx: &Tx<'_>, runner: Runner) -> Outcome<Aggregate> {
    let job = match &runner.job {
        Some((job, _)) => Some(jobs::expect(tx, job.as_str()).await?),
        None => None,
    };
    Ok(Aggregate::new(runner, job))
}

/// Every runner of a machine that is not gone, oldest first, with its job.
pub(super) async fn open(tx: &Tx<'_>, host: &HostId) -> Outcome<Vec<Aggregate>> {
    let mut found = Vec::new();
    for row in tx.all(&format!("{} WHERE host = $1 AND state <> 'gone' ORDER BY id", rows::RUNNER), &[&host.as_str()]).await? {
        found.push(with_job(tx, rows::runner(&row)?).await?);
    }
    Ok(found)
}

/// Runners, newest first.
pub(super) async fn list(tx: &Tx<'_>, filter: &RunnerFilter) -> Outcome<Vec<Runner>> {
    let class = filter.class.as_ref().map(ClassName::as_str);
    let before = filter.before.as_ref().map(RunnerId::as_str);
    let mut found = Vec::new();
    for state in filter.asked_states() {
        let conditions = [("class = ", class), ("state = ", Some(state)), ("id < ", before)];
        for row in jobs::page(tx, rows::RUNNER, &conditions, "id", filter.limit).await? {
            found.push(rows::runner(&row)?);
        }
    }
    found.sort_unstable_by(|a, b| b.id.cmp(&a.id));
    found.truncate(filter.limit as usize);
    Ok(found)
}

/// How a runner is written.
#[derive(Debug, Clone, Copy)]
pub(super) enum Save {
    /// It is new.
    Insert,
    /// It is there.
    Update,
}

/// Writes a runner.
pub(super) async fn save(tx: &Tx<'_>, runner: &Runner, how: Save) -> Outcome<()> {
    let sql = match how {
        Save::Insert => {
            "INSERT INTO runners (id, class, host, origin, state, state_since, start_sent, reason, job_id, attempt, placement, container, \
             created_at, last_contact_at, restarts, engine_epoch) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)"
        }
        Save::Update => {
            "UPDATE runners SET class = $2, host = $3, origin = $4, state = $5, state_since = $6, start_sent = $7, reason = $8, job_id = $9, \
             attempt = $10, placement = $11, container = $12, created_at = $13, last_contact_at = $14, restarts = $15, engine_epoch = $16 WHERE id = $1"
        }
    };
    let (start_sent, engine_epoch) = rows::start_columns(runner)?;
    tx.execute(
        sql,
        &[
            &runner.id.as_str(),
            &runner.class.as_str(),
            &runner.host.as_str(),
            &runner.origin.as_str(),
            &runner.state.name(),
            &rows::millis(runner.state_since),
            &start_sent,
            &runner.state.reason().map(EndReason::as_str),
            &runner.job.as_ref().map(|(job, _)| JobId::as_str(job)),
            &runner.job.as_ref().map(|(_, attempt)| i64::from(*attempt)),
            &rows::json(&runner.placement)?,
            &runner.container,
            &rows::millis(runner.created_at),
            &runner.last_contact_at.map(rows::millis),
            &i64::from(runner.restarts),
            &engine_epoch,
        ],
    )
    .await?;
    Ok(())
}
