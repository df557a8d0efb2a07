//! `/runners`: list, one, spawn, terminate.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Number;
use utoipa::ToSchema;

use super::dto::cpus;
use super::extract::{JsonBody, Operator, Viewer};
use super::openapi::{fields, words};
use super::params::{self, Params};
use super::problem::{Problem, missing};
use super::state::AppState;
use crate::domain::{ClassName, EndReason, FieldFault, Runner, RunnerId, RunnerState};
use crate::jobs::{Spawned, Termination, Vital};
use crate::platform::Ever;
use crate::store::RunnerFilter;

/// A page of runners.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = RunnerList)]
struct RunnerPage {
    runners: Vec<RunnerDto>,
    next_cursor: Option<String>,
}

/// A runner.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Runner)]
pub(super) struct RunnerDto {
    id: String,
    class: String,
    host: String,
    /// `job`, `pool` or `request`.
    #[schema(value_type = words::RunnerOrigin)]
    origin: &'static str,
    #[schema(value_type = words::RunnerState)]
    state: &'static str,
    #[schema(value_type = String, format = DateTime)]
    state_since: Timestamp,
    #[schema(value_type = Option<words::EndReason>)]
    reason: Option<&'static str>,
    job_id: Option<String>,
    attempt: Option<u32>,
    container: Option<String>,
    #[schema(value_type = f64)]
    cpus: Number,
    memory: String,
    devices: Vec<String>,
    /// Its share of the memory of its only GPU; `null` where its GPUs are its alone.
    gpu_share_bytes: Option<u64>,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    #[schema(value_type = Option<String>, format = DateTime)]
    last_contact_at: Option<Timestamp>,
    /// In use: 100 is one whole CPU. `null` until it was measured.
    cpu_percent: Option<f64>,
    /// In use, in bytes.
    memory_bytes: Option<u64>,
    /// Processes and threads.
    pids: Option<u64>,
    /// Runners before it, in its place, that died without work.
    restarts: u32,
    /// Since when its container is to go and cannot be taken away; what it holds stays held until then. `null` where nothing is wrong.
    #[schema(value_type = Option<String>, format = DateTime)]
    stuck_since: Option<Timestamp>,
}

impl RunnerDto {
    /// Shows a runner and what it uses.
    pub(super) fn new(runner: Runner, vitals: &Vital) -> Self {
        let (job_id, attempt) = runner.job.as_ref().map(|(job, attempt)| (job.to_string(), *attempt)).unzip();
        Self {
            id: runner.id.to_string(),
            class: runner.class.to_string(),
            host: runner.host.to_string(),
            origin: runner.origin.as_str(),
            state: runner.state.name(),
            state_since: runner.state_since,
            reason: runner.state.reason().map(EndReason::as_str),
            job_id,
            attempt,
            container: runner.container,
            cpus: cpus(runner.placement.cpus),
            memory: runner.placement.memory.to_string(),
            devices: runner.placement.devices.iter().map(ToString::to_string).collect(),
            gpu_share_bytes: runner.placement.share.map(|share| share.0),
            created_at: runner.created_at,
            last_contact_at: runner.last_contact_at.max(vitals.last_contact_at),
            cpu_percent: vitals.cpu_percent,
            memory_bytes: vitals.memory_bytes,
            pids: vitals.pids,
            restarts: runner.restarts,
            stuck_since: None,
        }
    }
}

fn shown(state: &AppState, runner: Runner) -> RunnerDto {
    let vitals = state.manager.vitals(&runner.id);
    let stuck_since = state.manager.status().stuck.runners.get(&runner.id).copied();
    RunnerDto { stuck_since, ..RunnerDto::new(runner, &vitals) }
}

/// `GET /runners`: newest first; those that are gone only when asked for.
#[utoipa::path(
    get,
    path = "/runners",
    operation_id = "listRunners",
    tag = "runners",
    summary = "Runners, newest first",
    description = "",
    params(
        ("state" = inline(Option<words::RunnerStates>), Query, style = Form, explode = false, description = "Only these states, parted by commas. Without it those that are gone are left out."),
        ("class" = inline(Option<fields::ClassName>), Query, description = "Only of this class."),
        ("limit" = inline(Option<fields::PageLimit>), Query, description = "Most elements of the page."),
        ("cursor" = inline(Option<fields::Cursor>), Query, description = "A `next_cursor` of an earlier answer: the page begins after it."),
    ),
    responses(
        (status = 200, description = "A page of runners.", body = RunnerPage),
    ),
    extensions(("x-role" = json!("viewer")), ("x-problems" = json!(["invalid-parameter", "store-unavailable"]))),
)]
pub(super) async fn list(_viewer: Viewer, State(state): State<AppState>, mut params: Params) -> Result<Response, Problem> {
    let states = params.names("state", &RunnerState::NAMES);
    let class = params.read("class", ClassName::parse);
    let limit = params.limit();
    let before = params.cursor().map(RunnerId::from_trusted);
    params.finish()?;
    let found = state.store.runners(RunnerFilter { states, class, before, limit: limit + 1 }).await?;
    let (runners, next_cursor) = params::page(found, limit, |runner| runner.id.as_str());
    let runners = runners.into_iter().map(|runner| shown(&state, runner)).collect();
    Ok(Json(RunnerPage { runners, next_cursor }).into_response())
}

