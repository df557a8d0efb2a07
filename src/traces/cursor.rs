//! How far the history has been sent, in a small file, so that a restart goes on where the last run was.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt as _;

/// What the file holds.
#[derive(Debug, Serialize, Deserialize)]
struct Place {
    /// Whose history it is: a store that was made anew counts anew.
    instance: String,
    /// The last position that need not be read again.
    after: i64,
}

/// The file.
#[derive(Debug, Clone)]
pub struct Cursor {
    path: PathBuf,
    instance: String,
}

impl Cursor {
    /// The cursor in `path` for the history of this store.
    #[must_use]
    pub fn new(path: PathBuf, instance: impl Into<String>) -> Self {
        Self { path, instance: instance.into() }
    }

    /// Where it stands; `None` when nothing of this store was ever sent, or the file cannot be read.
    pub async fn read(&self) -> Option<i64> {
        let text = tokio::fs::read(&self.path).await.ok()?;
        let place: Place = serde_json::from_slice(&text).ok()?;
        (place.instance == self.instance && place.after >= 0).then_some(place.after)
    }

    /// Moves it. The file is whole at every moment, a power cut included.
    ///
    /// # Errors
    /// What the file system said. The old place stays then, and what was sent since is sent again after a restart.
    pub async fn write(&self, after: i64) -> std::io::Result<()> {
        let fresh = self.path.with_extension("new");
        let text = serde_json::to_vec(&Place { instance: self.instance.clone(), after }).map_err(std::io::Error::other)?;
        let mut file = tokio::fs::File::create(&fresh).await?;
        file.write_all(&text).await?;
        file.sync_all().await?;
        tokio::fs::rename(&fresh, &self.path).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_is_kept_and_only_for_its_own_store() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("traces.json");
        let cursor = Cursor::new(path.clone(), "one");
        assert_eq!(cursor.read().await, None);
        cursor.write(7).await.expect("written");
        cursor.write(42).await.expect("written");
        assert_eq!(cursor.read().await, Some(42));
        assert_eq!(Cursor::new(path.clone(), "another").read().await, None);
        std::fs::write(&path, "{").expect("damaged");
        assert_eq!(cursor.read().await, None);
        assert!(Cursor::new(dir.path().join("no/such/place"), "one").write(1).await.is_err());
    }
}
