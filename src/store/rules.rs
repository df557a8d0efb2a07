//! What every store decides in the same way.

use std::fmt::Write as _;

use jiff::Timestamp;

use super::{JobFilter, RunnerFilter};
use crate::domain::gpu_usage::gpu_millis;
use crate::domain::job::CancelEffect;
use crate::domain::{Attempt, EndReason, EventKind, GpuUsage, Job, JobId, JobState, Requirement, Runner, RunnerId, RunnerState};

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

/// What an entry of the history is about.
#[derive(Debug)]
pub(super) enum About<'a> {
    /// A job, whichever runner it has.
    Job(&'a Job),
    /// A runner and the attempt that it runs or ran.
    Runner(&'a Runner),
}

impl<'a> About<'a> {
    /// The job, the runner and the attempt that the entry names.
    pub(super) fn parts(&self) -> (Option<&'a str>, Option<&'a str>, Option<u32>) {
        match self {
            Self::Job(job) => (Some(job.id.as_str()), None, job.attempt.as_ref().map(|attempt| attempt.number)),
            Self::Runner(runner) => {
                let (job, attempt) = runner.job.as_ref().map(|(job, attempt)| (JobId::as_str(job), *attempt)).unzip();
                (job, Some(RunnerId::as_str(&runner.id)), attempt)
            }
        }
    }
}

/// What the history tells of somebody's wish to end a job.
pub(super) fn cancel_events(effect: &CancelEffect, reason: EndReason) -> Vec<EventKind> {
    match effect {
        CancelEffect::Ended => vec![EventKind::CancelRequested { reason }, EventKind::Ended],
        CancelEffect::Requested => vec![EventKind::CancelRequested { reason }],
        CancelEffect::AlreadyRequested | CancelEffect::AlreadyEnded => Vec::new(),
    }
}

impl JobFilter {
    /// The states to ask for, each by itself, because then an index answers in the order wanted; without any filter all at once.
    pub(super) fn asked_states(&self) -> Vec<Option<&str>> {
        let is_filtered = self.project.is_some() || self.class.is_some();
        match self.states.as_slice() {
            [] if is_filtered => JobState::NAMES.into_iter().map(Some).collect(),
            [] => vec![None],
            some => some.iter().enumerate().filter(|(index, state)| !some[..*index].contains(state)).map(|(_, state)| Some(state.as_str())).collect(),
        }
    }
}

impl RunnerFilter {
    /// The same; without a choice all but `gone`.
    pub(super) fn asked_states(&self) -> Vec<&str> {
        let mut states: Vec<&str> = self.states.iter().map(String::as_str).collect();
        if states.is_empty() {
            states = RunnerState::NAMES.into_iter().filter(|name| *name != "gone").collect();
        }
        states.sort_unstable();
        states.dedup();
        states
    }
}

/// What an attempt that has just ended adds to its project's sums.
#[derive(Debug)]
pub(super) struct Spent {
    /// How long GPUs were its own, each counted, in milliseconds.
    pub(super) millis: i64,
    /// Their energy in millijoules, as far as it is known.
    pub(super) energy: i64,
}

impl Spent {
    /// `usage` is what was written of the attempt.
    pub(super) fn by(attempt: &Attempt, usage: Option<&GpuUsage>, at: Timestamp) -> Self {
        let energy = usage.and_then(GpuUsage::energy_millijoules).unwrap_or(0);
        Self { millis: stored(gpu_millis(attempt, at)), energy: stored(energy) }
    }
}

/// A century of a thousand GPUs is far from this bound.
fn stored(amount: u64) -> i64 {
    i64::try_from(amount).unwrap_or(i64::MAX >> 16).min(i64::MAX >> 16)
}

/// The hour since 1970.
pub(super) fn hour(at: Timestamp) -> i64 {
    at.as_millisecond().div_euclid(3_600_000)
}
