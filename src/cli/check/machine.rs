//! The part of `check` that looks at what surrounds the engine: rights, limits, network rules, clocks and the addresses that we listen on.

use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rustix::fs::{Access, access};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;

use crate::config::{BrokerListen, Config};
use crate::docker::EngineInfo;
use crate::domain::{Clock as _, SystemClock};
use crate::gitlab::HttpGitLab;
use crate::gitlab::diagnosis::Finding;

/// How long any single look may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Clocks that differ by less are equal: answers take time, and GitLab tells whole seconds.
const EQUAL: Duration = Duration::from_secs(3);
/// Clocks that differ by more break things: signed webhooks are refused after five minutes, and tokens seem to have run out.
const BROKEN: Duration = Duration::from_secs(60);
/// Most of an answer that is read.
const MAX_ANSWER: u64 = 64 * 1024;

/// Whether this user may speak to the engine and keep the data directory to itself. Nothing to say where both is so.
pub(super) fn rights(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(socket) = config.docker.host.strip_prefix("unix://") {
        let path = Path::new(socket);
        let is_there = path.exists();
        let is_open = access(path, Access::READ_OK | Access::WRITE_OK).is_ok();
        findings.push(socket_finding(socket, is_there.then_some(is_open)));
    }
    if let Ok(about) = std::fs::metadata(&config.data_dir) {
        let own = rustix::process::geteuid().as_raw();
        findings.extend(data_dir_finding(&config.data_dir, about.mode() & 0o777, about.uid(), own));
    }
    findings
}

/// `None` for a socket that is not there, else whether we may use it.
fn socket_finding(socket: &str, open: Option<bool>) -> Finding {
    match open {
        Some(true) => Finding::Good(format!("rights: this user may speak to the engine at {socket}")),
        Some(false) => Finding::Bad(format!(
            "rights: this user may not write to {socket}: `usermod -aG docker USER` and log in anew (who is in that group is root on this machine)"
        )),
        None => Finding::Bad(format!("rights: there is no socket {socket}: install Docker, `systemctl start docker`, or set docker.host")),
    }
}

fn data_dir_finding(path: &Path, mode: u32, owner: u32, own: u32) -> Option<Finding> {
    let path = path.display();
    if mode & 0o022 != 0 {
        return Some(Finding::Bad(format!("rights: others may write in {path} (mode {mode:04o}): `chmod 0700 {path}`")));
    }
    let foreign = owner != own && own != 0;
    foreign.then(|| Finding::Odd(format!("rights: {path} belongs to user {owner} and this is user {own}: run check as the daemon's user")))
}

/// Whether the engine can hold containers to their limits, and what it warns of by itself.
pub(super) fn limits(engine: &EngineInfo) -> Vec<Finding> {
    let mut findings = vec![if engine.unsupported.is_empty() {
        Finding::Good("cgroups: memory, swap, processes and processor time are limited".to_owned())
    } else {
        Finding::Bad(format!(
            "cgroups: the engine cannot limit {}: a job could take the whole machine. Boot with cgroup v2, or with `cgroup_enable=memory swapaccount=1` \
             on the kernel's command line",
            engine.unsupported.join(", ")
        ))
    }];
    findings.push(match engine.forwards {
        Some(false) => {
            Finding::Bad("network: the machine does not forward packets, so jobs reach nothing: `sysctl -w net.ipv4.ip_forward=1`".to_owned())
        }
        Some(true) | None => Finding::Good("network: packets of containers are forwarded".to_owned()),
    });
    let plain = |warning: &String| warning.trim_start_matches("WARNING: ").trim().to_owned();
    findings
        .extend(engine.warnings.iter().map(plain).filter(|warning| !warning.is_empty()).map(|warning| Finding::Odd(format!("engine: {warning}"))));
    findings
}

