//! Who gets which job.

use std::collections::HashSet;

use futures_util::future::join_all;
use proptest::prelude::*;

use super::*;
use crate::store::StoreError;

pub(in crate::store) async fn the_best_job_goes_first(store: &dyn Store) {
    let mut ids = Vec::new();
    for (class, priority) in [("a", 0), ("b", 5), ("a", 5), ("c", -1), ("b", 0), ("a", 9)] {
        ids.push(created(store, command(requirement(class, 1000), priority)).await.id);
    }
    let mut order = Vec::new();
    while let Some(claimed) = claim(store, 1).await {
        let job = claimed.job.expect("a job").id;
        order.push(ids.iter().position(|id| *id == job).expect("one of ours"));
    }
    assert_eq!(order, [5, 1, 2, 0, 4, 3]);
}

pub(in crate::store) async fn a_claim_stores_job_runner_attempt_and_event(store: &dyn Store) {
    assert!(store.claim(&[], t(0)).await.expect("a claim").is_none());
    let job = created(store, gitlab(requirement("default", 1000), 0, 1)).await;
    let offered = candidates(store).await;
    let claimed = store.claim(&offered, t(3)).await.expect("a claim").expect("a job");
    assert_eq!(claimed.runner.id, offered[0].runner.id);
    assert_eq!(claimed.runner.job, Some((job.id.clone(), 1)));
    assert_eq!(store.runner(&claimed.runner.id).await.expect("read"), Some(claimed.clone()));
    let stored = store.job(&job.id).await.expect("read").expect("a job");
    assert_eq!(Some(&stored), claimed.job.as_ref());
    assert_eq!(store.attempts(&job.id).await.expect("read"), [stored.attempt.clone().expect("an attempt")]);
    assert_eq!(history(store, &job.id).await, ["submitted", "claimed"]);
    assert!(store.gitlab_job(&job.id).await.expect("read").is_some());
    assert!(store.waiting().await.expect("the queue").is_empty());
    // An offer that outlived its job gets nothing, and its runner is not stored.
    let mut late = offered;
    late[0].runner.id = RunnerId::generate();
    assert!(store.claim(&late, t(4)).await.expect("a claim").is_none());
    assert!(store.runner(&late[0].runner.id).await.expect("read").is_none());
}

pub(in crate::store) async fn no_job_is_claimed_twice(store: &dyn Store) {
    for n in 0..64 {
        created(store, command(requirement(["a", "b", "c"][n % 3], 1000), 0)).await;
    }
    let offered = candidates(store).await;
    let claims = join_all((0..80).map(|_| {
        let mut offered = offered.clone();
        for candidate in &mut offered {
            candidate.runner.id = RunnerId::generate();
        }
        async move { store.claim(&offered, t(1)).await.expect("a claim") }
    }))
    .await;
    let claimed: Vec<JobId> = claims.into_iter().flatten().map(|claimed| claimed.job.expect("a job").id).collect();
    assert_eq!(claimed.len(), 64);
    assert_eq!(claimed.iter().collect::<HashSet<_>>().len(), 64);
}

pub(in crate::store) async fn a_warm_runner_gets_the_best_job_of_gitlab_of_its_class(store: &dyn Store) {
    let warm = planned("warm", RunnerOrigin::Pool);
    store.plan_runner(&warm).await.expect("stored");
    assert!(store.assign(&warm.id, t(1)).await.expect("an answer").is_none());
    created(store, command(requirement("warm", 1000), 9)).await;
    created(store, gitlab(requirement("other", 1000), 9, 1)).await;
    assert!(store.assign(&warm.id, t(1)).await.expect("an answer").is_none(), "neither a command nor another class");
    created(store, gitlab(requirement("warm", 1000), 0, 2)).await;
    let best = created(store, gitlab(requirement("warm", 2000), 1, 3)).await;
    created(store, gitlab(requirement("warm", 1000), 1, 4)).await;
    take(store, &warm.id, up().into_iter().chain([Step::Reported]), 1).await;
    let bound = store.assign(&warm.id, t(2)).await.expect("an answer").expect("a job");
    assert_eq!((bound.job.as_ref().expect("a job").id.clone(), bound.runner.state), (best.id.clone(), RunnerState::Busy));
    assert_eq!(store.runner(&warm.id).await.expect("read"), Some(bound));
    assert_eq!(history(store, &best.id).await, ["submitted", "assigned"]);
    assert!(matches!(store.assign(&warm.id, t(2)).await, Err(StoreError::Refused(_))), "it has a job");
    assert!(matches!(store.assign(&RunnerId::generate(), t(2)).await, Err(StoreError::UnknownRunner(_))));
}

