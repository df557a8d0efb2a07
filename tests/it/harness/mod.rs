//! Drives the whole: the real daemon as a process of its own, a real engine, HTTP from outside.
//!
//! Waits are always on a predicate with a deadline. [`Daemon::finish`] stops the daemon and fails when it left anything behind.

pub(crate) mod browser;
pub(crate) mod collector;
pub(crate) mod engine;
mod http;
pub(crate) mod loop_disk;
pub(crate) mod own_engine;
pub(crate) mod road;
pub(crate) mod small_disk;

pub(crate) use http::{client, free_port};

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::Instant;

/// The image that jobs of the tests run in.
pub(crate) const BUSYBOX: &str = "rc-test/busybox:1";
/// The stand-in for the official runner's image.
pub(crate) const RUNNER: &str = "rc-test/runner:1";

/// Longest wait for anything; generous, because the machine is shared.
pub(crate) const PATIENCE: Duration = Duration::from_secs(45);

/// Marks that no disk ever reaches.
pub(crate) const NO_MARKS: &str = "disk = { low = \"0%\", full = \"0%\" }";

/// What the daemon logs.
const LOG_FILTER: &str = "info,runner_coordinator=debug";

/// How the daemon is set up.
#[derive(Debug, Clone)]
pub(crate) struct Setup {
    name: String,
    docker_host: String,
    docker: String,
    tls: Option<(String, reqwest::Client)>,
    top: String,
    rest: String,
    disk: String,
    log_filter: String,
    env: Vec<(String, String)>,
    data: Option<PathBuf>,
    limits: String,
}

impl Setup {
    /// A daemon on the tests' engine, whose machine is called `name`: must be unique among the tests.
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            docker_host: engine::host(),
            docker: String::new(),
            tls: None,
            top: String::new(),
            rest: String::new(),
            // However full the disk is that the tests run on.
            disk: NO_MARKS.to_owned(),
            log_filter: LOG_FILTER.to_owned(),
            env: Vec::new(),
            data: None,
            limits: String::new(),
        }
    }

    /// Keeps its data elsewhere: on a small disk, or where there is a database already.
    pub(crate) fn data(mut self, path: &Path) -> Self {
        self.data = Some(path.to_owned());
        self
    }

    /// Runs these words of a shell before the daemon, in its process: `ulimit -n 64`.
    pub(crate) fn limits(mut self, words: &str) -> Self {
        words.clone_into(&mut self.limits);
        self
    }

    /// Uses another engine.
    pub(crate) fn docker_host(mut self, host: &str) -> Self {
        host.clone_into(&mut self.docker_host);
        self
    }

    /// Adds keys to the configuration's `[docker]` table.
    pub(crate) fn docker(mut self, toml: &str) -> Self {
        self.docker.push_str(toml);
        self.docker.push('\n');
        self
    }

    /// Speaks TLS with these keys of `[http.tls]`, and is met by this client.
    pub(crate) fn tls(mut self, toml: &str, client: reqwest::Client) -> Self {
        self.tls = Some((toml.to_owned(), client));
        self
    }

    /// Adds tables to the configuration.
    pub(crate) fn with(mut self, toml: &str) -> Self {
        self.rest.push_str(toml);
        self.rest.push('\n');
        self
    }

    /// Says what the daemon logs.
    pub(crate) fn log_filter(mut self, filter: &str) -> Self {
        filter.clone_into(&mut self.log_filter);
        self
    }

    /// Adds a variable to its environment.
    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Adds keys to the configuration's `[host]` table.
    pub(crate) fn host(mut self, toml: &str) -> Self {
        self.top.push_str(toml);
        self.top.push('\n');
        self
    }

    /// Starts it and waits until it answers, healthy or not.
    pub(crate) async fn start(self) -> Daemon {
        let dir = TempDir::with_prefix(format!("rc-{}-", self.name)).expect("a directory");
        let port = free_port();
        let Self { name, docker_host, docker, tls, top, rest, disk, log_filter, env, data, limits } = self;
        let data = data.unwrap_or_else(|| dir.path().join("data"));
        let (scheme, tls, client) = match tls {
            Some((toml, client)) => ("https", format!("[http.tls]\n{toml}"), client),
            None => ("http", String::new(), client()),
        };
        let config = format!(
            "data_dir = \"{}\"\n{disk}\n[http]\nlisten = \"127.0.0.1:{port}\"\n{tls}\n[docker]\nhost = {docker_host:?}\n{docker}[host]\nname = {name:?}\n{top}\n{rest}",
            data.display()
        );
        let file = dir.path().join("config.toml");
        std::fs::write(&file, config).expect("a configuration");
        let url = format!("{scheme}://127.0.0.1:{port}");
        let mut daemon = Daemon { name, url, file, dir, child: None, starts: 0, client, log_filter, env, data, limits };
        daemon.start().await;
        daemon
    }
}

