//! `/jobs/{id}/explain`: why a job is where it is.

use axum::Json;
use axum::extract::{Path, State};
use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use super::openapi::words;
use super::params::Params;
use super::problem::Problem;
use super::scope::Watcher;
use super::state::AppState;
use crate::domain::{Job, JobId};
use crate::jobs::explain::{Circumstances, explain};
use crate::platform::Ever;
use crate::platform::explain::{Ahead, Explanation, Fits, HostReport, Missing, Readiness, Standing, Tenant};

/// Why a job is where it is.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Explanation)]
pub struct ExplanationDto {
    job_id: String,
    #[schema(value_type = words::JobState)]
    state: &'static str,
    /// All of it in a sentence for people.
    summary: String,
    /// Why it does not run; `null` for one that runs or has ended.
    waits_for: Option<WaitsFor>,
    /// While it waits: how many go before it.
    position: Option<PositionDto>,
    /// While it waits: its project's limit that keeps it from starting; `null` where none does.
    project_limit: Option<ProjectLimitDto>,
    /// While it waits: whether any host could ever run it; `null` while that is not known.
    ever: Option<bool>,
    /// While it waits to be tried again: not before this time.
    #[schema(value_type = Option<String>, format = DateTime)]
    not_before: Option<Timestamp>,
    /// When it starts at the latest, if those that run now use their timeouts up and nothing new goes before it; `null` when that is not known.
    #[schema(value_type = Option<String>, format = DateTime)]
    estimated_start: Option<Timestamp>,
    /// While it waits: what each host lacks.
    hosts: Vec<HostReportDto>,
}

/// Why a job does not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum WaitsFor {
    /// No host could ever run it.
    NeverFits,
    /// It is tried again later.
    BackOff,
    /// No host takes work.
    NoHostReady,
    /// Others have what it needs.
    NoRoom,
    /// Nothing: it is taken in a moment.
    Next,
    /// Its project has as much as it may.
    ProjectLimit,
    /// There is room, and others go first.
    Order,
    /// Its container is being made.
    Starting,
    /// It is being ended.
    Ending,
}

/// When there is room for a job on a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum FitsWhen {
    /// At present.
    Now,
    /// When others have gone.
    Later,
    /// Never.
    Never,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = QueuePosition)]
struct PositionDto {
    /// Waiting jobs that want what it waits for and are taken first.
    ahead: u32,
    /// Whether there are more than that: they are not counted to the end.
    more: bool,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ProjectLimit)]
struct ProjectLimitDto {
    project: String,
    #[schema(value_type = words::ProjectLimitName)]
    limit: &'static str,
    most: u32,
    used: u32,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = HostReport)]
struct HostReportDto {
    host: String,
    /// As in `/hosts`.
    #[schema(value_type = words::HostState)]
    state: &'static str,
    /// Why it takes no work, where it takes none.
    detail: Option<String>,
    fits: FitsWhen,
    /// When there is room at the latest, if those that run now use their timeouts up and nothing else takes it.
    #[schema(value_type = Option<String>, format = DateTime)]
    room_by: Option<Timestamp>,
    missing: Vec<MissingDto>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Missing)]
struct MissingDto {
    #[schema(value_type = words::RequirementField)]
    field: &'static str,
    message: String,
    /// Whether waiting can help.
    ever: bool,
    /// Runners that hold some of it, those first that are gone first by their timeouts.
    holders: Vec<HolderDto>,
    /// Holders beyond those.
    more_holders: usize,
    /// GPUs that would do but are given to nobody.
    unusable: Vec<UnusableDto>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Holder)]
struct HolderDto {
    runner_id: String,
    job_id: Option<String>,
    class: String,
    project: Option<String>,
    #[schema(value_type = f64)]
    cpus: serde_json::Number,
    memory: String,
    devices: Vec<String>,
    #[schema(value_type = String, format = DateTime)]
    since: Timestamp,
    /// When it is gone at the latest by its timeout; `null` for one that waits for work or still starts.
    #[schema(value_type = Option<String>, format = DateTime)]
    ends_by: Option<Timestamp>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = UnusableGpu)]
struct UnusableDto {
    device: String,
    reason: String,
}

