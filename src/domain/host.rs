//! What a machine is made of, and whether it is to get empty.

use std::fmt;

use jiff::Timestamp;
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

/// Why a machine is to get empty: what runs on it ends, and nothing new begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    /// Since when.
    pub since: Timestamp,
    /// The name of the token with which it was last asked for; `None` where no tokens are configured, and through the Unix socket.
    pub by: Option<String>,
    /// Why, for people.
    pub reason: Option<String>,
}

impl Drain {
    /// A machine's drain after it was asked for at `now`, by and for what is told. Asking again moves no start; only another reason takes
    /// the place of the one before.
    #[must_use]
    pub fn asked(before: Option<Self>, by: Option<String>, reason: Option<String>, now: Timestamp) -> Self {
        match (before, reason) {
            (Some(before), None) => before,
            (before, reason) => Self { since: before.map_or(now, |before| before.since), by, reason },
        }
    }
}

impl fmt::Display for Drain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "it was drained at {}", self.since)?;
        self.by.iter().try_for_each(|by| write!(f, " by {by}"))?;
        self.reason.iter().try_for_each(|reason| write!(f, " ({reason})"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_795_000_000 + second).expect("a time")
    }

    #[test]
    fn asking_again_moves_no_start_and_forgets_no_reason() {
        let ops = || Some("ops".to_owned());
        let first = Drain::asked(None, ops(), Some("new kernel".to_owned()), at(0));
        assert_eq!(first, Drain { since: at(0), by: ops(), reason: Some("new kernel".to_owned()) });
        assert_eq!(Drain::asked(Some(first.clone()), None, None, at(9)), first);
        let other = Drain::asked(Some(first), None, Some("new disk".to_owned()), at(9));
        assert_eq!(other, Drain { since: at(0), by: None, reason: Some("new disk".to_owned()) });
    }

    #[test]
    fn it_says_when_by_whom_and_why() {
        let drain = Drain { since: at(0), by: None, reason: None };
        assert_eq!(drain.to_string(), "it was drained at 2026-11-18T11:06:40Z");
        let drain = Drain { by: Some("ops".to_owned()), reason: Some("new kernel".to_owned()), ..drain };
        assert_eq!(drain.to_string(), "it was drained at 2026-11-18T11:06:40Z by ops (new kernel)");
    }
}
