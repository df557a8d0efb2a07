//! What comes in.

use super::*;
use crate::store::{Delivery, IdempotencyKey, Recorded};

pub(in crate::store) async fn a_job_is_stored_with_its_event(store: &dyn Store) {
    let new = of_project(command(requirement("default", 1000), -3), "team/app");
    let job = created(store, new.clone()).await;
    assert_eq!(job, new.job);
    assert_eq!(store.job(&job.id).await.expect("read"), Some(job.clone()));
    assert_eq!(history(store, &job.id).await, ["submitted"]);
    assert!(store.attempts(&job.id).await.expect("read").is_empty());
    assert_eq!(store.job(&JobId::generate()).await.expect("read"), None);
    // Once more by somebody who never heard the answer.
    assert!(matches!(store.submit(new).await, Ok(Submission::Existing(known)) if *known == job));
    assert_eq!(history(store, &job.id).await, ["submitted"]);
    store.ping().await.expect("a ping");
}

pub(in crate::store) async fn a_repeated_key_gives_the_same_job(store: &dyn Store) {
    let keyed = |byte| {
        let mut new = command(requirement("default", 1000), 0);
        new.idempotency = Some(IdempotencyKey { key: "k".to_owned(), body_sha256: [byte; 32] });
        new.queue_limit = 1;
        new
    };
    let first = created(store, keyed(1)).await;
    // Even though the queue is full by now.
    assert!(matches!(store.submit(keyed(1)).await, Ok(Submission::Existing(job)) if job.id == first.id));
    assert!(matches!(store.submit(keyed(2)).await, Ok(Submission::KeyReused)));
    assert_eq!(store.forget_deliveries(t(1_000_000)).await.expect("forgotten"), 0, "a key is kept as long as its job");
    assert!(matches!(store.submit(keyed(1)).await, Ok(Submission::Existing(job)) if job.id == first.id));
}

pub(in crate::store) async fn a_job_of_gitlab_is_taken_once(store: &dyn Store) {
    let first = created(store, gitlab(requirement("default", 1000), 0, 42)).await;
    let again = || gitlab(requirement("default", 2000), 9, 42);
    let mut renewed = again();
    renewed.gitlab.as_mut().expect("of GitLab").token = "renewed".to_owned();
    assert!(matches!(store.submit(renewed).await, Ok(Submission::Existing(job)) if job.id == first.id));
    assert_eq!(store.gitlab_job(&first.id).await.expect("read").expect("kept").token, "renewed");
    let mut elsewhere = again();
    elsewhere.gitlab.as_mut().expect("of GitLab").reference.url = "https://other.example.com".to_owned();
    created(store, elsewhere).await;
    created(store, gitlab(requirement("default", 1000), 0, 43)).await;
    // Once it was given back, a further offer is a job of its own.
    store.cancel_job(&first.id, EndReason::CanceledInGitlab, t(1)).await.expect("canceled");
    let second = created(store, again()).await;
    assert_ne!(second.id, first.id);
    assert!(matches!(store.submit(again()).await, Ok(Submission::Existing(job)) if job.id == second.id));
    assert_eq!(store.jobs_of_gitlab("https://gitlab.example.com", 42).await.expect("read"), [second.id, first.id]);
}

pub(in crate::store) async fn a_job_that_is_submitted_once_more_is_there(store: &dyn Store) {
    let new = gitlab(requirement("default", 1000), 0, 42);
    let first = created(store, new.clone()).await;
    assert!(matches!(store.submit(new.clone()).await, Ok(Submission::Existing(job)) if job.id == first.id));
    store.cancel_job(&first.id, EndReason::CanceledInGitlab, t(1)).await.expect("canceled");
    assert!(matches!(store.submit(new).await, Ok(Submission::Existing(job)) if job.has_ended()), "it had not heard that it was stored");
}

