//! What each part's state is called.

use tokio::time::Instant;

use super::*;
use crate::domain::{DiskUse, RunnerId};
use crate::http::harness::Harness;
use crate::jobs::DiskRole;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_795_000_000 + second).expect("a time")
}

#[tokio::test]
async fn a_manager_that_went_silent_or_whose_passes_fail_is_failing() {
    let status = Harness::start().manager.status();
    let ended = Instant::now();
    let verdict = |error: Option<&str>| {
        let status = Status { last_tick: ended, last_tick_error: error.map(str::to_owned), ..(*status).clone() };
        manager_check(&status).status
    };
    tokio::time::pause();
    assert_eq!((verdict(None), verdict(Some("disk full"))), (Verdict::Ok, Verdict::Failing));
    tokio::time::advance(Duration::from_secs(55)).await;
    assert_eq!(verdict(None), Verdict::Ok);
    tokio::time::advance(Duration::from_secs(10)).await;
    assert_eq!(verdict(None), Verdict::Failing);
}

#[test]
fn containers_that_stay_are_told_and_fail_nothing() {
    assert!(stuck_check(&Stuck::default()).is_none());
    let runners = [("a", 7), ("b", 5)].map(|(runner, second)| (RunnerId::from_trusted(runner), at(second))).into();
    let check = stuck_check(&Stuck { runners, strays: 1 }).expect("told");
    assert_eq!((check.status, check.since), (Verdict::Ok, Some(at(5))));
    assert!(check.detail.is_some_and(|detail| detail.starts_with("3 containers cannot be taken away")));
    let stray = stuck_check(&Stuck { strays: 1, ..Stuck::default() }).expect("told");
    assert!(stray.detail.is_some_and(|detail| detail.starts_with("1 container cannot")));
}

#[test]
fn a_task_that_is_dead_fails_and_one_that_runs_again_is_told() {
    let state = |name, standing| TaskState { name, deaths: 1, standing };
    let again = state("upkeep", Standing::Again { died_at: at(3) });
    assert!(tasks_check(&[state("observer", Standing::Well)]).is_none());
    let told = tasks_check(&[state("observer", Standing::Well), again.clone()]).expect("told");
    assert_eq!((told.status, told.since), (Verdict::Ok, Some(at(3))));
    assert!(told.detail.is_some_and(|detail| detail.contains("runs again: upkeep")));
    let dead = tasks_check(&[state("observer", Standing::Dead { died_at: at(9) }), again]).expect("told");
    assert_eq!((dead.status, dead.since), (Verdict::Failing, Some(at(9))));
    assert!(dead.detail.is_some_and(|detail| detail.contains("in a moment: observer;")));
}

#[test]
fn a_disk_is_ill_only_when_nothing_new_begins() {
    let disk = |role, state| Disk { role, path: "/d".into(), usage: DiskUse::default(), state, since: Timestamp::UNIX_EPOCH };
    let disks = |data, engine| [disk(DiskRole::Data, data), disk(DiskRole::Engine, engine)];
    let of = |data, engine| disk_check(&disks(data, engine), None).expect("a check");
    let (fine, low, full) = (of(DiskState::Fine, DiskState::Fine), of(DiskState::Fine, DiskState::Low), of(DiskState::Low, DiskState::Full));
    assert_eq!((fine.status, fine.detail), (Verdict::Ok, None));
    assert_eq!((low.status, low.detail.is_some_and(|detail| detail.contains("the engine"))), (Verdict::Ok, true));
    assert_eq!((full.status, full.since), (Verdict::Failing, Some(Timestamp::UNIX_EPOCH)));
    let silent = disk_check(&disks(DiskState::Fine, DiskState::Fine), Some(at(3))).expect("a check");
    assert_eq!((silent.status, silent.since), (Verdict::Failing, Some(at(3))));
    assert!(disk_check(&[], None).is_none(), "nobody has looked");
}
