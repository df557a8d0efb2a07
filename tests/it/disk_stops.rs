//! Disks that stop while the daemon runs: one on which writes hang, and one that the kernel lets nobody write to any more after an error.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::engine::{self, UNTIL_TOLD};
use crate::harness::loop_disk::LoopDisk;
use crate::harness::{BUSYBOX, Daemon, Setup};

/// Whether the store is told to be failing, and how.
async fn store_fails(daemon: &Daemon) -> Option<String> {
    let (_, health) = daemon.request(Method::GET, "/health", None).await;
    let store = &health["checks"]["store"];
    (store["status"] == "failing").then(|| store["detail"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn a_disk_that_hangs_is_told_and_when_it_goes_on_everything_is_as_it_should_be() {
    let files = TempDir::with_prefix("rc-stops-").expect("a directory");
    let disk = LoopDisk::make(&files.path().join("disk"));
    let daemon = Setup::new("disk-hangs").data(&disk.path("data")).start().await;
    daemon.until("it is healthy", Daemon::is_healthy).await;
    let running = daemon.sh(&format!("{UNTIL_TOLD}; exit 5")).await;
    daemon.reaches(&running, &["running"]).await;
    let waiting = daemon.submit(json!({ "image": BUSYBOX, "command": ["true"], "priority": -1 })).await;
    daemon.ended(&waiting).await;
    let pid = daemon.pid();
    // Nothing is left to be written. The first to read after the last write marks in the log's index how far it reads, which is a write too.
    daemon.until("only it is left", async |daemon| daemon.get("/runners").await["runners"].as_array().is_some_and(|open| open.len() == 1)).await;
    daemon.job(&running).await;
    let frozen = disk.freeze();
    let body = json!({ "image": BUSYBOX, "command": ["true"] });
    let (status, problem) = daemon.request(Method::POST, "/jobs", Some(body)).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{problem}");
    daemon.until("it is told", async |daemon| store_fails(daemon).await.is_some()).await;
    // The job ends, and cannot leave its receipt.
    engine::tell(&running);
    assert_eq!(daemon.job(&running).await["state"], "running", "what is stored can be read");
    drop(frozen);
    let job = daemon.ended(&running).await;
    assert_eq!((&job["reason"], &job["exit_code"], &job["attempt"]), (&json!("exit_code"), &json!(5), &json!(1)), "{job}\n{}", daemon.log());
    daemon.until("it is healthy", Daemon::is_healthy).await;
    assert_eq!(daemon.pid(), pid, "without a restart");
    let after = daemon.sh("echo after").await;
    assert_eq!(daemon.ended(&after).await["state"], "succeeded");
    daemon.finish().await;
}

#[tokio::test]
async fn a_disk_that_fails_is_told_and_once_it_is_mended_nothing_accepted_is_missing() {
    let files = TempDir::with_prefix("rc-stops-").expect("a directory");
    let disk = LoopDisk::make(&files.path().join("disk"));
    // Nothing runs: only what is accepted counts.
    let setup = |disk: &LoopDisk| Setup::new("disk-fails").docker_host("unix:///nowhere/docker.sock").data(&disk.path("data"));
    let mut daemon = setup(&disk).start().await;
    let body = json!({ "image": BUSYBOX, "command": ["true"] });
    let mut accepted = Vec::new();
    for _ in 0..10 {
        accepted.push(daemon.submit(body.clone()).await);
    }
    disk.fail();
    let (status, problem) = daemon.request(Method::POST, "/jobs", Some(body)).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{problem}");
    daemon.until("it is told", async |daemon| store_fails(daemon).await.is_some()).await;
    let told = store_fails(&daemon).await.unwrap_or_default();
    assert!(told.contains("readonly") || told.contains("read-only") || told.contains("I/O"), "it says what is wrong: {told}");
    daemon.kill();
    let disk = disk.repair();
    let mut daemon = setup(&disk).start().await;
    let listed = daemon.get("/jobs?limit=100").await;
    let kept: Vec<&str> = listed["jobs"].as_array().expect("jobs").iter().filter_map(|job: &Value| job["id"].as_str()).collect();
    assert!(accepted.iter().all(|id| kept.contains(&id.as_str())), "{accepted:?} were accepted, and {kept:?} are left");
    accepted.push(daemon.submit(json!({ "image": BUSYBOX, "command": ["true"] })).await);
    daemon.terminate().await;
}
