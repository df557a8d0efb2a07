//! GPUs from their discovery to the container, through a whole daemon on a real engine. The machine is made of files: two cards of AMD's, whose
//! nodes are other devices under their names.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

pub(crate) use crate::gpu_machine::Machine;
use crate::harness::{BUSYBOX, Daemon, Setup};

/// A job that tells which card it sees, and holds it until it is cancelled.
pub(crate) fn holder() -> Value {
    let script = "ls /dev/dri; while true; do sleep 0.1; done";
    json!({ "image": BUSYBOX, "command": ["sh", "-c", script], "memory": "64MiB", "cpus": 0.5, "gpus": { "count": 1, "vendor": "amd", "model": "*mi210" } })
}

pub(crate) async fn sees(daemon: &Daemon, id: &str) -> String {
    daemon.reaches(id, &["running"]).await;
    daemon.until("it tells what it sees", async |daemon| daemon.logs(id).await.ends_with('\n')).await;
    daemon.logs(id).await.trim().to_owned()
}

pub(crate) async fn states(daemon: &Daemon) -> Vec<String> {
    let hosts = daemon.get("/hosts").await;
    let devices = hosts["hosts"][0]["gpus"]["devices"].as_array().expect("devices").clone();
    devices.iter().map(|gpu| gpu["state"].as_str().expect("a state").to_owned()).collect()
}

pub(crate) async fn cancel(daemon: &Daemon, id: &str) {
    daemon.request(Method::DELETE, &format!("/jobs/{id}"), None).await;
    assert_eq!(daemon.ended(id).await["state"], "canceled");
}

#[tokio::test]
async fn each_job_has_a_card_of_its_own_also_after_a_crash() {
    let machine = Machine::new();
    let mut daemon = Setup::new("gpu-daemon").with(&machine.settings()).start().await;
    daemon.until("it is healthy", Daemon::is_healthy).await;
    assert_eq!(states(&daemon).await, ["free", "free"]);
    let first = daemon.submit(holder()).await;
    let second = daemon.submit(holder()).await;
    let cards = [sees(&daemon, &first).await, sees(&daemon, &second).await];
    assert_eq!(BTreeSet::from(cards.clone()), BTreeSet::from(["renderD128".to_owned(), "renderD129".to_owned()]));
    assert_eq!(states(&daemon).await, ["in_use", "in_use"]);

    daemon.kill();
    daemon.start().await;
    let third = daemon.submit(holder()).await;
    daemon.until("it is healthy", Daemon::is_healthy).await;
    let said = daemon.get(&format!("/jobs/{third}/explain")).await;
    assert_eq!((&said["state"], &said["ever"], &said["hosts"][0]["missing"][0]["field"]), (&json!("queued"), &json!(true), &json!("gpus")), "{said}");
    assert_eq!(states(&daemon).await, ["in_use", "in_use"]);
    cancel(&daemon, &first).await;
    assert_eq!(sees(&daemon, &third).await, cards[0], "it has the card that became free");
    for id in [&second, &third] {
        cancel(&daemon, id).await;
    }
    daemon.until("both cards are free", async |daemon| states(daemon).await == ["free", "free"]).await;
    daemon.finish().await;
}

#[tokio::test]
async fn a_job_for_two_cards_is_not_passed_by_for_ever() {
    let machine = Machine::new();
    let daemon = Setup::new("gpu-held-back").with(&format!("{}\nhold_after = \"1s\"", machine.settings())).start().await;
    daemon.until("it is healthy", Daemon::is_healthy).await;
    let small = [daemon.submit(holder()).await, daemon.submit(holder()).await];
    for id in &small {
        daemon.reaches(id, &["running"]).await;
    }
    let mut two = holder();
    two["gpus"]["count"] = json!(2);
    let big = daemon.submit(two).await;
    let submitted = Instant::now();
    daemon.until("it waited long", async |_| submitted.elapsed() > Duration::from_secs(1)).await;
    let late = daemon.submit(holder()).await;
    for id in &small {
        cancel(&daemon, id).await;
    }
    assert_eq!(sees(&daemon, &big).await, "renderD128\nrenderD129");
    assert_eq!(daemon.job(&late).await["state"], "queued");
    cancel(&daemon, &big).await;
    sees(&daemon, &late).await;
    cancel(&daemon, &late).await;
    daemon.finish().await;
}

