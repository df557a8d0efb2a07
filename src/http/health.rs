//! `/health` for machines that watch us, `/status` for people.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use super::configuration::ConfigurationDto;
use super::dto::thousandths;
use super::extract::Viewer;
use super::gitlab_queue::GitLabQueueDto;
use super::hosts::{HostDto, HostShown};
use super::openapi::words;
use super::params::Params;
use super::problem::Problem;
use super::state::AppState;
use crate::domain::{DiskState, HostFacts, JobState, ProjectUsage, RunnerState, chain};
use crate::jobs::{Disk, EngineState, IntakeState, Status, Stuck, Unguarded};
use crate::platform::devices::toolkit::ABOUT as TOOLKIT;
use crate::tasks::{Standing, TaskState};

/// Longest wait for the store's sign of life.
const PING_TIMEOUT: Duration = Duration::from_secs(2);
/// The manager looks around far more often than this; a longer silence means that it hangs.
const TICK_SILENCE: Duration = Duration::from_secs(60);

/// Most projects whose use of GPUs `/status` tells.
const MOST_PROJECTS: u32 = 20;

/// The answer of `/health`.
#[derive(Debug, Serialize, ToSchema)]
struct Health {
    status: Verdict,
    checks: BTreeMap<&'static str, Check>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = CheckResult)]
enum Verdict {
    Ok,
    Failing,
}

/// One part that is needed.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Check {
    status: Verdict,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    since: Option<Timestamp>,
}

impl Check {
    /// It works.
    pub(super) fn ok(detail: Option<String>) -> Self {
        Self { status: Verdict::Ok, detail, since: None }
    }

    fn failing(detail: impl Into<String>, since: Option<Timestamp>) -> Self {
        Self { status: Verdict::Failing, detail: Some(detail.into()), since }
    }
}

/// `GET /health`: 200 when every needed part works, else 503. No token is needed.
#[utoipa::path(
    get,
    path = "/health",
    operation_id = "getHealth",
    tag = "daemon",
    summary = "Whether the daemon can work",
    description = "For machines that watch the daemon. No token is needed.",
    responses(
        (status = 200, description = "Every needed part works.", body = Health),
        (status = 503, description = "A needed part does not work; `checks` says which.", body = Health),
    ),
    extensions(("x-role" = json!("none")), ("x-problems" = json!([]))),
)]
pub(super) async fn health(State(state): State<AppState>) -> Response {
    let status = state.manager.status();
    let mut checks =
        BTreeMap::from([("store", store_check(&state).await), ("engine", engine_check(&status.engine)), ("manager", manager_check(&status))]);
    if state.config.current().classes.iter().any(|class| class.gitlab_token.is_some()) {
        checks.insert("broker", broker_check(status.broker.as_deref()));
    }
    if let Some(unseen) = &status.unseen {
        checks.insert("receipts", Check::failing(unseen.clone(), None));
    }
    checks.extend(stuck_check(&status.stuck).map(|check| ("containers", check)));
    checks.extend(tasks_check(&state.manager.tasks().states()).map(|check| ("tasks", check)));
    checks.extend(disk_check(&status.disks, status.disks_silent).map(|check| ("disk", check)));
    checks.extend(status.unguarded.as_ref().map(|Unguarded { why, since }| ("network", Check::failing(why.clone(), Some(*since)))));
    checks.extend(gpu_check(&status.facts).map(|check| ("gpus", check)));
    checks.extend(state.audit.failing().map(|(error, since)| ("audit", Check::failing(error, since))));
    answer_of(checks)
}

/// 200 when every part works, else 503.
pub(super) fn answer_of(checks: BTreeMap<&'static str, Check>) -> Response {
    let sound = checks.values().all(|check| check.status == Verdict::Ok);
    let (code, verdict) = if sound { (StatusCode::OK, Verdict::Ok) } else { (StatusCode::SERVICE_UNAVAILABLE, Verdict::Failing) };
    (code, Json(Health { status: verdict, checks })).into_response()
}

async fn store_check(state: &AppState) -> Check {
    if state.store.damage().is_some() {
        return Check::failing("it is damaged; the log knows more, and `runner-coordinator restore` puts a backup in its place", None);
    }
    match tokio::time::timeout(PING_TIMEOUT, state.store.ping()).await {
        Ok(Ok(())) => Check::ok(None),
        Ok(Err(error)) => {
            let error = chain(&error);
            tracing::error!(error, "the store gives no sign of life");
            Check::failing(error, None)
        }
        Err(_) => Check::failing(format!("it did not answer within {} s", PING_TIMEOUT.as_secs()), None),
    }
}

fn engine_check(engine: &EngineState) -> Check {
    match engine {
        EngineState::Unknown => Check::failing("it has not been asked yet", None),
        EngineState::Up { version, .. } => Check::ok(Some(version.clone())),
        EngineState::Down { error, since } => Check::failing(error.clone(), Some(*since)),
    }
}

