//! Whether a failed attempt is tried again, and when. The only place that decides so.

use std::time::Duration;

use jiff::Timestamp;

use super::job::{Job, JobState, Source};
use super::reason::{Disposition, Outcome};

/// How failures that are not the job's own are tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Most repeated attempts after failures of the machine, the engine or ourselves.
    pub infrastructure_retries: u32,
    /// Wait before the first of them; it doubles each time.
    pub backoff: Duration,
    /// Longest wait.
    pub backoff_max: Duration,
}

/// A wait that doubles with each failure before it, up to `longest`.
#[must_use]
pub fn doubled(first: Duration, failures: u32, longest: Duration) -> Duration {
    first.saturating_mul(2_u32.saturating_pow(failures.min(16))).min(longest)
}

/// What follows an attempt's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// The job has ended too.
    End,
    /// The job goes back into the queue and may start from this time on.
    RetryAt(Timestamp),
}

impl RetryPolicy {
    /// Decides what follows the end of `job`'s present attempt.
    ///
    /// A job of GitLab that was already handed to a runner is never repeated here: GitLab saw it run, and GitLab's own
    /// `retry:` decides.
    #[must_use]
    pub fn next(&self, job: &Job, outcome: &Outcome, now: Timestamp) -> Next {
        let Outcome::Failed(failure) = outcome else { return Next::End };
        let seen_by_gitlab = job.spec.source == Source::GitLab && matches!(job.state, JobState::Running);
        if job.cancel.is_some() || seen_by_gitlab {
            return Next::End;
        }
        match failure.disposition {
            Disposition::Infrastructure if job.infrastructure_failures < self.infrastructure_retries => {
                Next::RetryAt(self.later(now, job.infrastructure_failures))
            }
            Disposition::Job if job.own_failures < job.spec.retries => Next::RetryAt(now),
            Disposition::Infrastructure | Disposition::Job | Disposition::Final => Next::End,
        }
    }

    fn later(&self, now: Timestamp, failures: u32) -> Timestamp {
        now.checked_add(doubled(self.backoff, failures, self.backoff_max)).unwrap_or(now)
    }
}
