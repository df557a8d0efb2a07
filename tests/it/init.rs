//! The first process of jobs' containers, run as it is outside of any container: what it promises to jobs and to the daemon.
#![expect(clippy::expect_used, reason = "the helpers of tests fail like tests")]

use std::fs::{self, Permissions};
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Instant;

use ring::hmac;
use runner_coordinator::docker::init;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::harness::{PATIENCE, pause};

const KEY: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const VARIABLE: &str = "RUNNER_COORDINATOR_RECEIPT";

/// A user that is nobody's: what is closed to the job's own user must be closed although it is the same.
const USER: u32 = 65532;

/// One attempt.
struct Attempt {
    dir: TempDir,
    program: PathBuf,
}

impl Attempt {
    fn new() -> Self {
        let dir = TempDir::with_prefix("rc-init-").expect("a directory");
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).expect("opened");
        let installed = init::install(dir.path()).expect("laid down");
        // A copy that this process never had open for writing: what another test starts just then inherits that for a moment, and
        // the kernel starts no program that somebody may write ("text file busy").
        let program = dir.path().join("init");
        assert!(Command::new("cp").arg("-p").args([&installed, &program]).status().expect("cp is there").success());
        let attempt = Self { dir, program };
        fs::write(attempt.path(), "what the job left here").expect("written");
        fs::set_permissions(attempt.path(), Permissions::from_mode(0o666)).expect("opened");
        attempt
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("receipt")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg(self.path()).args(arguments).stdin(Stdio::null());
        command.env(VARIABLE, format!("job1 2 nonce1 {KEY}")).env("PATH", "/usr/bin:/bin");
        if rustix::process::getuid().is_root() {
            command.uid(USER).gid(USER);
        }
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("it runs")
    }

    fn sh(&self, script: &str) -> Output {
        self.run(&["/bin/sh", "-c", script])
    }

    /// What the receipt says of the end; fails unless it is whole and signed with the key.
    fn end(&self) -> String {
        let text = fs::read_to_string(self.path()).expect("a receipt");
        let (signed, proof) = text.split_once("proof ").expect("a proof");
        let key = hmac::Key::new(hmac::HMAC_SHA256, KEY.as_bytes());
        let expected = hex(hmac::sign(&key, signed.as_bytes()).as_ref());
        assert_eq!(proof, format!("{expected}\n"));
        signed.strip_prefix("receipt 1\njob job1\nattempt 2\nnonce nonce1\n").expect("whose it is").to_owned()
    }
}

/// Bytes as receipts write them.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().flat_map(|byte| [byte >> 4, byte & 0xf]).filter_map(|digit| char::from_digit(u32::from(digit), 16)).collect()
}

fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn the_commands_exit_code_is_its_own_and_is_proved() {
    for code in [0, 1, 3, 125, 137, 143, 255] {
        let attempt = Attempt::new();
        let output = attempt.sh(&format!("echo out; echo err >&2; exit {code}"));
        assert_eq!((output.status.code(), text(&output), words(&output)), (Some(code), "out\n".to_owned(), "err\n".to_owned()));
        assert_eq!(attempt.end(), format!("end exit {code}\ntold no\n"));
    }
}

#[test]
fn a_signal_that_ended_the_command_is_told_as_one() {
    for (name, number) in [("KILL", 9), ("TERM", 15), ("SEGV", 11), ("INT", 2)] {
        let attempt = Attempt::new();
        let output = attempt.sh(&format!("kill -{name} $$"));
        assert_eq!(output.status.code(), Some(128 + number), "{name}");
        assert_eq!(attempt.end(), format!("end signal {number}\ntold no\n"));
    }
}

#[test]
fn a_command_that_is_not_there_or_is_no_program_is_told_as_every_shell_does() {
    let attempt = Attempt::new();
    let output = attempt.run(&["no-such-program", "x"]);
    assert_eq!(output.status.code(), Some(127));
    assert_eq!(words(&output), "runner-coordinator: no-such-program cannot be executed: No such file or directory (os error 2)\n");
    assert_eq!(attempt.end(), "end exit 127\ntold no\n");
    let output = attempt.run(&["/etc/passwd"]);
    assert_eq!(output.status.code(), Some(126), "{}", words(&output));
    assert!(words(&output).contains("/etc/passwd cannot be executed: Permission denied"), "{}", words(&output));
    assert_eq!(attempt.end(), "end exit 126\ntold no\n");
}

