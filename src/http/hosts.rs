//! `/hosts`: the machines, what they have and what of it is free.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use serde_json::Number;

use super::dto::cpus;
use super::extract::Viewer;
use super::params::Params;
use super::problem::Problem;
use super::state::AppState;
use crate::domain::{Arch, CpuMillis, Gpu, GpuHealth, GpuId};
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
    total: usize,
    /// Healthy and held by no runner.
    free: usize,
    unhealthy: usize,
    devices: Vec<GpuDto>,
}

#[derive(Debug, Serialize)]
struct GpuDto {
    id: String,
    vendor: &'static str,
    model: Option<String>,
    memory_bytes: Option<u64>,
    mig_profile: Option<String>,
    /// `free`, `in_use` or `unhealthy`.
    state: &'static str,
    /// Why it is unhealthy.
    reason: Option<String>,
}

/// `GET /hosts`.
pub(super) async fn list(_viewer: Viewer, State(state): State<AppState>, params: Params) -> Result<Json<HostList>, Problem> {
    params.finish()?;
    Ok(Json(HostList { hosts: vec![HostDto::from(&*state.manager.status())] }))
}

impl From<&Status> for HostDto {
    fn from(status: &Status) -> Self {
        let facts = &status.facts;
        let devices: Vec<GpuDto> = facts.gpus.iter().map(|gpu| gpu_dto(gpu, &status.devices_in_use)).collect();
        let count = |state: &str| devices.iter().filter(|gpu| gpu.state == state).count();
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
            gpus: GpusDto { total: devices.len(), free: count("free"), unhealthy: count("unhealthy"), devices },
            runtimes: facts.runtimes.clone(),
        }
    }
}

fn gpu_dto(gpu: &Gpu, in_use: &[GpuId]) -> GpuDto {
    let (state, reason) = match &gpu.health {
        GpuHealth::Unhealthy(reason) => ("unhealthy", Some(reason.clone())),
        GpuHealth::Healthy if in_use.contains(&gpu.id) => ("in_use", None),
        GpuHealth::Healthy => ("free", None),
    };
    GpuDto {
        id: gpu.id.to_string(),
        vendor: gpu.vendor.as_str(),
        model: gpu.model.clone(),
        memory_bytes: gpu.memory.map(|memory| memory.0),
        mig_profile: gpu.mig_profile.clone(),
        state,
        reason,
    }
}
