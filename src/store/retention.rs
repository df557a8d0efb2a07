//! What is to be kept of what has ended.

use jiff::Timestamp;

use crate::domain::JobId;

/// What is to be kept of what has ended. Nothing that is open ever goes: no job that has not ended, no runner that is not gone, and no job that
/// a runner has which is not gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// What ended earlier goes.
    pub since: Timestamp,
    /// Of ended jobs no more than so many are kept: the oldest go, however young.
    pub most_jobs: u32,
    /// But none that ended later than this.
    pub spare_since: Timestamp,
    /// The sums of projects whose last attempt with a GPU ended earlier go.
    pub usage_since: Timestamp,
}

/// What one batch took away.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Forgotten {
    /// The jobs, whose logs are to follow.
    pub jobs: Vec<JobId>,
    /// Rows of all tables.
    pub rows: u64,
    /// Whether nothing was left to take.
    pub is_all: bool,
}
