//! Disks that are full or cannot be written to, and a process that has no file descriptors left: what was accepted is kept, what runs ends as
//! it does, and when there is room again everything goes on without a restart.

use std::net::TcpStream;
use std::path::Path;

use reqwest::{Method, StatusCode, header};
use serde_json::{Value, json};

use crate::harness::engine::{self, UNTIL_TOLD};
use crate::harness::own_engine::OwnEngine;
use crate::harness::small_disk::SmallDisk;
use crate::harness::{BUSYBOX, Daemon, Setup, client, free_port, pause};

/// Submits large jobs until one is refused; the ids of those that were not, and the refusal.
async fn submit_until_refused(daemon: &Daemon) -> (Vec<String>, reqwest::Response) {
    let body = json!({ "image": BUSYBOX, "command": ["true"], "env": { "LARGE": "x".repeat(30_000) } });
    let mut accepted = Vec::new();
    loop {
        let answer = client().post(format!("{}/jobs", daemon.url)).json(&body).send().await.expect("an answer");
        if answer.status() != StatusCode::ACCEPTED {
            return (accepted, answer);
        }
        let job: Value = answer.json().await.expect("JSON");
        accepted.push(job["id"].as_str().expect("an id").to_owned());
        assert!(accepted.len() < 5000, "the disk does not get full");
    }
}

#[tokio::test]
async fn on_a_full_disk_nothing_accepted_is_lost_and_what_runs_ends_as_it_did() {
    let disk = SmallDisk::new(48);
    let daemon = Setup::new("disk-full").data(&disk.path("data")).host("cpus = 1").start().await;
    daemon.until("it is healthy", Daemon::is_healthy).await;
    let running = daemon.sh(&format!("{UNTIL_TOLD}; exit 5")).await;
    daemon.reaches(&running, &["running"]).await;
    let container = engine::containers("disk-full").pop().expect("its container");
    disk.fill();
    let (accepted, refusal) = submit_until_refused(&daemon).await;
    assert_eq!(refusal.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(refusal.headers().contains_key(header::RETRY_AFTER), "{refusal:?}");
    let problem: Value = refusal.json().await.expect("JSON");
    assert!(problem["type"].as_str().is_some_and(|kind| kind.ends_with("store-unavailable")), "{problem}");
    daemon
        .until("it says so", async |daemon| {
            let (status, health) = daemon.request(Method::GET, "/health", None).await;
            status == StatusCode::SERVICE_UNAVAILABLE && health["checks"]["store"]["status"] == "failing"
        })
        .await;
    // The job ends while its end cannot be written down.
    let pid = daemon.pid();
    engine::tell(&running);
    daemon
        .until("its container has ended", async |_| engine::docker(&["inspect", "--format", "{{.State.Running}}", &container]).trim() == "false")
        .await;
    assert_eq!(daemon.job(&running).await["state"], "running", "nobody could write that down");
    disk.free();
    let job = daemon.ended(&running).await;
    assert_eq!((&job["reason"], &job["exit_code"], &job["attempt"]), (&json!("exit_code"), &json!(5), &json!(1)), "{job}\n{}", daemon.log());
    daemon.until("it is healthy", Daemon::is_healthy).await;
    assert_eq!(daemon.pid(), pid, "without a restart");
    for id in &accepted {
        assert!(daemon.job(id).await["state"].is_string());
        daemon.request(Method::DELETE, &format!("/jobs/{id}"), None).await;
    }
    for id in &accepted {
        daemon.ended(id).await;
    }
    let after = daemon.sh("echo room again").await;
    assert_eq!(daemon.ended(&after).await["state"], "succeeded");
    assert_eq!(daemon.logs(&after).await, "room again\n");
    daemon.finish().await;
}

#[tokio::test]
async fn a_store_that_cannot_be_written_to_is_refused_by_name_at_the_start() {
    let disk = SmallDisk::new(48);
    let mut daemon = Setup::new("disk-ro").data(&disk.path("data")).start().await;
    let id = daemon.sh("echo kept").await;
    daemon.ended(&id).await;
    assert!(daemon.terminate().await.success());
    disk.remount("ro");
    let output = daemon.command(&["serve"]).output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let names = format!("cannot open {}", disk.path("data/coordinator.db").display());
    assert!(said.contains(&names) && said.contains("Read-only file system"), "{said}");
    disk.remount("rw");
    daemon.start().await;
    assert_eq!(daemon.logs(&id).await, "kept\n");
    daemon.finish().await;
}

#[tokio::test]
async fn an_engine_whose_disk_is_full_costs_attempts_with_its_words_and_leaves_nothing() {
    let engine = OwnEngine::start_small(64).await;
    let rest = format!(
        "[broker]\nlisten = \"127.0.0.1:{}\"\n[limits]\nretry_backoff = \"100ms\"\n[[classes]]\nname = \"default\"\nnetwork = \"none\"",
        free_port()
    );
    let mut daemon = Setup::new("disk-engine").docker_host(&engine.host()).with(&rest).start().await;
    let before = daemon.sh("echo before").await;
    assert_eq!(daemon.ended(&before).await["state"], "succeeded", "{}", daemon.log());
    engine.disk().fill();
    let id = daemon.sh("echo full").await;
    let job = daemon.ended(&id).await;
    assert_eq!((&job["state"], &job["reason"]), (&json!("failed"), &json!("start_failed")), "{job}");
    assert!(job.to_string().contains("no space left on device"), "{job}");
    assert!(job["attempt"].as_u64().is_some_and(|attempt| attempt > 1), "it was tried again: {job}");
    engine.disk().free();
    let after = daemon.sh("echo after").await;
    assert_eq!(daemon.ended(&after).await["state"], "succeeded", "{}", daemon.log());
    daemon.until("nothing is left", async |_| engine.containers().is_empty()).await;
    assert!(daemon.terminate().await.success());
}

/// Open descriptors of a process.
fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(Path::new("/proc").join(pid.to_string()).join("fd")).map_or(0, Iterator::count)
}