/// Our clock against the engine's and GitLab's, and whether somebody keeps it right.
pub(super) async fn clocks(config: &Config, engine: Option<&EngineInfo>) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(theirs) = engine.and_then(|engine| engine.time) {
        findings.push(clock_finding("the engine", theirs, SystemClock.now()));
    }
    if let Some(settings) = &config.gitlab
        && let Ok(client) = HttpGitLab::new(&settings.url, "r_check")
    {
        // An answer that does not come is told of by those who need one.
        if let Ok(Some(theirs)) = tokio::time::timeout(PATIENCE, client.time()).await {
            findings.push(clock_finding("GitLab", theirs, SystemClock.now()));
        }
    }
    findings.extend(kept_right(tokio::time::timeout(PATIENCE, timedatectl()).await.ok().flatten().as_deref()));
    findings
}

fn clock_finding(who: &str, theirs: Timestamp, ours: Timestamp) -> Finding {
    let off = ours.duration_since(theirs);
    let seconds = off.abs().as_secs();
    let size = off.abs();
    let within = |limit: Duration| size <= SignedDuration::try_from(limit).unwrap_or(SignedDuration::MAX);
    let direction = if off.is_negative() { "behind" } else { "ahead of" };
    let advice = "signatures of webhooks and tokens depend on it: `timedatectl set-ntp true` on both";
    if within(EQUAL) {
        Finding::Good(format!("clock: as {who}'s"))
    } else if within(BROKEN) {
        Finding::Odd(format!("clock: {seconds} s {direction} {who}'s; {advice}"))
    } else {
        Finding::Bad(format!("clock: {seconds} s {direction} {who}'s; {advice}"))
    }
}

async fn timedatectl() -> Option<String> {
    let output = Command::new("timedatectl").args(["show", "--property=NTPSynchronized", "--value"]).kill_on_drop(true).output().await.ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// `None` where nobody can tell, as in a container.
fn kept_right(synchronised: Option<&str>) -> Option<Finding> {
    match synchronised? {
        "yes" => Some(Finding::Good("clock: kept right over the network".to_owned())),
        "no" => Some(Finding::Odd("clock: nobody keeps it right: `timedatectl set-ntp true`, or install chrony".to_owned())),
        _ => None,
    }
}

/// Who has an address that we want.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Holder {
    /// Nobody.
    Free,
    /// A daemon like ours.
    Daemon,
    /// Somebody else.
    Other,
    /// It cannot be had at all.
    Unusable(String),
}

/// The addresses that the daemon listens on.
pub(super) async fn listeners(config: &Config) -> Vec<Finding> {
    let api = holder(config.http.listen).await;
    let daemon_runs = api == Holder::Daemon;
    let mut findings = vec![listener_finding("http.listen", config.http.listen, &api)];
    if let BrokerListen::Address(address) = config.broker.listen {
        let found = match holder(address).await {
            // A broker tells nobody who it is; where our daemon runs, it is ours.
            Holder::Other if daemon_runs => Holder::Daemon,
            found => found,
        };
        findings.push(listener_finding("broker.listen", address, &found));
    }
    findings
}

async fn holder(address: SocketAddr) -> Holder {
    match TcpListener::bind(address).await {
        Ok(_free) => Holder::Free,
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            let answered = tokio::time::timeout(PATIENCE, health(address)).await;
            if answered.is_ok_and(|answer| answer.is_ok_and(|text| is_our_health(&text))) { Holder::Daemon } else { Holder::Other }
        }
        Err(error) => Holder::Unusable(error.to_string()),
    }
}

async fn health(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"GET /health HTTP/1.0\r\nhost: localhost\r\n\r\n").await?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Healthy or not, it names its checks.
fn is_our_health(answer: &str) -> bool {
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body).unwrap_or_default();
    serde_json::from_str::<serde_json::Value>(body).is_ok_and(|body| body["checks"].is_object())
}

fn listener_finding(key: &str, address: SocketAddr, holder: &Holder) -> Finding {
    match holder {
        Holder::Free => Finding::Good(format!("{key}: {address} is free")),
        Holder::Daemon => Finding::Good(format!("{key}: a daemon answers at {address}")),
        Holder::Other => Finding::Bad(format!("{key}: another program has {address}: `ss -ltnp` names it; stop it or choose another port")),
        Holder::Unusable(error) => Finding::Bad(format!("{key}: {address} cannot be listened on: {error}; is it an address of this machine?")),
    }
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
