//! Devices on their way into a container and back: what of the create body a grant becomes, which way an engine offers for NVIDIA's
//! cards, and what a container that runs was really given.
//!
//! A variable alone never gives a device: it only keeps an image from asking for more, and tells tools the same as the engine does.

use std::collections::BTreeSet;

use bollard::models::{DeviceMapping, DeviceRequest};
use serde::Deserialize;

use super::facts::{ContainerFacts, EngineInfo};
use crate::domain::{Gpu, GpuId, GpuVendor};
use crate::security::{DeviceGrant, GrantedNode, NvidiaWay};

/// The engine's name of NVIDIA's runtime, which the toolkit's set-up registers.
const NVIDIA_RUNTIME: &str = "nvidia";
/// How the names of NVIDIA's cards begin where the engine knows devices by name.
const CDI_NVIDIA: &str = "nvidia.com/gpu=";
/// Computing, and the tools that look at the card. Not graphics, video or display: each brings libraries and files of its own.
const CAPABILITIES: [&str; 3] = ["gpu", "compute", "utility"];
/// What a job may do with a card and not make or replace files below `/dev`.
const PERMISSIONS: &str = "rw";
/// Variables that choose among the GPUs that a program sees. An image's own value would count the cards of the machine where it was made.
const CHOOSERS: [&str; 5] = ["CUDA_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "ZE_AFFINITY_MASK"];

/// The part of a create body that opens something.
#[derive(Debug, Default)]
pub(super) struct Openings {
    /// Asked of the engine's drivers.
    pub(super) requests: Option<Vec<DeviceRequest>>,
    /// Files below `/dev`.
    pub(super) nodes: Option<Vec<DeviceMapping>>,
    /// Groups that the user joins, by number.
    pub(super) groups: Option<Vec<String>>,
}

/// What a grant becomes. Without one nothing is sent at all: engines 20.10 to 26 read an empty request as "what the image says".
pub(super) fn openings(grant: &DeviceGrant) -> Openings {
    match grant {
        DeviceGrant::None => Openings::default(),
        DeviceGrant::Nvidia { way, gpus } => Openings { requests: Some(vec![request(*way, gpus)]), ..Openings::default() },
        DeviceGrant::Nodes(gpus) => {
            // Cards share `/dev/kfd`, and mostly the group.
            let mut nodes: Vec<&GrantedNode> = Vec::new();
            for node in gpus.iter().flat_map(|gpu| &gpu.nodes) {
                if !nodes.iter().any(|known| known.path == node.path) {
                    nodes.push(node);
                }
            }
            let groups: BTreeSet<u32> = nodes.iter().map(|node| node.group).collect();
            Openings {
                requests: None,
                nodes: Some(nodes.into_iter().map(mapping).collect()),
                groups: Some(groups.iter().map(u32::to_string).collect()),
            }
        }
    }
}

fn mapping(node: &GrantedNode) -> DeviceMapping {
    DeviceMapping {
        path_on_host: Some(node.host_path.clone()),
        path_in_container: Some(node.path.clone()),
        cgroup_permissions: Some(PERMISSIONS.to_owned()),
    }
}

fn request(way: NvidiaWay, gpus: &[GpuId]) -> DeviceRequest {
    match way {
        NvidiaWay::DeviceRequest => DeviceRequest {
            driver: Some(NVIDIA_RUNTIME.to_owned()),
            device_ids: Some(gpus.iter().map(ToString::to_string).collect()),
            capabilities: Some(vec![CAPABILITIES.map(str::to_owned).to_vec()]),
            ..DeviceRequest::default()
        },
        NvidiaWay::Cdi => DeviceRequest {
            driver: Some("cdi".to_owned()),
            device_ids: Some(gpus.iter().map(|gpu| format!("{CDI_NVIDIA}{gpu}")).collect()),
            ..DeviceRequest::default()
        },
    }
}

/// The variables that are set whatever the image says, so that nothing of NVIDIA's adds a card by itself.
pub(super) fn forced_env(grant: &DeviceGrant) -> Vec<(&'static str, String)> {
    let visible = match grant {
        // The same as the engine writes behind it: a program reads the first, the hook the last.
        DeviceGrant::Nvidia { way: NvidiaWay::DeviceRequest, gpus } => gpus.iter().map(GpuId::as_str).collect::<Vec<_>>().join(","),
        // The engine gives the cards itself; a runtime or hook of NVIDIA's must not give any again.
        DeviceGrant::Nvidia { way: NvidiaWay::Cdi, .. } | DeviceGrant::Nodes(_) | DeviceGrant::None => "void".to_owned(),
    };
    let mut env = vec![("NVIDIA_VISIBLE_DEVICES", visible)];
    if let DeviceGrant::Nvidia { .. } = grant {
        env.push(("NVIDIA_DRIVER_CAPABILITIES", CAPABILITIES[1..].join(",")));
        // The image's conditions on the driver are blanked with its other `NVIDIA_*`; an empty condition is none that can be read.
        env.push(("NVIDIA_DISABLE_REQUIRE", "true".to_owned()));
        // CUDA counts the cards as NVIDIA's tools do.
        env.push(("CUDA_DEVICE_ORDER", "PCI_BUS_ID".to_owned()));
    }
    env
}

/// What a variable that an image must not set becomes where it sets it: empty, but for the choosers, for which that means no GPU at all.
pub(super) fn value_instead(grant: &DeviceGrant, name: &str) -> String {
    let count = if CHOOSERS.contains(&name) { grant.gpus().len() } else { 0 };
    (0..count).map(|number| number.to_string()).collect::<Vec<_>>().join(",")
}

/// Why an engine cannot give a container NVIDIA's cards.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "this engine cannot give NVIDIA GPUs: it has no runtime called nvidia and does not know {gpu} as a CDI device. Install NVIDIA's container \
     toolkit, run `nvidia-ctk runtime configure --runtime=docker`, and restart the engine"
)]
pub struct NoNvidiaWay {
    /// The GPU that was to be given.
    pub gpu: GpuId,
}

