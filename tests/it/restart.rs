//! The daemon dies, is stopped, or begins before its engine.

use reqwest::StatusCode;
use serde_json::json;

use crate::harness::engine::{self, UNTIL_TOLD};
use crate::harness::{BUSYBOX, Daemon, Setup};

/// Writes numbered lines until told to stop by a file that never comes, or until the count is reached.
fn counting(lines: u32) -> String {
    format!("i=0; while [ $i -lt {lines} ]; do i=$((i+1)); echo line $i; sleep 0.02; done; exit 7")
}

/// What it writes in all.
fn counted(lines: u32) -> String {
    (1..=lines).fold(String::new(), |text, line| text + &format!("line {line}\n"))
}

#[tokio::test]
async fn after_a_kill_the_running_are_adopted_and_the_waiting_run_none_twice() {
    let mut daemon = Setup::new("restart-kill").host("cpus = 2").start().await;
    let running = [daemon.sh(&counting(200)).await, daemon.sh(&counting(200)).await];
    let mut waiting = Vec::new();
    for _ in 0..4 {
        waiting.push(daemon.sh("echo ran $RUNNER_COORDINATOR_JOB_ID").await);
    }
    for id in &running {
        daemon.reaches(id, &["running"]).await;
    }
    let before = engine::containers("restart-kill");
    daemon.kill();
    assert_eq!(engine::containers("restart-kill"), before, "containers outlive the daemon");
    daemon.start().await;
    let whole = counted(200);
    for id in &running {
        let job = daemon.ended(id).await;
        assert_eq!((&job["reason"], &job["exit_code"], &job["attempt"]), (&json!("exit_code"), &json!(7), &json!(1)), "{job}");
        assert_eq!(daemon.logs(id).await, whole, "the log is whole");
        let events = daemon.get(&format!("/jobs/{id}/events")).await;
        assert!(events.to_string().contains("adopted"), "{events}");
    }
    for id in &waiting {
        let job = daemon.ended(id).await;
        assert_eq!((&job["state"], &job["attempt"]), (&json!("succeeded"), &json!(1)), "{job}");
        assert_eq!(daemon.logs(id).await, format!("ran {id}\n"));
    }
    daemon.finish().await;
}

#[tokio::test]
async fn a_job_that_ended_while_nobody_watched_keeps_its_result_and_log() {
    let mut daemon = Setup::new("restart-missed").start().await;
    let id = daemon.sh(&format!("echo first; {UNTIL_TOLD}; echo last; exit 9")).await;
    daemon.reaches(&id, &["running"]).await;
    daemon.kill();
    let name = engine::containers("restart-missed").pop().expect("its container");
    engine::tell(&id);
    assert_eq!(engine::docker(&["wait", &name]).trim(), "9");
    daemon.start().await;
    let job = daemon.ended(&id).await;
    assert_eq!((&job["reason"], &job["exit_code"], &job["attempt"]), (&json!("exit_code"), &json!(9), &json!(1)), "{job}");
    assert_eq!(daemon.logs(&id).await, "first\nlast\n");
    daemon.finish().await;
}

#[tokio::test]
async fn sigterm_leaves_containers_running_and_the_next_start_adopts_them() {
    let mut daemon = Setup::new("restart-term").start().await;
    let id = daemon.sh(&counting(200)).await;
    daemon.reaches(&id, &["running"]).await;
    let status = daemon.terminate().await;
    assert!(status.success(), "it ended with {status}");
    assert_eq!(engine::containers("restart-term").len(), 1);
    daemon.start().await;
    let job = daemon.ended(&id).await;
    assert_eq!((&job["exit_code"], &job["attempt"]), (&json!(7), &json!(1)), "{job}");
    let whole = counted(200);
    assert_eq!(daemon.logs(&id).await, whole);
    daemon.finish().await;
}

#[tokio::test]
async fn a_container_that_somebody_removes_costs_an_attempt_and_not_the_job() {
    let daemon = Setup::new("restart-vanish").with("[limits]\nretry_backoff = \"100ms\"").start().await;
    let id = daemon.sh(UNTIL_TOLD).await;
    daemon.reaches(&id, &["running"]).await;
    let name = engine::containers("restart-vanish").pop().expect("its container");
    engine::docker(&["rm", "--force", &name]);
    daemon.runs(&id, 2).await;
    engine::tell(&id);
    let job = daemon.ended(&id).await;
    assert_eq!((&job["state"], &job["attempt"]), (&json!("succeeded"), &json!(2)), "{job}");
    daemon.finish().await;
}

#[tokio::test]
async fn a_container_of_ours_without_a_runner_is_removed_and_others_are_left_alone() {
    let mut daemon = Setup::new("restart-stray").start().await;
    let id = daemon.sh("sleep 600").await;
    daemon.reaches(&id, &["running"]).await;
    let name = engine::containers("restart-stray").pop().expect("its container");
    let format = "{{range $k, $v := .Config.Labels}}{{$k}}={{$v}}\n{{end}}";
    let labels = engine::docker(&["inspect", "--format", format, &name]);
    daemon.kill();
    let mut arguments = vec!["create", "--name", "rc-stray-test"];
    for label in labels.lines().filter(|line| line.contains('=')) {
        arguments.extend(["--label", label]);
    }
    arguments.extend([BUSYBOX, "true"]);
    engine::docker(&arguments);
    engine::docker(&["create", "--name", "somebody-elses", "--label", "runner-coordinator.instance=another", BUSYBOX, "true"]);
    daemon.start().await;
    daemon.until("the stray is gone", async |_| !engine::containers("restart-stray").contains(&"rc-stray-test".to_owned())).await;
    assert_eq!(daemon.job(&id).await["state"], "running");
    engine::docker(&["rm", "somebody-elses"]);
    daemon.request(reqwest::Method::DELETE, &format!("/jobs/{id}"), None).await;
    daemon.ended(&id).await;
    daemon.finish().await;
}

#[tokio::test]
async fn an_engine_that_comes_late_finds_the_jobs_waiting() {
    let real = engine::host();
    let real = real.strip_prefix("unix://").expect("a socket");
    let dir = tempfile::tempdir().expect("a directory");
    let socket = dir.path().join("docker.sock");
    let daemon = Setup::new("restart-late").docker_host(&format!("unix://{}", socket.display())).start().await;
    let said_why = async |daemon: &Daemon| {
        let (status, health) = daemon.request(reqwest::Method::GET, "/health", None).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{health}");
        health["checks"].to_string().contains("docker.sock")
    };
    daemon.until("it has asked the engine and says why there is no answer", said_why).await;
    let id = daemon.sh("echo at last").await;
    assert_eq!(daemon.job(&id).await["state"], "queued");
    std::os::unix::fs::symlink(real, &socket).expect("the engine comes");
    let job = daemon.ended(&id).await;
    assert_eq!((&job["state"], &job["attempt"]), (&json!("succeeded"), &json!(1)), "{job}");
    daemon.until("it is healthy", Daemon::is_healthy).await;
    daemon.finish().await;
}
