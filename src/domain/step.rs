//! How a job, its attempt and its runner change together: one pure function per thing that can happen.
//!
//! The store loads an [`Aggregate`], calls [`Aggregate::apply`], and writes what came out in one commit. A step that was
//! already taken changes nothing, so every step may be repeated after a crash; one that contradicts the state is refused.

use jiff::Timestamp;

use super::arch::Arch;
use super::event::EventKind;
use super::image::PinnedImage;
use super::job::{Attempt, Job, JobState};
use super::reason::{Disposition, EndReason, Outcome};
use super::retry::{Next, RetryPolicy};
use super::runner::{Runner, RunnerOrigin, RunnerState};

/// What happened to a runner or its job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The engine made the container.
    ContainerCreated {
        /// The engine's id of it.
        container: String,
        /// What it was made of.
        image: Option<PinnedImage>,
        /// What its class opened beyond the default.
        opened: Vec<String>,
    },
    /// The engine is about to be told to start the container.
    StartSent {
        /// See [`Runner::engine_epoch`].
        engine_epoch: u64,
    },
    /// The container runs: a command's job runs with it; a runner for GitLab has yet to report to the broker.
    Started,
    /// The runner asked the broker for work.
    Reported,
    /// The broker hands the job to the runner.
    HandedOver,
    /// The runner must end.
    StopOrdered {
        /// Why.
        reason: EndReason,
    },
    /// The runner shows no sign of life.
    Lost {
        /// What was noticed.
        reason: EndReason,
    },
    /// The job's attempt has ended and its result is known.
    JobEnded {
        /// How.
        outcome: Outcome,
        /// Decides whether it is tried again.
        retry: RetryPolicy,
    },
    /// The container is no longer running, or never will be.
    Exited,
    /// Nothing of the runner is left on the machine.
    Removed,
}

/// A step that contradicts the state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a runner that is {runner} with a job that is {job} cannot take the step {step}")]
pub struct Refused {
    /// The runner's state.
    pub runner: &'static str,
    /// The job's state, or `none`.
    pub job: &'static str,
    /// The step.
    pub step: &'static str,
}

/// A runner and the job that it has, if any, as one thing that changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Aggregate {
    /// The runner.
    pub runner: Runner,
    /// Its job. `None` for a runner without one, and when the job has since moved on to another attempt.
    pub job: Option<Job>,
}

impl Aggregate {
    /// A runner with its job; a job whose latest attempt belongs to another runner is set aside, so no late step can touch it.
    #[must_use]
    pub fn new(runner: Runner, job: Option<Job>) -> Self {
        let job = job.filter(|job| job.attempt.as_ref().is_some_and(|attempt| attempt.runner == runner.id));
        Self { runner, job }
    }

    /// Whether the runner's job has an attempt that goes on.
    #[must_use]
    pub fn has_open_attempt(&self) -> bool {
        self.job.as_ref().is_some_and(Job::has_open_attempt)
    }

    /// Whether the runner has a command to run.
    #[must_use]
    pub fn runs_command(&self) -> bool {
        self.job.as_ref().is_some_and(Job::is_command)
    }

    /// The architecture that its job needs, when it needs one.
    #[must_use]
    pub fn arch(&self) -> Option<Arch> {
        self.job.as_ref().and_then(|job| job.spec.requirement.arch)
    }

    /// Binds a waiting job to a runner: the next attempt begins.
    ///
    /// # Errors
    /// When the job does not wait, or the runner already has a job or is ending.
    pub fn bind(mut runner: Runner, mut job: Job, now: Timestamp) -> Result<(Self, EventKind), Refused> {
        let free = runner.job.is_none() && matches!(runner.state, RunnerState::Starting { .. } | RunnerState::Idle);
        let waits = matches!(job.state, JobState::Queued { .. });
        if !free || !waits {
            return Err(Refused { runner: runner.state.name(), job: job.state.name(), step: "bind" });
        }
        let number = job.attempt.as_ref().map_or(1, |attempt| attempt.number + 1);
        runner.job = Some((job.id.clone(), number));
        let event = if runner.origin == RunnerOrigin::Job { EventKind::Claimed } else { EventKind::Assigned };
        job.attempt = Some(Attempt {
            number,
            runner: runner.id.clone(),
            host: runner.host.clone(),
            placement: runner.placement.clone(),
            started_at: None,
            ended: None,
        });
        job.state = JobState::Starting;
        if runner.state == RunnerState::Idle {
            runner.state = RunnerState::Busy;
            runner.state_since = now;
        }
        Ok((Self { runner, job: Some(job) }, event))
    }