/// A daemon as a process of its own.
#[derive(Debug)]
pub(crate) struct Daemon {
    pub(crate) name: String,
    pub(crate) url: String,
    file: PathBuf,
    dir: TempDir,
    child: Option<Child>,
    starts: u32,
    client: reqwest::Client,
    log_filter: String,
    env: Vec<(String, String)>,
    data: PathBuf,
    limits: String,
}

impl Daemon {
    /// Starts the process again after it ended.
    pub(crate) async fn start(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        self.starts += 1;
        let log = std::fs::File::create(self.log_path(self.starts)).expect("a log");
        let child = Command::new("sh")
            .args(["-c", &format!("{}\nexec \"$0\" \"$@\"", self.limits), env!("CARGO_BIN_EXE_runner-coordinator")])
            .args(["--config".as_ref(), self.file.as_os_str(), "serve".as_ref()])
            .env("RUNNER_COORDINATOR_LOG", &self.log_filter)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the daemon starts");
        self.child = Some(child);
        let deadline = Instant::now() + PATIENCE;
        while self.try_request(Method::GET, "/health", None).await.is_none() {
            let ended = self.child.as_mut().and_then(|child| child.try_wait().expect("a process"));
            assert!(ended.is_none() && Instant::now() < deadline, "the daemon does not answer ({ended:?}):\n{}", self.log());
            pause().await;
        }
    }

    fn log_path(&self, start: u32) -> PathBuf {
        self.dir.path().join(format!("daemon-{start}.log"))
    }

    /// What the command line says when it is asked with the daemon's own configuration; it must succeed.
    pub(crate) fn cli(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().expect("it runs");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    }

