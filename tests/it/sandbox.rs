//! Jobs in a runtime that has a kernel of its own: gVisor, as the distribution has it. What is promised of every container holds there too, or
//! is said here.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::harness::{BUSYBOX, Daemon, Setup, engine};
use crate::network::{GATEWAY, probe, service, told};

const CLASSES: &str = r#"
[[classes]]
name = "default"
runtime = "runsc"
memory = "256MiB"
pull = "never"
[[classes]]
name = "none"
runtime = "runsc"
memory = "256MiB"
network = "none"
pull = "never"
"#;

async fn daemon(name: &str) -> Daemon {
    let daemon = Setup::new(name).host("cpus = 8\nmemory = \"16GiB\"").with(CLASSES).start().await;
    daemon.until("it is healthy", Daemon::is_healthy).await;
    daemon
}

async fn run(daemon: &Daemon, script: &str) -> (Value, String) {
    let id = daemon.submit(json!({ "class": "none", "image": BUSYBOX, "command": ["sh", "-c", script] })).await;
    (daemon.ended(&id).await, daemon.logs(&id).await)
}

/// What is read inside: whose kernel it is, and what of the hardening is felt.
const LOOK: &str = "dmesg | grep -o 'Starting gVisor'; id -u; sed -n 's/^CapBnd:\\t/caps /p' /proc/self/status; (echo x > /x) 2> /dev/null || echo no root; \
    echo x > /tmp/y && echo tmp; (mount -t tmpfs x /tmp) 2> /dev/null || echo no mount; (echo x > /.runner-coordinator/init) 2> /dev/null || echo no init; \
    echo nv=$NVIDIA_VISIBLE_DEVICES; ulimit -n; ulimit -c; ls /dev/dri /dev/kfd 2> /dev/null; env | grep RECEIPT; \
    tr '\\0' '\\n' < /proc/1/environ | grep RECEIPT; cat /proc/1/fd/0";

#[tokio::test]
async fn a_job_is_held_by_a_kernel_of_its_own_and_its_end_is_proved() {
    let daemon = daemon("sandbox-job").await;
    let (job, log) = run(&daemon, LOOK).await;
    // That kernel shows a process's environment to its user whatever the process is closed to: the receipt's key is no longer there.
    let hidden = "RUNNER_COORDINATOR_RECEIPT=-";
    let felt = ["Starting gVisor", "65532", "caps 0000000000000000", "no root", "tmp", "no mount", "no init", "nv=void", "16384", "0", hidden];
    assert_eq!(log.lines().collect::<Vec<_>>(), felt, "{job}");
    for (script, state, reason, code) in [
        ("exit 0", "succeeded", Value::Null, json!(0)),
        ("exit 7", "failed", json!("exit_code"), json!(7)),
        ("kill -9 $$", "failed", json!("exit_code"), json!(137)),
    ] {
        let (job, log) = run(&daemon, script).await;
        assert_eq!((&job["state"], &job["reason"], &job["exit_code"]), (&json!(state), &reason, &code), "{script}: {job}\n{log}");
    }
    daemon.finish().await;
}

#[tokio::test]
async fn a_job_that_is_cancelled_ends_and_one_that_takes_too_much_is_ended() {
    let daemon = daemon("sandbox-ends").await;
    let polite = "trap 'echo told; exit 0' TERM; echo up; while true; do sleep 0.1; done";
    let id = daemon.submit(json!({ "class": "none", "image": BUSYBOX, "command": ["sh", "-c", polite] })).await;
    daemon.until("it speaks", async |daemon| daemon.logs(&id).await == "up\n").await;
    daemon.request(Method::DELETE, &format!("/jobs/{id}"), None).await;
    assert_eq!(daemon.ended(&id).await["state"], "canceled");
    assert!(daemon.logs(&id).await.starts_with("up\ntold\n"), "{}", daemon.logs(&id).await);
    let (job, _) = run(&daemon, "exec awk 'BEGIN { x = \"x\"; while (1) x = x x }'").await;
    assert_eq!((&job["state"], &job["reason"]), (&json!("failed"), &json!("out_of_memory")), "{job}");
    daemon.finish().await;
}

#[tokio::test]
async fn a_job_reaches_what_its_class_says_and_is_found_again_after_a_crash() {
    let mut daemon = daemon("sandbox-network").await;
    let script = probe(&[("machine", GATEWAY, service())]);
    assert_eq!(told(&daemon, "default", &script).await, ["broker"]);
    assert_eq!(told(&daemon, "none", &script).await, [""; 0]);
    // Told by a signal: where a job ends while a command is put into its sandbox, the engine waits for that command for ever.
    let script = "trap 'go=1' USR1; echo up; until [ \"$go\" ]; do sleep 0.05; done; echo done; exit 3";
    let id = daemon.submit(json!({ "image": BUSYBOX, "command": ["sh", "-c", script] })).await;
    daemon.until("it speaks", async |daemon| daemon.logs(&id).await == "up\n").await;
    daemon.kill();
    daemon.start().await;
    engine::docker(&["kill", "--signal", "USR1", &engine::containers(&daemon.name).concat()]);
    let job = daemon.ended(&id).await;
    assert_eq!((&job["reason"], &job["exit_code"], &job["attempt"]), (&json!("exit_code"), &json!(3), &json!(1)), "{job}");
    assert_eq!(daemon.logs(&id).await, "up\ndone\n");
    daemon.finish().await;
}

#[tokio::test]
async fn a_runtime_that_the_engine_does_not_have_is_told_by_name() {
    let odd = "[[classes]]\nname = \"odd\"\nruntime = \"kata\"\npull = \"never\"";
    let daemon = Setup::new("sandbox-odd").with(odd).start().await;
    daemon.until("it is healthy", Daemon::is_healthy).await;
    let words = "needs the runtime kata, the engine has ";
    let (status, problem) = daemon.request(Method::POST, "/jobs", Some(json!({ "class": "odd", "image": BUSYBOX, "command": ["true"] }))).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{problem}");
    assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains(words) && detail.contains("runsc")), "{problem}");
    let said = daemon.command(&["check", "--canary", "off"]).output().expect("it runs");
    let lines = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(!said.status.success(), "{lines}");
    assert!(lines.lines().any(|line| line.starts_with(&format!("FAIL  class odd: can never run here: {words}"))), "{lines}");
    daemon.finish().await;
}
