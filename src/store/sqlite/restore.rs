//! Puts a backup in the place of a database, so that at every moment the old one or the new one is whole, and nothing of the one is ever
//! taken for a part of the other.
//!
//! ```text
//!  FILE ──copy, check──▶ DB.restoring.part/DB.new ──rename──▶ DB.restoring/DB.new        the restore holds from here on
//!  DB, DB-wal ──────────────────rename──────────▶ DB.restoring/                          the old one with its log
//!  DB.restoring/DB.new ─────────rename──────────▶ DB
//!  DB.restoring/ ───────────────rename──────────▶ DB.replaced-TIME/
//! ```
//!
//! A crash before the first line's rename leaves the old database as it was. After it, whoever opens the database next ([`super::open`], or
//! another restore) goes on from where it broke off, under the same lock.

use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::copy::{Contents, CopyError, Look, copy, examine};
use super::files::{COMPANIONS, beside, directory_of, flush, lock, make_directory, remove};
use super::open::{Role, connect};

/// What the new database's name has at its end until it has its own; never the name of what it replaces, or of a companion of that.
const NEW: &str = ".new";

/// A restore that was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// What the database holds now.
    pub contents: Contents,
    /// Where the database that was replaced is kept; `None` when there was none.
    pub replaced: Option<PathBuf>,
}

/// Puts the backup `from` in the place of `database`. Its schema stays as it is; the next start of the daemon brings it up to date.
///
/// # Errors
/// When a daemon has the database, when `from` is not a whole database of ours or is of a newer schema, or when the file system refuses. Then
/// the database is as it was, unless the refusal came at the renaming at the end: what is left to do is then done at the next start.
pub fn restore(database: &Path, from: &Path, now: Timestamp) -> Result<Restored, CopyError> {
    // Before anything is made or locked: most mistakes are in the file's name.
    examine(from, Look::Label)?;
    make_directory(database)?;
    let _lock = lock(database)?;
    finish(database, now)?;
    refuse_same(database, from)?;
    let contents = prepare(database, from)?;
    let replaced = finish(database, now)?;
    Ok(Restored { contents, replaced })
}

fn refuse_same(database: &Path, from: &Path) -> Result<(), CopyError> {
    let id = |path: &Path| std::fs::metadata(path).ok().map(|about| (about.dev(), about.ino()));
    if id(database).is_some_and(|database| id(from) == Some(database)) { Err(CopyError::Same(from.to_owned())) } else { Ok(()) }
}

/// Makes the new database beside the old one, whole and on disk.
pub(super) fn prepare(database: &Path, from: &Path) -> Result<Contents, CopyError> {
    let part = beside(database, ".restoring.part");
    let cleared = match std::fs::remove_dir_all(&part) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    };
    cleared.map_err(CopyError::files("remove", &part))?;
    std::fs::DirBuilder::new().mode(0o700).create(&part).map_err(CopyError::files("make the directory", &part))?;
    let made = fill(&part, database, from);
    if made.is_err() {
        let _ = std::fs::remove_dir_all(&part);
    }
    made
}

fn fill(part: &Path, database: &Path, from: &Path) -> Result<Contents, CopyError> {
    let new = beside(&within(part, database), NEW);
    let contents = copy(from, &new)?;
    let sqlite = |source: rusqlite::Error| CopyError::Sqlite { doing: "prepare", path: new.clone(), source: Box::new(source) };
    let connection = connect(&new, Role::Writer)?;
    connection.execute_batch("PRAGMA journal_mode = WAL").map_err(sqlite)?;
    connection.close().map_err(|(_, source)| sqlite(source))?;
    give_to_owner(database, &[part, &new])?;
    flush(&new).and_then(|()| flush(part)).map_err(CopyError::files("flush", &new))?;
    let pending = pending(database);
    std::fs::rename(part, &pending).map_err(CopyError::files("rename the new database to", &pending))?;
    flush(directory_of(database)).map_err(CopyError::files("flush the directory", directory_of(database)))?;
    Ok(contents)
}

