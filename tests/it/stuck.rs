//! Parts that hang: an engine at any of its calls, a container that cannot be taken away, the manager itself. Each is noticed and told, and all is
//! well again when it goes on.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::{Method, StatusCode};
use runner_coordinator::app::{self, App, Outside};
use runner_coordinator::config::Config;
use runner_coordinator::docker::DockerDriver;
use runner_coordinator::lifecycle::Lifecycle;
use runner_coordinator::store::{SqliteStore, Store as _};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::engine_proxy::{Proxy, Spoil};
use crate::harness::{BUSYBOX, Daemon, PATIENCE, Setup, client, engine, free_port, pause};

/// Longest wait for a call of the engine in these tests.
const CALL: Duration = Duration::from_secs(3);

/// A daemon in this process, whose engine is asked with little patience.
pub(crate) struct Inside {
    pub(crate) app: App,
    pub(crate) lifecycle: Lifecycle,
    name: String,
    dir: TempDir,
}

impl Inside {
    /// Starts one whose machine is called `name`; `driver` makes its engine from the coordinator's id.
    pub(crate) async fn start(name: &str, outside: impl FnOnce(&str) -> Outside) -> Self {
        let dir = TempDir::with_prefix(format!("rc-{name}-")).expect("a directory");
        let file = dir.path().join("config.toml");
        let text = format!(
            "data_dir = \"{0}/data\"\n[http]\nlisten = \"127.0.0.1:{1}\"\n[host]\nname = {name:?}\n[broker]\nlisten = \"127.0.0.1:{2}\"\n\
             [limits]\nstop_grace = \"1s\"\nstart_timeout = \"1s\"\nretry_backoff = \"100ms\"\ninfrastructure_retries = 20\n[[classes]]\nname = \"default\"\npull = \"if-missing\"",
            dir.path().display(),
            free_port(),
            free_port()
        );
        std::fs::write(&file, text).expect("a configuration");
        let config = Config::load(Some(&file), std::iter::empty()).unwrap_or_else(|faults| panic!("{faults}"));
        std::fs::create_dir_all(dir.path().join("data")).expect("a directory");
        let instance = SqliteStore::open(&dir.path().join("data/coordinator.db")).expect("a store").instance().to_owned();
        let lifecycle = Lifecycle::default();
        let app = app::start(config, outside(&instance), &lifecycle).await.expect("it starts");
        Self { app, lifecycle, name: name.to_owned(), dir }
    }

    pub(crate) async fn request(&self, method: Method, path: &str, body: Option<Value>) -> (StatusCode, Value) {
        let request = client().request(method, format!("http://{}{path}", self.app.address));
        let request = if let Some(body) = body { request.json(&body) } else { request };
        let answer = request.send().await.expect("an answer");
        let status = answer.status();
        let text = answer.text().await.expect("a body");
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        self.request(Method::GET, path, None).await.1
    }

    pub(crate) async fn sh(&self, script: &str) -> String {
        let (status, job) = self.request(Method::POST, "/jobs", Some(json!({ "image": BUSYBOX, "command": ["sh", "-c", script] }))).await;
        assert_eq!(status, StatusCode::ACCEPTED, "{job}");
        job["id"].as_str().expect("an id").to_owned()
    }

    pub(crate) async fn until(&self, what: &str, so: impl AsyncFn(&Self) -> bool) {
        let deadline = Instant::now() + 2 * PATIENCE;
        while !so(self).await {
            assert!(Instant::now() < deadline, "not so in time: {what}\n{}", self.get("/health").await);
            pause().await;
        }
    }

    /// Waits until a job has ended.
    pub(crate) async fn ended(&self, id: &str) -> Value {
        self.until("the job ends", async |inside| inside.get(&format!("/jobs/{id}")).await["finished_at"].is_string()).await;
        self.get(&format!("/jobs/{id}")).await
    }

    /// The sum of a metric's series that hold this text.
    pub(crate) async fn metric(&self, series: &str) -> f64 {
        let text = self.get("/metrics").await;
        let lines = text.as_str().unwrap_or_default().lines().filter(|line| line.starts_with("runner_coordinator_") && line.contains(series));
        lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
    }

    /// Stops in order; nothing may be left.
    pub(crate) async fn finish(self) {
        self.until("no runner is left", async |inside| inside.get("/runners").await["runners"] == json!([])).await;
        assert_eq!(engine::containers(&self.name), Vec::<String>::new());
        self.lifecycle.finish(std::future::pending()).await;
        engine::remove_networks(&self.name, &self.dir.path().join("data"));
    }
}

async fn hurried(name: &str, proxy: &Proxy) -> Inside {
    let host = proxy.host();
    let inside = Inside::start(name, |instance| {
        let driver = DockerDriver::hurried(&host, instance.to_owned(), CALL).expect("an engine");
        Outside { driver: Some(Arc::new(driver)), ..Outside::default() }
    });
    let inside = inside.await;
    inside.until("it is well", async |inside| inside.request(Method::GET, "/health", None).await.0 == StatusCode::OK).await;
    inside
}

