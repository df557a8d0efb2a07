//! Adds up, pass by pass, how long runners held GPUs: a number that rises while jobs run, not only when they end.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::handle::Status;
use crate::domain::GpuVendor;
use crate::metrics::Metrics;

/// What was held when it was last looked.
#[derive(Debug, Default)]
pub(super) struct Held(Option<(Instant, BTreeMap<&'static str, u32>)>);

impl Held {
    /// Adds the time since the last look for what was held then.
    pub(super) fn note(&mut self, metrics: &Metrics, status: &Status, now: Instant) {
        if let Some((since, held)) = self.0.replace((now, by_vendor(status))) {
            for (vendor, seconds) in grown(&held, now.saturating_duration_since(since)) {
                metrics.manager.gpus_held.add([vendor.into()], seconds);
            }
        }
    }
}

fn grown(held: &BTreeMap<&'static str, u32>, passed: Duration) -> Vec<(&'static str, f64)> {
    held.iter().map(|(vendor, gpus)| (*vendor, f64::from(*gpus) * passed.as_secs_f64())).collect()
}

/// How many of each vendor's GPUs runners hold; one that several share counts once.
fn by_vendor(status: &Status) -> BTreeMap<&'static str, u32> {
    let mut held = BTreeMap::new();
    for gpu in status.facts.gpus.iter().filter(|gpu| gpu.is_for_jobs()) {
        *held.entry(GpuVendor::as_str(gpu.vendor)).or_default() += u32::from(status.devices_in_use.contains(&gpu.id));
    }
    held
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_gpu_counts_for_all_the_time_that_passed() {
        let held = BTreeMap::from([("amd", 0), ("nvidia", 3)]);
        assert_eq!(grown(&held, Duration::from_millis(1500)), [("amd", 0.0), ("nvidia", 4.5)]);
    }
}
