//! GitLab's bell, with the events as GitLab sends them.

use axum::http::StatusCode;
use serde_json::json;

use crate::domain::{
    ClassName, Clock as _, CpuMillis, EndReason, GitLabJob, GitLabRef, Job, JobId, JobSpec, JobState, MemoryBytes, Outcome, Requirement, Source, Work,
};
use crate::http::harness::{Answer, HOOK_SECRET, HOOK_SIGNING_TOKEN, Harness, NOW, request};
use crate::http::rations::{Room, Traffic};
use crate::security::sign_webhook;
use crate::store::{NewJob, Submission};

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

/// GitLab's word that a job was cancelled.
fn canceled(gitlab_id: u64) -> String {
    json!({ "object_kind": "build", "build_id": gitlab_id, "build_status": "canceled" }).to_string()
}

/// A job of GitLab that waits here.
async fn waiting(harness: &Harness, gitlab_id: u64) -> JobId {
    let reference = GitLabRef::bare("http://gitlab.example.com", gitlab_id);
    let requirement = Requirement::plain(ClassName::from_trusted("default"), CpuMillis(1000), MemoryBytes(1 << 30));
    let (timeout, work) = (std::time::Duration::from_secs(3600), Work::GitLab(reference.clone()));
    let spec = JobSpec { source: Source::GitLab, project: None, requirement, timeout, priority: 0, retries: 0, work };
    let job = Job::new(JobId::generate(), spec, harness.clock.now());
    let gitlab = Some(GitLabJob { reference, token: "t".to_owned(), payload: "{}".to_owned() });
    match harness
        .store
        .submit(NewJob { job, gitlab, idempotency: None, weight: 1, queue_limit: 10, whole_queue_limit: u32::MAX })
        .await
        .expect("stored")
    {
        Submission::Created(job) => job.id,
        other => panic!("not created: {other:?}"),
    }
}

#[tokio::test]
async fn a_cancelled_job_that_we_hold_is_cancelled_and_any_other_is_ignored() {
    let harness = Harness::start();
    let (accepted, ignored) = (json!({ "status": "accepted" }), json!({ "status": "ignored", "reason": "the job was canceled" }));
    waiting(&harness, 7).await;
    let (runner, job) = harness.claim().await;
    harness.run(&runner).await;
    for (number, unknown) in [8, u64::MAX].into_iter().enumerate() {
        let answer = ring(&harness, &format!("unknown {number}"), &canceled(unknown)).await;
        assert_eq!((answer.status, answer.json()), (StatusCode::OK, ignored.clone()));
    }
    let stored = async || harness.store.job(&job).await.expect("read").expect("a job");
    assert_eq!(stored().await.cancel, None);
    for delivery in ["first", "again"] {
        let answer = ring(&harness, delivery, &canceled(7)).await;
        assert_eq!((answer.status, answer.json()), (StatusCode::OK, accepted.clone()), "{delivery}");
        assert_eq!(stored().await.cancel.map(|cancel| cancel.reason), Some(EndReason::CanceledInGitlab));
    }
    assert_eq!(ring(&harness, "again", &canceled(7)).await.json()["reason"], "duplicate");
    harness.end(&runner, Outcome::Canceled { reason: EndReason::CanceledInGitlab, detail: None }).await;
    assert!(matches!(stored().await.state, JobState::Ended { .. }));
    assert_eq!(ring(&harness, "late", &canceled(7)).await.json(), ignored, "it has ended");
}

