//! The engine dies under a job: what the record says is the job's real end, or another attempt is made. Never a success without a receipt.
#![expect(clippy::expect_used, reason = "the helpers of tests fail like tests")]

use std::fs;

use serde_json::{Value, json};

use crate::harness::engine::UNTIL_TOLD;
use crate::harness::own_engine::{OwnEngine, Restart};
use crate::harness::{BUSYBOX, Daemon, Setup, free_port};

async fn daemon(name: &str, engine: &OwnEngine) -> Daemon {
    // Without a network of containers: this engine has none.
    let rest = format!(
        "[broker]\nlisten = \"127.0.0.1:{}\"\n[limits]\nstop_grace = \"1s\"\nretry_backoff = \"100ms\"\n[[classes]]\nname = \"default\"\nnetwork = \"none\"",
        free_port()
    );
    Setup::new(name).docker_host(&engine.host()).with(&rest).start().await
}

/// Waits until the only receipt says something.
async fn receipt(daemon: &Daemon) -> String {
    let read = || {
        let file = fs::read_dir(daemon.data().join("receipts")).expect("a directory").next()?.expect("an entry");
        fs::read_to_string(file.path()).ok().filter(|text| text.contains("proof "))
    };
    daemon.until("the job leaves its receipt", async |_| read().is_some()).await;
    read().expect("a receipt")
}

fn told(job: &Value) -> (&str, &Value, &Value, &Value) {
    (job["state"].as_str().unwrap_or_default(), &job["reason"], &job["exit_code"], &job["attempt"])
}

/// Stops the daemon; what it left in the engine goes with that.
async fn leave(mut daemon: Daemon, engine: OwnEngine) {
    let status = daemon.terminate().await;
    assert!(status.success(), "{status}");
    drop(engine);
}

#[tokio::test]
async fn jobs_that_end_while_their_engine_is_dead_end_as_they_did() {
    for (script, state, reason, code) in
        [("echo first; sleep 3; echo last; exit 5", "failed", json!("exit_code"), 5), ("sleep 3", "succeeded", Value::Null, 0)]
    {
        let mut engine = OwnEngine::start(Restart::Keeps).await;
        let daemon = daemon("fault-keeps", &engine).await;
        let id = daemon.sh(script).await;
        daemon.reaches(&id, &["running"]).await;
        engine.kill();
        let receipt = receipt(&daemon).await;
        assert!(receipt.contains(&format!("\nend exit {code}\ntold no\n")), "{receipt}");
        daemon.until("it noticed", async |daemon| !daemon.is_healthy().await).await;
        engine.resume().await;
        let job = daemon.ended(&id).await;
        assert_eq!(told(&job), (state, &reason, &json!(code), &json!(1)), "{job}\n{}", daemon.log());
        let log = daemon.logs(&id).await;
        assert!(log.contains("lines may be missing here"), "the log says that its end may be lost: {log}");
        leave(daemon, engine).await;
    }
}

#[tokio::test]
async fn jobs_that_their_engine_ends_at_its_restart_are_tried_again() {
    let mut engine = OwnEngine::start(Restart::Ends).await;
    let daemon = daemon("fault-ends", &engine).await;
    // The first attempt leaves with success when the engine tells it to end.
    let id = daemon.sh(&format!("trap 'exit 0' TERM; echo ready; {UNTIL_TOLD}; echo whole")).await;
    daemon.until("it listens", async |daemon| daemon.logs(&id).await.contains("ready")).await;
    engine.kill();
    daemon.until("it noticed", async |daemon| !daemon.is_healthy().await).await;
    engine.resume().await;
    daemon.runs(&id, 2).await;
    engine.tell();
    let job = daemon.ended(&id).await;
    assert_eq!(told(&job), ("succeeded", &Value::Null, &json!(0), &json!(2)), "{job}\n{}", daemon.log());
    let events = daemon.get(&format!("/jobs/{id}/events")).await.to_string();
    assert!(events.contains("container_lost") || events.contains("no_receipt"), "{events}");
    assert!(daemon.logs(&id).await.contains("whole"), "{}", daemon.logs(&id).await);
    leave(daemon, engine).await;
}

#[tokio::test]
async fn a_job_that_died_with_its_engine_is_tried_again_whatever_exit_code_is_told() {
    let mut engine = OwnEngine::start(Restart::Keeps).await;
    let daemon = daemon("fault-all", &engine).await;
    let id = daemon.sh("sleep 5; echo whole").await;
    daemon.reaches(&id, &["running"]).await;
    engine.kill_with_jobs();
    daemon.until("it noticed", async |daemon| !daemon.is_healthy().await).await;
    engine.resume().await;
    let job = daemon.ended(&id).await;
    assert_eq!(told(&job), ("succeeded", &Value::Null, &json!(0), &json!(2)), "{job}\n{}", daemon.log());
    let events = daemon.get(&format!("/jobs/{id}/events")).await.to_string();
    assert!(events.contains("no_receipt"), "{events}");
    leave(daemon, engine).await;
}

#[tokio::test]
async fn who_was_not_there_to_be_told_to_end_did_not_run_too_long() {
    let engine = OwnEngine::start(Restart::Keeps).await;
    let daemon = daemon("fault-blind", &engine).await;
    let id = daemon.submit(json!({ "image": BUSYBOX, "command": ["sh", "-c", UNTIL_TOLD], "timeout": "15s" })).await;
    daemon.reaches(&id, &["running"]).await;
    engine.blind();
    daemon.runs(&id, 2).await;
    engine.tell();
    let job = daemon.ended(&id).await;
    assert_eq!(told(&job), ("succeeded", &Value::Null, &json!(0), &json!(2)), "{job}\n{}", daemon.log());
    let events = daemon.get(&format!("/jobs/{id}/events")).await.to_string();
    assert!(events.contains("but its first process did not take the word to end"), "{events}");
    leave(daemon, engine).await;
}

/// Prints a line every tenth of a second, and ends when it is told to.
const TALKS: &str = "i=0; while [ $i -lt 60 ]; do i=$((i+1)); echo \"line $i\"; sleep 0.1; done";

#[tokio::test]
async fn what_an_engine_may_have_lost_while_nobody_watched_is_told_and_only_then() {
    for breaks in [false, true] {
        let mut engine = OwnEngine::start(Restart::Keeps).await;
        let mut daemon = daemon("fault-away", &engine).await;
        let id = daemon.sh(TALKS).await;
        daemon.until("it talks", async |daemon| daemon.logs(&id).await.contains("line 3")).await;
        daemon.kill();
        if breaks {
            engine.kill();
            engine.resume().await;
        }
        daemon.start().await;
        let job = daemon.ended(&id).await;
        assert_eq!(told(&job), ("succeeded", &Value::Null, &json!(0), &json!(1)), "{job}\n{}", daemon.log());
        let log = daemon.logs(&id).await;
        assert_eq!(log.contains("lines may be missing here"), breaks, "{log}");
        assert!(breaks || log.lines().count() == 60, "{log}");
        leave(daemon, engine).await;
    }
}
