//! Jobs of the API, from `POST /jobs` to the last trace of their container.

use std::io::Write as _;

use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::harness::engine::{self, UNTIL_TOLD};
use crate::harness::{BUSYBOX, Daemon, Setup};

#[tokio::test]
async fn a_job_runs_hardened_and_leaves_its_log_and_its_exit_code() {
    let daemon = Setup::new("api-main").start().await;
    let id = daemon.sh("echo hello; exit 3").await;
    let job = daemon.ended(&id).await;
    assert_eq!((&job["state"], &job["reason"], &job["exit_code"]), (&json!("failed"), &json!("exit_code"), &json!(3)), "{job}");
    assert_eq!(daemon.logs(&id).await, "hello\n");
    assert_eq!((&job["attempt"], &job["host"], &job["source"]), (&json!(1), &json!("api-main"), &json!("api")), "{job}");

    let script = "grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status; id -u; touch /x 2>&1; touch /tmp/x && echo tmp; cat /etc/hostname >/dev/null";
    let id = daemon.sh(script).await;
    let job = daemon.ended(&id).await;
    let log = daemon.logs(&id).await;
    for line in ["CapBnd:\t0000000000000000", "CapEff:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2", "65532", "Read-only file system", "tmp"] {
        assert!(log.contains(line), "{line:?} is not in:\n{log}\n{job}");
    }
    let kinds: Vec<String> = daemon.get(&format!("/jobs/{id}/events")).await["events"]
        .as_array()
        .expect("events")
        .iter()
        .map(|event| event["kind"].as_str().unwrap_or_default().to_owned())
        .collect();
    for kind in ["submitted", "claimed", "container_created", "container_started", "attempt_ended", "ended"] {
        assert!(kinds.iter().any(|known| known == kind), "{kind} is not in {kinds:?}");
    }
    daemon.finish().await;
}

#[tokio::test]
async fn each_end_has_its_reason() {
    let daemon = Setup::new("api-reasons").with("[[classes]]\nname = \"default\"\ncpus = 0.25\nmemory = \"64MiB\"\npull = \"never\"").start().await;
    let slow = daemon.submit(json!({ "image": BUSYBOX, "command": ["sleep", "600"], "timeout": "1s" })).await;
    let hungry = daemon.sh("tail -c 256m /dev/zero | wc -c; x=$(head -c 200000000 /dev/zero | tr '\\0' a); echo ${#x}").await;
    let greedy = daemon.submit(json!({ "image": BUSYBOX, "command": ["tail", "-c", "200m", "/dev/zero"] })).await;
    let missing = daemon.submit(json!({ "image": "rc-test/missing:1", "command": ["true"] })).await;
    let fine = daemon.submit(json!({ "image": BUSYBOX, "command": ["true"], "env": { "GREETING": "hi" } })).await;
    let silent = daemon.submit(json!({ "image": BUSYBOX, "command": ["/no/such/program"] })).await;

    let job = daemon.ended(&slow).await;
    assert_eq!((&job["state"], &job["reason"]), (&json!("failed"), &json!("timed_out")), "{job}");
    assert!(daemon.logs(&slow).await.contains("timed_out"), "the log says why");
    let job = daemon.ended(&greedy).await;
    assert_eq!((&job["state"], &job["reason"]), (&json!("failed"), &json!("out_of_memory")), "{job}");
    assert_eq!(daemon.ended(&hungry).await["state"], "failed");
    let job = daemon.ended(&missing).await;
    assert_eq!((&job["state"], &job["reason"], &job["attempt"]), (&json!("failed"), &json!("image_unavailable"), &json!(1)), "{job}");
    let job = daemon.ended(&fine).await;
    assert_eq!((&job["state"], &job["exit_code"]), (&json!("succeeded"), &json!(0)), "{job}");
    let job = daemon.ended(&silent).await;
    assert_eq!(job["state"], "failed", "{job}");
    daemon.finish().await;
}

#[tokio::test]
async fn a_cancelled_job_never_starts_or_ends_soon() {
    let daemon = Setup::new("api-cancel").host("cpus = 1").start().await;
    let running = daemon.sh("trap 'echo asked; exit 0' TERM; echo up; while true; do sleep 0.1; done").await;
    daemon.until("it listens", async |daemon| daemon.logs(&running).await.contains("up")).await;
    let waiting = daemon.sh("echo never").await;
    assert_eq!(daemon.job(&waiting).await["state"], "queued");

    let (status, job) = daemon.request(Method::DELETE, &format!("/jobs/{waiting}"), None).await;
    assert_eq!((status, &job["state"], &job["reason"]), (StatusCode::ACCEPTED, &json!("canceled"), &json!("canceled_by_user")), "{job}");
    let (status, _) = daemon.request(Method::DELETE, &format!("/jobs/{waiting}"), None).await;
    assert_eq!(status, StatusCode::ACCEPTED, "a cancel may be repeated");

    let (status, _) = daemon.request(Method::DELETE, &format!("/jobs/{running}"), None).await;
    assert_eq!(status, StatusCode::ACCEPTED);
    let job = daemon.ended(&running).await;
    assert_eq!((&job["state"], &job["reason"]), (&json!("canceled"), &json!("canceled_by_user")), "{job}");
    assert!(daemon.logs(&running).await.starts_with("up\nasked\n"), "it was asked before it was killed");
    assert_eq!(daemon.job(&waiting).await["attempt"], 0, "the waiting one never had an attempt");
    assert_eq!(daemon.logs(&waiting).await, "");
    daemon.finish().await;
}

