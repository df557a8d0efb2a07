//! The little of GitLab's REST API that a coordinator may ask: jobs with their tags, and cancelling one.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::admin::PROJECT;
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

/// `GET /projects/:id/jobs` by id or path, with `scope[]=` as its one filter, newest first and page by page.
pub(super) async fn list(State(shared): State<Arc<Shared>>, Path(project): Path<String>, RawQuery(query): RawQuery, headers: HeaderMap) -> Response {
    if let Err(refusal) = authorised(&headers) {
        return *refusal;
    }
    let query = query.unwrap_or_default().replace("%5B%5D", "[]");
    let scopes: Vec<&str> = query.split('&').filter_map(|pair| pair.strip_prefix("scope[]=")).collect();
    shared.read(|inner| {
        let of_project = |job: &&Job| job.spec.project_id.to_string() == project || job.spec.project == project;
        let is_the_one = project == PROJECT.1 || project == PROJECT.0.to_string();
        if !is_the_one && !inner.jobs.values().any(|job| of_project(&job)) {
            return (StatusCode::NOT_FOUND, Json(json!({ "message": "404 Project Not Found" }))).into_response();
        }
        let wanted = |job: &&Job| of_project(job) && (scopes.is_empty() || scopes.contains(&job.status.as_str()));
        page(inner.jobs.values().rev().filter(wanted).map(|job| job_record(job, &shared.url)), &query)
    })
}

/// `GET /runners/:id/jobs`, with `status=` and `system_id=` as its filters.
pub(super) async fn of_runner(State(shared): State<Arc<Shared>>, Path(runner): Path<i64>, RawQuery(query): RawQuery, headers: HeaderMap) -> Response {
    if let Err(refusal) = authorised(&headers) {
        return *refusal;
    }
    let query = query.unwrap_or_default();
    let (status, system_id) = (value_of(&query, "status"), value_of(&query, "system_id"));
    shared.read(|inner| {
        let by_system = |job: &&Job| system_id.is_none() || job.system_id.is_none() || job.system_id.as_deref() == system_id;
        let wanted = |job: &&Job| job.runner_id == Some(runner) && status.is_none_or(|status| status == job.status.as_str()) && by_system(job);
        page(inner.jobs.values().rev().filter(wanted).map(|job| job_record(job, &shared.url)), &query)
    })
}

fn value_of<'q>(query: &'q str, key: &str) -> Option<&'q str> {
    query.split('&').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='))
}

/// One page of a list, and the number of the next.
fn page(records: impl Iterator<Item = Value>, query: &str) -> Response {
    let number = |key: &str, default: usize| value_of(query, key).and_then(|text| text.parse().ok()).unwrap_or(default).max(1);
    let (page, per_page) = (number("page", 1), number("per_page", 20).min(100));
    let mut rest = records.skip((page - 1) * per_page);
    let listed: Vec<Value> = rest.by_ref().take(per_page).collect();
    let next = rest.next().map(|_| (page + 1).to_string()).unwrap_or_default();
    ([("x-next-page", next)], Json(listed)).into_response()
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
        "queued_duration": job.started_at.unwrap_or_else(jiff::Timestamp::now).duration_since(job.created_at).as_secs_f64(),
        "runner_manager": job.system_id.as_ref().map(|system_id| json!({ "system_id": system_id })),
        "runner": job.runner_id.map(|id| json!({ "id": id, "runner_type": "project_type" })),
        "web_url": format!("{url}/{}/-/jobs/{}", spec.project, job.id),
    })
}
