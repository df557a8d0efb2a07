//! What a machine is made of.

use serde::{Deserialize, Serialize};

use super::amount::{CpuMillis, MemoryBytes};
use super::arch::{Arch, GpuVendor};
use super::ids::{GpuId, HostId};

/// Whether a GPU may be given to a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GpuHealth {
    /// It may.
    Healthy,
    /// It may not, for the reason given.
    Unhealthy(String),
}

/// One GPU that jobs can be given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gpu {
    /// The vendor's stable id.
    pub id: GpuId,
    /// The vendor.
    pub vendor: GpuVendor,
    /// The model's name, where the driver tells.
    pub model: Option<String>,
    /// Its memory, where the driver tells.
    pub memory: Option<MemoryBytes>,
    /// The MIG profile, when it is an instance of a divided card.
    pub mig_profile: Option<String>,
    /// Whether it may be given to a job.
    pub health: GpuHealth,
}

/// What is known of a machine. Before its engine answered for the first time, what the kernel tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFacts {
    /// The machine.
    pub id: HostId,
    /// Its native architecture, as the engine reports it; `None` for one that we do not schedule for.
    pub arch: Option<Arch>,
    /// Processor time that jobs may use together.
    pub cpus: CpuMillis,
    /// Memory that jobs may use together.
    pub memory: MemoryBytes,
    /// Its GPUs.
    pub gpus: Vec<Gpu>,
    /// Runtimes that its engine knows; empty until the engine answered.
    pub runtimes: Vec<String>,
}