pub(in crate::store) async fn a_job_that_needs_a_fresh_runner_is_claimed_and_never_assigned(store: &dyn Store) {
    let warm = planned("warm", RunnerOrigin::Pool);
    store.plan_runner(&warm).await.expect("stored");
    take(store, &warm.id, up().into_iter().chain([Step::Reported]), 1).await;
    let needs = Requirement { start: Start::Fresh, ..requirement("warm", 1000) };
    let fresh = created(store, gitlab(needs.clone(), 9, 1)).await;
    assert!(store.assign(&warm.id, t(1)).await.expect("an answer").is_none(), "the only job needs a fresh runner");
    let plain = created(store, gitlab(requirement("warm", 1000), 0, 2)).await;
    let shown: Vec<_> = store.waiting().await.expect("the queue").into_iter().map(|waiting| waiting.requirement).collect();
    assert_eq!(shown, [needs, requirement("warm", 1000)], "they do not share a requirement");
    let bound = store.assign(&warm.id, t(2)).await.expect("an answer").expect("a job");
    assert_eq!(bound.job.expect("a job").id, plain.id);
    assert_eq!(claim(store, 3).await.expect("a claim").job.expect("a job").id, fresh.id);
}

pub(in crate::store) async fn waiting_shows_the_best_head_first(store: &dyn Store) {
    for (class, priority) in [("a", 0), ("b", 1), ("a", 0), ("c", 1), ("a", -5)] {
        created(store, command(requirement(class, 1000), priority)).await;
    }
    let waiting = store.waiting().await.expect("the queue");
    let shown: Vec<_> = waiting.iter().map(|waiting| (waiting.requirement.clone(), waiting.jobs)).collect();
    assert_eq!(shown, [(requirement("b", 1000), 1), (requirement("c", 1000), 1), (requirement("a", 1000), 3)]);
}

pub(in crate::store) async fn the_jobs_ahead_are_those_that_would_be_claimed_before(store: &dyn Store) {
    let mut ids = Vec::new();
    for (class, priority) in [("a", 0), ("b", 0), ("a", 5), ("a", 0), ("b", 9), ("a", -1), ("c", 7)] {
        ids.push(created(store, command(requirement(class, 1000), priority)).await.id);
    }
    let later = created(store, command(requirement("a", 1000), 8)).await.id;
    let runner = claim_of(store, "a").await.runner.id;
    take(store, &runner, [ended(Outcome::infrastructure(EndReason::StartFailed, "no"))], 1).await;
    let waiting = store.waiting().await.expect("the queue");
    let of = |classes: &[&str]| {
        let wanted = waiting.iter().filter(|waiting| classes.contains(&waiting.requirement.class.as_str()));
        wanted.map(|waiting| waiting.id).collect::<Vec<_>>()
    };
    let ahead = async |job: &JobId, classes: &[&str], most| store.ahead(job, &of(classes), most).await.expect("a number");
    assert_eq!(ahead(&ids[3], &["a", "b", "c"], 100).await, 5, "0, 1, 2, 4 and 6; neither 5 nor the one that waits for its next try");
    assert_eq!(ahead(&ids[3], &["a", "b", "c"], 3).await, 3, "no further than asked");
    assert_eq!(ahead(&ids[3], &["a"], 100).await, 2);
    assert_eq!(ahead(&ids[4], &["a", "b", "c"], 100).await, 0);
    assert_eq!(ahead(&ids[5], &["a", "b"], 100).await, 5);
    assert_eq!(ahead(&later, &["a", "b", "c"], 100).await, 1, "it keeps its place");
    assert_eq!(ahead(&ids[3], &[], 100).await, 0);
    assert_eq!(ahead(&JobId::generate(), &["a"], 100).await, 0);
    // What is counted is what is then claimed.
    let (mut left, all) = (ahead(&ids[5], &["a", "b", "c"], 100).await, ["a", "b", "c"]);
    while let Some(claimed) = claim(store, 2).await {
        if claimed.job.expect("a job").id == ids[5] {
            break;
        }
        left -= 1;
        assert_eq!(ahead(&ids[5], &all, 100).await, left);
    }
    assert_eq!(left, 0);
}

