//! Jobs end as their receipt says: a real engine, a real daemon, and jobs that try to have it otherwise.
#![expect(clippy::expect_used, reason = "the helpers of tests fail like tests")]

use std::fs;

use ring::hmac;
use rustix::process::{Pid, Signal, kill_process};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use runner_coordinator::config::Config;
use runner_coordinator::domain::{JobId, ReceiptOf};
use runner_coordinator::security::SecurityManager;

use crate::harness::engine::{self, UNTIL_TOLD};
use crate::harness::{BUSYBOX, Daemon, Setup};
use crate::init::hex;

/// Failures of the machinery are not tried again.
const ONCE: &str = "[limits]\ninfrastructure_retries = 0";

fn told(job: &Value) -> (&str, &Value, &Value, &Value) {
    (job["state"].as_str().unwrap_or_default(), &job["reason"], &job["exit_code"], &job["attempt"])
}

#[tokio::test]
async fn jobs_end_as_they_really_did_and_leave_no_receipt_behind() {
    let daemon = Setup::new("receipt-ends").start().await;
    let cases = [
        ("exit 0", "succeeded", Value::Null, 0),
        ("exit 3", "failed", json!("exit_code"), 3),
        ("kill -SEGV $$", "failed", json!("exit_code"), 139),
        ("no-such-program", "failed", json!("exit_code"), 127),
    ];
    for (script, state, reason, code) in cases {
        let job = daemon.ended(&daemon.sh(script).await).await;
        assert_eq!(told(&job), (state, &reason, &json!(code), &json!(1)), "{script}: {job}");
    }
    let missing = daemon.submit(json!({ "image": BUSYBOX, "command": ["/no/such/program"] })).await;
    let job = daemon.ended(&missing).await;
    assert_eq!(told(&job), ("failed", &json!("exit_code"), &json!(127), &json!(1)), "{job}");
    assert!(daemon.logs(&missing).await.contains("/no/such/program cannot be executed: No such file"), "{}", daemon.logs(&missing).await);
    let hungry = daemon.submit(json!({ "image": BUSYBOX, "command": ["awk", "BEGIN { x = \"x\"; while (1) x = x x }"], "memory": "64MiB" })).await;
    let job = daemon.ended(&hungry).await;
    assert_eq!(told(&job), ("failed", &json!("out_of_memory"), &json!(137), &json!(1)), "{job}");
    daemon.until("no receipt is left", async |daemon| receipts(daemon).is_empty()).await;
    daemon.finish().await;
}

/// The receipts that lie in the data directory.
fn receipts(daemon: &Daemon) -> Vec<std::path::PathBuf> {
    fs::read_dir(daemon.data().join("receipts")).expect("a directory").map(|entry| entry.expect("an entry").path()).collect()
}

#[tokio::test]
async fn a_job_cannot_forge_its_receipt_nor_see_the_key() {
    let daemon = Setup::new("receipt-forge").start().await;
    let script = "env | grep -c RECEIPT; cat /proc/1/environ 2>&1; cat /proc/1/mem 2>&1; ls /proc/1/fd 2>&1; \
        rm -f /.runner-coordinator/receipt 2>&1; echo x > /.runner-coordinator/other; echo x > /.runner-coordinator/init; \
        kill -9 1; kill -STOP 1; \
        printf 'receipt 1\\nend exit 0\\ntold no\\nproof 00\\n' > /.runner-coordinator/receipt; cat /proc/1/comm; exit 5";
    let id = daemon.sh(script).await;
    let job = daemon.ended(&id).await;
    assert_eq!(told(&job), ("failed", &json!("exit_code"), &json!(5), &json!(1)), "{job}");
    let log = daemon.logs(&id).await;
    assert_eq!(log.matches("Permission denied").count(), 3, "{log}");
    // The engine takes the two outputs side by side, so lines of one may come before earlier ones of the other.
    assert!(log.lines().any(|line| line == "0"), "{log}");
    assert!(log.contains("can't remove") && log.matches("Read-only file system").count() >= 2, "{log}");
    daemon.finish().await;
}

#[tokio::test]
async fn a_receipt_that_the_job_wrote_proves_nothing_and_is_told_aloud() {
    let daemon = Setup::new("receipt-bogus").with(ONCE).start().await;
    let id = daemon.sh("printf 'receipt 1\\nend exit 0\\ntold no\\nproof 00\\n' > /.runner-coordinator/receipt; echo written; sleep 600").await;
    daemon.until("it wrote", async |daemon| daemon.logs(&id).await.contains("written")).await;
    kill_first_process("receipt-bogus");
    let job = daemon.ended(&id).await;
    assert_eq!(told(&job), ("failed", &json!("no_receipt"), &Value::Null, &json!(1)), "{job}");
    assert!(daemon.log().contains("security: a job's receipt is not one"), "{}", daemon.log());
    assert!(daemon.logs(&id).await.contains("runner-coordinator: no_receipt: the engine reports the exit code 137"), "{}", daemon.logs(&id).await);
    daemon.finish().await;
}

/// Kills the first process of the only container of this daemon, as an engine that dies does.
fn kill_first_process(name: &str) {
    let container = engine::containers(name).pop().expect("its container");
    let pid: i32 = engine::docker(&["inspect", "--format", "{{.State.Pid}}", &container]).trim().parse().expect("a process");
    kill_process(Pid::from_raw(pid).expect("a process"), Signal::KILL).expect("killed");
}

