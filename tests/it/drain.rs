//! A machine is drained and resumed: what runs ends, what waits waits, and a crash changes nothing.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::gitlab::{GitLab, Status};
use crate::harness::engine::{self, UNTIL_TOLD};
use crate::harness::road::{Plan, Road, job};
use crate::harness::{Daemon, PATIENCE, Setup, client};

async fn host(daemon: &Daemon) -> Value {
    daemon.get("/hosts").await["hosts"][0].clone()
}

async fn is(daemon: &Daemon, state: &str) {
    daemon.until(state, async |daemon| host(daemon).await["state"] == state).await;
}

async fn drain(daemon: &Daemon, body: Option<Value>) -> Value {
    let (status, host) = daemon.request(Method::POST, &format!("/hosts/{}/drain", daemon.name), body).await;
    assert_eq!(status, StatusCode::OK, "{host}");
    host
}

async fn resume(daemon: &Daemon) -> Value {
    let (status, host) = daemon.request(Method::POST, &format!("/hosts/{}/resume", daemon.name), None).await;
    assert_eq!(status, StatusCode::OK, "{host}");
    host
}

#[tokio::test]
async fn a_drained_machine_gets_empty_and_stays_so_after_a_crash() {
    let mut daemon = Setup::new("drain").host("cpus = 4").start().await;
    daemon.until("it is healthy", Daemon::is_healthy).await;
    let running = daemon.sh(UNTIL_TOLD).await;
    daemon.reaches(&running, &["running"]).await;
    let said = drain(&daemon, Some(json!({ "reason": "new kernel" }))).await;
    assert_eq!((&said["state"], &said["drain"]["reason"], &said["drain"]["by"]), (&json!("draining"), &json!("new kernel"), &Value::Null), "{said}");
    let waiting = daemon.sh("echo at last").await;
    let explained = daemon.get(&format!("/jobs/{waiting}/explain")).await;
    assert_eq!((&explained["waits_for"], &explained["hosts"][0]["state"]), (&json!("no_host_ready"), &json!("draining")), "{explained}");
    assert!(explained["summary"].as_str().is_some_and(|words| words.contains("new kernel")), "{explained}");

    let since = said["drain"]["since"].clone();
    daemon.kill();
    daemon.start().await;
    is(&daemon, "draining").await;
    let said = drain(&daemon, None).await;
    assert_eq!(said["drain"], json!({ "since": since, "by": null, "reason": "new kernel" }), "asking again changes nothing");
    assert_eq!(daemon.job(&running).await["state"], "running", "it was adopted");
    engine::tell(&running);
    assert_eq!(daemon.ended(&running).await["state"], "succeeded");
    is(&daemon, "drained").await;
    assert_eq!(engine::containers("drain"), Vec::<String>::new(), "it is safe to take it down");
    assert_eq!(daemon.job(&waiting).await["state"], "queued");
    assert!(daemon.is_healthy().await, "a machine that is drained is not ill");
    assert_eq!(daemon.get("/status").await["stopping"], false);

    let said = resume(&daemon).await;
    assert_eq!((&said["state"], &said["drain"]), (&json!("ready"), &Value::Null), "{said}");
    assert_eq!(daemon.ended(&waiting).await["state"], "succeeded");
    assert_eq!(resume(&daemon).await["state"], "ready", "resuming again does no harm");
    let (status, problem) = daemon.request(Method::POST, "/hosts/other/drain", None).await;
    assert_eq!((status, &problem["detail"]), (StatusCode::NOT_FOUND, &json!("there is no host other; known: drain")));
    daemon.finish().await;
}

#[tokio::test]
async fn a_drained_machine_keeps_no_runner_warm_and_asks_gitlab_for_nothing() {
    let road = Road::build(Setup::new("drain-warm"), Plan { class: "warm = 1", ..Plan::default() }).await;
    let daemon = &road.daemon;
    let idle = async |daemon: &Daemon| daemon.get("/runners?state=idle").await["runners"].as_array().is_some_and(|all| all.len() == 1);
    daemon.until("a runner is warm", idle).await;
    drain(daemon, None).await;
    is(daemon, "drained").await;
    assert_eq!(engine::containers("drain-warm"), Vec::<String>::new());
    let asked = road.gitlab.count_requests("POST", "/jobs/request");
    let id = road.gitlab.enqueue(job("build").script(["echo done"]));
    assert_eq!(road.gitlab.send_job_event(id).await.status, Some(200));
    let (status, problem) = daemon.request(Method::POST, "/runners", Some(json!({ "class": "gitlab" }))).await;
    assert_eq!((status, &problem["type"]), (StatusCode::CONFLICT, &json!("/problems/drained")), "{problem}");
    // A second drain is answered after a whole pass more.
    drain(daemon, None).await;
    assert_eq!((road.gitlab.count_requests("POST", "/jobs/request"), road.gitlab.job(id).status), (asked, Status::Pending));

    resume(daemon).await;
    road.reaches(id, PATIENCE, |job| job.status == Status::Success).await;
    daemon.until("a runner is warm again", idle).await;
    road.daemon.finish_with_pool().await;
}

