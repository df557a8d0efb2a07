//! A local proxy between the `gitlab-runner` crate and the server, which speaks the words that the crate lacks.
//!
//! The crate sends neither exit codes nor reasons, knows `canceled` but not `canceling`, and keeps the job's timeout
//! to itself. The bridge adds the former to the calls that pass through, takes the latter from the answers, and keeps
//! in touch with the server while a job is silent. Like the official runner, and unlike the crate, it does not give up when the
//! server is away for a while: it repeats what it had to say.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, Response, StatusCode, header};
use bytes::Bytes;
use reqwest::Url;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::record::{Record, say};
use super::trace::Trace;

/// Largest body that passes.
const MAX_BODY_BYTES: usize = 256 << 20;

/// How long the server may be away while a job runs.
const PATIENCE: Duration = Duration::from_secs(120);

/// How often the server may ask for another part of the trace at once.
const TRACE_TRIES: u32 = 5;

/// Features of the official runner that matter to a server.
const FEATURES: [&str; 12] = [
    "variables",
    "shared",
    "artifacts",
    "upload_multiple_artifacts",
    "refspecs",
    "masking",
    "raw_variables",
    "multi_build_steps",
    "return_exit_code",
    "cancelable",
    "cancel_gracefully",
    "two_phase_job_commit",
];

/// The bridge's own memory.
#[derive(Clone)]
pub(crate) struct Bridge {
    /// The server.
    server: Url,
    /// Client to it.
    client: reqwest::Client,
    /// What is known about the job.
    record: Arc<Record>,
    /// Its trace.
    trace: Arc<Trace>,
}

impl Bridge {
    /// A bridge to `server`.
    pub(crate) fn new(server: Url, record: Arc<Record>) -> Self {
        Self { server, client: reqwest::Client::new(), record, trace: Arc::default() }
    }

    /// Serves on a free local port as one of `tasks`, and gives the address for the crate.
    pub(crate) async fn serve(&self, tasks: &mut JoinSet<()>) -> io::Result<String> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let app = Router::new().fallback(forward).with_state(self.clone());
        tasks.spawn(async move {
            if let Err(error) = axum::serve(listener, app).await {
                say("error", "The bridge stopped", json!({ "error": error.to_string() }));
            }
        });
        Ok(format!("http://{address}/"))
    }

    /// Tells the server that the job runs, and hears whether it still should.
    ///
    /// The crate does so after half a minute of silence only, which would be the time that a cancel takes.
    pub(crate) async fn beat(&self) {
        let facts = self.record.facts().clone();
        let Some(id) = facts.job else { return };
        let url = self.target(&format!("/api/v4/jobs/{id}"));
        let body = json!({ "token": facts.token, "state": "running" });
        match self.client.put(url).header("JOB-TOKEN", facts.token).json(&body).send().await {
            Ok(answer) => self.note(answer.headers()),
            Err(error) => {
                say("warning", "Updating job... failed", json!({ "job": id, "error": error.to_string() }));
            }
        }
    }

    /// The server's address for a path, below whatever path the server's own URL has.
    fn target(&self, path_and_query: &str) -> String {
        format!("{}{path_and_query}", self.server.as_str().trim_end_matches('/'))
    }

    /// Adds what the crate leaves out.
    fn enrich(&self, method: &Method, path: &str, body: Bytes) -> Bytes {
        let Ok(mut json) = serde_json::from_slice::<Value>(&body) else {
            return body;
        };
        if path.ends_with("/jobs/request") {
            json["info"]["name"] = "gitlab-runner".into();
            json["info"]["executor"] = "shell".into();
            for feature in FEATURES {
                json["info"]["features"][feature] = true.into();
            }
        } else if *method == Method::PUT && json["state"] == "failed" {
            let mut facts = self.record.facts();
            // A failure without a reason is the crate's own, such as an artifact that could not be uploaded.
            json["failure_reason"] = (*facts.failure_reason.get_or_insert("runner_system_failure")).into();
            json["exit_code"] = facts.exit_code.into();
        }
        json.to_string().into()
    }

    /// Keeps what the answer to `POST /jobs/request` says about the job.
    fn keep(&self, answer: &[u8]) {
        let Ok(job) = serde_json::from_slice::<Value>(answer) else {
            return;
        };
        let mut facts = self.record.facts();
        facts.job = job["id"].as_u64();
        job["token"].as_str().unwrap_or_default().clone_into(&mut facts.token);
        facts.timeout = job["runner_info"]["timeout"].as_u64().filter(|seconds| *seconds > 0).map(Duration::from_secs);
        drop(facts);
        say("info", "Checking for jobs... received", json!({ "job": job["id"], "repo_url": job["git_info"]["repo_url"] }));
    }

    /// Notes what an answer says about the job.
    fn note(&self, headers: &HeaderMap) {
        let value = |name: &str| headers.get(name)?.to_str().ok();
        let mut facts = self.record.facts();
        if matches!(value("job-status"), Some("canceling" | "canceled")) {
            facts.canceled.cancel();
        }
        if let Some(seconds) = value("x-gitlab-trace-update-interval").and_then(|text| text.parse().ok()) {
            facts.interval = Some(Duration::from_secs(seconds));
        }
    }
}