/// How an engine gives these cards: by name where it knows every one of them (engines from 28 on tell), else through NVIDIA's hook.
///
/// # Errors
/// When it offers neither.
pub fn nvidia_way(engine: &EngineInfo, gpus: &[GpuId]) -> Result<NvidiaWay, NoNvidiaWay> {
    let unknown = gpus.iter().find(|gpu| !engine.cdi_devices.contains(&format!("{CDI_NVIDIA}{gpu}")));
    match unknown {
        None => Ok(NvidiaWay::Cdi),
        Some(_) if engine.runtimes.iter().any(|runtime| runtime == NVIDIA_RUNTIME) => Ok(NvidiaWay::DeviceRequest),
        Some(gpu) => Err(NoNvidiaWay { gpu: gpu.clone() }),
    }
}

/// The devices that a container was made with, as the engine tells them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GivenDevices {
    /// NVIDIA cards by name.
    pub nvidia: BTreeSet<GpuId>,
    /// Requests that name no card: any of NVIDIA's may be in there.
    pub unnamed: Vec<String>,
    /// Files and directories of the machine, by their paths on it.
    pub host_paths: BTreeSet<String>,
}

/// The devices in `HostConfig` of `GET /containers/{id}/json`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct WireDevices {
    devices: Option<Vec<WireNode>>,
    device_requests: Option<Vec<WireRequest>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct WireNode {
    #[serde(default)]
    path_on_host: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct WireRequest {
    #[serde(default)]
    driver: String,
    #[serde(default)]
    count: i64,
    #[serde(rename = "DeviceIDs")]
    device_ids: Option<Vec<String>>,
}

impl WireDevices {
    pub(super) fn into_given(self) -> GivenDevices {
        let mut given = GivenDevices {
            host_paths: self.devices.unwrap_or_default().into_iter().map(|node| node.path_on_host).collect(),
            ..GivenDevices::default()
        };
        for request in self.device_requests.unwrap_or_default() {
            let ids = request.device_ids.unwrap_or_default();
            if ids.is_empty() {
                given.unnamed.push(format!("{} of driver {:?}", request.count, request.driver));
            }
            for id in ids {
                if let Some(gpu) = named(&id) {
                    given.nvidia.insert(gpu);
                } else {
                    given.unnamed.push(format!("{id:?} of driver {:?}", request.driver));
                }
            }
        }
        given
    }
}

/// A card by its UUID, with or without the kind before it. Numbers and `all` name none.
fn named(id: &str) -> Option<GpuId> {
    let uuid = id.strip_prefix(CDI_NVIDIA).unwrap_or(id);
    (uuid.starts_with("GPU-") || uuid.starts_with("MIG-")).then(|| GpuId::from_trusted(uuid))
}

/// Which GPUs a container of ours holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OwnedDevices {
    /// Those on its label, and its devices are the same, as far as the engine was asked: `list` tells only the label.
    Agreed(BTreeSet<GpuId>),
    /// Its label and its devices differ. It holds what either names.
    Differ {
        /// What the label names.
        label: BTreeSet<GpuId>,
        /// What it was really given.
        given: BTreeSet<GpuId>,
        /// Devices that are no GPU of this machine, in words.
        strange: Vec<String>,
    },
}

