//! `/hosts`: the machines, what they have, what of it is free, and whether they take work.

use axum::Json;
use axum::extract::{Path, State};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Number;
use utoipa::ToSchema;

use super::dto::cpus;
use super::extract::{JsonBody, Operator, Viewer};
use super::gpus::{GpuDto, GpuState, Holding, NoteDto, read_reason};
use super::openapi::{fields, words};
use super::params::Params;
use super::problem::Problem;
use super::state::AppState;
use crate::domain::{Arch, CpuMillis, Drain, Gpu, HostId};
use crate::jobs::explain::readiness;
use crate::jobs::{Disk, HostSet, HostWish, Status};

/// All machines.
#[derive(Debug, Serialize, ToSchema)]
pub struct HostList {
    #[schema(value_type = Vec<HostDto>)]
    hosts: Vec<HostShown>,
}

/// How a machine of the fleet stands whose daemon has not renewed its lease; this machine never does.
pub(super) const LOST: &str = "lost";

/// A machine of the list.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum HostShown {
    /// This one.
    Own(Box<HostDto>),
    /// Another, as its daemon told of it last.
    Told(serde_json::Value),
}

impl HostShown {
    fn id(&self) -> &str {
        match self {
            Self::Own(host) => &host.id,
            Self::Told(host) => host["id"].as_str().unwrap_or_default(),
        }
    }
}

/// A machine.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Host)]
pub struct HostDto {
    id: String,
    #[schema(value_type = words::HostState)]
    state: &'static str,
    /// Why it takes no new work; `null` for one that was not drained.
    drain: Option<DrainDto>,
    /// `null` for an architecture that is not scheduled for.
    #[schema(value_type = Option<words::Arch>)]
    arch: Option<&'static str>,
    /// Foreign architectures whose programs are emulated here.
    #[schema(value_type = Vec<words::Arch>)]
    emulated: Vec<&'static str>,
    cpus: CpusDto,
    memory: MemoryDto,
    /// Those that work fills; empty before the first look at them.
    disks: Vec<DiskDto>,
    gpus: GpusDto,
    /// Runtimes that its engine knows.
    runtimes: Vec<String>,
}

/// Why a machine is to get empty.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Drain)]
struct DrainDto {
    #[schema(value_type = String, format = DateTime)]
    since: Timestamp,
    /// The name of the token with which it was drained; `null` where no tokens are configured, and through the Unix socket.
    by: Option<String>,
    reason: Option<String>,
}

impl From<&Drain> for DrainDto {
    fn from(drain: &Drain) -> Self {
        let Drain { since, by, reason } = drain.clone();
        Self { since, by, reason }
    }
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = HostCpus)]
struct CpusDto {
    #[schema(value_type = f64)]
    total: Number,
    #[schema(value_type = f64)]
    free: Number,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = HostMemory)]
struct MemoryDto {
    total_bytes: u64,
    free_bytes: u64,
}

/// A disk that work fills.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = HostDisk)]
struct DiskDto {
    #[schema(value_type = words::DiskRole)]
    disk: &'static str,
    path: String,
    total_bytes: u64,
    /// What those who are not root may still write.
    free_bytes: u64,
    #[schema(value_type = words::DiskState)]
    state: &'static str,
    #[schema(value_type = String, format = DateTime)]
    since: Timestamp,
}

impl From<&Disk> for DiskDto {
    fn from(disk: &Disk) -> Self {
        let Disk { role, path, usage, state, since } = disk;
        Self {
            disk: role.as_str(),
            path: path.display().to_string(),
            total_bytes: usage.total,
            free_bytes: usage.free,
            state: state.as_str(),
            since: *since,
        }
    }
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = HostGpus)]
struct GpusDto {
    /// Those that jobs are given at all: cards, and parts of divided cards.
    total: usize,
    /// Healthy and held by no runner.
    free: usize,
    /// Unfit, in quarantine or lost.
    unhealthy: usize,
    /// All that there are, those that jobs are not given among them.
    devices: Vec<GpuDto>,
    /// What else there is to say, for example that a driver is missing.
    notes: Vec<NoteDto>,
}

