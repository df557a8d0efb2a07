//! `/jobs`: submit, list, one, cancel.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::dto::JobDto;
use super::extract::{JsonBody, Operator, Viewer};
use super::openapi::{fields, words};
use super::params::{self, Params};
use super::problem::{Problem, missing};
use super::scope::{Submitter, Watcher};
use super::state::AppState;
use super::submit::{self, IfUnsatisfiable, SubmitBody};
use crate::config::Config;
use crate::domain::gpu_usage;
use crate::domain::job::CancelEffect;
use crate::domain::{ClassName, EndReason, Job, JobId, JobState, Outcome, ProjectName, Requirement, Work};
use crate::jobs::explain::Circumstances;
use crate::jobs::{class_named, disk};
use crate::security::sha256;
use crate::store::{IdempotencyKey, JobFilter, NewJob, Store, Submission};

/// A submitter's key against doubles.
const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// Longest key.
pub(super) const MAX_KEY_BYTES: usize = 255;

/// A page of jobs.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = JobList)]
struct JobPage {
    jobs: Vec<JobDto>,
    next_cursor: Option<String>,
}

/// `POST /jobs`.
#[utoipa::path(
    post,
    path = "/jobs",
    operation_id = "submitJob",
    tag = "jobs",
    summary = "Submit a job",
    description = "Answered after the job was stored. A job that no machine could ever run is refused unless it says to wait.",
    params(
        ("Idempotency-Key" = inline(Option<fields::IdempotencyKey>), Header, description = "A repeated submission with the same key and body answers with the job of the first one."),
    ),
    request_body(content = SubmitBody),
    responses(
        (status = 202, description = "The job was stored; or, with a known `Idempotency-Key`, the job of the first request.", body = JobDto, headers(("Location" = String, description = "Where it is."))),
    ),
    extensions(("x-role" = json!("operator")), ("x-submitter" = json!(true)), ("x-problems" = json!(["invalid-parameter", "disk-full", "unsatisfiable", "idempotency-key-reused", "queue-full", "whole-queue-full", "store-unavailable"]))),
)]
pub(super) async fn submit(
    Submitter(scope): Submitter,
    State(state): State<AppState>,
    headers: HeaderMap,
    body: JsonBody<SubmitBody>,
) -> Result<Response, Problem> {
    let idempotency = idempotency_key(&headers)?.map(|key| IdempotencyKey { key, body_sha256: sha256(&body.bytes) });
    let config = state.config.current();
    let checked = submit::check(body.value, &config, &scope)?;
    let if_unsatisfiable = checked.if_unsatisfiable;
    let job = admit(&state, &config, checked.into_job(state.clock.now()), if_unsatisfiable, idempotency).await?;
    // The same key and words may be those of another who has a right to more.
    let job = scope.only(job).map_err(|_| Problem::KeyReused)?;
    Ok(accepted(job))
}

/// What is said of a job that was taken in.
pub(super) fn accepted(job: Job) -> Response {
    let location = format!("/jobs/{}", job.id);
    (StatusCode::ACCEPTED, [(header::LOCATION, location)], Json(JobDto::from(job))).into_response()
}

