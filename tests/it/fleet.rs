//! Several daemons share one database: work spreads, any daemon answers, and what becomes of a machine that is gone, cut off, or back.

pub(crate) mod shared;

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use self::shared::{Link, SharedDatabase};
use crate::harness::engine::{self, UNTIL_TOLD};
use crate::harness::{BUSYBOX, Daemon, Setup};

/// Longer than a machine may be silent, and what follows.
const LOST_WITHIN: Duration = Duration::from_secs(120);

/// A daemon of a fleet.
fn member(name: &str, url: &str) -> Setup {
    Setup::new(name).with(&format!("[store]\nurl = {url:?}\n[fleet]\nhost_lost_after = \"30s\"\n[limits]\nretry_backoff = \"1s\""))
}

fn hosts(list: &Value) -> Vec<(String, String)> {
    let word = |host: &Value, field: &str| host[field].as_str().expect("a word").to_owned();
    list["hosts"].as_array().expect("a list").iter().map(|host| (word(host, "id"), word(host, "state"))).collect()
}

async fn knows(daemon: &Daemon, wanted: &[(&str, &str)]) {
    let wanted: Vec<(String, String)> = wanted.iter().map(|(id, state)| ((*id).to_owned(), (*state).to_owned())).collect();
    daemon.within(LOST_WITHIN, "it knows the machines", async |daemon| hosts(&daemon.get("/hosts").await) == wanted).await;
}

/// A job that runs until it is told, on this daemon's machine: the others are drained meanwhile.
async fn held_on(daemon: &Daemon, others: &[&Daemon], retries: u32) -> String {
    for other in others {
        other.request(Method::POST, &format!("/hosts/{}/drain", other.name), None).await;
    }
    let id = daemon.submit(json!({ "image": BUSYBOX, "command": ["sh", "-c", UNTIL_TOLD], "retries": retries })).await;
    let job = daemon.reaches(&id, &["running"]).await;
    assert_eq!(job["host"], json!(daemon.name));
    for other in others {
        other.request(Method::POST, &format!("/hosts/{}/resume", other.name), None).await;
    }
    id
}

#[tokio::test]
async fn work_spreads_and_any_daemon_answers() {
    let shared = SharedDatabase::make().await;
    let one = member("fleet-one", shared.url()).host("cpus = 1").start().await;
    let two = member("fleet-two", shared.url()).host("cpus = 1").start().await;
    knows(&one, &[("fleet-one", "ready"), ("fleet-two", "ready")]).await;
    knows(&two, &[("fleet-one", "ready"), ("fleet-two", "ready")]).await;
    let mut jobs = Vec::new();
    for _ in 0..2 {
        jobs.push(one.sh(UNTIL_TOLD).await);
    }
    // Each machine has room for one, so they are on both.
    let mut ran = Vec::new();
    for id in &jobs {
        ran.push(two.reaches(id, &["running"]).await["host"].as_str().expect("a machine").to_owned());
    }
    ran.sort();
    assert_eq!(ran, ["fleet-one", "fleet-two"]);
    assert_eq!(two.get("/runners").await["runners"].as_array().map(Vec::len), Some(2));
    // Whoever is asked: the one that runs there ends it.
    for daemon in [&one, &two] {
        let id = jobs.pop().expect("a job");
        assert_eq!(daemon.request(Method::DELETE, &format!("/jobs/{id}"), None).await.0, StatusCode::ACCEPTED);
        assert_eq!(one.ended(&id).await["state"], json!("canceled"));
    }
    a_log_is_where_it_was_written(&one, &two).await;
    a_machine_is_drained_through_another(&one, &two).await;
    // What fits another machine only is not refused.
    let big = json!({ "image": BUSYBOX, "command": ["true"], "cpus": 2 });
    assert_eq!(one.request(Method::POST, "/jobs", Some(big.clone())).await.0, StatusCode::UNPROCESSABLE_ENTITY, "no machine has two processors");
    let three =
        member("fleet-three", shared.url()).with("[[classes]]\nname = \"default\"\n[[classes]]\nname = \"special\"").host("cpus = 2").start().await;
    knows(&one, &[("fleet-one", "ready"), ("fleet-three", "ready"), ("fleet-two", "ready")]).await;
    let id = one.submit(big).await;
    assert_eq!(one.ended(&id).await["host"], json!("fleet-three"));
    // A class that only one machine has is left to it, however long it takes.
    three.request(Method::POST, "/hosts/fleet-three/drain", None).await;
    let special = three.submit(json!({ "image": BUSYBOX, "command": ["true"], "class": "special" })).await;
    let next = one.sh("true").await;
    assert_eq!(one.ended(&next).await["state"], json!("succeeded"));
    assert_eq!(one.job(&special).await["state"], json!("queued"));
    three.request(Method::POST, "/hosts/fleet-three/resume", None).await;
    let job = three.ended(&special).await;
    assert_eq!((&job["state"], &job["host"]), (&json!("succeeded"), &json!("fleet-three")), "{job}");
    shared.finish([one, two, three]).await;
}