#[tokio::test]
async fn priority_goes_before_age() {
    let daemon = Setup::new("api-order").host("cpus = 1").start().await;
    let blocker = daemon.sh(UNTIL_TOLD).await;
    daemon.reaches(&blocker, &["running"]).await;
    let mut jobs = Vec::new();
    for priority in [0, 5, 0, -3, 5] {
        jobs.push(daemon.submit(json!({ "image": BUSYBOX, "command": ["true"], "priority": priority })).await);
    }
    daemon.request(Method::DELETE, &format!("/jobs/{blocker}"), None).await;
    let mut started = Vec::new();
    for (index, id) in jobs.iter().enumerate() {
        let job = daemon.ended(id).await;
        assert_eq!(job["state"], "succeeded", "{job}");
        started.push((job["started_at"].as_str().and_then(|at| at.parse::<jiff::Timestamp>().ok()).expect("a time"), index));
    }
    // Not as text: `05.12Z` sorts behind `05.123Z`.
    started.sort_unstable();
    let order: Vec<usize> = started.into_iter().map(|(_, index)| index).collect();
    assert_eq!(order, [1, 4, 0, 2, 3]);
    daemon.finish().await;
}

#[tokio::test]
async fn what_can_never_run_is_refused_unless_it_wants_to_wait() {
    let daemon = Setup::new("api-unsatisfiable").start().await;
    daemon.until("it is healthy", Daemon::is_healthy).await;
    let id = daemon.sh("true").await;
    daemon.ended(&id).await;
    let (status, problem) = daemon.request(Method::DELETE, &format!("/jobs/{id}"), None).await;
    assert_eq!(status, StatusCode::CONFLICT, "{problem}");
    let foreign = if std::env::consts::ARCH == "riscv64" { "amd64" } else { "riscv64" };
    let mut body = json!({ "image": BUSYBOX, "command": ["true"], "arch": foreign });
    let (status, problem) = daemon.request(Method::POST, "/jobs", Some(body.clone())).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{problem}");
    assert!(problem.to_string().contains(foreign), "{problem}");
    body["if_unsatisfiable"] = json!("wait");
    let id = daemon.submit(body).await;
    assert_eq!(daemon.job(&id).await["state"], "queued");
    daemon.request(Method::DELETE, &format!("/jobs/{id}"), None).await;
    daemon.finish().await;
}

#[tokio::test]
async fn a_log_is_followed_while_it_grows_and_kept_afterwards() {
    let daemon = Setup::new("api-follow").start().await;
    let id = daemon.sh("echo one; while [ ! -e /tmp/x ]; do sleep 0.05; n=$((n+1)); [ $n = 10 ] && break; done; echo two; printf three").await;
    let url = format!("{}/jobs/{id}/logs?follow=true", daemon.url);
    let followed = crate::harness::client().get(url).send().await.expect("an answer").text().await.expect("a log");
    assert_eq!(followed, "one\ntwo\nthree");
    assert_eq!(daemon.job(&id).await["state"], "succeeded", "the stream ended only when the job had");
    assert_eq!(daemon.logs(&id).await, followed);
    daemon.finish().await;
}

#[tokio::test]
async fn many_jobs_drain_and_leave_nothing() {
    let count: usize = std::env::vars().find(|(name, _)| name == "RC_DRAIN_JOBS").map_or(200, |(_, value)| value.parse().expect("a number"));
    let class = "[[classes]]\nname = \"default\"\ncpus = 0.25\nmemory = \"32MiB\"\nnetwork = \"none\"";
    let daemon = Setup::new("api-drain").with(class).start().await;
    let begun = std::time::Instant::now();
    let mut jobs = Vec::new();
    for _ in 0..count {
        jobs.push(daemon.submit(json!({ "image": BUSYBOX, "command": ["true"] })).await);
    }
    for id in &jobs {
        let job = loop {
            let job = daemon.job(id).await;
            if job["finished_at"].is_string() {
                break job;
            }
            assert!(begun.elapsed().as_secs() < 60 + count as u64, "they do not drain: {job}\n{}", daemon.log());
            crate::harness::pause().await;
        };
        assert_eq!((&job["state"], &job["attempt"]), (&json!("succeeded"), &json!(1)), "{job}");
    }
    let took = begun.elapsed();
    // For the long run by hand: the figure, beside the promise.
    let _ = writeln!(std::io::stdout(), "{count} jobs drained in {took:.1?}");
    daemon.until("all are taken away", async |_| engine::containers("api-drain").is_empty()).await;
    let status = daemon.get("/status").await;
    assert_eq!(status["jobs"]["succeeded"], json!(count), "{status}");
    daemon.finish().await;
}
