//! Opens the database file, or says clearly why not: a queue that cannot be read must never be taken for an empty one.

use std::fs::{File, Permissions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};
use tracing::{info, warn};
use uuid::Uuid;

use super::copy::{CopyError, copy};
use super::damage::{is_damage, meaning};
use super::files::{COMPANIONS, beside, directory_of, flush, lock, make_directory, private_file};
use super::migrations::{MIGRATIONS, MigrationError, migrate};
use super::restore;
use crate::domain::{Clock as _, SystemClock};

/// Marks a database as ours (`RnCo`), so that another program's is refused.
pub(super) const APPLICATION_ID: i32 = 0x526e_436f;

/// How long a statement waits for a lock that only a person's `sqlite3` shell can hold.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Prepared statements kept by each connection; above the number of different texts that we have.
const STATEMENTS: usize = 96;

/// Why the database could not be opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    /// Another process, or another store in this one, has it.
    #[error("{} is in use by another runner-coordinator (it holds {})", path.display(), lock.display())]
    InUse {
        /// The database.
        path: PathBuf,
        /// The lock file.
        lock: PathBuf,
    },
    /// The file system refused something.
    #[error("cannot {doing} {}", path.display())]
    Files {
        /// What was tried.
        doing: &'static str,
        /// With which file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// The file is no database, is damaged, or belongs to another program.
    #[error("{} cannot be used: {why}; it is left as it is. `runner-coordinator restore FILE` puts a backup in its place", path.display())]
    Unusable {
        /// The database.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The schema could not be brought up to date.
    #[error("{} cannot be used", path.display())]
    Schema {
        /// The database.
        path: PathBuf,
        /// Why.
        #[source]
        source: MigrationError,
    },
    /// `SQLite` failed.
    #[error("cannot {doing} {}", path.display())]
    Sqlite {
        /// What was tried.
        doing: &'static str,
        /// The database.
        path: PathBuf,
        /// What `SQLite` said.
        #[source]
        source: rusqlite::Error,
    },
    /// A copy could not be made, or a restore not be finished.
    #[error(transparent)]
    Copy(Box<CopyError>),
}

impl From<CopyError> for OpenError {
    fn from(error: CopyError) -> Self {
        Self::Copy(Box::new(error))
    }
}

/// A database that is ready, and held by us.
pub(super) struct Opened {
    /// The connection that writes.
    pub writer: Connection,
    /// The coordinator's id.
    pub instance: String,
    /// Holds the lock until it is closed.
    pub lock: File,
}

/// Locks, makes if there is none, checks and upgrades the database.
pub(super) fn open(path: &Path) -> Result<Opened, OpenError> {
    make_directory(path)?;
    let mut lock = lock(path)?;
    if let Some(replaced) = restore::finish(path, SystemClock.now())? {
        warn!(replaced = %replaced.display(), "a restore that had been interrupted was finished");
    }
    let exists = path.try_exists().map_err(|source| OpenError::Files { doing: "look for", path: path.to_owned(), source })?;
    if !exists {
        refuse_lost(path, &mut lock)?;
        create(path)?;
    }
    let schema = check(path)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(|source| OpenError::Files {
        doing: "set the permissions of",
        path: path.to_owned(),
        source,
    })?;
    if (1..MIGRATIONS.len()).contains(&schema) {
        keep_before_upgrade(path, schema)?;
    }
    let mut writer = connect(path, Role::Writer)?;
    let sqlite = |doing| move |source| OpenError::Sqlite { doing, path: path.to_owned(), source };
    // A backup that somebody put here by hand has no log.
    writer.execute_batch("PRAGMA journal_mode = WAL").map_err(sqlite("write to"))?;
    migrate(&mut writer, MIGRATIONS).map_err(|source| OpenError::Schema { path: path.to_owned(), source })?;
    let instance: String =
        writer.query_row("SELECT value FROM meta WHERE key = 'instance'", [], |row| row.get(0)).map_err(sqlite("read the coordinator's id in"))?;
    remember(&lock, &instance);
    Ok(Opened { writer, instance, lock })
}

/// A queue in memory.
pub(super) fn in_memory() -> rusqlite::Result<(Connection, String)> {
    let mut connection = Connection::open_in_memory()?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    connection.execute_batch("PRAGMA foreign_keys = ON; PRAGMA trusted_schema = OFF;")?;
    migrate(&mut connection, MIGRATIONS).map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))?;
    let instance = name(&connection)?;
    Ok((connection, instance))
}

/// Gives a new queue its name.
fn name(connection: &Connection) -> rusqlite::Result<String> {
    let instance = Uuid::now_v7().to_string();
    connection.execute("INSERT INTO meta (key, value) VALUES ('instance', ?1), ('ping', '0')", [&instance])?;
    Ok(instance)
}

/// A database that was here and is gone must not be taken for one that never was. The lock's file remembers.
fn refuse_lost(path: &Path, lock: &mut File) -> Result<(), OpenError> {
    let mut instance = String::new();
    let failed = |source| OpenError::Files { doing: "read", path: beside(path, ".lock"), source };
    lock.take(128).read_to_string(&mut instance).map_err(failed)?;
    let unusable = |why: String| Err(OpenError::Unusable { path: path.to_owned(), why });
    if beside(path, "-wal").exists() {
        return unusable("it is missing, but its write-ahead log (-wal) is there".to_owned());
    }
    if !instance.trim().is_empty() {
        let lock = beside(path, ".lock");
        return unusable(format!("it is missing, and it was here ({} says so); remove that file too to begin with an empty queue", lock.display()));
    }
    Ok(())
}

