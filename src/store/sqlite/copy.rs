//! One copy of a database in one plain file, of one moment, also while a daemon writes to it: what backups, restores and upgrades are made of.
//!
//! `VACUUM INTO` reads in one transaction, which with a write-ahead log keeps no writer waiting; the log cannot shrink meanwhile. It was
//! chosen over `SQLite`'s page-wise backup because it reads every row, so that damage is met when the copy is made and not when it is needed;
//! because it leaves free pages out, and with them what was wiped; and because its result has no log of its own that could get lost.

use std::path::{Path, PathBuf};

use rusqlite::Connection;

use super::files::{COMPANIONS, beside, flush, private_file, remove};
use super::migrations::MIGRATIONS;
use super::open::{APPLICATION_ID, OpenError, Role, connect};

/// Why a database could not be copied, kept or put in place.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// There is nothing to copy.
    #[error("there is no file {}", .0.display())]
    Missing(PathBuf),
    /// The copy's place is taken.
    #[error("{} exists already", .0.display())]
    Exists(PathBuf),
    /// Source and target are one.
    #[error("{} is the database in use itself", .0.display())]
    Same(PathBuf),
    /// Somebody else is at it.
    #[error("{} is being written by another backup", .0.display())]
    Busy(PathBuf),
    /// A daemon runs.
    #[error("{} is in use by a running runner-coordinator; stop it first", .0.display())]
    InUse(PathBuf),
    /// A file is no database of ours, or is damaged.
    #[error("{} cannot be used: {why}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A file was written by a newer program.
    #[error("{}: its schema is version {found}, and this program knows no version above {known}; use a newer runner-coordinator", path.display())]
    TooNew {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// The newest that we know.
        known: usize,
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
    /// `SQLite` failed.
    #[error("cannot {doing} {}", path.display())]
    Sqlite {
        /// What was tried.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What `SQLite` said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl CopyError {
    /// The file system's refusal, to be told with what was tried.
    pub(super) fn files(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Files { doing, path: path.to_owned(), source }
    }

    /// `SQLite`'s refusal; that a file is damaged is told as that.
    pub(super) fn sqlite(doing: &'static str, path: &Path) -> impl FnOnce(rusqlite::Error) -> Self {
        move |source| {
            if super::damage::is_damage(&source) {
                return Self::Unusable { path: path.to_owned(), why: super::damage::meaning(&source) };
            }
            Self::Sqlite { doing, path: path.to_owned(), source: Box::new(source) }
        }
    }
}

impl From<OpenError> for CopyError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::InUse { path, .. } => Self::InUse(path),
            OpenError::Files { doing, path, source } => Self::Files { doing, path, source },
            OpenError::Unusable { path, why } => Self::Unusable { path, why },
            OpenError::Schema { path, source } => Self::Unusable { path, why: source.to_string() },
            OpenError::Sqlite { doing, path, source } => Self::sqlite(doing, &path)(source),
            OpenError::Copy(error) => *error,
        }
    }
}

/// What a database holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contents {
    /// The version of its schema.
    pub schema: usize,
    /// The coordinator's id.
    pub instance: String,
    /// All jobs, ended ones too.
    pub jobs: u64,
}

/// How closely to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// Whose it is and of which version.
    Label,
    /// All of it: every page and every index.
    Whole,
}

/// Looks whether a file is a database of ours that this program can use.
pub(super) fn examine(path: &Path, look: Look) -> Result<Contents, CopyError> {
    if !path.is_file() {
        return Err(CopyError::Missing(path.to_owned()));
    }
    let connection = connect(path, Role::Reader)?;
    let unusable = |why: String| CopyError::Unusable { path: path.to_owned(), why };
    let number = |pragma: &str| connection.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0)).map_err(CopyError::sqlite("read", path));
    if number("application_id")? != i64::from(APPLICATION_ID) {
        return Err(unusable("it is not a database of runner-coordinator".to_owned()));
    }
    let version = number("user_version")?;
    let schema = match usize::try_from(version) {
        Ok(schema) if (1..=MIGRATIONS.len()).contains(&schema) => schema,
        Ok(schema) if schema > MIGRATIONS.len() => {
            return Err(CopyError::TooNew { path: path.to_owned(), found: version, known: MIGRATIONS.len() });
        }
        Ok(_) | Err(_) => return Err(unusable(format!("its schema version is {version}, which no runner-coordinator wrote"))),
    };
    if look == Look::Whole {
        let verdict =
            connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get::<_, String>(0)).map_err(CopyError::sqlite("check", path))?;
        if verdict != "ok" {
            return Err(unusable(format!("it is damaged: {verdict}")));
        }
    }
    contents(&connection, schema).map_err(CopyError::sqlite("read", path))
}

fn contents(connection: &Connection, schema: usize) -> rusqlite::Result<Contents> {
    let instance = connection.query_row("SELECT value FROM meta WHERE key = 'instance'", [], |row| row.get(0))?;
    let jobs = connection.query_row("SELECT ifnull(sum(jobs), 0) FROM job_counts", [], |row| row.get::<_, i64>(0))?;
    Ok(Contents { schema, instance, jobs: u64::try_from(jobs).unwrap_or(0) })
}

/// Copies `source` into the file `target`, over what is there, waits until it is on disk, and looks whether it is whole.
pub(super) fn copy(source: &Path, target: &Path) -> Result<Contents, CopyError> {
    examine(source, Look::Label)?;
    for companion in COMPANIONS {
        let left_over = beside(target, companion);
        remove(&left_over).map_err(CopyError::files("remove", &left_over))?;
    }
    // For its owner only from the first byte on: SQLite takes an empty file as its own.
    private_file(target)?.set_len(0).map_err(CopyError::files("write", target))?;
    let name = target.to_str().ok_or_else(|| CopyError::Unusable { path: target.to_owned(), why: "its path is not UTF-8".to_owned() })?;
    let connection = connect(source, Role::Reader)?;
    connection.execute("VACUUM INTO ?1", [name]).map_err(|error| match error.sqlite_error_code() {
        // The one that is read has room enough.
        Some(rusqlite::ErrorCode::DiskFull) => CopyError::sqlite("write", target)(error),
        _ => CopyError::sqlite("copy", source)(error),
    })?;
    flush(target).map_err(CopyError::files("flush", target))?;
    examine(target, Look::Whole)
}
