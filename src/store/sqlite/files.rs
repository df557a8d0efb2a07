//! What the database's files need of the file system: a place, a lock, names beside it, and the certainty that a change of names is on disk.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags};

use super::open::OpenError;

/// What `SQLite` keeps beside a database: its write-ahead log, the index of that, and the journal of databases without such a log.
pub(super) const COMPANIONS: [&str; 3] = ["-wal", "-shm", "-journal"];

/// Makes the directory of a file, for its owner only.
pub(super) fn make_directory(path: &Path) -> Result<(), OpenError> {
    let directory = directory_of(path);
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.map_err(|source| OpenError::Files { doing: "make the directory", path: directory.to_owned(), source })
}

/// Takes the lock that keeps a second coordinator away; the kernel frees it when we die.
pub(super) fn lock(path: &Path) -> Result<File, OpenError> {
    let lock = beside(path, ".lock");
    let file = private_file(&lock)?;
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|errno| match errno {
        rustix::io::Errno::WOULDBLOCK => OpenError::InUse { path: path.to_owned(), lock: lock.clone() },
        _ => OpenError::Files { doing: "lock", path: lock.clone(), source: errno.into() },
    })?;
    Ok(file)
}

/// Opens a file, or makes it for its owner only. A link is nobody's file.
pub(super) fn private_file(path: &Path) -> Result<File, OpenError> {
    let no_link = i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or_default();
    let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(no_link).open(path);
    opened.map_err(|source| OpenError::Files { doing: "open", path: path.to_owned(), source })
}

/// The path with more at the end of its name.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// The directory that a path is in.
pub(super) fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|directory| !directory.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Waits until a file, or the names in a directory, would survive a power cut.
pub(super) fn flush(path: &Path) -> std::io::Result<()> {
    File::open(path)?.sync_all()
}

/// Removes a file; fine when there is none.
pub(super) fn remove(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}
