//! What to do about one runner, decided from what is stored, what the engine shows and what time it is.
//!
//! Pure: a start-up, a nudge, a timer and a container's death all come here with the same inputs and get the same answer, so a
//! restart is not a special case. `None` is "nothing now". The manager carries the answer out.
//!
//! The rules about engines that this obeys: nothing is started twice (a start whose answer was lost is ended, not
//! repeated); a runner's share of the machine is free only when the engine no longer lists its container; an engine that cannot be
//! seen proves nothing, so nobody is declared lost while it is down; an end that is proved is an end, also when the engine says for
//! ever that the container runs.

use std::time::Duration;

use jiff::Timestamp;

use crate::docker::{ContainerFacts, ContainerState};
use crate::domain::{Aggregate, EndReason, Job, JobState, RunnerState, Source};

/// What the engine shows of a runner's container.
#[derive(Debug, Clone, Copy)]
pub enum Seen<'a> {
    /// Nothing that is newer than our last operation on it; nothing may be concluded.
    Unknown,
    /// The engine answered, and it was not listed.
    Absent,
    /// It was listed.
    Listed(&'a ContainerFacts),
}

/// What the first process of a runner's container has left of its job's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Receipt {
    /// Nothing that proves it.
    None,
    /// The proof, since then.
    Since(Timestamp),
    /// More than any receipt holds, so it was the job.
    TooMuch,
}

/// How long an engine may take to notice an end that is proved.
const NOTICE: Duration = Duration::from_secs(10);

/// What is at hand about one runner besides its rows.
#[derive(Debug, Clone, Copy)]
pub struct Sight<'a> {
    /// Its container.
    pub seen: Seen<'a>,
    /// What its container has left of its job's end.
    pub receipt: Receipt,
    /// Whether an operation of ours on it is under way.
    pub work: InFlight,
    /// Its last sign of life at the broker, as far as this process knows.
    pub contact: Option<Timestamp>,
    /// Since when this process has been able to hear it: silence before that means nothing.
    pub listening_since: Timestamp,
}

/// Whether an operation of ours on a runner is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InFlight {
    /// None.
    Nothing,
    /// Its container is being made and started.
    Launch,
    /// It is being stopped, judged or removed.
    End,
}

/// How long things may take.
#[derive(Debug, Clone, Copy)]
pub struct Deadlines {
    /// From the start of a runner's container to its first word at the broker.
    pub report: Duration,
    /// Between two words of a runner at the broker.
    pub contact: Duration,
    /// For a runner to leave by itself after its job's result is known.
    pub leave: Duration,
    /// For a runner to run `after_script` and leave after its job was cancelled in GitLab, and beyond a job's own timeout, which
    /// the runner enforces itself.
    pub wind_down: Duration,
}

/// What to do about a runner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Fetch the image, make the container, start it.
    Launch,
    /// Note that it runs ([`crate::domain::Step::Started`]).
    NoteStarted,
    /// It must end ([`crate::domain::Step::StopOrdered`]).
    OrderStop(EndReason),
    /// It shows no sign of life ([`crate::domain::Step::Lost`]).
    DeclareLost(EndReason),
    /// Stop the container: SIGTERM, grace, SIGKILL.
    Stop,
    /// The container does not run any more: find out how it went, write it down, take everything away.
    Finish,
    /// All is written down; take everything away.
    Remove,
}

/// Tells how long ago a time was. The time itself does so by the wall clock, as if nobody had turned it.
pub trait Age: Copy {
    /// How long ago; zero for a time that is yet to come.
    fn of(self, since: Timestamp) -> Duration;
}

impl Age for Timestamp {
    fn of(self, since: Timestamp) -> Duration {
        Duration::try_from(self.duration_since(since)).unwrap_or_default()
    }
}

/// Decides what to do about a runner now.
#[must_use]
pub fn decide(aggregate: &Aggregate, sight: &Sight<'_>, deadlines: &Deadlines, now: impl Age) -> Option<Action> {
    let runner = &aggregate.runner;
    match runner.state {
        RunnerState::Gone { .. } => None,
        RunnerState::Starting { start_sent: None } => {
            wanted_end(aggregate, sight, deadlines, now).or_else(|| (sight.work == InFlight::Nothing).then(|| before_start(sight.seen))?)
        }
        RunnerState::Starting { start_sent: Some(_) } => wanted_end(aggregate, sight, deadlines, now)
            .or_else(|| (sight.work == InFlight::Nothing).then(|| after_start(aggregate, sight, deadlines, now))?),
        RunnerState::Idle | RunnerState::Busy => wanted_end(aggregate, sight, deadlines, now)
            .or_else(|| (sight.work == InFlight::Nothing).then(|| while_up(aggregate, sight, deadlines, now))?),
        RunnerState::Stopping { reason } => (sight.work == InFlight::Nothing).then(|| {
            let leaves = reason.is_none() && now.of(runner.state_since) < deadlines.leave;
            ending(aggregate, sight.seen, if leaves { WhileUp::Wait } else { WhileUp::Stop })
        })?,
        RunnerState::Lost { .. } => (sight.work == InFlight::Nothing).then(|| ending(aggregate, sight.seen, WhileUp::Stop))?,
    }
}