#[tokio::test]
async fn without_a_receipt_the_job_is_tried_again_under_a_new_attempt() {
    let daemon = Setup::new("receipt-none").with("[limits]\nretry_backoff = \"100ms\"").start().await;
    let id = daemon.sh(UNTIL_TOLD).await;
    daemon.reaches(&id, &["running"]).await;
    kill_first_process("receipt-none");
    daemon.runs(&id, 2).await;
    engine::tell(&id);
    let job = daemon.ended(&id).await;
    assert_eq!(told(&job), ("succeeded", &Value::Null, &json!(0), &json!(2)), "{job}");
    let events = daemon.get(&format!("/jobs/{id}/events")).await.to_string();
    assert!(events.contains("no_receipt"), "{events}");
    daemon.finish().await;
}

#[tokio::test]
async fn a_job_that_fills_its_receipt_is_ended_and_cannot_go_on_for_ever() {
    let daemon = Setup::new("receipt-full").with("[limits]\ninfrastructure_retries = 1\nretry_backoff = \"100ms\"").start().await;
    let id = daemon.sh("dd if=/dev/zero of=/.runner-coordinator/receipt bs=1k count=64; sleep 600").await;
    let job = daemon.ended(&id).await;
    assert_eq!(told(&job), ("failed", &json!("no_receipt"), &Value::Null, &json!(2)), "{job}");
    daemon.until("nothing of it is left", async |daemon| receipts(daemon).is_empty()).await;
    daemon.finish().await;
}

#[tokio::test]
async fn who_is_told_to_end_by_somebody_else_is_tried_again_also_when_it_exits_with_0() {
    let daemon = Setup::new("receipt-told").with(ONCE).start().await;
    let id = daemon.sh("trap 'echo leaving; exit 0' TERM; echo ready; while :; do sleep 0.05; done").await;
    daemon.until("it is ready", async |daemon| daemon.logs(&id).await.contains("ready")).await;
    let container = engine::containers("receipt-told").pop().expect("its container");
    engine::docker(&["kill", "--signal", "TERM", &container]);
    let job = daemon.ended(&id).await;
    assert_eq!(told(&job), ("failed", &json!("container_lost"), &Value::Null, &json!(1)), "{job}");
    assert!(job["detail"].to_string().contains("told the job to end"), "{job}");
    daemon.finish().await;
}

#[tokio::test]
async fn an_end_that_is_proved_is_believed_while_the_engine_says_that_the_job_runs() {
    let daemon = Setup::new("receipt-zombie").start().await;
    let id = daemon.sh("sleep 600").await;
    let job = daemon.reaches(&id, &["running"]).await;
    // What the first process would have written: the engine does not notice an end that was none.
    let runner = job["runner_id"].as_str().expect("a runner");
    let job_id = JobId::from_trusted(id.as_str());
    let of = ReceiptOf { job: &job_id, attempt: 1, nonce: runner };
    let config = Config::load(Some(daemon.config()), std::iter::empty()).expect("its configuration");
    let ticket = SecurityManager::open(&daemon.data(), &config).expect("the daemon's key").receipt_ticket(&of);
    let key = ticket.expose_secret().rsplit(' ').next().expect("a key").to_owned();
    let signed = format!("receipt 1\njob {id}\nattempt 1\nnonce {runner}\nend exit 7\ntold no\n");
    let proof = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes()), signed.as_bytes());
    let proof = hex(proof.as_ref());
    let [receipt] = receipts(&daemon).try_into().expect("one receipt");
    fs::write(receipt, format!("{signed}proof {proof}\n")).expect("written");
    let job = daemon.ended(&id).await;
    assert_eq!(told(&job), ("failed", &json!("exit_code"), &json!(7), &json!(1)), "{job}");
    assert!(daemon.logs(&id).await.contains("lines may be missing here"), "{}", daemon.logs(&id).await);
    daemon.finish().await;
}

#[tokio::test]
async fn what_a_crash_left_of_receipts_is_taken_away_at_the_next_start() {
    let mut daemon = Setup::new("receipt-sweep").start().await;
    let id = daemon.sh("sleep 600").await;
    daemon.reaches(&id, &["running"]).await;
    daemon.kill();
    let left = daemon.data().join("receipts/a-runner-that-is-gone");
    fs::write(&left, "left over").expect("written");
    daemon.start().await;
    daemon.until("it is swept away", async |_| !left.exists()).await;
    assert_eq!(receipts(&daemon).len(), 1, "the one of the job that runs stays");
    daemon.request(reqwest::Method::DELETE, &format!("/jobs/{id}"), None).await;
    let job = daemon.ended(&id).await;
    assert_eq!(job["reason"], "canceled_by_user", "{job}");
    daemon.finish().await;
}

#[tokio::test]
async fn an_engine_that_does_not_see_the_files_is_told_of() {
    let daemon = Setup::new("receipt-unseen").docker("data_dir = \"/no/such/directory\"").with(ONCE).start().await;
    daemon
        .until("the health says so", async |daemon| {
            let (_, health) = daemon.request(reqwest::Method::GET, "/health", None).await;
            health["checks"]["receipts"]["detail"].to_string().contains("the engine does not see /no/such/directory/init-")
        })
        .await;
    let job = daemon.ended(&daemon.sh("true").await).await;
    assert_eq!(told(&job), ("failed", &json!("start_failed"), &Value::Null, &json!(1)), "{job}");
    assert!(job["detail"].to_string().contains("bind"), "{job}");
    let told = std::process::Command::new(env!("CARGO_BIN_EXE_runner-coordinator")).arg("--config").arg(daemon.config()).arg("check").output();
    let told = told.expect("it runs");
    let said = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(!told.status.success() && said.contains("FAIL  receipts: the engine does not see /no/such/directory/init-"), "{said}");
    daemon.finish().await;
}
