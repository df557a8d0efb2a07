//! Whose turn it is: priority, then fair share between projects, then age.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// A job of a project.
async fn job_of(store: &dyn Store, project: &str, weight: u32, priority: i32) -> JobId {
    created(store, NewJob { weight, ..of_project(command(requirement("default", 1000), priority), project) }).await.id
}

/// The projects of the next jobs, in the order in which they are claimed.
async fn turns(store: &dyn Store, most: usize) -> Vec<String> {
    let mut turns = Vec::new();
    while turns.len() < most
        && let Some(claimed) = claim(store, 1).await
    {
        turns.push(claimed.job.and_then(|job| job.spec.project).expect("a project").to_string());
    }
    turns
}

pub(in crate::store) async fn a_single_job_does_not_wait_for_a_crowd(store: &dyn Store) {
    for _ in 0..200 {
        job_of(store, "crowd", 1, 0).await;
    }
    assert_eq!(turns(store, 50).await.len(), 50);
    let single = job_of(store, "single", 1, 0).await;
    let among = store.waiting().await.expect("the queue").iter().map(|waiting| waiting.id).collect::<Vec<_>>();
    assert!(store.ahead(&single, &among, 1000).await.expect("a number") <= 1);
    let next = turns(store, 2).await;
    assert!(next.contains(&"single".to_owned()), "{next:?}");
    // The more important goes first, whatever its project had.
    job_of(store, "crowd", 1, 1).await;
    job_of(store, "single", 1, 0).await;
    assert_eq!(turns(store, 1).await, ["crowd"]);
}

pub(in crate::store) async fn projects_take_turns_by_weight(store: &dyn Store) {
    for (project, weight) in [("a", 1), ("b", 3)] {
        for _ in 0..40 {
            job_of(store, project, weight, 0).await;
        }
    }
    let turns = turns(store, 40).await;
    for end in 1..=turns.len() {
        let of = |project: &str| turns[..end].iter().filter(|turn| *turn == project).count();
        let (a, b) = (of("a"), of("b"));
        assert!(3 * a <= b + 3 && b <= 3 * a + 3, "{a} of a and {b} of b after {end} turns");
    }
}

pub(in crate::store) async fn turns_that_were_cancelled_are_not_counted(store: &dyn Store) {
    for _ in 0..30 {
        let id = job_of(store, "a", 1, 0).await;
        store.cancel_job(&id, EndReason::CanceledByUser, t(1)).await.expect("canceled");
    }
    let mut crowd = Vec::new();
    for _ in 0..30 {
        crowd.push(job_of(store, "a", 1, 0).await);
    }
    for id in crowd {
        store.cancel_job(&id, EndReason::CanceledByUser, t(1)).await.expect("canceled");
    }
    for _ in 0..10 {
        job_of(store, "b", 1, 0).await;
    }
    job_of(store, "a", 1, 0).await;
    let next = turns(store, 2).await;
    assert!(next.contains(&"a".to_owned()), "{next:?}");
}

pub(in crate::store) async fn a_project_that_was_away_saved_no_turns(store: &dyn Store) {
    for _ in 0..60 {
        job_of(store, "steady", 1, 0).await;
    }
    job_of(store, "back", 1, 0).await;
    assert_eq!(turns(store, 40).await.iter().filter(|turn| *turn == "back").count(), 1);
    for _ in 0..20 {
        job_of(store, "back", 1, 0).await;
    }
    let next = turns(store, 20).await;
    let back = next.iter().filter(|turn| *turn == "back").count();
    assert!((9..=11).contains(&back), "{back} of 20 turns");
}

pub(in crate::store) async fn runners_that_wait_take_jobs_in_turns_too(store: &dyn Store) {
    let mut number = 0;
    let mut submit = async |project: &str| {
        number += 1;
        created(store, of_project(gitlab(requirement("warm", 1000), 0, number), project)).await;
    };
    let next = async || {
        let warm = planned("warm", RunnerOrigin::Pool);
        store.plan_runner(&warm).await.expect("stored");
        let bound = store.assign(&warm.id, t(1)).await.expect("an answer").expect("a job");
        bound.job.and_then(|job| job.spec.project).expect("a project").to_string()
    };
    for _ in 0..3 {
        submit("crowd").await;
    }
    assert_eq!([next().await, next().await], ["crowd", "crowd"]);
    submit("single").await;
    submit("single").await;
    assert_eq!([next().await, next().await, next().await], ["single", "crowd", "single"]);
}

/// Who brings jobs when, and how often somebody is served: projects by number, and `None` for a claim.
pub(in crate::store) fn arrivals() -> impl Strategy<Value = Vec<Option<usize>>> {
    proptest::collection::vec(prop_oneof![3 => (0_usize..4).prop_map(Some), 2 => Just(None)], 1..120)
}

/// With equal weights no project gets more than one job ahead of its share: since any two began to wait together, the one had at most two
/// turns more than the other, of which one is its own. Inside a project the oldest job goes first, and nobody is served while nobody waits.
pub(in crate::store) async fn turns_are_fair(store: &dyn Store, arrivals: Vec<Option<usize>>) {
    let names = ["a", "b", "c", "d"];
    let mut waiting: BTreeMap<usize, Vec<JobId>> = BTreeMap::new();
    // By pair: how often the one was served more than the other since both wait.
    let mut lead: BTreeMap<(usize, usize), i64> = BTreeMap::new();
    for arrival in arrivals {
        let Some(project) = arrival else {
            let Some(claimed) = claim(store, 1).await else {
                assert!(waiting.values().all(Vec::is_empty), "nobody is served although somebody waits");
                continue;
            };
            let job = claimed.job.expect("a job");
            let served = names.iter().position(|name| Some(*name) == job.spec.project.as_ref().map(ProjectName::as_str)).expect("a project");
            assert_eq!(waiting.get_mut(&served).expect("waiting").remove(0), job.id, "the oldest of its project");
            let others = (0..names.len()).filter(|other| *other != served && waiting.get(other).is_some_and(|jobs| !jobs.is_empty()));
            for other in others {
                let ahead = lead.entry((served, other)).or_default();
                *ahead += 1;
                assert!(*ahead <= 2, "{} was served {ahead} times more than {}, which waited all the time", names[served], names[other]);
                *lead.entry((other, served)).or_default() -= 1;
            }
            if waiting[&served].is_empty() {
                lead.retain(|(one, other), _| *one != served && *other != served);
            }
            continue;
        };
        waiting.entry(project).or_default().push(job_of(store, names[project], 1, 0).await);
    }
}