fn manager_check(status: &Status) -> Check {
    let last = status.last_tick_at;
    let silent = status.last_tick.elapsed() > TICK_SILENCE;
    match (silent, &status.last_tick_error) {
        (true, _) => Check::failing("it does not look for work", Some(last)),
        (false, Some(_)) => Check::failing("its last pass failed; the log says why", Some(last)),
        (false, None) => Check::ok(None),
    }
}

/// Never failing: other jobs go on. What such a container holds is given to nobody.
fn stuck_check(stuck: &Stuck) -> Option<Check> {
    let detail = || format!("{} cannot be taken away; GET /runners shows stuck_since", counted(stuck.containers(), "container"));
    (stuck.containers() > 0).then(|| Check { status: Verdict::Ok, detail: Some(detail()), since: stuck.runners.values().min().copied() })
}

/// Nothing where all tasks are well.
fn tasks_check(states: &[TaskState]) -> Option<Check> {
    let of = |wanted: fn(Standing) -> Option<Timestamp>| {
        let found: Vec<(&str, Timestamp)> = states.iter().filter_map(|state| Some((state.name, wanted(state.standing)?))).collect();
        let names: Vec<&str> = found.iter().map(|(name, _)| *name).collect();
        found.iter().map(|(_, at)| *at).min().map(|since| (names.join(", "), since))
    };
    let dead = of(|standing| if let Standing::Dead { died_at } = standing { Some(died_at) } else { None });
    let again = of(|standing| if let Standing::Again { died_at } = standing { Some(died_at) } else { None });
    match (dead, again) {
        (Some((names, since)), _) => Some(Check::failing(format!("died, and started again in a moment: {names}; the log says why"), Some(since))),
        (None, Some((names, since))) => {
            let detail = Some(format!("died, and runs again: {names}; the log says why"));
            Some(Check { status: Verdict::Ok, detail, since: Some(since) })
        }
        (None, None) => None,
    }
}

fn counted(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

fn broker_check(address: Option<&str>) -> Check {
    address.map_or_else(|| Check::failing("runners cannot reach it", None), |address| Check::ok(Some(address.to_owned())))
}

/// Failing once nothing new begins. Nothing to say before the first look.
fn disk_check(disks: &[Disk], silent: Option<Timestamp>) -> Option<Check> {
    if silent.is_some() {
        return Some(Check::failing("a file system does not answer, and nothing new begins", silent));
    }
    let worst = disks.iter().max_by_key(|disk| disk.state)?;
    Some(match worst.state {
        DiskState::Fine => Check::ok(None),
        DiskState::Low => Check::ok(Some(worst.to_string())),
        DiskState::Full => Check::failing(worst.to_string(), Some(worst.since)),
    })
}

/// Never failing: jobs go on with the others, and without any.
fn gpu_check(facts: &HostFacts) -> Option<Check> {
    let for_jobs = || facts.gpus.iter().filter(|gpu| gpu.is_for_jobs());
    let unfit = for_jobs().filter(|gpu| !gpu.health.is_sound()).count();
    let unfit = (unfit > 0).then(|| format!("{unfit} of {} cannot be used; GET /hosts tells why", for_jobs().count()));
    let toolkit = facts.notes.iter().find(|note| note.about == TOOLKIT).map(|note| format!("{}: {}", note.about, note.text));
    let detail = [unfit, toolkit].into_iter().flatten().collect::<Vec<_>>().join("; ");
    let detail = Some(detail).filter(|detail| !detail.is_empty());
    for_jobs().next().map(|_| Check::ok(detail))
}

/// The answer of `/status`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Status)]
pub struct StatusDto {
    service: String,
    version: &'static str,
    #[schema(value_type = String, format = DateTime)]
    started_at: Timestamp,
    uptime_seconds: u64,
    /// It takes no new work and is about to end.
    stopping: bool,
    engine: EngineDto,
    broker: Option<String>,
    #[schema(schema_with = words::jobs_by_state)]
    jobs: BTreeMap<String, u64>,
    #[schema(schema_with = words::runners_by_state)]
    runners: BTreeMap<String, u64>,
    queue: QueueDto,
    gitlab: Vec<IntakeDto>,
    /// How the settings came into force.
    configuration: ConfigurationDto,
    /// What waits in GitLab; `null` without an access token to look with.
    gitlab_queue: Option<GitLabQueueDto>,
    #[schema(value_type = Vec<HostDto>)]
    hosts: Vec<HostShown>,
    /// What the ended attempts of jobs used of GPUs, by project: those with most GPU time, at most 20.
    projects: Vec<ProjectUsageDto>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ProjectUsage)]
struct ProjectUsageDto {
    /// `null` is all jobs without a project.
    project: Option<String>,
    /// Attempts that had GPUs.
    gpu_attempts: u64,
    /// How long GPUs were theirs, each counted.
    gpu_seconds: f64,
    /// The same of attempts that ended in the present hour or the 23 before it.
    gpu_seconds_24h: f64,
    /// As far as drivers told it; 0 where none did.
    gpu_energy_joules: f64,
}

