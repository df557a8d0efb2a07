//! The command line as people and scripts use it: the real program against the real daemon and a real engine.

use std::process::{Child, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::harness::{BUSYBOX, Daemon, PATIENCE, Setup, pause};

/// Limits under which what cannot start fails at once.
const AT_ONCE: &str = "[limits]\ninfrastructure_retries = 0";

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("text")
}

/// What a command says and how it ends.
fn said(output: &Output) -> (Option<i32>, String, String) {
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn run(command: &mut Command) -> (Option<i32>, String, String) {
    said(&command.output().expect("it runs"))
}

/// Waits for a command that was left running, without blocking.
async fn ended(mut child: Child) -> (Option<i32>, String, String) {
    let deadline = Instant::now() + PATIENCE;
    while child.try_wait().expect("a process").is_none() {
        assert!(Instant::now() < deadline, "it does not end");
        pause().await;
    }
    said(&child.wait_with_output().expect("its output"))
}

fn spawn(command: &mut Command) -> Child {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs")
}

fn submit<'a>(options: &[&'a str], script: &'a str) -> Vec<&'a str> {
    [&["jobs", "submit", "--image", BUSYBOX], options, &["--", "sh", "-c", script]].concat()
}

/// Writes numbered lines for some seconds, and what they are.
fn counting(lines: u32) -> (String, String) {
    let script = format!("i=0; while [ $i -lt {lines} ]; do i=$((i+1)); echo line $i; sleep 0.02; done; exit 7");
    (script, (1..=lines).fold(String::new(), |text, line| text + &format!("line {line}\n")))
}

#[tokio::test]
async fn a_submission_that_is_followed_ends_as_the_job_does() {
    let daemon = Setup::new("cli-follow").with(AT_ONCE).start().await;
    let (code, out, err) = run(&mut daemon.command(&submit(&["--follow", "--env", "WHO=you", "--project", "team/app"], "echo out $WHO; exit 3")));
    assert_eq!((code, out.as_str()), (Some(3), "out you\n"), "{err}");
    assert!(err.contains("it runs") && err.contains("failed with exit code 3") && !err.contains('\u{1b}'), "{err}");

    let (code, out, err) = run(&mut daemon.command(&submit(&["--wait"], "true")));
    let job = daemon.job(out.trim()).await;
    assert_eq!((code, &job["state"]), (Some(0), &json!("succeeded")), "{err}");

    let (code, out, err) = run(&mut daemon.command(&submit(&["--wait", "--json"], "exit 4")));
    let job: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((code, &job["exit_code"], job["finished_at"].is_string()), (Some(4), &json!(4), true), "{err}");

    // A job that never had an exit code has none to give.
    let (code, _, err) = run(&mut daemon.command(&["jobs", "submit", "--image", "rc-test/not-there:1", "--wait", "--", "true"]));
    assert_eq!(code, Some(125), "{err}");
    assert!(err.contains("failed with image_unavailable"), "{err}");
    let (code, out, err) = run(&mut daemon.command(&["jobs", "submit", "--class", "none", "--wait", "--", "true"]));
    assert_eq!((code, out.as_str()), (Some(125), ""), "{err}");
    assert!(err.contains("class must be one of default (422)"), "{err}");
    daemon.finish().await;
}

/// The only job of a project; nothing before there is one.
async fn only_job(daemon: &Daemon, project: &str) -> Value {
    daemon.get(&format!("/jobs?project={project}")).await["jobs"][0].clone()
}

/// Whether the only job of a project has said that it is ready.
async fn is_ready(daemon: &Daemon, project: &str) -> bool {
    let job = only_job(daemon, project).await;
    match job["id"].as_str() {
        Some(id) => daemon.logs(id).await.contains("ready"),
        None => false,
    }
}