async fn a_log_is_where_it_was_written(one: &Daemon, two: &Daemon) {
    let id = held_on(one, &[two], 0).await;
    engine::tell(&id);
    one.ended(&id).await;
    let (status, told) = two.request(Method::GET, &format!("/jobs/{id}/logs"), None).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert!(told["detail"].as_str().is_some_and(|detail| detail.contains("it is on fleet-one")), "{told}");
    one.reload(&one.configuration().replace("[fleet]", &format!("[fleet]\nurl = \"{}\"", one.url)));
    // The client goes where it is sent.
    let is_found = async |daemon: &Daemon| daemon.request(Method::GET, &format!("/jobs/{id}/logs"), None).await.0 == StatusCode::OK;
    two.until("it knows where the log is", is_found).await;
}

async fn a_machine_is_drained_through_another(one: &Daemon, two: &Daemon) {
    let reason = json!({ "reason": "new kernel" });
    let (status, host) = one.request(Method::POST, "/hosts/fleet-two/drain", Some(reason)).await;
    assert_eq!((status, &host["id"], &host["drain"]["reason"]), (StatusCode::OK, &json!("fleet-two"), &json!("new kernel")), "{host}");
    knows(two, &[("fleet-one", "ready"), ("fleet-two", "drained")]).await;
    for _ in 0..2 {
        let id = two.sh("true").await;
        assert_eq!(two.ended(&id).await["host"], json!("fleet-one"));
    }
    assert_eq!(one.request(Method::POST, "/hosts/fleet-two/resume", None).await.0, StatusCode::OK);
    knows(two, &[("fleet-one", "ready"), ("fleet-two", "ready")]).await;
    let (status, told) = one.request(Method::POST, "/hosts/nowhere/drain", None).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert!(told["detail"].as_str().is_some_and(|detail| detail.contains("fleet-one, fleet-two")), "{told}");
}

#[tokio::test]
async fn a_daemon_that_returns_in_time_adopts_what_runs() {
    let shared = SharedDatabase::make().await;
    let mut one = member("fleet-back", shared.url()).start().await;
    let two = member("fleet-beside", shared.url()).start().await;
    let id = held_on(&one, &[&two], 0).await;
    one.kill();
    assert_eq!(two.job(&id).await["state"], json!("running"));
    one.start().await;
    engine::tell(&id);
    let job = two.ended(&id).await;
    assert_eq!((&job["state"], &job["attempt"], &job["host"]), (&json!("succeeded"), &json!(1), &json!("fleet-back")));
    shared.finish([one, two]).await;
}

#[tokio::test]
async fn what_a_lost_machine_ran_ends_as_lost_and_runs_elsewhere() {
    let shared = SharedDatabase::make().await;
    let mut one = member("fleet-lost", shared.url()).start().await;
    let two = member("fleet-left", shared.url()).start().await;
    let id = held_on(&one, &[&two], 0).await;
    let before = engine::containers("fleet-lost");
    one.kill();
    knows(&two, &[("fleet-left", "ready"), ("fleet-lost", "lost")]).await;
    two.within(LOST_WITHIN, "its second attempt runs", async |daemon| {
        let job = daemon.job(&id).await;
        (&job["state"], &job["attempt"], &job["host"]) == (&json!("running"), &json!(2), &json!("fleet-left"))
    })
    .await;
    let events = two.get(&format!("/jobs/{id}/events")).await.to_string();
    assert!(events.contains("host_lost") && events.contains("fleet-lost was silent for too long"), "{events}");
    assert_eq!(engine::containers("fleet-lost"), before, "nobody but its own daemon takes it away");
    one.start().await;
    one.until("what it left is taken away", async |_| engine::containers("fleet-lost").is_empty()).await;
    engine::tell(&id);
    assert_eq!(one.ended(&id).await["state"], json!("succeeded"));
    shared.finish([one, two]).await;
}

#[tokio::test]
async fn a_daemon_that_is_cut_off_finishes_what_runs_and_begins_nothing() {
    let shared = SharedDatabase::make().await;
    let link = Link::to(&shared).await;
    let one = member("fleet-cut", link.url()).start().await;
    let id = held_on(&one, &[], 0).await;
    link.cut();
    one.until("it tells that its store is away", async |daemon| !daemon.is_healthy().await).await;
    engine::tell(&id);
    let container = engine::containers("fleet-cut").pop().expect("its container");
    assert_eq!(engine::docker(&["wait", &container]).trim(), "0");
    assert_ne!(one.request(Method::POST, "/jobs", Some(json!({ "image": BUSYBOX, "command": ["true"] }))).await.0, StatusCode::ACCEPTED);
    link.mend();
    let job = one.ended(&id).await;
    assert_eq!((&job["state"], &job["attempt"]), (&json!("succeeded"), &json!(1)), "{job}");
    one.until("it is well again", async |daemon| daemon.is_healthy().await).await;
    let next = one.sh("true").await;
    assert_eq!(one.ended(&next).await["state"], json!("succeeded"));
    shared.finish([one]).await;
}
