//! What a job used of its GPUs: read now and then, summed up, and written down so that a restart loses nothing. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::amount::MemoryBytes;
use super::gpu::GpuVitals;
use super::ids::{GpuId, ProjectName};
use super::job::Attempt;

/// Two readings further apart than this say nothing about the time between them: the daemon was away, or the driver did not answer.
const LONGEST_GAP: Duration = Duration::from_secs(60);

/// What one attempt used so far. What no driver told stays unknown.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuUsage {
    /// Most memory in use on all of its GPUs together, at any reading.
    memory_peak: Option<MemoryBytes>,
    /// Percent of utilisation times milliseconds, over all GPUs.
    busy: u64,
    /// Milliseconds of which the utilisation is known, over all GPUs.
    observed: u64,
    /// Energy used between readings, in millijoules.
    energy: Option<u64>,
    last: Option<Reading>,
}

/// The latest reading.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Reading {
    at: Timestamp,
    /// Energy counters, in millijoules.
    energy: BTreeMap<GpuId, u64>,
}

impl GpuUsage {
    /// Adds a reading of the attempt's GPUs; those that are not among `vitals` told nothing.
    pub fn observe<'v>(&mut self, at: Timestamp, devices: &[GpuId], vitals: impl Fn(&GpuId) -> Option<&'v GpuVitals>) {
        let told: Vec<(&GpuId, &GpuVitals)> = devices.iter().filter_map(|gpu| Some((gpu, vitals(gpu)?))).collect();
        let used = sum(told.iter().filter_map(|(_, vitals)| vitals.memory_used.known()).map(|memory| memory.0));
        self.memory_peak = self.memory_peak.max(used.map(MemoryBytes));
        let passed = self.last.as_ref().and_then(|last| millis(last.at, at));
        if let Some(passed) = passed.filter(|passed| u128::from(*passed) <= LONGEST_GAP.as_millis()) {
            for percent in told.iter().filter_map(|(_, vitals)| vitals.utilization_percent.known()) {
                self.busy = self.busy.saturating_add(u64::from((*percent).min(100)).saturating_mul(passed));
                self.observed = self.observed.saturating_add(passed);
            }
        }
        let mut counters = self.last.take().map(|last| last.energy).unwrap_or_default();
        for (gpu, counter) in told.iter().filter_map(|(gpu, vitals)| Some((*gpu, *vitals.energy_millijoules.known()?))) {
            // A counter that went back began anew, when the driver was loaded: what was used meanwhile is not known.
            if let Some(used) = counters.insert(gpu.clone(), counter).map(|before| counter.saturating_sub(before)) {
                self.energy = Some(self.energy.unwrap_or(0).saturating_add(used));
            }
        }
        self.last = Some(Reading { at, energy: counters });
    }

    /// Energy used, in millijoules, where the driver counts it.
    #[must_use]
    pub fn energy_millijoules(&self) -> Option<u64> {
        self.energy
    }
}

/// `None` of nothing.
fn sum(amounts: impl Iterator<Item = u64>) -> Option<u64> {
    amounts.reduce(u64::saturating_add)
}

/// Milliseconds from one time to a later one.
fn millis(from: Timestamp, to: Timestamp) -> Option<u64> {
    u64::try_from(to.duration_since(from).as_millis()).ok()
}

/// What all attempts of a job used.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GpuTotal {
    /// How long GPUs were the job's, each counted, in milliseconds.
    pub gpu_millis: u64,
    /// Most memory in use at once.
    pub memory_peak: Option<MemoryBytes>,
    /// Mean utilisation in percent, over the time of which it is known.
    pub utilisation_mean: Option<f64>,
    /// Energy in millijoules.
    pub energy_millijoules: Option<u64>,
}

/// How long GPUs were an attempt's, each counted, in milliseconds: from its start to its end, or to `now`.
#[must_use]
pub fn gpu_millis(attempt: &Attempt, now: Timestamp) -> u64 {
    let end = attempt.ended.as_ref().map_or(now, |(at, _)| *at);
    let ran = attempt.started_at.and_then(|start| millis(start, end)).unwrap_or(0);
    ran.saturating_mul(u64::try_from(attempt.placement.devices.len()).unwrap_or(u64::MAX))
}

/// The sum over a job's attempts; `None` when none had a GPU.
#[must_use]
pub fn total(attempts: &[Attempt], usage: &BTreeMap<u32, GpuUsage>, now: Timestamp) -> Option<GpuTotal> {
    if attempts.iter().all(|attempt| attempt.placement.devices.is_empty()) {
        return None;
    }
    let (busy, observed) =
        usage.values().fold((0_u64, 0_u64), |(busy, observed), one| (busy.saturating_add(one.busy), observed.saturating_add(one.observed)));
    #[expect(clippy::cast_precision_loss, reason = "a percentage for people")]
    let mean = (observed > 0).then(|| (busy as f64 / observed as f64 * 10.0).round() / 10.0);
    Some(GpuTotal {
        gpu_millis: attempts.iter().map(|attempt| gpu_millis(attempt, now)).fold(0, u64::saturating_add),
        memory_peak: usage.values().filter_map(|one| one.memory_peak).max(),
        utilisation_mean: mean,
        energy_millijoules: sum(usage.values().filter_map(|one| one.energy)),
    })
}

/// What the attempts of a project's jobs that have ended used of GPUs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProjectUsage {
    /// The project; `None` is all jobs without one.
    pub project: Option<ProjectName>,
    /// Attempts that had GPUs.
    pub attempts: u64,
    /// How long GPUs were theirs, each counted, in milliseconds.
    pub gpu_millis: u64,
    /// The same of attempts that ended in the present hour or the 23 before it.
    pub gpu_millis_of_day: u64,
    /// Energy in millijoules, as far as drivers told it; 0 where none did.
    pub energy_millijoules: u64,
}

#[cfg(test)]
#[path = "gpu_usage_tests.rs"]
mod tests;
