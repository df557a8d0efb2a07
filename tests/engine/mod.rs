//! A private Docker engine that tests may kill: dockerd with its own containerd, data and socket in a directory.

pub(crate) mod processes;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use processes::Process;

/// How long it may take to answer.
const PATIENCE: Duration = Duration::from_secs(120);

/// What becomes of running containers when the engine is started again after it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Restart {
    /// They go on (`live-restore`).
    Keeps,
    /// They are told to end.
    Ends,
}

/// The engine.
#[derive(Debug)]
pub(crate) struct Dockerd {
    dir: PathBuf,
    /// What starts it, with what it says of its networks.
    program: fn() -> Command,
    /// While it runs.
    pub(crate) child: Option<Child>,
}

impl Dockerd {
    /// One that was not started. The path of `dir` is short: those of sockets may have 107 bytes only.
    pub(crate) fn new(dir: &Path, program: fn() -> Command) -> Self {
        Self { dir: dir.to_owned(), program, child: None }
    }

    /// The path of a file of its own.
    pub(crate) fn path(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    /// Where it is met.
    pub(crate) fn host(&self) -> String {
        format!("unix://{}", self.path("docker.sock"))
    }

    /// Starts it, also after it was killed, and waits until it answers.
    pub(crate) async fn start(&mut self, restart: Restart) {
        assert!(self.child.is_none(), "it runs already");
        // A process that was killed and not yet reaped would count as running.
        for pid in ["dockerd.pid", "exec/containerd/containerd.pid"] {
            let _ = fs::remove_file(self.path(pid));
        }
        fs::write(self.path("daemon.json"), format!("{{\"live-restore\": {}}}", restart == Restart::Keeps)).expect("settings");
        let log = fs::File::options().create(true).append(true).open(self.path("dockerd.log")).expect("a log");
        let mut dockerd = (self.program)();
        dockerd.args(["--iptables=false", "--ip-masq=false", "--containerd-namespace", "rc-own", "--containerd-plugins-namespace", "rc-own-plugins"]);
        dockerd.args(["--host", &self.host()]);
        for (option, place) in [("--data-root", "data"), ("--exec-root", "exec"), ("--pidfile", "dockerd.pid"), ("--config-file", "daemon.json")] {
            dockerd.args([option, &self.path(place)]);
        }
        self.child = Some(dockerd.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().expect("dockerd starts"));
        let deadline = Instant::now() + PATIENCE;
        while !self.docker(&["version"]).stderr(Stdio::null()).status().is_ok_and(|status| status.success()) {
            assert!(Instant::now() < deadline, "the engine does not answer:\n{}", fs::read_to_string(self.path("dockerd.log")).unwrap_or_default());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// `SIGKILL` for dockerd. Shims and jobs stay, and its containerd may.
    pub(crate) fn kill(&mut self) -> bool {
        let Some(mut child) = self.child.take() else { return false };
        let killed = child.kill().is_ok();
        child.wait().expect("reaped");
        killed
    }

    /// The docker command for it, with nothing to read and nowhere to write to.
    pub(crate) fn docker(&self, arguments: &[&str]) -> Command {
        let mut docker = Command::new("docker");
        docker.args(arguments).env("DOCKER_HOST", self.host()).stdin(Stdio::null()).stdout(Stdio::null());
        docker
    }

    /// Gives it an image of the tests' common engine.
    pub(crate) fn load(&self, image: &str) {
        let archive = self.path("image.tar");
        let saved = Command::new("docker").args(["save", "--output", &archive, image]).stdin(Stdio::null()).status();
        assert!(saved.expect("the docker command").success(), "{image} cannot be had");
        let loaded = self.docker(&["load", "--quiet", "--input", &archive]).status();
        assert!(loaded.expect("the docker command").success(), "{image} cannot be loaded");
        fs::remove_file(archive).expect("gone");
    }
}

/// Whether it is the engine's containerd.
pub(crate) fn is_containerd(process: &Process) -> bool {
    process.command.contains("containerd ") && !is_shim(process) && !process.command.contains("dockerd")
}

/// Whether it holds a container's processes for containerd.
pub(crate) fn is_shim(process: &Process) -> bool {
    process.command.contains("containerd-shim")
}
