//! Whether a GPU is as it was before its job, and what is remembered of one that is not.
//!
//! A reading that is not known decides nothing: neither that a GPU is bad, nor, once it was found bad, that it is good again.

use std::collections::BTreeSet;
use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::amount::MemoryBytes;
use super::gpu::{GpuVitals, Reading};
use super::ids::GpuId;

/// Memory in use that may be more than before the job: drivers keep some for themselves from the first use on.
pub const TOLERANCE: MemoryBytes = MemoryBytes(256 << 20);
/// Most processes that a reason names.
const MOST_NAMED: usize = 8;

/// How a GPU was when nobody used it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Baseline {
    /// Memory in use; `None` where it was never read.
    pub memory_used: Option<MemoryBytes>,
    /// Memory errors that could not be corrected; `None` where they were never read.
    pub uncorrected_errors: Option<u64>,
    /// Processes that were on it although nobody of ours used it.
    pub processes: BTreeSet<u32>,
}

/// What a GPU looks like after its job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// As before, as far as it can be told.
    Clean,
    /// Not as before, for the reasons given.
    Dirty(String),
    /// Something that its driver should tell could not be read, as told; the rest is as before.
    Unreadable(String),
}

impl Baseline {
    /// Takes over what is known of a GPU that nobody uses; what is not known stays as it was known before.
    pub fn learn(&mut self, idle: &GpuVitals) {
        self.memory_used = idle.memory_used.known().copied().or(self.memory_used);
        self.uncorrected_errors = idle.uncorrected_errors.known().copied().or(self.uncorrected_errors);
        if let Some(processes) = idle.processes.known() {
            self.processes = processes.iter().map(|process| process.pid).collect();
        }
    }

    /// Compares a GPU after its job with how it was before.
    #[must_use]
    pub fn judge(&self, now: &GpuVitals) -> Verdict {
        let found: Vec<String> = [self.left(now), self.memory(now), self.errors(now)].into_iter().flatten().collect();
        let faults = [now.processes.fault(), now.memory_used.fault(), now.uncorrected_errors.fault()];
        match faults.into_iter().flatten().next() {
            _ if !found.is_empty() => Verdict::Dirty(found.join("; ")),
            Some(fault) => Verdict::Unreadable(fault.to_owned()),
            None => Verdict::Clean,
        }
    }

    fn left(&self, now: &GpuVitals) -> Option<String> {
        let left: Vec<u32> = now.processes.known()?.iter().map(|process| process.pid).filter(|pid| !self.processes.contains(pid)).collect();
        let named: Vec<String> = left.iter().take(MOST_NAMED).map(ToString::to_string).collect();
        let more = if left.len() > MOST_NAMED { ", …" } else { "" };
        match left.len() {
            0 => None,
            1 => Some(format!("a process is left on it: {}", named.join(", "))),
            count => Some(format!("{count} processes are left on it: {}{more}", named.join(", "))),
        }
    }

    fn memory(&self, now: &GpuVitals) -> Option<String> {
        let (used, before) = (*now.memory_used.known()?, self.memory_used?);
        let too_much = used.0 > before.0.saturating_add(TOLERANCE.0);
        too_much.then(|| format!("{} MiB of its memory are in use, {} MiB before its job", used.0 >> 20, before.0 >> 20))
    }

    fn errors(&self, now: &GpuVitals) -> Option<String> {
        let (Reading::Known(errors), Some(before)) = (&now.uncorrected_errors, self.uncorrected_errors) else { return None };
        let new = errors.checked_sub(before).filter(|new| *new > 0)?;
        Some(format!("{new} new memory error(s) that could not be corrected"))
    }
}

/// Who put a GPU into quarantine, and so who lets it out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QuarantinedBy {
    /// A check found it bad; one that finds it good lets it out.
    Health,
    /// A person, and only a person lets it out.
    Operator,
}

impl QuarantinedBy {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Health, Self::Operator];

    /// The name on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Health => "health",
            Self::Operator => "operator",
        }
    }
}

/// Why a GPU is given to nobody although it answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantine {
    /// What is wrong, for people.
    pub reason: String,
    /// Since when.
    pub since: Timestamp,
    /// By whom.
    pub by: QuarantinedBy,
    /// When it is tested again; `None` where only a person lets it out.
    pub next_check: Option<Timestamp>,
}

impl fmt::Display for Quarantine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.by {
            QuarantinedBy::Health => write!(f, "in quarantine: {}", self.reason),
            QuarantinedBy::Operator => write!(f, "in quarantine by hand: {}", self.reason),
        }
    }
}

/// Who has a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GpuUse {
    /// Nobody.
    Idle,
    /// A container.
    InUse,
    /// Nobody any more, and whether it is as before is not known yet.
    Checking,
}

/// What is remembered of a GPU beyond the end of the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuRecord {
    /// The GPU.
    pub gpu: GpuId,
    /// Who has it.
    pub usage: GpuUse,
    /// How it was before.
    pub baseline: Baseline,
    /// Times in a row that it was found bad; a job that leaves it clean ends the row.
    pub failures: u32,
    /// Why it is given to nobody, if so.
    pub quarantine: Option<Quarantine>,
}

#[cfg(test)]
#[path = "quarantine_tests.rs"]
mod tests;