/// `GET /runners/{id}`.
#[utoipa::path(
    get,
    path = "/runners/{id}",
    operation_id = "getRunner",
    tag = "runners",
    summary = "One runner",
    description = "",
    params(
        ("id" = String, Path, description = "The id of a runner."),
    ),
    responses(
        (status = 200, description = "The runner.", body = RunnerDto),
    ),
    extensions(("x-role" = json!("viewer")), ("x-problems" = json!(["invalid-parameter", "not-found", "store-unavailable"]))),
)]
pub(super) async fn one(_viewer: Viewer, State(state): State<AppState>, Path(id): Path<String>, params: Params) -> Result<Response, Problem> {
    params.finish()?;
    let runner = known(&state, &id).await?;
    Ok(Json(shown(&state, runner)).into_response())
}

async fn known(state: &AppState, id: &str) -> Result<Runner, Problem> {
    let found = state.store.runner(&RunnerId::from_trusted(id)).await?;
    found.map(|aggregate| aggregate.runner).ok_or_else(|| Problem::unknown_runner(id))
}

/// The body of `POST /runners`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = SpawnRunner)]
pub struct SpawnBody {
    /// A class with a GitLab runner token.
    #[schema(inline, required = true, value_type = fields::ClassName)]
    class: Option<String>,
}

/// `POST /runners`: a runner of the class that waits for work of GitLab.
#[utoipa::path(
    post,
    path = "/runners",
    operation_id = "spawnRunner",
    tag = "runners",
    summary = "Start a runner that waits for work of GitLab",
    description = "Of a class with a GitLab runner token.",
    request_body(content = SpawnBody),
    responses(
        (status = 202, description = "The runner that is being started.", body = RunnerDto, headers(("Location" = String, description = "Where it is."))),
    ),
    extensions(("x-role" = json!("operator")), ("x-problems" = json!(["unsatisfiable", "no-room", "drained", "disk-full", "stopping", "store-unavailable", "conflict"]))),
)]
pub(super) async fn spawn(_operator: Operator, State(state): State<AppState>, body: JsonBody<SpawnBody>) -> Result<Response, Problem> {
    let Some(name) = body.value.class else { return Err(Problem::field("class", "is needed")) };
    let class = ClassName::parse("class", &name)?;
    let runner = match state.manager.spawn(class).await? {
        Spawned::Planned(runner) => *runner,
        Spawned::NoSuchClass => {
            let config = state.config.current();
            let names: Vec<&str> = config.classes.iter().map(|class| class.name.as_str()).collect();
            return Err(Problem::field("class", format!("must be one of {}", names.join(", "))));
        }
        Spawned::NotForGitLab => {
            return Err(Problem::field("class", "must be a class with a gitlab_token: no work would ever come to a runner of this one"));
        }
        Spawned::DoesNotFit(unfit) => {
            let for_ever = unfit.iter().any(|one| one.ever() == Ever::Never);
            return Err(if for_ever { Problem::Unsatisfiable(missing(unfit)) } else { Problem::NoRoom(missing(unfit)) });
        }
        Spawned::DiskFull(detail) => return Err(Problem::DiskFull { detail }),
        Spawned::Unguarded(why) => return Err(Problem::NoRoom(vec![FieldFault::new("class", why)])),
        Spawned::Drained(drain) => return Err(Problem::Drained { detail: drain.to_string() }),
        Spawned::Stopping => return Err(Problem::Stopping),
    };
    tracing::info!(runner.id = %runner.id, "runner {} was asked for through the API", runner.id);
    let location = format!("/runners/{}", runner.id);
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, location)], Json(shown(&state, runner))).into_response())
}

/// `DELETE /runners/{id}`: ends it; what it held is free when its container is gone. Repeating it is fine.
#[utoipa::path(
    delete,
    path = "/runners/{id}",
    operation_id = "terminateRunner",
    tag = "runners",
    summary = "End a runner",
    description = "What it held is free when its container is gone; its job ends with `runner_terminated`. Repeating it is fine.",
    params(
        ("id" = String, Path, description = "The id of a runner."),
    ),
    responses(
        (status = 202, description = "The runner, which is being ended.", body = RunnerDto),
    ),
    extensions(("x-role" = json!("operator")), ("x-problems" = json!(["invalid-parameter", "not-found", "store-unavailable", "conflict"]))),
)]
pub(super) async fn terminate(
    _operator: Operator,
    State(state): State<AppState>,
    Path(id): Path<String>,
    params: Params,
) -> Result<Response, Problem> {
    params.finish()?;
    let runner = match state.manager.terminate(&RunnerId::from_trusted(&*id)).await? {
        Termination::Ordered(runner) => {
            tracing::info!(runner.id = %id, "runner {id} was ended through the API");
            runner
        }
        Termination::AlreadyEnding(runner) => runner,
        Termination::Unknown => return Err(Problem::unknown_runner(&id)),
    };
    Ok((StatusCode::ACCEPTED, Json(shown(&state, *runner))).into_response())
}