#[tokio::test]
async fn an_interrupt_cancels_the_job_and_its_end_is_awaited() {
    let daemon = Setup::new("cli-interrupt").start().await;
    let willing = submit(&["--wait", "--project", "interrupted"], "trap 'exit 0' TERM; echo ready; while true; do sleep 0.1; done");
    let child = spawn(&mut daemon.command(&willing));
    daemon.until("it listens", async |daemon| is_ready(daemon, "interrupted").await).await;
    kill_process(Pid::from_child(&child), Signal::INT).expect("signalled");
    let (code, out, err) = ended(child).await;
    assert_eq!(code, Some(130), "{err}");
    assert!(err.contains("is cancelled; once more leaves at once") && err.contains("was cancelled with canceled_by_user"), "{err}");
    assert_eq!(daemon.job(out.trim()).await["state"], "canceled");

    // A job that does not listen: whoever asks twice does not wait for it.
    let stubborn = submit(&["--wait", "--project", "stubborn"], "trap '' TERM; echo ready; while true; do sleep 0.1; done");
    let child = spawn(&mut daemon.command(&stubborn));
    let job = async |daemon: &Daemon| only_job(daemon, "stubborn").await;
    daemon.until("it listens to nobody", async |daemon| is_ready(daemon, "stubborn").await).await;
    kill_process(Pid::from_child(&child), Signal::INT).expect("signalled");
    daemon.until("it is to be cancelled", async |daemon| job(daemon).await["cancel_requested_at"].is_string()).await;
    kill_process(Pid::from_child(&child), Signal::INT).expect("signalled");
    assert_eq!(ended(child).await.0, Some(130));
    assert!(job(&daemon).await["finished_at"].is_null(), "nobody waited for it");

    let id = daemon.cli(&submit(&[], "sleep 60"));
    assert!(daemon.cli(&["jobs", "cancel", id.trim()]).starts_with(id.trim()));
    daemon.ended(id.trim()).await;
    let done = daemon.cli(&submit(&["--wait"], "true"));
    let (code, _, err) = run(&mut daemon.command(&["jobs", "cancel", "no-such-job", done.trim()]));
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains("there is no job no-such-job") && err.contains("`runner-coordinator jobs list` shows"), "{err}");
    assert!(err.contains("already ended: it is succeeded (409)") && err.contains("jobs show ID"), "{err}");
    daemon.finish().await;
}

#[tokio::test]
async fn logs_are_followed_byte_for_byte_over_a_kill_of_the_daemon() {
    let mut daemon = Setup::new("cli-restart").start().await;
    let (script, whole) = counting(200);
    let submitted = spawn(&mut daemon.command(&submit(&["--follow", "--project", "counted"], &script)));
    daemon.until("it runs", async |daemon| daemon.get("/jobs?project=counted").await["jobs"][0]["state"] == "running").await;
    let id = daemon.get("/jobs?project=counted").await["jobs"][0]["id"].as_str().expect("an id").to_owned();
    let followed = spawn(&mut daemon.command(&["jobs", "logs", "--follow", &id]));
    daemon.until("some of it is written", async |daemon| daemon.logs(&id).await.lines().count() > 20).await;
    daemon.kill();
    // Both must meet the daemon while it is away.
    let away = Instant::now() + std::time::Duration::from_secs(1);
    while Instant::now() < away {
        pause().await;
    }
    daemon.start().await;
    let (code, out, err) = ended(followed).await;
    assert_eq!((code, out == whole), (Some(0), true), "{err}\n{out}");
    assert!(err.contains("cannot be reached; waiting for it"), "{err}");
    let (code, out, err) = ended(submitted).await;
    assert_eq!((code, out == whole), (Some(7), true), "{err}\n{out}");
    let (code, out, _) = run(&mut daemon.command(&["jobs", "logs", &id, "--attempt", "1"]));
    assert_eq!((code, out == whole), (Some(0), true));
    let (code, _, err) = run(&mut daemon.command(&["jobs", "logs", &id, "--attempt", "2"]));
    assert_eq!(code, Some(1), "{err}");
    daemon.finish().await;
}

