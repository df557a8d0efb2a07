//! `POST /jobs/{id}/retry`: the request of a job that has ended, once more, as a job of its own.
//!
//! The request is stored as it was accepted, the class's defaults filled in, and is taken over as it is: what no longer holds refuses it, so
//! that it runs as it did or not at all. What its class gives besides, such as the network, is as it is now.

use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::Response;

use super::extract::Operator;
use super::jobs::{admit, idempotency_key, known};
use super::params::Params;
use super::problem::Problem;
use super::state::AppState;
use super::submit::{self, IfUnsatisfiable};
use crate::domain::{GitLabRef, Job, JobId, ProjectName, Work};
use crate::security::sha256;
use crate::store::IdempotencyKey;

/// `POST /jobs/{id}/retry`.
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
    submit::check_again(&job.spec, &state.config, &state.security)?;
    // No body of `POST /jobs` begins like this, so a key that was used there is not taken for the same.
    let idempotency = key.map(|key| IdempotencyKey { key, body_sha256: sha256(format!("retry {}", job.id).as_bytes()) });
    let again = Job { retry_of: Some(job.id), ..Job::new(JobId::generate(), job.spec, state.clock.now()) };
    admit(&state, again, IfUnsatisfiable::Refuse, idempotency).await
}

/// The job's page in GitLab, as far as it can be told: the path of its project is known where GitLab told it.
fn page_of(job: &Job, reference: &GitLabRef) -> String {
    let url = reference.url.trim_end_matches('/');
    let path = job.spec.project.as_ref().map(ProjectName::as_str).filter(|project| project.contains('/'));
    path.map_or_else(|| format!("job {} of {url}", reference.job_id), |path| format!("{url}/{path}/-/jobs/{}", reference.job_id))
}
