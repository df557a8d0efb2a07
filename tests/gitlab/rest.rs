//! The little of GitLab's REST API that a coordinator may ask: jobs with their tags, and cancelling one.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::event::{PIPELINE_ID, SHA};
use super::state::{Inner, Job, Shared};

/// The access token that every project accepts.
pub(crate) const PRIVATE_TOKEN: &str = "glpat-stand-in";

/// Refuses requests without [`PRIVATE_TOKEN`].
pub(super) fn authorised(headers: &HeaderMap) -> Result<(), Box<Response>> {
    let token = headers.get("private-token").map(axum::http::HeaderValue::as_bytes);
    if token == Some(PRIVATE_TOKEN.as_bytes()) {
        return Ok(());
    }
    let body = Json(json!({ "message": "401 Unauthorized" }));
    Err(Box::new((StatusCode::UNAUTHORIZED, body).into_response()))
}

/// `GET /projects/:id/jobs`, with `scope[]=` as its one filter.
pub(super) async fn list(State(shared): State<Arc<Shared>>, Path(project): Path<i64>, RawQuery(query): RawQuery, headers: HeaderMap) -> Response {
    if let Err(refusal) = authorised(&headers) {
        return *refusal;
    }
    let query = query.unwrap_or_default().replace("%5B%5D", "[]");
    let scopes: Vec<&str> = query.split('&').filter_map(|pair| pair.strip_prefix("scope[]=")).collect();
    shared.read(|inner| {
        let wanted = |job: &&Job| job.spec.project_id == project && (scopes.is_empty() || scopes.contains(&job.status.as_str()));
        let jobs: Vec<Value> = inner.jobs.values().filter(wanted).map(|job| job_record(job, &shared.url)).collect();
        Json(jobs).into_response()
    })
}

/// `GET /projects/:id/jobs/:job_id`.
pub(super) async fn show(State(shared): State<Arc<Shared>>, Path(ids): Path<(i64, i64)>, headers: HeaderMap) -> Response {
    match authorised(&headers) {
        Ok(()) => shared.read(|inner| found(inner, ids, &shared.url)),
        Err(refusal) => *refusal,
    }
}

/// `POST /projects/:id/jobs/:job_id/cancel`.
pub(super) async fn cancel(State(shared): State<Arc<Shared>>, Path(ids): Path<(i64, i64)>, headers: HeaderMap) -> Response {
    if let Err(refusal) = authorised(&headers) {
        return *refusal;
    }
    shared.write(|inner| {
        inner.cancel(ids.1, &shared.url);
        found(inner, ids, &shared.url)
    })
}

/// The record of one job of one project, or 404.
fn found(inner: &Inner, (project, id): (i64, i64), url: &str) -> Response {
    match inner.jobs.get(&id).filter(|job| job.spec.project_id == project) {
        Some(job) => Json(job_record(job, url)).into_response(),
        None => (StatusCode::NOT_FOUND, Json(json!({ "message": "404 Not found" }))).into_response(),
    }
}

/// A job as the REST API shows it.
fn job_record(job: &Job, url: &str) -> Value {
    let spec = &job.spec;
    json!({
        "id": job.id,
        "name": spec.name,
        "stage": spec.stage,
        "status": job.status,
        "failure_reason": job.failure_reason,
        "ref": spec.git_ref,
        "tag": false,
        "tag_list": spec.tags,
        "allow_failure": spec.allow_failure,
        "created_at": job.created_at,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
        "pipeline": { "id": PIPELINE_ID, "project_id": spec.project_id, "ref": spec.git_ref, "sha": SHA },
        "runner": job.runner_id.map(|id| json!({ "id": id, "runner_type": "project_type" })),
        "web_url": format!("{url}/{}/-/jobs/{}", spec.project, job.id),
    })
}