/// Claims the best job of a class.
async fn claim_of(store: &dyn Store, class: &str) -> Aggregate {
    let offered = candidates(store).await.into_iter().filter(|candidate| candidate.runner.class.as_str() == class).collect::<Vec<_>>();
    store.claim(&offered, t(1)).await.expect("a claim").expect("a job")
}

/// What is done with the queue in [`claims_follow_the_model`].
#[derive(Debug, Clone)]
pub(in crate::store) enum Deed {
    Submit { class: usize, priority: i32 },
    Cancel(prop::sample::Index),
    Claim { classes: Vec<bool> },
    FailAndRetry,
}

/// Any sequence of deeds.
pub(in crate::store) fn deeds() -> impl Strategy<Value = Vec<Deed>> {
    let deed = prop_oneof![
        4 => (0_usize..4, -2_i32..3).prop_map(|(class, priority)| Deed::Submit { class, priority }),
        1 => any::<prop::sample::Index>().prop_map(Deed::Cancel),
        3 => proptest::collection::vec(any::<bool>(), 4).prop_map(|classes| Deed::Claim { classes }),
        1 => Just(Deed::FailAndRetry),
    ];
    proptest::collection::vec(deed, 1..40)
}

/// The store gives out jobs as a plain list would that is searched from its beginning.
pub(in crate::store) async fn claims_follow_the_model(store: &dyn Store, deeds: Vec<Deed>) {
    let classes = ["a", "b", "c", "d"];
    let mut arrived: Vec<(JobId, usize, i32)> = Vec::new();
    let mut waits: HashSet<JobId> = HashSet::new();
    let mut running: Vec<RunnerId> = Vec::new();
    for deed in deeds {
        match deed {
            Deed::Submit { class, priority } => {
                let job = created(store, command(requirement(classes[class], 1000), priority)).await;
                waits.insert(job.id.clone());
                arrived.push((job.id, class, priority));
            }
            Deed::Cancel(index) if !arrived.is_empty() => {
                let id = index.get(&arrived).0.clone();
                store.cancel_job(&id, EndReason::CanceledByUser, t(1)).await.expect("canceled");
                waits.remove(&id);
            }
            Deed::Claim { classes: wanted } => {
                let offered = candidates(store).await.into_iter();
                let number = |name: &ClassName| classes.iter().position(|class| *class == name.as_str()).expect("a class");
                let offered: Vec<_> = offered.filter(|candidate| wanted[number(&candidate.runner.class)]).collect();
                let fits = arrived.iter().filter(|(id, class, _)| wanted[*class] && waits.contains(id));
                // `max_by_key` takes the last of equals, so the list is turned round.
                let expected = fits.rev().max_by_key(|(_, _, priority)| *priority).map(|(id, ..)| id.clone());
                let claimed = store.claim(&offered, t(1)).await.expect("a claim");
                assert_eq!(claimed.as_ref().and_then(|claimed| claimed.job.as_ref()).map(|job| job.id.clone()), expected);
                running.extend(claimed.map(|claimed| claimed.runner.id));
                expected.map(|id| waits.remove(&id));
            }
            Deed::FailAndRetry => {
                let Some(runner) = running.pop() else { continue };
                let failed = Outcome::infrastructure(EndReason::StartFailed, "no");
                let after = store.apply(&runner, ended(failed), t(1)).await.expect("taken").job.expect("a job");
                if matches!(after.state, JobState::Queued { .. }) {
                    waits.insert(after.id);
                }
                store.promote_due(t(10_000)).await.expect("promoted");
            }
            Deed::Cancel(_) => {}
        }
        let waiting: u64 = store.waiting().await.expect("the queue").iter().map(|waiting| waiting.jobs).sum();
        assert_eq!(waiting, waits.len() as u64);
    }
}
