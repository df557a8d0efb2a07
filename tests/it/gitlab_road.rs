//! The straight road from a Job event to a result in GitLab: stand-in GitLab, stand-in runner, real daemon, real engine.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::gitlab::{GitLab, Status};
use crate::harness::road::{CLASS_TOKEN, HOOK_SECRET, Plan, Road, find_record, job};
use crate::harness::{Daemon, PATIENCE, Setup, engine};

const SIGNING_TOKEN: &str = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";
const OLD_SIGNING_TOKEN: &str = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// A GitLab, and a daemon that works for it.
async fn road(name: &str, class: &str) -> (GitLab, Daemon) {
    let Road { gitlab, daemon } = Road::start(name, "1h", class).await;
    (gitlab, daemon)
}

/// Our record of a job of GitLab.
async fn record(daemon: &Daemon, gitlab_id: i64) -> Value {
    let found = find_record(daemon, gitlab_id).await;
    found.unwrap_or_else(|| panic!("no record of {gitlab_id}\n{}", daemon.log()))
}

#[tokio::test]
async fn a_pending_event_becomes_a_container_and_its_result_comes_back() {
    let (gitlab, daemon) = road("road-main", "").await;
    let good = gitlab.enqueue(job("build").script(["echo building in $CI_PROJECT_PATH", "echo made > out.txt"]).artifacts(["out.txt"]));
    let bad = gitlab.enqueue(job("test").script(["echo testing", "exit 9"]));
    for id in [good, bad] {
        let delivery = gitlab.send_job_event(id).await;
        assert_eq!(delivery.status, Some(200), "{delivery:?}");
    }
    let done = gitlab.wait_for(good, PATIENCE, |job| job.status.is_final()).await.unwrap_or_else(|error| panic!("{error}\n{}", daemon.log()));
    assert_eq!(done.status, Status::Success, "{done:?}");
    assert!(done.trace.contains("building in team/app"), "{}", done.trace);
    assert_eq!(done.artifacts.len(), 1, "{done:?}");
    let failed = gitlab.wait_for(bad, PATIENCE, |job| job.status.is_final()).await.unwrap_or_else(|error| panic!("{error}\n{}", daemon.log()));
    assert_eq!((failed.status, failed.failure_reason.as_deref(), failed.exit_code), (Status::Failed, Some("script_failure"), Some(9)));
    assert_eq!((done.n_assigned, failed.n_assigned), (1, 1));

    let ours = record(&daemon, good).await;
    let ours = daemon.ended(ours["id"].as_str().expect("an id")).await;
    assert_eq!((&ours["state"], &ours["source"], &ours["project"]), (&json!("succeeded"), &json!("gitlab"), &json!("team/app")), "{ours}");
    assert_eq!(daemon.logs(ours["id"].as_str().expect("an id")).await, done.trace, "our log is GitLab's trace");
    let ours = record(&daemon, bad).await;
    let ours = daemon.ended(ours["id"].as_str().expect("an id")).await;
    assert_eq!((&ours["state"], &ours["reason"], &ours["exit_code"]), (&json!("failed"), &json!("exit_code"), &json!(9)), "{ours}");
    daemon.finish().await;
}

#[tokio::test]
async fn the_class_token_never_enters_a_container() {
    let (gitlab, daemon) = road("road-token", "").await;
    let id = gitlab.enqueue(job("look").script(["env | sort", "tr '\\0' '\\n' < /proc/1/environ", "cat /proc/*/cmdline | tr '\\0' ' '"]));
    gitlab.send_job_event(id).await;
    let done = gitlab.wait_for(id, PATIENCE, |job| job.status.is_final()).await.unwrap_or_else(|error| panic!("{error}\n{}", daemon.log()));
    assert!(done.trace.contains("CI_SERVER_TOKEN=rct-"), "the job sees its runner's own token: {}", done.trace);
    assert!(!done.trace.contains(CLASS_TOKEN), "the class's token is in the container:\n{}", done.trace);
    assert!(!daemon.log().contains(CLASS_TOKEN) && !daemon.log().contains(HOOK_SECRET), "a secret is in the daemon's log");
    daemon.until("all is taken away", async |_| engine::containers("road-token").is_empty()).await;
    daemon.finish().await;
}