#[tokio::test]
async fn a_log_goes_on_with_the_next_attempt() {
    let daemon = Setup::new("cli-attempts").with("[limits]\nretry_backoff = \"1s\"").start().await;
    let (code, out, err) =
        run(&mut daemon.command(&submit(&["--follow", "--retries", "1"], "echo ${RUNNER_COORDINATOR_JOB_ID:+an attempt}; exit 5")));
    assert_eq!((code, out.as_str()), (Some(5), "an attempt\nan attempt\n"), "{err}");
    assert!(err.contains("it is tried again, not before: "), "{err}");
    daemon.finish().await;
}

#[tokio::test]
async fn every_list_is_paged_and_everything_is_json_where_that_is_asked_for() {
    let daemon = Setup::new("cli-lists").host("cpus = 2").start().await;
    let mut ids = Vec::new();
    for _ in 0..520 {
        let body = json!({ "image": BUSYBOX, "command": ["true"], "cpus": 8, "if_unsatisfiable": "wait", "project": "many" });
        ids.push(daemon.submit(body).await);
    }
    ids.reverse();
    let listed = daemon.cli(&["jobs", "list", "--limit", "510"]);
    let found: Vec<&str> = listed.lines().skip(1).filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(found, ids[..510]);
    let (_, out, err) = run(&mut daemon.command(&["jobs", "list", "--state", "queued,running", "--limit", "2", "--json"]));
    let page: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((page["jobs"].as_array().map(Vec::len), page["next_cursor"].is_string()), (Some(2), true), "{err}");
    assert!(run(&mut daemon.command(&["jobs", "list"])).2.contains("there are more than these 50: --limit shows them"));
    assert!(daemon.cli(&["jobs", "list", "--project", "none"]).contains("there are no such jobs"));

    let id = daemon.cli(&submit(&["--wait"], "echo hello")).trim().to_owned();
    for arguments in [
        vec!["status"],
        vec!["jobs", "list"],
        vec!["jobs", "show", &id],
        vec!["jobs", "explain", &ids[0]],
        vec!["runners", "list"],
        vec!["runners", "list", "--state", "gone"],
        vec!["hosts", "list"],
        vec!["gpus", "list"],
    ] {
        let shown = daemon.cli(&arguments);
        assert!(!shown.trim().is_empty() && !shown.contains('\u{1b}'), "{arguments:?}: {shown}");
        let json = daemon.cli(&[&arguments[..], &["--json"]].concat());
        assert!(serde_json::from_str::<Value>(&json).is_ok_and(|answer| answer.is_object()), "{arguments:?}: {json}");
    }
    let shown = daemon.cli(&["jobs", "show", &id]);
    assert!(shown.contains("succeeded") && shown.contains("history") && shown.contains("it runs"), "{shown}");
    assert!(daemon.cli(&["status"]).contains("520 queued"), "{}", daemon.cli(&["status"]));
    daemon.finish().await;
}

#[tokio::test]
async fn colours_are_for_terminals_that_want_them() {
    let daemon = Setup::new("cli-colours").start().await;
    daemon.cli(&submit(&["--wait"], "true"));
    let on_a_terminal = |variable: &str| {
        let command = format!("{} jobs list --server {}", env!("CARGO_BIN_EXE_runner-coordinator"), daemon.url);
        let mut script = Command::new("script");
        script.args(["-qec", &command, "/dev/null"]).env("TERM", "xterm").env_remove("NO_COLOR").env_remove("CI").stdin(Stdio::null());
        if !variable.is_empty() {
            script.env(variable, "1");
        }
        let (code, out, err) = run(&mut script);
        assert!(code == Some(0) && out.contains("succeeded"), "{out}{err}");
        out
    };
    assert!(on_a_terminal("").contains("\u{1b}[32msucceeded"));
    assert!(!on_a_terminal("NO_COLOR").contains('\u{1b}'));
    daemon.finish().await;
}
