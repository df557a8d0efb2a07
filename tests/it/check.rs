//! `check` as a person runs it on a real engine: the canary flies and leaves nothing, addresses have owners, and every line says what to do.

use std::path::Path;
use std::time::Instant;

use crate::harness::{BUSYBOX, NO_MARKS, PATIENCE, Setup, engine, free_port};

/// How it ended, and its lines.
struct Said {
    good: bool,
    lines: Vec<String>,
}

impl Said {
    /// The line that begins so, without its mark.
    fn line(&self, begin: &str) -> &str {
        self.lines
            .iter()
            .find(|line| line.get(6..).is_some_and(|text| text.starts_with(begin)))
            .unwrap_or_else(|| panic!("{begin}: {:?}", self.lines))
    }
}

fn check(dir: &Path, rest: &str, arguments: &[&str]) -> Said {
    let file = dir.join("check.toml");
    let data = dir.join("data");
    std::fs::write(&file, format!("data_dir = \"{}\"\n{NO_MARKS}\n{rest}", data.display())).expect("a configuration");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_runner-coordinator"));
    let output = command.arg("--config").arg(&file).arg("check").args(arguments).output().expect("it runs");
    let lines = String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect();
    Said { good: output.status.success(), lines }
}

fn settings(docker: &str, port: u16) -> String {
    format!("[http]\nlisten = \"127.0.0.1:{port}\"\n[docker]\nhost = {docker:?}\n")
}

/// Owners of everything that an engine has of canaries; those of daemons, which come and go beside these tests, are left out.
fn canaries() -> Vec<String> {
    let owner = "{{.Label \"runner-coordinator.instance\"}}";
    let all = engine::docker(&["ps", "--all", "--format", owner]) + &engine::docker(&["network", "ls", "--format", owner]);
    all.lines().filter(|owner| owner.starts_with("check-")).map(str::to_owned).collect()
}

/// Waits until nothing of canaries is there: others may fly one at the same time, but what is left stays.
fn no_canary_is_left() {
    let deadline = Instant::now() + PATIENCE;
    let mut there = canaries();
    while !there.is_empty() {
        assert!(Instant::now() < deadline, "left: {there:?}");
        there = canaries();
    }
}

#[test]
fn a_canary_flies_in_the_classs_image_and_leaves_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let class = "[[classes]]\nname = \"far\"\nimage = \"rc-test/not-here:1\"\n[[classes]]\nname = \"near\"\nimage = \"rc-test/busybox:1\"\nmemory = \"64MiB\"";
    let said = check(dir.path(), &format!("{}{class}", settings(&engine::host(), free_port())), &[]);
    assert!(said.good, "{:?}", said.lines);
    let canary = said.line("canary:");
    assert!(canary.starts_with("ok ") && canary.contains("rc-test/busybox:1 (class near)") && canary.ends_with("is gone"), "{canary}");
    assert!(!said.lines.iter().any(|line| line.starts_with("FAIL")), "{:?}", said.lines);
    for begin in ["cgroups:", "network:", "clock: as the engine's", "http.listen:", "rights:", "disk of the engine:"] {
        assert!(said.line(begin).starts_with("ok "), "{}", said.line(begin));
    }
    no_canary_is_left();
}

#[test]
fn a_canary_says_what_was_not_tried_and_what_failed() {
    let dir = tempfile::tempdir().expect("a directory");
    let base = settings(&engine::host(), free_port());
    let without = check(dir.path(), &base, &[]);
    assert!(without.good && without.line("canary:").contains("no image of a class"), "{:?}", without.lines);
    let off = check(dir.path(), &base, &["--canary", "off", "--canary-image", BUSYBOX]);
    assert!(off.good && off.line("canary:").contains("left out"), "{:?}", off.lines);
    let named = check(dir.path(), &base, &["--canary-image", BUSYBOX]);
    assert!(named.good && named.line("canary:").contains("is gone"), "{:?}", named.lines);
    let runtime = format!("{base}[[classes]]\nname = \"odd\"\nimage = {BUSYBOX:?}\nruntime = \"no-such-runtime\"");
    let failed = check(dir.path(), &runtime, &[]);
    assert!(!failed.good && failed.line("canary:").starts_with("FAIL"), "{:?}", failed.lines);
    no_canary_is_left();
}

#[tokio::test]
async fn an_address_is_free_a_daemons_or_somebody_elses() {
    let dir = tempfile::tempdir().expect("a directory");
    let daemon = Setup::new("check-holder").start().await;
    let port = daemon.url.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
    let held = check(dir.path(), &settings(&engine::host(), port), &["--canary", "off"]);
    assert!(held.good && held.line("http.listen:").contains("a daemon answers"), "{:?}", held.lines);
    daemon.finish().await;
    // It takes connections and never says a word.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = silent.local_addr().expect("an address").port();
    let taken = check(dir.path(), &settings(&engine::host(), port), &["--canary", "off"]);
    assert!(!taken.good && taken.line("http.listen:").contains("another program"), "{:?}", taken.lines);
}

#[test]
fn an_engine_that_is_away_is_told_and_the_rest_is_examined() {
    let dir = tempfile::tempdir().expect("a directory");
    let socket = format!("unix://{}/no.sock", dir.path().display());
    let said = check(dir.path(), &settings(&socket, free_port()), &[]);
    assert!(!said.good && said.line("rights:").contains("systemctl start docker"), "{:?}", said.lines);
    assert!(said.line("engine:").starts_with("FAIL") && said.line("http.listen:").starts_with("ok "), "{:?}", said.lines);
    assert!(said.line("canary:").contains("no engine"), "{:?}", said.lines);
}
