//! Rows of `SQLite`: [`crate::store::rows`] with this store's own faults.

use jiff::Timestamp;
use rusqlite::Row;
use rusqlite::types::FromSql;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::fault::{Fault, Outcome};
use crate::domain::{Attempt, Event, Job, Runner};
use crate::store::rows;
pub(super) use crate::store::rows::{ATTEMPT, EVENT, JOB, RUNNER, end_columns, millis, start_columns, state_columns};

impl rows::Row for Row<'_> {
    type Fault = Fault;

    fn maybe_text(&self, column: &str) -> Outcome<Option<String>> {
        read(self, column)
    }

    fn maybe_integer(&self, column: &str) -> Outcome<Option<i64>> {
        read(self, column)
    }
}

fn read<T: FromSql>(row: &Row<'_>, column: &str) -> Outcome<Option<T>> {
    Ok(row.get(column)?)
}

/// A stored time.
pub(super) fn time(millis: i64) -> Outcome<Timestamp> {
    Ok(rows::time(millis)?)
}

/// A value as JSON.
pub(super) fn json<T: Serialize>(value: &T) -> Outcome<String> {
    Ok(rows::json(value)?)
}

/// A value from stored JSON.
pub(super) fn from_json<T: DeserializeOwned>(what: &str, text: &str) -> Outcome<T> {
    Ok(rows::from_json(what, text)?)
}

/// A stored count or number.
pub(super) fn number<T: TryFrom<i64>>(what: &str, value: i64) -> Outcome<T> {
    Ok(rows::number(what, value)?)
}

/// A job with its latest attempt, from [`JOB`].
pub(super) fn job(row: &Row<'_>) -> Outcome<Job> {
    rows::job(row)
}

/// An attempt, from [`ATTEMPT`].
pub(super) fn attempt(row: &Row<'_>) -> Outcome<Attempt> {
    rows::attempt(row)
}

/// A runner, from [`RUNNER`].
pub(super) fn runner(row: &Row<'_>) -> Outcome<Runner> {
    rows::runner(row)
}

/// An entry of the history, from [`EVENT`].
pub(super) fn event(row: &Row<'_>) -> Outcome<Event> {
    rows::event(row)
}

#[cfg(test)]
#[path = "rows_tests.rs"]
mod tests;
