//! What a whole daemon counts, to the last job, on a real engine.

use std::collections::BTreeMap;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::harness::{BUSYBOX, Daemon, Setup, client};

const SECRET: &str = "hook-secret-of-the-metrics";

/// The samples of one scrape, without our prefix.
async fn scrape(daemon: &Daemon) -> BTreeMap<String, f64> {
    let (status, body) = daemon.request(Method::GET, "/metrics", None).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    let Value::String(text) = body else { panic!("no text: {body}") };
    let lines = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.rsplit_once(' '));
    lines.map(|(series, value)| (series.trim_start_matches("runner_coordinator_").to_owned(), value.parse().expect("a number"))).collect()
}

async fn ring(daemon: &Daemon, token: &str) -> StatusCode {
    let event = json!({ "object_kind": "build", "build_id": 1, "build_status": "pending" });
    let request = client().post(format!("{}/webhook/job", daemon.url)).header("x-gitlab-event", "Job Hook").header("x-gitlab-token", token);
    request.json(&event).send().await.expect("an answer").status()
}

async fn no_runner_is_left(daemon: &Daemon) -> bool {
    daemon.get("/runners").await["runners"].as_array().is_some_and(Vec::is_empty)
}

#[tokio::test]
async fn every_job_container_and_delivery_is_counted_once() {
    let daemon = Setup::new("metrics-main")
        .with(&format!("[gitlab]\nurl = \"http://127.0.0.1:1\"\n[gitlab.webhook]\nsecret_token = \"{SECRET}\""))
        .with("[[classes]]\nname = \"default\"\ncpus = 0.25\nmemory = \"64MiB\"\nnetwork = \"none\"")
        .start()
        .await;
    daemon.until("it is healthy", Daemon::is_healthy).await;
    let good = daemon.sh("true").await;
    let bad = daemon.sh("exit 3").await;
    assert_eq!(daemon.ended(&good).await["state"], "succeeded");
    assert_eq!(daemon.ended(&bad).await["reason"], "exit_code");
    daemon.until("no runner is left", no_runner_is_left).await;
    let cancelled = daemon.submit(json!({ "image": BUSYBOX, "command": ["sleep", "600"] })).await;
    daemon.reaches(&cancelled, &["running"]).await;
    // The manager publishes what is held after its pass.
    let told = async |daemon: &Daemon| {
        let during = scrape(daemon).await;
        (during["jobs{state=\"running\"}"], during["host_cpus_held"]) == (1.0, 0.25)
    };
    daemon.until("one job is told to run, and its share to be held", told).await;
    assert_eq!(daemon.request(Method::DELETE, &format!("/jobs/{cancelled}"), None).await.0, StatusCode::ACCEPTED);
    assert_eq!(daemon.ended(&cancelled).await["state"], "canceled");
    assert_eq!(
        (ring(&daemon, SECRET).await, ring(&daemon, "wrong").await, ring(&daemon, "").await),
        (StatusCode::OK, StatusCode::UNAUTHORIZED, StatusCode::UNAUTHORIZED)
    );
    daemon.until("no runner is left", no_runner_is_left).await;
    daemon.until("nothing is held", async |daemon| scrape(daemon).await["host_cpus_held"] == 0.0).await;
    let after = scrape(&daemon).await;
    for (series, value) in [
        ("jobs_submitted_total{class=\"default\",source=\"api\"}", 3.0),
        ("jobs_ended_total{class=\"default\",outcome=\"succeeded\",reason=\"\"}", 1.0),
        ("jobs_ended_total{class=\"default\",outcome=\"failed\",reason=\"exit_code\"}", 1.0),
        ("jobs_ended_total{class=\"default\",outcome=\"canceled\",reason=\"canceled_by_user\"}", 1.0),
        ("attempts_ended_total{class=\"default\",outcome=\"failed\",reason=\"exit_code\"}", 1.0),
        ("job_retries_total{class=\"default\"}", 0.0),
        ("job_queue_seconds_count{class=\"default\"}", 3.0),
        ("job_wait_seconds_count{class=\"default\"}", 3.0),
        ("job_run_seconds_count{class=\"default\"}", 3.0),
        ("runner_start_seconds_count{class=\"default\"}", 3.0),
        ("engine_call_seconds_count{operation=\"create\"}", 3.0),
        ("engine_call_seconds_count{operation=\"start\"}", 3.0),
        ("store_operation_seconds_count{operation=\"store_a_job\"}", 3.0),
        ("http_requests_total{route=\"/jobs\",method=\"POST\",status=\"2xx\"}", 3.0),
        ("http_requests_total{route=\"/jobs/{id}\",method=\"DELETE\",status=\"2xx\"}", 1.0),
        ("webhook_deliveries_total{result=\"accepted\"}", 1.0),
        ("webhook_deliveries_total{result=\"unauthorized\"}", 2.0),
        ("jobs{state=\"succeeded\"}", 1.0),
        ("jobs{state=\"queued\"}", 0.0),
        ("queue_ready_jobs{class=\"default\"}", 0.0),
        ("engine_up", 1.0),
        ("store_up", 1.0),
        ("tick_errors_total", 0.0),
        ("stray_containers_removed_total", 0.0),
    ] {
        assert_eq!(after.get(series), Some(&value), "{series}: {after:#?}");
    }
    assert!(after["last_tick_age_seconds"] < 10.0 && after["tick_seconds_count"] > 3.0, "{after:#?}");
    assert!(after["job_wait_seconds_sum{class=\"default\"}"] >= after["job_queue_seconds_sum{class=\"default\"}"], "{after:#?}");
    assert!(after["process_resident_memory_bytes"] > 1e6 && after["process_open_fds"] > 3.0, "{after:#?}");
    daemon.finish().await;
}
