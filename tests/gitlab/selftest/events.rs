//! Job events: when they are sent, what they look like, how they prove themselves.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::http::HeaderMap;
use axum::routing::post;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use uuid::Uuid;

use super::super::JobSpec;
use super::{Client, SOON, TOKEN, start};

/// What the receiver of Job events saw.
type Seen = Arc<Mutex<Vec<(HeaderMap, Value)>>>;

/// A receiver that keeps what it is sent; its address and what it saw.
async fn receiver(tasks: &mut JoinSet<()>) -> (String, Seen) {
    let seen = Seen::default();
    let keep = seen.clone();
    let hear = move |headers: HeaderMap, body: axum::Json<Value>| async move {
        keep.lock().expect("nobody panicked").push((headers, body.0));
        "thanks"
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}/hook", listener.local_addr().expect("an address"));
    tasks.spawn(async move {
        axum::serve(listener, Router::new().route("/hook", post(hear))).await.expect("it serves");
    });
    (url, seen)
}

/// The field names of an object, sorted.
fn fields(value: &Value) -> Vec<String> {
    let mut names: Vec<String> = value.as_object().expect("an object").keys().cloned().collect();
    names.sort();
    names
}

#[tokio::test]
async fn transitions_send_events_of_the_recorded_shape() {
    let (gitlab, mut tasks) = (start().await, JoinSet::new());
    let (url, seen) = receiver(&mut tasks).await;
    gitlab.add_runner(TOKEN, &[]);
    gitlab.set_hook(&url, Some("s3cret"));
    gitlab.auto_hooks(true);
    let client = Client::new(&gitlab);
    let id = gitlab.enqueue(JobSpec::new("train").commit_message("Train more"));
    client.take(json!({})).await;
    client.update(&gitlab.job(id), json!({ "state": "success" })).await;
    assert!(gitlab.wait_for_deliveries(3, SOON).await);

    let statuses: Vec<String> = gitlab.deliveries().into_iter().map(|sent| sent.build_status).collect();
    assert_eq!(statuses, ["pending", "running", "success"]);
    let seen = seen.lock().expect("nobody panicked").clone();
    let samples = [include_str!("../../payloads/pending.json"), include_str!("../../payloads/running.json")];
    for ((headers, event), sample) in seen.iter().zip(samples) {
        let sample: Value = serde_json::from_str(sample).expect("a payload");
        assert_eq!(fields(event), fields(&sample));
        for part in ["commit", "project", "repository", "user"] {
            assert_eq!(fields(&event[part]), fields(&sample[part]));
        }
        assert_eq!(headers["x-gitlab-event"], "Job Hook");
        assert_eq!(headers["x-gitlab-token"], "s3cret");
        assert_eq!(event["commit"]["message"], "Train more");
    }
}

#[tokio::test]
async fn a_resent_event_keeps_its_key_and_a_signed_one_is_signed() {
    let (gitlab, mut tasks) = (start().await, JoinSet::new());
    let (url, seen) = receiver(&mut tasks).await;
    let id = gitlab.enqueue(JobSpec::new("job"));
    assert_eq!(gitlab.send_job_event(id).await.status, None);
    gitlab.set_hook(&url, None);
    gitlab.set_signing_token("whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=");
    let key = Uuid::new_v4();

    let first = gitlab.send_job_event_as(id, key).await;
    gitlab.send_job_event_as(id, key).await;

    assert_eq!((first.job, first.status, first.body.as_str()), (id, Some(200), "thanks"));
    assert_eq!(first.idempotency_key, key.to_string());
    let seen = seen.lock().expect("nobody panicked").clone();
    assert_eq!(seen[0].0["idempotency-key"], seen[1].0["idempotency-key"]);
    assert!(seen[0].0["webhook-signature"].as_bytes().starts_with(b"v1,"));
    assert!(!seen[0].0.contains_key("x-gitlab-token"));
}
