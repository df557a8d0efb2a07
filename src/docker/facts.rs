//! What an engine tells.

use std::net::IpAddr;

use bytes::Bytes;
use ipnet::IpNet;
use jiff::Timestamp;

use super::devices::GivenDevices;
use super::plan::Owner;
use crate::domain::{Arch, ClassName, GpuId, MemoryBytes, RunnerId};
use crate::security::CallFilter;

/// What an engine is and can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineInfo {
    /// Its id, which stays over restarts.
    pub id: String,
    /// Its version, for people.
    pub version: String,
    /// The version of its interface that we speak with it.
    pub api: String,
    /// Its architecture in its own words, for example `x86_64`.
    pub machine: String,
    /// The same, when we schedule for it.
    pub arch: Option<Arch>,
    /// Processors.
    pub cpus: u32,
    /// Memory.
    pub memory: MemoryBytes,
    /// Names of the runtimes it knows, sorted.
    pub runtimes: Vec<String>,
    /// Version of the control groups, `1` or `2`.
    pub cgroup_version: Option<String>,
    /// What it offers for hardening, for example `name=seccomp,profile=default`.
    pub security_options: Vec<String>,
    /// Devices that it can give to containers by name (CDI), for example `nvidia.com/gpu=0`. Engines before 28 list none.
    pub cdi_devices: Vec<String>,
    /// What of a container it cannot limit, in words: `memory`, `swap`, `processes`, `processor time`.
    pub unsupported: Vec<&'static str>,
    /// Whether its machine forwards packets; `None` where it does not say so.
    pub forwards: Option<bool>,
    /// What it warns of by itself, in its words.
    pub warnings: Vec<String>,
    /// The time on its clock.
    pub time: Option<Timestamp>,
    /// Where on its machine it keeps images and containers.
    pub data_root: Option<String>,
}

impl EngineInfo {
    /// Who filters containers' system calls: we, unless it cannot, and refuses to be told how.
    #[must_use]
    pub fn call_filter(&self) -> CallFilter {
        let filters = self.security_options.iter().any(|option| option.contains("seccomp"));
        if filters { CallFilter::Ours } else { CallFilter::EngineHasNone }
    }
}

/// What became of an image that was to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageRemoval {
    /// It is gone, or was.
    Gone,
    /// The engine keeps it: a container or another image needs it.
    InUse,
}

/// A bridge of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkInfo {
    /// Its name.
    pub name: String,
    /// The engine's id of it: what containers are attached by, because names can be doubled.
    pub id: String,
    /// The machine's address on it.
    pub gateway: IpAddr,
    /// The addresses of its containers, and the machine's.
    pub subnets: Vec<IpNet>,
    /// The machine's interface.
    pub bridge: String,
    /// Whose containers are on it; `None` for the one whose address is the broker's.
    pub class: Option<ClassName>,
}

/// The state that an engine reports for a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContainerState {
    /// Made, never started.
    Created,
    /// It runs.
    Running {
        /// Its first process on the machine; only `inspect` tells.
        pid: Option<u32>,
    },
    /// It is frozen.
    Paused,
    /// It is between two runs.
    Restarting,
    /// It is being removed.
    Removing,
    /// It has ended.
    Exited,
    /// It has ended and could not be removed whole.
    Dead,
    /// A state that we do not know, in the engine's words.
    Unknown(String),
}

impl ContainerState {
    /// Whether its processes exist.
    #[must_use]
    pub fn is_up(&self) -> bool {
        match self {
            Self::Running { .. } | Self::Paused | Self::Restarting => true,
            Self::Created | Self::Removing | Self::Exited | Self::Dead | Self::Unknown(_) => false,
        }
    }
}

/// What an engine knows of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerFacts {
    /// The engine's id of it.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Whose it is; `None` when its labels do not say it in full.
    pub owner: Option<Owner>,
    /// The GPUs that its label says it holds.
    pub devices: Vec<GpuId>,
    /// The devices that it was really made with; only `inspect` tells.
    pub given: Option<GivenDevices>,
    /// Its state.
    pub state: ContainerState,
    /// Exit code, once it has ended; only `inspect` tells.
    pub exit_code: Option<i64>,
    /// Whether the kernel killed any of its processes for want of memory; only `inspect` tells.
    pub oom_killed: Option<bool>,
    /// The engine's words about what went wrong; empty when nothing did.
    pub error: String,
    /// When it was started; `None` when it never was, and from `list`.
    pub started_at: Option<Timestamp>,
    /// When it ended; `None` when it has not, and from `list`.
    pub finished_at: Option<Timestamp>,
}

/// What a container uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Processor time since its start, in nanoseconds.
    pub cpu_nanos: u64,
    /// Memory without file cache that could be dropped at once.
    pub memory: MemoryBytes,
    /// Processes and threads.
    pub pids: u64,
}

/// Which of a container's two outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LogStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// One piece of output: a line, or 16 KiB of a longer one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRecord {
    /// When the engine read it: nanoseconds of Unix time.
    pub ts_ns: u64,
    /// Which output.
    pub stream: LogStream,
    /// The bytes as written, the newline too.
    pub bytes: Bytes,
}

/// Something happened to a container of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineEvent {
    /// The engine's id of it.
    pub container: String,
    /// What, for example `die`.
    pub action: String,
    /// Its runner, where the label tells.
    pub runner: Option<RunnerId>,
}
