//! A job's life for tests: what the store would write of it, by the rules of the domain.

use std::time::Duration;

use jiff::Timestamp;

use super::super::{Trace, completes, trace_of};
use crate::domain::job::CancelEffect;
use crate::domain::requirement::Placement;
use crate::domain::*;

pub(super) fn t(millis: i64) -> Timestamp {
    Timestamp::from_millisecond(1_700_000_000_000 + millis).expect("a time")
}

fn job_of(source: Source) -> Job {
    let requirement = Requirement::plain(ClassName::from_trusted("default"), CpuMillis(1000), MemoryBytes(1 << 30));
    let work = match source {
        Source::Api => {
            let command = vec!["true".to_owned()];
            Work::Command(CommandWork { image: ImageRef::from_trusted("debian"), command, env: std::collections::BTreeMap::new() })
        }
        Source::GitLab => Work::GitLab(GitLabRef { pipeline_id: Some(5), ..GitLabRef::bare("https://gitlab.test", 77) }),
    };
    let project = Some(ProjectName::from_trusted("team/app"));
    let timeout = Duration::from_secs(60);
    let spec = JobSpec { source, project, requirement, timeout, priority: 0, retries: 1, work };
    Job::new(JobId::generate(), spec, t(0))
}

/// A job and what was written of it, as the store writes it.
#[derive(Debug, Clone)]
pub(super) struct Life {
    pub(super) job: Job,
    pub(super) attempts: Vec<Attempt>,
    pub(super) events: Vec<Event>,
    runner: Option<Runner>,
    now: i64,
}

impl Life {
    pub(super) fn new(source: Source) -> Self {
        let mut life = Self { job: job_of(source), attempts: Vec::new(), events: Vec::new(), runner: None, now: 0 };
        if source == Source::GitLab {
            life.now = -40;
            life.write(None, None, EventKind::Webhook { status: "pending".to_owned() });
            life.now = 0;
        }
        life.write(None, None, EventKind::Submitted);
        life
    }

    pub(super) fn write(&mut self, runner: Option<RunnerId>, attempt: Option<u32>, kind: EventKind) {
        let seq = i64::try_from(self.events.len()).expect("few") + 1;
        self.events.push(Event { seq, at: t(self.now), job: Some(self.job.id.clone()), runner, attempt, kind });
    }

    pub(super) fn later(&mut self, millis: i64) -> &mut Self {
        self.now += millis;
        self
    }

    pub(super) fn note(&mut self, kind: EventKind) {
        let Some(runner) = &self.runner else { return };
        let (id, attempt) = (runner.id.clone(), runner.job.as_ref().map(|(_, attempt)| *attempt));
        self.write(Some(id), attempt, kind);
    }

    /// Takes the next attempt with a new runner, or one that waited.
    pub(super) fn claim(&mut self, origin: RunnerOrigin) {
        let devices = vec![GpuId::from_trusted("GPU-1")];
        let placement = Placement { cpus: CpuMillis(1000), memory: MemoryBytes(1 << 30), devices, share: None, opened: None };
        let (class, host) = (ClassName::from_trusted("default"), HostId::from_trusted("box1"));
        let mut runner = Runner::planned(RunnerId::generate(), class, host, origin, placement, t(self.now));
        if origin != RunnerOrigin::Job {
            runner.state = RunnerState::Idle;
        }
        let Ok((bound, event)) = Aggregate::bind(runner, self.job.clone(), t(self.now)) else { return };
        self.runner = Some(bound.runner);
        self.job = bound.job.expect("a job");
        self.attempts.extend(self.job.attempt.clone());
        self.note(event);
    }

    pub(super) fn step(&mut self, step: &Step) {
        let Some(runner) = self.runner.clone() else { return };
        let mut aggregate = Aggregate::new(runner, Some(self.job.clone()));
        let Ok(events) = aggregate.apply(step, t(self.now)) else { return };
        self.runner = Some(aggregate.runner);
        if let Some(job) = aggregate.job {
            self.job = job;
            if let (Some(last), Some(attempt)) = (self.attempts.last_mut(), &self.job.attempt) {
                last.clone_from(attempt);
            }
        }
        for event in events {
            self.note(event);
        }
    }

    pub(super) fn end(&mut self, outcome: Outcome) {
        let second = Duration::from_secs(1);
        let retry = RetryPolicy { infrastructure_retries: 2, backoff: second, backoff_max: second };
        self.step(&Step::JobEnded { outcome, retry });
    }

    pub(super) fn cancel(&mut self) {
        let reason = EndReason::CanceledByUser;
        if self.job.cancel(reason, t(self.now)) == CancelEffect::Ended {
            let attempt = self.job.attempt.as_ref().map(|attempt| attempt.number);
            self.write(None, attempt, EventKind::CancelRequested { reason });
            self.write(None, attempt, EventKind::Ended);
        }
    }

    pub(super) fn created(&mut self) {
        self.step(&Step::ContainerCreated { container: "c".to_owned(), image: None, opened: Vec::new() });
    }

    pub(super) fn started(&mut self) {
        self.step(&Step::StartSent { engine_epoch: 0 });
        if self.job.is_command() {
            self.step(&Step::Started);
        } else {
            self.note(EventKind::ContainerStarted);
        }
    }

    pub(super) fn removed(&mut self) {
        self.step(&Step::Removed);
    }

    pub(super) fn trace(&self) -> Trace {
        trace_of(&self.job, &self.attempts, &self.events)
    }

    pub(super) fn is_complete(&self) -> bool {
        self.events.last().is_some_and(|event| completes(event.seq, &self.events))
    }
}

pub(super) fn failed(disposition: Disposition, reason: EndReason) -> Outcome {
    Outcome::Failed(Failure { reason, exit_code: Some(3), detail: Some("as it was told".to_owned()), disposition })
}