/// `GET /hosts`.
#[utoipa::path(
    get,
    path = "/hosts",
    operation_id = "listHosts",
    tag = "machines",
    summary = "The machines and what of them is free",
    description = "",
    responses(
        (status = 200, description = "All machines.", body = HostList),
    ),
    extensions(("x-role" = json!("viewer")), ("x-problems" = json!(["invalid-parameter"]))),
)]
pub(super) async fn list(_viewer: Viewer, State(state): State<AppState>, params: Params) -> Result<Json<HostList>, Problem> {
    params.finish()?;
    Ok(Json(HostList { hosts: all(&state).await? }))
}

/// This machine as it is now, and the others of its fleet as they told of themselves, by name.
pub(super) async fn all(state: &AppState) -> Result<Vec<HostShown>, Problem> {
    let own = HostDto::from(&*state.manager.status());
    let Some(fleet) = state.store.fleet() else { return Ok(vec![HostShown::Own(Box::new(own))]) };
    let mut hosts: Vec<(String, HostShown)> = Vec::new();
    for host in fleet.hosts().await? {
        if host.host.as_str() == own.id {
            continue;
        }
        let is_live = host.is_live();
        let Some(report) = host.report else { continue };
        let Ok(mut shown) = serde_json::from_str::<serde_json::Value>(&report.shown) else { continue };
        if !is_live {
            shown["state"] = LOST.into();
        }
        hosts.push((host.host.to_string(), HostShown::Told(shown)));
    }
    hosts.push((own.id.clone(), HostShown::Own(Box::new(own))));
    hosts.sort_by(|(one, _), (other, _)| one.cmp(other));
    Ok(hosts.into_iter().map(|(_, shown)| shown).collect())
}

impl HostDto {
    /// A machine in JSON, for the other daemons of its fleet.
    pub(crate) fn told(status: &Status) -> String {
        serde_json::to_string(&Self::from(status)).unwrap_or_default()
    }
}

/// The body of `POST /hosts/{id}/drain`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = DrainHost)]
pub(super) struct DrainBody {
    /// For people, in one line.
    #[schema(inline, value_type = Option<fields::DrainReason>)]
    reason: Option<String>,
}

/// `POST /hosts/{id}/drain`: it takes no new work until it is resumed, also after a restart; what runs ends by itself. Repeating it is fine.
#[utoipa::path(
    post,
    path = "/hosts/{id}/drain",
    operation_id = "drainHost",
    tag = "machines",
    summary = "Let a machine get empty",
    description = "It takes no new work until it is resumed, also after a restart; what runs ends by itself. Repeating it is fine. 404 names the machines that there are. Any daemon of a fleet does so for all its machines; the answer for another one shows how it was when it told of itself last.",
    params(
        ("id" = String, Path, description = "The id of a machine, as `GET /hosts` shows it."),
    ),
    request_body = Option<DrainBody>,
    responses(
        (status = 200, description = "The machine afterwards.", body = HostDto),
    ),
    extensions(("x-role" = json!("operator")), ("x-problems" = json!(["invalid-parameter", "not-found", "stopping", "store-unavailable", "conflict"]))),
)]
pub(super) async fn drain(
    operator: Operator,
    State(state): State<AppState>,
    Path(id): Path<String>,
    params: Params,
    body: Option<JsonBody<DrainBody>>,
) -> Result<Json<HostShown>, Problem> {
    params.finish()?;
    let reason = body.and_then(|body| body.value.reason).map(|reason| read_reason(&reason)).transpose()?;
    set(&state, &id, HostWish::Drain { by: operator.name, reason }).await
}

