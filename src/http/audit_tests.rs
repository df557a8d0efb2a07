//! What of the API gets into the audit log.

use std::time::Duration;

use axum::http::StatusCode;
use serde_json::{Value, json};

use crate::http::harness::{Harness, OPERATOR, VIEWER, request};

/// The lines that were written, without what differs from run to run.
fn lines(harness: &Harness) -> Vec<Value> {
    assert!(harness.state.audit.flush(Duration::from_secs(30)));
    let text = std::fs::read_to_string(harness.state.config.current().data_dir.join("audit.log")).expect("a log");
    let line = |line: &str| {
        let line: Value = serde_json::from_str(line).expect("JSON");
        assert!(line["request"].is_string(), "{line}");
        json!([line["act"], line["who"], line["target"], line["status"]])
    };
    text.lines().map(line).collect()
}

#[tokio::test]
async fn what_changes_something_and_who_is_refused_is_written_down_and_nothing_else() {
    let harness = Harness::guarded().audited();
    let body = r#"{"image":"a","command":["b"]}"#;
    let send = async |method: &str, path: &str, token: &str, body: &'static str| {
        let bearer = format!("Bearer {token}");
        harness.send(request(method, path, &[("authorization", &bearer), ("content-type", "application/json")], body)).await
    };
    let submitted = send("POST", "/jobs", OPERATOR, body).await;
    assert_eq!(submitted.status, StatusCode::ACCEPTED);
    let job = submitted.header("location").to_owned();
    assert_eq!(send("GET", &job, VIEWER, "").await.status, StatusCode::OK);
    assert_eq!(send("POST", "/jobs", OPERATOR, r#"{"image":"a"}"#).await.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(send("DELETE", "/jobs/0", OPERATOR, "").await.status, StatusCode::NOT_FOUND);
    assert_eq!(send("POST", "/jobs", VIEWER, body).await.status, StatusCode::FORBIDDEN);
    assert_eq!(send("GET", &job, "rca-guessed", "").await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(harness.send(request("POST", "/webhook/job", &[("x-gitlab-token", "guessed")], "{}")).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(send("DELETE", &job, OPERATOR, "").await.status, StatusCode::ACCEPTED);
    let expected = [
        json!(["POST /jobs", "token:operator", job, 202]),
        json!(["POST /jobs", "token:viewer", "/jobs", 403]),
        json!(["GET /jobs/{id}", "nobody", job, 401]),
        json!(["POST /webhook/job", "nobody", "/webhook/job", 401]),
        json!(["DELETE /jobs/{id}", "token:operator", job, 202]),
    ];
    assert_eq!(lines(&harness), expected);
}

#[tokio::test]
async fn what_is_broken_off_may_have_been_done_and_is_written_down() {
    let harness = Harness::guarded().audited();
    let bearer = format!("Bearer {OPERATOR}");
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    // A body that never comes.
    let (never, body) = tokio::io::duplex(64);
    let body = axum::body::Body::from_stream(tokio_util::io::ReaderStream::new(body));
    let answer = harness.open(request("POST", "/jobs", &headers, body));
    assert!(tokio::time::timeout(Duration::from_millis(200), answer).await.is_err());
    drop(never);
    assert_eq!(lines(&harness), [json!(["POST /jobs", "token:operator", "/jobs", null])]);
}

#[tokio::test]
async fn who_needs_no_token_is_named_by_the_way_they_came() {
    for (harness, who) in [(Harness::start().audited(), "loopback"), (Harness::guarded().audited().through_socket(), "socket")] {
        let submitted = harness.post("/jobs", r#"{"image":"a","command":["b"]}"#).await;
        assert_eq!(lines(&harness), [json!(["POST /jobs", who, submitted.header("location"), 202])]);
    }
}