/// Sends a call; one about a job is repeated while the server is away.
async fn patiently(path: &str, call: &reqwest::RequestBuilder) -> Option<reqwest::Response> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let answer = call.try_clone()?.send().await;
        let away = answer.as_ref().map_or(true, |answer| answer.status().is_server_error() || answer.status() == StatusCode::TOO_MANY_REQUESTS);
        if !away || path.ends_with("/jobs/request") || tokio::time::Instant::now() >= deadline {
            return answer.ok();
        }
        say("warning", "The server is away; trying again", json!({ "path": path }));
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

/// Sends a part of the trace until the server has all of it.
async fn append(bridge: &Bridge, path: &str, call: reqwest::RequestBuilder) -> Option<(StatusCode, reqwest::Response)> {
    let mut answer = patiently(path, &call).await?;
    for _ in 0..TRACE_TRIES {
        let Some((rest, range)) = bridge.trace.mended(&answer) else { break };
        if rest.is_empty() {
            // It had taken the part before, and its answer was lost.
            return Some((StatusCode::ACCEPTED, answer));
        }
        answer = patiently(path, &call.try_clone()?.headers(HeaderMap::from_iter([(header::CONTENT_RANGE, range)])).body(rest)).await?;
    }
    Some((answer.status(), answer))
}

/// Passes one request on and its answer back.
async fn forward(State(bridge): State<Bridge>, request: Request) -> Response<Body> {
    let refused = |status: StatusCode| {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = status;
        response
    };
    let (parts, body) = request.into_parts();
    let Ok(body) = to_bytes(body, MAX_BODY_BYTES).await else {
        return refused(StatusCode::PAYLOAD_TOO_LARGE);
    };
    let path = parts.uri.path().to_owned();
    let is_json = parts.headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
    let body = if is_json { bridge.enrich(&parts.method, &path, body) } else { body };
    let mut headers = parts.headers;
    for name in [header::HOST, header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::CONNECTION] {
        headers.remove(name);
    }
    let target = bridge.target(parts.uri.path_and_query().map_or(path.as_str(), |all| all.as_str()));
    let call = bridge.client.request(parts.method, target).body(body.clone());
    let sent = if path.ends_with("/trace") {
        bridge.trace.keep(&headers, &body);
        append(&bridge, &path, call.headers(headers)).await
    } else {
        patiently(&path, &call.headers(headers)).await.map(|answer| (answer.status(), answer))
    };
    let Some((status, answer)) = sent else {
        return refused(StatusCode::BAD_GATEWAY);
    };
    let mut headers = answer.headers().clone();
    let Ok(body) = answer.bytes().await else {
        return refused(StatusCode::BAD_GATEWAY);
    };
    if status == StatusCode::CREATED && path.ends_with("/jobs/request") {
        bridge.keep(&body);
        bridge.beat().await;
    }
    bridge.note(&headers);
    for name in [header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::CONNECTION] {
        headers.remove(name);
    }
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}