#[tokio::test]
async fn a_daemon_that_dies_under_a_job_finds_it_again() {
    let (gitlab, mut daemon) = road("road-kill", "").await;
    let id = gitlab.enqueue(job("long").script(["for i in 1 2 3 4 5 6 7 8; do echo step $i; sleep 0.5; done"]));
    gitlab.send_job_event(id).await;
    gitlab.wait_for(id, PATIENCE, |job| job.trace.contains("step 1")).await.unwrap_or_else(|error| panic!("{error}\n{}", daemon.log()));
    daemon.kill();
    daemon.start().await;
    let done = gitlab.wait_for(id, PATIENCE, |job| job.status.is_final()).await.unwrap_or_else(|error| panic!("{error}\n{}", daemon.log()));
    assert_eq!((done.status, done.n_assigned), (Status::Success, 1), "{done:?}");
    for step in 1..=8 {
        assert_eq!(done.trace.matches(&format!("step {step}\n")).count(), 1, "{}", done.trace);
    }
    let ours = record(&daemon, id).await;
    let ours = daemon.ended(ours["id"].as_str().expect("an id")).await;
    assert_eq!((&ours["state"], &ours["attempt"]), (&json!("succeeded"), &json!(1)), "{ours}");
    daemon.finish().await;
}

#[tokio::test]
async fn a_container_that_dies_is_told_to_gitlab_and_a_cancel_here_too() {
    let (gitlab, daemon) = road("road-dies", "").await;
    let dies = gitlab.enqueue(job("dies").script(["echo up; sleep 600"]));
    gitlab.send_job_event(dies).await;
    gitlab.wait_for(dies, PATIENCE, |job| job.trace.contains("up")).await.unwrap_or_else(|error| panic!("{error}\n{}", daemon.log()));
    let name = engine::containers("road-dies").pop().expect("its container");
    engine::docker(&["kill", &name]);
    let done = gitlab.wait_for(dies, PATIENCE, |job| job.status.is_final()).await.unwrap_or_else(|error| panic!("{error}\n{}", daemon.log()));
    assert_eq!((done.status, done.failure_reason.as_deref()), (Status::Failed, Some("runner_system_failure")), "{done:?}");
    let ours = record(&daemon, dies).await;
    let ours = daemon.ended(ours["id"].as_str().expect("an id")).await;
    assert_eq!((&ours["state"], &ours["reason"], &ours["attempt"]), (&json!("failed"), &json!("runner_exited"), &json!(1)), "{ours}");

    let cancelled = gitlab.enqueue(job("cancelled").script(["echo up; sleep 600"]));
    gitlab.send_job_event(cancelled).await;
    gitlab.wait_for(cancelled, PATIENCE, |job| job.trace.contains("up")).await.unwrap_or_else(|error| panic!("{error}\n{}", daemon.log()));
    let ours = record(&daemon, cancelled).await;
    let id = ours["id"].as_str().expect("an id").to_owned();
    daemon.request(Method::DELETE, &format!("/jobs/{id}"), None).await;
    let done = gitlab.wait_for(cancelled, PATIENCE, |job| job.status.is_final()).await.unwrap_or_else(|error| panic!("{error}\n{}", daemon.log()));
    assert_eq!(done.status, Status::Failed, "{done:?}");
    let ours = daemon.ended(&id).await;
    assert_eq!((&ours["state"], &ours["reason"]), (&json!("canceled"), &json!("canceled_by_user")), "{ours}");
    daemon.finish().await;
}

#[tokio::test]
async fn a_warm_runner_waits_takes_a_job_without_a_new_container_and_can_be_ended() {
    let (gitlab, daemon) = road("road-warm", "").await;
    let (status, runner) = daemon.request(Method::POST, "/runners", Some(json!({ "class": "gitlab" }))).await;
    assert!(status == StatusCode::CREATED || status == StatusCode::ACCEPTED, "{status} {runner}");
    let id = runner["id"].as_str().expect("an id").to_owned();
    let idle = async |daemon: &Daemon| daemon.get(&format!("/runners/{id}")).await["state"] == "idle";
    daemon.until("the runner waits", async |daemon| idle(daemon).await).await;
    let containers = engine::containers("road-warm");
    assert_eq!(containers.len(), 1);

    let job = gitlab.enqueue(job("warm").script(["echo warm"]));
    gitlab.send_job_event(job).await;
    let done = gitlab.wait_for(job, PATIENCE, |job| job.status.is_final()).await.unwrap_or_else(|error| panic!("{error}\n{}", daemon.log()));
    assert_eq!(done.status, Status::Success, "{done:?}");
    let ours = record(&daemon, job).await;
    let ours = daemon.ended(ours["id"].as_str().expect("an id")).await;
    assert_eq!(ours["runner_id"], json!(id), "it ran on the runner that waited: {ours}");

    let (_, runner) = daemon.request(Method::POST, "/runners", Some(json!({ "class": "gitlab" }))).await;
    let id = runner["id"].as_str().expect("an id").to_owned();
    let idle = async |daemon: &Daemon| daemon.get(&format!("/runners/{id}")).await["state"] == "idle";
    daemon.until("the runner waits", async |daemon| idle(daemon).await).await;
    let (status, _) = daemon.request(Method::DELETE, &format!("/runners/{id}"), None).await;
    assert_eq!(status, StatusCode::ACCEPTED);
    daemon.finish().await;
}

