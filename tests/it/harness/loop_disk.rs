//! A real file system (ext4) of a test's own, in a file: it can be frozen, made to fail, and looked at as a power cut would leave it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The disk.
#[derive(Debug)]
pub(crate) struct LoopDisk {
    mounted: tempfile::TempDir,
    image: PathBuf,
}

impl LoopDisk {
    /// A new one whose contents are in the file `image`, which there is none of yet.
    pub(crate) fn make(image: &Path) -> Self {
        fs::File::create(image).and_then(|file| file.set_len(64 << 20)).expect("a file");
        run("mkfs.ext4", &["-q", "-e", "remount-ro", &image.display().to_string()]);
        Self::mount(image)
    }

    /// Mounts what is in the file.
    pub(crate) fn mount(image: &Path) -> Self {
        let mounted = tempfile::Builder::new().prefix("rc-loop.").tempdir_in("/tmp").expect("a directory");
        run("mount", &["-o", "loop", &image.display().to_string(), &mounted.path().display().to_string()]);
        Self { mounted, image: image.to_owned() }
    }

    /// A path on it.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.mounted.path().join(name)
    }

    /// What has reached it until now.
    pub(crate) fn reached(&self, copy: &Path) {
        fs::copy(&self.image, copy).expect("a copy");
    }

    /// Whoever writes to it waits until the answer is dropped. Who uses the disk must be dropped after that: nobody who waits can be killed.
    #[must_use = "the disk is frozen no longer than this lives"]
    pub(crate) fn freeze(&self) -> Frozen<'_> {
        run("fsfreeze", &["--freeze", &self.mounted.path().display().to_string()]);
        Frozen(self)
    }

    /// The kernel finds an error, as it does when the device fails, and lets nobody write any more.
    pub(crate) fn fail(&self) {
        let source = run("findmnt", &["--noheadings", "--output", "SOURCE", &self.mounted.path().display().to_string()]);
        let device = Path::new(source.trim()).file_name().expect("a device").to_owned();
        fs::write(Path::new("/sys/fs/ext4").join(device).join("trigger_fs_error"), "test").expect("an error");
    }

    /// Unmounts it and mends what is in the file, as an administrator does. Nobody may use it.
    pub(crate) fn repair(self) -> Self {
        let image = self.image.clone();
        run("umount", &[&self.mounted.path().display().to_string()]);
        drop(self);
        // 1 says that something was mended.
        let checked = Command::new("e2fsck").args(["-f", "-y"]).arg(&image).output().expect("e2fsck");
        assert!(matches!(checked.status.code(), Some(0 | 1)), "{checked:?}");
        Self::mount(&image)
    }
}

/// A disk to which nobody can write.
#[derive(Debug)]
pub(crate) struct Frozen<'d>(&'d LoopDisk);

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        let _ = Command::new("fsfreeze").arg("--unfreeze").arg(self.0.mounted.path()).output();
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.mounted.path()).output();
    }
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().expect("a program");
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
