//! An engine of a test's own, to be killed: the tests' common one has others' containers. As small as possible: no bridge, one image.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::small_disk::SmallDisk;
use super::{BUSYBOX, engine, pause};

const PATIENCE: Duration = Duration::from_secs(60);

/// What becomes of running containers when the engine is started again after it died.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Restart {
    /// They go on (`live-restore`).
    Keeps,
    /// They are told to end.
    Ends,
}

/// A private engine.
#[derive(Debug)]
pub(crate) struct OwnEngine {
    // Unmounted before the directory is removed.
    disk: Option<SmallDisk>,
    dir: TempDir,
    restart: Restart,
    engine: Option<Child>,
}

impl OwnEngine {
    /// Starts one with the image [`BUSYBOX`].
    pub(crate) async fn start(restart: Restart) -> Self {
        Self::start_on(restart, None).await
    }

    /// The same on a disk of so many MiB of its own.
    pub(crate) async fn start_small(mebibytes: u32) -> Self {
        Self::start_on(Restart::Keeps, Some(mebibytes)).await
    }

    /// The disk of one that was started with its own.
    pub(crate) fn disk(&self) -> &SmallDisk {
        self.disk.as_ref().expect("a disk of its own")
    }

    async fn start_on(restart: Restart, mebibytes: Option<u32>) -> Self {
        // Short: the paths of sockets may have 107 bytes only.
        let dir = tempfile::Builder::new().prefix("rc-own.").tempdir_in("/tmp").expect("a directory");
        let disk = mebibytes.map(|mebibytes| {
            fs::create_dir(dir.path().join("data")).expect("a directory");
            SmallDisk::at(&dir.path().join("data"), mebibytes)
        });
        let mut own = Self { disk, dir, restart, engine: None };
        own.resume().await;
        let image = own.path("image.tar");
        engine::docker(&["save", "--output", &image, BUSYBOX]);
        own.docker(&["load", "--quiet", "--input", &image]);
        fs::remove_file(image).expect("gone");
        own
    }

    /// Where it is.
    pub(crate) fn host(&self) -> String {
        format!("unix://{}", self.path("docker.sock"))
    }

    /// Starts it again after it was killed.
    pub(crate) async fn resume(&mut self) {
        assert!(self.engine.is_none(), "it runs already");
        // A process that was killed and not yet reaped would count as running.
        for pid in ["dockerd.pid", "exec/containerd/containerd.pid"] {
            let _ = fs::remove_file(self.path(pid));
        }
        let log = fs::File::options().create(true).append(true).open(self.path("log")).expect("a log");
        // In a network of its own: one without a bridge takes away the bridge of whoever else has one there.
        let mut dockerd = Command::new("unshare");
        dockerd.args(["--net", "--", "dockerd", "--bridge", "none", "--iptables=false", "--ip-masq=false", "--containerd-namespace", "rc-own"]);
        dockerd.args(["--containerd-plugins-namespace", "rc-own-plugins", "--host", &self.host()]);
        for (option, place) in [("--data-root", "data"), ("--exec-root", "exec"), ("--pidfile", "dockerd.pid"), ("--config-file", "daemon.json")] {
            dockerd.args([option, &self.path(place)]);
        }
        fs::write(self.path("daemon.json"), format!("{{\"live-restore\": {}}}", self.restart == Restart::Keeps)).expect("settings");
        self.engine = Some(dockerd.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().expect("dockerd starts"));
        let deadline = Instant::now() + PATIENCE;
        while !self.try_docker(&["version"]) {
            assert!(Instant::now() < deadline, "the engine does not answer:\n{}", fs::read_to_string(self.path("log")).unwrap_or_default());
            pause().await;
        }
    }

    /// Kills the engine and what manages containers for it. The containers' shims and the jobs go on.
    pub(crate) fn kill(&mut self) {
        let mut engine = self.engine.take().expect("it runs");
        engine.kill().expect("killed");
        engine.wait().expect("reaped");
        self.signal(|command| command.contains("containerd") && !command.contains("containerd-shim"));
    }

    /// Kills everything at once, the jobs too, as a power cut does.
    pub(crate) fn kill_with_jobs(&mut self) {
        let jobs: Vec<i32> = self.processes().iter().flat_map(|(pid, _)| children(*pid)).collect();
        for job in jobs {
            kill(job);
        }
        self.kill();
        self.signal(|_| true);
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut docker = Command::new("docker");
        docker.args(arguments).env("DOCKER_HOST", self.host()).stdin(Stdio::null()).stdout(Stdio::null());
        docker
    }

    fn try_docker(&self, arguments: &[&str]) -> bool {
        self.command(arguments).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    }

    /// Names of all its containers.
    pub(crate) fn containers(&self) -> String {
        let output = self.command(&["ps", "--all", "--format", "{{.Names}}"]).stdout(Stdio::piped()).output().expect("the docker command");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn docker(&self, arguments: &[&str]) {
        let status = self.command(arguments).status().expect("the docker command");
        assert!(status.success(), "docker {arguments:?}: {status}");
    }

    /// Processes whose command line names a file of this engine: itself, its containerd and shims.
    fn processes(&self) -> Vec<(i32, String)> {
        let mine = format!("{}/", self.dir.path().display());
        let entries = fs::read_dir("/proc").expect("processes").flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        let command = |pid: i32| Some((pid, fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?.replace('\0', " ")));
        pids.filter_map(command).filter(|(_, command)| command.contains(&mine) && !command.contains("runner-coordinator")).collect()
    }

    fn signal(&self, whom: impl Fn(&str) -> bool) {
        self.processes().iter().filter(|(_, command)| whom(command)).for_each(|(pid, _)| kill(*pid));
    }
}

impl Drop for OwnEngine {
    fn drop(&mut self) {
        for (shim, _) in self.processes().iter().filter(|(_, command)| command.contains("containerd-shim")) {
            children(*shim).into_iter().for_each(kill);
        }
        if let Some(mut engine) = self.engine.take() {
            let _ = engine.kill();
            let _ = engine.wait();
        }
        self.signal(|_| true);
        let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
        let mut below: Vec<PathBuf> = mounts.lines().filter_map(|line| line.split(' ').nth(1)).map(PathBuf::from).collect();
        below.retain(|mount| mount.starts_with(self.dir.path()));
        for mount in below.iter().rev() {
            let _ = Command::new("umount").args([Path::new("--lazy"), mount]).status();
        }
    }
}

fn children(pid: i32) -> Vec<i32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<i32>>()).collect()
}

fn kill(pid: i32) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, Signal::KILL);
    }
}