#[tokio::test]
async fn what_no_card_here_can_do_is_refused_and_a_card_that_goes_is_given_to_nobody() {
    let machine = Machine::new();
    let daemon = Setup::new("gpu-refused").with(&machine.settings()).start().await;
    daemon.until("it is healthy", Daemon::is_healthy).await;
    for (gpus, words) in [
        (json!({ "count": 1, "vendor": "amd", "min_memory": "80GiB" }), "the largest amd GPU here has 64GiB, asked for 80GiB"),
        (json!({ "count": 3, "vendor": "amd" }), "needs 3 amd GPUs"),
        (json!({ "count": 1, "vendor": "nvidia" }), "this machine has no nvidia GPU, only amd"),
        (json!({ "count": 1, "model": "*H100*" }), "none here is called \\\"*H100*\\\", only AMD Instinct MI210"),
        (json!({ "count": 1, "model": "" }), "gpus.model"),
        (json!({ "count": 1, "vendor": "amd", "compute_capability": "8.0" }), "gpus.compute_capability"),
        (json!({ "count": 1, "vendor": "nvidia", "compute_capability": "gfx90a" }), "must be a compute capability"),
        (json!({ "count": 0 }), "must be 1 to 64"),
        (json!({ "count": 1, "vendor": "matrox" }), "nvidia"),
    ] {
        let mut job = holder();
        job["gpus"] = gpus;
        let (status, problem) = daemon.request(Method::POST, "/jobs", Some(job)).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{problem}");
        assert!(problem.to_string().contains(words), "{words:?} is missing in {problem}");
    }
    std::fs::remove_dir_all(machine.root().join("sys/class/kfd/kfd/topology/nodes/1")).expect("removed");
    std::fs::remove_file(machine.root().join("sys/bus/pci/devices/0000:03:00.0")).expect("removed");
    std::fs::remove_file(machine.root().join("sys/class/drm/renderD128")).expect("removed");
    daemon.until("a card is lost", async |daemon| states(daemon).await.contains(&"lost".to_owned())).await;
    let job = daemon.submit(holder()).await;
    assert_eq!(sees(&daemon, &job).await, "renderD129");
    let other = daemon.submit(holder()).await;
    let said = daemon.get(&format!("/jobs/{other}/explain")).await;
    assert_eq!(said["state"], "queued", "{said}");
    for id in [&job, &other] {
        cancel(&daemon, id).await;
    }
    daemon.finish().await;
}

#[tokio::test]
async fn jobs_share_a_card_that_is_open_for_it_and_one_that_wants_it_alone_waits() {
    let machine = Machine::new();
    let settings = format!("{}\nshared = [\"amd-0000:03:00.0\"]", machine.settings());
    let mut daemon = Setup::new("gpu-shared").with(&settings).start().await;
    daemon.until("it is healthy", Daemon::is_healthy).await;
    let share = |gib: u64| {
        let script = "ls /dev/dri; echo $RUNNER_COORDINATOR_GPU_MEMORY_BYTES; while true; do sleep 0.1; done";
        json!({ "image": BUSYBOX, "command": ["sh", "-c", script], "memory": "64MiB", "cpus": 0.1, "gpus": { "memory": format!("{gib}GiB") } })
    };
    let (first, second) = (daemon.submit(share(40)).await, daemon.submit(share(20)).await);
    for (id, gib) in [(&first, 40_u64), (&second, 20)] {
        daemon.reaches(id, &["running"]).await;
        let said = format!("renderD128\n{}\n", gib << 30);
        daemon.until("it tells its share", async |daemon| daemon.logs(id).await == said).await;
    }
    let third = daemon.submit(share(5)).await;
    let said = daemon.get(&format!("/jobs/{third}/explain")).await;
    let missing = &said["hosts"][0]["missing"][0];
    assert_eq!(
        (&said["waits_for"], &missing["message"]),
        (&json!("no_room"), &json!("needs 5GiB of 1 GPU, 4GiB is the most that is free of the 1 such")),
        "{said}"
    );
    assert_eq!(missing["holders"].as_array().map(Vec::len), Some(2), "{said}");
    // The other card is for those that want one alone; a second of these waits for the shares to go, also after a crash.
    let alone = daemon.submit(holder()).await;
    assert_eq!(sees(&daemon, &alone).await, "renderD129");
    let waits = daemon.submit(holder()).await;
    daemon.kill();
    daemon.start().await;
    daemon.until("it is healthy", Daemon::is_healthy).await;
    cancel(&daemon, &first).await;
    daemon.reaches(&third, &["running"]).await;
    assert_eq!(daemon.job(&waits).await["state"], "queued");
    cancel(&daemon, &second).await;
    cancel(&daemon, &third).await;
    assert_eq!(sees(&daemon, &waits).await, "renderD128");
    let (status, problem) = daemon.request(Method::POST, "/jobs", Some(share(65))).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{problem}");
    assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("the largest here that is open for sharing has 64GiB")), "{problem}");
    for id in [&alone, &waits] {
        cancel(&daemon, id).await;
    }
    daemon.finish().await;
}
