//! The runner protocol, version 4: ask for a job and report how it goes.
//!
//! Traces and artifacts, the calls that carry bytes, are in [`super::trace`] and [`super::artifacts`].

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::json;

use super::job_json::job_json;
use super::log::header_token;
use super::spec::{Status, UpdateView};
use super::state::{Checksums, Commit, Features, Inner, Job, Shared};

/// The part of a runner's requests that names the runner.
#[derive(Deserialize)]
pub(super) struct Asking {
    /// Runner token, unless the header carries it.
    #[serde(default)]
    token: Option<String>,
    /// The `X-GitLab-Last-Update` value of the last empty answer.
    #[serde(default)]
    last_update: Option<String>,
    /// Which machine asks.
    #[serde(default)]
    system_id: Option<String>,
    /// What the runner says about itself.
    #[serde(default)]
    info: serde_json::Value,
}

impl Asking {
    /// Whether the runner advertises a feature.
    fn has(&self, feature: &str) -> bool {
        self.info["features"][feature].as_bool().unwrap_or_default()
    }

    /// The features that change how its jobs are treated.
    fn features(&self) -> Features {
        Features { two_phase: self.has("two_phase_job_commit"), cancel_gracefully: self.has("cancel_gracefully") }
    }
}

/// GitLab's answer to a token it does not know.
fn forbidden() -> Response {
    (StatusCode::FORBIDDEN, Json(json!({ "message": "403 Forbidden" }))).into_response()
}

/// `POST /runners/verify`.
pub(super) async fn verify(State(shared): State<Arc<Shared>>, headers: HeaderMap, Json(asking): Json<Asking>) -> Response {
    let token = header_token(&headers).or(asking.token).unwrap_or_default();
    let known = shared.read(|inner| inner.runner_by_token(&token).map(|runner| runner.id));
    match known {
        Some(id) => Json(json!({ "id": id, "token": token, "token_expires_at": null })).into_response(),
        None => forbidden(),
    }
}

/// `POST /jobs/request`.
pub(super) async fn request_job(State(shared): State<Arc<Shared>>, headers: HeaderMap, Json(asking): Json<Asking>) -> Response {
    let features = asking.features();
    let token = header_token(&headers).or(asking.token).unwrap_or_default();
    shared.write(|inner| {
        let Some(runner_id) = inner.runner_by_token(&token).map(|runner| runner.id) else {
            return forbidden();
        };
        inner.release_lapsed(std::time::Instant::now());
        let version = inner.queue_version.to_string();
        let unchanged = asking.last_update.as_deref() == Some(version.as_str());
        let given = if unchanged { None } else { inner.assign(runner_id, features, &shared.url) };
        if let Some(job) = given.and_then(|id| inner.jobs.get_mut(&id)) {
            job.system_id = asking.system_id;
        }
        match given.and_then(|id| inner.jobs.get(&id)) {
            Some(job) => {
                let answer = job_json(inner, job, &shared.url);
                (StatusCode::CREATED, Json(answer)).into_response()
            }
            None => (StatusCode::NO_CONTENT, [("X-GitLab-Last-Update", version)]).into_response(),
        }
    })
}

/// The body of `PUT /jobs/:id`.
#[derive(Deserialize)]
pub(super) struct Update {
    /// Job token, unless the header carries it.
    #[serde(default)]
    token: Option<String>,
    /// `pending`, `running`, `success` or `failed`.
    #[serde(default)]
    state: String,
    /// Why it failed.
    #[serde(default)]
    failure_reason: Option<String>,
    /// Exit code of the script.
    #[serde(default)]
    exit_code: Option<i64>,
    /// Proof of the trace.
    #[serde(default)]
    output: Option<Output>,
}

/// What a runner says about the trace it sent.
#[derive(Deserialize)]
struct Output {
    /// `crc32:` and eight hexadecimal digits.
    #[serde(default)]
    checksum: String,
}

/// `PUT /jobs/:id`.
pub(super) async fn update_job(State(shared): State<Arc<Shared>>, Path(id): Path<i64>, headers: HeaderMap, Json(update): Json<Update>) -> Response {
    let token = header_token(&headers).or_else(|| update.token.clone()).unwrap_or_default();
    shared.write(|inner| {
        if let Err(refusal) = held_job(inner, id, &token) {
            return *refusal;
        }
        let answer = apply(inner, id, &update, &shared.url);
        let interval = inner.trace_interval_seconds;
        let Some(job) = inner.jobs.get_mut(&id) else {
            return forbidden();
        };
        job.updates.push(UpdateView {
            state: update.state.clone(),
            failure_reason: update.failure_reason.clone(),
            exit_code: update.exit_code,
            answer: answer.as_u16(),
        });
        (answer, job_headers(job.status, interval), answer.as_u16().to_string()).into_response()
    })
}

/// Carries an update out and says how it is answered.
fn apply(inner: &mut Inner, id: i64, update: &Update, url: &str) -> StatusCode {
    match update.state.as_str() {
        "pending" if inner.commit == Commit::TwoPhase => inner.keep_alive(id),
        "running" => {
            if inner.jobs.get(&id).is_some_and(|job| job.status == Status::Pending) {
                inner.advance(id, Status::Running, url);
            }
        }
        "success" | "failed" => return finish(inner, id, update, url),
        _ => return StatusCode::BAD_REQUEST,
    }
    StatusCode::OK
}

/// Ends a job, unless its trace must be proved first.
fn finish(inner: &mut Inner, id: i64, update: &Update, url: &str) -> StatusCode {
    if inner.delayed_finals > 0 {
        inner.delayed_finals -= 1;
        return StatusCode::ACCEPTED;
    }
    let checksums = inner.checksums;
    let Some(job) = inner.jobs.get_mut(&id) else {
        return StatusCode::FORBIDDEN;
    };
    if checksums == Checksums::Verify
        && let Some(output) = &update.output
        && output.checksum != format!("crc32:{:08x}", crc32fast::hash(&job.trace))
    {
        return StatusCode::PRECONDITION_FAILED;
    }
    job.exit_code = update.exit_code;
    let status = match (job.status, update.state.as_str()) {
        (Status::Canceling, _) => Status::Canceled,
        (_, "success") => Status::Success,
        (_, _) => {
            let reason = update.failure_reason.clone().unwrap_or_else(|| "unknown_failure".into());
            job.failure_reason = Some(reason);
            Status::Failed
        }
    };
    inner.advance(id, status, url);
    StatusCode::OK
}

/// The job, if the token is its own and a runner still holds it; else GitLab's refusal, which names the state.
pub(super) fn held_job<'a>(inner: &'a mut Inner, id: i64, token: &str) -> Result<&'a mut Job, Box<Response>> {
    let interval = inner.trace_interval_seconds;
    let job = inner.jobs.get_mut(&id).filter(|job| job.token == token).ok_or_else(|| Box::new(forbidden()))?;
    if job.is_held() {
        return Ok(job);
    }
    let refusal =
        (StatusCode::FORBIDDEN, job_headers(job.status, interval), Json(json!({ "message": "403 Forbidden - Job is not processing on runner" })))
            .into_response();
    Err(Box::new(refusal))
}

/// The headers that tell a runner what became of its job, and how often it should send trace.
pub(super) fn job_headers(status: Status, interval_seconds: u64) -> [(&'static str, String); 2] {
    [("Job-Status", status.as_str().to_owned()), ("X-GitLab-Trace-Update-Interval", interval_seconds.to_string())]
}
