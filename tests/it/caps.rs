//! Limits of single projects, through the whole daemon.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::gitlab::Status;
use crate::gpu_daemon::Machine;
use crate::harness::road::{Plan, Road, job};
use crate::harness::{BUSYBOX, PATIENCE, Setup};

/// A job that runs until it is cancelled.
fn forever(project: &str) -> Value {
    json!({ "image": BUSYBOX, "command": ["sh", "-c", "while true; do sleep 0.1; done"], "cpus": 0.1, "memory": "64MiB", "project": project })
}

#[tokio::test]
async fn a_project_runs_no_more_than_it_may_and_nobody_waits_for_it() {
    let limits = "[[projects]]\nname = \"a\"\nmax_running = 1\nmax_gpus = 2";
    let mut daemon = Setup::new("caps-api").host("cpus = 2\nmemory = \"1GiB\"").with(limits).start().await;
    let first = daemon.submit(forever("a")).await;
    daemon.reaches(&first, &["running"]).await;
    let second = daemon.submit(forever("a")).await;
    let other = daemon.submit(forever("b")).await;
    daemon.reaches(&other, &["running"]).await;
    let said = daemon.get(&format!("/jobs/{second}/explain")).await;
    assert_eq!((&said["state"], &said["waits_for"]), (&json!("queued"), &json!("project_limit")), "{said}");
    assert_eq!(said["project_limit"], json!({ "project": "a", "limit": "max_running", "most": 1, "used": 1 }), "{said}");
    assert_eq!((&said["hosts"][0]["fits"], &said["estimated_start"]), (&json!("now"), &Value::Null), "{said}");
    assert!(said["summary"].as_str().expect("words").starts_with("project a runs its most of 1 job"), "{said}");

    let mut body = forever("a");
    (body["gpus"], body["if_unsatisfiable"]) = (json!({ "count": 3 }), json!("wait"));
    let (status, problem) = daemon.request(Method::POST, "/jobs", Some(body)).await;
    assert_eq!((status, &problem["errors"][0]["field"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!("gpus.count")), "{problem}");

    // The limit holds over a restart, and ends with the job that used it up.
    daemon.kill();
    daemon.start().await;
    daemon.until("it is healthy", crate::harness::Daemon::is_healthy).await;
    assert_eq!(daemon.job(&second).await["state"], "queued");
    daemon.request(Method::DELETE, &format!("/jobs/{first}"), None).await;
    daemon.reaches(&second, &["running"]).await;
    assert_eq!(daemon.ended(&first).await["state"], "canceled");
    for id in [&second, &other] {
        daemon.request(Method::DELETE, &format!("/jobs/{id}"), None).await;
        daemon.ended(id).await;
    }
    daemon.finish().await;
}

#[tokio::test]
async fn a_project_at_its_limit_does_not_keep_others_of_gitlab_out() {
    let limits = "[[projects]]\nname = \"team/app\"\nmax_running = 1";
    let road = Road::build(Setup::new("caps-gitlab").with(limits), Plan::default()).await;
    let long = road.gitlab.enqueue(job("long").script(["while true; do sleep 0.1; done"]));
    road.gitlab.send_job_event(long).await;
    road.reaches(long, PATIENCE, |job| job.status == Status::Running).await;
    let next = road.gitlab.enqueue(job("next").script(["echo next"]));
    road.gitlab.send_job_event(next).await;
    // It is taken from GitLab, and waits here.
    road.daemon.until("it waits here", async |_| road.find_record(next).await.is_some_and(|record| record["state"] == "queued")).await;
    let other = road.gitlab.enqueue(job("other").project("other/app", 283).script(["echo other"]));
    road.gitlab.send_job_event(other).await;
    road.reaches(other, PATIENCE, |job| job.status == Status::Success).await;
    let waits = road.find_record(next).await.expect("a record");
    assert_eq!(waits["state"], "queued", "{waits}");
    let id = road.find_record(long).await.expect("a record")["id"].as_str().expect("an id").to_owned();
    road.daemon.request(Method::DELETE, &format!("/jobs/{id}"), None).await;
    road.reaches(next, PATIENCE, |job| job.status == Status::Success).await;
    road.ended(long).await;
    road.daemon.finish().await;
}

#[tokio::test]
async fn a_job_of_gitlab_that_is_over_its_projects_limit_alone_is_refused() {
    let limits = "[[projects]]\nname = \"team/app\"\nmax_gpus = 1";
    let machine = Machine::new();
    let setup = Setup::new("caps-over").with(&machine.settings()).with(limits);
    let road = Road::build(setup, Plan { class: "[classes.gpus]\ncount = 2", ..Plan::default() }).await;
    let id = road.gitlab.enqueue(job("big").script(["echo never"]));
    road.gitlab.send_job_event(id).await;
    let done = road.reaches(id, PATIENCE, |job| job.status.is_final()).await;
    assert!(done.trace.contains("project team/app may have no more GPUs at once"), "{}", done.trace);
    let record = road.ended(id).await;
    assert_eq!((&record["state"], &record["reason"]), (&json!("failed"), &json!("unsatisfiable")), "{record}");
    road.daemon.finish().await;
}
