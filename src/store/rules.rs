//! What every store decides in the same way.

use std::fmt::Write as _;

use crate::domain::Requirement;

/// What a job of a project of weight 1 costs in the fair share: divisible by many weights, and far from the end of 63 bits.
pub(super) const SHARE_COST: i64 = 1_000_000;

/// The status with which GitLab rings for a job.
pub(super) const RINGS: &str = "pending";

/// What tells requirements apart: the jobs of a project with limits (`lane` is its name, else empty) have their own.
pub(super) fn requirement_key(requirement: &Requirement, lane: &str) -> String {
    let mut key = requirement.key();
    if !lane.is_empty() {
        let _ = write!(key, ";project={lane:?}");
    }
    key
}
