//! Who is given which job, when, and what it contains.

use std::time::Duration;

use axum::http::{Method, StatusCode};
use serde_json::{Value, json};

use super::super::{Commit, JobSpec, PRIVATE_TOKEN, Status, fingerprint};
use super::{Client, TOKEN, header, start};

#[tokio::test]
async fn a_job_goes_to_a_runner_that_has_all_its_tags_oldest_first() {
    let gitlab = start().await;
    let runner = gitlab.add_runner(TOKEN, &["gpu", "amd64"]);
    let client = Client::new(&gitlab);
    gitlab.enqueue(JobSpec::new("untagged"));
    gitlab.enqueue(JobSpec::new("arm").tags(["gpu", "arm64"]));
    let first = gitlab.enqueue(JobSpec::new("first").tags(["gpu"]).image("debian").project("a/b", 7));
    gitlab.enqueue(JobSpec::new("second").tags(["gpu"]));

    let job = client.take(json!({})).await;

    assert_eq!(job["id"], first);
    assert_eq!((&job["image"]["name"], &job["job_info"]["project_full_path"]), (&json!("debian"), &json!("a/b")));
    let view = gitlab.job(first);
    assert_eq!((view.status, view.runner_id, view.n_assigned), (Status::Running, Some(runner), 1));
    assert_eq!((view.name.as_str(), view.project.as_str(), view.project_id), ("first", "a/b", 7));
}

#[tokio::test]
async fn an_unknown_token_is_refused_and_an_empty_queue_has_a_version() {
    let gitlab = start().await;
    let runner = gitlab.add_runner(TOKEN, &[]);
    let client = Client::new(&gitlab);
    assert_eq!(client.ask("glrt-wrong", json!({})).await.status(), StatusCode::FORBIDDEN);

    let empty = client.ask(TOKEN, json!({})).await;
    assert_eq!((empty.status(), header(&empty, "x-gitlab-last-update")), (StatusCode::NO_CONTENT, "0"));
    let verified = client.send(Method::POST, "/runners/verify", json!({ "token": TOKEN })).await;
    assert_eq!(verified.status(), StatusCode::OK);

    gitlab.enqueue(JobSpec::new("withheld"));
    gitlab.pause_runner(runner);
    assert_eq!(client.ask(TOKEN, json!({})).await.status(), StatusCode::NO_CONTENT);
    gitlab.remove_runner(runner);
    assert_eq!(client.ask(TOKEN, json!({})).await.status(), StatusCode::FORBIDDEN);

    let asked = gitlab.requests();
    assert_eq!((asked[0].status, asked[0].token.clone()), (403, Some(fingerprint("glrt-wrong"))));
    assert_eq!((asked[0].method.as_str(), asked[0].path.as_str()), ("POST", "/api/v4/jobs/request"));
    assert_eq!(gitlab.count_requests("POST", "/jobs/request"), 4);
}

#[tokio::test]
async fn a_two_phase_job_stays_pending_until_it_is_confirmed() {
    let gitlab = start().await;
    gitlab.add_runner(TOKEN, &[]);
    gitlab.two_phase(true);
    let id = gitlab.enqueue(JobSpec::new("two phases"));
    let client = Client::new(&gitlab);
    let features = json!({ "two_phase_job_commit": true });

    client.take(features.clone()).await;
    let held = gitlab.job(id);
    assert_eq!((held.status, held.runner_id.is_some()), (Status::Pending, true));
    assert_eq!(client.ask(TOKEN, features.clone()).await.status(), StatusCode::NO_CONTENT);
    assert_eq!(client.update(&held, json!({ "state": "pending" })).await.status(), StatusCode::OK);

    gitlab.lapse_unconfirmed();
    assert_eq!(client.update(&held, json!({ "state": "running" })).await.status(), StatusCode::FORBIDDEN);
    client.take(features).await;
    assert_eq!(client.update(&held, json!({ "state": "running" })).await.status(), StatusCode::OK);
    assert_eq!((gitlab.job(id).status, gitlab.job(id).n_assigned), (Status::Running, 2));

    gitlab.commit(Commit::SinglePhase);
    let other = gitlab.enqueue(JobSpec::new("one phase"));
    client.take(json!({ "two_phase_job_commit": true })).await;
    assert_eq!(gitlab.job(other).status, Status::Running);
}

#[tokio::test]
async fn a_job_brings_its_steps_and_variables() {
    let gitlab = start().await;
    gitlab.add_runner(TOKEN, &[]);
    let spec = JobSpec::new("steps").script(["one", "two"]).after_script(["three"]);
    gitlab.enqueue(spec.variable("A", "1").masked_variable("S", "2").timeout(Duration::from_secs(60)));

    let job = Client::new(&gitlab).take(json!({})).await;

    assert_eq!(job["steps"][0]["script"], json!(["one", "two"]));
    assert_eq!(job["steps"][1]["name"], "after_script");
    assert_eq!(job["runner_info"]["timeout"], 60);
    let variables = job["variables"].as_array().expect("a list");
    let find = |key: &str| variables.iter().find(|variable| variable["key"] == key).expect("it is there");
    assert_eq!(find("GIT_STRATEGY")["value"], "none");
    assert_eq!((&find("A")["masked"], &find("S")["masked"]), (&json!(false), &json!(true)));
}

#[tokio::test]
async fn failures_can_be_injected() {
    let gitlab = start().await;
    gitlab.add_runner(TOKEN, &[]);
    gitlab.fail_next(Method::POST, "/jobs/request", StatusCode::CONFLICT, 1);
    let client = Client::new(&gitlab);
    assert_eq!(client.ask(TOKEN, json!({})).await.status(), StatusCode::CONFLICT);
    assert_eq!(client.ask(TOKEN, json!({})).await.status(), StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn the_rest_api_shows_tags_and_cancels() {
    let gitlab = start().await;
    let id = gitlab.enqueue(JobSpec::new("shown").tags(["gpu"]));
    let http = reqwest::Client::new();
    let url = format!("http://127.0.0.1:{}/api/v4/projects/282/jobs", gitlab.port());
    assert_eq!(http.get(&url).send().await.expect("an answer").status(), StatusCode::UNAUTHORIZED);
    let get = |url: String| http.get(url).header("PRIVATE-TOKEN", PRIVATE_TOKEN).send();
    let one: Value = get(format!("{url}/{id}")).await.expect("an answer").json().await.expect("a job");
    assert_eq!((&one["tag_list"], &one["status"]), (&json!(["gpu"]), &json!("pending")));
    let cancel = http.post(format!("{url}/{id}/cancel")).header("PRIVATE-TOKEN", PRIVATE_TOKEN);
    assert_eq!(cancel.send().await.expect("an answer").status(), StatusCode::OK);
    let pending: Value = get(format!("{url}?scope[]=pending")).await.expect("an answer").json().await.expect("a list");
    assert_eq!(pending, json!([]));
}

#[tokio::test]
async fn waiting_in_vain_shows_the_job() {
    let gitlab = start().await;
    let id = gitlab.enqueue(JobSpec::new("waits"));
    let error = gitlab.wait_for(id, Duration::from_millis(1), |job| job.status.is_final()).await;
    let error = error.expect_err("nothing ends it");
    assert_eq!(error.last.as_ref().map(|job| job.status), Some(Status::Pending));
    assert!(error.to_string().contains("waits"));
}
