//! What is remembered of single machines: their GPUs, the images that their engines fetched for us, and whether they are to get empty.

use jiff::Timestamp;

use super::fault::Outcome;
use super::transaction::Tx;
use crate::domain::{Drain, GpuId, GpuRecord, HostId, ImageRef};
use crate::store::rows::{self, Row as _};

/// What is remembered of all GPUs of a machine, by id.
pub(super) async fn gpus(tx: &Tx<'_>, host: &HostId) -> Outcome<Vec<GpuRecord>> {
    let found = tx.all("SELECT record FROM gpu_records WHERE host = $1 ORDER BY gpu", &[&host.as_str()]).await?;
    found.iter().map(|row| Ok(rows::from_json("what is remembered of a GPU", &row.text("record")?)?)).collect()
}

/// Writes some, in place of what was remembered, and forgets others.
pub(super) async fn write_gpus(tx: &Tx<'_>, host: &HostId, records: &[GpuRecord], forgotten: &[GpuId]) -> Outcome<()> {
    let keep = "INSERT INTO gpu_records (host, gpu, record) VALUES ($1, $2, $3) ON CONFLICT (host, gpu) DO UPDATE SET record = excluded.record";
    for record in records {
        tx.execute(keep, &[&host.as_str(), &record.gpu.as_str(), &rows::json(record)?]).await?;
    }
    for gpu in forgotten {
        tx.execute("DELETE FROM gpu_records WHERE host = $1 AND gpu = $2", &[&host.as_str(), &gpu.as_str()]).await?;
    }
    Ok(())
}

/// Remembers an image that was fetched.
pub(super) async fn remember_image(tx: &Tx<'_>, host: &HostId, image: &ImageRef, at: Timestamp) -> Outcome<()> {
    let sql = "INSERT INTO images AS i (host, image, used_at) VALUES ($1, $2, $3) ON CONFLICT (host, image) DO UPDATE SET used_at = greatest(i.used_at, $3)";
    tx.execute(sql, &[&host.as_str(), &image.as_str(), &rows::millis(at)]).await?;
    Ok(())
}

/// Notes that some are used, as far as they were fetched for us. A clock that was set back makes none older.
pub(super) async fn use_images(tx: &Tx<'_>, host: &HostId, images: &[ImageRef], at: Timestamp) -> Outcome<()> {
    let images: Vec<&str> = images.iter().map(ImageRef::as_str).collect();
    let sql = "UPDATE images SET used_at = $3 WHERE host = $1 AND image = ANY($2) AND used_at < $3";
    tx.execute(sql, &[&host.as_str(), &images, &rows::millis(at)]).await?;
    Ok(())
}

/// All of a machine, the one that was not used for longest first.
pub(super) async fn images(tx: &Tx<'_>, host: &HostId) -> Outcome<Vec<(ImageRef, Timestamp)>> {
    let found = tx.all("SELECT image, used_at FROM images WHERE host = $1 ORDER BY used_at, image", &[&host.as_str()]).await?;
    found.iter().map(|row| Ok((ImageRef::from_trusted(row.text("image")?), rows::time(row.integer("used_at")?)?))).collect()
}

/// Forgets one.
pub(super) async fn forget_image(tx: &Tx<'_>, host: &HostId, image: &ImageRef) -> Outcome<()> {
    tx.execute("DELETE FROM images WHERE host = $1 AND image = $2", &[&host.as_str(), &image.as_str()]).await?;
    Ok(())
}

/// Why a machine is to get empty.
pub(super) async fn drain(tx: &Tx<'_>, host: &HostId) -> Outcome<Option<Drain>> {
    match tx.one("SELECT drain FROM drains WHERE host = $1", &[&host.as_str()]).await? {
        Some(row) => Ok(Some(rows::from_json("a drain", &row.text("drain")?)?)),
        None => Ok(None),
    }
}

/// Writes why, or that it is not.
pub(super) async fn write_drain(tx: &Tx<'_>, host: &HostId, drain: Option<&Drain>) -> Outcome<()> {
    if let Some(drain) = drain {
        let sql = "INSERT INTO drains (host, drain) VALUES ($1, $2) ON CONFLICT (host) DO UPDATE SET drain = excluded.drain";
        tx.execute(sql, &[&host.as_str(), &rows::json(drain)?]).await?;
    } else {
        tx.execute("DELETE FROM drains WHERE host = $1", &[&host.as_str()]).await?;
    }
    Ok(())
}
