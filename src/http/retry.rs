//! `POST /jobs/{id}/retry`: the request of a job that has ended, once more, as a job of its own.
//!
//! The request is stored as it was accepted, the class's defaults filled in, and is taken over as it is: what no longer holds refuses it, so
//! that it runs as it did or not at all. What its class gives besides, such as the network, is as it is now.

use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::Response;

use super::dto::JobDto;
use super::extract::Operator;
use super::jobs::{accepted, admit, idempotency_key, known};
use super::openapi::fields;
use super::params::Params;
use super::problem::Problem;
use super::state::AppState;
use super::submit::{self, IfUnsatisfiable};
use crate::domain::{GitLabRef, Job, JobId, ProjectName, Work};
use crate::security::sha256;
use crate::store::IdempotencyKey;

/// `POST /jobs/{id}/retry`.
#[utoipa::path(
    post,
    path = "/jobs/{id}/retry",
    operation_id = "retryJob",
    tag = "jobs",
    summary = "Submit the request of a job that has ended once more",
    description = "As a job of its own, with the same request. A job of GitLab is retried in GitLab.",
    params(
        ("id" = String, Path, description = "The id of a job."),
        ("Idempotency-Key" = inline(Option<fields::IdempotencyKey>), Header, description = "A repeated request with the same key answers with the job of the first one."),
    ),
    responses(
        (status = 202, description = "The new job was stored; or, with a known `Idempotency-Key`, the job of the first request.", body = JobDto, headers(("Location" = String, description = "Where it is."))),
    ),
    extensions(
        ("x-role" = json!("operator")),
        ("x-problems" = json!([
            "invalid-parameter", "not-found", "job-not-ended", "job-of-gitlab", "disk-full", "invalid-field", "unsatisfiable", "idempotency-key-reused", "queue-full", "whole-queue-full",
            "store-unavailable"
        ])),
    ),
)]
pub(super) async fn again(
    _operator: Operator,
    State(state): State<AppState>,
    Path(id): Path<String>,
    headers: HeaderMap,
    params: Params,
) -> Result<Response, Problem> {
    params.finish()?;
    let key = idempotency_key(&headers)?;
    let job = known(&*state.store, &id).await?;
    if let Work::GitLab(reference) = &job.spec.work {
        return Err(Problem::JobOfGitLab { page: page_of(&job, reference) });
    }
    if !job.has_ended() {
        return Err(Problem::JobNotEnded { state: job.state.name() });
    }
    let config = state.config.current();
    submit::check_again(&job.spec, &config)?;
    // No body of `POST /jobs` begins like this, so a key that was used there is not taken for the same.
    let idempotency = key.map(|key| IdempotencyKey { key, body_sha256: sha256(format!("retry {}", job.id).as_bytes()) });
    let again = Job { retry_of: Some(job.id), ..Job::new(JobId::generate(), job.spec, state.clock.now()) };
    admit(&state, &config, again, IfUnsatisfiable::Refuse, idempotency).await.map(accepted)
}

/// The job's page in GitLab, as far as it can be told: the path of its project is known where GitLab told it.
fn page_of(job: &Job, reference: &GitLabRef) -> String {
    let url = reference.url.trim_end_matches('/');
    let path = job.spec.project.as_ref().map(ProjectName::as_str).filter(|project| project.contains('/'));
    path.map_or_else(|| format!("job {} of {url}", reference.job_id), |path| format!("{url}/{path}/-/jobs/{}", reference.job_id))
}
