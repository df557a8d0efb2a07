//! Tables of single decisions, and a small model in which decisions are carried out by an engine and a process that fail at any point.

use std::time::Duration;

use jiff::Timestamp;
use proptest::prelude::*;

use super::*;
use crate::domain::job::{CommandWork, JobSpec};
use crate::domain::{
    ClassName, CpuMillis, GitLabRef, HostId, ImageRef, JobId, MemoryBytes, Outcome, Placement, Requirement, RetryPolicy, Runner, RunnerId,
    RunnerOrigin, Step, Work,
};

const DEADLINES: Deadlines = Deadlines {
    report: Duration::from_secs(60),
    contact: Duration::from_secs(300),
    leave: Duration::from_secs(30),
    wind_down: Duration::from_secs(60),
};
const POLICY: RetryPolicy = RetryPolicy { infrastructure_retries: 2, backoff: Duration::from_secs(1), backoff_max: Duration::from_secs(8) };

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + second).expect("a time")
}

fn spec(source: Source) -> JobSpec {
    let class = ClassName::from_trusted("default");
    let requirement = Requirement::plain(class, CpuMillis(1000), MemoryBytes(1 << 30));
    let work = match source {
        Source::Api => {
            Work::Command(CommandWork { image: ImageRef::from_trusted("a"), command: vec!["true".into()], env: std::collections::BTreeMap::new() })
        }
        Source::GitLab => Work::GitLab(GitLabRef::bare("http://gitlab", 1)),
    };
    JobSpec { source, project: None, requirement, timeout: Duration::from_secs(600), priority: 0, retries: 0, work }
}

fn planned(name: &str) -> Runner {
    let placement = Placement { cpus: CpuMillis(1000), memory: MemoryBytes(1 << 30), devices: vec![], share: None, opened: None };
    Runner::planned(
        RunnerId::from_trusted(name),
        ClassName::from_trusted("default"),
        HostId::from_trusted("box"),
        RunnerOrigin::Job,
        placement,
        at(0),
    )
}

fn bound(source: Source) -> Aggregate {
    let job = Job::new(JobId::from_trusted("j"), spec(source), at(0));
    Aggregate::bind(planned("r"), job, at(0)).expect("binds").0
}

fn started(source: Source) -> Aggregate {
    let mut aggregate = bound(source);
    aggregate.apply(&Step::ContainerCreated { container: "c".into(), image: None, opened: Vec::new() }, at(0)).expect("created");
    aggregate.apply(&Step::StartSent { engine_epoch: 0 }, at(1)).expect("start sent");
    aggregate
}

fn running(source: Source) -> Aggregate {
    let mut aggregate = started(source);
    aggregate.apply(if source == Source::Api { &Step::Started } else { &Step::HandedOver }, at(2)).expect("runs");
    aggregate
}

fn container(state: ContainerState) -> ContainerFacts {
    ContainerFacts {
        id: "c".into(),
        name: "rc-j-1".into(),
        owner: None,
        devices: vec![],
        given: None,
        state,
        exit_code: None,
        oom_killed: None,
        error: String::new(),
        started_at: None,
        finished_at: None,
    }
}

const UP: ContainerState = ContainerState::Running { pid: None };

/// What the engine shows in a case.
#[derive(Debug, Clone)]
enum Shown {
    Nothing,
    Absent,
    Listed(ContainerState),
}

fn decided(aggregate: &Aggregate, shown: &Shown, second: i64) -> Option<Action> {
    let facts = if let Shown::Listed(state) = shown { Some(container(state.clone())) } else { None };
    let seen = match (shown, &facts) {
        (Shown::Nothing, _) => Seen::Unknown,
        (_, Some(facts)) => Seen::Listed(facts),
        (_, None) => Seen::Absent,
    };
    let sight = Sight { seen, receipt: Receipt::None, work: InFlight::Nothing, contact: None, listening_since: at(0) };
    decide(aggregate, &sight, &DEADLINES, at(second))
}

