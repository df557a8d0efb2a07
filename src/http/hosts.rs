//! `/hosts`: the machines, what they have and what of it is free.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use serde_json::Number;

use super::dto::cpus;
use super::extract::Viewer;
use super::gpus::{GpuDto, Holding, NoteDto};
use super::params::Params;
use super::problem::Problem;
use super::state::AppState;
use crate::domain::{Arch, CpuMillis, Gpu};
use crate::jobs::{EngineState, Status};

/// All machines. One for now.
#[derive(Debug, Serialize)]
pub struct HostList {
    hosts: Vec<HostDto>,
}

/// A machine.
#[derive(Debug, Serialize)]
pub struct HostDto {
    id: String,
    /// `ready`, `draining` (takes no new work), `engine_down`, or `starting` (its engine has not been asked yet).
    state: &'static str,
    /// `null` for an architecture that is not scheduled for.
    arch: Option<&'static str>,
    /// Foreign architectures whose programs are emulated here.
    emulated: Vec<&'static str>,
    cpus: CpusDto,
    memory: MemoryDto,
    gpus: GpusDto,
    /// Runtimes that its engine knows.
    runtimes: Vec<String>,
}

#[derive(Debug, Serialize)]
struct CpusDto {
    total: Number,
    free: Number,
}

#[derive(Debug, Serialize)]
struct MemoryDto {
    total_bytes: u64,
    free_bytes: u64,
}

#[derive(Debug, Serialize)]
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
        let (total, free) = (for_jobs().count(), for_jobs().filter(|state| *state == "free").count());
        let unhealthy = for_jobs().filter(|state| matches!(*state, "unhealthy" | "quarantined" | "lost")).count();
        let notes = facts.notes.iter().map(NoteDto::from).collect();
        Self {
            id: facts.id.to_string(),
            state: match status.engine {
                EngineState::Unknown => "starting",
                EngineState::Down { .. } => "engine_down",
                EngineState::Up { .. } if status.stopping => "draining",
                EngineState::Up { .. } => "ready",
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
