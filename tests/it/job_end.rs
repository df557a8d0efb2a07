//! The one line of the log that tells of a job's end everything there is to tell.

use reqwest::Method;
use serde_json::{Value, json};

use crate::gitlab::Status;
use crate::harness::road::{Plan, Road, job};
use crate::harness::{BUSYBOX, Daemon, PATIENCE, Setup};

/// The fields of the lines that tell of this job's end, from every log that is given.
fn ends(logs: &[String], id: &str) -> Vec<Value> {
    // The last one may be in the making.
    let whole = logs.iter().flat_map(|log| log.split_inclusive('\n')).filter(|line| line.ends_with('\n'));
    let lines = whole.map(|line| serde_json::from_str::<Value>(line).expect("a line of JSON"));
    let fields = lines.map(|line| line["fields"].clone());
    fields.filter(|fields| fields["job.id"] == json!(id) && fields["job.state"].is_string()).collect()
}

/// Waits for the line of this job's end, which is written after the end is stored; there must be one.
async fn only_end(daemon: &Daemon, id: &str) -> Value {
    daemon.until("its end is told", async |daemon| !ends(&[daemon.log()], id).is_empty()).await;
    let found = ends(&[daemon.log()], id);
    assert_eq!(found.len(), 1, "{found:?}\n{}", daemon.log());
    found[0].clone()
}

fn setup(name: &str) -> Setup {
    Setup::new(name).log_filter("info").with("[log]\nformat = \"json\"\n[limits]\nretry_backoff = \"100ms\"")
}

fn sh(script: &str) -> Value {
    json!({ "image": BUSYBOX, "command": ["sh", "-c", script], "project": "team/app", "cpus": 1, "memory": "64MiB" })
}

#[tokio::test]
async fn every_end_has_one_line_that_says_everything() {
    let daemon = setup("end-lines").host("cpus = 2").start().await;
    let good = daemon.submit(sh("sleep 0.3")).await;
    daemon.ended(&good).await;
    let end = only_end(&daemon, &good).await;
    let expected = json!({ "job.class": "default", "job.project": "team/app", "job.source": "api", "job.state": "succeeded", "job.exit_code": 0,
                           "job.attempt": 1, "host": "end-lines" });
    for (field, value) in expected.as_object().expect("fields") {
        assert_eq!(&end[field], value, "{field}: {end}");
    }
    assert!(end["message"].as_str().is_some_and(|text| text.starts_with(&format!("job {good} succeeded"))), "{end}");
    assert!(end["run_ms"].as_u64().is_some_and(|run| run >= 300) && end["wait_ms"].is_u64() && end["start_ms"].is_u64(), "{end}");
    assert!(end["image"] == BUSYBOX && end["runner.id"].is_string(), "{end}");
    assert!(end.get("job.reason").is_none() && end.get("gitlab.job.id").is_none() && end.get("devices").is_none(), "{end}");

    let bad = daemon.submit(sh("exit 7")).await;
    daemon.ended(&bad).await;
    let end = only_end(&daemon, &bad).await;
    assert_eq!((&end["job.state"], &end["job.reason"], &end["job.exit_code"]), (&json!("failed"), &json!("exit_code"), &json!(7)), "{end}");

    let mut body = sh("exit 3");
    body["retries"] = json!(1);
    let tried = daemon.submit(body).await;
    daemon.ended(&tried).await;
    assert_eq!(only_end(&daemon, &tried).await["job.attempt"], 2, "a try that is followed by another is no end");

    let mut body = sh("while true; do sleep 0.1; done");
    body["timeout"] = json!("1s");
    let late = daemon.submit(body).await;
    daemon.ended(&late).await;
    assert_eq!(only_end(&daemon, &late).await["job.reason"], "timed_out");

    let mut body = sh("while true; do sleep 0.1; done");
    body["cpus"] = json!(2);
    let (runs, waits) = (daemon.submit(body.clone()).await, daemon.submit(body).await);
    daemon.reaches(&runs, &["running"]).await;
    for id in [&waits, &runs] {
        daemon.request(Method::DELETE, &format!("/jobs/{id}"), None).await;
        daemon.request(Method::DELETE, &format!("/jobs/{id}"), None).await;
        daemon.ended(id).await;
        assert_eq!(only_end(&daemon, id).await["job.reason"], "canceled_by_user");
    }
    let end = only_end(&daemon, &waits).await;
    assert_eq!((&end["job.attempt"], end.get("run_ms"), end.get("host")), (&json!(0), None, None), "{end}");
    daemon.finish().await;
}

#[tokio::test]
async fn an_end_that_came_while_the_daemon_was_dead_has_one_line_too() {
    let mut daemon = setup("end-crash").start().await;
    let id = daemon.submit(sh("sleep 1; exit 5")).await;
    daemon.reaches(&id, &["running"]).await;
    let ended = daemon.submit(sh("true")).await;
    daemon.ended(&ended).await;
    only_end(&daemon, &ended).await;
    let before = daemon.log();
    daemon.kill();
    daemon.start().await;
    daemon.ended(&id).await;
    daemon.until("its end is told", async |daemon| !ends(&[before.clone(), daemon.log()], &id).is_empty()).await;
    let logs = [before, daemon.log()];
    let found = ends(&logs, &id);
    assert_eq!((found.len(), &found[0]["job.exit_code"]), (1, &json!(5)), "{found:?}");
    assert_eq!(ends(&logs, &ended).len(), 1, "what ended before is not told again");
    daemon.finish().await;
}

#[tokio::test]
async fn a_job_of_gitlab_is_told_with_its_id_there() {
    let road = Road::build(setup("end-gitlab"), Plan::default()).await;
    let id = road.gitlab.enqueue(job("fails").script(["exit 1"]));
    road.gitlab.send_job_event(id).await;
    road.reaches(id, PATIENCE, |job| job.status == Status::Failed).await;
    let record = road.ended(id).await;
    let end = only_end(&road.daemon, record["id"].as_str().expect("an id")).await;
    assert_eq!((&end["gitlab.job.id"], &end["job.source"], &end["job.class"]), (&json!(id), &json!("gitlab"), &json!("gitlab")), "{end}");
    assert_eq!((&end["job.state"], &end["job.reason"], &end["job.project"]), (&json!("failed"), &record["reason"], &json!("team/app")), "{end}");
    road.daemon.finish().await;
}