impl OwnedDevices {
    /// Every GPU that must not be given to anybody else.
    #[must_use]
    pub fn held(&self) -> BTreeSet<GpuId> {
        match self {
            Self::Agreed(gpus) => gpus.clone(),
            Self::Differ { label, given, .. } => label | given,
        }
    }
}

/// Which GPUs a container holds, from its label and from what it was really made with. `gpus` are those of the machine, lost ones too: they
/// tell whose a file below `/dev` is.
#[must_use]
pub fn owned_devices(facts: &ContainerFacts, gpus: &[Gpu]) -> OwnedDevices {
    let label: BTreeSet<GpuId> = facts.devices.iter().cloned().collect();
    let Some(devices) = &facts.given else { return OwnedDevices::Agreed(label) };
    let mut given = devices.nvidia.clone();
    let mut strange = devices.unnamed.clone();
    if !devices.unnamed.is_empty() {
        given.extend(gpus.iter().filter(|gpu| gpu.vendor == GpuVendor::Nvidia).map(|gpu| gpu.id.clone()));
    }
    for path in &devices.host_paths {
        let owners = owners_of(path, gpus);
        if owners.is_empty() && !is_shared(path, gpus) {
            strange.push(path.clone());
        }
        given.extend(owners);
    }
    if label == given && strange.is_empty() { OwnedDevices::Agreed(label) } else { OwnedDevices::Differ { label, given, strange } }
}

/// The cards of which this is the own file, or a directory above it.
fn owners_of(path: &str, gpus: &[Gpu]) -> Vec<GpuId> {
    let below = |node: &str| node.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || path.ends_with('/'));
    let has = |gpu: &&Gpu| gpu.nodes.iter().any(|node| below(&node.host_path) && !is_shared(&node.host_path, gpus));
    gpus.iter().filter(has).map(|gpu| gpu.id.clone()).collect()
}

/// Whether this is a file of several cards at once, as AMD's `/dev/kfd` is, so that it tells nothing about a single one.
fn is_shared(path: &str, gpus: &[Gpu]) -> bool {
    let nodes = || gpus.iter().flat_map(|gpu| &gpu.nodes).filter(|node| node.host_path == path);
    nodes().count() > 0 && nodes().all(|node| node.path == "/dev/kfd")
}

#[cfg(test)]
#[path = "devices_tests.rs"]
mod tests;
