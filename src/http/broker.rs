//! The broker's own listener: the part of GitLab's runner protocol that a runner in a container speaks, and the two calls that a
//! job may make about itself. Nothing else of the daemon can be reached here.
//!
//! Answers are as plain as GitLab's, because `gitlab-runner` reads them.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Path, RawQuery, State};
use axum::http::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, patch, post, put};
use axum::{Json, Router};
use futures_util::{StreamExt, TryStreamExt};
use serde_json::{Value, json};
use tower_http::timeout::TimeoutLayer;

use crate::gitlab::{Relay, RelayHeaders, Upload};
use crate::jobs::broker::{Broker, BrokerError, LONG_POLL, WorkAnswer};

/// Largest part of a trace; `gitlab-runner` sends up to 1 MiB.
const MAX_TRACE_BYTES: usize = 4 * 1024 * 1024;
/// Largest other body, artifacts excepted.
const MAX_JSON_BYTES: usize = 1024 * 1024;
/// How long a call may take, transfers of artifacts excepted: longer than the client of GitLab waits for its answer.
const CALL: Duration = Duration::from_secs(90);
/// How much longer than its wait a request for work may take.
const REQUEST_MARGIN: Duration = Duration::from_secs(20);

/// Everything that runners and jobs may call.
pub fn broker_router(broker: Arc<Broker>) -> Router {
    let request = Router::new()
        .route("/api/v4/jobs/request", post(request_job))
        .layer(DefaultBodyLimit::max(MAX_JSON_BYTES))
        .layer(timeout(LONG_POLL + REQUEST_MARGIN));
    let calls = Router::new()
        .route("/api/v4/jobs/{id}", put(update_job))
        .route("/api/v4/runners/verify", post(verify_runner))
        .route("/progress", post(progress))
        .route("/job", get(own_job))
        .layer(DefaultBodyLimit::max(MAX_JSON_BYTES))
        .layer(timeout(CALL));
    let trace = Router::new().route("/api/v4/jobs/{id}/trace", patch(patch_trace)).layer(DefaultBodyLimit::max(MAX_TRACE_BYTES)).layer(timeout(CALL));
    // No limit of ours: the body is passed on while it arrives, and GitLab has limits of its own.
    let artifacts =
        Router::new().route("/api/v4/jobs/{id}/artifacts", post(upload_artifacts).get(download_artifacts)).layer(DefaultBodyLimit::disable());
    request.merge(calls).merge(trace).merge(artifacts).fallback(not_found).with_state(broker)
}

fn timeout(after: Duration) -> TimeoutLayer {
    TimeoutLayer::with_status_code(StatusCode::SERVICE_UNAVAILABLE, after)
}

async fn not_found() -> Response {
    message(StatusCode::NOT_FOUND, "404 Not Found")
}

async fn request_job(State(broker): State<Arc<Broker>>, headers: HeaderMap, body: Bytes) -> Result<Response, BrokerError> {
    let token = token(&headers, "RUNNER-TOKEN", &object(&body)?)?;
    Ok(match broker.request(&token).await? {
        WorkAnswer::Job(text) => (StatusCode::CREATED, [(CONTENT_TYPE, "application/json")], text).into_response(),
        WorkAnswer::NoJob { last_update } => (StatusCode::NO_CONTENT, [("x-gitlab-last-update", last_update)]).into_response(),
    })
}

async fn verify_runner(State(broker): State<Arc<Broker>>, headers: HeaderMap, body: Bytes) -> Result<Response, BrokerError> {
    let token = token(&headers, "RUNNER-TOKEN", &object(&body)?)?;
    broker.verify(&token).await?;
    Ok(Json(json!({ "id": 1, "token": token, "token_expires_at": null })).into_response())
}

async fn update_job(State(broker): State<Arc<Broker>>, Path(id): Path<String>, headers: HeaderMap, body: Bytes) -> Result<Response, BrokerError> {
    let body = object(&body)?;
    let token = token(&headers, "JOB-TOKEN", &body)?;
    Ok(relayed(broker.update(&token, job_id(&id)?, body).await?))
}

