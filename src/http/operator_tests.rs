//! What an operator may do with hosts and ended jobs, as a client meets it, and when a log's lines were written.

use axum::http::StatusCode;
use serde_json::json;

use crate::domain::{EndReason, Job, JobId, Outcome};
use crate::http::harness::{Harness, OPERATOR, VIEWER, request};
use crate::store::log::LogStream;
use crate::store::{EventQuery, NewJob};

const FULL: &str = r#"{"image":"debian","command":["sh","-c","make"],"env":{"CI":"1"},"project":"team/app","cpus":2,"memory":"1GiB","timeout":"10m",
    "priority":7,"retries":2}"#;

impl Harness {
    /// Submits a job and ends it.
    async fn ended(&self, body: &str) -> String {
        let id = self.submit(body).await;
        let (runner, _) = self.claim().await;
        self.run(&runner).await;
        self.end(&runner, Outcome::Succeeded).await;
        id
    }
}

#[tokio::test]
async fn a_body_that_may_be_left_out_may_be_null() {
    let harness = Harness::start();
    for (headers, body, status) in [
        (&[("content-type", "application/json")][..], " null\n", StatusCode::NOT_FOUND),
        (&[("content-type", "application/json")][..], "nul", StatusCode::BAD_REQUEST),
        (&[], "null", StatusCode::UNSUPPORTED_MEDIA_TYPE),
        (&[], "", StatusCode::NOT_FOUND),
    ] {
        let answer = harness.send(request("POST", "/hosts/none/drain", headers, body)).await;
        assert_eq!(answer.status, status, "{body:?}: {}", answer.text);
    }
}

#[tokio::test]
async fn only_this_host_can_be_drained_and_only_by_an_operator() {
    let harness = Harness::guarded();
    let post = async |token: &str, path: &str, body: &str, kind: &str| {
        let bearer = format!("Bearer {token}");
        harness.send(request("POST", path, &[("authorization", &bearer), ("content-type", kind)], body.to_owned())).await
    };
    for deed in ["drain", "resume"] {
        let answer = post(VIEWER, &format!("/hosts/box1/{deed}"), "", "application/json").await;
        assert_eq!((answer.status, answer.problem()), (StatusCode::FORBIDDEN, "forbidden".to_owned()));
        let answer = post(OPERATOR, &format!("/hosts/box2/{deed}"), "", "application/json").await;
        assert_eq!((answer.status, answer.problem()), (StatusCode::NOT_FOUND, "not-found".to_owned()));
        assert_eq!(answer.json()["detail"], "there is no host box2; known: box1");
    }
    let long = json!({ "reason": "x".repeat(301) }).to_string();
    for body in [long.as_str(), r#"{"reason":""}"#, r#"{"reason":"two\nlines"}"#] {
        let answer = post(OPERATOR, "/hosts/box1/drain", body, "application/json").await;
        assert_eq!((answer.status, answer.fields()), (StatusCode::UNPROCESSABLE_ENTITY, vec!["reason".to_owned()]), "{body}");
    }
    let answer = post(OPERATOR, "/hosts/box1/drain", r#"{"why":"x"}"#, "application/json").await;
    assert_eq!(answer.problem(), "invalid-field");
    let answer = post(OPERATOR, "/hosts/box1/drain", "reason=x", "application/x-www-form-urlencoded").await;
    assert_eq!(answer.problem(), "wrong-content-type");
    let hosts = harness.send(request("GET", "/hosts", &[("authorization", &format!("Bearer {VIEWER}"))], "")).await;
    assert_eq!(hosts.json()["hosts"][0]["drain"], json!(null));
}

#[tokio::test]
async fn a_retry_is_a_new_job_with_the_same_request() {
    let harness = Harness::start();
    let id = harness.ended(FULL).await;
    let answer = harness.send(request("POST", &format!("/jobs/{id}/retry"), &[], "")).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.text);
    let again = answer.json();
    assert_eq!(answer.header("location"), format!("/jobs/{}", again["id"].as_str().expect("an id")));
    let old = harness.get(&format!("/jobs/{id}")).await.json();
    assert_eq!((&again["retry_of"], &again["state"], &again["attempt"]), (&json!(id), &json!("queued"), &json!(0)));
    assert_eq!(again["request"], old["request"]);
    assert_eq!((&old["retried_as"], &old["retry_of"], &old["state"]), (&again["id"], &json!(null), &json!("succeeded")));
    let stored = harness.stored().await;
    assert_eq!(stored[0].spec, stored[1].spec, "nothing of the request is lost");
}