/// `POST /hosts/{id}/resume`: it takes work again. Repeating it is fine.
#[utoipa::path(
    post,
    path = "/hosts/{id}/resume",
    operation_id = "resumeHost",
    tag = "machines",
    summary = "Let a machine take work again",
    description = "Repeating it is fine.",
    params(
        ("id" = String, Path, description = "The id of a machine, as `GET /hosts` shows it."),
    ),
    responses(
        (status = 200, description = "The machine afterwards.", body = HostDto),
    ),
    extensions(("x-role" = json!("operator")), ("x-problems" = json!(["invalid-parameter", "not-found", "stopping", "store-unavailable", "conflict"]))),
)]
pub(super) async fn resume(
    _operator: Operator,
    State(state): State<AppState>,
    Path(id): Path<String>,
    params: Params,
) -> Result<Json<HostShown>, Problem> {
    params.finish()?;
    set(&state, &id, HostWish::Resume).await
}

async fn set(state: &AppState, id: &str, wish: HostWish) -> Result<Json<HostShown>, Problem> {
    if state.manager.status().facts.id.as_str() != id {
        return set_another(state, id, wish).await;
    }
    match state.manager.set_host(wish).await? {
        HostSet::Done => Ok(Json(HostShown::Own(Box::new(HostDto::from(&*state.manager.status()))))),
        HostSet::Stopping => Err(Problem::Stopping),
    }
}

/// The same with another machine of the fleet: it is written down, and its daemon obeys with its next pass, or when it is back.
async fn set_another(state: &AppState, id: &str, wish: HostWish) -> Result<Json<HostShown>, Problem> {
    let mut known = all(state).await?;
    let place = known.iter().position(|host| host.id() == id);
    let Some(HostShown::Told(mut shown)) = place.map(|place| known.swap_remove(place)) else {
        return Err(Problem::unknown_host(id, &known.iter().map(HostShown::id).collect::<Vec<_>>().join(", ")));
    };
    let host = HostId::from_trusted(id);
    let drain = match wish {
        HostWish::Drain { by, reason } => Some(Drain::asked(state.store.drain(&host).await?, by, reason, state.clock.now())),
        HostWish::Resume => None,
    };
    state.store.set_drain(&host, drain.as_ref()).await?;
    // What it is to be; how far it is, it tells itself.
    shown["drain"] = serde_json::to_value(drain.as_ref().map(DrainDto::from)).unwrap_or_default();
    Ok(Json(HostShown::Told(shown)))
}

impl From<&Status> for HostDto {
    fn from(status: &Status) -> Self {
        let facts = &status.facts;
        let shown = |gpu: &Gpu| {
            let (vitals, quarantine) = (status.gpu_vitals.get(&gpu.id), status.quarantines.get(&gpu.id));
            GpuDto::new(gpu, vitals, quarantine, Holding::of(status, &gpu.id))
        };
        let devices: Vec<GpuDto> = facts.gpus.iter().map(shown).collect();
        let for_jobs = || devices.iter().zip(&facts.gpus).filter(|(_, gpu)| gpu.is_for_jobs()).map(|(shown, _)| shown.state);
        let (total, free) = (for_jobs().count(), for_jobs().filter(|state| *state == GpuState::Free).count());
        let unhealthy = for_jobs().filter(|state| matches!(*state, GpuState::Unhealthy | GpuState::Quarantined | GpuState::Lost)).count();
        let notes = facts.notes.iter().map(NoteDto::from).collect();
        Self {
            id: facts.id.to_string(),
            state: readiness(status).name(),
            drain: status.drain.as_ref().map(DrainDto::from),
            arch: facts.arch.map(Arch::as_str),
            cpus: CpusDto { total: cpus(facts.cpus), free: cpus(CpuMillis(facts.cpus.0.saturating_sub(status.used_cpus.0))) },
            memory: MemoryDto { total_bytes: facts.memory.0, free_bytes: facts.memory.0.saturating_sub(status.used_memory.0) },
            disks: status.disks.iter().map(DiskDto::from).collect(),
            emulated: facts.emulated.iter().map(|arch| arch.as_str()).collect(),
            gpus: GpusDto { total, free, unhealthy, devices, notes },
            runtimes: facts.runtimes.clone(),
        }
    }
}
