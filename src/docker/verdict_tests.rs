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

/// The reason, who is to blame, and the exit code that is believed.
fn verdict(facts: &ContainerFacts, engine: Continuity) -> (Option<EndReason>, Option<Disposition>, Option<i64>) {
    let outcome = judge(facts, engine);
    let blame = match &outcome {
        Outcome::Failed(failure) => Some(failure.disposition),
        Outcome::Succeeded | Outcome::Canceled { .. } => None,
    };
    (outcome.reason(), blame, outcome.exit_code())
}

#[test]
fn codes_are_believed_as_far_as_they_go() {
    use Continuity::{Broken, Unbroken, Unwatched};
    let own = |code| (Some(EndReason::ExitCode), Some(Disposition::Job), Some(code));
    let lost = (Some(EndReason::ContainerLost), Some(Disposition::Infrastructure), None);
    let table = [
        (0, Unbroken, (None, None, Some(0))),
        (0, Broken, lost),
        (1, Unbroken, own(1)),
        (1, Broken, own(1)),
        (127, Unbroken, own(127)),
        (128, Unbroken, own(128)),
        (137, Unbroken, own(137)),
        (137, Broken, lost),
        (143, Unbroken, own(143)),
        (143, Broken, lost),
        (255, Unbroken, own(255)),
        (255, Broken, lost),
        (0, Unwatched, (None, None, Some(0))),
        (7, Unwatched, own(7)),
        (143, Unwatched, lost),
        (255, Unwatched, lost),
    ];
    for (code, engine, expected) in table {
        assert_eq!(verdict(&exited(code), engine), expected, "{code} {engine:?}");
    }
}

#[test]
fn out_of_memory_needs_the_main_process_to_be_the_one_killed() {
    let oom = |code| ContainerFacts { oom_killed: Some(true), ..exited(code) };
    for engine in [Continuity::Unbroken, Continuity::Broken] {
        assert_eq!(verdict(&oom(137), engine), (Some(EndReason::OutOfMemory), Some(Disposition::Job), Some(137)));
    }
    assert_eq!(judge(&oom(0), Continuity::Unbroken), Outcome::Succeeded);
    let child = judge(&oom(1), Continuity::Unbroken);
    assert_eq!(child.reason(), Some(EndReason::ExitCode));
    assert!(child.detail().is_some_and(|detail| detail.contains("memory")));
}

#[test]
fn what_never_ran_is_not_the_jobs_fault() {
    let failed = (Some(EndReason::StartFailed), Some(Disposition::Infrastructure), None);
    let device = ContainerFacts { error: "could not select device driver".to_owned(), started_at: None, finished_at: None, ..exited(128) };
    assert_eq!(verdict(&device, Continuity::Unbroken), failed);
    assert_eq!(judge(&device, Continuity::Unbroken).detail(), Some("could not select device driver"));
    let created = ContainerFacts { state: ContainerState::Created, started_at: None, finished_at: None, ..exited(0) };
    assert_eq!(verdict(&created, Continuity::Unbroken), failed);
    assert_eq!(verdict(&ContainerFacts { started_at: None, ..exited(127) }, Continuity::Unbroken), failed);
}

#[test]
fn success_needs_a_whole_run() {
    let lost = (Some(EndReason::ContainerLost), Some(Disposition::Infrastructure), None);
    let cases = [
        ContainerFacts { finished_at: None, ..exited(0) },
        ContainerFacts { started_at: None, ..exited(0) },
        ContainerFacts { error: "task not found".to_owned(), ..exited(0) },
        ContainerFacts { exit_code: None, ..exited(0) },
        ContainerFacts { state: ContainerState::Running { pid: Some(1) }, ..exited(0) },
        ContainerFacts { state: ContainerState::Removing, ..exited(0) },
        ContainerFacts { state: ContainerState::Unknown("new".to_owned()), ..exited(0) },
    ];
    for facts in cases {
        assert_eq!(verdict(&facts, Continuity::Unbroken), lost, "{facts:?}");
    }
}

proptest! {
    #[test]
    fn nothing_but_an_unbroken_zero_succeeds(
        code in prop_oneof![Just(0_i64), -1_i64..=300], oom: bool, error in "[a-z]{0,2}", started: bool, finished: bool, unbroken: bool,
    ) {
        let at = |known: bool| known.then_some(Timestamp::UNIX_EPOCH);
        let facts = ContainerFacts { oom_killed: Some(oom), error, started_at: at(started), finished_at: at(finished), ..exited(code) };
        let engine = if unbroken { Continuity::Unbroken } else { Continuity::Broken };
        let whole = code == 0 && unbroken && facts.error.is_empty() && started && finished;
        prop_assert_eq!(judge(&facts, engine) == Outcome::Succeeded, whole);
    }
}