/// Every request that a job's way through the daemon leads to, and the name by which metrics tell that it hangs.
const REQUESTS: [(&str, &str); 11] = [
    ("GET /version", ""),
    ("GET /info", "operation=\"info\""),
    ("GET /containers/json", "operation=\"list\""),
    ("GET /containers/*/json", "operation=\"inspect\""),
    ("GET /images/*/*/json", "operation=\"resolve_image\""),
    ("POST /containers/create", "operation=\"create\""),
    ("POST /containers/*/start", "operation=\"start\""),
    ("POST /containers/*/stop", "operation=\"stop\""),
    ("DELETE /containers/*", "operation=\"remove\""),
    ("GET /events", "operation=\"events\""),
    ("GET /containers/*/logs", ""),
];

/// Has the engine hang at one kind of request and a job be on its way meanwhile.
async fn hangs(inside: &Inside, proxy: &Proxy, request: &str, series: &str) {
    let errors = format!("engine_call_errors_total{{{series},");
    let before = inside.metric(&errors).await;
    let stopped = request.ends_with("/stop");
    let long = if stopped { Some(inside.sh("sleep 600").await) } else { None };
    if let Some(long) = &long {
        inside.until("it runs", async |inside| inside.get(&format!("/jobs/{long}")).await["state"] == "running").await;
    }
    if request.ends_with("/info") {
        // It is asked of an engine that was away.
        proxy.spoil(&["GET /containers/json"], Spoil::Refuse);
        inside.until("the engine is away", async |inside| inside.get("/health").await["checks"]["engine"]["status"] == "failing").await;
    }
    proxy.spoil(&[request], if request.ends_with("/logs") { Spoil::HangOnce } else { Spoil::Hang });
    if request.ends_with("/version") || request == "GET /events" {
        // They are asked for when a connection is made.
        proxy.cut();
    }
    let id = match long {
        Some(long) => {
            inside.request(Method::DELETE, &format!("/jobs/{long}"), None).await;
            long
        }
        None => inside.sh("sleep 1; echo done").await,
    };
    inside.until(&format!("{request} is met"), async |_| proxy.spoils() > 0).await;
    if request.ends_with("/logs") {
        // Nobody else can tell a log that hangs from one to which nothing is written; what is left of it is read anew at the end.
        let job = inside.ended(&id).await;
        assert_eq!((&job["state"], inside.get(&format!("/jobs/{id}/logs")).await), (&json!("succeeded"), json!("done\n")), "{request}");
    } else {
        let noticed = async |inside: &Inside| {
            let failing = inside.get("/health").await["checks"]["engine"]["status"] == "failing";
            failing || !series.is_empty() && inside.metric(&errors).await > before
        };
        inside.until(&format!("that {request} hangs is told"), noticed).await;
    }
    proxy.let_go();
    let job = inside.ended(&id).await;
    let expected = if stopped { "canceled" } else { "succeeded" };
    assert_eq!(job["state"], expected, "{request}: {job}");
    inside.until("all is well again", async |inside| inside.request(Method::GET, "/health", None).await.0 == StatusCode::OK).await;
    inside.until("nothing is left", async |inside| inside.get("/runners").await["runners"] == json!([])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_hangs_at_any_request_is_noticed_and_all_is_well_when_it_goes_on() {
    let proxy = Proxy::start();
    let inside = hurried("stuck-engine", &proxy).await;
    let id = inside.sh("echo done").await;
    assert_eq!(inside.ended(&id).await["state"], "succeeded");
    let id = inside.sh("sleep 600").await;
    inside.until("it runs", async |inside| inside.get(&format!("/jobs/{id}")).await["state"] == "running").await;
    inside.request(Method::DELETE, &format!("/jobs/{id}"), None).await;
    inside.ended(&id).await;
    let seen = proxy.seen();
    let unknown: Vec<&String> = seen.iter().filter(|seen| !REQUESTS.iter().any(|(known, _)| known == seen)).collect();
    // What a sample of a running container hangs at costs a sample; networks are the broker's, and asked again and again.
    let unknown: Vec<_> = unknown.into_iter().filter(|seen| !seen.contains("/stats") && !seen.contains("/networks")).collect();
    assert!(unknown.is_empty(), "not in the table: {unknown:?}");
    for (request, series) in REQUESTS {
        hangs(&inside, &proxy, request, series).await;
    }
    inside.finish().await;
}

#[tokio::test]
async fn a_container_that_cannot_be_taken_away_is_told_holds_its_room_and_goes_when_it_can() {
    let proxy = Proxy::start();
    let rest =
        "[limits]\nstop_grace = \"1s\"\nstuck_after = \"1s\"\n[[classes]]\nname = \"default\"\ncpus = 1\nmemory = \"64MiB\"\nnetwork = \"none\"";
    let daemon = Setup::new("stuck-container").docker_host(&proxy.host()).host("cpus = 1").with(rest).start().await;
    daemon.until("it is healthy", Daemon::is_healthy).await;
    let stays = daemon.sh("sleep 600").await;
    daemon.reaches(&stays, &["running"]).await;
    proxy.spoil(&["POST /containers/*/stop", "DELETE /containers/*"], Spoil::Refuse);
    let next = daemon.sh("echo next").await;
    daemon.request(Method::DELETE, &format!("/jobs/{stays}"), None).await;
    let stuck = async |daemon: &Daemon| daemon.get("/runners").await["runners"][0]["stuck_since"].is_string();
    daemon.until("it is told", stuck).await;
    let (status, health) = daemon.request(Method::GET, "/health", None).await;
    assert_eq!((status, &health["checks"]["containers"]["status"]), (StatusCode::OK, &json!("ok")), "others are not concerned: {health}");
    assert!(
        health["checks"]["containers"]["detail"].as_str().is_some_and(|detail| detail.starts_with("1 container cannot be taken away")),
        "{health}"
    );
    let metrics = daemon.get("/metrics").await;
    assert!(metrics.as_str().is_some_and(|text| text.contains("\nrunner_coordinator_stuck_containers 1")), "{metrics}");
    assert_eq!(daemon.job(&next).await["state"], "queued", "the room is not given twice");
    assert_eq!(engine::containers("stuck-container").len(), 1);
    assert!(daemon.log().contains("its container cannot be taken away"), "{}", daemon.log());
    proxy.let_go();
    assert_eq!(daemon.ended(&stays).await["state"], "canceled");
    assert_eq!(daemon.ended(&next).await["state"], "succeeded");
    daemon.until("nothing is told any more", async |daemon| daemon.get("/health").await["checks"]["containers"].is_null()).await;
    daemon.finish().await;
}

/// Whether a sign of life comes within that time.
fn sign_of_life(socket: &UnixDatagram, within: Duration) -> bool {
    let (deadline, mut buffer) = (Instant::now() + within, [0; 4096]);
    while let Some(left) = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        socket.set_read_timeout(Some(left)).expect("a patience");
        match socket.recv(&mut buffer) {
            Ok(length) if buffer[..length].starts_with(b"WATCHDOG=1") => return true,
            Ok(_) => {}
            Err(_) => return false,
        }
    }
    false
}

/// Leaves out what was said until now and nobody has read.
fn forget_signs(socket: &UnixDatagram) {
    socket.set_nonblocking(true).expect("a socket");
    while socket.recv(&mut [0; 4096]).is_ok() {}
    socket.set_nonblocking(false).expect("a socket");
}

/// Has the manager hang in the middle of a pass: it reads a receipt of which nobody writes the end.
fn hold(receipt: &Path) {
    std::fs::remove_file(receipt).expect("a receipt");
    assert!(Command::new("mkfifo").arg(receipt).status().expect("mkfifo").success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manager_that_hangs_in_a_pass_ends_the_signs_of_life_and_one_that_goes_on_brings_them_back() {
    const WATCHDOG: Duration = Duration::from_millis(1200);
    let dir = TempDir::with_prefix("rc-notify-").expect("a directory");
    let path = dir.path().join("notify");
    let socket = UnixDatagram::bind(&path).expect("a socket");
    let daemon = Setup::new("stuck-manager")
        .env("NOTIFY_SOCKET", &path.display().to_string())
        .env("WATCHDOG_USEC", &WATCHDOG.as_micros().to_string())
        .with("[[classes]]\nname = \"default\"\nnetwork = \"none\"")
        .start()
        .await;
    let id = daemon.sh("sleep 600").await;
    daemon.reaches(&id, &["running"]).await;
    assert!(sign_of_life(&socket, PATIENCE));
    let receipt = std::fs::read_dir(daemon.data().join("receipts")).expect("a directory").next().expect("one").expect("an entry").path();
    hold(&receipt);
    // This waits until the manager reads.
    let writer = std::fs::OpenOptions::new().write(true).open(&receipt).expect("a pipe");
    forget_signs(&socket);
    // One for the pass before may be on its way; a manager that gets on gives many more in that time.
    let signs = (0..4).take_while(|_| sign_of_life(&socket, 2 * WATCHDOG)).count();
    assert!(signs < 4, "signs of life of a manager that hangs:\n{}", daemon.log());
    let (_, health) = daemon.request(Method::GET, "/health", None).await;
    assert_eq!(health["checks"]["store"]["status"], "ok", "the store writes all the while, which is not enough: {health}");
    std::fs::remove_file(&receipt).expect("removed");
    std::fs::write(&receipt, "").expect("a receipt");
    drop(writer);
    assert!(sign_of_life(&socket, PATIENCE), "{}", daemon.log());
    assert!(daemon.log().contains("systemd gets no sign of life"), "{}", daemon.log());
    daemon.request(Method::DELETE, &format!("/jobs/{id}"), None).await;
    daemon.ended(&id).await;
    daemon.finish().await;
}
