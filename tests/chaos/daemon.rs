//! A daemon as a process of its own, to be killed at any moment.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::own_engine::processes;
use crate::{pause, setting_text};

/// Generous, because machines are shared.
const PATIENCE: Duration = Duration::from_secs(120);

/// How many attempts the machinery's failures may cost beyond the first.
pub(crate) const INFRASTRUCTURE_RETRIES: u32 = 8;

/// What a life of the daemon is short of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Want {
    Nothing,
    /// Open files.
    Descriptors(u64),
    /// Mebibytes of address space.
    Memory(u64),
}

/// The daemon.
#[derive(Debug)]
pub(crate) struct Daemon {
    pub(crate) name: String,
    pub(crate) url: String,
    dir: PathBuf,
    program: PathBuf,
    child: Option<Child>,
    client: reqwest::Client,
    round: u64,
}

impl Daemon {
    /// One that is not started yet. All have the same host name: what is whose is told by their instances alone.
    pub(crate) fn new(place: &Path, name: &str, port: u16, engine: &str, more: &str) -> Self {
        let dir = place.join(name);
        fs::create_dir_all(&dir).expect("a directory");
        let config = format!(
            "data_dir = \"{}\"\n[http]\nlisten = \"127.0.0.1:{port}\"\n[docker]\nhost = \"{engine}\"\n[host]\nname = \"chaos\"\nmemory = \"4GiB\"\n\
             [broker]\nlisten = \"gateway:{}\"\n\
             [limits]\ninfrastructure_retries = {INFRASTRUCTURE_RETRIES}\nretry_backoff = \"100ms\"\nretry_backoff_max = \"1s\"\nstop_grace = \"2s\"\n\
             [[classes]]\nname = \"default\"\ncpus = 0.4\nmemory = \"64MiB\"\npids = 64\ntimeout = \"90s\"\n{more}",
            dir.join("data").display(),
            port + 100,
        );
        fs::write(dir.join("config.toml"), config).expect("a configuration");
        let program = setting_text("RC_CHAOS_DAEMON").unwrap_or_else(|| env!("CARGO_BIN_EXE_runner-coordinator").to_owned());
        Self {
            name: name.to_owned(),
            url: format!("http://127.0.0.1:{port}"),
            dir,
            program: program.into(),
            child: None,
            client: crate::client(),
            round: 0,
        }
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// What it logs goes to a file of its own from its next start on.
    pub(crate) fn begin_round(&mut self, round: u64) {
        if let Some(before) = round.checked_sub(3) {
            let _ = fs::remove_file(self.dir.join(format!("round-{before}.log")));
        }
        self.round = round;
    }

    /// What it logged since the round began.
    pub(crate) fn log(&self) -> PathBuf {
        self.dir.join(format!("round-{}.log", self.round))
    }

    /// Starts it, without waiting.
    pub(crate) fn spawn(&mut self, want: Want) {
        assert!(self.child.is_none(), "it runs already");
        let log = fs::File::options().create(true).append(true).open(self.log()).expect("a log");
        let mut command = Command::new("prlimit");
        match want {
            Want::Nothing => {}
            Want::Descriptors(files) => {
                command.arg(format!("--nofile={files}:{files}"));
            }
            Want::Memory(mebibytes) => {
                command.arg(format!("--as={}", mebibytes << 20));
            }
        }
        command.arg("--").arg(&self.program).arg("--config").arg(self.dir.join("config.toml")).arg("serve");
        command.env("RUNNER_COORDINATOR_LOG", "info,runner_coordinator=debug").env("RUST_BACKTRACE", "0");
        self.child = Some(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().expect("the daemon starts"));
    }

    /// Starts it and waits until it answers, healthy or not.
    pub(crate) async fn start(&mut self) {
        self.spawn(Want::Nothing);
        let deadline = Instant::now() + PATIENCE;
        while !self.answers().await {
            let ended = self.child.as_mut().and_then(|child| child.try_wait().expect("a process"));
            assert!(ended.is_none() && Instant::now() < deadline, "{} does not answer ({ended:?}): see {}", self.name, self.log().display());
            pause().await;
        }
    }

    /// Whether it answers soon.
    pub(crate) async fn answers(&self) -> bool {
        self.client.get(format!("{}/health", self.url)).timeout(Duration::from_secs(5)).send().await.is_ok()
    }

    /// Whether it answers that all is well.
    pub(crate) async fn is_well(&self) -> bool {
        let answer = self.client.get(format!("{}/health", self.url)).timeout(Duration::from_secs(5)).send().await;
        answer.is_ok_and(|answer| answer.status().is_success())
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| child.try_wait().is_ok_and(|ended| ended.is_none()))
    }

    pub(crate) fn pid(&self) -> Option<i32> {
        self.child.as_ref().and_then(|child| i32::try_from(child.id()).ok())
    }

    pub(crate) fn signal(&self, signal: Signal) -> bool {
        self.pid().is_some_and(|pid| processes::signal(pid, signal))
    }

    /// `SIGKILL`; whether there was somebody to kill.
    pub(crate) fn kill(&mut self) -> bool {
        let was = self.is_running();
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            child.wait().expect("reaped");
        }
        was
    }

    /// `SIGTERM`, and whether it ended well.
    pub(crate) async fn terminate(&mut self) -> Result<(), String> {
        self.signal(Signal::TERM);
        let Some(mut child) = self.child.take() else { return Ok(()) };
        let deadline = Instant::now() + PATIENCE;
        loop {
            match child.try_wait().expect("a process") {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(format!("{} ended with {status} after SIGTERM", self.name)),
                None if Instant::now() >= deadline => {
                    let _ = child.kill();
                    let _ = child.wait();
                    return Err(format!("{} did not end for {} s after SIGTERM", self.name, PATIENCE.as_secs()));
                }
                None => pause().await,
            }
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}
