//! What operators did.

use super::*;
use crate::store::{DeliveredJob, Delivery, EventQuery, Recorded};

pub(in crate::store) async fn a_drain_is_remembered_by_host_until_it_is_over(store: &dyn Store) {
    let (box1, box2) = (HostId::from_trusted("box1"), HostId::from_trusted("box2"));
    let of = async |host| store.drain(host).await.expect("read");
    assert_eq!(of(&box1).await, None);
    store.set_drain(&box1, None).await.expect("nothing to end is no fault");
    let drain = Drain { since: t(7), by: Some("ops".to_owned()), reason: Some("a \"new\" kernel; DROP TABLE".to_owned()) };
    store.set_drain(&box1, Some(&drain)).await.expect("written");
    assert_eq!((of(&box1).await, of(&box2).await), (Some(drain.clone()), None));
    let other = Drain { by: None, reason: None, ..drain };
    store.set_drain(&box1, Some(&other)).await.expect("written");
    assert_eq!(of(&box1).await, Some(other));
    store.set_drain(&box1, None).await.expect("written");
    assert_eq!(of(&box1).await, None);
}

pub(in crate::store) async fn a_retry_knows_its_job_and_is_found_by_it(store: &dyn Store) {
    let first = created(store, command(requirement("default", 1000), 0)).await;
    assert_eq!((first.retry_of, store.latest_retry(&first.id).await.expect("read")), (None, None));
    for _ in 0..2 {
        let mut again = command(requirement("default", 1000), 0);
        again.job.retry_of = Some(first.id.clone());
        let again = created(store, again).await;
        assert_eq!(store.job(&again.id).await.expect("read").expect("a job").retry_of, Some(first.id.clone()));
        assert_eq!(store.latest_retry(&first.id).await.expect("read"), Some(again.id), "the latest counts");
    }
    claim(store, 1).await.expect("a job");
    assert_eq!(store.job(&first.id).await.expect("read").expect("a job").retry_of, None);
}

fn delivery(key: &str, about: Option<(&str, u64, &str)>) -> Delivery {
    let about = about.map(|(url, gitlab_id, status)| DeliveredJob { url: url.to_owned(), gitlab_id, status: status.to_owned() });
    Delivery { key: key.to_owned(), event: "Job Hook".to_owned(), outcome: "accepted".to_owned(), about }
}

async fn told(store: &dyn Store, job: &JobId) -> Vec<(i64, EventKind)> {
    let query = EventQuery { job: Some(job.clone()), after: 0, limit: 100 };
    store.events(query).await.expect("events").into_iter().map(|event| (event.at.as_millisecond() - t(0).as_millisecond(), event.kind)).collect()
}

pub(in crate::store) async fn the_delivery_that_rang_begins_the_history_of_its_job(store: &dyn Store) {
    const HERE: &str = "https://gitlab.example.com";
    let ring = async |key: &str, about, at| assert_eq!(store.record_delivery(delivery(key, about), t(at)).await.expect("kept"), Recorded::First);
    let pending = |at| (at, EventKind::Webhook { status: "pending".to_owned() });
    ring("a", Some((HERE, 7, "pending")), 1).await;
    ring("b", Some((HERE, 8, "pending")), 2).await;
    ring("c", Some(("https://other.example.com", 7, "pending")), 3).await;
    ring("d", Some((HERE, u64::MAX, "pending")), 4).await;
    ring("e", None, 5).await;
    let mut new = gitlab(requirement("docker", 1000), 0, 7);
    new.job.created_at = t(6);
    let job = created(store, new).await;
    assert_eq!(told(store, &job.id).await, [pending(1), (6, EventKind::Submitted)]);
    // More of the same say nothing new.
    ring("f", Some((HERE, 7, "pending")), 7).await;
    assert_eq!(store.record_delivery(delivery("f", Some((HERE, 7, "canceled"))), t(8)).await.expect("kept"), Recorded::Duplicate);
    assert_eq!(told(store, &job.id).await.len(), 2);
    ring("g", Some((HERE, 7, "canceled")), 9).await;
    ring("h", Some((HERE, 7, "canceled")), 9).await;
    assert_eq!(told(store, &job.id).await[2..], [(9, EventKind::Webhook { status: "canceled".to_owned() })]);

    // A job that was there before the bell.
    let polled = created(store, gitlab(requirement("docker", 1000), 0, 9)).await;
    assert_eq!(told(store, &polled.id).await.len(), 1);
    ring("i", Some((HERE, 9, "pending")), 10).await;
    assert_eq!(told(store, &polled.id).await[1..], [pending(10)]);
    store.cancel_job(&polled.id, EndReason::CanceledByUser, t(11)).await.expect("ended");
    let before = told(store, &polled.id).await;
    ring("j", Some((HERE, 9, "canceled")), 12).await;
    assert_eq!(told(store, &polled.id).await, before, "the history of a job that has ended is closed");
    // What is told in a history outlives the memory of deliveries.
    assert!(store.forget_deliveries(t(100)).await.expect("forgotten") > 0);
    assert_eq!(told(store, &job.id).await[0], pending(1));
}