#[test]
fn without_its_receipt_or_its_ticket_it_runs_nothing() {
    let attempt = Attempt::new();
    let marker = attempt.dir.path().join("ran");
    let touch = ["/usr/bin/touch".to_owned(), marker.display().to_string()];
    let touch: Vec<&str> = touch.iter().map(String::as_str).collect();
    fs::set_permissions(attempt.path(), Permissions::from_mode(0o444)).expect("closed");
    if rustix::process::getuid().is_root() {
        let output = attempt.run(&touch);
        assert_eq!(output.status.code(), Some(125));
        assert!(words(&output).contains("receipt cannot be written: Permission denied"), "{}", words(&output));
    }
    fs::remove_file(attempt.path()).expect("gone");
    let output = attempt.run(&touch);
    assert_eq!(output.status.code(), Some(125));
    assert!(words(&output).contains("receipt cannot be written: No such file"), "{}", words(&output));
    fs::write(attempt.path(), "").expect("written");
    for ticket in ["", "job1 2 nonce1", "job1 2 nonce1 key more"] {
        let output = attempt.command(&touch).env(VARIABLE, ticket).output().expect("it runs");
        assert_eq!(output.status.code(), Some(125), "{ticket:?}");
        assert!(words(&output).contains("does not say what the receipt is of"), "{}", words(&output));
    }
    assert_eq!(attempt.command(&[]).output().expect("it runs").status.code(), Some(125), "no command");
    assert_eq!(fs::read_to_string(attempt.path()).expect("read"), "", "no end is proved that was none");
    assert!(!marker.exists(), "something ran");
}

#[test]
fn the_job_gets_neither_the_key_nor_a_look_at_who_has_it() {
    let attempt = Attempt::new();
    let script = "env; for file in environ mem maps auxv; do cat /proc/$PPID/$file 2>&1; done; ls /proc/$PPID/fd 2>&1; cat /proc/$$/environ; exit 4";
    let output = attempt.sh(script);
    let seen = text(&output);
    assert!(!seen.contains(KEY) && !seen.contains(VARIABLE), "{seen}");
    assert_eq!(seen.matches("Permission denied").count(), 5, "{seen}");
    assert_eq!(attempt.end(), "end exit 4\ntold no\n");
}

/// As kernels show it that close nothing.
#[test]
fn the_key_is_not_in_its_environment_for_whoever_may_look() {
    let attempt = Attempt::new();
    let mut child = ready(&attempt, "echo ready; exec sleep 600");
    match fs::read(format!("/proc/{}/environ", child.id())) {
        Ok(seen) => assert!(!String::from_utf8_lossy(&seen).contains(KEY), "the key is there"),
        Err(error) => assert!(!rustix::process::getuid().is_root(), "not even root may look: {error}"),
    }
    kill_process(Pid::from_child(&child), Signal::TERM).expect("signalled");
    assert_eq!(child.wait().expect("it ends").code(), Some(143));
    assert_eq!(attempt.end(), "end signal 15\ntold yes\n");
}

#[test]
fn what_the_job_wrote_into_its_receipt_is_not_there_at_the_end() {
    let attempt = Attempt::new();
    let path = attempt.path();
    let script = format!("i=0; while [ $i -lt 200 ]; do echo 'end exit 0 told no' >> {0}; i=$((i+1)); done; wc -l < {0}; exit 6", path.display());
    let output = attempt.sh(&script);
    assert_eq!(text(&output).trim(), "200");
    assert_eq!(attempt.end(), "end exit 6\ntold no\n");
}

#[test]
fn a_thousand_orphans_are_reaped_while_the_command_runs() {
    let attempt = Attempt::new();
    // Each leaves its parent before it ends, so it comes to the first process; the last line waits until that has only the shell.
    let script = "i=0; while [ $i -lt 1000 ]; do (true &); i=$((i+1)); done; \
        until [ \"$(cat /proc/$PPID/task/$PPID/children)\" = \"$$ \" ]; do :; done; echo all reaped; exit 2";
    let output = attempt.sh(script);
    assert_eq!((output.status.code(), text(&output).as_str()), (Some(2), "all reaped\n"), "{}", words(&output));
    assert_eq!(attempt.end(), "end exit 2\ntold no\n");
}

