//! Containers that cannot be taken away: those whose end was ordered long ago and that the engine still lists.
//!
//! What they hold stays held, so nothing is given twice; stopping and removing them is tried on with a growing wait, and when one goes it is
//! forgotten here. So this only tells of them.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use super::reconcile::Seen;
use crate::domain::clock::has_passed;
use crate::domain::{Runner, RunnerId, RunnerState};

/// Containers that cannot be taken away.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stuck {
    /// Runners whose container stays, and since when it is to go.
    pub runners: BTreeMap<RunnerId, Timestamp>,
    /// Containers of ours that belong to no runner and stay.
    pub strays: usize,
}

impl Stuck {
    /// How many containers.
    #[must_use]
    pub fn containers(&self) -> usize {
        self.runners.len() + self.strays
    }
}

/// What is known of a runner that may be stuck, besides what the engine shows.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Known {
    /// Since when it was stuck at the pass before.
    pub(super) before: Option<Timestamp>,
    /// Since when every operation that was to end it has failed.
    pub(super) failing: Option<Timestamp>,
}

/// Since when a runner's container is to go, when that is longer ago than `limit`. An engine that cannot be seen, or was not looked at since our
/// last try, proves nothing new.
pub(super) fn since(runner: &Runner, seen: Seen<'_>, known: Known, limit: Duration, now: Timestamp) -> Option<Timestamp> {
    let ordered = match runner.state {
        RunnerState::Stopping { .. } | RunnerState::Lost { .. } => Some(runner.state_since),
        RunnerState::Starting { .. } | RunnerState::Idle | RunnerState::Busy | RunnerState::Gone { .. } => known.failing,
    };
    match seen {
        Seen::Listed(_) => ordered.filter(|since| has_passed(*since, limit, now)),
        Seen::Unknown => known.before,
        Seen::Absent => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::docker::{ContainerFacts, ContainerState};
    use crate::domain::{ClassName, CpuMillis, EndReason, HostId, MemoryBytes, Placement, RunnerOrigin};

    const LIMIT: Duration = Duration::from_secs(100);

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + second).expect("a time")
    }

    fn runner(state: RunnerState) -> Runner {
        let placement = Placement { cpus: CpuMillis(1), memory: MemoryBytes(1), devices: Vec::new(), share: None, opened: None };
        let (class, host) = (ClassName::from_trusted("default"), HostId::from_trusted("box1"));
        Runner { state, ..Runner::planned(RunnerId::generate(), class, host, RunnerOrigin::Job, placement, at(0)) }
    }

    fn container() -> ContainerFacts {
        ContainerFacts {
            id: "c".to_owned(),
            name: "rc-1".to_owned(),
            owner: None,
            devices: Vec::new(),
            given: None,
            state: ContainerState::Running { pid: None },
            exit_code: None,
            oom_killed: None,
            error: String::new(),
            started_at: None,
            finished_at: None,
        }
    }

    #[test]
    fn only_what_the_engine_still_lists_long_after_its_end_was_ordered_is_stuck() {
        let container = container();
        let there = Seen::Listed(&container);
        let stopping = RunnerState::Stopping { reason: None };
        for state in [stopping, RunnerState::Lost { reason: EndReason::RunnerUnresponsive }] {
            let (runner, known) = (runner(state), Known { before: Some(at(0)), failing: None });
            assert_eq!(since(&runner, there, Known::default(), LIMIT, at(100)), Some(at(0)));
            assert_eq!(since(&runner, there, Known::default(), LIMIT, at(99)), None);
            assert_eq!(since(&runner, Seen::Absent, known, LIMIT, at(9999)), None, "it went");
            assert_eq!(since(&runner, Seen::Unknown, Known::default(), LIMIT, at(9999)), None, "the engine is away");
            assert_eq!(since(&runner, Seen::Unknown, known, LIMIT, at(9999)), Some(at(0)), "it was stuck, and nobody saw it go");
        }
        for state in [RunnerState::Busy, RunnerState::Idle] {
            let (runner, failing) = (runner(state), Known { before: None, failing: Some(at(50)) });
            assert_eq!(since(&runner, there, Known::default(), LIMIT, at(9999)), None, "it is to run");
            assert_eq!(since(&runner, there, failing, LIMIT, at(150)), Some(at(50)), "its end cannot be found out");
            assert_eq!(since(&runner, there, failing, LIMIT, at(149)), None);
        }
    }
}
