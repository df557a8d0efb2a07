//! What a machine is made of.

use serde::{Deserialize, Serialize};

use super::amount::{CpuMillis, MemoryBytes};
use super::arch::Arch;
use super::gpu::{DeviceNote, Gpu};
use super::ids::HostId;

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
    /// Foreign architectures whose programs its kernel hands to an emulator, in containers too. Its own comes first, always.
    pub emulated: Vec<Arch>,
    /// Its GPUs, those that jobs are not given among them.
    pub gpus: Vec<Gpu>,
    /// What else there is to say about its devices.
    pub notes: Vec<DeviceNote>,
    /// Runtimes that its engine knows; empty until the engine answered.
    pub runtimes: Vec<String>,
}
