//! What stands in a daemon's store, read beside it.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension as _};
use serde_json::Value;

/// A job as stored.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) state: String,
    pub(crate) outcome: Value,
    pub(crate) attempt: u32,
}

/// An entry of its history.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) attempt: Option<u32>,
    pub(crate) kind: String,
    pub(crate) body: Value,
}

/// An open runner.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Open {
    pub(crate) id: String,
    pub(crate) state: String,
    pub(crate) container: String,
    pub(crate) has_devices: bool,
}

/// The store.
#[derive(Debug)]
pub(crate) struct Ledger(Connection);

impl Ledger {
    pub(crate) fn open(data: &Path) -> Self {
        let connection = Connection::open_with_flags(data.join("coordinator.db"), OpenFlags::SQLITE_OPEN_READ_ONLY).expect("a store");
        connection.busy_timeout(Duration::from_secs(30)).expect("a time-out");
        Self(connection)
    }

    pub(crate) fn instance(&self) -> String {
        self.0.query_row("SELECT value FROM meta WHERE key = 'instance'", [], |row| row.get(0)).expect("an instance")
    }

    pub(crate) fn job(&self, id: &str) -> Option<Row> {
        let row = |row: &rusqlite::Row<'_>| {
            let outcome: Option<String> = row.get(1)?;
            let outcome = outcome.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
            Ok(Row { state: row.get(0)?, outcome, attempt: row.get(2)? })
        };
        self.0.query_row("SELECT state, outcome, attempt FROM jobs WHERE id = ?1", [id], row).optional().expect("a row")
    }

    pub(crate) fn events(&self, id: &str) -> Vec<Entry> {
        let mut read = self.0.prepare("SELECT attempt, body FROM events WHERE job_id = ?1 ORDER BY seq").expect("a statement");
        let rows = read.query_map([id], |row| {
            let body: Value = serde_json::from_str(&row.get::<_, String>(1)?).unwrap_or_default();
            Ok(Entry { attempt: row.get(0)?, kind: body["kind"].as_str().unwrap_or_default().to_owned(), body })
        });
        rows.expect("rows").map(|row| row.expect("a row")).collect()
    }

    pub(crate) fn open_runners(&self) -> Vec<Open> {
        let sql = "SELECT id, state, origin, job_id, attempt, placement FROM runners WHERE state <> 'gone' ORDER BY id";
        let mut read = self.0.prepare(sql).expect("a statement");
        let rows = read.query_map([], |row| {
            let (id, origin, job, attempt): (String, String, Option<String>, Option<u32>) = (row.get(0)?, row.get(2)?, row.get(3)?, row.get(4)?);
            let placement: Value = serde_json::from_str(&row.get::<_, String>(5)?).unwrap_or_default();
            let container = match (job, attempt, origin.as_str()) {
                (Some(job), Some(attempt), "job") => format!("rc-{job}-{attempt}"),
                _ => format!("rc-{id}"),
            };
            let has_devices = placement["devices"].as_array().is_some_and(|devices| !devices.is_empty());
            Ok(Open { id, state: row.get(1)?, container, has_devices })
        });
        rows.expect("rows").map(|row| row.expect("a row")).collect()
    }

    pub(crate) fn unended(&self) -> u64 {
        self.count("SELECT count(*) FROM jobs WHERE state IN ('queued', 'starting', 'running')")
    }

    pub(crate) fn running(&self) -> u64 {
        self.count("SELECT count(*) FROM jobs WHERE state = 'running'")
    }

    /// How many rows each table has.
    pub(crate) fn rows(&self) -> Vec<(String, u64)> {
        let mut read = self.0.prepare("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name").expect("a statement");
        let tables = read.query_map([], |row| row.get::<_, String>(0)).expect("tables").map(|table| table.expect("a name"));
        tables.map(|table| (table.clone(), self.count(&format!("SELECT count(*) FROM {table}")))).collect()
    }

    /// Jobs of the API.
    pub(crate) fn jobs(&self) -> u64 {
        self.count("SELECT count(*) FROM jobs WHERE source = 'api'")
    }

    /// Rows that should not be there when every job has ended, in words.
    pub(crate) fn left(&self) -> Vec<String> {
        let questions = [
            ("attempts without an end", "SELECT count(*) FROM attempts WHERE ended_at IS NULL"),
            ("queue lengths", "SELECT count(*) FROM queue_lengths"),
            ("requirements with jobs that are ready", "SELECT count(*) FROM requirements WHERE ready <> 0"),
            ("wrong counts of jobs", "SELECT count(*) FROM job_counts WHERE jobs <> (SELECT count(*) FROM jobs WHERE jobs.state = job_counts.state)"),
        ];
        questions
            .iter()
            .map(|(what, sql)| (self.count(sql), what))
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{count} {what}"))
            .collect()
    }

    fn count(&self, sql: &str) -> u64 {
        let count: i64 = self.0.query_row(sql, [], |row| row.get(0)).expect("a count");
        u64::try_from(count).expect("a count")
    }
}
