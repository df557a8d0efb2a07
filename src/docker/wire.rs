//! What engines send, read leniently: the client crate's own types fail on a state, a driver or a kind of cgroup that they do not
//! know, and then a single such container would hide all others. Fields that we do not use are not read.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use super::create_body::must_be_forced;
use super::devices::WireDevices;
use super::facts::{ContainerFacts, ContainerState, EngineInfo, NetworkInfo, Usage};
use super::labels;
use super::plan::ResolvedImage;
use crate::domain::{Arch, ClassName, ImageRef, MemoryBytes};

/// `GET /version`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Version {
    pub(super) api_version: String,
}

/// `GET /info`.
#[derive(Debug, Deserialize)]
pub(super) struct Info {
    #[serde(rename = "ID", default)]
    id: String,
    #[serde(rename = "ServerVersion", default)]
    version: String,
    #[serde(rename = "Architecture", default)]
    machine: String,
    #[serde(rename = "NCPU", default)]
    cpus: u32,
    #[serde(rename = "MemTotal", default)]
    memory: u64,
    #[serde(rename = "Runtimes")]
    runtimes: Option<BTreeMap<String, Value>>,
    #[serde(rename = "CgroupVersion")]
    cgroup_version: Option<String>,
    #[serde(rename = "SecurityOptions")]
    security_options: Option<Vec<String>>,
    #[serde(rename = "DiscoveredDevices")]
    devices: Option<Vec<Device>>,
    #[serde(rename = "MemoryLimit")]
    memory_limit: Option<bool>,
    #[serde(rename = "SwapLimit")]
    swap_limit: Option<bool>,
    #[serde(rename = "PidsLimit")]
    pids_limit: Option<bool>,
    #[serde(rename = "CpuCfsQuota")]
    cpu_quota: Option<bool>,
    #[serde(rename = "IPv4Forwarding")]
    forwards: Option<bool>,
    #[serde(rename = "Warnings")]
    warnings: Option<Vec<String>>,
    #[serde(rename = "SystemTime")]
    time: Option<String>,
    #[serde(rename = "DockerRootDir")]
    data_root: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Device {
    #[serde(rename = "Source", default)]
    source: String,
    #[serde(rename = "ID", default)]
    id: String,
}

impl Info {
    pub(super) fn into_info(self, api: String) -> EngineInfo {
        let devices = self.devices.unwrap_or_default().into_iter();
        let limits = [("memory", self.memory_limit), ("swap", self.swap_limit), ("processes", self.pids_limit), ("processor time", self.cpu_quota)];
        EngineInfo {
            id: self.id,
            version: self.version,
            api,
            arch: Arch::from_machine(&self.machine),
            machine: self.machine,
            cpus: self.cpus,
            memory: MemoryBytes(self.memory),
            runtimes: self.runtimes.unwrap_or_default().into_keys().collect(),
            cgroup_version: self.cgroup_version,
            security_options: self.security_options.unwrap_or_default(),
            cdi_devices: devices.filter(|device| device.source == "cdi").map(|device| device.id).collect(),
            unsupported: limits.into_iter().filter(|(_, can)| *can == Some(false)).map(|(name, _)| name).collect(),
            forwards: self.forwards,
            warnings: self.warnings.unwrap_or_default(),
            time: time(self.time.as_deref()),
            data_root: self.data_root.filter(|root| !root.is_empty()),
        }
    }
}

/// The same row, for the image that the container is made of.
#[derive(Debug, Deserialize)]
pub(super) struct ImageOfContainer {
    #[serde(rename = "ImageID")]
    pub(super) image_id: String,
}

/// One row of `GET /containers/json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ListedContainer {
    id: String,
    names: Option<Vec<String>>,
    labels: Option<HashMap<String, String>>,
    #[serde(default)]
    state: String,
}

impl ListedContainer {
    pub(super) fn into_facts(self) -> ContainerFacts {
        let labels = self.labels.unwrap_or_default();
        let name = self.names.and_then(|names| names.into_iter().next()).unwrap_or_default();
        ContainerFacts {
            id: self.id,
            name: name.trim_start_matches('/').to_owned(),
            owner: labels::owner(&labels),
            devices: labels::devices(&labels),
            given: None,
            state: state(self.state, None),
            exit_code: None,
            oom_killed: None,
            error: String::new(),
            started_at: None,
            finished_at: None,
        }
    }
}

