//! Opens the database file, or says clearly why not: a queue that cannot be read must never be taken for an empty one.

use std::fs::{File, OpenOptions, Permissions};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};
use rustix::fs::FlockOperation;
use uuid::Uuid;

use super::migrations::{MIGRATIONS, MigrationError, migrate};

/// Marks a database as ours (`RnCo`), so that another program's is refused.
const APPLICATION_ID: i32 = 0x526e_436f;

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
    #[error("{} cannot be used: {why}; restore it from a copy, or move it away to begin with an empty queue", path.display())]
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
    let lock = lock(path)?;
    let exists = path.try_exists().map_err(|source| OpenError::Files { doing: "look for", path: path.to_owned(), source })?;
    if !exists {
        create(path)?;
    }
    std::fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(|source| OpenError::Files {
        doing: "set the permissions of",
        path: path.to_owned(),
        source,
    })?;
    let mut writer = connect(path, Role::Writer)?;
    check(&writer, path)?;
    migrate(&mut writer, MIGRATIONS).map_err(|source| OpenError::Schema { path: path.to_owned(), source })?;
    let instance = writer.query_row("SELECT value FROM meta WHERE key = 'instance'", [], |row| row.get(0)).map_err(|source| OpenError::Sqlite {
        doing: "read the coordinator's id in",
        path: path.to_owned(),
        source,
    })?;
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
    prepare().map_err(|source: rusqlite::Error| match source.sqlite_error_code() {
        Some(rusqlite::ErrorCode::NotADatabase | rusqlite::ErrorCode::DatabaseCorrupt) => {
            OpenError::Unusable { path: path.to_owned(), why: source.to_string() }
        }
        _ => OpenError::Sqlite { doing: "open", path: path.to_owned(), source },
    })
}

fn make_directory(path: &Path) -> Result<(), OpenError> {
    let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) else { return Ok(()) };
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.map_err(|source| OpenError::Files { doing: "make the directory", path: directory.to_owned(), source })
}

/// Takes the lock that keeps a second coordinator away; the kernel frees it when we die.
fn lock(path: &Path) -> Result<File, OpenError> {
    let lock = beside(path, ".lock");
    let file = private_file(&lock)?;
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|errno| match errno {
        rustix::io::Errno::WOULDBLOCK => OpenError::InUse { path: path.to_owned(), lock: lock.clone() },
        _ => OpenError::Files { doing: "lock", path: lock.clone(), source: errno.into() },
    })?;
    Ok(file)
}

/// Makes the database under another name and then renames it, so that a file by its proper name is always a whole one.
fn create(path: &Path) -> Result<(), OpenError> {
    if beside(path, "-wal").exists() {
        let why = "it is missing, but its write-ahead log (-wal) is there".to_owned();
        return Err(OpenError::Unusable { path: path.to_owned(), why });
    }
    let fresh = beside(path, ".new");
    for left_over in ["", "-wal", "-shm", "-journal"] {
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
    let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let synced = File::open(directory).and_then(|directory| directory.sync_all());
    synced.map_err(|source| OpenError::Files { doing: "flush the directory", path: directory.to_owned(), source })
}

fn check(connection: &Connection, path: &Path) -> Result<(), OpenError> {
    let unusable = |why: String| OpenError::Unusable { path: path.to_owned(), why };
    let read = |pragma: &str| connection.query_row(&format!("PRAGMA {pragma}"), [], |row| row.get::<_, rusqlite::types::Value>(0));
    let id = read("application_id").map_err(|error| unusable(error.to_string()))?;
    if id != rusqlite::types::Value::Integer(APPLICATION_ID.into()) {
        return Err(unusable("it is not a database of runner-coordinator".to_owned()));
    }
    match read("quick_check(1)") {
        Ok(rusqlite::types::Value::Text(verdict)) if verdict == "ok" => Ok(()),
        Ok(verdict) => Err(unusable(format!("it is damaged: {verdict:?}"))),
        Err(error) => Err(unusable(format!("it is damaged: {error}"))),
    }
}

fn private_file(path: &Path) -> Result<File, OpenError> {
    let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
    opened.map_err(|source| OpenError::Files { doing: "open", path: path.to_owned(), source })
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}
