//! What happens at the marks of a disk. No disk is filled: the marks are set so high that every disk is beyond them.

use reqwest::header::HeaderValue;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::gitlab::Status;
use crate::harness::engine::{self, UNTIL_TOLD};
use crate::harness::road::{Plan, Road, job};
use crate::harness::small_disk::SmallDisk;
use crate::harness::{BUSYBOX, Daemon, NO_MARKS, PATIENCE, Setup, client};

/// No disk has so much free.
const BEYOND: &str = "disk = { low = \"1024TiB\", full = \"1024TiB\" }";

async fn check(daemon: &Daemon) -> Value {
    daemon.request(Method::GET, "/health", None).await.1["checks"]["disk"].clone()
}

async fn is(daemon: &Daemon, state: &str) {
    daemon.until(state, async |daemon| daemon.get("/hosts").await["hosts"][0]["state"] == state).await;
}

/// How many passes the manager has made.
async fn passes(daemon: &Daemon) -> u64 {
    let (_, text) = daemon.request(Method::GET, "/metrics", None).await;
    let line = text.as_str().and_then(|text| text.lines().find_map(|line| line.strip_prefix("runner_coordinator_tick_seconds_count ")));
    line.expect("passes are counted").parse().expect("a number")
}

#[tokio::test]
async fn at_the_last_mark_nothing_begins_and_what_runs_goes_on() {
    let daemon = Setup::new("disk").host("cpus = 1.5").start().await;
    daemon.until("it is healthy", Daemon::is_healthy).await;
    let sound = daemon.configuration();
    let running = daemon.sh(&format!("{UNTIL_TOLD}; echo told")).await;
    let doomed = daemon.submit(json!({ "image": BUSYBOX, "command": ["sleep", "600"], "cpus": 0.5 })).await;
    daemon.reaches(&running, &["running"]).await;
    daemon.reaches(&doomed, &["running"]).await;
    let waiting = daemon.sh("echo at last").await;

    daemon.reload(&sound.replace(NO_MARKS, BEYOND));
    is(&daemon, "disk_full").await;
    let told = check(&daemon).await;
    assert!(told["status"] == "failing" && told["since"].is_string() && !daemon.is_healthy().await, "{told}");
    let submitted = client().post(format!("{}/jobs", daemon.url)).json(&json!({ "image": BUSYBOX, "command": ["true"] }));
    let refused = submitted.send().await.expect("an answer");
    assert_eq!((refused.status(), &refused.headers()["retry-after"]), (StatusCode::SERVICE_UNAVAILABLE, &HeaderValue::from_static("60")));
    let problem: Value = refused.json().await.expect("a problem");
    assert!(
        problem["type"] == "/problems/disk-full" && problem["detail"].as_str().is_some_and(|detail| detail.contains("MiB are free")),
        "{problem}"
    );
    let explained = daemon.get(&format!("/jobs/{waiting}/explain")).await;
    assert!(explained["summary"].as_str().is_some_and(|words| words.contains("its disk is nearly full")), "{explained}");
    let host = daemon.get("/hosts").await["hosts"][0].clone();
    let disks: Vec<_> = host["disks"].as_array().expect("disks").iter().map(|disk| (disk["disk"].clone(), disk["state"].clone())).collect();
    assert_eq!(disks, [(json!("data"), json!("full")), (json!("engine"), json!("full"))], "{host}");
    assert!(host["disks"][0]["total_bytes"].as_u64() > host["disks"][0]["free_bytes"].as_u64(), "{host}");

    // Ending still works, of itself and by order, and makes room for nobody.
    assert_eq!(daemon.request(Method::DELETE, &format!("/jobs/{doomed}"), None).await.0, StatusCode::ACCEPTED);
    assert_eq!(daemon.ended(&doomed).await["state"], "canceled");
    assert_eq!(daemon.job(&running).await["state"], "running");
    daemon.until("one container is left", async |_| engine::containers("disk").len() == 1).await;
    engine::tell(&running);
    assert_eq!(daemon.ended(&running).await["state"], "succeeded");
    assert_eq!(daemon.logs(&running).await, "told\n");
    daemon.until("no runner is left", async |daemon| daemon.get("/runners").await["runners"].as_array().is_some_and(Vec::is_empty)).await;
    assert_eq!(daemon.job(&waiting).await["state"], "queued", "there is room on the machine, and none on its disk");

    daemon.reload(&sound);
    assert_eq!(daemon.ended(&waiting).await["state"], "succeeded");
    is(&daemon, "ready").await;
    assert_eq!(check(&daemon).await["status"], "ok");
    daemon.finish().await;
}

#[tokio::test]
async fn a_store_on_a_disk_of_its_own_is_watched_too() {
    let small = SmallDisk::new(64);
    let url = format!("[store]\nurl = \"sqlite:{}\"", small.path("coordinator.db").display());
    let daemon = Setup::new("disk-store").with(&url).start().await;
    let told = async |daemon: &Daemon| {
        let host = daemon.get("/hosts").await["hosts"][0].clone();
        let disks = host["disks"].as_array().cloned().unwrap_or_default();
        disks.into_iter().find(|disk| disk["disk"] == "store")
    };
    daemon.until("it is looked at", async |daemon| told(daemon).await.is_some()).await;
    let disk = told(&daemon).await.expect("a disk");
    assert_eq!((&disk["total_bytes"], &disk["state"]), (&json!(64 << 20), &json!("fine")), "{disk}");
    daemon.finish().await;
}

#[tokio::test]
async fn at_the_last_mark_gitlab_is_asked_for_nothing_and_no_runner_is_made() {
    let road = Road::build(Setup::new("disk-gitlab"), Plan { poll: "1s", ..Plan::default() }).await;
    let daemon = &road.daemon;
    daemon.reload(&daemon.configuration().replace(NO_MARKS, BEYOND));
    is(daemon, "disk_full").await;
    daemon.until("it waits for room", async |daemon| daemon.get("/status").await["gitlab"][0]["state"] == "full").await;
    let asked = road.gitlab.count_requests("POST", "/jobs/request");
    let id = road.gitlab.enqueue(job("build").script(["echo done"]));
    assert_eq!(road.gitlab.send_job_event(id).await.status, Some(200));
    let (status, problem) = daemon.request(Method::POST, "/runners", Some(json!({ "class": "gitlab" }))).await;
    assert_eq!((status, &problem["type"]), (StatusCode::SERVICE_UNAVAILABLE, &json!("/problems/disk-full")), "{problem}");
    let before = passes(daemon).await;
    daemon.until("passes went by", async |daemon| passes(daemon).await >= before + 3).await;
    assert_eq!((road.gitlab.count_requests("POST", "/jobs/request"), road.gitlab.job(id).status), (asked, Status::Pending));
    assert_eq!(engine::containers("disk-gitlab"), Vec::<String>::new());

    daemon.reload(&daemon.configuration().replace(BEYOND, NO_MARKS));
    road.reaches(id, PATIENCE, |job| job.status == Status::Success).await;
    road.daemon.finish().await;
}