#[test]
fn an_end_that_is_proved_is_an_end_also_when_the_engine_never_notices() {
    let decided = |aggregate: &Aggregate, state: ContainerState, receipt: Receipt, second: i64| {
        let facts = container(state);
        let sight = Sight { seen: Seen::Listed(&facts), receipt, work: InFlight::Nothing, contact: None, listening_since: at(0) };
        decide(aggregate, &sight, &DEADLINES, at(second))
    };
    let aggregate = running(Source::Api);
    for state in [UP, ContainerState::Paused, ContainerState::Restarting] {
        assert_eq!(decided(&aggregate, state.clone(), Receipt::None, 100), None, "{state:?}");
        assert_eq!(decided(&aggregate, state.clone(), Receipt::Since(at(100)), 105), None, "the engine is given time to notice");
        assert_eq!(decided(&aggregate, state.clone(), Receipt::Since(at(100)), 111), Some(Action::Finish), "{state:?}");
        let stop = Some(Action::OrderStop(EndReason::NoReceipt));
        assert_eq!(decided(&aggregate, state, Receipt::TooMuch, 100), stop, "a job may not fill the disk with its receipt");
    }
    let mut cancelled = running(Source::Api);
    cancelled.apply(&Step::StopOrdered { reason: EndReason::TimedOut }, at(3)).expect("stops");
    assert_eq!(decided(&cancelled, UP, Receipt::Since(at(100)), 200), Some(Action::Stop), "what was ordered goes its way");
}

#[test]
fn a_start_whose_answer_was_lost_is_never_repeated() {
    let aggregate = started(Source::Api);
    assert_eq!(decided(&aggregate, &Shown::Listed(ContainerState::Created), 5), Some(Action::OrderStop(EndReason::StartFailed)));
    assert_eq!(decided(&aggregate, &Shown::Listed(UP), 5), Some(Action::NoteStarted));
    assert_eq!(decided(&aggregate, &Shown::Absent, 5), Some(Action::Finish));
}

#[test]
fn an_engine_that_cannot_be_seen_proves_nothing() {
    for aggregate in [bound(Source::Api), started(Source::Api), running(Source::Api), running(Source::GitLab)] {
        assert_eq!(decided(&aggregate, &Shown::Nothing, 100), None, "{:?}", aggregate.runner.state);
    }
}

#[test]
fn the_clock_ends_what_runs_too_long_even_unseen() {
    assert_eq!(decided(&running(Source::Api), &Shown::Listed(UP), 601), None);
    assert_eq!(decided(&running(Source::Api), &Shown::Listed(UP), 602), Some(Action::OrderStop(EndReason::TimedOut)));
    assert_eq!(decided(&running(Source::Api), &Shown::Nothing, 602), Some(Action::OrderStop(EndReason::TimedOut)));
}

#[test]
fn what_ended_in_time_is_not_too_late_when_that_is_noticed_late() {
    let aggregate = running(Source::Api);
    for ended in [ContainerState::Exited, ContainerState::Dead, ContainerState::Removing] {
        assert_eq!(decided(&aggregate, &Shown::Listed(ended), 9999), Some(Action::Finish));
    }
    assert_eq!(decided(&aggregate, &Shown::Absent, 9999), Some(Action::Finish));
    let with_receipt = |seen, second| {
        let sight = Sight { seen, receipt: Receipt::Since(at(300)), work: InFlight::Nothing, contact: None, listening_since: at(0) };
        decide(&aggregate, &sight, &DEADLINES, at(second))
    };
    assert_eq!(with_receipt(Seen::Unknown, 9999), None, "the engine is waited for");
    let facts = container(UP);
    assert_eq!(with_receipt(Seen::Listed(&facts), 9999), Some(Action::Finish), "whatever the engine says");
    // A runner of GitLab leaves no receipt: its job's time is up.
    assert_eq!(decided(&running(Source::GitLab), &Shown::Listed(ContainerState::Exited), 9999), Some(Action::OrderStop(EndReason::TimedOut)));
}

