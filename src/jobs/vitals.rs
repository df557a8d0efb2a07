//! Signs of life that are worth showing but not worth a commit: the last word at the broker and what a container uses.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;

use super::contacts::Contacts;
use crate::domain::RunnerId;

/// Signs of life of one runner; `None` where there were none yet.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Vital {
    /// Its last word at the broker.
    pub last_contact_at: Option<Timestamp>,
    /// Processor use between the last two samples, in percent of one CPU.
    pub cpu_percent: Option<f64>,
    /// Memory in use, page cache that can be dropped left out.
    pub memory_bytes: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// Processor time used in all, in nanoseconds, and when that was read.
    pub cpu_nanos: Option<(u64, Timestamp)>,
}

/// Signs of life of all runners that are not gone.
#[derive(Debug, Default)]
pub struct Vitals {
    contacts: Arc<Contacts>,
    by_runner: Mutex<HashMap<RunnerId, Vital>>,
}

impl Vitals {
    /// Signs of life, with those that the broker keeps.
    #[must_use]
    pub fn new(contacts: Arc<Contacts>) -> Self {
        Self { contacts, by_runner: Mutex::default() }
    }

    /// What is known of a runner.
    #[must_use]
    pub fn of(&self, runner: &RunnerId) -> Vital {
        let used = self.lock().get(runner).copied().unwrap_or_default();
        Vital { last_contact_at: self.contacts.last(runner), ..used }
    }

    /// Notes what a container uses; the share of processor time comes out of two readings.
    pub fn used(&self, runner: &RunnerId, cpu_nanos: u64, memory_bytes: u64, pids: u64, at: Timestamp) {
        let mut all = self.lock();
        let vital = all.entry(runner.clone()).or_default();
        if let Some((before, then)) = vital.cpu_nanos {
            vital.cpu_percent = percent(cpu_nanos.saturating_sub(before), at.duration_since(then).as_nanos());
        }
        vital.cpu_nanos = Some((cpu_nanos, at));
        vital.memory_bytes = Some(memory_bytes);
        vital.pids = Some(pids);
    }

    /// Forgets everybody whom `keep` does not want, so that the map cannot grow beyond the runners that exist.
    pub fn retain(&self, keep: impl Fn(&RunnerId) -> bool) {
        self.lock().retain(|runner, _| keep(runner));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<RunnerId, Vital>> {
        self.by_runner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn percent(used_nanos: u64, wall_nanos: i128) -> Option<f64> {
    if wall_nanos <= 0 {
        return None;
    }
    #[expect(clippy::cast_precision_loss, reason = "a percentage for people")]
    let share = used_nanos as f64 / wall_nanos as f64 * 100.0;
    Some((share * 10.0).round() / 10.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_come_out_of_two_readings_and_the_gone_are_forgotten() {
        let vitals = Vitals::default();
        let runner = RunnerId::from_trusted("r");
        let second = |n| Timestamp::from_second(n).expect("a time");
        vitals.used(&runner, 1_000_000_000, 10, 2, second(100));
        assert_eq!(vitals.of(&runner).cpu_percent, None);
        vitals.used(&runner, 2_500_000_000, 11, 3, second(110));
        assert_eq!(vitals.of(&runner).cpu_percent, Some(15.0));
        vitals.retain(|_| false);
        assert_eq!(vitals.of(&runner), Vital::default());
    }
}