#[tokio::test]
async fn a_pool_of_warm_runners_replaces_one_that_dies() {
    let (gitlab, daemon) = road("road-pool", "warm = 1").await;
    let waiting = async |daemon: &Daemon| {
        let runners = daemon.get("/runners").await;
        runners["runners"].as_array().expect("runners").iter().find(|runner| runner["state"] == "idle").map(|runner| runner["id"].clone())
    };
    daemon.until("one waits", async |daemon| waiting(daemon).await.is_some()).await;
    let first = waiting(&daemon).await.expect("it waits");
    let name = engine::containers("road-pool").pop().expect("its container");
    engine::docker(&["kill", &name]);
    daemon.until("another waits", async |daemon| waiting(daemon).await.is_some_and(|now| now != first)).await;
    gitlab.remove_runner(205);
    let second = waiting(&daemon).await.expect("it waits");
    let gone = daemon.get(&format!("/runners/{}", first.as_str().expect("an id"))).await;
    assert_eq!((&gone["state"], &gone["reason"]), (&json!("gone"), &json!("runner_exited")), "{gone}");
    assert_ne!(first, second);
    // A pool is kept as long as the daemon runs, so it is not expected to be empty at the end.
    daemon.finish_with_pool().await;
}

#[tokio::test]
async fn a_bell_that_is_not_gitlabs_is_refused_and_one_that_is_not_for_us_ignored() {
    let (gitlab, daemon) = road("road-bell", "").await;
    let hook = format!("{}/webhook/job", daemon.url);
    let post = async |token: Option<&str>, event: &str, body: &str| {
        let mut request = crate::harness::client().post(&hook).header("content-type", "application/json").header("x-gitlab-event", event);
        if let Some(token) = token {
            request = request.header("x-gitlab-token", token);
        }
        let response = request.body(body.to_owned()).send().await.expect("an answer");
        (response.status(), response.json::<Value>().await.unwrap_or_default())
    };
    let asked = gitlab.count_requests("POST", "/jobs/request");
    assert_eq!(post(None, "Job Hook", "{}").await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(post(Some("wrong"), "Job Hook", "{}").await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(post(Some(HOOK_SECRET), "Job Hook", "{").await.0, StatusCode::BAD_REQUEST);
    for (event, body) in
        [("Push Hook", r#"{"object_kind":"push"}"#), ("Job Hook", r#"{"object_kind":"build","build_id":1,"build_status":"created"}"#)]
    {
        let (status, answer) = post(Some(HOOK_SECRET), event, body).await;
        assert_eq!((status, &answer["status"]), (StatusCode::OK, &json!("ignored")), "{answer}");
        assert!(answer["reason"].is_string(), "{answer}");
    }
    assert_eq!(gitlab.count_requests("POST", "/jobs/request"), asked, "none of them was a reason to ask");
    daemon.finish().await;
}

#[tokio::test]
async fn a_signed_bell_rings_and_ends_a_cancelled_job_and_a_wrongly_signed_one_does_not() {
    let webhook = format!("signing_token = [{OLD_SIGNING_TOKEN:?}, {SIGNING_TOKEN:?}]");
    let Road { gitlab, daemon } = Road::build(Setup::new("road-signed"), Plan { webhook: &webhook, ..Plan::default() }).await;
    let id = gitlab.enqueue(job("signed").script(["echo up; sleep 600"]));
    assert_eq!(gitlab.send_job_event(id).await.status, Some(401), "a secret token does not replace a signature");
    gitlab.set_signing_token("whsec_ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8=");
    assert_eq!(gitlab.send_job_event(id).await.status, Some(401), "signed with another token");
    gitlab.set_signing_token(SIGNING_TOKEN);
    let delivery = gitlab.send_job_event(id).await;
    assert_eq!((delivery.status, delivery.body.contains("accepted")), (Some(200), true), "{delivery:?}");
    gitlab.wait_for(id, PATIENCE, |job| job.trace.contains("up")).await.unwrap_or_else(|error| panic!("{error}\n{}", daemon.log()));

    gitlab.cancel(id);
    gitlab.wait_for(id, PATIENCE, |job| job.status.is_final()).await.unwrap_or_else(|error| panic!("{error}\n{}", daemon.log()));
    gitlab.set_signing_token(OLD_SIGNING_TOKEN);
    let delivery = gitlab.send_job_event(id).await;
    assert_eq!((delivery.build_status.as_str(), delivery.status), ("canceled", Some(200)), "{delivery:?}");
    let ours = record(&daemon, id).await;
    let ours = daemon.ended(ours["id"].as_str().expect("an id")).await;
    assert_eq!((&ours["state"], &ours["reason"]), (&json!("canceled"), &json!("canceled_in_gitlab")), "{ours}");
    assert!(!daemon.log().contains("whsec_"), "a secret is in the daemon's log");
    daemon.finish().await;
}