/// The headers of a signed delivery, signed now.
fn signed(id: &str, at: i64, body: &str) -> [(&'static str, String); 4] {
    let signature = sign_webhook(b"01234567890123456789012345678901", id, &at.to_string(), body.as_bytes());
    let signature = format!("v1,AAAA {signature}");
    [
        ("webhook-id", id.to_owned()),
        ("webhook-timestamp", at.to_string()),
        ("webhook-signature", signature),
        ("x-gitlab-event", "Job Hook".to_owned()),
    ]
}

async fn deliver(harness: &Harness, headers: &[(&'static str, String)], body: &str) -> Answer {
    let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    harness.send(request("POST", "/webhook/job", &headers, body.to_owned())).await
}

#[tokio::test]
async fn a_signed_event_is_taken_when_its_signature_holds() {
    let both = format!("gitlab.webhook = {{ signing_token = \"{HOOK_SIGNING_TOKEN}\", secret_token = \"{HOOK_SECRET}\" }}");
    for webhook in [format!("gitlab.webhook.signing_token = \"{HOOK_SIGNING_TOKEN}\""), both] {
        let harness = Harness::of(&webhook, "");
        let good = deliver(&harness, &signed("1", NOW - 299, PENDING), PENDING).await;
        assert_eq!((good.status, &good.json()["status"]), (StatusCode::OK, &json!("accepted")), "{}", good.text);
        assert_eq!(deliver(&harness, &signed("1", NOW, PENDING), PENDING).await.json()["reason"], "duplicate");
        let mut wrong = signed("2", NOW, PENDING).to_vec();
        wrong.push(("x-gitlab-token", HOOK_SECRET.to_owned()));
        let (mut renamed, mut old) = (wrong.clone(), signed("2", NOW - 301, PENDING).to_vec());
        renamed[0].1 = "3".to_owned();
        old.push(("x-gitlab-token", HOOK_SECRET.to_owned()));
        for (headers, body) in [(&wrong, RUNNING), (&renamed, PENDING), (&old, PENDING)] {
            let answer = deliver(&harness, headers, body).await;
            assert_eq!((answer.status, answer.problem().as_str()), (StatusCode::UNAUTHORIZED, "webhook-unverified"), "{headers:?}");
        }
        assert_eq!(deliver(&harness, &wrong, PENDING).await.json()["status"], "accepted", "nothing refused was remembered");
    }
}

#[tokio::test]
async fn an_unsigned_event_needs_the_secret_token_and_is_refused_when_there_is_none() {
    let only = Harness::of(&format!("gitlab.webhook.signing_token = \"{HOOK_SIGNING_TOKEN}\""), "");
    assert_eq!(ring(&only, "1", PENDING).await.problem(), "webhook-unverified");
    let both = format!("gitlab.webhook = {{ signing_token = [\"{HOOK_SIGNING_TOKEN}\"], secret_token = \"{HOOK_SECRET}\" }}");
    assert_eq!(ring(&Harness::of(&both, ""), "1", PENDING).await.json()["status"], "accepted");
    let answer = deliver(&Harness::start(), &signed("1", NOW, PENDING), PENDING).await;
    assert_eq!(answer.problem(), "webhook-unverified", "nobody can check this signature");
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

#[tokio::test]
async fn of_too_many_bells_the_rest_is_heard_and_not_remembered_and_a_word_of_a_cancelled_job_is_to_be_said_again() {
    let harness = Harness::start();
    let whole = || match harness.state.rations.request(Traffic::Bell) {
        Ok(Room::Whole(permit)) => Some(permit),
        Ok(Room::Hurried(_)) | Err(_) => None,
    };
    let held: Vec<_> = std::iter::from_fn(whole).collect();
    for _ in 0..2 {
        let answer = ring(&harness, "1", PENDING).await;
        assert_eq!((answer.status, answer.json()), (StatusCode::OK, json!({ "status": "accepted" })), "a double is one more ring");
    }
    let wrong = [("x-gitlab-token", "wrong"), ("x-gitlab-event", "Job Hook")];
    let answer = harness.send(request("POST", "/webhook/job", &wrong, PENDING.to_owned())).await;
    assert_eq!(answer.problem(), "webhook-unverified", "in a hurry too");
    let answer = ring(&harness, "2", &canceled(7)).await;
    assert_eq!((answer.status, answer.problem().as_str(), answer.header("retry-after")), (StatusCode::SERVICE_UNAVAILABLE, "overloaded", "1"));
    drop(held);
    assert_eq!(ring(&harness, "1", PENDING).await.json(), json!({ "status": "accepted" }), "it was not remembered");
    assert_eq!(ring(&harness, "1", PENDING).await.json(), json!({ "status": "ignored", "reason": "duplicate" }));
}
