//! A daemon's HTTP side on a real store in a directory of its own, without an engine: for the tests of this room.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use axum::Router;
use axum::body::{Body, HttpBody as _, to_bytes};
use axum::http::{HeaderMap, Request, StatusCode};
use jiff::Timestamp;
use serde_json::Value;
use tower::ServiceExt as _;

use crate::config::Config;
use crate::domain::{
    Arch, Clock, CpuMillis, Gpu, HostFacts, HostId, Job, JobId, MemoryBytes, Outcome, Placement, RequirementId, RetryPolicy, Runner, RunnerId,
    RunnerOrigin, Step,
};
use crate::jobs::{ManagerHandle, Seat, Vitals, channel};
use crate::metrics::Metrics;
use crate::security::audit::AuditLog;
use crate::security::{SecurityManager, sha256};
use crate::store::log::LogStore;
use crate::store::{Candidate, JobFilter, SqliteStore, Store};

use super::openapi::answers::{self, Got, Sent};
use super::webhook::hex;
use super::{AppState, router, through_socket};

/// The secret of GitLab's webhook.
pub(super) const HOOK_SECRET: &str = "a-secret-of-the-webhook-0123456789";
/// The key that signs GitLab's webhooks, as the configuration has it.
pub(super) const HOOK_SIGNING_TOKEN: &str = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";
/// When the tests' clock stands, in seconds since 1970.
pub(super) const NOW: i64 = 1_795_000_000;
/// A token that may look.
pub(super) const VIEWER: &str = "rca-viewer";
/// A token that may submit jobs of the projects `team/app` and `team/lib`.
pub(super) const SUBMITTER: &str = "rca-submitter";
/// A token that may do everything.
pub(super) const OPERATOR: &str = "rca-operator";
/// Never tried again.
pub(super) const NO_RETRY: RetryPolicy =
    RetryPolicy { infrastructure_retries: 0, backoff: std::time::Duration::ZERO, backoff_max: std::time::Duration::ZERO };

/// A clock that moves only when it is told to.
#[derive(Debug)]
pub(super) struct TestClock(AtomicI64);

impl TestClock {
    pub(super) fn advance(&self, seconds: i64) {
        self.0.fetch_add(seconds, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_second(self.0.load(Ordering::SeqCst)).expect("a time")
    }
}

/// What the tests hold.
pub(super) struct Harness {
    router: Router,
    pub(super) state: AppState,
    pub(super) store: Arc<dyn Store>,
    pub(super) logs: Arc<LogStore>,
    pub(super) clock: Arc<TestClock>,
    pub(super) manager: ManagerHandle,
    _seat: Seat,
    _directory: tempfile::TempDir,
}

/// What was answered.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) text: String,
}

impl Answer {
    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("ascii"))
    }

    /// The problem's slug.
    pub(super) fn problem(&self) -> String {
        assert_eq!(self.header("content-type"), "application/problem+json", "{}", self.text);
        let json = self.json();
        assert_eq!(json["status"], self.status.as_u16(), "{json}");
        json["type"].as_str().and_then(|kind| kind.strip_prefix("/problems/")).expect("a type of ours").to_owned()
    }

    /// The fields at fault.
    pub(super) fn fields(&self) -> Vec<String> {
        let json = self.json();
        let errors = json["errors"].as_array().cloned().unwrap_or_default();
        errors.iter().map(|error| error["field"].as_str().expect("a field").to_owned()).collect()
    }
}

impl Harness {
    /// A daemon with two classes, GitLab and no tokens.
    pub(super) fn start() -> Self {
        Self::with("")
    }

    /// A daemon with a token of every role.
    pub(super) fn guarded() -> Self {
        Self::guarded_with("")
    }

    /// The same with more keys in its configuration.
    pub(super) fn guarded_with(keys: &str) -> Self {
        let token = |name: &str, token: &str| {
            let digest = hex(&sha256(token.as_bytes()));
            format!("[[http.tokens]]\nname = \"{name}\"\nrole = \"{name}\"\nsha256 = \"{digest}\"\n")
        };
        let bound = "projects = [\"team/app\", \"team/lib\"]\n";
        let tokens = token("viewer", VIEWER) + &token("operator", OPERATOR) + &token("submitter", SUBMITTER) + bound;
        Self::of(&format!("gitlab.webhook.secret_token = \"{HOOK_SECRET}\"\n{keys}"), &tokens)
    }

    /// A daemon with more in its configuration.
    pub(super) fn with(more: &str) -> Self {
        Self::of(&format!("gitlab.webhook.secret_token = \"{HOOK_SECRET}\""), more)
    }

    /// A daemon that knows webhooks by this, with more in its configuration.
    pub(super) fn of(webhook: &str, more: &str) -> Self {
        Self::on(Vec::new(), webhook, more)
    }

