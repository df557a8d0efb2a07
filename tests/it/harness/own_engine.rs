//! An engine of a test's own, to be killed: the tests' common one has others' containers. As small as possible: no bridge, one image.

use std::fs;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::BUSYBOX;
use super::engine::TELL;
use super::small_disk::SmallDisk;
pub(crate) use crate::own_engine::Restart;
use crate::own_engine::processes::Process;
use crate::own_engine::{Dockerd, is_containerd, is_shim, processes};

/// A private engine.
#[derive(Debug)]
pub(crate) struct OwnEngine {
    // Unmounted before the directory is removed.
    disk: Option<SmallDisk>,
    dir: TempDir,
    restart: Restart,
    dockerd: Dockerd,
}

impl OwnEngine {
    /// Starts one with the image [`BUSYBOX`].
    pub(crate) async fn start(restart: Restart) -> Self {
        Self::start_on(restart, None, alone).await
    }

    /// The same in the network that the tests run in, where daemons can set rules for its containers.
    pub(crate) async fn start_beside(restart: Restart) -> Self {
        Self::start_on(restart, None, beside).await
    }

    /// The same on a disk of so many MiB of its own.
    pub(crate) async fn start_small(mebibytes: u32) -> Self {
        Self::start_on(Restart::Keeps, Some(mebibytes), alone).await
    }

    /// The disk of one that was started with its own.
    pub(crate) fn disk(&self) -> &SmallDisk {
        self.disk.as_ref().expect("a disk of its own")
    }

    async fn start_on(restart: Restart, mebibytes: Option<u32>, program: fn() -> Command) -> Self {
        let dir = tempfile::Builder::new().prefix("rc-own.").tempdir_in("/tmp").expect("a directory");
        let disk = mebibytes.map(|mebibytes| {
            fs::create_dir(dir.path().join("data")).expect("a directory");
            SmallDisk::at(&dir.path().join("data"), mebibytes)
        });
        let dockerd = Dockerd::new(dir.path(), program);
        let mut own = Self { disk, dir, restart, dockerd };
        own.resume().await;
        own.dockerd.load(BUSYBOX);
        own
    }

    /// Where it is.
    pub(crate) fn host(&self) -> String {
        self.dockerd.host()
    }

    /// Starts it again after it was killed.
    pub(crate) async fn resume(&mut self) {
        self.dockerd.start(self.restart).await;
    }

    /// Kills the engine and what manages containers for it. The containers' shims and the jobs go on.
    pub(crate) fn kill(&mut self) {
        assert!(self.dockerd.kill(), "it does not run");
        processes::kill_all(&self.pids(is_containerd));
    }

    /// Kills everything at once, the jobs too, as a power cut does.
    pub(crate) fn kill_with_jobs(&mut self) {
        let shims = self.pids(is_shim);
        for shim in &shims {
            processes::kill_all(&processes::children(*shim));
        }
        self.kill();
        processes::kill_all(&shims);
    }

    /// Kills what manages containers for it, and all who could tell it of an end: it believes from then on that they run.
    pub(crate) fn blind(&self) {
        let shims = self.pids(is_shim);
        processes::kill_all(&self.pids(is_containerd));
        for shim in shims {
            let children = processes::children(shim);
            processes::kill_all(&[shim]);
            processes::kill_all(&children);
        }
    }

    /// Tells its only running job, which waits for that ([`super::engine::UNTIL_TOLD`]), to go on.
    pub(crate) fn tell(&self) {
        let mut list = self.dockerd.docker(&["ps", "--quiet"]);
        let listed = list.stdout(Stdio::piped()).output().expect("the docker command");
        let container = String::from_utf8_lossy(&listed.stdout).into_owned();
        let told = self.dockerd.docker(&[&["exec", container.trim()], &TELL[..]].concat()).status().expect("the docker command");
        assert!(told.success(), "{container:?} cannot be told");
    }

    /// Its processes that are such.
    fn pids(&self, such: fn(&Process) -> bool) -> Vec<i32> {
        processes::naming(self.dir.path()).iter().filter(|process| such(process)).map(|process| process.pid).collect()
    }

    /// Names of all its containers.
    pub(crate) fn containers(&self) -> String {
        let mut list = self.dockerd.docker(&["ps", "--all", "--format", "{{.Names}}"]);
        String::from_utf8_lossy(&list.stdout(Stdio::piped()).output().expect("the docker command").stdout).into_owned()
    }
}

impl Drop for OwnEngine {
    fn drop(&mut self) {
        self.dockerd.kill();
        processes::reap(self.dir.path());
    }
}

/// On a bridge of its own, which is there before: see below.
fn beside() -> Command {
    let bridge = "rc-own0";
    for arguments in
        [["link", "add", bridge, "type", "bridge"], ["address", "add", "10.217.0.1/24", "dev", bridge], ["link", "set", "dev", bridge, "up"]]
    {
        // Fails where it is there already; the engine says so when it is not.
        let _ = Command::new("ip").args(arguments).stderr(Stdio::null()).status();
    }
    let mut dockerd = Command::new("dockerd");
    dockerd.args(["--bridge", bridge, "--default-address-pool", "base=10.216.0.0/16,size=24"]);
    dockerd
}

/// In a network of its own: an engine without a bridge takes away the bridge of whoever else has one there.
fn alone() -> Command {
    let mut dockerd = Command::new("unshare");
    dockerd.args(["--net", "--", "dockerd", "--bridge", "none"]);
    dockerd
}
