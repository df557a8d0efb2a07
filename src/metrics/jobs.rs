//! The numbers of jobs, their attempts and the runners that are made for them.

use std::time::Duration;

use super::{Counters, Durations, Label, RUNS, Registrar, STARTS, WAITS};
use crate::domain::{EndReason, Outcome};

/// See [`jobs`](super::Metrics::jobs).
#[derive(Debug)]
pub struct JobMetrics {
    submitted: Counters<2>,
    queued: Durations<1>,
    waited: Durations<1>,
    ran: Durations<1>,
    started: Durations<1>,
    ended: Counters<3>,
    attempts: Counters<3>,
    retries: Counters<1>,
}

impl JobMetrics {
    pub(super) fn new(make: &mut Registrar) -> Self {
        Self {
            submitted: make.counters("jobs_submitted", ["class", "source"], "Jobs that were stored, by where they came from."),
            queued: make.durations(
                "job_queue_seconds",
                ["class"],
                WAITS,
                "How long jobs waited for room: from being stored until they were first claimed.",
            ),
            waited: make.durations(
                "job_wait_seconds",
                ["class"],
                WAITS,
                "How long jobs waited in all: from being stored until their command first began, or their runner was given them.",
            ),
            ran: make.durations("job_run_seconds", ["class"], RUNS, "How long attempts ran that had begun."),
            started: make.durations(
                "runner_start_seconds",
                ["class"],
                STARTS,
                "How long runners took to start: from being planned until their container ran, fetching its image included.",
            ),
            ended: make.counters(
                "jobs_ended",
                ["class", "outcome", "reason"],
                "Jobs that ended, by outcome and reason; the reason is empty for those that succeeded.",
            ),
            attempts: make.counters("attempts_ended", ["class", "outcome", "reason"], "Attempts that ended, those that are tried again included."),
            retries: make.counters("job_retries", ["class"], "Attempts that failed and are tried again."),
        }
    }

    pub(super) fn prepare(&self, class: &Label) {
        for series in [&self.queued, &self.waited, &self.ran, &self.started] {
            series.prepare([class.clone()]);
        }
        self.retries.prepare([class.clone()]);
        for source in ["api", "gitlab"] {
            self.submitted.prepare([class.clone(), source.into()]);
        }
        let ends = EndReason::ALL.map(|reason| reason.outcome_when_stopped(None));
        for outcome in ends.iter().chain([&Outcome::Succeeded]) {
            self.ended.prepare(end_labels(class.clone(), outcome));
        }
    }

    /// A job was stored.
    pub fn submitted(&self, class: Label, source: &'static str) {
        self.submitted.count([class, source.into()]);
    }

    /// A job was claimed for the first time, so long after it was stored.
    pub fn claimed(&self, class: Label, after: Duration) {
        self.queued.observe([class], after);
    }

    /// A job's command began for the first time, so long after it was stored.
    pub fn began(&self, class: Label, after: Duration) {
        self.waited.observe([class], after);
    }

    /// A runner's container runs, so long after it was planned.
    pub fn container_started(&self, class: Label, after: Duration) {
        self.started.observe([class], after);
    }

    /// An attempt ended; `ran` is how long it had run, where it had begun.
    pub fn attempt_ended(&self, class: Label, outcome: &Outcome, ran: Option<Duration>) {
        if let Some(ran) = ran {
            self.ran.observe([class.clone()], ran);
        }
        self.attempts.count(end_labels(class, outcome));
    }

    /// A job will be tried again.
    pub fn retried(&self, class: Label) {
        self.retries.count([class]);
    }

    /// A job ended.
    pub fn ended(&self, class: Label, outcome: &Outcome) {
        self.ended.count(end_labels(class, outcome));
    }
}

fn end_labels(class: Label, outcome: &Outcome) -> [Label; 3] {
    let name = match outcome {
        Outcome::Succeeded => "succeeded",
        Outcome::Failed(_) => "failed",
        Outcome::Canceled { .. } => "canceled",
    };
    [class, name.into(), outcome.reason().map_or("", EndReason::as_str).into()]
}
