//! Lists, counts and the history.

use super::*;
use crate::store::{Counts, EventQuery, JobFilter, RunnerFilter};

pub(in crate::store) async fn pages_stay_the_same_while_jobs_come(store: &dyn Store) {
    let mut ids = Vec::new();
    for n in 0..25 {
        ids.push(created(store, command(requirement(["a", "b"][n % 2], 1000), 0)).await.id);
    }
    ids.reverse();
    let mut seen: Vec<JobId> = Vec::new();
    loop {
        let page = store.jobs(JobFilter { before: seen.last().cloned(), limit: 4, ..JobFilter::default() }).await.expect("a page");
        assert!(page.len() <= 4);
        created(store, command(requirement("a", 1000), 9)).await;
        claim(store, 1).await.expect("a job");
        if page.is_empty() {
            break;
        }
        seen.extend(page.into_iter().map(|job| job.id));
    }
    assert_eq!(seen, ids);
}

pub(in crate::store) async fn filters_select(store: &dyn Store) {
    let a = created(store, of_project(command(requirement("x", 1000), 0), "p")).await.id;
    let b = created(store, of_project(command(requirement("y", 1000), 0), "p")).await.id;
    let c = created(store, command(requirement("x", 1000), 0)).await.id;
    store.cancel_job(&a, EndReason::CanceledByUser, t(1)).await.expect("canceled");
    let list = async |states: &[&str], project: Option<&str>, class: Option<&str>| {
        let states = states.iter().map(|&state| state.to_owned()).collect();
        let (project, class) = (project.map(ProjectName::from_trusted), class.map(ClassName::from_trusted));
        let jobs = store.jobs(JobFilter { states, project, class, before: None, limit: 10 }).await.expect("a list");
        jobs.into_iter().map(|job| job.id).collect::<Vec<_>>()
    };
    assert_eq!(list(&[], None, None).await, [c.clone(), b.clone(), a.clone()]);
    assert_eq!(list(&["queued"], None, None).await, [c.clone(), b.clone()]);
    assert_eq!(list(&["queued", "canceled", "queued"], None, None).await, [c.clone(), b.clone(), a.clone()]);
    assert_eq!(list(&[], Some("p"), None).await, [b.clone(), a.clone()]);
    assert_eq!(list(&[], None, Some("x")).await, [c.clone(), a.clone()]);
    assert_eq!(list(&["canceled"], Some("p"), Some("x")).await, [a]);
    assert!(list(&["running", "no such state"], None, None).await.is_empty());
    assert!(list(&[], Some("q"), None).await.is_empty());
}

pub(in crate::store) async fn open_runners_are_of_one_host_and_not_gone(store: &dyn Store) {
    let job = created(store, command(requirement("default", 1000), 0)).await.id;
    let busy = claim(store, 1).await.expect("a job").runner;
    let warm = planned("warm", RunnerOrigin::Pool);
    let mut elsewhere = planned("warm", RunnerOrigin::Request);
    elsewhere.host = HostId::from_trusted("box2");
    let leaving = planned("warm", RunnerOrigin::Pool);
    for runner in [&warm, &elsewhere, &leaving] {
        store.plan_runner(runner).await.expect("stored");
    }
    take(store, &leaving.id, [Step::StopOrdered { reason: EndReason::RunnerTerminated }, Step::Removed], 2).await;
    let open = store.open_runners(&HostId::from_trusted("box1")).await.expect("a list");
    let shown: Vec<_> = open.iter().map(|open| (open.runner.id.clone(), open.job.as_ref().map(|job| job.id.clone()))).collect();
    assert_eq!(shown, [(busy.id.clone(), Some(job)), (warm.id.clone(), None)]);

    let list = async |states: &[&str], class: Option<&str>, before: Option<&RunnerId>, limit| {
        let states = states.iter().map(|&state| state.to_owned()).collect();
        let filter = RunnerFilter { states, class: class.map(ClassName::from_trusted), before: before.cloned(), limit };
        store.runners(filter).await.expect("a list").into_iter().map(|runner| runner.id).collect::<Vec<_>>()
    };
    assert_eq!(list(&[], None, None, 10).await, [elsewhere.id.clone(), warm.id.clone(), busy.id.clone()]);
    assert_eq!(list(&[], None, Some(&elsewhere.id), 1).await, std::slice::from_ref(&warm.id));
    assert_eq!(list(&["gone"], None, None, 10).await, [leaving.id]);
    assert_eq!(list(&["starting"], Some("warm"), None, 10).await, [elsewhere.id, warm.id]);
}

pub(in crate::store) async fn counts_count(store: &dyn Store) {
    assert_eq!(store.counts().await.expect("counts"), Counts::default());
    let mut first = command(requirement("default", 1000), 0);
    first.job.created_at = t(5);
    created(store, first).await;
    let mut second = command(requirement("default", 1000), 0);
    second.job.created_at = t(8);
    let second = created(store, second).await;
    created(store, command(requirement("other", 1000), -1)).await;
    assert_eq!(store.counts().await.expect("counts").oldest_queued_at, Some(t(0)));
    claim(store, 9).await.expect("a job");
    store.cancel_job(&second.id, EndReason::CanceledByUser, t(9)).await.expect("canceled");
    let counts = store.counts().await.expect("counts");
    let named = |pairs: &[(&str, u64)]| pairs.iter().map(|(name, n)| ((*name).to_owned(), *n)).collect::<Vec<_>>();
    assert_eq!(counts.jobs, named(&[("canceled", 1), ("queued", 1), ("starting", 1)]));
    assert_eq!(counts.runners, named(&[("starting", 1)]));
}