/// A road on which one job of GitLab runs, and another waits here for its project's limit.
async fn with_one_waiting(name: &str, prepare: impl FnOnce(&GitLab)) -> (Road, i64, i64) {
    let limits = "[[projects]]\nname = \"team/app\"\nmax_running = 1";
    let road = Road::build(Setup::new(name).with(limits), Plan::default()).await;
    prepare(&road.gitlab);
    let long = road.gitlab.enqueue(job("long").script(["while true; do sleep 0.1; done"]));
    road.gitlab.send_job_event(long).await;
    road.reaches(long, PATIENCE, |job| job.status == Status::Running).await;
    road.daemon.until("it runs here", async |_| road.find_record(long).await.is_some_and(|record| record["state"] == "running")).await;
    let next = road.gitlab.enqueue(job("next").script(["echo next"]));
    road.gitlab.send_job_event(next).await;
    road.daemon.until("it waits here", async |_| road.find_record(next).await.is_some_and(|record| record["state"] == "queued")).await;
    (road, long, next)
}

async fn cancel(road: &Road, gitlab_id: i64) {
    let id = road.find_record(gitlab_id).await.expect("a record")["id"].as_str().expect("an id").to_owned();
    road.daemon.request(Method::DELETE, &format!("/jobs/{id}"), None).await;
    road.ended(gitlab_id).await;
}

#[tokio::test]
async fn what_gitlab_still_waits_to_hear_of_goes_back_to_it() {
    let (road, long, next) = with_one_waiting("drain-back", |gitlab| gitlab.two_phase(true)).await;
    drain(&road.daemon, Some(json!({ "reason": "new disk" }))).await;
    let ours = road.ended(next).await;
    assert_eq!((&ours["state"], &ours["reason"]), (&json!("canceled"), &json!("returned_to_gitlab")), "{ours}");
    assert_eq!(road.gitlab.job(next).status, Status::Pending, "GitLab may give it to another");
    assert_eq!(road.find_record(long).await.expect("a record")["state"], "running", "what runs goes on");
    cancel(&road, long).await;
    is(&road.daemon, "drained").await;
    road.gitlab.lapse_unconfirmed();
    resume(&road.daemon).await;
    road.reaches(next, PATIENCE, |job| job.status == Status::Success).await;
    road.daemon.until("it has ended here too", async |_| road.find_record(next).await.is_some_and(|record| record["state"] == "succeeded")).await;
    road.daemon.finish().await;
}

#[tokio::test]
async fn what_gitlab_believes_to_run_waits_until_the_machine_is_resumed() {
    let (road, long, next) = with_one_waiting("drain-keep", |gitlab| gitlab.two_phase(false)).await;
    drain(&road.daemon, None).await;
    cancel(&road, long).await;
    is(&road.daemon, "drained").await;
    assert_eq!(road.find_record(next).await.expect("a record")["state"], "queued");
    resume(&road.daemon).await;
    road.reaches(next, PATIENCE, |job| job.status == Status::Success).await;
    road.daemon.until("it has ended here too", async |_| road.find_record(next).await.is_some_and(|record| record["state"] == "succeeded")).await;
    road.daemon.finish().await;
}

#[tokio::test]
async fn who_drained_a_machine_is_told_by_the_name_of_their_token() {
    let token = "rct_the-token-of-the-night-shift";
    let digest = runner_coordinator::security::sha256(token.as_bytes()).iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
    let config = format!("[[http.tokens]]\nname = \"night-shift\"\nrole = \"operator\"\nsha256 = \"{digest}\"");
    let daemon = Setup::new("drain-by").with(&config).start().await;
    let post = async |deed: &str| {
        let request = client().post(format!("{}/hosts/drain-by/{deed}", daemon.url)).bearer_auth(token);
        request.send().await.expect("an answer").json::<Value>().await.expect("JSON")
    };
    assert_eq!(post("drain").await["drain"]["by"], "night-shift");
    assert_eq!(post("resume").await["drain"], Value::Null);
    daemon.finish_with_pool().await;
}