#[tokio::test]
async fn a_key_makes_one_retry_of_many() {
    let harness = Harness::start();
    let (first, second) = (harness.ended(FULL).await, harness.ended(FULL).await);
    let retry = async |id: &str| harness.send(request("POST", &format!("/jobs/{id}/retry"), &[("idempotency-key", "k1")], "")).await;
    let (one, two) = (retry(&first).await.json(), retry(&first).await.json());
    assert_eq!((one["id"].as_str(), &one["id"]), (two["id"].as_str(), &two["id"]));
    let other = retry(&second).await;
    assert_eq!((other.status, other.problem()), (StatusCode::UNPROCESSABLE_ENTITY, "idempotency-key-reused".to_owned()));
    assert_eq!(harness.stored().await.len(), 3);
    let full = harness.send(request("POST", &format!("/jobs/{first}/retry"), &[("idempotency-key", "two words")], "")).await;
    assert_eq!(full.problem(), "invalid-parameter");
}

#[tokio::test]
async fn what_has_not_ended_or_is_gitlabs_is_not_retried() {
    let harness = Harness::start();
    let id = harness.submit(FULL).await;
    let answer = harness.post(&format!("/jobs/{id}/retry"), "").await;
    assert_eq!((answer.status, answer.problem()), (StatusCode::CONFLICT, "job-not-ended".to_owned()));
    assert_eq!(harness.post("/jobs/0190/retry", "").await.status, StatusCode::NOT_FOUND);

    let theirs = crate::store::contract_tests::gitlab(crate::store::contract_tests::requirement("default", 1000), 0, 77);
    let theirs = crate::store::contract_tests::of_project(theirs, "team/app");
    let gitlab_job = theirs.job.id.clone();
    harness.store.submit(theirs).await.expect("stored");
    harness.store.cancel_job(&gitlab_job, EndReason::CanceledByUser, crate::domain::Clock::now(&*harness.clock)).await.expect("ended");
    let answer = harness.post(&format!("/jobs/{gitlab_job}/retry"), "").await;
    assert_eq!((answer.status, answer.problem()), (StatusCode::CONFLICT, "job-of-gitlab".to_owned()));
    assert_eq!(answer.json()["detail"], "retry it there: https://gitlab.example.com/team/app/-/jobs/77");
}

/// Stores a job that has ended and was asked for in other times.
async fn old(harness: &Harness, change: impl FnOnce(&mut Job)) -> JobId {
    let mut new: NewJob = crate::store::contract_tests::command(crate::store::contract_tests::requirement("default", 1000), 0);
    change(&mut new.job);
    let id = new.job.id.clone();
    harness.store.submit(new).await.expect("stored");
    harness.store.cancel_job(&id, EndReason::CanceledByUser, crate::domain::Clock::now(&*harness.clock)).await.expect("ended");
    id
}

