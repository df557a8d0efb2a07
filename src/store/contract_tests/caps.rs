//! Limits of single projects: they hold in the commit that claims, and nobody else waits for them.

use super::*;

fn cap(project: &str, max_running: Option<u32>, max_gpus: Option<u32>) -> ProjectCap {
    ProjectCap { project: ProjectName::from_trusted(project), max_running, max_gpus }
}

async fn job_of(store: &dyn Store, project: &str, gpus: u32) -> JobId {
    let requirement = Requirement { gpus: (gpus > 0).then(|| GpuRequest::any(gpus)), ..requirement("default", 1000) };
    created(store, of_project(command(requirement, 0), project)).await.id
}

/// Claims until nothing is claimed any more, and tells the projects.
async fn drain(store: &dyn Store) -> Vec<String> {
    let mut projects = Vec::new();
    while let Some(claimed) = claim(store, 1).await {
        projects.push(claimed.job.and_then(|job| job.spec.project).expect("a project").to_string());
    }
    projects.sort();
    projects
}

async fn end_one(store: &dyn Store, project: &str) {
    let open = store.open_runners(&HostId::from_trusted("box1")).await.expect("runners");
    let of_project = |aggregate: &&Aggregate| {
        let job = aggregate.job.as_ref().filter(|job| !job.has_ended());
        job.is_some_and(|job| job.spec.project.as_ref().is_some_and(|name| name.as_str() == project))
    };
    let aggregate = open.iter().find(of_project).expect("one that runs");
    take(store, &aggregate.runner.id, [ended(Outcome::final_failure(EndReason::StartFailed, "no"))], 5).await;
}

async fn said(store: &dyn Store) -> Vec<Option<String>> {
    store.waiting().await.expect("the queue").into_iter().map(|waiting| waiting.capped.map(|reached| reached.to_string())).collect()
}

pub(in crate::store) async fn a_project_starts_no_more_jobs_than_it_may(store: &dyn Store) {
    store.set_caps(&[cap("a", Some(2), None)]).await.expect("limits");
    for project in ["a", "a", "a", "a", "b", "b", "b"] {
        job_of(store, project, 0).await;
    }
    // Candidates of before the first claim, as another machine would still have them: the limit holds nevertheless.
    let before = candidates(store).await;
    assert_eq!(before.len(), 2, "jobs of a limited project wait apart from the others");
    assert_eq!(drain(store).await, ["a", "a", "b", "b", "b"]);
    assert!(store.claim(&before, t(1)).await.expect("asked").is_none());
    assert_eq!(said(store).await, [Some("project a runs its most of 2 jobs".to_owned())]);
    end_one(store, "a").await;
    assert_eq!(said(store).await, [None]);
    assert_eq!(drain(store).await, ["a"]);
    assert_eq!(store.counts().await.expect("counts").jobs.iter().find(|(state, _)| state == "queued").map(|(_, jobs)| *jobs), Some(1));
}

pub(in crate::store) async fn gpus_are_limited_too(store: &dyn Store) {
    store.set_caps(&[cap("a", None, Some(3))]).await.expect("limits");
    for gpus in [2, 2, 1, 0] {
        job_of(store, "a", gpus).await;
    }
    // The second of two waits, the others fit beside the first.
    assert_eq!(drain(store).await.len(), 3);
    assert_eq!(said(store).await, [Some("project a has 3 of its most of 3 GPUs".to_owned())]);
    // One that could never start by the limit is started, to be refused.
    job_of(store, "a", 4).await;
    assert_eq!(drain(store).await, ["a"]);
    for _ in 0..4 {
        end_one(store, "a").await;
    }
    assert_eq!(drain(store).await, ["a"]);
}

pub(in crate::store) async fn limits_that_change_move_what_waits(store: &dyn Store) {
    let mut waits = Vec::new();
    for project in ["a", "b", "a", "b"] {
        waits.push(job_of(store, project, 0).await);
    }
    let lanes = async || store.waiting().await.expect("the queue").iter().map(|waiting| waiting.jobs).collect::<Vec<_>>();
    assert_eq!(lanes().await, [4]);
    store.set_caps(&[cap("a", Some(1), None), cap("c", Some(1), None)]).await.expect("limits");
    assert_eq!(lanes().await, [2, 2]);
    assert_eq!(drain(store).await, ["a", "b", "b"]);
    // One that runs and comes back does so under the limits that hold then.
    store.set_caps(&[]).await.expect("limits");
    assert_eq!(drain(store).await, ["a"]);
    store.set_caps(&[cap("a", Some(1), None)]).await.expect("limits");
    job_of(store, "a", 0).await;
    assert_eq!(said(store).await, [Some("project a runs its most of 1 job".to_owned())]);
    store.cancel_job(&waits[0], EndReason::CanceledByUser, t(2)).await.expect("canceled");
    assert_eq!(drain(store).await, Vec::<String>::new(), "it is told to end and still runs");
    assert_eq!(lanes().await, [1]);
}

pub(in crate::store) async fn a_runner_that_waits_takes_no_job_of_a_project_at_its_limit(store: &dyn Store) {
    store.set_caps(&[cap("a", Some(1), None)]).await.expect("limits");
    for number in 1..=2 {
        created(store, of_project(gitlab(requirement("default", 1000), 0, number), "a")).await;
    }
    let mut assigned = Vec::new();
    for _ in 0..2 {
        let runner = planned("default", RunnerOrigin::Pool);
        store.plan_runner(&runner).await.expect("planned");
        take(store, &runner.id, up(), 0).await;
        assigned.push(store.assign(&runner.id, t(1)).await.expect("asked").is_some());
    }
    assert_eq!(assigned, [true, false]);
}
