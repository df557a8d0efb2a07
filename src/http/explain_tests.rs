//! Why jobs are where they are, as a client meets it.

use axum::http::StatusCode;
use serde_json::json;

use crate::domain::{EndReason, Outcome, RetryPolicy, Step};
use crate::http::harness::{Harness, VIEWER, request};

/// A job of all the machine's processors but one, for an hour.
const LARGE: &str = r#"{"image":"debian","command":["true"],"project":"team/app","cpus":7,"timeout":"1h"}"#;
const SMALL: &str = r#"{"image":"debian","command":["true"],"cpus":2}"#;

#[tokio::test]
async fn a_job_that_waits_names_who_holds_what_it_needs() {
    let harness = Harness::start();
    let large = harness.submit(LARGE).await;
    let (runner, _) = harness.claim().await;
    harness.run(&runner).await;
    let first = harness.submit(SMALL).await;
    let second = harness.submit(SMALL).await;
    let answer = harness.get(&format!("/jobs/{second}/explain")).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    let mut json = answer.json();
    let holder = json["hosts"][0]["missing"][0]["holders"][0].clone();
    assert_eq!((&holder["job_id"], &holder["runner_id"]), (&json!(large), &json!(runner.as_str())));
    // An hour and the grace that a stop has.
    assert_eq!(holder["ends_by"], "2026-11-18T12:06:50Z");
    assert_eq!(json["hosts"][0]["room_by"], holder["ends_by"]);
    assert_eq!((&json["position"]["ahead"], &json["estimated_start"]), (&json!(1), &json!(null)), "the first goes before it");
    json["job_id"] = json!("…");
    let holder = &mut json["hosts"][0]["missing"][0]["holders"][0];
    (holder["job_id"], holder["runner_id"]) = (json!("…"), json!("…"));
    insta::assert_json_snapshot!(json);

    let first = harness.get(&format!("/jobs/{first}/explain")).await.json();
    assert_eq!(first["position"], json!({ "ahead": 0, "more": false }));
    // This harness has no engine, so no start can be promised.
    assert_eq!((&first["waits_for"], &first["estimated_start"]), (&json!("no_host_ready"), &json!(null)));
}

#[tokio::test]
async fn every_state_is_explained() {
    let harness = Harness::start();
    let explain = async |id: &str| harness.get(&format!("/jobs/{id}/explain")).await.json();
    let id = harness.submit(r#"{"image":"debian","command":["true"],"retries":1}"#).await;
    let said = explain(&id).await;
    assert_eq!((&said["state"], &said["hosts"][0]["fits"], &said["hosts"][0]["state"]), (&json!("queued"), &json!("now"), &json!("starting")));
    let (runner, _) = harness.claim().await;
    let said = explain(&id).await;
    assert_eq!((&said["state"], &said["waits_for"], &said["position"]), (&json!("starting"), &json!("starting"), &json!(null)), "{said}");
    harness.run(&runner).await;
    let said = explain(&id).await;
    assert_eq!((&said["state"], &said["waits_for"], &said["hosts"]), (&json!("running"), &json!(null), &json!([])), "{said}");
    let retry =
        RetryPolicy { infrastructure_retries: 3, backoff: std::time::Duration::from_secs(60), backoff_max: std::time::Duration::from_secs(60) };
    let lost = Step::JobEnded { outcome: Outcome::infrastructure(EndReason::StartFailed, "no"), retry };
    let now = crate::domain::Clock::now(&*harness.clock);
    harness.store.apply(&runner, lost, now).await.expect("taken");
    let said = explain(&id).await;
    assert_eq!(
        (&said["waits_for"], &said["not_before"]),
        (&json!("back_off"), &harness.get(&format!("/jobs/{id}")).await.json()["not_before"]),
        "{said}"
    );
    assert!(said["not_before"].is_string());
    harness.delete(&format!("/jobs/{id}")).await;
    let said = explain(&id).await;
    assert_eq!((&said["state"], &said["waits_for"]), (&json!("canceled"), &json!(null)));
    assert!(said["summary"].as_str().expect("words").contains("canceled_by_user"), "{said}");

    let running = harness.submit(SMALL).await;
    let (runner, _) = harness.claim().await;
    harness.run(&runner).await;
    harness.delete(&format!("/jobs/{running}")).await;
    assert_eq!(explain(&running).await["waits_for"], "ending");
}

#[tokio::test]
async fn what_can_never_run_is_explained_with_the_words_that_refuse_it() {
    let harness = Harness::start();
    let body = |more: &str| format!(r#"{{"image":"debian","command":["true"],"cpus":64,"gpus":{{"count":1,"vendor":"nvidia"}}{more}}}"#);
    let refused = harness.post("/jobs", &body("")).await;
    assert_eq!((refused.status, refused.problem().as_str()), (StatusCode::UNPROCESSABLE_ENTITY, "unsatisfiable"));
    let id = harness.submit(&body(r#","if_unsatisfiable":"wait""#)).await;
    let said = harness.get(&format!("/jobs/{id}/explain")).await.json();
    let words: Vec<&str> =
        said["hosts"][0]["missing"].as_array().expect("a list").iter().map(|one| one["message"].as_str().expect("words")).collect();
    assert_eq!(words.join("; "), refused.json()["detail"].as_str().expect("words"));
    assert_eq!(words, ["needs 64 CPUs, this machine has 8 for jobs", "needs 1 nvidia GPU, this machine has no GPU for jobs"]);
    assert_eq!(said["hosts"][0]["fits"], "never");
}

#[tokio::test]
async fn a_viewer_may_ask_and_what_is_not_there_is_not_found() {
    let harness = Harness::guarded();
    let ask = async |path: &str, token: Option<&str>| {
        let bearer = token.map(|token| format!("Bearer {token}"));
        let headers: Vec<(&str, &str)> = bearer.iter().map(|bearer| ("authorization", bearer.as_str())).collect();
        harness.send(request("GET", path, &headers, "")).await
    };
    let answer = ask("/jobs/nothing/explain", Some(VIEWER)).await;
    assert_eq!((answer.status, answer.problem().as_str()), (StatusCode::NOT_FOUND, "not-found"));
    assert_eq!(ask("/jobs/nothing/explain", None).await.status, StatusCode::UNAUTHORIZED);
    let answer = ask("/jobs/nothing/explain?deep=1", Some(VIEWER)).await;
    assert_eq!((answer.status, answer.problem().as_str()), (StatusCode::BAD_REQUEST, "invalid-parameter"));
}
