//! What is remembered of GPUs.

use rusqlite::{Connection, params};

use super::fault::Outcome;
use super::rows;
use crate::domain::{GpuId, GpuRecord, HostId};

/// All of a machine's, by id.
pub(super) fn read(connection: &Connection, host: &HostId) -> Outcome<Vec<GpuRecord>> {
    let mut statement = connection.prepare_cached("SELECT record FROM gpu_records WHERE host = ?1 ORDER BY gpu")?;
    let read = |row: &rusqlite::Row<'_>| rows::from_json("what is remembered of a GPU", &row.get::<_, String>(0)?);
    statement.query_and_then([host.as_str()], read)?.collect()
}

/// Writes some, in place of what was remembered, and forgets others.
pub(super) fn write(connection: &Connection, host: &HostId, records: &[GpuRecord], forgotten: &[GpuId]) -> Outcome<()> {
    let mut keep = connection.prepare_cached(
        "INSERT INTO gpu_records (host, gpu, record) VALUES (?1, ?2, ?3) ON CONFLICT (host, gpu) DO UPDATE SET record = excluded.record",
    )?;
    for record in records {
        keep.execute(params![host.as_str(), record.gpu.as_str(), rows::json(record)?])?;
    }
    let mut forget = connection.prepare_cached("DELETE FROM gpu_records WHERE host = ?1 AND gpu = ?2")?;
    for gpu in forgotten {
        forget.execute(params![host.as_str(), gpu.as_str()])?;
    }
    Ok(())
}