#[test]
fn a_cancel_by_a_person_ends_at_once_and_one_in_gitlab_lets_the_job_wind_down() {
    let mut ours = running(Source::GitLab);
    ours.job.as_mut().expect("job").cancel(EndReason::CanceledByUser, at(10));
    assert_eq!(decided(&ours, &Shown::Listed(UP), 10), Some(Action::OrderStop(EndReason::CanceledByUser)));
    let mut theirs = running(Source::GitLab);
    theirs.job.as_mut().expect("job").cancel(EndReason::CanceledInGitlab, at(10));
    assert_eq!(decided(&theirs, &Shown::Listed(UP), 69), None);
    assert_eq!(decided(&theirs, &Shown::Listed(UP), 70), Some(Action::OrderStop(EndReason::CanceledInGitlab)));
}

#[test]
fn a_silent_runner_is_lost_but_not_for_silence_that_nobody_could_hear() {
    let aggregate = running(Source::GitLab);
    assert_eq!(decided(&aggregate, &Shown::Listed(UP), 302), Some(Action::DeclareLost(EndReason::RunnerUnresponsive)));
    let facts = container(UP);
    let sight = Sight { seen: Seen::Listed(&facts), receipt: Receipt::None, work: InFlight::Nothing, contact: None, listening_since: at(200) };
    assert_eq!(decide(&aggregate, &sight, &DEADLINES, at(302)), None);
    let unreported = started(Source::GitLab);
    assert_eq!(decided(&unreported, &Shown::Listed(UP), 60), None);
    assert_eq!(decided(&unreported, &Shown::Listed(UP), 61), Some(Action::DeclareLost(EndReason::RunnerUnresponsive)));
}

#[test]
fn a_runner_that_did_its_work_may_leave_by_itself_for_a_while() {
    let mut aggregate = running(Source::GitLab);
    aggregate.apply(&Step::JobEnded { outcome: Outcome::Succeeded, retry: POLICY }, at(20)).expect("ends");
    assert_eq!(decided(&aggregate, &Shown::Listed(UP), 49), None);
    assert_eq!(decided(&aggregate, &Shown::Listed(UP), 50), Some(Action::Stop));
    assert_eq!(decided(&aggregate, &Shown::Listed(ContainerState::Exited), 21), Some(Action::Remove));
}

#[test]
fn nothing_is_begun_while_an_operation_is_under_way_but_a_cancel_is_heard() {
    let mut aggregate = bound(Source::Api);
    let sight = Sight { seen: Seen::Absent, receipt: Receipt::None, work: InFlight::Launch, contact: None, listening_since: at(0) };
    assert_eq!(decide(&aggregate, &sight, &DEADLINES, at(1)), None);
    aggregate.job.as_mut().expect("job").cancel(EndReason::CanceledByUser, at(1));
    assert_eq!(decide(&aggregate, &sight, &DEADLINES, at(1)), Some(Action::OrderStop(EndReason::CanceledByUser)));
}

/// An engine with one container name, a store with one runner, and a process between them that may die between any two lines.
struct World {
    aggregate: Aggregate,
    container: Option<ContainerState>,
    starts: u32,
    now: i64,
}

#[derive(Debug, Clone)]
enum Happening {
    /// A pass is carried out, but the process dies after this many of its steps.
    Pass { steps: usize },
    /// The container's process ends.
    Exits,
    /// The container vanishes with everything about it.
    Vanishes,
    /// A person cancels.
    Cancel,
    /// Time goes by.
    Wait(i64),
    /// A pass while the engine does not answer.
    Blind,
}

/// One line of an operation.
type Line = Box<dyn Fn(&mut World)>;

