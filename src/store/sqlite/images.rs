//! Images that engines fetched for us, and when they were last used.

use jiff::Timestamp;
use rusqlite::{Connection, params};

use super::fault::{Fault, Outcome};
use super::rows;
use crate::domain::{HostId, ImageRef};

/// Remembers one that was fetched.
pub(super) fn remember(connection: &Connection, host: &HostId, image: &ImageRef, at: Timestamp) -> Outcome<()> {
    let sql = "INSERT INTO images (host, image, used_at) VALUES (?1, ?2, ?3) ON CONFLICT (host, image) DO UPDATE SET used_at = max(used_at, ?3)";
    connection.prepare_cached(sql)?.execute(params![host.as_str(), image.as_str(), rows::millis(at)])?;
    Ok(())
}

/// Notes that some are used, as far as they were fetched for us. A clock that was set back makes none older.
pub(super) fn used(connection: &Connection, host: &HostId, images: &[ImageRef], at: Timestamp) -> Outcome<()> {
    let mut statement = connection.prepare_cached("UPDATE images SET used_at = ?3 WHERE host = ?1 AND image = ?2 AND used_at < ?3")?;
    for image in images {
        statement.execute(params![host.as_str(), image.as_str(), rows::millis(at)])?;
    }
    Ok(())
}

/// All of a machine, the one that was not used for longest first.
pub(super) fn list(connection: &Connection, host: &HostId) -> Outcome<Vec<(ImageRef, Timestamp)>> {
    let mut statement = connection.prepare_cached("SELECT image, used_at FROM images WHERE host = ?1 ORDER BY used_at, image")?;
    let read = |row: &rusqlite::Row<'_>| Ok::<_, Fault>((ImageRef::from_trusted(row.get::<_, String>(0)?), rows::time(row.get(1)?)?));
    statement.query_and_then([host.as_str()], read)?.collect()
}

/// Forgets one.
pub(super) fn forget(connection: &Connection, host: &HostId, image: &ImageRef) -> Outcome<()> {
    connection.prepare_cached("DELETE FROM images WHERE host = ?1 AND image = ?2")?.execute([host.as_str(), image.as_str()])?;
    Ok(())
}
