//! A machine made of a directory, from a text: `== PATH` before the bytes of each file, `== PATH -> PATH` for a link.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::path::{Component, Path, PathBuf};

use runner_coordinator::platform::devices::Roots;
use tempfile::TempDir;

/// Most files of one machine.
const MOST: usize = 200;

/// A machine; it is gone when it is dropped.
pub(crate) struct Machine {
    directory: TempDir,
}

impl Machine {
    pub(crate) fn new() -> Self {
        Self { directory: tempfile::tempdir().expect("a directory") }
    }

    /// The one that a text describes. What cannot be made is left out.
    pub(crate) fn of(text: &[u8]) -> Self {
        let machine = Self::new();
        let mut path: &[u8] = b"";
        let mut content: Vec<&[u8]> = Vec::new();
        for line in text.split(|byte| *byte == b'\n').chain([b"== ".as_slice()]).take(MOST * 8) {
            if let Some(next) = line.strip_prefix(b"== ") {
                let _ = machine.make(path, &content.join(&b'\n'));
                (path, content) = (next, Vec::new());
            } else {
                content.push(line);
            }
        }
        machine
    }

    /// Where its things are. It has no NVIDIA library unless one was put there.
    pub(crate) fn roots(&self) -> Roots {
        let root = self.directory.path();
        Roots { sysfs: root.join("sys"), dev: root.join("dev"), proc: root.join("proc"), nvml: root.join("lib/libnvidia-ml.so.1") }
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    fn make(&self, path: &[u8], content: &[u8]) -> Option<()> {
        let arrow = path.windows(4).position(|four| four == b" -> ");
        let at = self.inside(path.get(..arrow.unwrap_or(path.len()))?)?;
        std::fs::create_dir_all(at.parent()?).ok()?;
        match arrow {
            Some(arrow) => symlink(self.inside(path.get(arrow + 4..)?)?, at).ok(),
            None => std::fs::write(at, content).ok(),
        }
    }

    /// A path below the machine's root, and nowhere else: no link leads out, so no way does.
    fn inside(&self, path: &[u8]) -> Option<PathBuf> {
        let path = Path::new(OsStr::from_bytes(path));
        let plain = path.components().all(|part| matches!(part, Component::Normal(_)));
        (plain && !path.as_os_str().is_empty()).then(|| self.directory.path().join(path))
    }
}
