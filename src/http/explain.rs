//! `/jobs/{id}/explain`: why a job is where it is.

use axum::Json;
use axum::extract::{Path, State};
use jiff::Timestamp;
use serde::Serialize;

use super::extract::Viewer;
use super::params::Params;
use super::problem::Problem;
use super::state::AppState;
use crate::domain::{Job, JobId};
use crate::jobs::explain::{Circumstances, explain};
use crate::platform::Ever;
use crate::platform::explain::{Ahead, Explanation, Fits, HostReport, Missing, Readiness, Standing, Tenant};

/// Why a job is where it is.
#[derive(Debug, Serialize)]
pub struct ExplanationDto {
    job_id: String,
    state: &'static str,
    /// All of it in a sentence for people.
    summary: String,
    /// Why it does not run: `never_fits`, `back_off`, `no_host_ready`, `no_room`, `next` (it is taken in a moment), `project_limit`, `order` (there is room, and
    /// others go first), `starting`, `ending`; `null` for one that runs or has ended.
    waits_for: Option<&'static str>,
    /// While it waits: how many go before it.
    position: Option<PositionDto>,
    /// While it waits: its project's limit that keeps it from starting; `null` where none does.
    project_limit: Option<ProjectLimitDto>,
    /// While it waits: whether any host could ever run it; `null` while that is not known.
    ever: Option<bool>,
    /// While it waits to be tried again: not before this time.
    not_before: Option<Timestamp>,
    /// When it starts at the latest, if those that run now use their timeouts up and nothing new goes before it; `null` when that is not known.
    estimated_start: Option<Timestamp>,
    /// While it waits: what each host lacks.
    hosts: Vec<HostReportDto>,
}

#[derive(Debug, Serialize)]
struct PositionDto {
    /// Waiting jobs that want what it waits for and are taken first.
    ahead: u32,
    /// Whether there are more than that: they are not counted to the end.
    more: bool,
}

#[derive(Debug, Serialize)]
struct ProjectLimitDto {
    project: String,
    /// `max_running` or `max_gpus`.
    limit: &'static str,
    most: u32,
    used: u32,
}

#[derive(Debug, Serialize)]
struct HostReportDto {
    host: String,
    /// As in `/hosts`.
    state: &'static str,
    /// Why it takes no work, where it takes none.
    detail: Option<String>,
    /// `now`, `later` or `never`.
    fits: &'static str,
    /// When there is room at the latest, if those that run now use their timeouts up and nothing else takes it.
    room_by: Option<Timestamp>,
    missing: Vec<MissingDto>,
}

#[derive(Debug, Serialize)]
struct MissingDto {
    /// The field of the request that asks for it: `arch`, `cpus`, `memory`, `gpus`, or `class` for what the class says.
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

#[derive(Debug, Serialize)]
struct HolderDto {
    runner_id: String,
    job_id: Option<String>,
    class: String,
    project: Option<String>,
    cpus: serde_json::Number,
    memory: String,
    devices: Vec<String>,
    since: Timestamp,
    /// When it is gone at the latest by its timeout; `null` for one that waits for work or still starts.
    ends_by: Option<Timestamp>,
}

#[derive(Debug, Serialize)]
struct UnusableDto {
    device: String,
    reason: String,
}

/// `GET /jobs/{id}/explain`.
pub(super) async fn of_job(
    _viewer: Viewer,
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

fn waits_for(explanation: &Explanation) -> Option<&'static str> {
    match &explanation.standing {
        Standing::Running { .. } | Standing::Ended { .. } => None,
        Standing::Ending(_) => Some("ending"),
        Standing::Starting { .. } => Some("starting"),
        Standing::Handover(_) => Some("next"),
        Standing::Waiting | Standing::BackOff(_) if explanation.ever == Some(Ever::Never) => Some("never_fits"),
        Standing::BackOff(_) => Some("back_off"),
        Standing::Waiting if explanation.capped.is_some() => Some("project_limit"),
        Standing::Waiting => Some(room(explanation)),
    }
}

fn room(explanation: &Explanation) -> &'static str {
    let mut ready = explanation.hosts.iter().filter(|host| host.readiness == Readiness::Ready).peekable();
    if ready.peek().is_none() {
        "no_host_ready"
    } else if !ready.any(|host| host.fits == Fits::Now) {
        "no_room"
    } else if explanation.ahead == Some(Ahead::Exactly(0)) {
        "next"
    } else {
        "order"
    }
}

impl From<HostReport> for HostReportDto {
    fn from(report: HostReport) -> Self {
        let HostReport { host, readiness, fits, missing, room_by } = report;
        let (state, detail) = match &readiness {
            Readiness::Ready => ("ready", None),
            Readiness::Unasked => ("starting", Some(readiness.to_string())),
            Readiness::EngineDown { .. } => ("engine_down", Some(readiness.to_string())),
            Readiness::Draining => ("draining", Some(readiness.to_string())),
        };
        let fits = match fits {
            Fits::Now => "now",
            Fits::Later => "later",
            Fits::Never => "never",
        };
        Self { host: host.to_string(), state, detail, fits, room_by, missing: missing.into_iter().map(MissingDto::from).collect() }
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