/// `GET /containers/{id}/json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct InspectedContainer {
    id: String,
    #[serde(default)]
    name: String,
    state: InspectedState,
    config: Option<InspectedConfig>,
    host_config: Option<WireDevices>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InspectedState {
    #[serde(default)]
    status: String,
    #[serde(default)]
    pid: u32,
    #[serde(rename = "OOMKilled")]
    oom_killed: Option<bool>,
    exit_code: Option<i64>,
    #[serde(default)]
    error: String,
    started_at: Option<String>,
    finished_at: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InspectedConfig {
    labels: Option<HashMap<String, String>>,
}

impl InspectedContainer {
    pub(super) fn into_facts(self) -> ContainerFacts {
        let labels = self.config.and_then(|config| config.labels).unwrap_or_default();
        let state = state(self.state.status, Some(self.state.pid).filter(|pid| *pid > 0));
        let ended = matches!(state, ContainerState::Exited | ContainerState::Dead);
        let failed = self.state.exit_code.is_some_and(|code| code != 0);
        ContainerFacts {
            id: self.id,
            name: self.name.trim_start_matches('/').to_owned(),
            owner: labels::owner(&labels),
            devices: labels::devices(&labels),
            given: self.host_config.map(WireDevices::into_given),
            state,
            exit_code: self.state.exit_code.filter(|_| ended || failed),
            oom_killed: self.state.oom_killed,
            error: self.state.error,
            started_at: time(self.state.started_at.as_deref()),
            finished_at: time(self.state.finished_at.as_deref()),
        }
    }
}

fn state(status: String, pid: Option<u32>) -> ContainerState {
    match status.as_str() {
        "created" => ContainerState::Created,
        "running" => ContainerState::Running { pid },
        "paused" => ContainerState::Paused,
        "restarting" => ContainerState::Restarting,
        "removing" => ContainerState::Removing,
        "exited" => ContainerState::Exited,
        "dead" => ContainerState::Dead,
        _ => ContainerState::Unknown(status),
    }
}

/// The engine writes the year 1 for a time that has not come.
fn time(text: Option<&str>) -> Option<Timestamp> {
    text?.parse().ok().filter(|time| *time > Timestamp::UNIX_EPOCH)
}

/// `GET /images/{name}/json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Image {
    id: String,
    repo_digests: Option<Vec<String>>,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
    config: Option<ImageConfig>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ImageConfig {
    user: Option<String>,
    env: Option<Vec<String>>,
    volumes: Option<BTreeMap<String, Value>>,
}

impl Image {
    pub(super) fn into_resolved(self, reference: &ImageRef) -> ResolvedImage {
        let config = self.config.unwrap_or_default();
        let name = |entry: &String| entry.split_once('=').map_or(entry.as_str(), |(name, _)| name).to_owned();
        let mut forced_env: Vec<String> = config.env.unwrap_or_default().iter().map(name).filter(|name| must_be_forced(name)).collect();
        forced_env.sort();
        forced_env.dedup();
        ResolvedImage {
            reference: reference.clone(),
            id: self.id,
            digest: self.repo_digests.into_iter().flatten().find(|digest| ImageRef::from_trusted(digest).repository() == reference.repository()),
            arch: (self.os == "linux").then(|| Arch::from_machine(&self.architecture)).flatten(),
            volumes: config.volumes.unwrap_or_default().into_keys().collect(),
            forced_env,
            user: config.user.filter(|user| !user.is_empty()),
        }
    }
}

/// Of `GET /containers/{id}/json`, what the container was made of.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct MadeOf {
    /// The image's id.
    pub(super) image: String,
    config: Option<InspectedConfig>,
}

impl MadeOf {
    /// Takes its labels.
    pub(super) fn take_labels(&mut self) -> HashMap<String, String> {
        self.config.take().and_then(|config| config.labels).unwrap_or_default()
    }
}

/// One row of `GET /networks`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Network {
    pub(super) name: String,
    pub(super) id: String,
    #[serde(default)]
    pub(super) created: String,
    pub(super) labels: Option<HashMap<String, String>>,
    options: Option<HashMap<String, String>>,
    #[serde(rename = "IPAM")]
    ipam: Option<Ipam>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Ipam {
    config: Option<Vec<IpamConfig>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct IpamConfig {
    #[serde(default)]
    gateway: String,
    #[serde(default)]
    subnet: String,
}

impl Network {
    /// `None` without a gateway that is an address. Some engines write its prefix length behind it.
    pub(super) fn into_info(self) -> Option<NetworkInfo> {
        let configs = self.ipam.and_then(|ipam| ipam.config).unwrap_or_default();
        let address = |config: &IpamConfig| config.gateway.split('/').next().and_then(|text| text.parse::<IpAddr>().ok());
        let gateway = configs.iter().find_map(address)?;
        let subnets = configs.iter().map(|config| config.subnet.parse().ok()).collect::<Option<_>>()?;
        // As the engine names it when nobody else does.
        let plain = || format!("br-{}", self.id.get(..12).unwrap_or(&self.id));
        let bridge = self.options.unwrap_or_default().remove("com.docker.network.bridge.name").unwrap_or_else(plain);
        let class = self.labels.unwrap_or_default().remove(labels::CLASS).map(ClassName::from_trusted);
        Some(NetworkInfo { name: self.name, id: self.id, gateway, subnets, bridge, class })
    }
}

/// `GET /containers/{id}/stats`.
#[derive(Debug, Deserialize)]
pub(super) struct Stats {
    #[serde(rename = "cpu_stats", default)]
    cpu: CpuStats,
    #[serde(rename = "memory_stats", default)]
    memory: MemoryStats,
    #[serde(rename = "pids_stats", default)]
    processes: PidsStats,
}

#[derive(Debug, Default, Deserialize)]
struct CpuStats {
    #[serde(default)]
    cpu_usage: CpuUsage,
}

#[derive(Debug, Default, Deserialize)]
struct CpuUsage {
    #[serde(default)]
    total_usage: u64,
}

#[derive(Debug, Default, Deserialize)]
struct MemoryStats {
    usage: Option<u64>,
    #[serde(default)]
    stats: HashMap<String, u64>,
}

#[derive(Debug, Default, Deserialize)]
struct PidsStats {
    #[serde(default)]
    current: u64,
}

impl Stats {
    /// A container that does not run has no memory at all in the answer.
    pub(super) fn into_usage(self) -> Option<Usage> {
        let used = self.memory.usage?;
        let cache = ["total_inactive_file", "inactive_file"].iter().find_map(|name| self.memory.stats.get(*name)).copied().unwrap_or(0);
        Some(Usage { cpu_nanos: self.cpu.cpu_usage.total_usage, memory: MemoryBytes(used.saturating_sub(cache)), pids: self.processes.current })
    }
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