impl From<ProjectUsage> for ProjectUsageDto {
    fn from(usage: ProjectUsage) -> Self {
        let ProjectUsage { project, attempts, gpu_millis, gpu_millis_of_day, energy_millijoules } = usage;
        Self {
            project: project.map(|name| name.to_string()),
            gpu_attempts: attempts,
            gpu_seconds: thousandths(gpu_millis),
            gpu_seconds_24h: thousandths(gpu_millis_of_day),
            gpu_energy_joules: thousandths(energy_millijoules),
        }
    }
}

/// Whether the engine answers.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = EngineState)]
enum EngineWord {
    /// It has not been asked yet.
    Unknown,
    /// It answers.
    Up,
    /// It does not.
    Down,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Engine)]
struct EngineDto {
    state: EngineWord,
    #[schema(value_type = Option<String>, format = DateTime)]
    since: Option<Timestamp>,
    version: Option<String>,
    error: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = QueueSummary)]
struct QueueDto {
    depth: u64,
    #[schema(value_type = Option<String>, format = DateTime)]
    oldest_queued_at: Option<Timestamp>,
    oldest_wait_seconds: Option<u64>,
}

/// How a class's work comes in from GitLab.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = GitLabIntake)]
struct IntakeDto {
    class: String,
    #[schema(value_type = words::GitLabIntakeState)]
    state: &'static str,
    #[schema(value_type = Option<String>, format = DateTime)]
    last_answer_at: Option<Timestamp>,
    error: Option<String>,
}

/// `GET /status`.
#[utoipa::path(
    get,
    path = "/status",
    operation_id = "getStatus",
    tag = "daemon",
    summary = "The daemon, its queue and its machine",
    description = "",
    responses(
        (status = 200, description = "How it stands.", body = StatusDto),
    ),
    extensions(("x-role" = json!("viewer")), ("x-problems" = json!(["invalid-parameter", "store-unavailable"]))),
)]
pub(super) async fn status(_viewer: Viewer, State(state): State<AppState>, params: Params) -> Result<Json<StatusDto>, Problem> {
    params.finish()?;
    let counts = state.store.counts().await?;
    let status = state.manager.status();
    let now = state.clock.now();
    let projects = state.store.project_usage(now, MOST_PROJECTS).await?;
    let jobs = by_state(&JobState::NAMES, counts.jobs);
    let open_runners: Vec<&str> = RunnerState::NAMES.into_iter().filter(|name| *name != "gone").collect();
    Ok(Json(StatusDto {
        service: state.config.current().service_name.clone(),
        version: env!("CARGO_PKG_VERSION"),
        started_at: state.started_at,
        uptime_seconds: seconds_between(state.started_at, now),
        stopping: status.stopping,
        engine: EngineDto::from(&status.engine),
        broker: status.broker.clone(),
        queue: QueueDto {
            depth: jobs.get("queued").copied().unwrap_or(0),
            oldest_queued_at: counts.oldest_queued_at,
            oldest_wait_seconds: counts.oldest_queued_at.map(|oldest| seconds_between(oldest, now)),
        },
        jobs,
        runners: by_state(&open_runners, counts.runners),
        gitlab: intake(&status),
        configuration: ConfigurationDto::from(state.config.loading()),
        gitlab_queue: status.gitlab_queue.as_deref().map(|queue| GitLabQueueDto::new(queue, now)),
        hosts: super::hosts::all(&state).await?,
        projects: projects.into_iter().map(ProjectUsageDto::from).collect(),
    }))
}

impl From<&EngineState> for EngineDto {
    fn from(engine: &EngineState) -> Self {
        match engine {
            EngineState::Unknown => Self { state: EngineWord::Unknown, since: None, version: None, error: None },
            EngineState::Up { version, since } => Self { state: EngineWord::Up, since: Some(*since), version: Some(version.clone()), error: None },
            EngineState::Down { error, since } => Self { state: EngineWord::Down, since: Some(*since), version: None, error: Some(error.clone()) },
        }
    }
}

fn intake(status: &Status) -> Vec<IntakeDto> {
    let shown = |one: &IntakeState| IntakeDto {
        class: one.class.to_string(),
        state: one.state.as_str(),
        last_answer_at: one.last_answer_at,
        error: one.error.clone(),
    };
    status.intake.iter().map(shown).collect()
}

/// Every state with its count, those without any too.
fn by_state(names: &[&str], counted: Vec<(String, u64)>) -> BTreeMap<String, u64> {
    let mut all: BTreeMap<String, u64> = names.iter().map(|name| ((*name).to_owned(), 0)).collect();
    all.extend(counted);
    all
}

pub(super) fn seconds_between(earlier: Timestamp, later: Timestamp) -> u64 {
    u64::try_from(later.duration_since(earlier).as_secs()).unwrap_or(0)
}

#[cfg(test)]
#[path = "health_tests.rs"]
mod tests;