#[tokio::test]
async fn a_daemon_without_descriptors_left_stays_and_recovers_when_its_callers_leave() {
    let daemon = Setup::new("disk-fds").limits("ulimit -n 64").start().await;
    daemon.until("it is healthy", Daemon::is_healthy).await;
    let running = daemon.sh(&format!("{UNTIL_TOLD}; exit 5")).await;
    daemon.reaches(&running, &["running"]).await;
    let (pid, address) = (daemon.pid(), daemon.url.trim_start_matches("http://").to_owned());
    let callers: Vec<TcpStream> = (0..120).map(|_| TcpStream::connect(&address).expect("the kernel takes them")).collect();
    daemon.until("none is left", async |_| descriptors(pid) >= 60).await;
    // It must come through this without spinning: a second of it costs less than half a processor.
    let used = processor_ticks(pid);
    let began = tokio::time::Instant::now();
    while began.elapsed() < std::time::Duration::from_secs(2) {
        pause().await;
    }
    assert!(processor_ticks(pid) - used < 100, "it spins");
    engine::tell(&running);
    drop(callers);
    let job = daemon.ended(&running).await;
    assert_eq!((&job["exit_code"], &job["attempt"]), (&json!(5), &json!(1)), "{job}");
    daemon.until("it is healthy", Daemon::is_healthy).await;
    let after = daemon.sh("echo after").await;
    assert_eq!(daemon.ended(&after).await["state"], "succeeded");
    assert_eq!(daemon.pid(), pid, "without a restart");
    daemon.finish().await;
}

/// Hundredths of a second of processor time that a process has used.
fn processor_ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).expect("a process");
    let fields: Vec<u64> =
        stat.rsplit(')').next().expect("fields").split_whitespace().skip(11).take(2).filter_map(|field| field.parse().ok()).collect();
    fields.iter().sum()
}
