//! Takes all that an embedded store holds into an empty database, in one transaction, and commits only when both hold the same.
//!
//! ```text
//!  Export (SQLite, a thread that blocks) ──rows in batches──▶ write.rs (COPY) ──▶ tables ──▶ verify.rs (read back, summed up) ──▶ COMMIT
//!        └──────────────── sum of what was read ───────────────────────────────────────────────────▲
//! ```
//!
//! Tables and columns are those of the source, so that a new one cannot be forgotten here. `PostgreSQL`'s triggers keep the counts.

mod error;
mod target;
mod verify;
mod write;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use deadpool_postgres::Transaction;
use secrecy::SecretString;
use tokio::task::spawn_blocking;

use self::error::Failed;
use super::address::Address;
use super::database::Database;
use super::open;
use crate::store::cells::Sum;
use crate::store::sqlite::{Export, ExportError, Table};

pub use self::error::ImportError;

/// What our connections are called, to tell them from a daemon's.
const NAME: &str = "runner-coordinator store copy";

/// A table that was taken over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportedTable {
    /// Its name.
    pub name: String,
    /// How many rows it has.
    pub rows: u64,
}

/// What was taken over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// Into which database, for people.
    pub target: String,
    /// The coordinator's id, which goes on there.
    pub instance: String,
    /// Every table.
    pub tables: Vec<ImportedTable>,
    /// How long it took.
    pub took: Duration,
}

impl Imported {
    /// All rows together.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.tables.iter().map(|table| table.rows).sum()
    }
}

/// Copies the embedded store `source`, which no daemon may have, into the empty database `target`. Both hold the same when this returns.
///
/// # Errors
/// When the source is in use, damaged or of an earlier schema; when the target cannot be used, is in use or holds anything; when a row cannot be
/// stored there; and when what was written does not read back as it was. Then nothing is left in the target, and the source is as it was.
pub async fn import(source: &Path, target: &SecretString) -> Result<Imported, ImportError> {
    let began = Instant::now();
    // Another part of the process may have installed it before; either is the same.
    drop(rustls::crypto::ring::default_provider().install_default());
    let mut address = Address::read(target)?;
    let daemons = address.config.get_application_name().unwrap_or_default().to_owned();
    address.config.application_name(NAME);
    let shown = address.shown();
    let path: PathBuf = source.to_owned();
    let export = blocking(move || Export::open(&path)).await?;

    let unusable = |source| ImportError::Target { shown: shown.clone(), source };
    let database = Database::new(&address, std::sync::Arc::default()).map_err(|error| unusable(Box::new(error)))?;
    let mut client = database.client().await.map_err(|error| unusable(Box::new(error)))?;
    // Before its schema is made, or brought up to date: nothing is done to a database that others use.
    target::refuse_filled(&client, &shown).await?;
    open::open(&database).await.map_err(|error| unusable(Box::new(error)))?;
    let tx = client.transaction().await.map_err(Failed::doing("begin"))?;
    target::take(&tx, &shown, &daemons).await?;
    let instance = export.instance().to_owned();
    let tables = fill(&tx, export).await?;
    target::name(&tx, &instance).await?;
    target::analyze(&tx, tables.iter().map(|table| table.name.as_str())).await?;
    tx.commit().await.map_err(|source| ImportError::Unconfirmed { shown: shown.clone(), source: error::Said::from(&source) })?;
    Ok(Imported { target: shown, instance, tables, took: began.elapsed() })
}

/// Copies every table, and then looks whether each is the same.
async fn fill(tx: &Transaction<'_>, export: Export) -> Result<Vec<ImportedTable>, ImportError> {
    let (mut export, tables) = blocking(move || export.tables().map(|tables| (export, tables))).await?;
    let mut copied = Vec::with_capacity(tables.len());
    for table in tables {
        let key = target::primary_key(tx, &table.name).await?;
        let (back, sum) = write::table(tx, export, &table, &key).await?;
        export = back;
        copied.push((table, key, sum));
    }
    for (table, key, sum) in &copied {
        verify::table(tx, table, key, sum).await?;
    }
    let (export, counters) = blocking(move || export.counters().map(|counters| (export, counters))).await?;
    verify::counters(tx, &counters).await?;
    go_on_counting(tx, export).await?;
    Ok(copied.into_iter().map(|(Table { name, .. }, _, Sum { rows, .. })| ImportedTable { name, rows }).collect())
}

/// Numbers that the database gives out go on above every one that was given out before, kept or not.
async fn go_on_counting(tx: &Transaction<'_>, mut export: Export) -> Result<(), ImportError> {
    for (table, column) in target::numbered(tx).await? {
        let (of, by) = (table.clone(), column.clone());
        let highest;
        (export, highest) = blocking(move || export.highest(&of, &by).map(|highest| (export, highest))).await?;
        target::go_on_after(tx, &table, &column, highest).await?;
    }
    Ok(())
}

/// Does on a thread what waits for the disk.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, ExportError> + Send + 'static) -> Result<T, ImportError> {
    match spawn_blocking(work).await {
        Ok(done) => Ok(done?),
        Err(error) => Err(ImportError::Thread(error)),
    }
}

#[cfg(test)]
mod tests;
