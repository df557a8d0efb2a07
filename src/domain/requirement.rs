//! What a job needs of a machine, and what it was given.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::amount::{CpuMillis, MemoryBytes};
use super::arch::Arch;
use super::fault::FieldFault;
use super::gpu_request::GpuRequest;
use super::ids::{ClassName, GpuId};

/// In which runner a job may start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Start {
    /// In any of its class, one that waits already too.
    #[default]
    Any,
    /// Only in one that is made for it: a runner that waits has another image than the job needs, or the job will be refused.
    Fresh,
}

/// Whether programs for another architecture than the machine's may be run by an emulator.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Emulation {
    /// Only a machine of the architecture will do.
    #[default]
    Deny,
    /// A machine that emulates it will do too; it is several times slower.
    Allow,
}

impl Emulation {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Deny, Self::Allow];

    /// The name in settings, requests and answers.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deny => "deny",
            Self::Allow => "allow",
        }
    }

    /// Reads the name.
    ///
    /// # Errors
    /// Names `field` and the allowed values.
    pub fn parse(field: &str, text: &str) -> Result<Self, FieldFault> {
        Self::ALL.into_iter().find(|one| one.as_str() == text).ok_or_else(|| FieldFault::new(field, "must be deny or allow"))
    }
}

/// Everything that decides where a job can run. Jobs with equal requirements are interchangeable to the scheduler.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Requirement {
    /// The class that the job runs in, because a class may be full by itself.
    pub class: ClassName,
    /// The architecture; `None` runs on any.
    pub arch: Option<Arch>,
    /// Whether the architecture may be emulated; of no meaning without one.
    #[serde(default)]
    pub emulation: Emulation,
    /// Processor time.
    pub cpus: CpuMillis,
    /// Memory.
    pub memory: MemoryBytes,
    /// GPUs, if any.
    pub gpus: Option<GpuRequest>,
    /// The engine's runtime, for example `runc`; `None` is `runc`.
    pub runtime: Option<String>,
    /// Whether a runner that waits already will do.
    #[serde(default)]
    pub start: Start,
}

impl Requirement {
    /// How many GPUs it needs.
    #[must_use]
    pub fn gpu_count(&self) -> u32 {
        self.gpus.as_ref().map_or(0, |gpus| gpus.count)
    }

    /// So much of any machine, in any runner of the class.
    #[must_use]
    pub fn plain(class: ClassName, cpus: CpuMillis, memory: MemoryBytes) -> Self {
        Self { class, arch: None, emulation: Emulation::Deny, cpus, memory, gpus: None, runtime: None, start: Start::Any }
    }

    /// A text that is equal exactly for equal requirements: the store's key for the requirement's id.
    #[must_use]
    pub fn key(&self) -> String {
        let mut key = format!("class={};cpus={};memory={}", self.class, self.cpus.0, self.memory.0);
        if let Some(arch) = self.arch {
            let _ = write!(key, ";arch={arch}");
        }
        match self.emulation {
            Emulation::Deny => {}
            Emulation::Allow => key.push_str(";emulation=allow"),
        }
        if let Some(runtime) = &self.runtime {
            let _ = write!(key, ";runtime={runtime}");
        }
        if let Some(gpus) = &self.gpus {
            let _ = write!(key, ";gpus={}", gpus.key());
        }
        match self.start {
            Start::Any => {}
            Start::Fresh => key.push_str(";start=fresh"),
        }
        key
    }
}

/// What a runner holds of its machine from the claim until its container is gone, and what its container may do there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// Processor time.
    pub cpus: CpuMillis,
    /// Memory.
    pub memory: MemoryBytes,
    /// The GPUs by id, in the order in which the container sees them.
    pub devices: Vec<GpuId>,
    /// How much of the memory of the only GPU is its share; `None` when its GPUs are its alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<MemoryBytes>,
    /// What its class opened beyond the default when its container was made, in the words of `check`; empty for nothing. `None` before there is a
    /// container, and where an earlier version made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opened: Option<Vec<String>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_placement_of_an_earlier_version_does_not_know_what_was_opened() {
        let read = |text: &str| serde_json::from_str::<Placement>(text).expect("readable");
        let old = r#"{"cpus":1000,"memory":1,"devices":[]}"#;
        assert_eq!(read(old).opened, None);
        assert_eq!(serde_json::to_string(&read(old)).expect("text"), old);
        let none = Placement { opened: Some(Vec::new()), ..read(old) };
        assert_eq!(read(&serde_json::to_string(&none).expect("text")), none, "nothing is not the same as not known");
    }
}