/// Notes in the lock's file that there is a database. On a full disk that waits for the next start.
fn remember(lock: &File, instance: &str) {
    let noted = lock.metadata().and_then(|about| {
        let mut lock = lock;
        if about.len() == 0 { lock.write_all(instance.as_bytes()).and_then(|()| lock.sync_all()) } else { Ok(()) }
    });
    if let Err(error) = noted {
        warn!(%error, "it could not be noted that there is a database");
    }
}

/// Before the schema changes, so that the way back to the program of before is open: one copy, of the latest such moment.
fn keep_before_upgrade(path: &Path, schema: usize) -> Result<(), OpenError> {
    let (part, kept) = (beside(path, ".schema.part"), beside(path, &format!(".schema-{schema}")));
    info!(copy = %kept.display(), schema, to = MIGRATIONS.len(), "the store is brought to a new schema; a copy of it is kept");
    if let Err(error) = copy(path, &part) {
        let _ = std::fs::remove_file(&part);
        return Err(error.into());
    }
    let files = |doing, source| OpenError::Files { doing, path: kept.clone(), source };
    std::fs::rename(&part, &kept).and_then(|()| flush(directory_of(path))).map_err(|source| files("rename the copy to", source))?;
    for older in (1..MIGRATIONS.len()).filter(|older| *older != schema) {
        super::files::remove(&beside(path, &format!(".schema-{older}"))).map_err(|source| files("remove the copy before", source))?;
    }
    Ok(())
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// The one that changes things.
    Writer,
    /// One of those that only look.
    Reader,
}

/// Opens a connection and sets what `SQLite` forgets between connections.
pub(super) fn connect(path: &Path, role: Role) -> Result<Connection, OpenError> {
    let access = match role {
        Role::Writer => OpenFlags::SQLITE_OPEN_READ_WRITE,
        Role::Reader => OpenFlags::SQLITE_OPEN_READ_ONLY,
    };
    let prepare = || {
        let connection = Connection::open_with_flags(path, access | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS);
        // A commit answers a client, so it must outlive a power cut: FULL. The cache is in KiB (negative).
        connection.execute_batch("PRAGMA synchronous = FULL; PRAGMA cache_size = -2048; PRAGMA foreign_keys = ON; PRAGMA trusted_schema = OFF;")?;
        if role == Role::Writer {
            connection.execute_batch("PRAGMA wal_autocheckpoint = 1000; PRAGMA journal_size_limit = 67108864; PRAGMA secure_delete = FAST;")?;
        }
        Ok(connection)
    };
    prepare().map_err(|source: rusqlite::Error| {
        if is_damage(&source) {
            return OpenError::Unusable { path: path.to_owned(), why: meaning(&source) };
        }
        OpenError::Sqlite { doing: "open", path: path.to_owned(), source }
    })
}

/// Makes the database under another name and then renames it, so that a file by its proper name is always a whole one.
fn create(path: &Path) -> Result<(), OpenError> {
    let fresh = beside(path, ".new");
    for left_over in [""].into_iter().chain(COMPANIONS) {
        let _ = std::fs::remove_file(beside(&fresh, left_over));
    }
    private_file(&fresh)?;
    let failed = |source| OpenError::Sqlite { doing: "make", path: fresh.clone(), source };
    let mut connection = connect(&fresh, Role::Writer)?;
    connection.execute_batch("PRAGMA page_size = 8192; PRAGMA journal_mode = WAL;").map_err(failed)?;
    migrate(&mut connection, MIGRATIONS).map_err(|source| OpenError::Schema { path: fresh.clone(), source })?;
    connection.execute_batch(&format!("PRAGMA application_id = {APPLICATION_ID}")).map_err(failed)?;
    name(&connection).map_err(failed)?;
    connection.close().map_err(|(_, source)| failed(source))?;
    std::fs::rename(&fresh, path).map_err(|source| OpenError::Files { doing: "rename the new database to", path: path.to_owned(), source })?;
    flush(directory_of(path)).map_err(|source| OpenError::Files { doing: "flush the directory", path: directory_of(path).to_owned(), source })
}

/// Looks at the file without changing it, its log included, and tells the version of its schema.
fn check(path: &Path) -> Result<usize, OpenError> {
    let connection = connect(path, Role::Reader)?;
    let unusable = |why: String| OpenError::Unusable { path: path.to_owned(), why };
    // Want of memory or a disk that does not answer is no damage, and no reason to restore anything.
    let failed = |source: rusqlite::Error| {
        if is_damage(&source) { unusable(meaning(&source)) } else { OpenError::Sqlite { doing: "check", path: path.to_owned(), source } }
    };
    let number = |pragma: &str| connection.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0));
    let id = number("application_id").map_err(failed)?;
    if id != i64::from(APPLICATION_ID) {
        return Err(unusable("it is not a database of runner-coordinator".to_owned()));
    }
    let schema = number("user_version").map_err(failed)?;
    match connection.query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0)) {
        Ok(verdict) if verdict == "ok" => Ok(usize::try_from(schema).unwrap_or(0)),
        Ok(verdict) => Err(unusable(format!("it is damaged: {verdict}"))),
        Err(error) => Err(failed(error)),
    }
}
