//! The engine that is killed: a private dockerd with its own containerd, data, socket and networks, in the network that the tests run in.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bollard::Docker;
use rustix::process::Signal;

use crate::processes::{self, Process};
use crate::{BUSYBOX, pause};

const BRIDGE: &str = "rc-chaos0";
const BRIDGE_ADDRESS: &str = "10.215.0.1/24";
const PATIENCE: Duration = Duration::from_secs(120);

/// What becomes of running containers when the engine ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Restart {
    /// They go on (`live-restore`).
    Keeps,
    /// They are told to end.
    Ends,
}

/// What holds a container's processes for containerd.
#[derive(Debug, Clone)]
pub(crate) struct Shim {
    pub(crate) pid: i32,
    pub(crate) container: String,
}

/// The engine.
#[derive(Debug)]
pub(crate) struct Engine {
    dir: PathBuf,
    restart: Restart,
    child: Option<Child>,
    docker: Docker,
}

impl Engine {
    /// Starts one in `dir`, with the image of jobs.
    pub(crate) async fn start(dir: &Path) -> Self {
        let socket = dir.join("docker.sock");
        // The client wants to see one; the engine puts its own in its place.
        fs::write(&socket, "").expect("a place for the socket");
        let docker = Docker::connect_with_unix(&socket.display().to_string(), 60, bollard::API_DEFAULT_VERSION);
        let mut engine = Self { dir: dir.to_owned(), restart: Restart::Ends, child: None, docker: docker.expect("a client") };
        engine.resume(Restart::Ends).await;
        let image = dir.join("image.tar").display().to_string();
        docker_command(None, &["save", "--output", &image, BUSYBOX]);
        docker_command(Some(&engine), &["load", "--quiet", "--input", &image]);
        fs::remove_file(image).expect("gone");
        engine
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.join("docker.sock")
    }

    /// What it logs.
    pub(crate) fn log(&self) -> PathBuf {
        self.dir.join("dockerd.log")
    }

    /// A client that nobody meddles with.
    pub(crate) fn docker(&self) -> &Docker {
        &self.docker
    }

    fn path(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    /// Starts it after it ended, and waits until it answers.
    pub(crate) async fn resume(&mut self, restart: Restart) {
        assert!(self.child.is_none(), "it runs already");
        self.end_containerd().await;
        // A process that was killed and not yet reaped would count as running.
        for pid in ["dockerd.pid", "exec/containerd/containerd.pid"] {
            let _ = fs::remove_file(self.path(pid));
        }
        self.restart = restart;
        fs::write(self.path("daemon.json"), format!("{{\"live-restore\": {}}}", restart == Restart::Keeps)).expect("settings");
        let log = fs::File::options().create(true).append(true).open(self.path("dockerd.log")).expect("a log");
        make_bridge();
        let mut dockerd = Command::new("dockerd");
        dockerd.args(["--bridge", BRIDGE, "--iptables=false", "--ip-masq=false", "--containerd-namespace", "rc-chaos"]);
        dockerd.args(["--containerd-plugins-namespace", "rc-chaos-plugins", "--default-address-pool", "base=10.214.0.0/16,size=24"]);
        dockerd.args(["--host", &format!("unix://{}", self.path("docker.sock"))]);
        for (option, place) in [("--data-root", "data"), ("--exec-root", "exec"), ("--pidfile", "dockerd.pid"), ("--config-file", "daemon.json")] {
            dockerd.args([option, &self.path(place)]);
        }
        self.child = Some(dockerd.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().expect("dockerd starts"));
        let deadline = Instant::now() + PATIENCE;
        while !self.answers().await {
            assert!(Instant::now() < deadline, "the engine does not answer: see {}", self.path("dockerd.log"));
            pause().await;
        }
    }

    /// Whether it answers soon.
    pub(crate) async fn answers(&self) -> bool {
        matches!(tokio::time::timeout(Duration::from_secs(5), self.docker.version()).await, Ok(Ok(_)))
    }

    fn pid(&self) -> Option<i32> {
        self.child.as_ref().and_then(|child| i32::try_from(child.id()).ok())
    }

    /// `SIGKILL` for dockerd. Its containerd goes with it; shims and jobs stay.
    pub(crate) fn kill(&mut self) -> bool {
        let Some(mut child) = self.child.take() else { return false };
        let killed = child.kill().is_ok();
        child.wait().expect("reaped");
        killed
    }

    /// `SIGTERM` for dockerd, and its end.
    pub(crate) async fn terminate(&mut self) {
        let Some(pid) = self.pid() else { return };
        processes::signal(pid, Signal::TERM);
        let deadline = Instant::now() + PATIENCE;
        while self.child.as_mut().is_some_and(|child| child.try_wait().is_ok_and(|ended| ended.is_none())) {
            if Instant::now() >= deadline {
                self.kill();
            }
            pause().await;
        }
        self.child = None;
    }

    /// A signal for dockerd alone.
    pub(crate) fn signal(&self, signal: Signal) -> bool {
        self.pid().is_some_and(|pid| processes::signal(pid, signal))
    }

    /// A signal for containerd alone.
    pub(crate) fn signal_containerd(&self, signal: Signal) -> bool {
        let found = processes::naming(&self.dir).into_iter().find(is_containerd);
        found.is_some_and(|process| processes::signal(process.pid, signal))
    }

    /// Whoever holds a container now.
    pub(crate) fn shims(&self) -> Vec<Shim> {
        let id = |command: &str| {
            let mut words = command.split_whitespace().skip_while(|word| *word != "-id");
            words.nth(1).map(str::to_owned)
        };
        let shims = processes::naming(&self.dir).into_iter().filter(is_shim);
        shims.filter_map(|shim| Some(Shim { pid: shim.pid, container: id(&shim.command)? })).collect()
    }

    /// A containerd without its dockerd ends by itself, but maybe not yet.
    async fn end_containerd(&self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut left = processes::naming(&self.dir);
            left.retain(|process| is_containerd(process) && processes::is_alive(process.pid));
            if left.is_empty() {
                return;
            }
            for process in &left {
                processes::signal(process.pid, Signal::KILL);
            }
            assert!(Instant::now() < deadline, "these do not end: {left:?}");
            pause().await;
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.kill();
    }
}

fn is_containerd(process: &Process) -> bool {
    process.command.contains("containerd ") && !is_shim(process) && !process.command.contains("dockerd")
}

fn is_shim(process: &Process) -> bool {
    process.command.contains("containerd-shim")
}

fn docker_command(engine: Option<&Engine>, arguments: &[&str]) {
    let mut docker = Command::new("docker");
    if let Some(engine) = engine {
        docker.env("DOCKER_HOST", format!("unix://{}", engine.socket().display()));
    }
    let status = docker.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).status().expect("the docker command");
    assert!(status.success(), "docker {arguments:?}: {status}");
}

/// Makes the engine's bridge unless it is there: an engine without one takes away the bridge of the engine beside it.
fn make_bridge() {
    for arguments in
        [["link", "add", BRIDGE, "type", "bridge"], ["address", "add", BRIDGE_ADDRESS, "dev", BRIDGE], ["link", "set", "dev", BRIDGE, "up"]]
    {
        // Fails where it is there already; the engine says so when it is not.
        let _ = Command::new("ip").args(arguments).stderr(Stdio::null()).status();
    }
}
