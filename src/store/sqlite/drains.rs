//! Which machines are to get empty.

use rusqlite::{Connection, OptionalExtension as _, params};

use super::fault::Outcome;
use super::rows;
use crate::domain::{Drain, HostId};

/// Why a machine is to get empty.
pub(super) fn read(connection: &Connection, host: &HostId) -> Outcome<Option<Drain>> {
    let mut statement = connection.prepare_cached("SELECT drain FROM drains WHERE host = ?1")?;
    let text: Option<String> = statement.query_row([host.as_str()], |row| row.get(0)).optional()?;
    text.map(|text| rows::from_json("a drain", &text)).transpose()
}

/// Writes why, or that it is not.
pub(super) fn write(connection: &Connection, host: &HostId, drain: Option<&Drain>) -> Outcome<()> {
    if let Some(drain) = drain {
        let sql = "INSERT INTO drains (host, drain) VALUES (?1, ?2) ON CONFLICT (host) DO UPDATE SET drain = excluded.drain";
        connection.prepare_cached(sql)?.execute(params![host.as_str(), rows::json(drain)?])?;
    } else {
        connection.prepare_cached("DELETE FROM drains WHERE host = ?1")?.execute([host.as_str()])?;
    }
    Ok(())
}