    /// The same on a machine with GPUs.
    pub(super) fn on(gpus: Vec<Gpu>, webhook: &str, more: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path();
        let file = path.join("config.toml");
        let text = format!(
            r#"
data_dir = "{}"
gitlab.url = "http://gitlab.example.com"
{webhook}
limits.queue_per_project = 3
limits.body = "64KiB"

[[classes]]
name = "default"

[[classes]]
name = "arm"
arch = "arm64"
image = "debian:bookworm"
{more}"#,
            path.display()
        );
        std::fs::write(&file, text).expect("written");
        let config = Config::load(Some(&file), std::iter::empty()).unwrap_or_else(|faults| panic!("{faults}"));
        let metrics = Arc::new(Metrics::new(config.classes.iter().map(|class| &class.name)));
        let store: Arc<dyn Store> = Arc::new(SqliteStore::open_metered(&path.join("queue.db"), Arc::clone(&metrics)).expect("a store"));
        let logs = Arc::new(LogStore::new(path.join("logs"), 1 << 20).expect("logs"));
        let security = Arc::new(SecurityManager::open(path, &config).expect("keys"));
        let clock = Arc::new(TestClock(AtomicI64::new(NOW)));
        let facts = HostFacts {
            id: HostId::from_trusted("box1"),
            arch: Some(Arch::Amd64),
            cpus: CpuMillis(8000),
            memory: MemoryBytes(16 << 30),
            emulated: Vec::new(),
            gpus,
            notes: Vec::new(),
            runtimes: vec!["runc".to_owned()],
        };
        let (manager, seat) = channel(Arc::clone(&store), clock.clone(), Arc::new(Vitals::default()), facts);
        let state = AppState::new(Arc::clone(&store), Arc::clone(&logs), manager.clone(), security, Arc::new(config), clock.clone());
        let state = AppState { metrics, ..state };
        Self { router: router(state.clone()), state, store, logs, clock, manager, _seat: seat, _directory: directory }
    }

    /// With an audit log in its directory.
    pub(super) fn audited(mut self) -> Self {
        self.state.audit = AuditLog::open(&self.state.config.current().data_dir, &self.state.security).expect("a log");
        self.router = router(self.state.clone());
        self
    }

    /// Sends a request as it is. The answer must be as the API's document says.
    pub(super) async fn send(&self, request: Request<Body>) -> Answer {
        let sent = Sent::of(&request);
        let (request, given) = if request.body().size_hint().exact().is_some() {
            let (parts, body) = request.into_parts();
            let bytes = to_bytes(body, 64 << 20).await.expect("a whole body");
            (Request::from_parts(parts, Body::from(bytes.clone())), Some(bytes))
        } else {
            (request, None)
        };
        let response = self.open(request).await;
        let (parts, body) = response.into_parts();
        let bytes = to_bytes(body, 64 << 20).await.expect("a whole body");
        let answer = Answer { status: parts.status, headers: parts.headers, text: String::from_utf8_lossy(&bytes).into_owned() };
        let got = Got { status: answer.status, headers: &answer.headers, text: &answer.text };
        let faults = answers::faults_of_answer(&sent, given.as_deref(), &got);
        assert!(faults.is_empty(), "not as the document says: {faults:#?}\n{}", answer.text);
        answer
    }

    /// The same routes as they are served on the Unix socket.
    pub(super) fn through_socket(mut self) -> Self {
        self.router = through_socket(self.router);
        self
    }

    /// Sends a request and leaves the answer's body to be read. Its head must be as the API's document says.
    pub(super) async fn open(&self, request: Request<Body>) -> axum::response::Response {
        let sent = Sent::of(&request);
        let response = self.router.clone().oneshot(request).await.expect("an answer");
        let faults = answers::faults_of_head(&sent, response.status(), response.headers());
        assert!(faults.is_empty(), "not as the document says: {faults:#?}");
        response
    }

    pub(super) async fn get(&self, path: &str) -> Answer {
        self.send(request("GET", path, &[], "")).await
    }

    pub(super) async fn delete(&self, path: &str) -> Answer {
        self.send(request("DELETE", path, &[], "")).await
    }

    pub(super) async fn post(&self, path: &str, body: &str) -> Answer {
        self.send(request("POST", path, &[("content-type", "application/json")], body.to_owned())).await
    }

    /// Submits a job and answers with its id.
    pub(super) async fn submit(&self, body: &str) -> String {
        let answer = self.post("/jobs", body).await;
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.text);
        answer.json()["id"].as_str().expect("an id").to_owned()
    }

    /// Every stored job.
    pub(super) async fn stored(&self) -> Vec<Job> {
        self.store.jobs(JobFilter { limit: 100, ..JobFilter::default() }).await.expect("jobs")
    }

    /// Claims the only waiting job, as the manager would.
    pub(super) async fn claim(&self) -> (RunnerId, JobId) {
        let waiting = self.store.waiting().await.expect("waiting");
        let requirement: RequirementId = waiting.first().expect("a waiting job").id;
        let spec = &waiting[0].requirement;
        let placement = Placement { cpus: spec.cpus, memory: spec.memory, devices: Vec::new(), share: None, opened: None };
        let now = self.clock.now();
        let runner = Runner::planned(RunnerId::generate(), spec.class.clone(), HostId::from_trusted("box1"), RunnerOrigin::Job, placement, now);
        let claimed = self.store.claim(&[Candidate { requirement, runner }], now).await.expect("claimed").expect("a job");
        (claimed.runner.id, claimed.job.expect("its job").id)
    }

    /// Takes the steps by which a claimed job comes to run.
    pub(super) async fn run(&self, runner: &RunnerId) {
        for step in [
            Step::ContainerCreated { container: "c1".to_owned(), image: None, opened: Vec::new() },
            Step::StartSent { engine_epoch: 0 },
            Step::Started,
        ] {
            self.store.apply(runner, step, self.clock.now()).await.expect("a step");
        }
    }

    /// Ends a running job.
    pub(super) async fn end(&self, runner: &RunnerId, outcome: Outcome) {
        self.store.apply(runner, Step::JobEnded { outcome, retry: NO_RETRY }, self.clock.now()).await.expect("a step");
    }
}

/// A request.
pub(super) fn request(method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> Request<Body> {
    let mut builder = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    builder.body(body.into()).expect("a request")
}
