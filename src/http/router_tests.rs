//! What holds for every route: problems, headers, request ids, limits, and the daemon's word about itself.

use axum::http::StatusCode;
use serde_json::json;

use crate::http::harness::{Harness, request};

#[tokio::test]
async fn what_is_not_there_is_a_problem_too() {
    let harness = Harness::start();
    for path in ["/nothing", "/jobs/", "/jobs/0/nothing", "/webhook", "//jobs"] {
        let answer = harness.get(path).await;
        assert_eq!((answer.status, answer.problem().as_str()), (StatusCode::NOT_FOUND, "no-such-path"), "{path}");
    }
    for (method, path, allowed) in
        [("PUT", "/jobs", "POST"), ("POST", "/health", "GET"), ("GET", "/webhook/job", "POST"), ("PATCH", "/runners/0", "DELETE")]
    {
        let answer = harness.send(request(method, path, &[], "")).await;
        assert_eq!((answer.status, answer.problem().as_str()), (StatusCode::METHOD_NOT_ALLOWED, "no-such-method"), "{method} {path}");
        assert!(answer.header("allow").contains(allowed), "{method} {path}: {:?}", answer.headers);
    }
    for path in ["/jobs/0", "/jobs/0/logs", "/jobs/0/events", "/runners/0", "/jobs/%2e%2e%2fetc", "/jobs/%00/logs"] {
        let answer = harness.get(path).await;
        assert_eq!((answer.status, answer.problem().as_str()), (StatusCode::NOT_FOUND, "not-found"), "{path}");
    }
    let answer = harness.get("/jobs/%ff").await;
    assert_eq!((answer.status, answer.problem().as_str()), (StatusCode::BAD_REQUEST, "refused"));
}

#[tokio::test]
async fn every_answer_has_an_id_and_tells_browsers_to_keep_still() {
    let harness = Harness::start();
    for path in ["/health", "/jobs", "/nothing"] {
        let answer = harness.get(path).await;
        assert!(!answer.header("x-request-id").is_empty(), "{path}");
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{path}");
        assert_eq!(answer.header("cache-control"), "no-store", "{path}");
    }
    let given = |id: &'static str| request("GET", "/health", &[("x-request-id", id)], "");
    assert_eq!(harness.send(given("abc-123")).await.header("x-request-id"), "abc-123");
    assert_ne!(harness.send(given("two words")).await.header("x-request-id"), "two words");
}

#[tokio::test]
async fn parameters_are_known_or_named() {
    let harness = Harness::start();
    for (path, fields) in [
        ("/jobs?state=done", vec!["state"]),
        ("/jobs?limit=0&cursor=!!&colour=red", vec!["limit", "cursor", "colour"]),
        ("/jobs?limit=501", vec!["limit"]),
        ("/jobs?state=queued&state=running", vec!["state"]),
        ("/jobs?project=", vec!["project"]),
        ("/runners?state=dead", vec!["state"]),
        ("/status?verbose=1", vec!["verbose"]),
        ("/jobs/0/logs?follow=1&attempt=0", vec!["follow", "attempt"]),
        ("/events?after=-1", vec!["after"]),
        ("/jobs?state=%ff", vec!["state"]),
    ] {
        let answer = harness.get(path).await;
        assert_eq!(
            (answer.status, answer.problem().as_str(), answer.fields()),
            (StatusCode::BAD_REQUEST, "invalid-parameter", fields.into_iter().map(str::to_owned).collect()),
            "{path}"
        );
    }
    assert!(harness.get("/jobs?state=done").await.text.contains("queued, starting, running, succeeded, failed, canceled"));
}

#[tokio::test]
async fn health_says_what_is_wrong() {
    let harness = Harness::start();
    let answer = harness.get("/health").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "no engine has been asked");
    let checks = &answer.json()["checks"];
    assert_eq!(
        (&checks["store"]["status"], &checks["engine"]["status"], &checks["manager"]["status"]),
        (&json!("ok"), &json!("failing"), &json!("ok"))
    );
    assert!(checks["broker"].is_null(), "no class takes work from GitLab: {checks}");
}

#[tokio::test]
async fn status_and_hosts_tell_what_there_is() {
    let harness = Harness::start();
    harness.submit(r#"{"image":"debian","command":["true"]}"#).await;
    let status = harness.get("/status").await.json();
    assert_eq!((&status["service"], &status["version"]), (&json!("runner-coordinator"), &json!(env!("CARGO_PKG_VERSION"))));
    assert_eq!((&status["jobs"]["queued"], &status["jobs"]["failed"], &status["runners"]["idle"]), (&json!(1), &json!(0), &json!(0)));
    assert_eq!((&status["queue"]["depth"], &status["queue"]["oldest_wait_seconds"]), (&json!(1), &json!(0)));
    let host = &harness.get("/hosts").await.json()["hosts"][0];
    assert_eq!(&status["hosts"][0], host);
    assert_eq!((&host["id"], &host["arch"], &host["cpus"]["free"], &host["gpus"]["total"]), (&json!("box1"), &json!("amd64"), &json!(8), &json!(0)));
}

#[tokio::test]
async fn bodies_are_bounded_announced_or_not() {
    let harness = Harness::start();
    let body = format!(r#"{{"image":"debian","command":["{}"]}}"#, "x".repeat(70_000));
    let announced = harness.post("/jobs", &body).await;
    let chunks = body.as_bytes().chunks(1000).map(|chunk| Ok::<_, std::io::Error>(bytes::Bytes::copy_from_slice(chunk))).collect::<Vec<_>>();
    let streamed = axum::body::Body::from_stream(futures_util::stream::iter(chunks));
    let unannounced = harness.send(request("POST", "/jobs", &[("content-type", "application/json")], streamed)).await;
    for answer in [announced, unannounced] {
        assert_eq!((answer.status, answer.problem().as_str()), (StatusCode::PAYLOAD_TOO_LARGE, "body-too-large"));
    }
    assert_eq!(harness.stored().await.len(), 0);
}

#[tokio::test]
async fn a_gpu_that_is_not_there_and_a_reason_that_is_none_are_told() {
    let harness = Harness::start();
    let answer = harness.post("/gpus/MIG-1%2F2/quarantine", "{\"reason\":\"hot\"}").await;
    assert_eq!((answer.status, answer.problem().as_str()), (StatusCode::NOT_FOUND, "not-found"));
    assert_eq!(answer.json()["detail"], "there is no GPU MIG-1/2; known: none");
    assert_eq!(harness.post("/gpus/a/release", "").await.status, StatusCode::NOT_FOUND);
    let long = "x".repeat(301);
    for reason in ["", " ", "two\\nlines", &long] {
        let answer = harness.post("/gpus/a/quarantine", &format!("{{\"reason\":\"{reason}\"}}")).await;
        assert_eq!((answer.status, answer.fields()), (StatusCode::UNPROCESSABLE_ENTITY, vec!["reason".to_owned()]), "{reason:?}");
    }
    assert_eq!(harness.post("/gpus/a/quarantine", "{\"colour\":1}").await.fields(), ["colour"]);
}
