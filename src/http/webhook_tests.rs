//! GitLab's bell, with the events as GitLab sends them.

use axum::http::StatusCode;
use serde_json::json;

use crate::http::harness::{Answer, HOOK_SECRET, Harness, request};

const PENDING: &str = include_str!("../../tests/payloads/pending.json");
const RUNNING: &str = include_str!("../../tests/payloads/running.json");
const FAILED: &str = include_str!("../../tests/payloads/failed_retried.json");
const CREATED: &str = include_str!("../../tests/payloads/created_environment_child_pipeline.json");
const LEGACY: &str = include_str!("../../tests/payloads/legacy_minimal_iso_times.json");

async fn ring(harness: &Harness, delivery: &str, body: &str) -> Answer {
    let headers =
        [("x-gitlab-token", HOOK_SECRET), ("x-gitlab-event", "Job Hook"), ("idempotency-key", delivery), ("content-type", "application/json")];
    harness.send(request("POST", "/webhook/job", &headers, body.to_owned())).await
}

#[tokio::test]
async fn only_a_pending_job_is_a_reason_to_ask() {
    let harness = Harness::start();
    let answer = ring(&harness, "1", PENDING).await;
    assert_eq!((answer.status, answer.json()), (StatusCode::OK, json!({ "status": "accepted" })));
    for (number, event) in [RUNNING, FAILED, CREATED, LEGACY].into_iter().enumerate() {
        let answer = ring(&harness, &format!("other-{number}"), event).await;
        assert_eq!((answer.status, &answer.json()["status"]), (StatusCode::OK, &json!("ignored")), "{}", answer.text);
        assert!(answer.json()["reason"].as_str().is_some_and(|reason| !reason.is_empty()));
    }
}

#[tokio::test]
async fn a_cancelled_job_is_answered_well() {
    let harness = Harness::start();
    let answer = ring(&harness, "1", &RUNNING.replace("\"running\"", "\"canceled\"")).await;
    assert_eq!((answer.status, &answer.json()["status"]), (StatusCode::OK, &json!("ignored")));
}

#[tokio::test]
async fn a_delivery_counts_once_by_its_name_or_else_its_body() {
    let harness = Harness::start();
    let duplicate = json!({ "status": "ignored", "reason": "duplicate" });
    assert_eq!(ring(&harness, "same", PENDING).await.json()["status"], "accepted");
    assert_eq!(ring(&harness, "same", PENDING).await.json(), duplicate);
    assert_eq!(ring(&harness, "another", PENDING).await.json()["status"], "accepted");
    let unnamed = async || harness.send(request("POST", "/webhook/job", &[("x-gitlab-token", HOOK_SECRET)], PENDING)).await;
    assert_eq!(unnamed().await.json()["status"], "accepted");
    assert_eq!(unnamed().await.json(), duplicate);
    let named = [("x-gitlab-token", HOOK_SECRET), ("webhook-id", "newer"), ("idempotency-key", "same")];
    assert_eq!(harness.send(request("POST", "/webhook/job", &named, PENDING)).await.json()["status"], "accepted", "webhook-id goes first");
}

#[tokio::test]
async fn what_is_not_from_our_gitlab_is_refused_and_not_remembered() {
    let harness = Harness::start();
    for token in [None, Some(""), Some("wrong")] {
        let mut headers = vec![("idempotency-key", "k")];
        headers.extend(token.map(|token| ("x-gitlab-token", token)));
        let answer = harness.send(request("POST", "/webhook/job", &headers, PENDING)).await;
        assert_eq!((answer.status, answer.problem().as_str()), (StatusCode::UNAUTHORIZED, "webhook-unverified"), "{token:?}");
    }
    assert_eq!(ring(&harness, "k", PENDING).await.json()["status"], "accepted");
}

#[tokio::test]
async fn what_is_not_json_is_said_and_what_is_not_ours_is_ignored() {
    let harness = Harness::start();
    for body in ["", "{", "object_kind=build", "\u{0}"] {
        let answer = ring(&harness, "k", body).await;
        assert_eq!((answer.status, answer.problem().as_str()), (StatusCode::BAD_REQUEST, "not-json"), "{body:?}");
    }
    for (number, body) in ["{}", "[]", "7", r#"{"object_kind":"push"}"#, r#"{"object_kind":"build"}"#].into_iter().enumerate() {
        let answer = ring(&harness, &number.to_string(), body).await;
        assert_eq!((answer.status, &answer.json()["status"]), (StatusCode::OK, &json!("ignored")), "{body:?}: {}", answer.text);
    }
}

#[tokio::test]
async fn a_large_event_is_taken_up_to_gitlabs_own_limit() {
    let harness = Harness::start();
    let padded = |bytes: usize| PENDING.replace("Bump version", &"x".repeat(bytes));
    assert_eq!(ring(&harness, "large", &padded(24 << 20)).await.json()["status"], "accepted");
    let answer = ring(&harness, "too large", &padded(26 << 20)).await;
    assert_eq!((answer.status, answer.problem().as_str()), (StatusCode::PAYLOAD_TOO_LARGE, "body-too-large"));
}