impl World {
    fn pass(&mut self, steps: usize) {
        let Some(action) = decided(&self.aggregate, &self.container.clone().map_or(Shown::Absent, Shown::Listed), self.now) else { return };
        let now = at(self.now);
        let script: Vec<Line> = match action {
            Action::Launch => vec![
                Box::new(|world| world.container = Some(ContainerState::Created)),
                Box::new(move |world| world.take(&Step::ContainerCreated { container: "c".into(), image: None, opened: Vec::new() }, now)),
                Box::new(move |world| world.take(&Step::StartSent { engine_epoch: 0 }, now)),
                Box::new(|world| {
                    let sent = matches!(world.aggregate.runner.state, RunnerState::Starting { start_sent: Some(_) });
                    if sent && world.container == Some(ContainerState::Created) {
                        world.container = Some(UP);
                        world.starts += 1;
                    }
                }),
                Box::new(move |world| world.take(&Step::Started, now)),
            ],
            Action::NoteStarted => vec![Box::new(move |world| world.take(&Step::Started, now))],
            Action::OrderStop(reason) => vec![Box::new(move |world| world.take(&Step::StopOrdered { reason }, now))],
            Action::DeclareLost(reason) => vec![Box::new(move |world| world.take(&Step::Lost { reason }, now))],
            Action::Stop => vec![Box::new(|world| world.container = Some(ContainerState::Exited))],
            Action::Finish => vec![
                Box::new(move |world| {
                    let outcome = world.aggregate.runner.state.reason().map_or(Outcome::Succeeded, |reason| reason.outcome_when_stopped(None));
                    world.take(&Step::JobEnded { outcome, retry: POLICY }, now);
                }),
                Box::new(move |world| world.take(&Step::Exited, now)),
                Box::new(|world| world.container = None),
                Box::new(move |world| world.take(&Step::Removed, now)),
            ],
            Action::Remove => vec![Box::new(|world| world.container = None), Box::new(move |world| world.take(&Step::Removed, now))],
        };
        for step in script.iter().take(steps) {
            step(self);
        }
    }

    fn take(&mut self, step: &Step, now: Timestamp) {
        // A refusal is what the real operations meet too when somebody was quicker.
        let _ = self.aggregate.apply(step, now);
    }

    fn happen(&mut self, happening: &Happening) {
        match happening {
            Happening::Pass { steps } => self.pass(*steps),
            Happening::Exits => {
                if self.container == Some(UP) {
                    self.container = Some(ContainerState::Exited);
                }
            }
            Happening::Vanishes => self.container = None,
            Happening::Cancel => {
                if let Some(job) = &mut self.aggregate.job {
                    job.cancel(EndReason::CanceledByUser, at(self.now));
                }
            }
            Happening::Wait(seconds) => self.now += seconds,
            Happening::Blind => {
                let action = decided(&self.aggregate, &Shown::Nothing, self.now);
                assert!(matches!(action, None | Some(Action::OrderStop(_))), "blind, but {action:?}");
            }
        }
    }
}

fn happenings() -> impl Strategy<Value = Vec<Happening>> {
    let one = prop_oneof![
        6 => (0_usize..6).prop_map(|steps| Happening::Pass { steps }),
        2 => Just(Happening::Exits),
        1 => Just(Happening::Vanishes),
        1 => Just(Happening::Cancel),
        1 => (1_i64..400).prop_map(Happening::Wait),
        1 => Just(Happening::Blind),
    ];
    prop::collection::vec(one, 0..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Whatever dies whenever: the container starts at most once, and undisturbed passes then bring everything to its end with
    /// nothing left on the machine.
    #[test]
    fn an_attempt_runs_at_most_once_and_always_ends_clean(story in happenings()) {
        let mut world = World { aggregate: bound(Source::Api), container: None, starts: 0, now: 0 };
        for happening in &story {
            world.happen(happening);
            prop_assert!(world.starts <= 1, "started twice");
            if world.aggregate.runner.state.name() == "gone" {
                prop_assert!(world.container.is_none(), "gone, but its container is there");
            }
        }
        for _ in 0..12 {
            world.pass(usize::MAX);
            world.happen(&Happening::Exits);
        }
        prop_assert_eq!(world.aggregate.runner.state.name(), "gone");
        prop_assert_eq!(world.container, None);
        let ended = world.aggregate.job.as_ref().and_then(|job| job.attempt.as_ref()).and_then(|attempt| attempt.ended.clone());
        prop_assert!(ended.is_some(), "gone without a result");
    }
}
