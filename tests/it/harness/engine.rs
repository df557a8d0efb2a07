//! The tests' own engine, looked at with the `docker` command: a second opinion that shares no code with the daemon.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// How long the engine may take to forget a container's end of a network.
const PATIENCE: Duration = Duration::from_secs(20);

/// A script that goes on only when its job is told to ([`tell`]).
pub(crate) const UNTIL_TOLD: &str = "while [ ! -e /tmp/go ]; do sleep 0.05; done";
/// What tells it, inside of its container.
pub(crate) const TELL: [&str; 2] = ["touch", "/tmp/go"];

/// Where it is. `make test` starts it and says so in the environment.
pub(crate) fn host() -> String {
    let host = std::env::vars().find(|(name, _)| name == "DOCKER_HOST").map(|(_, value)| value);
    let marked = std::env::vars().any(|(name, _)| name == "RC_TEST_ENGINE");
    match host {
        Some(host) if marked => host,
        _ => panic!("these tests need their own engine: run them with `make test`"),
    }
}

/// The stand-in runner as a file of this machine, which is the engine's too.
pub(crate) fn runner_binary() -> String {
    let known = std::env::vars().find(|(name, _)| name == "RC_RUNNER_BIN").map(|(_, value)| value);
    known.unwrap_or_else(|| panic!("these tests need the stand-in runner: run them with `make test`"))
}

/// The `docker` command's output; `None` when it fails.
pub(crate) fn try_docker(arguments: &[&str]) -> Option<String> {
    let output = Command::new("docker").args(arguments).env("DOCKER_HOST", host()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The `docker` command's output; fails with its words when it fails.
pub(crate) fn docker(arguments: &[&str]) -> String {
    let output = Command::new("docker").args(arguments).env("DOCKER_HOST", host()).output().expect("the docker command");
    assert!(output.status.success(), "docker {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Names of all containers, in any state, of the daemon whose machine is called `name`.
pub(crate) fn containers(name: &str) -> Vec<String> {
    let filter = format!("label=runner-coordinator.host={name}");
    docker(&["ps", "--all", "--no-trunc", "--filter", &filter, "--format", "{{.Names}}"]).lines().map(str::to_owned).collect()
}

/// Tells a running job of a script [`UNTIL_TOLD`] to go on.
pub(crate) fn tell(job: &str) {
    let container = docker(&["ps", "--quiet", "--filter", &format!("label=runner-coordinator.job={job}")]);
    docker(&[&["exec", container.trim()], &TELL[..]].concat());
}

/// Takes a daemon's network away: it outlives the daemon on purpose.
pub(crate) fn remove_networks(_name: &str, data: &Path) {
    if let Some(instance) = instance(data) {
        remove_networks_of(&instance);
    }
}

/// The same by the daemon's id.
pub(crate) fn remove_networks_of(instance: &str) {
    let filter = format!("label=runner-coordinator.instance={instance}");
    for network in docker(&["network", "ls", "--quiet", "--filter", &filter]).lines() {
        remove_network(network);
    }
}

/// Takes everything of a daemon away.
pub(crate) fn remove_everything(name: &str, data: &Path) {
    for container in containers(name) {
        docker(&["rm", "--force", "--volumes", &container]);
    }
    remove_networks(name, data);
}

/// Takes away what can be of a daemon's, after a test that failed: one more panic while that unwinds would end all tests.
pub(crate) fn try_to_remove_everything(name: &str, data: &Path) {
    let containers = ["ps", "--all", "--quiet", "--filter", &format!("label=runner-coordinator.host={name}")];
    for container in try_docker(&containers).unwrap_or_default().lines() {
        try_docker(&["rm", "--force", "--volumes", container]);
    }
    let Some(instance) = instance(data) else { return };
    let networks = ["network", "ls", "--quiet", "--filter", &format!("label=runner-coordinator.instance={instance}")];
    for network in try_docker(&networks).unwrap_or_default().lines() {
        try_docker(&["network", "rm", network]);
    }
}

/// Removes a network of which no container is left. An engine may then still count one on it, for ever: its count of a network's containers is
/// not safe against starts and ends at the same moment (moby issue 42119) and is put right when the engine starts. What must be gone is
/// asked of the containers, in any state, and not of that count.
fn remove_network(id: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let output = Command::new("docker").args(["network", "rm", id]).env("DOCKER_HOST", host()).output().expect("the docker command");
        if output.status.success() {
            return;
        }
        let answer = String::from_utf8_lossy(&output.stderr);
        let left = docker(&["ps", "--all", "--quiet", "--filter", &format!("network={id}")]);
        let listed = docker(&["network", "inspect", id, "--format", "{{len .Containers}}"]);
        let miscounted = answer.contains("has active endpoints") && left.trim().is_empty() && listed.trim() == "0";
        if Instant::now() >= deadline {
            assert!(miscounted, "docker network rm: {answer}{}", docker(&["network", "inspect", id]));
            return;
        }
    }
}

/// The id of the daemon whose data lies here.
pub(crate) fn instance(data: &Path) -> Option<String> {
    let database = std::fs::read_dir(data).ok()?.flatten().map(|entry| entry.path()).find(|path| path.extension().is_some_and(|end| end == "db"))?;
    let connection = rusqlite::Connection::open(database).ok()?;
    connection.query_row("SELECT value FROM meta WHERE key = 'instance'", [], |row| row.get(0)).ok()
}
