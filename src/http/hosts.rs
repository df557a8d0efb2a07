//! `/hosts`: the machines, what they have and what of it is free.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use serde_json::Number;
use utoipa::ToSchema;

use super::dto::cpus;
use super::extract::Viewer;
use super::gpus::{GpuDto, GpuState, Holding, NoteDto};
use super::openapi::words;
use super::params::Params;
use super::problem::Problem;
use super::state::AppState;
use crate::domain::{Arch, CpuMillis, Gpu};
use crate::jobs::{EngineState, Status};

/// All machines. One for now.
#[derive(Debug, Serialize, ToSchema)]
pub struct HostList {
    hosts: Vec<HostDto>,
}

/// A machine.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Host)]
pub struct HostDto {
    id: String,
    state: HostState,
    /// `null` for an architecture that is not scheduled for.
    #[schema(value_type = Option<words::Arch>)]
    arch: Option<&'static str>,
    /// Foreign architectures whose programs are emulated here.
    #[schema(value_type = Vec<words::Arch>)]
    emulated: Vec<&'static str>,
    cpus: CpusDto,
    memory: MemoryDto,
    gpus: GpusDto,
    /// Runtimes that its engine knows.
    runtimes: Vec<String>,
}

/// Whether a machine takes work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum HostState {
    /// It does.
    Ready,
    /// It takes no new work.
    Draining,
    /// Its engine does not answer.
    EngineDown,
    /// Its engine has not been asked yet.
    Starting,
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
    Ok(Json(HostList { hosts: vec![HostDto::from(&*state.manager.status())] }))
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
            state: match status.engine {
                EngineState::Unknown => HostState::Starting,
                EngineState::Down { .. } => HostState::EngineDown,
                EngineState::Up { .. } if status.stopping => HostState::Draining,
                EngineState::Up { .. } => HostState::Ready,
            },
            arch: facts.arch.map(Arch::as_str),
            cpus: CpusDto { total: cpus(facts.cpus), free: cpus(CpuMillis(facts.cpus.0.saturating_sub(status.used_cpus.0))) },
            memory: MemoryDto { total_bytes: facts.memory.0, free_bytes: facts.memory.0.saturating_sub(status.used_memory.0) },
            emulated: facts.emulated.iter().map(|arch| arch.as_str()).collect(),
            gpus: GpusDto { total, free, unhealthy, devices, notes },
            runtimes: facts.runtimes.clone(),
        }
    }
}
