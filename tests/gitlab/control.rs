//! A small HTTP control surface, so that a shell script with `curl` can play the people at GitLab's end.
//!
//! | request | does |
//! | --- | --- |
//! | `POST /control/runners` `{"token", "tags"}` | creates a runner entity, answers `{"id"}` |
//! | `POST /control/jobs` | queues a job, body as in [`JobSpec`], answers `{"id"}` |
//! | `GET /control/jobs/{id}` | shows a job with its trace |
//! | `POST /control/jobs/{id}/cancel` | cancels it |
//! | `POST /control/hook` `{"url", "secret_token", "auto"}` | says where Job events go, and whether they go on their own |
//! | `POST /control/jobs/{id}/event` | sends the Job event now, answers with what the receiver said |

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::json;

use super::GitLab;
use super::spec::JobSpec;

/// Body of `POST /control/runners`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewRunner {
    /// Authentication token.
    token: String,
    /// Tags.
    #[serde(default)]
    tags: Vec<String>,
}

/// Body of `POST /control/hook`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewHook {
    /// Address of the receiver.
    url: String,
    /// Secret token.
    secret_token: Option<String>,
    /// Whether transitions send events on their own.
    #[serde(default)]
    auto: bool,
}

/// The control surface over one stand-in.
pub(super) fn routes(gitlab: GitLab) -> Router {
    Router::new()
        .route("/control/runners", post(add_runner))
        .route("/control/jobs", post(enqueue))
        .route("/control/jobs/{id}", get(show))
        .route("/control/jobs/{id}/cancel", post(cancel))
        .route("/control/jobs/{id}/event", post(send_event))
        .route("/control/hook", post(set_hook))
        .with_state(gitlab)
}

/// Answers that no such job is known.
fn no_such_job() -> Response {
    (StatusCode::NOT_FOUND, Json(json!({ "message": "no such job" }))).into_response()
}

/// `POST /control/runners`.
async fn add_runner(State(gitlab): State<GitLab>, Json(runner): Json<NewRunner>) -> Response {
    let tags: Vec<&str> = runner.tags.iter().map(String::as_str).collect();
    let id = gitlab.add_runner(&runner.token, &tags);
    (StatusCode::CREATED, Json(json!({ "id": id }))).into_response()
}

/// `POST /control/jobs`.
async fn enqueue(State(gitlab): State<GitLab>, Json(spec): Json<JobSpec>) -> Response {
    (StatusCode::CREATED, Json(json!({ "id": gitlab.enqueue(spec) }))).into_response()
}

/// `GET /control/jobs/{id}`.
async fn show(State(gitlab): State<GitLab>, Path(id): Path<i64>) -> Response {
    gitlab.find_job(id).map_or_else(no_such_job, |job| Json(job).into_response())
}

/// `POST /control/jobs/{id}/cancel`.
async fn cancel(State(gitlab): State<GitLab>, Path(id): Path<i64>) -> Response {
    gitlab.cancel(id);
    show(State(gitlab), Path(id)).await
}

/// `POST /control/jobs/{id}/event`.
async fn send_event(State(gitlab): State<GitLab>, Path(id): Path<i64>) -> Response {
    if gitlab.find_job(id).is_none() {
        return no_such_job();
    }
    Json(gitlab.send_job_event(id).await).into_response()
}

/// `POST /control/hook`.
async fn set_hook(State(gitlab): State<GitLab>, Json(hook): Json<NewHook>) -> StatusCode {
    gitlab.set_hook(&hook.url, hook.secret_token.as_deref());
    gitlab.auto_hooks(hook.auto);
    StatusCode::NO_CONTENT
}
