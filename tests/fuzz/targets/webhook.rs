//! `POST /webhook/job` by the router that the daemon serves. The head holds the headers; the value `@` of `webhook-signature` becomes the
//! right one, since no fuzzer finds an HMAC.
//!
//! What must hold: what is not proved is refused (401), what is proved is never an error of ours, and what is JSON besides is taken (200).

use std::cell::RefCell;
use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Request, StatusCode};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use ring::hmac;
use runner_coordinator::config::Config;
use runner_coordinator::domain::{Clock, HostFacts, HostId, JobId};
use runner_coordinator::domain::{CpuMillis, MemoryBytes};
use runner_coordinator::http::{AppState, router};
use runner_coordinator::jobs::{Vitals, channel};
use runner_coordinator::metrics::Metrics;
use runner_coordinator::security::SecurityManager;
use runner_coordinator::store::log::LogStore;
use runner_coordinator::store::{SqliteStore, Store};
use tower::ServiceExt as _;

use super::broker_rig::{gitlab_job, submitted};
use super::message::{Message, with_headers};

/// The secret that GitLab sends, as the corpus has it.
const SECRET: &str = "a-secret-of-the-webhook";
/// The key that signs, and the same as the configuration has it.
const KEY: &[u8; 32] = b"01234567890123456789012345678901";
/// This machine's time, in seconds since 1970.
const NOW: i64 = 1_795_000_000;
/// Most jobs of one store.
const MOST_JOBS: u32 = 500;
/// How far a signed time may lie from it.
const TOLERANCE: u64 = 300;

#[derive(Debug)]
struct Stopped;

impl Clock for Stopped {
    fn now(&self) -> Timestamp {
        Timestamp::from_second(NOW).expect("a time")
    }
}

struct Rig {
    runtime: tokio::runtime::Runtime,
    router: axum::Router,
    store: Arc<dyn Store>,
    /// A job of GitLab's that waits here, and the how manyth it is; the events of the corpus tell of it.
    job: (JobId, u32),
    _directory: tempfile::TempDir,
}

impl Rig {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path();
        let text = format!(
            "data_dir = \"{}\"\n[gitlab]\nurl = \"http://gitlab.test\"\nwebhook.secret_token = \"{SECRET}\"\nwebhook.signing_token = \"whsec_{}\"\n",
            path.display(),
            BASE64.encode(KEY)
        );
        let file = path.join("config.toml");
        std::fs::write(&file, text).expect("written");
        let config = Config::load(Some(&file), std::iter::empty()).expect("sound");
        let store: Arc<dyn Store> = Arc::new(SqliteStore::in_memory(Arc::new(Metrics::default())).expect("a store"));
        let security = Arc::new(SecurityManager::open(path, &config).expect("a key"));
        let clock: Arc<dyn Clock> = Arc::new(Stopped);
        let facts = HostFacts {
            id: HostId::from_trusted("box1"),
            arch: None,
            cpus: CpuMillis(8000),
            memory: MemoryBytes(1 << 34),
            emulated: Vec::new(),
            gpus: Vec::new(),
            notes: Vec::new(),
            runtimes: Vec::new(),
        };
        // Without a manager the store decides at once.
        let (manager, _) = channel(Arc::clone(&store), Arc::clone(&clock), Arc::new(Vitals::default()), facts);
        let logs = Arc::new(LogStore::in_caller(path.join("logs"), 1 << 20));
        let state = AppState::new(Arc::clone(&store), logs, manager, security, Arc::new(config), clock);
        let runtime = super::runtime();
        Self { runtime, router: router(state), store, job: (JobId::from_trusted(""), 0), _directory: directory }
    }

    /// Puts a new job in the place of the one that was cancelled.
    fn renew(&mut self) {
        let number = self.job.1 + 1;
        let (job, gitlab) = gitlab_job(Stopped.now(), number);
        self.job = (job.id.clone(), number);
        self.runtime.block_on(submitted(self.store.as_ref(), job, gitlab));
    }

    fn send(&self, request: Request<Body>) -> (StatusCode, bool) {
        self.runtime.block_on(async {
            let answer = self.router.clone().oneshot(request).await.expect("infallible");
            let job = self.store.job(&self.job.0).await.expect("a store").expect("a job");
            // What was delivered is forgotten, so that no input depends on those before it.
            self.store.forget_deliveries(Timestamp::MAX).await.expect("a store");
            (answer.status(), job.has_ended() || job.cancel.is_some())
        })
    }
}

thread_local! {
    static RIG: RefCell<Option<Rig>> = const { RefCell::new(None) };
}

pub(crate) fn run(data: &[u8]) {
    let message = Message::read(data);
    let mut builder = with_headers(Request::builder().method("POST").uri("/webhook/job"), message.headers());
    if let Some(headers) = builder.headers_mut() {
        // These are the connection's, which is not looked at here.
        for name in ["content-length", "transfer-encoding", "expect", "upgrade"] {
            headers.remove(name);
        }
        if headers.get("webhook-signature").is_some_and(|value| value == "@") {
            let right = HeaderValue::from_str(&signature(headers, message.body)).expect("plain");
            headers.insert("webhook-signature", right);
        }
    }
    let request = builder.body(Body::from(message.body.to_vec())).expect("a request");
    let proved = is_proved(request.headers(), message.body);
    RIG.with_borrow_mut(|kept| {
        let rig = kept.get_or_insert_with(|| {
            let mut rig = Rig::new();
            rig.renew();
            rig
        });
        let (status, changed) = rig.send(request);
        assert_eq!(status == StatusCode::UNAUTHORIZED, !proved, "proved: {proved}, answered {status}");
        assert!(!changed || proved, "a stranger cancelled a job");
        if proved {
            // Between the two lie texts whose keys are no Unicode or whose numbers no float holds, which may be taken or not.
            let is_json = serde_json::from_slice::<serde_json::Value>(message.body).is_ok();
            let is_none = serde_json::from_slice::<serde::de::IgnoredAny>(message.body).is_err();
            assert!(status == StatusCode::OK && !is_none || status == StatusCode::BAD_REQUEST && !is_json, "{status} though proved");
        }
        if changed && rig.job.1 < MOST_JOBS {
            rig.renew();
        } else if changed {
            *kept = None;
        }
    });
}

/// Said a second time and otherwise than the daemon does: whether the sender knows what only GitLab does.
fn is_proved(headers: &HeaderMap, body: &[u8]) -> bool {
    let of = |name: &str| headers.get(name).map(HeaderValue::as_bytes);
    let Some(given) = of("webhook-signature") else { return of("x-gitlab-token") == Some(SECRET.as_bytes()) };
    let (Some(id), Some(at)) = (of("webhook-id"), of("webhook-timestamp")) else { return false };
    let in_time = std::str::from_utf8(at).ok().and_then(|text| text.parse::<i64>().ok()).is_some_and(|at| at.abs_diff(NOW) <= TOLERANCE);
    let right = signature(headers, body);
    !id.is_empty() && in_time && given.split(|byte| *byte == b' ').take(16).any(|one| one == right.as_bytes())
}

fn signature(headers: &HeaderMap, body: &[u8]) -> String {
    let of = |name: &str| headers.get(name).map(HeaderValue::as_bytes).unwrap_or_default();
    let signed = [of("webhook-id"), of("webhook-timestamp"), body].join(&b'.');
    format!("v1,{}", BASE64.encode(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, KEY), &signed)))
}
