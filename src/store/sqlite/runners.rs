//! Reading and writing runners.

use rusqlite::{Connection, named_params};

use super::fault::Outcome;
use super::{jobs, rows};
use crate::domain::{Aggregate, HostId, Runner, RunnerId};
use crate::store::{RunnerFilter, StoreError};

/// One runner.
pub(super) fn find(connection: &Connection, id: &RunnerId) -> Outcome<Option<Runner>> {
    let mut statement = connection.prepare_cached(&format!("{} WHERE id = ?1", rows::RUNNER))?;
    let found = statement.query_and_then([id.as_str()], rows::runner)?.next();
    found.transpose()
}

/// One runner that must be there.
pub(super) fn expect(connection: &Connection, id: &RunnerId) -> Outcome<Runner> {
    find(connection, id)?.ok_or_else(|| StoreError::UnknownRunner(id.clone()).into())
}

/// A runner with its job.
pub(super) fn with_job(connection: &Connection, runner: Runner) -> Outcome<Aggregate> {
    let job = runner.job.as_ref().map(|(job, _)| jobs::expect(connection, job.as_str())).transpose()?;
    Ok(Aggregate::new(runner, job))
}

/// Every runner of a machine that is not gone, oldest first, with its job.
pub(super) fn open(connection: &Connection, host: &HostId) -> Outcome<Vec<Aggregate>> {
    let mut statement = connection.prepare_cached(&format!("{} WHERE host = ?1 AND state <> 'gone' ORDER BY id", rows::RUNNER))?;
    let runners: Vec<Runner> = statement.query_and_then([host.as_str()], rows::runner)?.collect::<Outcome<_>>()?;
    runners.into_iter().map(|runner| with_job(connection, runner)).collect()
}

/// Runners, newest first.
pub(super) fn list(connection: &Connection, filter: &RunnerFilter) -> Outcome<Vec<Runner>> {
    let class = filter.class.as_ref().map(crate::domain::ids::ClassName::as_str);
    let before = filter.before.as_ref().map(crate::domain::ids::RunnerId::as_str);
    let mut found = Vec::new();
    for state in filter.asked_states() {
        let conditions = [("class = ", class), ("state = ", Some(state)), ("id < ", before)];
        found.append(&mut jobs::query_page(connection, rows::RUNNER, &conditions, "id", filter.limit, rows::runner)?);
    }
    found.sort_unstable_by(|a, b| b.id.cmp(&a.id));
    found.truncate(filter.limit as usize);
    Ok(found)
}

/// Stores a new runner.
pub(super) fn insert(connection: &Connection, runner: &Runner) -> Outcome<()> {
    save(
        connection,
        "INSERT INTO runners (id, class, host, origin, state, state_since, start_sent, reason, job_id, attempt, placement, container, \
         created_at, last_contact_at, restarts, engine_epoch) VALUES (:id, :class, :host, :origin, :state, :state_since, :start_sent, \
         :reason, :job, :attempt, :placement, :container, :created_at, :last_contact_at, :restarts, :engine_epoch)",
        runner,
    )
}

/// Writes a runner that is there.
pub(super) fn update(connection: &Connection, runner: &Runner) -> Outcome<()> {
    save(
        connection,
        "UPDATE runners SET class = :class, host = :host, origin = :origin, state = :state, state_since = :state_since, \
         start_sent = :start_sent, reason = :reason, job_id = :job, attempt = :attempt, placement = :placement, container = :container, \
         created_at = :created_at, last_contact_at = :last_contact_at, restarts = :restarts, engine_epoch = :engine_epoch WHERE id = :id",
        runner,
    )
}

fn save(connection: &Connection, sql: &str, runner: &Runner) -> Outcome<()> {
    let (start_sent, engine_epoch) = rows::start_columns(runner)?;
    connection.prepare_cached(sql)?.execute(named_params! {
        ":id": runner.id.as_str(),
        ":class": runner.class.as_str(),
        ":host": runner.host.as_str(),
        ":origin": runner.origin.as_str(),
        ":state": runner.state.name(),
        ":state_since": rows::millis(runner.state_since),
        ":start_sent": start_sent,
        ":reason": runner.state.reason().map(crate::domain::EndReason::as_str),
        ":job": runner.job.as_ref().map(|(job, _)| job.as_str()),
        ":attempt": runner.job.as_ref().map(|(_, attempt)| *attempt),
        ":placement": rows::json(&runner.placement)?,
        ":container": runner.container,
        ":created_at": rows::millis(runner.created_at),
        ":last_contact_at": runner.last_contact_at.map(rows::millis),
        ":restarts": runner.restarts,
        ":engine_epoch": engine_epoch,
    })?;
    Ok(())
}
