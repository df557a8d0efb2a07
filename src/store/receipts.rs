//! The receipts of jobs' ends as files: one per runner that runs a command, made empty before its container, written by the container's first
//! process, and taken away with the container.
//!
//! The job has the same user as that process, so it can write the file too. What it writes proves nothing, but it takes room: the file may
//! grow to [`MAX_BYTES`]; [`Receipts::make_room`] empties a larger one, and says whose it was, so that the job can be ended.

use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{self, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rustix::fs::{FallocateFlags, fallocate};

use crate::domain::RunnerId;

/// Most bytes of a receipt; a real one has some 250.
pub const MAX_BYTES: u64 = 4096;

/// What is in a runner's receipt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Left {
    /// Nothing: the job has not ended, or its end was not proved.
    Nothing,
    /// Something, and since when. Whether it is a receipt its signature tells.
    Text(Vec<u8>, Timestamp),
    /// More than any receipt has.
    TooMuch,
}

/// The receipts of this machine.
#[derive(Debug, Clone)]
pub struct Receipts {
    root: PathBuf,
}

impl Receipts {
    /// Receipts in the directory `root`.
    ///
    /// # Errors
    /// What the file system says.
    pub fn open(root: PathBuf) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(&root)?;
        Ok(Self { root })
    }

    /// Empties what is too large below `root`, as far as that can be done, and answers whose it was.
    #[must_use]
    pub fn make_room(root: &Path) -> Vec<RunnerId> {
        let Ok(entries) = fs::read_dir(root) else { return Vec::new() };
        let too_large = |path: &PathBuf| fs::metadata(path).is_ok_and(|about| about.len() > MAX_BYTES);
        let overgrown = entries.flatten().map(|entry| entry.path()).filter(too_large);
        overgrown.filter_map(|path| OpenOptions::new().write(true).truncate(true).open(&path).ok().and_then(|_| runner_of(&path))).collect()
    }

    /// Where they are.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Makes a runner's receipt, empty, and says where it is. It may be written by whoever can reach it, because the container's user is not
    /// ours; only its own container can, since the directory is closed.
    ///
    /// # Errors
    /// What the file system says.
    pub fn prepare(&self, runner: &RunnerId) -> io::Result<PathBuf> {
        let path = self.path(runner);
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(&path)?;
        file.set_permissions(Permissions::from_mode(0o666))?;
        // So that a job can prove its end on a disk that is full by then. Where room cannot be kept it must be found.
        let _ = fallocate(&file, FallocateFlags::KEEP_SIZE, 0, MAX_BYTES);
        Ok(path)
    }

    /// What is in a runner's receipt now; a short look at one small file.
    ///
    /// # Errors
    /// What the file system says; that there is no such file is no error.
    pub fn read(&self, runner: &RunnerId) -> io::Result<Left> {
        let file = match OpenOptions::new().read(true).open(self.path(runner)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Left::Nothing),
            Err(error) => return Err(error),
        };
        let about = file.metadata()?;
        if about.len() > MAX_BYTES {
            return Ok(Left::TooMuch);
        }
        let mut text = Vec::new();
        file.take(MAX_BYTES).read_to_end(&mut text)?;
        let since = about.modified().ok().and_then(|at| Timestamp::try_from(at).ok()).unwrap_or(Timestamp::UNIX_EPOCH);
        Ok(if text.is_empty() { Left::Nothing } else { Left::Text(text, since) })
    }

    /// Takes a runner's receipt away. Fine when there is none.
    ///
    /// # Errors
    /// What the file system says.
    pub fn forget(&self, runner: &RunnerId) -> io::Result<()> {
        gone(&self.path(runner))
    }

    /// Takes away the receipts of runners that `keep` does not name, and answers how many those were.
    ///
    /// # Errors
    /// What the file system says.
    pub fn sweep(&self, keep: impl Fn(&RunnerId) -> bool) -> io::Result<usize> {
        let mut swept = 0;
        for path in self.files()? {
            if !runner_of(&path).is_some_and(|runner| keep(&runner)) {
                gone(&path)?;
                swept += 1;
            }
        }
        Ok(swept)
    }

    fn path(&self, runner: &RunnerId) -> PathBuf {
        self.root.join(runner.as_str())
    }

    fn files(&self) -> io::Result<Vec<PathBuf>> {
        fs::read_dir(&self.root)?.map(|entry| entry.map(|entry| entry.path())).collect()
    }
}

fn runner_of(path: &Path) -> Option<RunnerId> {
    path.file_name().and_then(|name| name.to_str()).map(RunnerId::from_trusted)
}

fn gone(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receipts() -> (tempfile::TempDir, Receipts) {
        let dir = tempfile::tempdir().expect("a directory");
        let receipts = Receipts::open(dir.path().join("receipts")).expect("opened");
        (dir, receipts)
    }

    #[test]
    fn a_receipt_is_made_empty_read_and_taken_away() {
        let (_dir, receipts) = receipts();
        let runner = RunnerId::from_trusted("r1");
        assert_eq!(receipts.read(&runner).expect("read"), Left::Nothing);
        let path = receipts.prepare(&runner).expect("made");
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o666, "whatever the mask");
        assert_eq!(fs::metadata(path.parent().expect("a directory")).expect("there").permissions().mode() & 0o777, 0o700);
        assert_eq!(receipts.read(&runner).expect("read"), Left::Nothing);
        fs::write(&path, "end").expect("written");
        assert!(matches!(receipts.read(&runner).expect("read"), Left::Text(text, since) if text == b"end" && since > Timestamp::UNIX_EPOCH));
        receipts.prepare(&runner).expect("made anew");
        assert_eq!(receipts.read(&runner).expect("read"), Left::Nothing, "nothing of an earlier start is left");
        receipts.forget(&runner).expect("gone");
        receipts.forget(&runner).expect("gone already");
        assert!(!path.exists());
    }

    #[test]
    fn what_is_too_large_is_told_and_emptied() {
        let (_dir, receipts) = receipts();
        let runner = RunnerId::from_trusted("r1");
        let path = receipts.prepare(&runner).expect("made");
        fs::write(&path, vec![b'x'; 4096]).expect("written");
        assert!(matches!(receipts.read(&runner).expect("read"), Left::Text(..)));
        assert_eq!(Receipts::make_room(receipts.root()), []);
        fs::write(&path, vec![b'x'; 4097]).expect("written");
        assert_eq!(receipts.read(&runner).expect("read"), Left::TooMuch);
        assert_eq!(Receipts::make_room(receipts.root()), std::slice::from_ref(&runner));
        assert_eq!(receipts.read(&runner).expect("read"), Left::Nothing);
        assert_eq!(Receipts::make_room(Path::new("/nonexistent")), [], "before the first start there is nothing");
    }

    #[test]
    fn left_overs_of_a_crash_are_swept_away() {
        let (_dir, receipts) = receipts();
        let (known, unknown) = (RunnerId::from_trusted("known"), RunnerId::from_trusted("unknown"));
        let kept = receipts.prepare(&known).expect("made");
        let swept = receipts.prepare(&unknown).expect("made");
        assert_eq!(receipts.sweep(|runner| *runner == known).expect("swept"), 1);
        assert!(kept.exists() && !swept.exists());
    }
}