/// Takes a job in whose request makes sense.
///
/// # Errors
/// When the disk is nearly full, this machine or its project's limits can never run it, its key was used otherwise, or the queue is full.
pub(super) async fn admit(
    state: &AppState,
    config: &Config,
    job: Job,
    if_unsatisfiable: IfUnsatisfiable,
    idempotency: Option<IdempotencyKey>,
) -> Result<Job, Problem> {
    // Before anything is written. One that asks again by its key is told the same, and comes again.
    if let Some(disk) = disk::full(&state.manager.status().disks) {
        return Err(Problem::DiskFull { detail: disk.to_string() });
    }
    if let (Work::Command(command), Some(class)) = (&job.spec.work, class_named(config, &job.spec.requirement.class)) {
        class.check_image("image", &command.image).map_err(|fault| Problem::InvalidFields(vec![fault]))?;
    }
    if let Some(fault) = config.over_cap(job.spec.project.as_ref(), &job.spec.requirement) {
        return Err(Problem::InvalidFields(vec![fault]));
    }
    if if_unsatisfiable == IfUnsatisfiable::Refuse {
        let status = state.manager.status();
        let here = Circumstances { status: &status, config, now: state.clock.now() };
        let never = here.never(&job.spec.requirement);
        if !never.is_empty() && !is_possible_elsewhere(state, &here, &job.spec.requirement).await? {
            return Err(Problem::Unsatisfiable(missing(never)));
        }
    }
    let weight = config.weight_of(job.spec.project.as_ref());
    let (queue_limit, whole_queue_limit) = (config.limits.queue_per_project, config.limits.queue);
    let new = NewJob { job, gitlab: None, idempotency, weight, queue_limit, whole_queue_limit };
    match state.store.submit(new).await? {
        Submission::Created(job) => {
            tracing::info!(job.id = %job.id, "job {} was accepted", job.id);
            state.manager.nudge();
            Ok(*job)
        }
        Submission::Existing(job) => Ok(*job),
        Submission::KeyReused => Err(Problem::KeyReused),
        Submission::QueueFull { limit } => Err(Problem::QueueFull { limit }),
        Submission::WholeQueueFull { limit } => Err(Problem::WholeQueueFull { limit }),
    }
}

/// Whether a machine of the fleet, also one that is silent at present, could run what this one never can.
async fn is_possible_elsewhere(state: &AppState, here: &Circumstances<'_>, requirement: &Requirement) -> Result<bool, Problem> {
    let Some(fleet) = state.store.fleet() else { return Ok(false) };
    let others = fleet.hosts().await?.into_iter().filter_map(|host| host.report);
    Ok(others.map(|report| report.facts).any(|facts| facts.id != here.status.facts.id && here.is_possible_on(&facts, requirement)))
}

/// The submitter's key against doubles, where one is given.
///
/// # Errors
/// When it is given twice, or is no key.
pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut keys = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(key) = keys.next() else { return Ok(None) };
    let text = key.to_str().ok().filter(|text| (1..=MAX_KEY_BYTES).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic()));
    match (text, keys.next()) {
        (Some(text), None) => Ok(Some(text.to_owned())),
        (None | Some(_), _) => {
            Err(Problem::parameter("Idempotency-Key", format!("must be given once, as 1 to {MAX_KEY_BYTES} visible ASCII characters")))
        }
    }
}

/// `GET /jobs`: newest first.
#[utoipa::path(
    get,
    path = "/jobs",
    operation_id = "listJobs",
    tag = "jobs",
    summary = "Jobs, newest first",
    description = "",
    params(
        ("state" = inline(Option<words::JobStates>), Query, style = Form, explode = false, description = "Only these states, parted by commas."),
        ("project" = inline(Option<fields::ProjectPath>), Query, description = "Only of this project."),
        ("class" = inline(Option<fields::ClassName>), Query, description = "Only of this class."),
        ("limit" = inline(Option<fields::PageLimit>), Query, description = "Most elements of the page."),
        ("cursor" = inline(Option<fields::Cursor>), Query, description = "A `next_cursor` of an earlier answer: the page begins after it."),
    ),
    responses(
        (status = 200, description = "A page of jobs.", body = JobPage),
    ),
    extensions(("x-role" = json!("viewer")), ("x-problems" = json!(["invalid-parameter", "store-unavailable"]))),
)]
pub(super) async fn list(_viewer: Viewer, State(store): State<Arc<dyn Store>>, mut params: Params) -> Result<Response, Problem> {
    let states = params.names("state", &JobState::NAMES);
    let project = params.read("project", ProjectName::parse);
    let class = params.read("class", ClassName::parse);
    let limit = params.limit();
    let before = params.cursor().map(JobId::from_trusted);
    params.finish()?;
    let found = store.jobs(JobFilter { states, project, class, before, limit: limit + 1 }).await?;
    let (jobs, next_cursor) = params::page(found, limit, |job| job.id.as_str());
    Ok(Json(JobPage { jobs: jobs.into_iter().map(JobDto::from).collect(), next_cursor }).into_response())
}

