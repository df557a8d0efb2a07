//! What ended long ago, and what stays.

use super::*;
use crate::store::{EventQuery, IdempotencyKey, Keep};

/// Keeps what ended at or after `since`, whatever else.
fn since(since: i64) -> Keep {
    Keep { since: t(since), most_jobs: u32::MAX, spare_since: t(since), usage_since: t(since) }
}

/// Takes away until nothing is left to take.
async fn forget(store: &dyn Store, keep: Keep) -> Vec<JobId> {
    let mut gone = Vec::new();
    loop {
        let some = store.forget_ended(&keep).await.expect("forgotten");
        gone.extend(some.jobs);
        if some.is_all {
            return gone;
        }
    }
}

/// A job that has run and whose runner is gone.
async fn over(store: &dyn Store, new: NewJob, at: i64) -> (JobId, RunnerId) {
    let job = created(store, new).await.id;
    let runner = claim(store, at).await.expect("a job").runner.id;
    take(store, &runner, up(), at).await;
    store.write_gpu_usage(&[(job.clone(), 1, GpuUsage::default())]).await.expect("written");
    take(store, &runner, [ended(Outcome::Succeeded)].into_iter().chain(OFF), at).await;
    (job, runner)
}

pub(in crate::store) async fn what_ended_long_ago_goes_with_all_that_belongs_to_it(store: &dyn Store) {
    let keyed = || {
        let mut new = gitlab(requirement("default", 1000), 0, 42);
        new.idempotency = Some(IdempotencyKey { key: "k".to_owned(), body_sha256: [1; 32] });
        new
    };
    let (old, runner) = over(store, keyed(), 10).await;
    let (young, _) = over(store, command(requirement("default", 2000), 0), 20).await;
    assert_eq!(forget(store, since(10)).await, [], "at that very time is not before it");
    let without = async |before| store.without_logs(&[old.clone(), young.clone(), JobId::from_trusted("x1")], t(before)).await.expect("asked");
    assert_eq!(without(10).await, [JobId::from_trusted("x1")]);
    assert_eq!(without(11).await, [old.clone(), JobId::from_trusted("x1")]);
    assert_eq!(forget(store, since(11)).await, std::slice::from_ref(&old));
    assert_eq!(store.job(&old).await.expect("read"), None);
    assert_eq!(store.runner(&runner).await.expect("read"), None);
    assert!(store.attempts(&old).await.expect("read").is_empty() && history(store, &old).await.is_empty());
    assert!(store.gpu_usage(&old).await.expect("read").is_empty());
    assert!(store.jobs_of_gitlab("https://gitlab.example.com", 42).await.expect("read").is_empty());
    assert_eq!(store.counts().await.expect("counts").jobs, [("succeeded".to_owned(), 1)]);
    assert_eq!(history(store, &young).await.len(), 7);
    assert_eq!(without(11).await, [old, JobId::from_trusted("x1")], "its log is nobody's now");
    // Its key and its job there are as new.
    created(store, keyed()).await;
    // A runner without a job, and what happened to it.
    let runner = planned("default", RunnerOrigin::Request);
    store.plan_runner(&runner).await.expect("stored");
    store.note(&runner.id, EventKind::Adopted, t(30)).await.expect("noted");
    take(store, &runner.id, [Step::StopOrdered { reason: EndReason::RunnerTerminated }], 30).await;
    assert_eq!(forget(store, since(1_000)).await, [young], "what is open stays, however old");
    assert!(store.runner(&runner.id).await.expect("read").is_some());
    take(store, &runner.id, OFF, 40).await;
    forget(store, since(1_000)).await;
    assert_eq!(store.runner(&runner.id).await.expect("read"), None);
    let left = store.events(EventQuery { job: None, after: 0, limit: 100 }).await.expect("events");
    assert_eq!(left.iter().map(|event| event.kind.name()).collect::<Vec<_>>(), ["submitted"], "{left:?}");
}

pub(in crate::store) async fn of_many_jobs_the_youngest_are_kept(store: &dyn Store) {
    let mut ended = Vec::new();
    for at in 1..=5 {
        ended.push(over(store, command(requirement("default", 1000), 0), at).await.0);
    }
    created(store, command(requirement("default", 1000), 0)).await;
    let most = |most_jobs, spare| Keep { most_jobs, spare_since: t(spare), ..since(0) };
    assert_eq!(forget(store, most(5, 100)).await, [], "those that are open do not count");
    assert_eq!(forget(store, most(0, 2)).await, ended[..1], "no other has ended long enough ago");
    assert_eq!(forget(store, most(2, 100)).await, ended[1..3], "the oldest go");
    // One whose container is there still goes later, whoever else goes in its place.
    let last = claim(store, 50).await.expect("a job").runner.id;
    take(store, &last, [super::ended(Outcome::final_failure(EndReason::StartFailed, "no"))], 3).await;
    assert_eq!(forget(store, most(1, 100)).await, ended[3..], "two more than one");
    assert_eq!(forget(store, since(100)).await, []);
    take(store, &last, OFF, 60).await;
    assert_eq!(forget(store, since(100)).await.len(), 1);
}

pub(in crate::store) async fn what_repeats_a_job_outlives_it(store: &dyn Store) {
    let (first, _) = over(store, command(requirement("default", 1000), 0), 10).await;
    let mut again = command(requirement("default", 1000), 0);
    again.job.retry_of = Some(first.clone());
    let again = created(store, again).await.id;
    assert_eq!(forget(store, since(100)).await, [first]);
    assert_eq!(store.job(&again).await.expect("read").expect("a job").retry_of, None);
}

pub(in crate::store) async fn positions_in_the_history_go_on_after_a_gap(store: &dyn Store) {
    over(store, command(requirement("default", 1000), 0), 10).await;
    let newest = store.newest_event().await.expect("a position");
    assert!(newest >= 7);
    forget(store, since(100)).await;
    assert_eq!(store.newest_event().await.expect("a position"), newest, "whoever has read so far has read all");
    let job = created(store, command(requirement("default", 1000), 0)).await.id;
    for after in [0, 3, newest] {
        let rest = store.events(EventQuery { job: None, after, limit: 10 }).await.expect("events");
        assert_eq!(rest.iter().map(|event| (event.seq > newest, event.job.clone())).collect::<Vec<_>>(), [(true, Some(job.clone()))]);
    }
}

pub(in crate::store) async fn turns_are_forgotten_when_nobody_waits(store: &dyn Store) {
    let next = async |at| claim(store, at).await.and_then(|bound| bound.job).and_then(|job| job.spec.project).expect("a project").to_string();
    let of = async |project: &str| created(store, of_project(command(requirement("default", 1000), 0), project)).await;
    for _ in 0..3 {
        of("a").await;
    }
    of("b").await;
    forget(store, since(0)).await;
    assert_eq!([next(1).await, next(2).await], ["a", "b"], "while jobs wait, turns stand");
    next(3).await;
    next(4).await;
    // Nothing waits: the one that had three is not behind the one that had one.
    forget(store, since(0)).await;
    of("a").await;
    of("b").await;
    assert_eq!([next(5).await, next(6).await], ["a", "b"]);
}