/// A person, GitLab or the clock wants the job to end.
fn wanted_end(aggregate: &Aggregate, sight: &Sight<'_>, deadlines: &Deadlines, now: impl Age) -> Option<Action> {
    let job = aggregate.job.as_ref()?;
    if let Some(cancel) = &job.cancel {
        let winds_down = cancel.reason == EndReason::CanceledInGitlab && matches!(job.state, JobState::Running);
        if !winds_down || (now.of(cancel.at) >= deadlines.wind_down) {
            return Some(Action::OrderStop(cancel.reason));
        }
    }
    // What has ended was in time, whenever that is noticed; what the receipt says of it counts.
    if aggregate.runs_command() && has_ended(sight) {
        return None;
    }
    let started = job.attempt.as_ref().and_then(|attempt| attempt.started_at).filter(|_| matches!(job.state, JobState::Running))?;
    (now.of(started) >= time_limit(job, deadlines)).then_some(Action::OrderStop(EndReason::TimedOut))
}

/// Whether the engine or the receipt shows that the container's first process is no more.
fn has_ended(sight: &Sight<'_>) -> bool {
    let gone = match sight.seen {
        Seen::Unknown => false,
        Seen::Absent => true,
        Seen::Listed(container) => matches!(container.state, ContainerState::Exited | ContainerState::Dead | ContainerState::Removing),
    };
    gone || matches!(sight.receipt, Receipt::Since(_))
}

/// A runner for GitLab enforces the job's timeout itself and tells GitLab; ours is the net below it.
pub(super) fn time_limit(job: &Job, deadlines: &Deadlines) -> Duration {
    match job.spec.source {
        Source::Api => job.spec.timeout,
        Source::GitLab => job.spec.timeout.saturating_add(deadlines.wind_down),
    }
}

fn before_start(seen: Seen<'_>) -> Option<Action> {
    match seen {
        Seen::Unknown => None,
        Seen::Absent => Some(Action::Launch),
        Seen::Listed(container) => match container.state {
            ContainerState::Created => Some(Action::Launch),
            // Somebody started it behind our back: whatever it does is not an attempt of ours.
            _ => Some(Action::DeclareLost(EndReason::ContainerLost)),
        },
    }
}

fn after_start(aggregate: &Aggregate, sight: &Sight<'_>, deadlines: &Deadlines, now: impl Age) -> Option<Action> {
    match sight.seen {
        Seen::Unknown => None,
        Seen::Absent => Some(Action::Finish),
        Seen::Listed(container) => match container.state {
            ContainerState::Running { .. } | ContainerState::Paused | ContainerState::Restarting => {
                if aggregate.runs_command() {
                    return Some(Action::NoteStarted);
                }
                silent_for(aggregate, sight, deadlines.report, now).then_some(Action::DeclareLost(EndReason::RunnerUnresponsive))
            }
            // The start was sent and its answer lost. Whether it will still happen is not known; starting again could run the job twice.
            ContainerState::Created => Some(Action::OrderStop(EndReason::StartFailed)),
            ContainerState::Exited | ContainerState::Dead | ContainerState::Removing => Some(Action::Finish),
            ContainerState::Unknown(_) => None,
        },
    }
}

fn while_up(aggregate: &Aggregate, sight: &Sight<'_>, deadlines: &Deadlines, now: impl Age) -> Option<Action> {
    match sight.seen {
        Seen::Unknown => None,
        Seen::Absent => Some(Action::Finish),
        Seen::Listed(container) => match container.state {
            ContainerState::Running { .. } | ContainerState::Paused | ContainerState::Restarting => {
                if let Some(action) = end_unnoticed(sight.receipt, now) {
                    return Some(action);
                }
                let talks = aggregate.job.as_ref().is_none_or(|job| job.spec.source == Source::GitLab);
                (talks && silent_for(aggregate, sight, deadlines.contact, now)).then_some(Action::DeclareLost(EndReason::RunnerUnresponsive))
            }
            ContainerState::Created | ContainerState::Exited | ContainerState::Dead | ContainerState::Removing => Some(Action::Finish),
            ContainerState::Unknown(_) => None,
        },
    }
}

/// What a receipt means whose container seems to run.
fn end_unnoticed(receipt: Receipt, now: impl Age) -> Option<Action> {
    match receipt {
        Receipt::None => None,
        Receipt::Since(since) => (now.of(since) >= NOTICE).then_some(Action::Finish),
        Receipt::TooMuch => Some(Action::OrderStop(EndReason::NoReceipt)),
    }
}

/// What to do about a container that still runs although its runner is to end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum WhileUp {
    Wait,
    Stop,
}

fn ending(aggregate: &Aggregate, seen: Seen<'_>, while_up: WhileUp) -> Option<Action> {
    let take_away = if aggregate.has_open_attempt() { Action::Finish } else { Action::Remove };
    match seen {
        Seen::Unknown => None,
        Seen::Absent => Some(take_away),
        Seen::Listed(container) => match container.state {
            ContainerState::Running { .. } | ContainerState::Paused | ContainerState::Restarting => {
                (while_up == WhileUp::Stop).then_some(Action::Stop)
            }
            // What cannot be read is taken away too: the removal is forced.
            ContainerState::Created | ContainerState::Exited | ContainerState::Dead | ContainerState::Removing | ContainerState::Unknown(_) => {
                Some(take_away)
            }
        },
    }
}

fn silent_for(aggregate: &Aggregate, sight: &Sight<'_>, limit: Duration, now: impl Age) -> bool {
    let last = sight.contact.unwrap_or(aggregate.runner.state_since);
    now.of(last).min(now.of(sight.listening_since)) >= limit
}

#[cfg(test)]
#[path = "reconcile_tests.rs"]
mod tests;
