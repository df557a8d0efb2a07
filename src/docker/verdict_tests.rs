//! Tests of the verdict: see `verdict.rs`.

use jiff::Timestamp;
use proptest::prelude::*;

use super::*;

fn exited(code: i64) -> ContainerFacts {
    ContainerFacts {
        id: "c1".to_owned(),
        name: "rc-1".to_owned(),
        owner: None,
        devices: Vec::new(),
        given: None,
        state: ContainerState::Exited,
        exit_code: Some(code),
        oom_killed: Some(false),
        error: String::new(),
        started_at: Some(Timestamp::UNIX_EPOCH),
        finished_at: Some(Timestamp::UNIX_EPOCH),
    }
}

fn oom(code: i64) -> ContainerFacts {
    ContainerFacts { oom_killed: Some(true), ..exited(code) }
}

fn exit(code: u8) -> ProvenEnd {
    ProvenEnd { how: HowEnded::Exit(code), told: false }
}

fn signal(signal: u8) -> ProvenEnd {
    ProvenEnd { how: HowEnded::Signal(signal), told: false }
}

/// The reason, who is to blame, and the exit code that is believed.
type Told = (Option<EndReason>, Option<Disposition>, Option<i64>);

const SUCCESS: Told = (None, None, Some(0));
const LOST: Told = (Some(EndReason::ContainerLost), Some(Disposition::Infrastructure), None);
const UNPROVED: Told = (Some(EndReason::NoReceipt), Some(Disposition::Infrastructure), None);
const NOT_STARTED: Told = (Some(EndReason::StartFailed), Some(Disposition::Infrastructure), None);
const NO_MEMORY: Told = (Some(EndReason::OutOfMemory), Some(Disposition::Job), Some(137));

fn own(code: i64) -> Told {
    (Some(EndReason::ExitCode), Some(Disposition::Job), Some(code))
}

fn verdict(facts: Option<&ContainerFacts>, receipt: impl Into<Option<ProvenEnd>>) -> Told {
    let outcome = judge(facts, receipt.into());
    let blame = match &outcome {
        Outcome::Failed(failure) => Some(failure.disposition),
        Outcome::Succeeded | Outcome::Canceled { .. } => None,
    };
    (outcome.reason(), blame, outcome.exit_code())
}

/// Everything that an engine may say of a container.
fn anything() -> Vec<Option<ContainerFacts>> {
    let states = [
        ContainerState::Created,
        ContainerState::Running { pid: Some(1) },
        ContainerState::Running { pid: None },
        ContainerState::Paused,
        ContainerState::Restarting,
        ContainerState::Removing,
        ContainerState::Dead,
        ContainerState::Unknown("new".to_owned()),
    ];
    let codes = [0, 1, 5, 125, 127, 128, 137, 143, 255].map(exited);
    let odd = [
        ContainerFacts { exit_code: None, ..exited(0) },
        ContainerFacts { started_at: None, finished_at: None, ..exited(127) },
        ContainerFacts { error: "task not found".to_owned(), ..exited(128) },
    ];
    let other = states.map(|state| ContainerFacts { state, ..exited(0) });
    codes.into_iter().chain(odd).chain(other).map(Some).chain([None]).collect()
}

#[test]
fn with_a_receipt_the_job_ended_as_it_says_whatever_the_engine_says() {
    for facts in anything() {
        let facts = facts.as_ref();
        assert_eq!(verdict(facts, exit(0)), SUCCESS, "{facts:?}");
        assert_eq!(verdict(facts, exit(3)), own(3), "{facts:?}");
        assert_eq!(verdict(facts, exit(137)), own(137), "{facts:?}");
        assert_eq!(verdict(facts, signal(11)), own(139), "{facts:?}");
        assert!(judge(facts, Some(signal(11))).detail().is_some_and(|detail| detail.ends_with("signal 11")));
    }
}

