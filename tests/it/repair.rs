//! What is here against what GitLab says: differences that nobody told us of, GitLab's queue, and jobs that it only believes to be here.

use std::net::{Ipv4Addr, SocketAddr};

use reqwest::Method;
use serde_json::{Value, json};

use crate::gitlab::{GitLab, JobSpec, PRIVATE_TOKEN, Status};
use crate::harness::{Daemon, PATIENCE, RUNNER, Setup, client, engine};

const TOKEN: &str = "glrt-class-token-of-the-tests";

/// A GitLab, and a daemon with these keys in `[gitlab]`. There is no webhook: nobody tells of anything.
async fn started(name: &str, keys: &str) -> (GitLab, Daemon) {
    let gitlab = GitLab::start(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))).await.expect("a GitLab");
    gitlab.add_runner(TOKEN, &["docker"]);
    let daemon = Setup::new(name)
        .with(&format!("[gitlab]\nurl = {:?}\npoll_interval = \"1s\"\n{keys}", gitlab.url()))
        .with(&format!(
            "[[classes]]\nname = \"gitlab\"\ntags = [\"docker\"]\nimage = {RUNNER:?}\npull = \"never\"\ngitlab_token = {TOKEN:?}\ncpus = 0.5\nmemory = \"512MiB\""
        ))
        .start()
        .await;
    (gitlab, daemon)
}

fn job(name: &str) -> JobSpec {
    JobSpec::new(name).project("team/app", 282).tags(["docker"])
}

/// Our record of a job of GitLab.
async fn record(daemon: &Daemon, gitlab_id: i64) -> Value {
    let jobs = daemon.get("/jobs?limit=100").await;
    let found = jobs["jobs"].as_array().expect("jobs").iter().find(|job| job["gitlab"]["job_id"] == json!(gitlab_id)).cloned();
    found.unwrap_or_else(|| panic!("no record of {gitlab_id} in {jobs}\n{}", daemon.log()))
}

/// A job that runs, and a daemon that died under it, whose runner says nothing any more.
async fn silent_job_of_a_dead_daemon(gitlab: &GitLab, daemon: &mut Daemon) -> i64 {
    let id = gitlab.enqueue(job("long").script(["echo up; sleep 600"]));
    gitlab.wait_for(id, PATIENCE, |job| job.trace.contains("up")).await.unwrap_or_else(|error| panic!("{error}\n{}", daemon.log()));
    daemon.kill();
    let container = engine::containers(&daemon.name).pop().expect("its container");
    engine::docker(&["pause", &container]);
    id
}

#[tokio::test]
async fn a_job_that_gitlab_failed_while_nobody_looked_loses_its_container() {
    let (gitlab, mut daemon) = started("repair-failed", "").await;
    let id = silent_job_of_a_dead_daemon(&gitlab, &mut daemon).await;
    // GitLab's own sweep of jobs that say nothing ends it.
    let body = json!({ "token": gitlab.job(id).job_token, "state": "failed", "failure_reason": "stuck_or_timeout_failure" });
    let answer = client().put(format!("{}/api/v4/jobs/{id}", gitlab.url())).json(&body).send().await.expect("an answer");
    assert!(answer.status().is_success());
    daemon.start().await;
    let ours = record(&daemon, id).await;
    let ours = daemon.ended(ours["id"].as_str().expect("an id")).await;
    // On its way out the runner may still say that it was interrupted.
    assert!([json!("canceled_in_gitlab"), json!("runner_terminated")].contains(&ours["reason"]), "{ours}");
    assert!(daemon.log().contains("GitLab has no more use for a job that runs here"), "{}", daemon.log());
    assert_eq!((gitlab.job(id).status, gitlab.job(id).failure_reason.as_deref()), (Status::Failed, Some("stuck_or_timeout_failure")));
    daemon.finish().await;
}

#[tokio::test]
async fn a_job_that_was_cancelled_while_nobody_looked_ends_at_the_start() {
    let (gitlab, mut daemon) = started("repair-cancelled", "").await;
    let id = silent_job_of_a_dead_daemon(&gitlab, &mut daemon).await;
    gitlab.cancel(id);
    gitlab.cancel(id);
    assert_eq!(gitlab.job(id).status, Status::Canceled, "forced, without a word of the runner");
    daemon.start().await;
    let ours = record(&daemon, id).await;
    let ours = daemon.ended(ours["id"].as_str().expect("an id")).await;
    assert_eq!((&ours["state"], &ours["reason"]), (&json!("canceled"), &json!("canceled_in_gitlab")), "{ours}");
    daemon.finish().await;
}

