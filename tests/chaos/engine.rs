//! The engine that is killed, in the network that the tests run in.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bollard::Docker;
use rustix::process::Signal;

pub(crate) use crate::own_engine::Restart;
use crate::own_engine::{Dockerd, is_containerd, is_shim, processes};
use crate::{BUSYBOX, pause};

const BRIDGE: &str = "rc-chaos0";
const BRIDGE_ADDRESS: &str = "10.215.0.1/24";
const PATIENCE: Duration = Duration::from_secs(120);

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
    dockerd: Dockerd,
    docker: Docker,
}

impl Engine {
    /// Starts one in `dir`, with the image of jobs.
    pub(crate) async fn start(dir: &Path) -> Self {
        let socket = dir.join("docker.sock");
        // The client wants to see one; the engine puts its own in its place.
        std::fs::write(&socket, "").expect("a place for the socket");
        let docker = Docker::connect_with_unix(&socket.display().to_string(), 60, bollard::API_DEFAULT_VERSION);
        let mut engine = Self { dir: dir.to_owned(), dockerd: Dockerd::new(dir, on_bridge), docker: docker.expect("a client") };
        engine.resume(Restart::Ends).await;
        engine.dockerd.load(BUSYBOX);
        engine
    }

    /// Gives it another image of the tests' common engine.
    pub(crate) fn load(&self, image: &str) {
        self.dockerd.load(image);
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

    /// Starts it after it ended, and waits until it answers.
    pub(crate) async fn resume(&mut self, restart: Restart) {
        self.end_containerd().await;
        self.dockerd.start(restart).await;
    }

    fn pid(&self) -> Option<i32> {
        self.dockerd.child.as_ref().and_then(|child| i32::try_from(child.id()).ok())
    }

    /// `SIGKILL` for dockerd. Its containerd goes with it; shims and jobs stay.
    pub(crate) fn kill(&mut self) -> bool {
        self.dockerd.kill()
    }

    /// `SIGTERM` for dockerd, and its end.
    pub(crate) async fn terminate(&mut self) {
        let Some(pid) = self.pid() else { return };
        processes::signal(pid, Signal::TERM);
        let deadline = Instant::now() + PATIENCE;
        while self.dockerd.child.as_mut().is_some_and(|child| child.try_wait().is_ok_and(|ended| ended.is_none())) {
            if Instant::now() >= deadline {
                self.kill();
            }
            pause().await;
        }
        self.dockerd.child = None;
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

/// On a bridge that is there before: an engine without one takes away the bridge of the engine beside it.
fn on_bridge() -> Command {
    for arguments in
        [["link", "add", BRIDGE, "type", "bridge"], ["address", "add", BRIDGE_ADDRESS, "dev", BRIDGE], ["link", "set", "dev", BRIDGE, "up"]]
    {
        // Fails where it is there already; the engine says so when it is not.
        let _ = Command::new("ip").args(arguments).stderr(Stdio::null()).status();
    }
    let mut dockerd = Command::new("dockerd");
    dockerd.args(["--bridge", BRIDGE, "--default-address-pool", "base=10.214.0.0/16,size=24"]);
    dockerd
}
