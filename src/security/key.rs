//! The master key: 32 random bytes in `<data_dir>/secret.key`, made at the first start, from which every other key is derived.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use ring::hmac;
use ring::rand::{SecureRandom as _, SystemRandom};
use rustix::fs::OFlags;

use super::SecurityError;

/// The key's file in the data directory.
pub(super) const KEY_FILE: &str = "secret.key";
/// Length of the key.
const KEY_BYTES: usize = 32;

/// The key from which the others are derived. Never shown.
pub(super) struct MasterKey(hmac::Key);

impl MasterKey {
    /// Reads the key, or makes it. Two processes that start at once end with the same key.
    pub(super) fn open(data_dir: &Path) -> Result<Self, SecurityError> {
        let path = data_dir.join(KEY_FILE);
        let failed = |source| SecurityError::KeyFile { path: path.clone(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(data_dir).map_err(failed)?;
        let bytes = if let Some(bytes) = read(&path)? {
            bytes
        } else {
            create(data_dir, &path).map_err(failed)?;
            read(&path)?.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?
        };
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, &bytes)))
    }

    /// Reads the key of a daemon that has one.
    pub(super) fn existing(data_dir: &Path) -> Result<Self, SecurityError> {
        let path = data_dir.join(KEY_FILE);
        let bytes = read(&path)?.ok_or_else(|| SecurityError::KeyFile { path, source: io::ErrorKind::NotFound.into() })?;
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, &bytes)))
    }

    /// The key for one purpose.
    pub(super) fn derive(&self, purpose: &str) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&self.0, purpose.as_bytes()).as_ref())
    }
}

/// `None` when there is no file.
fn read(path: &Path) -> Result<Option<[u8; KEY_BYTES]>, SecurityError> {
    let failed = |source| SecurityError::KeyFile { path: path.to_path_buf(), source };
    let refused = |why: String| SecurityError::KeyRefused { path: path.to_path_buf(), why };
    // Neither a link to follow nor a pipe to wait for.
    let flags = i32::try_from((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits()).unwrap_or(0);
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let about = file.metadata().map_err(failed)?;
    let mode = about.mode() & 0o777;
    if !about.is_file() {
        return Err(refused("is not a plain file".to_owned()));
    }
    if mode & 0o077 != 0 {
        return Err(refused(format!("is open to others (mode {mode:04o}): replace it, or make it 0600 if nobody has read it")));
    }
    let mut bytes = Vec::new();
    file.take(KEY_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    let bytes = bytes.try_into().map_err(|_| refused(format!("does not hold {KEY_BYTES} bytes")))?;
    Ok(Some(bytes))
}

/// Writes the key beside its place and links it there: it appears whole or not at all, and never over another.
fn create(data_dir: &Path, path: &Path) -> io::Result<()> {
    let random = |error: ring::error::Unspecified| io::Error::other(error.to_string());
    let mut bytes = [0; KEY_BYTES];
    SystemRandom::new().fill(&mut bytes).map_err(random)?;
    let beside = data_dir.join(format!("{KEY_FILE}.{}", uuid::Uuid::now_v7().simple()));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    let written = file.write_all(&bytes).and_then(|()| file.sync_all()).and_then(|()| match fs::hard_link(&beside, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    });
    fs::remove_file(&beside)?;
    written?;
    File::open(data_dir)?.sync_all()
}
