//! When GitLab rang for which of its jobs, so that a job's trace can begin where GitLab spoke. Kept in memory only and for the latest rings
//! only: nothing is decided by it.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;

/// Rings that are kept.
const KEPT: usize = 4096;

/// The latest rings, oldest first, with GitLab's id of the job.
#[derive(Debug, Default)]
pub(super) struct Doorbells(Mutex<VecDeque<(u64, Timestamp)>>);

impl Doorbells {
    /// GitLab rang for this job. Of several rings the first counts.
    pub(super) fn rang(&self, gitlab_job: u64, at: Timestamp) {
        let mut rings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if rings.iter().any(|(job, _)| *job == gitlab_job) {
            return;
        }
        if rings.len() == KEPT {
            rings.pop_front();
        }
        rings.push_back((gitlab_job, at));
    }

    /// When it first rang for this job.
    pub(super) fn of(&self, gitlab_job: u64) -> Option<Timestamp> {
        let rings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        rings.iter().find(|(job, _)| *job == gitlab_job).map(|(_, at)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_ring_counts_and_the_oldest_make_room() {
        let at = |second: i64| Timestamp::from_second(second).expect("a time");
        let rings = Doorbells::default();
        rings.rang(0, at(1));
        rings.rang(0, at(2));
        assert_eq!((rings.of(0), rings.of(1)), (Some(at(1)), None));
        for job in 1..=KEPT as u64 {
            rings.rang(job, at(3));
        }
        assert_eq!((rings.of(0), rings.of(1), rings.of(KEPT as u64)), (None, Some(at(3)), Some(at(3))));
    }
}
