//! `[retention]`: how long what has ended is kept.

use std::time::Duration;

use super::section::Section;
use super::values::{DAY, HOUR, duration};

/// How long what has ended is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retention {
    /// `retention.jobs`, default `30days`: how long a job is kept after its end, with its attempts, history and idempotency key. Runners and
    /// events that belong to no job go at the same age.
    pub jobs: Duration,
    /// `retention.max_jobs`, default 100000: most ended jobs that are kept; beyond that the oldest go early.
    pub max_jobs: u32,
    /// `retention.logs`, default `30days`: how long a job's logs are kept after its end, but never longer than the job.
    pub logs: Duration,
    /// `retention.usage`, default `365days`: how long the sums of a project are kept that had no GPU since.
    pub usage: Duration,
}

impl Default for Retention {
    fn default() -> Self {
        Self { jobs: 30 * DAY, max_jobs: 100_000, logs: 30 * DAY, usage: 365 * DAY }
    }
}

/// Reads `[retention]`.
pub(super) fn read(section: &mut Section<'_>) -> Retention {
    let base = Retention::default();
    let decade = 3650 * DAY;
    Retention {
        jobs: section.parsed("jobs", duration(HOUR..=decade)).unwrap_or(base.jobs),
        max_jobs: section.whole_number("max_jobs", 100..=100_000_000).unwrap_or(base.max_jobs),
        logs: section.parsed("logs", duration(HOUR..=decade)).unwrap_or(base.logs),
        usage: section.parsed("usage", duration(DAY..=decade)).unwrap_or(base.usage),
    }
}
