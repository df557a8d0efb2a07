//! Brings a database to the present schema: `PRAGMA user_version` counts the migrations that were taken.

use rusqlite::{Connection, TransactionBehavior};

/// The migrations in order. One that was released is never edited; a change is a new file.
pub(super) const MIGRATIONS: &[&str] = &[
    include_str!("migrations/0001.sql"),
    include_str!("migrations/0002.sql"),
    include_str!("migrations/0003.sql"),
    include_str!("migrations/0004.sql"),
    include_str!("migrations/0005.sql"),
    include_str!("migrations/0006.sql"),
    include_str!("migrations/0007.sql"),
    include_str!("migrations/0008.sql"),
    include_str!("migrations/0009.sql"),
];

/// Why a database could not be brought to the present schema.
#[derive(Debug, thiserror::Error)]
pub(super) enum MigrationError {
    /// The database was written by a newer program.
    #[error(
        "its schema is version {found}, and this program knows no version above {known}; install the newer runner-coordinator again, or go back to a copy of before the upgrade with `runner-coordinator restore FILE`"
    )]
    TooNew {
        /// The database's version.
        found: usize,
        /// The newest that we know.
        known: usize,
    },
    /// `user_version` is negative.
    #[error("its schema version is {0}, which no runner-coordinator wrote")]
    Nonsense(i64),
    /// A migration failed; the database is as it was before it.
    #[error("migration {number} failed")]
    Failed {
        /// Counted from 1.
        number: usize,
        /// What `SQLite` said.
        #[source]
        source: rusqlite::Error,
    },
    /// The version could not be read.
    #[error("its schema version could not be read")]
    Unreadable(#[source] rusqlite::Error),
}

/// Takes every migration that the database has not seen yet, in one transaction: all of them or none.
pub(super) fn migrate(connection: &mut Connection, migrations: &[&str]) -> Result<(), MigrationError> {
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(MigrationError::Unreadable)?;
    let taken = usize::try_from(version).map_err(|_| MigrationError::Nonsense(version))?;
    if taken > migrations.len() {
        return Err(MigrationError::TooNew { found: taken, known: migrations.len() });
    }
    if taken == migrations.len() {
        return Ok(());
    }
    let failed = |number| move |source| MigrationError::Failed { number, source };
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed(taken + 1))?;
    for (number, sql) in migrations.iter().enumerate().skip(taken).map(|(index, sql)| (index + 1, sql)) {
        transaction.execute_batch(sql).map_err(failed(number))?;
    }
    transaction.execute_batch(&format!("PRAGMA user_version = {}", migrations.len())).map_err(failed(migrations.len()))?;
    transaction.commit().map_err(failed(migrations.len()))
}