/// What root restores is the daemon's all the same: the owner is that of the database before, else of the directory.
fn give_to_owner(database: &Path, made: &[&Path]) -> Result<(), CopyError> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let owner = std::fs::metadata(database).or_else(|_| std::fs::metadata(directory_of(database)));
    let owner = owner.map_err(CopyError::files("look at", directory_of(database)))?;
    let lock = beside(database, ".lock");
    for path in made.iter().copied().chain([lock.as_path()]) {
        std::os::unix::fs::chown(path, Some(owner.uid()), Some(owner.gid())).map_err(CopyError::files("give to the daemon's user", path))?;
    }
    Ok(())
}

/// A database's name in another directory.
fn within(directory: &Path, database: &Path) -> PathBuf {
    directory.join(database.file_name().unwrap_or_default())
}

/// Where a restore stands that is not finished.
pub(super) fn pending(database: &Path) -> PathBuf {
    beside(database, ".restoring")
}

/// One step of a restore. Each can be taken again after a crash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum FileStep {
    /// Gives a file or directory another name.
    Rename(PathBuf, PathBuf),
    /// Removes an index that can be made anew.
    Remove(PathBuf),
    /// Removes a directory in which nothing is left.
    RemoveDirectory(PathBuf),
    /// Makes the names in a directory outlive a power cut.
    Flush(PathBuf),
}

/// What is left to do of a restore that holds, in order; nothing where there is none.
pub(super) fn steps(database: &Path, now: Timestamp) -> Vec<FileStep> {
    use FileStep::{Flush, Remove, RemoveDirectory, Rename};
    let (pending, directory) = (pending(database), directory_of(database).to_owned());
    if !pending.is_dir() {
        return Vec::new();
    }
    let mut steps = Vec::new();
    let kept = within(&pending, database);
    let new = beside(&kept, NEW);
    let mut any_kept = kept.exists() || beside(&kept, "-wal").exists();
    if new.exists() {
        // Not earlier: what bears the database's name after that is the new one's.
        for end in ["", "-wal", "-journal"].into_iter().filter(|end| beside(database, end).exists()) {
            any_kept = true;
            steps.push(Rename(beside(database, end), beside(&kept, end)));
        }
        steps.extend([Remove(beside(database, "-shm")), Flush(pending.clone()), Flush(directory.clone())]);
        steps.extend([Rename(new.clone(), database.to_owned()), Flush(directory.clone())]);
    }
    steps.extend(COMPANIONS.map(|companion| Remove(beside(&new, companion))));
    let aside = free_name(&beside(database, &format!(".replaced-{}", now.strftime("%Y%m%dT%H%M%SZ"))));
    steps.push(if any_kept { Rename(pending, aside) } else { RemoveDirectory(pending) });
    steps.push(Flush(directory));
    steps
}

/// The first of `path`, `path-2`, `path-3` and so on that nothing bears.
fn free_name(path: &Path) -> PathBuf {
    let numbered = (2_u32..).map(|number| beside(path, &format!("-{number}")));
    std::iter::once(path.to_owned()).chain(numbered).find(|name| !name.exists()).unwrap_or_else(|| path.to_owned())
}

/// Does what is left to do of a restore that holds, and says where the replaced database is kept.
pub(super) fn finish(database: &Path, now: Timestamp) -> Result<Option<PathBuf>, CopyError> {
    let mut replaced = None;
    for step in steps(database, now) {
        take(&step)?;
        if let FileStep::Rename(from, to) = step
            && from == pending(database)
        {
            replaced = Some(within(&to, database));
        }
    }
    Ok(replaced)
}

/// Takes one step.
pub(super) fn take(step: &FileStep) -> Result<(), CopyError> {
    match step {
        FileStep::Rename(from, to) => std::fs::rename(from, to).map_err(CopyError::files("rename", from)),
        FileStep::Remove(path) => remove(path).map_err(CopyError::files("remove", path)),
        FileStep::RemoveDirectory(path) => std::fs::remove_dir(path).map_err(CopyError::files("remove", path)),
        FileStep::Flush(path) => flush(path).map_err(CopyError::files("flush the directory", path)),
    }
}

#[cfg(test)]
#[path = "restore_tests.rs"]
mod tests;
