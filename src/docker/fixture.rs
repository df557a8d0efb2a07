//! An engine for tests.

use super::EngineInfo;
use crate::domain::MemoryBytes;

/// What an engine of version 28 tells that knows no runtimes, no devices by name, and says nothing of its network.
pub(crate) fn engine() -> EngineInfo {
    EngineInfo {
        id: "e".to_owned(),
        version: "28.5.2".to_owned(),
        api: "1.51".to_owned(),
        machine: "x86_64".to_owned(),
        arch: None,
        cpus: 2,
        memory: MemoryBytes(1 << 30),
        runtimes: Vec::new(),
        cgroup_version: None,
        security_options: vec!["name=seccomp,profile=default".to_owned()],
        cdi_devices: Vec::new(),
        unsupported: Vec::new(),
        forwards: None,
        warnings: Vec::new(),
        time: None,
        data_root: None,
    }
}