    /// The program, asked with the daemon's own configuration.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_runner-coordinator"));
        command.arg("--config").arg(&self.file).args(arguments);
        command
    }

    /// Its configuration file.
    pub(crate) fn config(&self) -> &Path {
        &self.file
    }

    /// Its configuration as it stands in the file.
    pub(crate) fn configuration(&self) -> String {
        std::fs::read_to_string(&self.file).expect("a configuration")
    }

    /// Writes another configuration and has it read, without waiting for what comes of it.
    pub(crate) fn reload(&self, toml: &str) {
        std::fs::write(&self.file, toml).expect("a configuration");
        let pid = rustix::process::Pid::from_child(self.child.as_ref().expect("it runs"));
        rustix::process::kill_process(pid, rustix::process::Signal::HUP).expect("signalled");
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// Its data directory.
    pub(crate) fn data(&self) -> PathBuf {
        self.data.clone()
    }

    /// What it logged since its last start.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.log_path(self.starts)).unwrap_or_default()
    }

    /// `SIGKILL`: the process has no say in it.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().expect("killed");
        child.wait().expect("reaped");
    }

    /// `SIGTERM`, and how it ended.
    pub(crate) async fn terminate(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("it runs");
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("signalled");
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = child.try_wait().expect("a process") {
                return status;
            }
            assert!(Instant::now() < deadline, "it does not stop:\n{}", self.log());
            pause().await;
        }
    }

    /// Stops the daemon in order and fails when it left anything behind.
    pub(crate) async fn finish(mut self) {
        self.until("no runner is left", async |daemon| daemon.get("/runners").await["runners"].as_array().is_some_and(Vec::is_empty)).await;
        assert_eq!(engine::containers(&self.name), Vec::<String>::new(), "containers are left:\n{}", self.log());
        let status = self.terminate().await;
        assert!(status.success(), "it ended with {status}:\n{}", self.log());
        engine::remove_networks(&self.name, &self.data);
    }

    /// The same for a daemon that keeps warm runners: they stay when it stops, and are taken away here.
    pub(crate) async fn finish_with_pool(mut self) {
        let status = self.terminate().await;
        assert!(status.success(), "it ended with {status}:\n{}", self.log());
        engine::remove_everything(&self.name, &self.data);
    }

    async fn try_request(&self, method: Method, path: &str, body: Option<Value>) -> Option<(StatusCode, Value)> {
        let mut request = self.client.request(method, format!("{}{path}", self.url));
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await.ok()?;
        let status = response.status();
        let text = response.text().await.ok()?;
        Some((status, serde_json::from_str(&text).unwrap_or(Value::String(text))))
    }

    /// One request and its answer.
    pub(crate) async fn request(&self, method: Method, path: &str, body: Option<Value>) -> (StatusCode, Value) {
        self.try_request(method, path, body).await.unwrap_or_else(|| panic!("no answer to {path}:\n{}", self.log()))
    }

    /// The answer to a GET that must succeed.
    pub(crate) async fn get(&self, path: &str) -> Value {
        let (status, body) = self.request(Method::GET, path, None).await;
        assert!(status.is_success(), "GET {path}: {status} {body}");
        body
    }

    /// Whether `/health` says so.
    pub(crate) async fn is_healthy(&self) -> bool {
        self.request(Method::GET, "/health", None).await.0 == StatusCode::OK
    }

    /// Submits a job and answers its id.
    pub(crate) async fn submit(&self, body: Value) -> String {
        let (status, job) = self.request(Method::POST, "/jobs", Some(body)).await;
        assert_eq!(status, StatusCode::ACCEPTED, "{job}");
        job["id"].as_str().expect("an id").to_owned()
    }

    /// Submits a job to a daemon that may die meanwhile; its id, where it answers.
    pub(crate) async fn try_submit(&self, body: Value) -> Option<String> {
        let (_, job) = self.try_request(Method::POST, "/jobs", Some(body)).await?;
        job["id"].as_str().map(str::to_owned)
    }

    /// Submits a shell command and answers the job's id.
    pub(crate) async fn sh(&self, script: &str) -> String {
        self.submit(json!({ "image": BUSYBOX, "command": ["sh", "-c", script] })).await
    }

    /// The job as it stands.
    pub(crate) async fn job(&self, id: &str) -> Value {
        self.get(&format!("/jobs/{id}")).await
    }

    /// The job's log as it stands.
    pub(crate) async fn logs(&self, id: &str) -> String {
        match self.request(Method::GET, &format!("/jobs/{id}/logs"), None).await {
            (status, Value::String(text)) if status.is_success() => text,
            (status, other) if status.is_success() => other.to_string(),
            (status, other) => panic!("logs of {id}: {status} {other}"),
        }
    }

    /// Waits until a job is in one of the states.
    pub(crate) async fn reaches(&self, id: &str, states: &[&str]) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let job = self.job(id).await;
            if job["state"].as_str().is_some_and(|state| states.contains(&state)) {
                return job;
            }
            assert!(Instant::now() < deadline, "the job does not get to {states:?}: {job}\n{}", self.log());
            pause().await;
        }
    }

    /// Waits until a job has ended.
    pub(crate) async fn ended(&self, id: &str) -> Value {
        self.reaches(id, &["succeeded", "failed", "canceled"]).await
    }

    /// Waits until this attempt of a job runs.
    pub(crate) async fn runs(&self, id: &str, attempt: u32) {
        let so = async |daemon: &Self| {
            let job = daemon.job(id).await;
            job["state"] == "running" && job["attempt"] == attempt
        };
        self.until(&format!("attempt {attempt} of {id} runs"), so).await;
    }

    /// Waits until something is so.
    pub(crate) async fn until(&self, what: &str, so: impl AsyncFn(&Self) -> bool) {
        self.within(PATIENCE, what, so).await;
    }

    /// The same with a patience of its own.
    pub(crate) async fn within(&self, patience: Duration, what: &str, so: impl AsyncFn(&Self) -> bool) {
        let deadline = Instant::now() + patience;
        while !so(self).await {
            assert!(Instant::now() < deadline, "not so in time: {what}\n{}", self.log());
            pause().await;
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
            if std::thread::panicking() {
                engine::try_to_remove_everything(&self.name, &self.data);
            }
        }
    }
}

/// Between two looks at a predicate.
pub(crate) async fn pause() {
    tokio::time::sleep(Duration::from_millis(25)).await;
}