pub(in crate::store) async fn a_job_of_gitlab_is_found_by_its_id_there(store: &dyn Store) {
    const URL: &str = "https://gitlab.example.com";
    const LARGE: u64 = (1 << 53) + 1;
    created(store, command(requirement("default", 1000), 0)).await;
    let small = created(store, gitlab(requirement("default", 1000), 0, 42)).await.id;
    let large = created(store, gitlab(requirement("default", 1000), 0, LARGE)).await.id;
    let find = async |url, id| store.jobs_of_gitlab(url, id).await.expect("read").pop();
    assert_eq!((find(URL, 42).await, find(URL, LARGE).await), (Some(small.clone()), Some(large)));
    for (url, id) in [(URL, 43), (URL, LARGE - 1), (URL, u64::MAX), ("https://other.example.com", 42), ("", 42)] {
        assert_eq!(find(url, id).await, None, "{url} {id}");
    }
    store.cancel_job(&small, EndReason::CanceledInGitlab, t(1)).await.expect("canceled");
    assert_eq!(find(URL, 42).await, Some(small), "also after its end");
}

pub(in crate::store) async fn a_full_queue_refuses_only_its_project(store: &dyn Store) {
    let limited = |project: Option<&str>| {
        let new = command(requirement("default", 1000), 0);
        let mut new = match project {
            Some(project) => of_project(new, project),
            None => new,
        };
        new.queue_limit = 2;
        new
    };
    for project in [Some("a"), None] {
        let first = created(store, limited(project)).await;
        created(store, limited(project)).await;
        assert!(matches!(store.submit(limited(project)).await, Ok(Submission::QueueFull { limit: 2 })));
        store.cancel_job(&first.id, EndReason::CanceledByUser, t(1)).await.expect("canceled");
        created(store, limited(project)).await;
        assert!(matches!(store.submit(limited(project)).await, Ok(Submission::QueueFull { limit: 2 })));
    }
    created(store, limited(Some("b"))).await;
    // One of each: they take turns.
    for _ in 0..3 {
        claim(store, 1).await.expect("a job");
    }
    created(store, limited(Some("a"))).await;
}

pub(in crate::store) async fn a_whole_queue_that_is_full_refuses_everybody_but_who_was_accepted(store: &dyn Store) {
    let limited = |project: &str, key: &str| {
        let new = of_project(command(requirement("default", 1000), 0), project);
        NewJob { whole_queue_limit: 2, idempotency: Some(IdempotencyKey { key: key.to_owned(), body_sha256: [0; 32] }), ..new }
    };
    let first = created(store, limited("a", "1")).await;
    created(store, limited("b", "2")).await;
    assert!(matches!(store.submit(limited("c", "3")).await, Ok(Submission::WholeQueueFull { limit: 2 })));
    assert!(matches!(store.submit(limited("a", "1")).await, Ok(Submission::Existing(job)) if job.id == first.id));
    claim(store, 1).await.expect("a job");
    created(store, limited("c", "3")).await;
    assert!(matches!(store.submit(limited("c", "4")).await, Ok(Submission::WholeQueueFull { limit: 2 })));
}

pub(in crate::store) async fn deliveries_are_remembered_until_forgotten(store: &dyn Store) {
    let delivery = |key: &str| Delivery { key: key.to_owned(), event: "Job Hook".to_owned(), outcome: "accepted".to_owned(), about: None };
    assert_eq!(store.record_delivery(delivery("a"), t(0)).await.expect("kept"), Recorded::First);
    assert_eq!(store.record_delivery(delivery("a"), t(9)).await.expect("kept"), Recorded::Duplicate);
    assert_eq!(store.record_delivery(delivery("b"), t(5)).await.expect("kept"), Recorded::First);
    assert_eq!(store.forget_deliveries(t(5)).await.expect("forgotten"), 1);
    assert_eq!(store.record_delivery(delivery("a"), t(9)).await.expect("kept"), Recorded::First);
    assert_eq!(store.record_delivery(delivery("b"), t(9)).await.expect("kept"), Recorded::Duplicate);
}
