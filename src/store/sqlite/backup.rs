//! A backup: one file, whole or not there, made while a daemon may write to the database.

use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FlockOperation, RenameFlags, flock, renameat_with};
use rustix::io::Errno;

use super::copy::{Contents, CopyError, Look, copy, examine};
use super::files::{COMPANIONS, beside, directory_of, flush, private_file, remove};

/// What to do when the backup's place is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overwrite {
    /// Leave what is there.
    Never,
    /// Put the backup in its place, once the backup is whole.
    WhenWhole,
}

/// A backup that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backup {
    /// What it holds.
    pub contents: Contents,
    /// How large it is.
    pub bytes: u64,
}

/// Makes a backup of `database` in the file `target`. It is readable by its owner only, on disk, and was checked when this returns.
///
/// # Errors
/// When there is no database of ours, when it is damaged, when `target` is taken, or when the file system refuses; then `target` is as it was.
pub fn backup(database: &Path, target: &Path, overwrite: Overwrite) -> Result<Backup, CopyError> {
    examine(database, Look::Label)?;
    refuse_taken(database, target, overwrite)?;
    let mut part = Part::take(target)?;
    let contents = copy(database, &part.path)?;
    let bytes = std::fs::metadata(&part.path).map_err(CopyError::files("look at", &part.path))?.len();
    put(&part.path, target, overwrite)?;
    // From now on another backup may have a file of that name.
    part.state = PartState::Placed;
    flush(directory_of(target)).map_err(CopyError::files("flush the directory", directory_of(target)))?;
    Ok(Backup { contents, bytes })
}

fn refuse_taken(database: &Path, target: &Path, overwrite: Overwrite) -> Result<(), CopyError> {
    let there = match std::fs::symlink_metadata(target) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        there => there.map_err(CopyError::files("look at", target))?,
    };
    let in_use = std::iter::once(database.to_owned()).chain(COMPANIONS.map(|companion| beside(database, companion)));
    let same = |path: PathBuf| std::fs::metadata(path).is_ok_and(|about| (about.dev(), about.ino()) == (there.dev(), there.ino()));
    if in_use.into_iter().any(same) {
        return Err(CopyError::Same(target.to_owned()));
    }
    // What is no plain file is somebody's link or device, and not an earlier backup.
    if overwrite == Overwrite::Never || !there.is_file() { Err(CopyError::Exists(target.to_owned())) } else { Ok(()) }
}

/// Gives the finished file its name, in one step.
fn put(part: &Path, target: &Path, overwrite: Overwrite) -> Result<(), CopyError> {
    let renamed = match overwrite {
        Overwrite::WhenWhole => std::fs::rename(part, target),
        Overwrite::Never => match renameat_with(CWD, part, CWD, target, RenameFlags::NOREPLACE) {
            // A file system that cannot do this in one step.
            Err(Errno::INVAL | Errno::NOSYS) if !target.exists() => std::fs::rename(part, target),
            other => other.map_err(io::Error::from),
        },
    };
    renamed.map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => CopyError::Exists(target.to_owned()),
        _ => CopyError::Files { doing: "rename the backup to", path: target.to_owned(), source },
    })
}

/// The file that becomes the backup: beside it, held while it is written, and taken away when that fails.
struct Part {
    path: PathBuf,
    state: PartState,
    _held: File,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PartState {
    /// It is being written.
    Written,
    /// It is the backup.
    Placed,
}

impl Part {
    fn take(target: &Path) -> Result<Self, CopyError> {
        let name = target.file_name().ok_or_else(|| CopyError::Exists(target.to_owned()))?;
        let path = target.with_file_name(format!(".{}.part", name.to_string_lossy()));
        let held = private_file(&path)?;
        let busy = || CopyError::Busy(target.to_owned());
        flock(&held, FlockOperation::NonBlockingLockExclusive).map_err(|errno| match errno {
            Errno::WOULDBLOCK => busy(),
            _ => CopyError::files("lock", &path)(errno.into()),
        })?;
        // One that finished in between has given this file another name.
        let ours = held.metadata().map_err(CopyError::files("look at", &path))?;
        if !std::fs::metadata(&path).is_ok_and(|about| about.ino() == ours.ino()) {
            return Err(busy());
        }
        // It was there before: what is about to be written into it is nobody else's to read.
        if ours.uid() != rustix::process::geteuid().as_raw() {
            let source = io::Error::new(io::ErrorKind::PermissionDenied, "it belongs to another user");
            return Err(CopyError::Files { doing: "write", path, source });
        }
        held.set_permissions(Permissions::from_mode(0o600)).map_err(CopyError::files("close to others", &path))?;
        Ok(Self { path, state: PartState::Written, _held: held })
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if self.state == PartState::Placed {
            return;
        }
        for end in [""].into_iter().chain(COMPANIONS) {
            let _ = remove(&beside(&self.path, end));
        }
    }
}
