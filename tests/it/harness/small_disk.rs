//! A file system of a test's own that is soon full: in memory, so that no loop device is needed, and gone with the test.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A small disk.
#[derive(Debug)]
pub(crate) struct SmallDisk {
    root: PathBuf,
    // Where it is mounted, unless that is another's directory.
    directory: Option<tempfile::TempDir>,
}

impl SmallDisk {
    /// One of so many MiB.
    pub(crate) fn new(mebibytes: u32) -> Self {
        let directory = tempfile::Builder::new().prefix("rc-disk.").tempdir_in("/tmp").expect("a directory");
        let mut disk = Self::at(directory.path(), mebibytes);
        disk.directory = Some(directory);
        disk
    }

    /// One that is mounted on a directory.
    pub(crate) fn at(root: &Path, mebibytes: u32) -> Self {
        mount(&["-t", "tmpfs", "-o", &format!("size={mebibytes}m"), "rc-test", &root.display().to_string()]);
        Self { root: root.to_owned(), directory: None }
    }

    /// A path on it.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Fills it to the last byte.
    pub(crate) fn fill(&self) {
        let mut file = File::options().append(true).create(true).open(self.path("filler")).expect("a file");
        for piece in [1 << 20, 4096, 1] {
            let zeros = vec![0; piece];
            while file.write_all(&zeros).is_ok() {}
        }
    }

    /// Makes room again.
    pub(crate) fn free(&self) {
        fs::remove_file(self.path("filler")).expect("it was full");
    }

    /// Lets nobody write any more, or again.
    pub(crate) fn remount(&self, how: &str) {
        mount(&["-o", &format!("remount,{how}"), &self.root.display().to_string()]);
    }
}

fn mount(arguments: &[&str]) {
    let output = Command::new("mount").args(arguments).output().expect("the mount command");
    assert!(output.status.success(), "mount {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["--lazy".as_ref(), self.root.as_os_str()]).stderr(Stdio::null()).status();
    }
}