/// `GET /jobs/{id}`.
#[utoipa::path(
    get,
    path = "/jobs/{id}",
    operation_id = "getJob",
    tag = "jobs",
    summary = "One job",
    description = "",
    params(
        ("id" = String, Path, description = "The id of a job."),
    ),
    responses(
        (status = 200, description = "The job.", body = JobDto),
    ),
    extensions(("x-role" = json!("viewer")), ("x-submitter" = json!(true)), ("x-problems" = json!(["invalid-parameter", "not-found", "store-unavailable"]))),
)]
pub(super) async fn one(
    Watcher(scope): Watcher,
    State(state): State<AppState>,
    Path(id): Path<String>,
    params: Params,
) -> Result<Json<JobDto>, Problem> {
    params.finish()?;
    let job = scope.job(&*state.store, &id).await?;
    let had_gpus = job.attempt.as_ref().is_some_and(|attempt| !attempt.placement.devices.is_empty());
    let total = if had_gpus {
        let (attempts, usage) = (state.store.attempts(&job.id).await?, state.store.gpu_usage(&job.id).await?);
        gpu_usage::total(&attempts, &usage, state.clock.now())
    } else {
        None
    };
    let retry = state.store.latest_retry(&job.id).await?;
    Ok(Json(JobDto::from(job).with_usage(total).with_retry(retry)))
}

/// The job with this id.
///
/// # Errors
/// When there is none.
pub(super) async fn known(store: &dyn Store, id: &str) -> Result<Job, Problem> {
    store.job(&JobId::from_trusted(id)).await?.ok_or_else(|| Problem::unknown_job(id))
}

/// `DELETE /jobs/{id}`: cancels. Repeating it is fine, also when the first one has ended the job meanwhile.
#[utoipa::path(
    delete,
    path = "/jobs/{id}",
    operation_id = "cancelJob",
    tag = "jobs",
    summary = "Cancel a job",
    description = "Repeating it is fine.",
    params(
        ("id" = String, Path, description = "The id of a job."),
    ),
    responses(
        (status = 202, description = "The job: `canceled` when it waited; still running, with `cancel_requested_at`, when it ran.", body = JobDto),
    ),
    extensions(("x-role" = json!("operator")), ("x-problems" = json!(["invalid-parameter", "not-found", "job-ended", "conflict", "store-unavailable"]))),
)]
pub(super) async fn cancel(_operator: Operator, State(state): State<AppState>, Path(id): Path<String>, params: Params) -> Result<Response, Problem> {
    params.finish()?;
    let cancelled = state.manager.cancel(&JobId::from_trusted(&*id), EndReason::CanceledByUser).await?;
    let (job, effect) = cancelled.ok_or_else(|| Problem::unknown_job(&id))?;
    match effect {
        CancelEffect::Ended | CancelEffect::Requested => {
            tracing::info!(job.id = %job.id, "job {} was cancelled through the API", job.id);
        }
        CancelEffect::AlreadyRequested => {}
        CancelEffect::AlreadyEnded if ended_by_user(&job) => {}
        CancelEffect::AlreadyEnded => return Err(Problem::JobEnded { state: job.state.name() }),
    }
    Ok((StatusCode::ACCEPTED, Json(JobDto::from(job))).into_response())
}

fn ended_by_user(job: &Job) -> bool {
    matches!(job.state, JobState::Ended { outcome: Outcome::Canceled { reason: EndReason::CanceledByUser, .. }, .. })
}
