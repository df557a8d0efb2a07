//! The last hours in numbers, for charts: one sample a minute in a ring that cannot grow. Kept in memory only; a restart begins anew.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::handle::{ManagerHandle, Status};
use crate::domain::chain;
use crate::store::{Counts, Store};

/// Time between two samples.
pub const EVERY: Duration = Duration::from_secs(60);
/// Samples that are kept: six hours.
pub const KEPT: usize = 360;

/// What was so at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// When.
    pub at: Timestamp,
    /// Jobs that waited.
    pub queued: u64,
    /// How long the oldest of them had waited, in seconds; 0 when none did.
    pub oldest_wait_seconds: u64,
    /// Jobs that ran or were being started.
    pub running: u64,
    /// GPUs that runners held.
    pub gpus_busy: usize,
    /// GPUs that jobs are given at all.
    pub gpus_total: usize,
    /// The mean of what the busy ones did, in percent; `None` where none is busy or none could be read.
    pub gpu_percent: Option<u32>,
}

impl Sample {
    fn new(counts: &Counts, status: &Status, at: Timestamp) -> Self {
        let jobs = |state: &str| counts.jobs.iter().find(|(name, _)| name == state).map_or(0, |(_, jobs)| *jobs);
        let waited = counts.oldest_queued_at.map(|oldest| at.duration_since(oldest).as_secs());
        Self {
            at,
            queued: jobs("queued"),
            oldest_wait_seconds: waited.and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or(0),
            running: jobs("starting") + jobs("running"),
            gpus_busy: status.devices_in_use.len(),
            gpus_total: status.facts.gpus.iter().filter(|gpu| gpu.is_for_jobs()).count(),
            gpu_percent: busy_percent(status),
        }
    }
}

fn busy_percent(status: &Status) -> Option<u32> {
    let vitals = status.devices_in_use.iter().filter_map(|gpu| status.gpu_vitals.get(gpu));
    let known: Vec<u32> = vitals.filter_map(|vitals| vitals.utilization_percent.known().copied()).collect();
    let sum: u32 = known.iter().sum();
    sum.checked_div(u32::try_from(known.len()).ok()?)
}

/// The samples.
#[derive(Debug, Default)]
pub struct History(Mutex<VecDeque<Sample>>);

impl History {
    /// All samples, oldest first.
    #[must_use]
    pub fn samples(&self) -> Vec<Sample> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }

    fn add(&self, sample: Sample) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() == KEPT {
            all.pop_front();
        }
        all.push_back(sample);
    }
}

/// Samples until told to stop. A store that does not answer costs one sample: a gap is the truth then.
pub async fn run(history: Arc<History>, store: Arc<dyn Store>, manager: ManagerHandle, stop: CancellationToken) {
    loop {
        match store.counts().await {
            Ok(counts) => history.add(Sample::new(&counts, &manager.status(), manager.clock.now())),
            Err(error) => warn!(error = chain(&error), "the history has a gap: the store could not count"),
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(queued: u64) -> Sample {
        let at = Timestamp::UNIX_EPOCH;
        Sample { at, queued, oldest_wait_seconds: 0, running: 0, gpus_busy: 0, gpus_total: 0, gpu_percent: None }
    }

    #[test]
    fn the_oldest_samples_make_room() {
        let history = History::default();
        for queued in 0..KEPT as u64 + 3 {
            history.add(sample(queued));
        }
        let kept = history.samples();
        assert_eq!((kept.len(), kept[0].queued, kept[KEPT - 1].queued), (KEPT, 3, KEPT as u64 + 2));
    }
}
