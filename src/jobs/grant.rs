//! From what a runner was placed on to what its container is given: the placement names GPUs, the host's facts tell how each is reached.

use crate::docker::EngineInfo;
use crate::docker::devices::{NoNvidiaWay, nvidia_way};
use crate::domain::{Gpu, GpuId, GpuVendor, Reading};
use crate::security::{DeviceGrant, GrantedGpu, GrantedNode};

/// Why placed GPUs cannot be given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum CannotGrant {
    /// It went away after it was placed.
    #[error("the GPU {0} is not on this machine any more")]
    Gone(GpuId),
    /// A container of several vendors' cards has no well-defined numbering, and no request asks for one.
    #[error("the GPUs {0} and {1} are of two vendors")]
    Mixed(GpuId, GpuId),
    /// The engine cannot.
    #[error(transparent)]
    Engine(#[from] NoNvidiaWay),
    /// It is not known how to open it to the container's user.
    #[error("{path} of the GPU {gpu} cannot be given: {why}")]
    Node {
        /// The GPU.
        gpu: GpuId,
        /// Its file on the machine.
        path: String,
        /// What is wrong with it.
        why: String,
    },
}

/// What the container is given for the placed `devices`, in their order.
pub(super) fn grant(gpus: &[Gpu], engine: &EngineInfo, devices: &[GpuId]) -> Result<DeviceGrant, CannotGrant> {
    let found = |id: &GpuId| gpus.iter().find(|gpu| gpu.id == *id).ok_or_else(|| CannotGrant::Gone(id.clone()));
    let placed = devices.iter().map(found).collect::<Result<Vec<&Gpu>, _>>()?;
    let Some(first) = placed.first() else { return Ok(DeviceGrant::None) };
    if let Some(other) = placed.iter().find(|gpu| gpu.vendor != first.vendor) {
        return Err(CannotGrant::Mixed(first.id.clone(), other.id.clone()));
    }
    match first.vendor {
        GpuVendor::Nvidia => Ok(DeviceGrant::Nvidia { way: nvidia_way(engine, devices)?, gpus: devices.to_vec() }),
        GpuVendor::Amd | GpuVendor::Intel => Ok(DeviceGrant::Nodes(placed.into_iter().map(granted).collect::<Result<_, _>>()?)),
    }
}

fn granted(gpu: &Gpu) -> Result<GrantedGpu, CannotGrant> {
    let node = |node: &crate::domain::DeviceNode| {
        let unknown = |why: &str| CannotGrant::Node { gpu: gpu.id.clone(), path: node.host_path.clone(), why: why.to_owned() };
        let group = match &node.group {
            Reading::Known(group) => *group,
            Reading::NotSupported => return Err(unknown("its group is not known")),
            Reading::Unreadable(why) => return Err(unknown(why)),
        };
        Ok(GrantedNode { host_path: node.host_path.clone(), path: node.path.clone(), group })
    };
    Ok(GrantedGpu { gpu: gpu.id.clone(), nodes: gpu.nodes.iter().map(node).collect::<Result<_, _>>()? })
}

#[cfg(test)]
#[path = "grant_tests.rs"]
mod tests;
