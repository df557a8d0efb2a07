//! The one line that tells of a job's end everything there is to tell: written by whoever commits the end, right after the commit, so that
//! every end has exactly one, whoever brought it about.

use jiff::Timestamp;
use tracing::info;

use crate::domain::{Attempt, Event, EventKind, Job, JobState, Work};

/// A job that ended in the commit that was just made.
#[derive(Debug)]
pub(super) struct Ended {
    /// The job, ended.
    pub(super) job: Job,
    /// When its latest attempt was given a runner.
    pub(super) claimed_at: Option<Timestamp>,
}

/// How long a job spent where, in milliseconds.
#[derive(Debug, Default, PartialEq, Eq)]
struct Times {
    /// From its submission to its latest attempt, earlier attempts included; to its end when it had none.
    wait: u64,
    /// From the claim of that attempt to its command's begin; to the attempt's end when it did not begin.
    start: Option<u64>,
    /// From its command's begin to the attempt's end.
    run: Option<u64>,
}

impl Ended {
    /// `beginning` is how the history of its latest attempt begins.
    pub(super) fn of(job: Job, beginning: &[Event]) -> Self {
        let claim = beginning.iter().find(|event| matches!(event.kind, EventKind::Claimed | EventKind::Assigned));
        Self { job, claimed_at: claim.map(|event| event.at) }
    }

    fn times(&self, ended_at: Timestamp) -> Times {
        let attempt = self.job.attempt.as_ref();
        let attempt_ended = attempt.and_then(|attempt| attempt.ended.as_ref()).map_or(ended_at, |(at, _)| *at);
        let started_at = attempt.and_then(|attempt| attempt.started_at);
        Times {
            wait: millis(self.job.created_at, self.claimed_at.unwrap_or(ended_at)),
            start: self.claimed_at.map(|claimed_at| millis(claimed_at, started_at.unwrap_or(attempt_ended))),
            run: started_at.map(|started_at| millis(started_at, attempt_ended)),
        }
    }

    /// Writes the line.
    pub(super) fn tell(&self) {
        let Self { job, .. } = self;
        let JobState::Ended { at, outcome } = &job.state else { return };
        let times = self.times(*at);
        let (gitlab, image_name) = match &job.spec.work {
            Work::GitLab(reference) => (Some(reference.job_id), None),
            Work::Command(command) => (None, Some(command.image.as_str())),
        };
        let attempt = job.attempt.as_ref();
        let devices = attempt.map(devices).filter(|devices| !devices.is_empty());
        info!(
            job.id = %job.id,
            job.class = %job.spec.requirement.class,
            job.project = job.spec.project.as_ref().map(tracing::field::display),
            job.source = job.spec.source.as_str(),
            gitlab.job.id = gitlab,
            job.state = job.state.name(),
            job.reason = outcome.reason().map(tracing::field::display),
            job.exit_code = outcome.exit_code(),
            job.detail = outcome.detail(),
            job.attempt = attempt.map_or(0, |attempt| attempt.number),
            runner.id = attempt.map(|attempt| tracing::field::display(&attempt.runner)),
            host = attempt.map(|attempt| tracing::field::display(&attempt.host)),
            devices,
            wait_ms = times.wait,
            start_ms = times.start,
            run_ms = times.run,
            image = image_name,
            image.digest = job.image.as_ref().map(crate::domain::PinnedImage::identity),
            "job {}{} {}{}",
            job.id,
            gitlab.map(|id| format!(" (job {id} of GitLab)")).unwrap_or_default(),
            job.state.name(),
            outcome.reason().map(|reason| format!(": {reason}")).unwrap_or_default(),
        );
    }
}

fn devices(attempt: &Attempt) -> String {
    attempt.placement.devices.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// From one time to another; a clock that was set back meanwhile makes it 0.
fn millis(from: Timestamp, to: Timestamp) -> u64 {
    u64::try_from(to.duration_since(from).as_millis()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{EndReason, HostId, Outcome, Placement, RunnerId};
    use crate::store::contract_tests::{command, requirement};

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millisecond(millis).expect("a time")
    }

    fn ended(claimed_at: Option<i64>, started_at: Option<i64>, attempt_ended: i64) -> Ended {
        let mut job = command(requirement("c", 1000), 0).job;
        let outcome = Outcome::Canceled { reason: EndReason::CanceledByUser, detail: None };
        job.created_at = at(1000);
        job.attempt = claimed_at.map(|_| Attempt {
            number: 1,
            runner: RunnerId::from_trusted("r"),
            host: HostId::from_trusted("h"),
            placement: Placement {
                cpus: crate::domain::CpuMillis(1),
                memory: crate::domain::MemoryBytes(1),
                devices: Vec::new(),
                share: None,
                opened: None,
            },
            started_at: started_at.map(at),
            ended: Some((at(attempt_ended), outcome.clone())),
        });
        job.state = JobState::Ended { at: at(9000), outcome };
        Ended { job, claimed_at: claimed_at.map(at) }
    }

    #[test]
    fn the_times_of_a_job_are_parted_where_it_was_claimed_and_where_it_began() {
        let times = |claimed_at, started_at, attempt_ended| ended(claimed_at, started_at, attempt_ended).times(at(9000));
        assert_eq!(times(None, None, 0), Times { wait: 8000, start: None, run: None });
        assert_eq!(times(Some(3000), None, 3500), Times { wait: 2000, start: Some(500), run: None });
        assert_eq!(times(Some(3000), Some(3500), 8500), Times { wait: 2000, start: Some(500), run: Some(5000) });
        assert_eq!(times(Some(500), Some(3500), 8500).wait, 0, "a clock that was set back");
    }
}