/// `GET /jobs/{id}/explain`.
#[utoipa::path(
    get,
    path = "/jobs/{id}/explain",
    operation_id = "explainJob",
    tag = "jobs",
    summary = "Why a job is where it is",
    description = "",
    params(
        ("id" = String, Path, description = "The id of a job."),
    ),
    responses(
        (status = 200, description = "Why it waits, or that it does not.", body = ExplanationDto),
    ),
    extensions(("x-role" = json!("viewer")), ("x-submitter" = json!(true)), ("x-problems" = json!(["invalid-parameter", "not-found", "store-unavailable"]))),
)]
pub(super) async fn of_job(
    Watcher(scope): Watcher,
    State(state): State<AppState>,
    Path(id): Path<String>,
    params: Params,
) -> Result<Json<ExplanationDto>, Problem> {
    params.finish()?;
    let status = state.manager.status();
    let config = state.config.current();
    let circumstances = Circumstances { status: &status, config: &config, now: state.clock.now() };
    let explained = explain(&*state.store, circumstances, &JobId::from_trusted(&*id)).await?;
    let (job, explanation) = explained.ok_or_else(|| Problem::unknown_job(&id))?;
    let job = scope.only(job)?;
    Ok(Json(shown(&job, explanation)))
}

fn shown(job: &Job, explanation: Explanation) -> ExplanationDto {
    let position = explanation.ahead.map(|ahead| match ahead {
        Ahead::Exactly(ahead) => PositionDto { ahead, more: false },
        Ahead::MoreThan(ahead) => PositionDto { ahead, more: true },
    });
    ExplanationDto {
        job_id: job.id.to_string(),
        state: job.state.name(),
        summary: explanation.to_string(),
        waits_for: waits_for(&explanation),
        position,
        project_limit: explanation.capped.as_ref().map(|reached| ProjectLimitDto {
            project: reached.project.to_string(),
            limit: reached.limit.as_str(),
            most: reached.most,
            used: reached.used,
        }),
        ever: explanation.ever.map(could),
        not_before: if let Standing::BackOff(until) = explanation.standing { Some(until) } else { None },
        estimated_start: explanation.estimated_start,
        hosts: explanation.hosts.into_iter().map(HostReportDto::from).collect(),
    }
}

fn could(ever: Ever) -> bool {
    ever == Ever::Later
}

fn waits_for(explanation: &Explanation) -> Option<WaitsFor> {
    match &explanation.standing {
        Standing::Running { .. } | Standing::Ended { .. } => None,
        Standing::Ending(_) => Some(WaitsFor::Ending),
        Standing::Starting { .. } => Some(WaitsFor::Starting),
        Standing::Handover(_) => Some(WaitsFor::Next),
        Standing::Waiting | Standing::BackOff(_) if explanation.ever == Some(Ever::Never) => Some(WaitsFor::NeverFits),
        Standing::BackOff(_) => Some(WaitsFor::BackOff),
        Standing::Waiting if explanation.capped.is_some() => Some(WaitsFor::ProjectLimit),
        Standing::Waiting => Some(room(explanation)),
    }
}

fn room(explanation: &Explanation) -> WaitsFor {
    let mut ready = explanation.hosts.iter().filter(|host| host.readiness == Readiness::Ready).peekable();
    if ready.peek().is_none() {
        WaitsFor::NoHostReady
    } else if !ready.any(|host| host.fits == Fits::Now) {
        WaitsFor::NoRoom
    } else if explanation.ahead == Some(Ahead::Exactly(0)) {
        WaitsFor::Next
    } else {
        WaitsFor::Order
    }
}

impl From<HostReport> for HostReportDto {
    fn from(report: HostReport) -> Self {
        let HostReport { host, readiness, fits, missing, room_by } = report;
        let detail = (readiness != Readiness::Ready).then(|| readiness.to_string());
        let fits = match fits {
            Fits::Now => FitsWhen::Now,
            Fits::Later => FitsWhen::Later,
            Fits::Never => FitsWhen::Never,
        };
        Self { host: host.to_string(), state: readiness.name(), detail, fits, room_by, missing: missing.into_iter().map(MissingDto::from).collect() }
    }
}

impl From<Missing> for MissingDto {
    fn from(missing: Missing) -> Self {
        let Missing { unfit, holders, more_holders, unusable } = missing;
        Self {
            field: unfit.field(),
            message: unfit.to_string(),
            ever: could(unfit.ever()),
            holders: holders.into_iter().map(HolderDto::from).collect(),
            more_holders,
            unusable: unusable.into_iter().map(|(device, reason)| UnusableDto { device: device.to_string(), reason }).collect(),
        }
    }
}

impl From<Tenant> for HolderDto {
    fn from(tenant: Tenant) -> Self {
        Self {
            runner_id: tenant.runner.to_string(),
            job_id: tenant.job.map(|job| job.to_string()),
            class: tenant.class.to_string(),
            project: tenant.project.map(|project| project.to_string()),
            cpus: super::dto::cpus(tenant.placement.cpus),
            memory: tenant.placement.memory.to_string(),
            devices: tenant.placement.devices.iter().map(ToString::to_string).collect(),
            since: tenant.since,
            ends_by: tenant.ends_by,
        }
    }
}