#[test]
fn without_a_receipt_no_exit_code_is_believed() {
    for code in [0, 1, 3, 125, 126, 127, 129, 137, 143, 255, -1] {
        assert_eq!(verdict(Some(&exited(code)), None), UNPROVED, "{code}");
        assert_eq!(verdict(Some(&ContainerFacts { state: ContainerState::Dead, ..exited(code) }), None), UNPROVED, "{code}");
    }
    assert_eq!(verdict(Some(&ContainerFacts { exit_code: None, ..exited(0) }), None), UNPROVED);
    assert!(judge(Some(&exited(255)), None).detail().is_some_and(|detail| detail.contains("255")), "what the engine said is told");
}

#[test]
fn a_job_that_was_told_to_end_by_somebody_else_did_not_end_by_itself() {
    for how in [HowEnded::Exit(0), HowEnded::Exit(143), HowEnded::Exit(1), HowEnded::Signal(15), HowEnded::Signal(9)] {
        for facts in anything() {
            assert_eq!(verdict(facts.as_ref(), ProvenEnd { how, told: true }), LOST, "{how:?} {facts:?}");
        }
    }
}

#[test]
fn out_of_memory_needs_the_main_process_to_be_the_one_killed() {
    assert_eq!(verdict(Some(&oom(137)), signal(9)), NO_MEMORY);
    assert_eq!(verdict(Some(&oom(137)), exit(137)), NO_MEMORY, "a shell that tells its last command's end");
    assert_eq!(verdict(Some(&oom(0)), signal(9)), NO_MEMORY, "the engine's code says nothing");
    assert_eq!(verdict(Some(&oom(137)), None), NO_MEMORY, "the first process was taken too");
    assert_eq!(verdict(Some(&exited(137)), signal(9)), own(137));
    assert_eq!(verdict(Some(&exited(137)), None), UNPROVED);
    assert_eq!(verdict(Some(&oom(0)), exit(0)), SUCCESS);
    let child = judge(Some(&oom(1)), Some(exit(1)));
    assert_eq!(child.reason(), Some(EndReason::ExitCode));
    assert!(child.detail().is_some_and(|detail| detail.contains("memory")));
}

#[test]
fn what_never_ran_is_not_the_jobs_fault() {
    let device = ContainerFacts { error: "could not select device driver".to_owned(), started_at: None, finished_at: None, ..exited(128) };
    assert_eq!(verdict(Some(&device), None), NOT_STARTED);
    assert_eq!(judge(Some(&device), None).detail(), Some("could not select device driver"));
    let created = ContainerFacts { state: ContainerState::Created, started_at: None, finished_at: None, ..exited(0) };
    assert_eq!(verdict(Some(&created), None), NOT_STARTED);
    assert_eq!(verdict(Some(&ContainerFacts { started_at: None, ..exited(127) }), None), NOT_STARTED);
}

#[test]
fn what_is_not_an_end_is_none() {
    for state in
        [ContainerState::Running { pid: Some(1) }, ContainerState::Paused, ContainerState::Removing, ContainerState::Unknown("new".to_owned())]
    {
        assert_eq!(verdict(Some(&ContainerFacts { state, ..exited(0) }), None), LOST);
    }
    assert_eq!(verdict(None, None), LOST);
}

proptest! {
    /// Whatever an engine says, only a receipt of an undisturbed 0 is a success.
    #[test]
    fn nothing_but_a_proven_zero_succeeds(
        code in prop_oneof![Just(0_i64), -1_i64..=300], out: bool, error in "[a-z]{0,2}", started: bool, finished: bool,
        receipt in prop::option::of((prop_oneof![Just(0_u8), any::<u8>()], any::<bool>(), any::<bool>())),
    ) {
        let at = |known: bool| known.then_some(Timestamp::UNIX_EPOCH);
        let facts = ContainerFacts { oom_killed: Some(out), error, started_at: at(started), finished_at: at(finished), ..exited(code) };
        let receipt = receipt.map(|(number, signalled, told)| {
            ProvenEnd { how: if signalled { HowEnded::Signal(number) } else { HowEnded::Exit(number) }, told }
        });
        prop_assert_eq!(judge(Some(&facts), receipt) == Outcome::Succeeded, receipt == Some(exit(0)));
    }
}
