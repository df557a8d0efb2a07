//! Tests of the order in which rows and logs go.

use super::*;
use crate::domain::{EndReason, JobId};
use crate::store::SqliteStore;
use crate::store::contract_tests::{command, created, requirement, t};
use crate::store::log::LogStream;

async fn written(logs: &LogStore, job: &JobId) {
    let mut writer = logs.writer(job, 1).await.expect("a writer");
    writer.append(1, LogStream::Stdout, b"words\n").await.expect("taken");
    writer.close().await.expect("closed");
}

async fn left(logs: &LogStore) -> Vec<JobId> {
    let mut left = Vec::new();
    for shelf in logs.shelves().await.expect("shelves") {
        left.extend(logs.on_shelf(&shelf).await.expect("jobs"));
    }
    left.sort();
    left
}

/// The id of a job that was made at `t(millis)`.
fn id(millis: i64) -> JobId {
    JobId::from_trusted(format!("{:012x}7000800000000000{millis:04x}", t(millis).as_millisecond()))
}

/// Stores such a job.
async fn made(store: &SqliteStore, millis: i64) -> JobId {
    let mut new = command(requirement("default", 1000), 0);
    new.job.id = id(millis);
    created(store, new).await.id
}

#[test]
fn time_that_has_not_surely_passed_makes_nothing_old() {
    let passed = Duration::from_millis(50);
    assert_eq!(certain(t(100), passed, t(150)), t(150));
    assert_eq!(certain(t(100), passed, t(9_000_000)), t(150), "the clock jumped ahead, or was behind at the start");
    assert_eq!(certain(t(100), passed, t(20)), t(20), "it was ahead, and is set back");
}

#[tokio::test]
async fn logs_go_with_their_jobs_after_their_time_and_when_nobody_knows_them() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = SqliteStore::open(&dir.path().join("queue.db")).expect("a store");
    let logs = LogStore::new(dir.path().join("logs"), 1 << 20).expect("a store of logs");
    assert_eq!(left(&logs).await, [], "before the first job there is no directory");
    let mut jobs = Vec::new();
    for at in [10, 20, 30] {
        let job = made(&store, at).await;
        store.cancel_job(&job, EndReason::CanceledByUser, t(at)).await.expect("cancelled");
        jobs.push(job);
    }
    jobs.push(made(&store, 40).await);
    for job in &jobs {
        written(&logs, job).await;
    }
    // What a crash left between rows and logs, what a store that was since replaced knew, and what is not ours.
    written(&logs, &id(5)).await;
    let young = JobId::generate();
    written(&logs, &young).await;
    let foreign = dir.path().join("logs/no job/at all");
    std::fs::create_dir_all(&foreign).expect("made");

    jobs.push(young);
    sweep_logs(&store, &logs, t(6)).await.expect("swept");
    assert_eq!(left(&logs).await, jobs, "only the old one whose job is not there went");
    let retention = Retention { jobs: Duration::from_millis(1), ..Retention::default() };
    forget(&store, &logs, &keep(&retention, t(12))).await.expect("forgotten");
    assert_eq!(left(&logs).await, jobs[1..], "the log went with its job");
    sweep_logs(&store, &logs, t(21)).await.expect("swept");
    assert_eq!(left(&logs).await, jobs[2..], "a log may go before its job");
    assert!(store.job(&jobs[1]).await.expect("read").is_some());
    forget(&store, &logs, &Keep { since: t(1_000), ..keep(&retention, t(12)) }).await.expect("forgotten");
    assert_eq!(left(&logs).await, jobs[3..], "one that waits keeps everything");
    assert!(foreign.exists());
}

#[test]
fn what_is_kept_is_counted_back_from_now() {
    let kept = keep(&Retention::default(), t(0));
    let days = |days: i64| jiff::SignedDuration::from_hours(24 * days);
    assert_eq!((t(0).duration_since(kept.since), t(0).duration_since(kept.usage_since)), (days(30), days(365)));
    assert_eq!((kept.most_jobs, t(0).duration_since(kept.spare_since).as_mins()), (100_000, 10));
    assert_eq!(keep(&Retention::default(), Timestamp::MIN).since, Timestamp::MIN);
}
