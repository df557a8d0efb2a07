//! Health of GPUs between jobs, through a whole daemon: what a job leaves behind, quarantine by hand, and both over restarts.

use std::process::Command;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::gpu_daemon::{Machine, cancel, holder, sees, states};
use crate::harness::road::{Plan, Road};
use crate::harness::{Daemon, Setup, engine};

/// The first card's id.
const FIRST: &str = "amd-0000:03:00.0";
/// The second one's.
const SECOND: &str = "amd-0000:83:00.0";

/// Says how much of the first card's memory is in use.
fn memory_in_use(machine: &Machine, bytes: u64) {
    machine.file("sys/devices/pci0000:00/0000:03:00.0/mem_info_vram_used", &format!("{bytes}\n"));
}

/// A job for both cards.
fn both() -> Value {
    let mut job = holder();
    job["gpus"]["count"] = json!(2);
    job
}

async fn restart(daemon: &mut Daemon) {
    daemon.kill();
    daemon.start().await;
    daemon.until("it is healthy", Daemon::is_healthy).await;
}

async fn come_to_be(daemon: &Daemon, wanted: [&str; 2]) {
    daemon.until(&format!("the cards are {wanted:?}"), async |daemon| states(daemon).await == wanted).await;
}

async fn first_card(daemon: &Daemon) -> Value {
    daemon.get("/hosts").await["hosts"][0]["gpus"]["devices"][0].clone()
}

async fn post(daemon: &Daemon, path: &str, body: Value) -> Value {
    let (status, answer) = daemon.request(Method::POST, path, Some(body)).await;
    assert_eq!(status, StatusCode::OK, "{path}: {answer}");
    answer
}

#[tokio::test]
async fn what_a_job_leaves_on_a_gpu_keeps_it_from_others_until_it_is_gone() {
    let machine = Machine::new();
    memory_in_use(&machine, 16 << 20);
    let mut daemon = Setup::new("gpu-left").with(&format!("{}\nrecheck_after = \"1s\"", machine.settings())).start().await;
    daemon.until("it is healthy", Daemon::is_healthy).await;
    assert_eq!(daemon.get("/health").await["checks"]["gpus"], json!({ "status": "ok" }));
    let clean = daemon.submit(both()).await;
    sees(&daemon, &clean).await;
    cancel(&daemon, &clean).await;
    come_to_be(&daemon, ["free", "free"]).await;

    let leaver = daemon.submit(both()).await;
    sees(&daemon, &leaver).await;
    memory_in_use(&machine, 3 << 30);
    cancel(&daemon, &leaver).await;
    let next = daemon.submit(both()).await;
    come_to_be(&daemon, ["quarantined", "free"]).await;
    let why = "in quarantine: 3072 MiB of its memory are in use, 16 MiB before its job";
    let card = first_card(&daemon).await;
    assert_eq!((&card["reason"], &card["quarantine"]["by"]), (&json!(why), &json!("health")), "{card}");
    assert!(card["quarantine"]["next_check_at"].is_string(), "{card}");
    let log = daemon.log();
    assert!(log.lines().any(|line| line.contains("WARN") && line.contains(&format!("GPU {FIRST} is given to nobody, {why}"))), "{log}");
    for place in ["/hosts", "/status"] {
        let gpus = &daemon.get(place).await["hosts"][0]["gpus"];
        assert_eq!((&gpus["total"], &gpus["free"], &gpus["unhealthy"]), (&json!(2), &json!(1), &json!(1)), "{place}");
    }
    assert_eq!(daemon.get("/health").await["checks"]["gpus"]["detail"], "1 of 2 cannot be used; GET /hosts tells why");

    restart(&mut daemon).await;
    assert_eq!(states(&daemon).await, ["quarantined", "free"], "it is not forgotten");
    let said = daemon.get(&format!("/jobs/{next}/explain")).await;
    assert_eq!((&said["state"], &said["hosts"][0]["fits"]), (&json!("queued"), &json!("later")), "{said}");
    let unusable = &said["hosts"][0]["missing"][0]["unusable"];
    assert!(unusable.to_string().contains(FIRST) && unusable.to_string().contains(why), "{said}");

    memory_in_use(&machine, 16 << 20);
    assert_eq!(sees(&daemon, &next).await, "renderD128\nrenderD129", "it came back by itself");
    assert_eq!(first_card(&daemon).await["quarantine"], Value::Null);
    cancel(&daemon, &next).await;
    come_to_be(&daemon, ["free", "free"]).await;
    daemon.finish().await;
}