#[tokio::test]
async fn a_request_that_no_longer_holds_is_refused_and_not_run_differently() {
    let harness = Harness::start();
    let refused = async |id: JobId| {
        let answer = harness.post(&format!("/jobs/{id}/retry"), "").await;
        assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY, "{}", answer.text);
        answer.fields()
    };
    let class = old(&harness, |job| job.spec.requirement.class = crate::domain::ClassName::from_trusted("removed")).await;
    assert_eq!(refused(class).await, ["class"]);
    let runtime = old(&harness, |job| job.spec.requirement.runtime = Some("nvidia".to_owned())).await;
    assert_eq!(refused(runtime).await, ["class"]);
    let arch = old(&harness, |job| job.spec.requirement.class = crate::domain::ClassName::from_trusted("arm")).await;
    assert_eq!(refused(arch).await, ["arch"]);
    let long = old(&harness, |job| job.spec.timeout = std::time::Duration::from_secs(1 << 40)).await;
    assert_eq!(refused(long).await, ["timeout"]);
    let env = old(&harness, |job| {
        if let crate::domain::Work::Command(work) = &mut job.spec.work {
            work.env.insert("LD_PRELOAD".to_owned(), "/x.so".to_owned());
        }
    })
    .await;
    assert_eq!(refused(env).await, ["env.LD_PRELOAD"]);
    let large = old(&harness, |job| job.spec.requirement.cpus = crate::domain::CpuMillis(64_000)).await;
    assert_eq!(refused(large).await, ["cpus"], "no machine here has as much");
    assert_eq!(harness.stored().await.len(), 6, "nothing was stored");
}

#[tokio::test]
async fn the_lines_of_a_log_are_given_their_times_where_they_are_asked_for() {
    let harness = Harness::start();
    let id = harness.submit(FULL).await;
    let (runner, job) = harness.claim().await;
    harness.run(&runner).await;
    let mut writer = harness.logs.writer(&job, 1).await.expect("a log");
    writer.append(1_795_000_000_000_000_001, LogStream::Stdout, b"one\n").await.expect("written");
    writer.append(1_795_000_001_000_000_000, LogStream::Stdout, b"two\n").await.expect("written");
    writer.close().await.expect("closed");
    harness.end(&runner, Outcome::Succeeded).await;
    let timed = "2026-11-18T11:06:40.000000001Z one\n2026-11-18T11:06:41.000000000Z two\n";
    for query in ["timestamps=true", "timestamps=true&follow=true", "timestamps=true&attempt=1"] {
        assert_eq!(harness.get(&format!("/jobs/{id}/logs?{query}")).await.text, timed, "{query}");
    }
    assert_eq!(harness.get(&format!("/jobs/{id}/logs?timestamps=false")).await.text, "one\ntwo\n");
    let bad = harness.get(&format!("/jobs/{id}/logs?timestamps=yes")).await;
    assert_eq!((bad.status, bad.fields()), (StatusCode::BAD_REQUEST, vec!["timestamps".to_owned()]));
}

#[tokio::test]
async fn an_accepted_delivery_is_kept_with_the_job_that_it_rang_for() {
    let harness = Harness::start();
    let event = json!({ "object_kind": "build", "build_id": 77, "build_status": "pending", "project_id": 1 }).to_string();
    let headers = [
        ("content-type", "application/json"),
        ("x-gitlab-event", "Job Hook"),
        ("x-gitlab-token", crate::http::harness::HOOK_SECRET),
        ("idempotency-key", "d-1"),
    ];
    let answer = harness.send(request("POST", "/webhook/job", &headers, event)).await;
    assert_eq!(answer.json()["status"], "accepted", "{}", answer.text);
    let mut theirs = crate::store::contract_tests::gitlab(crate::store::contract_tests::requirement("default", 1000), 0, 77);
    if let Some(gitlab) = &mut theirs.gitlab {
        gitlab.reference.url = "http://gitlab.example.com".to_owned();
    }
    let id = theirs.job.id.clone();
    harness.store.submit(theirs).await.expect("stored");
    let events = harness.store.events(EventQuery { job: Some(id.clone()), after: 0, limit: 10 }).await.expect("events");
    assert_eq!(events[0].at, crate::domain::Clock::now(&*harness.clock));
    let shown = harness.get(&format!("/jobs/{id}/events")).await.json();
    let first = &shown["events"][0];
    assert_eq!((&first["kind"], &first["status"], &first["job_id"]), (&json!("webhook"), &json!("pending"), &json!(id.as_str())), "{shown}");
}
