//! Writes a secret to a file that only its owner can read, so that it is there whole or not at all.
//!
//! A secret that GitLab has to be told as well is written in two steps: staged beside its place before GitLab hears of it, and put into
//! its place when GitLab has taken it. Whatever ends the process in between leaves the staged file, and the next run knows what to repeat.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret as _, SecretString};

/// The place of one secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretFile(PathBuf);

/// A secret that lies beside its place.
#[derive(Debug)]
#[must_use = "a staged secret is not in its place yet"]
pub struct Staged<'a>(&'a SecretFile);

impl SecretFile {
    /// The secret that has, or will have, its place at `path`.
    #[must_use]
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Its place.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Where it lies while it is staged.
    #[must_use]
    pub fn staged_path(&self) -> PathBuf {
        let name = self.0.file_name().unwrap_or_default().to_string_lossy();
        self.0.with_file_name(format!(".{name}.new"))
    }

    /// Writes the secret beside its place, mode 0600, and through to the disk.
    ///
    /// # Errors
    /// Whatever the system says.
    pub fn stage(&self, secret: &SecretString) -> io::Result<Staged<'_>> {
        let beside = self.staged_path();
        remove_if_there(&beside)?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
        file.write_all(secret.expose_secret().as_bytes())?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        Ok(Staged(self))
    }

    /// A secret that an earlier run staged.
    pub fn staged(&self) -> Staged<'_> {
        Staged(self)
    }

    /// Both steps at once.
    ///
    /// # Errors
    /// Whatever the system says; then nothing is left beside its place.
    pub fn write(&self, secret: &SecretString) -> io::Result<()> {
        let written = self.stage(secret).and_then(Staged::commit);
        if written.is_err() {
            remove_if_there(&self.staged_path())?;
        }
        written
    }

    /// Takes the file away, and what is staged beside it. Whether there was anything.
    ///
    /// # Errors
    /// Whatever the system says.
    pub fn remove(&self) -> io::Result<Removed> {
        let staged = remove_if_there(&self.staged_path())?;
        let placed = remove_if_there(&self.0)?;
        Ok(if staged == Removed::Nothing { placed } else { Removed::Something })
    }
}

/// Whether there was something to remove.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removed {
    /// It is gone.
    Something,
    /// There was nothing.
    Nothing,
}

impl Staged<'_> {
    /// Puts the secret into its place, over what may be there.
    ///
    /// # Errors
    /// Whatever the system says.
    pub fn commit(self) -> io::Result<()> {
        let path = &self.0.0;
        fs::rename(self.0.staged_path(), path)?;
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
        File::open(directory)?.sync_all()
    }

    /// Forgets it.
    ///
    /// # Errors
    /// Whatever the system says.
    pub fn discard(self) -> io::Result<()> {
        remove_if_there(&self.0.staged_path()).map(drop)
    }
}

fn remove_if_there(path: &Path) -> io::Result<Removed> {
    match fs::remove_file(path) {
        Ok(()) => Ok(Removed::Something),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Removed::Nothing),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_secret_appears_whole_and_for_its_owner_only() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = SecretFile::at(dir.path().join("token"));
        let staged = file.stage(&SecretString::from("one")).expect("staged");
        assert!(!file.path().exists() && file.staged_path().exists());
        staged.commit().expect("in its place");
        file.write(&SecretString::from("two")).expect("written over");
        assert_eq!(fs::read_to_string(file.path()).expect("readable"), "two\n");
        assert_eq!(fs::metadata(file.path()).expect("a file").permissions().mode() & 0o777, 0o600);
        assert!(!file.staged_path().exists());
        assert_eq!(file.remove().expect("removed"), Removed::Something);
        assert_eq!(file.remove().expect("nothing"), Removed::Nothing);
    }

    #[test]
    fn a_secret_that_cannot_be_put_into_its_place_is_left_nowhere() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = SecretFile::at(dir.path().join("token"));
        fs::create_dir(file.path()).expect("a directory in its place");
        assert!(file.write(&SecretString::from("one")).is_err());
        assert!(!file.staged_path().exists());
    }
}
