//! `PATCH /jobs/:id/trace`: a job's output, in ranges that must join without a gap.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::log::header_token;
use super::runner_api::{held_job, job_headers};
use super::state::Shared;

/// Appends a range, or says where the runner has to resume (416).
///
/// As in GitLab, sending the last range again is accepted: what counts is where the range ends.
pub(super) async fn append(State(shared): State<Arc<Shared>>, Path(id): Path<i64>, headers: HeaderMap, body: Bytes) -> Response {
    let token = header_token(&headers).unwrap_or_default();
    shared.write(|inner| {
        let interval = inner.trace_interval_seconds;
        let job = match held_job(inner, id, &token) {
            Ok(job) => job,
            Err(refusal) => return *refusal,
        };
        let Some(start) = range_start(&headers) else {
            return (StatusCode::BAD_REQUEST, "400 Missing header Content-Range").into_response();
        };
        if start == job.trace.len() {
            job.trace.extend_from_slice(&body);
        }
        let size = job.trace.len();
        let joined = size == start.saturating_add(body.len());
        let status = if joined { StatusCode::ACCEPTED } else { StatusCode::RANGE_NOT_SATISFIABLE };
        let range = [(header::RANGE, format!("0-{size}"))];
        (status, job_headers(job.status, interval), range, format!("0-{size}")).into_response()
    })
}

/// The first offset of `Content-Range: a-b`; GitLab, too, goes by the body's length instead of `b`.
fn range_start(headers: &HeaderMap) -> Option<usize> {
    let value = headers.get(header::CONTENT_RANGE)?.to_str().ok()?;
    value.split_once('-')?.0.parse().ok()
}
