//! Why a job waits, on a machine whose size is made up by the configuration.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::harness::{BUSYBOX, Daemon, Setup};

/// A job that runs until it is cancelled.
fn forever(cpus: u32, timeout: &str) -> Value {
    json!({ "image": BUSYBOX, "command": ["sh", "-c", "while true; do sleep 0.1; done"], "cpus": cpus, "memory": "64MiB", "timeout": timeout,
        "project": "team/app" })
}

#[tokio::test]
async fn a_job_that_waits_names_the_one_that_holds_what_it_needs() {
    let daemon = Setup::new("explain-holder").host("cpus = 2\nmemory = \"1GiB\"").start().await;
    let explain = async |id: &str| daemon.get(&format!("/jobs/{id}/explain")).await;
    let first = daemon.submit(forever(2, "10m")).await;
    let running = daemon.reaches(&first, &["running"]).await;
    assert_eq!(explain(&first).await["waits_for"], Value::Null);
    let second = daemon.submit(forever(1, "10m")).await;
    let third = daemon.submit(forever(1, "10m")).await;

    let said = explain(&second).await;
    assert_eq!((&said["state"], &said["waits_for"], &said["ever"]), (&json!("queued"), &json!("no_room"), &json!(true)), "{said}");
    assert_eq!(said["position"], json!({ "ahead": 0, "more": false }), "{said}");
    let host = &said["hosts"][0];
    assert_eq!((&host["host"], &host["fits"], &host["state"]), (&json!("explain-holder"), &json!("later"), &json!("ready")), "{said}");
    let missing = &host["missing"][0];
    assert_eq!((&missing["field"], &missing["message"]), (&json!("cpus"), &json!("needs 1 CPU, 0 of 2 are free")), "{said}");
    let holder = &missing["holders"][0];
    let expected = (&json!(first), &running["runner_id"], &json!("team/app"));
    assert_eq!((&holder["job_id"], &holder["runner_id"], &holder["project"]), expected, "{said}");
    // Ten minutes after its start, and the grace of a stop.
    let told = daemon.cli(&["jobs", "explain", &second]);
    assert!(told.contains("needs 1 CPU, 0 of 2 are free") && told.contains(&format!("  held by job {first} of team/app (2 CPU")), "{told}");
    let ends = time(&said["estimated_start"]).duration_since(time(&running["started_at"])).as_secs();
    assert!((600..=660).contains(&ends), "{said}");
    assert_eq!(holder["ends_by"], said["estimated_start"]);

    let said = explain(&third).await;
    assert_eq!((&said["position"]["ahead"], &said["estimated_start"]), (&json!(1), &Value::Null), "{said}");

    daemon.request(Method::DELETE, &format!("/jobs/{first}"), None).await;
    daemon.reaches(&second, &["running"]).await;
    for id in [&second, &third] {
        daemon.request(Method::DELETE, &format!("/jobs/{id}"), None).await;
        assert_eq!(daemon.ended(id).await["state"], "canceled");
    }
    assert!(explain(&third).await["summary"].as_str().expect("words").contains("canceled_by_user"));
    daemon.finish().await;
}

#[tokio::test]
async fn what_can_never_run_is_refused_with_the_nearest_miss() {
    let daemon = Setup::new("explain-never").host("cpus = 2\nmemory = \"1GiB\"").start().await;
    daemon.until("it is healthy", Daemon::is_healthy).await;
    let mut body = forever(3, "10m");
    body["gpus"] = json!({ "count": 1, "vendor": "nvidia", "min_memory": "40GiB" });
    let (status, problem) = daemon.request(Method::POST, "/jobs", Some(body.clone())).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{problem}");
    let detail = problem["detail"].as_str().expect("words");
    assert!(detail.starts_with("needs 3 CPUs, this machine has 2 for jobs; needs 1 nvidia GPU of 40GiB or more, "), "{problem}");
    body["if_unsatisfiable"] = json!("wait");
    let id = daemon.submit(body).await;
    let said = daemon.get(&format!("/jobs/{id}/explain")).await;
    assert_eq!((&said["waits_for"], &said["ever"], &said["hosts"][0]["fits"]), (&json!("never_fits"), &json!(false), &json!("never")), "{said}");
    assert!(said["summary"].as_str().expect("words").contains(detail), "{said}");
    daemon.request(Method::DELETE, &format!("/jobs/{id}"), None).await;
    daemon.finish().await;
}

#[tokio::test]
async fn projects_take_turns_by_their_weight() {
    let projects = "[[projects]]\nname = \"heavy\"\nweight = 2";
    let daemon = Setup::new("explain-turns").host("cpus = 1").with(projects).start().await;
    let blocker = daemon.submit(forever(1, "10m")).await;
    daemon.reaches(&blocker, &["running"]).await;
    let mut jobs = Vec::new();
    for project in ["crowd", "crowd", "crowd", "crowd", "single", "heavy", "heavy", "heavy"] {
        let id = daemon.submit(json!({ "image": BUSYBOX, "command": ["true"], "project": project, "memory": "64MiB" })).await;
        jobs.push((id, project));
    }
    let position = daemon.get(&format!("/jobs/{}/explain", jobs[4].0)).await["position"].clone();
    assert_eq!(position, json!({ "ahead": 1, "more": false }), "one of the crowd goes before the single one");
    daemon.request(Method::DELETE, &format!("/jobs/{blocker}"), None).await;
    let mut started = Vec::new();
    for (id, project) in &jobs {
        let job = daemon.ended(id).await;
        assert_eq!(job["state"], "succeeded", "{job}");
        started.push((time(&job["started_at"]), *project));
    }
    // Not as text: `05.12Z` sorts behind `05.123Z`.
    started.sort_by_key(|(at, _)| *at);
    let order: Vec<&str> = started.iter().map(|(_, project)| *project).collect();
    assert_eq!(order, ["crowd", "single", "heavy", "heavy", "crowd", "heavy", "crowd", "crowd"], "{started:?}");
    daemon.finish().await;
}

fn time(value: &Value) -> jiff::Timestamp {
    value.as_str().and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("{value} is no time"))
}
