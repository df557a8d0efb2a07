//! Traces of ended jobs: the real daemon and engine, and a collector that reads with the official crate.

use axum::http::StatusCode;
use serde_json::json;

use crate::harness::collector::{Collector, text_of};
use crate::harness::{BUSYBOX, Daemon, PATIENCE, Setup, free_port, road};

fn traces(port: u16) -> String {
    format!(
        "[limits]\nretry_backoff = \"100ms\"\n[traces]\nendpoint = \"http://127.0.0.1:{port}\"\n[[traces.headers]]\nname = \"x-key\"\nvalue = \"sesame\""
    )
}

async fn arrives(daemon: &Daemon, collector: &Collector, job: &str) {
    daemon.until("its trace arrives", async |_| !collector.spans_of(job).is_empty()).await;
}

/// A job's spans without those that take less than the clock can tell, sorted by name.
fn sorted(mut names: Vec<String>) -> Vec<String> {
    names.sort();
    names
}

#[tokio::test]
async fn a_job_that_is_over_is_told_once_from_queue_to_removal() {
    let collector = Collector::start(0).await;
    let daemon = Setup::new("traces-good").with(&traces(collector.port)).start().await;
    let id = daemon.sh("sleep 0.2").await;
    daemon.ended(&id).await;
    arrives(&daemon, &collector, &id).await;
    assert_eq!(sorted(collector.names_of(&id)), ["attempt", "create", "job", "queue", "remove", "run", "start"]);
    assert_eq!((collector.services(), collector.header("x-key")), (vec!["runner-coordinator".to_owned()], Some("sesame".to_owned())));
    let spans = collector.spans_of(&id);
    let root = spans.iter().find(|span| span.name == "job").expect("a root");
    assert_eq!(text_of(&root.attributes, "cicd.pipeline.task.run.result").as_deref(), Some("success"));
    assert!(spans.iter().all(|span| span.start_time_unix_nano >= root.start_time_unix_nano && span.end_time_unix_nano <= root.end_time_unix_nano));
    let run = spans.iter().find(|span| span.name == "run").expect("a run");
    assert!(run.end_time_unix_nano - run.start_time_unix_nano >= 150_000_000, "it slept");
    daemon.finish().await;
}

#[tokio::test]
async fn a_job_that_fails_and_is_tried_again_shows_every_attempt() {
    let collector = Collector::start(0).await;
    let daemon = Setup::new("traces-bad").with(&traces(collector.port)).start().await;
    let body = json!({ "image": BUSYBOX, "command": ["sh", "-c", "exit 4"], "retries": 1, "project": "team/app" });
    let id = daemon.submit(body).await;
    daemon.ended(&id).await;
    arrives(&daemon, &collector, &id).await;
    let names = collector.names_of(&id);
    let count = |name: &str| names.iter().filter(|one| *one == name).count();
    assert_eq!((count("job!"), count("attempt!"), count("run!"), count("queue"), count("remove")), (1, 2, 2, 2, 2), "{names:?}");
    let root = collector.spans_of(&id).into_iter().find(|span| span.name == "job").expect("a root");
    assert_eq!(text_of(&root.attributes, "error.type").as_deref(), Some("exit_code"));
    assert_eq!(text_of(&root.attributes, "runner_coordinator.job.project").as_deref(), Some("team/app"));
    daemon.finish().await;
}

#[tokio::test]
async fn a_kill_in_the_middle_does_not_lose_a_trace() {
    let collector = Collector::start(0).await;
    let mut daemon = Setup::new("traces-kill").with(&traces(collector.port)).start().await;
    let id = daemon.sh("sleep 1").await;
    daemon.reaches(&id, &["running"]).await;
    daemon.kill();
    daemon.start().await;
    daemon.ended(&id).await;
    arrives(&daemon, &collector, &id).await;
    assert_eq!(sorted(collector.names_of(&id)), ["attempt", "create", "job", "queue", "remove", "run", "start"]);
    daemon.finish().await;
}

#[tokio::test]
async fn a_collector_that_is_away_gets_everything_when_it_is_back_even_after_a_restart() {
    let port = free_port();
    let mut daemon = Setup::new("traces-away").with(&traces(port)).start().await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(daemon.sh("true").await);
    }
    for id in &ids {
        assert_eq!(daemon.ended(id).await["state"], "succeeded", "jobs do not care");
    }
    daemon.until("it noticed", async |daemon| daemon.log().contains("traces could not be sent")).await;
    daemon.kill();
    let collector = Collector::start(port).await;
    collector.answer(StatusCode::SERVICE_UNAVAILABLE);
    daemon.start().await;
    daemon.until("it asks", async |_| collector.asked() >= 2).await;
    collector.answer(StatusCode::OK);
    for id in &ids {
        arrives(&daemon, &collector, id).await;
        assert_eq!(collector.spans_of(id).iter().filter(|span| span.name == "job").count(), 1);
    }
    assert_eq!(daemon.log().matches("traces could not be sent").count(), 1, "an outage is told once");
    daemon.until("it says so", async |daemon| daemon.log().contains("takes traces again")).await;
    daemon.finish().await;
}

#[tokio::test]
async fn a_job_of_gitlab_is_told_from_its_webhook_on() {
    let collector = Collector::start(0).await;
    let road = road::Road::build(Setup::new("traces-gitlab").with(&traces(collector.port)), road::Plan::default()).await;
    let gitlab_id = road.gitlab.enqueue(road::job("build").script(["true"]));
    road.gitlab.send_job_event(gitlab_id).await;
    road.reaches(gitlab_id, PATIENCE, |job| job.status.is_final()).await;
    let id = road.ended(gitlab_id).await["id"].as_str().expect("an id").to_owned();
    arrives(&road.daemon, &collector, &id).await;
    assert_eq!(sorted(collector.names_of(&id)), ["attempt", "create", "hand over", "job", "queue", "remove", "run", "start", "webhook"]);
    let root = collector.spans_of(&id).into_iter().find(|span| span.name == "job").expect("a root");
    assert_eq!(text_of(&root.attributes, "cicd.pipeline.task.name").as_deref(), Some("build"));
    assert_eq!(text_of(&root.attributes, "cicd.pipeline.task.run.id"), Some(gitlab_id.to_string()));
    road.daemon.finish().await;
}