#[tokio::test]
async fn what_waits_in_gitlab_and_what_it_only_believes_to_be_here_is_shown() {
    let keys = format!("read_token = {PRIVATE_TOKEN:?}\nprojects = [\"team/app\", 282, \"no/such\"]\nrepair_interval = \"1s\"");
    let (gitlab, mut daemon) = started("repair-queue", &keys).await;
    for _ in 0..103 {
        gitlab.enqueue(job("train").tags(["docker", "gpu"]));
    }
    let project = async |daemon: &Daemon, place: usize| daemon.get("/status").await["gitlab_queue"]["projects"][place].clone();
    daemon.until("all wait", async |daemon| project(daemon, 0).await["pending"] == json!(103)).await;
    let seen = project(&daemon, 0).await;
    assert_eq!((&seen["tags"], &seen["tags_of_no_class"]), (&json!({ "docker": 103, "gpu": 103 }), &json!(["gpu"])), "{seen}");
    assert!(seen["oldest_wait_seconds"].is_u64() && seen["as_of"].is_string() && seen["error"].is_null(), "{seen}");
    daemon.until("the same by its id", async |daemon| project(daemon, 1).await["pending"] == json!(103)).await;
    let unknown = project(&daemon, 2).await;
    assert!(unknown["error"].as_str().is_some_and(|error| error.contains("may see")) && unknown["as_of"].is_null(), "{unknown}");

    // Nobody is there to take two jobs that GitLab gives away; one goes to another machine with the same token.
    daemon.kill();
    let mut given = Vec::new();
    for (name, system_id) in [("lost", Value::Null), ("of another machine", json!("r_otherotheron"))] {
        gitlab.enqueue(job(name));
        let body = json!({ "token": TOKEN, "system_id": system_id, "info": {} });
        let answer = client().post(format!("{}/api/v4/jobs/request", gitlab.url())).json(&body).send().await.expect("an answer");
        given.push(answer.json::<Value>().await.expect("a job")["id"].clone());
    }
    daemon.start().await;
    let stranded = async |daemon: &Daemon| daemon.get("/status").await["gitlab_queue"]["stranded"].clone();
    daemon.until("one is shown", async |daemon| stranded(daemon).await.as_array().is_some_and(|all| !all.is_empty())).await;
    let url = format!("{}/team/app/-/jobs/{}", gitlab.url(), given[0]);
    assert_eq!(stranded(&daemon).await, json!([{ "gitlab_job_id": given[0], "class": "gitlab", "url": url, "job": null }]), "{}", daemon.log());
    assert!(daemon.log().contains("GitLab believes job"), "{}", daemon.log());
    gitlab.cancel(given[0].as_i64().expect("an id"));
    daemon.until("it is gone", async |daemon| stranded(daemon).await == json!([])).await;
    assert!(!daemon.log().contains(PRIVATE_TOKEN), "a secret is in the daemon's log");
    daemon.finish().await;
}

#[tokio::test]
async fn a_token_that_gitlab_does_not_take_is_shown_and_stops_no_work() {
    let keys = "read_token = \"glpat-wrong\"\nprojects = [\"team/app\"]\nrepair_interval = \"1s\"";
    let (gitlab, daemon) = started("repair-token", keys).await;
    daemon
        .until("it is shown", async |daemon| {
            let queue = daemon.get("/status").await["gitlab_queue"].clone();
            let refused = |error: &Value| error.as_str().is_some_and(|error| error.contains("refused the token"));
            refused(&queue["error"]) && refused(&queue["projects"][0]["error"])
        })
        .await;
    let id = gitlab.enqueue(job("build").script(["echo built"]));
    let done = gitlab.wait_for(id, PATIENCE, |job| job.status.is_final()).await.unwrap_or_else(|error| panic!("{error}\n{}", daemon.log()));
    assert_eq!(done.status, Status::Success, "{done:?}");
    assert_eq!(daemon.request(Method::GET, "/health", None).await.0, 200, "nobody needs the list");
    assert!(!daemon.log().contains("glpat-wrong"), "a secret is in the daemon's log");
    let warned = daemon.log().matches("cannot be listed").count();
    assert_eq!(warned, 1, "said once, not with every round:\n{}", daemon.log());
    daemon.finish().await;
}