async fn patch_trace(
    State(broker): State<Arc<Broker>>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, BrokerError> {
    let token = token(&headers, "JOB-TOKEN", &Value::Null)?;
    let range = text(&headers, &CONTENT_RANGE).ok_or(BrokerError::Malformed("Content-Range is missing"))?;
    Ok(relayed(broker.trace(&token, job_id(&id)?, range, &query.unwrap_or_default(), body).await?))
}

async fn upload_artifacts(
    State(broker): State<Arc<Broker>>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, BrokerError> {
    let token = token(&headers, "JOB-TOKEN", &Value::Null)?;
    let upload = Upload {
        query: query.unwrap_or_default(),
        content_type: text(&headers, &CONTENT_TYPE).ok_or(BrokerError::Malformed("Content-Type is missing"))?.to_owned(),
        content_length: text(&headers, &CONTENT_LENGTH).and_then(|length| length.parse().ok()),
        body: body.into_data_stream().map_err(io::Error::other).boxed(),
    };
    Ok(relayed(broker.upload(&token, job_id(&id)?, upload).await?))
}

async fn download_artifacts(
    State(broker): State<Arc<Broker>>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, BrokerError> {
    let token = token(&headers, "JOB-TOKEN", &Value::Null)?;
    let answer = broker.download(&token, job_id(&id)?, &query.unwrap_or_default()).await?;
    Ok(response(answer.status, &answer.headers, Body::from_stream(answer.body)))
}

async fn progress(State(broker): State<Arc<Broker>>, headers: HeaderMap, body: Bytes) -> Result<Response, BrokerError> {
    let token = bearer(&headers)?;
    let body = object(&body)?;
    let percent = match &body["percent"] {
        Value::Null => None,
        value => Some(value.as_u64().and_then(|percent| u8::try_from(percent).ok()).ok_or(BrokerError::Malformed("percent must be 0 to 100"))?),
    };
    let said = body["message"].as_str().ok_or(BrokerError::Malformed("message must be 1 to 500 characters"))?;
    broker.progress(token, said, percent).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn own_job(State(broker): State<Arc<Broker>>, headers: HeaderMap) -> Result<Response, BrokerError> {
    let job = broker.record(bearer(&headers)?).await?;
    let attempt = job.attempt.as_ref();
    let devices = attempt.map(|attempt| attempt.placement.devices.as_slice()).unwrap_or_default();
    let record = json!({ "id": job.id, "state": job.state.name(), "attempt": attempt.map(|attempt| attempt.number), "devices": devices });
    Ok(Json(record).into_response())
}

/// A body that is a JSON object; an empty one where the token comes in a header.
fn object(body: &Bytes) -> Result<Value, BrokerError> {
    if body.is_empty() {
        return Ok(json!({}));
    }
    serde_json::from_slice(body).ok().filter(Value::is_object).ok_or(BrokerError::Malformed("the body must be a JSON object"))
}

/// A runner shows its token in a header, in the body, or both.
fn token(headers: &HeaderMap, header: &'static str, body: &Value) -> Result<String, BrokerError> {
    let shown = headers.get(header).and_then(|value| value.to_str().ok()).or_else(|| body["token"].as_str());
    shown.map(str::to_owned).ok_or(BrokerError::Denied)
}

fn bearer(headers: &HeaderMap) -> Result<&str, BrokerError> {
    let value = headers.get("authorization").and_then(|value| value.to_str().ok());
    value.and_then(|value| value.strip_prefix("Bearer ")).map(str::trim).ok_or(BrokerError::Denied)
}

fn text<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

/// An id that is no number is that of no job.
fn job_id(text: &str) -> Result<u64, BrokerError> {
    text.parse().map_err(|_| BrokerError::Denied)
}

fn relayed(relay: Relay) -> Response {
    response(relay.status, &relay.headers, Body::from(relay.body))
}

fn response(status: u16, headers: &RelayHeaders, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
    for (name, value) in headers.iter() {
        if let Ok(value) = HeaderValue::from_str(value) {
            response.headers_mut().insert(HeaderName::from_static(name), value);
        }
    }
    response
}

fn message(status: StatusCode, text: &str) -> Response {
    (status, Json(json!({ "message": text }))).into_response()
}

impl IntoResponse for BrokerError {
    fn into_response(self) -> Response {
        let (status, retry_after) = match self {
            Self::Denied => (StatusCode::FORBIDDEN, None),
            Self::Malformed(_) => (StatusCode::BAD_REQUEST, None),
            Self::TooOften { retry_after } => (StatusCode::TOO_MANY_REQUESTS, Some(retry_after)),
            Self::Unavailable { retry_after } => (StatusCode::SERVICE_UNAVAILABLE, Some(retry_after)),
        };
        let mut response = message(status, &format!("{} {self}", status.as_u16()));
        if let Some(after) = retry_after {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(after.as_secs().max(1)));
        }
        response
    }
}

#[cfg(test)]
#[path = "broker_tests.rs"]
mod tests;
