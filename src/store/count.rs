//! What of the changes of jobs and runners is counted. Every store calls this after its commit, so that what was rolled back, refused or
//! merely repeated is never counted.

use std::time::Duration;

use jiff::Timestamp;

use super::Submission;
use super::ended::Ended;
use crate::domain::job::{Attempt, CancelEffect, JobState};
use crate::domain::{Aggregate, EventKind, Job, Runner};
use crate::metrics::Metrics;

/// A step that was taken.
#[derive(Debug)]
pub(super) struct Taken {
    /// The runner and its job afterwards.
    pub(super) after: Aggregate,
    /// What was written into the history; nothing when the step had been taken before.
    pub(super) events: Vec<EventKind>,
    /// Whether the job began with it.
    pub(super) start: Start,
    /// The job's end, if it ended with it.
    pub(super) ended: Option<Ended>,
}

/// Whether a step made a job begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    /// It did not.
    None,
    /// It did, for the first time.
    First,
    /// It did, and an earlier attempt had begun too.
    Again,
}

impl Taken {
    /// Whether the job's attempt began between these two.
    pub(super) fn is_start(before: &Aggregate, after: &Aggregate) -> bool {
        let began = |one: &Aggregate| started_at(one.job.as_ref()).is_some();
        began(after) && !began(before)
    }
}

/// A submission was answered.
pub(super) fn submitted(metrics: &Metrics, submission: &Submission) {
    match submission {
        Submission::Created(job) => metrics.jobs.submitted(metrics.class(&job.spec.requirement.class), job.spec.source.as_str()),
        Submission::Existing(_) | Submission::KeyReused | Submission::QueueFull { .. } | Submission::WholeQueueFull { .. } => {}
    }
}

/// A job was bound to a runner, or none was there.
pub(super) fn bound(metrics: &Metrics, bound: Option<&Aggregate>, at: Timestamp) {
    let Some(job) = bound.and_then(|bound| bound.job.as_ref()) else { return };
    if job.attempt.as_ref().is_some_and(|attempt| attempt.number == 1) {
        metrics.jobs.claimed(metrics.class(&job.spec.requirement.class), between(job.created_at, at));
    }
}

/// A step was taken.
pub(super) fn step(metrics: &Metrics, taken: &Taken, at: Timestamp) {
    for kind in &taken.events {
        event(metrics, &taken.after.runner, kind, at);
    }
    let Some(job) = &taken.after.job else { return };
    let class = metrics.class(&job.spec.requirement.class);
    if taken.start == Start::First {
        metrics.jobs.began(class.clone(), between(job.created_at, at));
    }
    for kind in &taken.events {
        if let EventKind::AttemptEnded { outcome } = kind {
            let ran = started_at(Some(job)).map(|started| between(started, at));
            metrics.jobs.attempt_ended(class.clone(), outcome, ran);
        }
        if matches!(kind, EventKind::RetryScheduled { .. }) {
            metrics.jobs.retried(class.clone());
        }
        if matches!(kind, EventKind::Ended) {
            ended(metrics, job);
        }
    }
}

/// Something happened to a runner.
pub(super) fn event(metrics: &Metrics, runner: &Runner, kind: &EventKind, at: Timestamp) {
    if matches!(kind, EventKind::ContainerStarted) {
        metrics.jobs.container_started(metrics.class(&runner.class), between(runner.created_at, at));
    }
}

/// Somebody wished a job's end.
pub(super) fn cancelled(metrics: &Metrics, cancelled: Option<&(Job, CancelEffect)>) {
    if let Some((job, CancelEffect::Ended)) = cancelled {
        ended(metrics, job);
    }
}

fn ended(metrics: &Metrics, job: &Job) {
    if let JobState::Ended { outcome, .. } = &job.state {
        metrics.jobs.ended(metrics.class(&job.spec.requirement.class), outcome);
    }
}

fn started_at(job: Option<&Job>) -> Option<Timestamp> {
    job?.attempt.as_ref().and_then(|attempt: &Attempt| attempt.started_at)
}

/// No time at all when the clock was set back.
fn between(earlier: Timestamp, later: Timestamp) -> Duration {
    Duration::try_from(later.duration_since(earlier)).unwrap_or_default()
}

#[cfg(test)]
#[path = "count_tests.rs"]
mod tests;