    /// Takes a step and tells what to write into the history.
    ///
    /// # Errors
    /// When the step contradicts the state; nothing has changed then.
    pub fn apply(&mut self, step: &Step, now: Timestamp) -> Result<Vec<EventKind>, Refused> {
        match step {
            Step::ContainerCreated { container, image, opened } => self.on_created(container, image.as_ref(), opened),
            Step::StartSent { engine_epoch } => self.on_start_sent(*engine_epoch, now),
            Step::Started => self.on_started(now),
            Step::Reported => Ok(self.on_reported(now)),
            Step::HandedOver => self.on_handed_over(now),
            Step::StopOrdered { reason } => Ok(self.on_stop_ordered(*reason, now)),
            Step::Lost { reason } => Ok(self.on_lost(*reason, now)),
            Step::JobEnded { outcome, retry } => self.on_job_ended(outcome, retry, now),
            Step::Exited => self.on_exited(now),
            Step::Removed => self.on_removed(now),
        }
    }

    fn refused(&self, step: &'static str) -> Refused {
        Refused { runner: self.runner.state.name(), job: self.job.as_ref().map_or("none", |job| job.state.name()), step }
    }

    fn enter(&mut self, state: RunnerState, now: Timestamp) {
        self.runner.state = state;
        self.runner.state_since = now;
    }

    fn on_created(&mut self, container: &str, image: Option<&PinnedImage>, opened: &[String]) -> Result<Vec<EventKind>, Refused> {
        if self.runner.container.as_deref() == Some(container) {
            return Ok(Vec::new());
        }
        match self.runner.state {
            RunnerState::Starting { start_sent: None } => {
                self.runner.container = Some(container.to_owned());
                self.runner.placement.opened = Some(opened.to_vec());
                if let Some(job) = &mut self.job {
                    job.image = job.image.take().or_else(|| image.cloned());
                    if let Some(attempt) = &mut job.attempt {
                        attempt.placement.opened = Some(opened.to_vec());
                    }
                }
                let digest = image.map(|image| image.identity().to_owned());
                Ok(vec![EventKind::ContainerCreated { container: container.to_owned(), digest, opened: Some(opened.to_vec()) }])
            }
            _ => Err(self.refused("container_created")),
        }
    }

    fn on_start_sent(&mut self, engine_epoch: u64, now: Timestamp) -> Result<Vec<EventKind>, Refused> {
        match self.runner.state {
            RunnerState::Starting { start_sent: None } if self.runner.container.is_some() => {
                self.runner.engine_epoch = engine_epoch;
                self.enter(RunnerState::Starting { start_sent: Some(now) }, now);
                Ok(Vec::new())
            }
            _ => Err(self.refused("start_sent")),
        }
    }

    fn on_started(&mut self, now: Timestamp) -> Result<Vec<EventKind>, Refused> {
        match self.runner.state {
            RunnerState::Starting { start_sent: Some(_) } => {}
            RunnerState::Busy | RunnerState::Idle => return Ok(Vec::new()),
            _ => return Err(self.refused("started")),
        }
        let Some(job) = self.job.as_mut().filter(|job| job.is_command()) else {
            return Ok(vec![EventKind::ContainerStarted]);
        };
        job.begin(now);
        self.enter(RunnerState::Busy, now);
        Ok(vec![EventKind::ContainerStarted])
    }

    fn on_reported(&mut self, now: Timestamp) -> Vec<EventKind> {
        if matches!(self.runner.state, RunnerState::Gone { .. }) {
            return Vec::new();
        }
        self.runner.last_contact_at = Some(now);
        let waiting = matches!(self.runner.state, RunnerState::Starting { start_sent: Some(_) });
        if !waiting || self.job.is_some() {
            return Vec::new();
        }
        self.enter(RunnerState::Idle, now);
        vec![EventKind::RunnerIdle]
    }

    fn on_handed_over(&mut self, now: Timestamp) -> Result<Vec<EventKind>, Refused> {
        let open = matches!(self.runner.state, RunnerState::Starting { .. } | RunnerState::Idle | RunnerState::Busy);
        let refused = self.refused("handed_over");
        let Some(job) = self.job.as_mut().filter(|job| open && !job.has_ended() && job.cancel.is_none()) else {
            return Err(refused);
        };
        self.runner.last_contact_at = Some(now);
        if matches!(job.state, JobState::Running) {
            return Ok(Vec::new());
        }
        job.begin(now);
        self.enter(RunnerState::Busy, now);
        Ok(vec![EventKind::HandedOver])
    }