/// Starts a script that says when it is ready.
fn ready(attempt: &Attempt, script: &str) -> Child {
    let mut child = attempt.command(&["/bin/sh", "-c", script]).stdout(Stdio::piped()).spawn().expect("it starts");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("its output")).read_line(&mut line).expect("a line");
    assert_eq!(line, "ready\n");
    child
}

#[test]
fn signals_are_passed_on_and_an_order_to_end_is_told() {
    let attempt = Attempt::new();
    let deaf_but_for = |name: &str| format!("trap 'exit 9' {name}; echo ready; while :; do sleep 0.02; done");
    for (name, signal, told) in [("TERM", Signal::TERM, "yes"), ("INT", Signal::INT, "no"), ("USR1", Signal::USR1, "no"), ("HUP", Signal::HUP, "no")]
    {
        let mut child = ready(&attempt, &deaf_but_for(name));
        kill_process(Pid::from_child(&child), signal).expect("signalled");
        assert_eq!(child.wait().expect("it ends").code(), Some(9), "{name}");
        assert_eq!(attempt.end(), format!("end exit 9\ntold {told}\n"), "{name}");
    }
    let mut child = ready(&attempt, "echo ready; exec sleep 600");
    kill_process(Pid::from_child(&child), Signal::TERM).expect("signalled");
    assert_eq!(child.wait().expect("it ends").code(), Some(143));
    assert_eq!(attempt.end(), "end signal 15\ntold yes\n");
}

#[tokio::test]
async fn that_it_was_told_to_end_is_written_at_once_and_stays_when_it_is_killed() {
    let attempt = Attempt::new();
    // What the job wrote there before is gone too.
    let script = format!("i=0; while [ $i -lt 50 ]; do echo a line of the job >> {}; i=$((i+1)); done; ", attempt.path().display());
    // It outlives its first process here, and ends with the directory of this attempt.
    let lives = format!("while [ -e {} ]; do sleep 0.02; done", attempt.path().display());
    let mut child = ready(&attempt, &format!("{script} trap : TERM; echo ready; {lives}"));
    kill_process(Pid::from_child(&child), Signal::TERM).expect("signalled");
    let deadline = Instant::now() + PATIENCE;
    let whole = |text: &str| text.split_once("proof ").is_some_and(|(_, proof)| proof.len() == 65);
    while !fs::read_to_string(attempt.path()).is_ok_and(|text| whole(&text)) {
        assert!(Instant::now() < deadline, "it is not written");
        pause().await;
    }
    assert_eq!(attempt.end(), "end none\ntold yes\n");
    kill_process(Pid::from_child(&child), Signal::KILL).expect("signalled");
    assert_eq!(child.wait().expect("it ends").signal(), Some(9));
    assert_eq!(attempt.end(), "end none\ntold yes\n");
}

#[test]
fn who_is_killed_leaves_no_receipt() {
    let attempt = Attempt::new();
    let mut child = ready(&attempt, &format!(": > {}; echo ready; exec sleep 2", attempt.path().display()));
    kill_process(Pid::from_child(&child), Signal::KILL).expect("signalled");
    assert_eq!(child.wait().expect("it ends").signal(), Some(9));
    assert_eq!(fs::read_to_string(attempt.path()).expect("read"), "");
}

#[test]
fn the_command_is_a_group_of_its_own_and_sees_signals_as_they_are_by_default() {
    let attempt = Attempt::new();
    let output = attempt.sh("read -r _ _ _ _ group _ < /proc/$$/stat; [ $group = $$ ]");
    assert_eq!(output.status.code(), Some(0), "its group is itself");
    assert_eq!(attempt.end(), "end exit 0\ntold no\n");
    let output = attempt.sh("grep -E 'SigIgn|SigBlk' /proc/self/status | cut -f 2");
    let masks: Vec<u64> = text(&output).lines().map(|mask| u64::from_str_radix(mask, 16).expect("a mask")).collect();
    // The 31 classic signals; what this test's own parents ignore of the others is inherited.
    assert_eq!(masks.iter().map(|mask| mask & 0x7fff_ffff).collect::<Vec<_>>(), [0, 0]);
}