pub(in crate::store) async fn the_queue_is_grouped(store: &dyn Store) {
    assert_eq!((store.queue_groups(10).await.expect("groups"), store.newest_event().await.expect("a seq")), (Vec::new(), 0));
    for (class, project, at) in [("default", Some("b"), 7), ("default", None, 8), ("other", Some("b"), 5), ("default", Some("b"), 9)] {
        let mut new = command(requirement(class, 1000), 0);
        new.job.created_at = t(at);
        new.job.spec.project = project.map(ProjectName::from_trusted);
        created(store, new).await;
    }
    let shown = async |most: u32| {
        let groups = store.queue_groups(most).await.expect("groups").into_iter();
        groups.map(|group| (group.class.to_string(), group.project.map(|one| one.to_string()), group.jobs, group.oldest)).collect::<Vec<_>>()
    };
    let b = || Some("b".to_owned());
    let all = [("other".to_owned(), b(), 1, t(5)), ("default".to_owned(), b(), 2, t(7)), ("default".to_owned(), None, 1, t(8))];
    assert_eq!(shown(10).await, all);
    assert_eq!(shown(2).await, [all[0].clone(), ("default".to_owned(), b(), 1, t(7))], "only the oldest are looked at");
    let events = store.events(EventQuery { job: None, after: 0, limit: 100 }).await.expect("events");
    assert_eq!(Some(store.newest_event().await.expect("a seq")), events.last().map(|event| event.seq));
    claim(store, 10).await.expect("a job");
    assert_eq!(shown(10).await.iter().map(|group| group.2).sum::<u64>(), 3, "what was claimed waits no more");
}

pub(in crate::store) async fn classes_have_queues_of_their_own(store: &dyn Store) {
    let classes = ["a", "b", "gone"].map(ClassName::from_trusted);
    let shown = async || {
        let queues = store.class_queues(&classes).await.expect("queues");
        assert!(queues.iter().map(|queue| &queue.class).eq(&classes), "in the order in which they were asked for");
        queues.into_iter().map(|queue| (queue.ready, queue.oldest)).collect::<Vec<_>>()
    };
    assert_eq!(shown().await, [(0, None); 3]);
    // Two requirements of one class, and a class that nobody asks for.
    for (class, cpus, priority, at) in [("a", 1000, 0, 1), ("a", 500, 5, 2), ("b", 1000, 0, 3), ("other", 1000, 0, 0)] {
        let mut new = command(requirement(class, cpus), priority);
        new.job.created_at = t(at);
        created(store, new).await;
    }
    assert_eq!(shown().await, [(2, Some(t(1))), (1, Some(t(3))), (0, None)], "the oldest is not the one that goes first");
    let runner = claim(store, 4).await.expect("a job").runner.id;
    assert_eq!(shown().await[0], (1, Some(t(1))), "what was claimed waits no more");
    take(store, &runner, [ended(Outcome::infrastructure(EndReason::StartFailed, "no"))], 5).await;
    let oldest = claim(store, 6).await.expect("a job");
    assert_eq!(oldest.job.expect("a job").created_at, t(1));
    assert_eq!(shown().await[0], (0, Some(t(2))), "one that waits for a later try waits, but is not ready");
}

pub(in crate::store) async fn events_are_in_order(store: &dyn Store) {
    let a = created(store, command(requirement("default", 1000), 0)).await.id;
    let b = created(store, command(requirement("default", 1000), 0)).await.id;
    let runner = claim(store, 1).await.expect("a job").runner.id;
    take(store, &runner, up(), 2).await;
    let all = store.events(EventQuery { job: None, after: 0, limit: 100 }).await.expect("events");
    assert!(all.is_sorted_by(|one, two| one.seq < two.seq));
    let shown: Vec<_> = all.iter().map(|event| (event.job.clone(), event.kind.name())).collect();
    let of = |job: &JobId, kind| (Some(job.clone()), kind);
    let created_and_started = [of(&a, "container_created"), of(&a, "container_started")];
    assert_eq!(shown[..3], [of(&a, "submitted"), of(&b, "submitted"), of(&a, "claimed")]);
    assert_eq!(shown[3..], created_and_started);
    let rest = store.events(EventQuery { job: Some(a), after: all[0].seq, limit: 2 }).await.expect("events");
    assert_eq!(rest, [all[2].clone(), all[3].clone()]);
}

pub(in crate::store) async fn the_latest_event_of_a_job_is_found(store: &dyn Store) {
    let job = created(store, command(requirement("default", 1000), 0)).await.id;
    created(store, command(requirement("default", 1000), -1)).await;
    let latest = async || store.latest_event(&job).await.expect("an answer").map(|event| event.kind.name());
    assert_eq!(latest().await, Some("submitted"));
    claim(store, 1).await.expect("a job");
    assert_eq!(latest().await, Some("claimed"));
    assert_eq!(store.latest_event(&JobId::generate()).await.expect("an answer"), None);
}