#[tokio::test]
async fn a_job_that_ends_while_the_daemon_is_away_is_checked_too() {
    let machine = Machine::new();
    memory_in_use(&machine, 0);
    let mut daemon = Setup::new("gpu-away").with(&format!("{}\nrecheck_after = \"1h\"", machine.settings())).start().await;
    daemon.until("it is healthy", Daemon::is_healthy).await;
    let mut job = both();
    job["command"] = json!(["sh", "-c", "ls /dev/dri; while [ ! -e /tmp/end ]; do sleep 0.1; done"]);
    let id = daemon.submit(job).await;
    sees(&daemon, &id).await;
    let container = engine::containers(&daemon.name).remove(0);
    daemon.kill();
    memory_in_use(&machine, 3 << 30);
    engine::docker(&["exec", &container, "touch", "/tmp/end"]);
    daemon.start().await;
    daemon.until("it is healthy", Daemon::is_healthy).await;
    come_to_be(&daemon, ["quarantined", "free"]).await;
    assert_eq!(first_card(&daemon).await["quarantine"]["reason"], "3072 MiB of its memory are in use, 0 MiB before its job");
    let answer = post(&daemon, &format!("/gpus/{FIRST}/release"), json!({})).await;
    assert_eq!((&answer["state"], &answer["quarantine"]), (&json!("free"), &Value::Null), "a person may overrule a check");
    daemon.finish().await;
}

#[tokio::test]
async fn a_gpu_put_into_quarantine_by_hand_stays_there_until_it_is_released_by_hand() {
    let machine = Machine::new();
    let mut daemon = Setup::new("gpu-by-hand").with(&machine.settings()).start().await;
    daemon.until("it is healthy", Daemon::is_healthy).await;
    let running = daemon.submit(both()).await;
    sees(&daemon, &running).await;
    for reason in ["smells", "smells of smoke"] {
        let answer = post(&daemon, &format!("/gpus/{FIRST}/quarantine"), json!({ "reason": reason })).await;
        assert_eq!((&answer["state"], &answer["quarantine"]["by"]), (&json!("quarantined"), &json!("operator")), "{answer}");
        assert_eq!(states(&daemon).await, ["quarantined", "in_use"], "the answer is true at once");
    }
    restart(&mut daemon).await;
    assert_eq!(daemon.job(&running).await["state"], "running", "its job goes on");
    assert_eq!(first_card(&daemon).await["reason"], "in quarantine by hand: smells of smoke");
    cancel(&daemon, &running).await;
    come_to_be(&daemon, ["quarantined", "free"]).await;
    let one = daemon.submit(holder()).await;
    assert_eq!(sees(&daemon, &one).await, "renderD129");
    let other = daemon.submit(holder()).await;
    let said = daemon.get(&format!("/jobs/{other}/explain")).await;
    assert!(said.to_string().contains("in quarantine by hand: smells of smoke"), "{said}");

    let (status, problem) = daemon.request(Method::POST, "/gpus/amd-7/quarantine", Some(json!({}))).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert_eq!(problem["detail"], format!("there is no GPU amd-7; known: {FIRST}, {SECOND}"));
    let (status, problem) = daemon.request(Method::POST, &format!("/gpus/{FIRST}/quarantine"), Some(json!({ "reason": " " }))).await;
    assert_eq!((status, &problem["errors"][0]["field"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!("reason")));

    let released = daemon.cli(&["gpus", "release", FIRST]);
    assert!(released.contains(FIRST) && released.contains("free"), "{released}");
    assert_eq!(sees(&daemon, &other).await, "renderD128");
    let (status, _) = daemon.request(Method::POST, &format!("/gpus/{FIRST}/release"), Some(json!({}))).await;
    assert_eq!(status, StatusCode::OK, "repeating it is fine");
    daemon.cli(&["gpus", "quarantine", SECOND, "--reason", "loud"]);
    let list = daemon.cli(&["gpus", "list"]);
    assert!(list.lines().any(|line| line.contains(SECOND) && line.contains("in quarantine by hand: loud")), "{list}");
    assert!(daemon.cli(&["gpus", "--json", "list"]).contains("\"by\":\"operator\""));
    let refused = Command::new(env!("CARGO_BIN_EXE_runner-coordinator"))
        .arg("--config")
        .arg(daemon.data().with_file_name("config.toml"))
        .args(["gpus", "release", "no such"])
        .output()
        .expect("it runs");
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("there is no GPU no such; known: "), "{refused:?}");
    for id in [&one, &other] {
        cancel(&daemon, id).await;
    }
    daemon.finish().await;
}

#[tokio::test]
async fn a_runner_that_waits_with_a_gpu_in_quarantine_ends_and_another_takes_its_place() {
    let machine = Machine::new();
    let plan = Plan { class: "warm = 1\ngpus = { count = 1, vendor = \"amd\" }", ..Plan::default() };
    let Road { daemon, .. } = Road::build(Setup::new("gpu-warm").with(&machine.settings()), plan).await;
    let waits_on = async |daemon: &Daemon, id: &str| {
        let runners = daemon.get("/runners").await["runners"].as_array().expect("runners").clone();
        runners.len() == 1 && runners[0]["state"] == "idle" && runners[0]["devices"] == json!([id])
    };
    daemon.until("a runner waits with the first card", async |daemon| waits_on(daemon, FIRST).await).await;
    post(&daemon, &format!("/gpus/{FIRST}/quarantine"), json!({})).await;
    daemon.until("another waits with the second", async |daemon| waits_on(daemon, SECOND).await).await;
    assert_eq!(states(&daemon).await, ["quarantined", "in_use"]);
    daemon.finish_with_pool().await;
}
