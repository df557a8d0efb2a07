//! The directory of a run, with everything that it began; taken away at the end, also of a run that was killed itself.

use std::fs;
use std::path::{Path, PathBuf};

use crate::own_engine::processes;

/// Short: the paths of sockets may have 107 bytes only.
const PREFIX: &str = "rc-chaos.";

/// The directory.
#[derive(Debug)]
pub(crate) struct Place {
    path: PathBuf,
}

impl Place {
    /// A new one; what killed runs left is taken away first.
    pub(crate) fn take() -> Self {
        for entry in fs::read_dir("/tmp").expect("a directory").flatten() {
            let path = entry.path();
            let ours = entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX));
            let owner = fs::read_to_string(path.join("owner")).ok().and_then(|pid| pid.trim().parse().ok());
            if ours && owner.is_some_and(|pid| !processes::is_alive(pid)) {
                reap(&path);
            }
        }
        let path = tempfile::Builder::new().prefix(PREFIX).tempdir_in("/tmp").expect("a directory").keep();
        fs::write(path.join("owner"), format!("{}\n", std::process::id())).expect("an owner");
        Self { path }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        reap(&self.path);
    }
}

fn reap(path: &Path) {
    processes::reap(path);
    let _ = fs::remove_dir_all(path);
}