    fn on_stop_ordered(&mut self, reason: EndReason, now: Timestamp) -> Vec<EventKind> {
        match self.runner.state {
            RunnerState::Stopping { .. } | RunnerState::Lost { .. } | RunnerState::Gone { .. } => Vec::new(),
            RunnerState::Starting { .. } | RunnerState::Idle | RunnerState::Busy => {
                self.enter(RunnerState::Stopping { reason: Some(reason) }, now);
                vec![EventKind::StopOrdered { reason }]
            }
        }
    }

    fn on_lost(&mut self, reason: EndReason, now: Timestamp) -> Vec<EventKind> {
        match self.runner.state {
            RunnerState::Lost { .. } | RunnerState::Gone { .. } => Vec::new(),
            RunnerState::Starting { .. } | RunnerState::Idle | RunnerState::Busy | RunnerState::Stopping { .. } => {
                self.enter(RunnerState::Lost { reason }, now);
                vec![EventKind::StopOrdered { reason }]
            }
        }
    }

    fn on_job_ended(&mut self, outcome: &Outcome, retry: &RetryPolicy, now: Timestamp) -> Result<Vec<EventKind>, Refused> {
        let refused = self.refused("job_ended");
        let Some(job) = self.job.as_mut() else {
            // The job is with another runner by now, so this attempt's end was told before.
            return self.runner.job.as_ref().map(|_| Vec::new()).ok_or(refused);
        };
        if job.attempt.as_ref().is_some_and(|attempt| attempt.ended.is_some()) {
            return Ok(Vec::new());
        }
        let events = job.end_attempt(outcome, retry, now);
        if matches!(self.runner.state, RunnerState::Starting { .. } | RunnerState::Idle | RunnerState::Busy) {
            self.enter(RunnerState::Stopping { reason: outcome.reason() }, now);
        }
        Ok(events)
    }

    fn on_exited(&mut self, now: Timestamp) -> Result<Vec<EventKind>, Refused> {
        if self.has_open_attempt() {
            return Err(self.refused("exited"));
        }
        match self.runner.state {
            RunnerState::Stopping { .. } | RunnerState::Lost { .. } | RunnerState::Gone { .. } => {}
            RunnerState::Starting { .. } | RunnerState::Idle | RunnerState::Busy => {
                let reason = self.job.is_none().then_some(EndReason::RunnerExited);
                self.enter(RunnerState::Stopping { reason }, now);
            }
        }
        Ok(Vec::new())
    }

    fn on_removed(&mut self, now: Timestamp) -> Result<Vec<EventKind>, Refused> {
        let reason = match self.runner.state {
            RunnerState::Gone { .. } => return Ok(Vec::new()),
            RunnerState::Stopping { reason } => reason,
            RunnerState::Lost { reason } => Some(reason),
            RunnerState::Starting { .. } | RunnerState::Idle | RunnerState::Busy => return Err(self.refused("removed")),
        };
        if self.has_open_attempt() {
            return Err(self.refused("removed"));
        }
        self.enter(RunnerState::Gone { reason }, now);
        Ok(vec![EventKind::RunnerRemoved])
    }
}

impl Job {
    fn begin(&mut self, now: Timestamp) {
        if matches!(self.state, JobState::Starting) {
            self.state = JobState::Running;
            if let Some(attempt) = &mut self.attempt {
                attempt.started_at = Some(now);
            }
        }
    }

    fn end_attempt(&mut self, outcome: &Outcome, retry: &RetryPolicy, now: Timestamp) -> Vec<EventKind> {
        let outcome = match (&self.cancel, outcome) {
            (Some(cancel), Outcome::Failed(failure)) if failure.disposition == Disposition::Infrastructure => {
                Outcome::Canceled { reason: cancel.reason, detail: failure.detail.clone() }
            }
            _ => outcome.clone(),
        };
        let next = retry.next(self, &outcome, now);
        if let Outcome::Failed(failure) = &outcome {
            match failure.disposition {
                Disposition::Infrastructure => self.infrastructure_failures += 1,
                Disposition::Job => self.own_failures += 1,
                Disposition::Final => {}
            }
        }
        if let Some(attempt) = &mut self.attempt {
            attempt.ended = Some((now, outcome.clone()));
        }
        let ended = EventKind::AttemptEnded { outcome: outcome.clone() };
        match next {
            Next::End => {
                self.state = JobState::Ended { at: now, outcome };
                vec![ended, EventKind::Ended]
            }
            Next::RetryAt(not_before) => {
                self.state = JobState::Queued { not_before: (not_before > now).then_some(not_before) };
                vec![ended, EventKind::RetryScheduled { not_before }]
            }
        }
    }
}

#[cfg(test)]
#[path = "step_tests.rs"]
mod tests;
