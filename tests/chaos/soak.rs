//! Many jobs for a long time, and nothing that grows with them: samples of what the daemon holds, and the second third against the last: in the
//! first everything fills up.

use std::fs;
use std::path::Path;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::clients::Desk;
use crate::daemon::Daemon;
use crate::engine::Engine;
use crate::ledger::Ledger;
use crate::marks::{REACHED, Witness};
use crate::place::Place;
use crate::rng::Rng;
use crate::work::Kind;
use crate::{quiet, say, setting, setting_text};

const PORT: u16 = 18_160;
/// Jobs that are under way at once.
const AT_ONCE: usize = 12;
/// How much more of anything there may be in the last third: a part of the second, and a number for small ones.
const GROWTH: (f64, f64) = (0.25, 16.0);

/// What the daemon holds at one moment.
#[derive(Debug, Clone)]
struct Sample {
    /// KiB.
    memory: u64,
    descriptors: u64,
    threads: u64,
    /// Rows by table.
    rows: Vec<(String, u64)>,
    /// KiB of the database and of its log.
    database: [u64; 2],
    /// KiB of the logs of jobs.
    logs: u64,
    ended: u64,
}

/// Soaks for `RC_CHAOS_MINUTES` minutes; `RC_CHAOS_CONFIG` is more of the daemon's configuration, such as how long things are kept.
pub(crate) async fn soak() {
    let minutes = setting("RC_CHAOS_MINUTES");
    let lasting = minutes.map_or(Duration::from_secs(6), |minutes| Duration::from_secs(60 * minutes));
    let pause = minutes.map_or(Duration::from_secs(1), |_| Duration::from_secs(30));
    let place = Place::take();
    let tasks = tokio_util::task::TaskTracker::new();
    let (engine, _witness) = (Engine::start(place.path()).await, Witness::listen(&tasks).await);
    let more = setting_text("RC_CHAOS_CONFIG").unwrap_or_default();
    let mut daemon = Daemon::new(place.path(), "soak", PORT, &format!("unix://{}", engine.socket().display()), &format!("{REACHED}{more}"));
    daemon.start().await;
    let desk = Desk::new(vec![daemon.url.clone()]);
    let until = Instant::now() + lasting;
    let mut clients = JoinSet::new();
    for client in 0..AT_ONCE {
        clients.spawn(submit(desk.clone(), u64::try_from(client).unwrap_or(0), until));
    }
    let mut samples = Vec::new();
    while Instant::now() < until {
        tokio::time::sleep(pause).await;
        let sample = Sample::take(&daemon);
        say(&format!("soak: {} jobs have ended: {sample:?}", sample.ended));
        samples.push(sample);
    }
    while let Some(ended) = clients.join_next().await {
        ended.expect("a client does not die");
    }
    quiet::one_has_ended(&daemon, &engine, Instant::now()).await;
    let ledger = Ledger::open(&daemon.data());
    let accepted = desk.accepted().len();
    say(&format!("soak: {accepted} jobs accepted, {} not ended, open runners {:?}", ledger.unended(), ledger.open_runners()));
    assert_eq!((ledger.unended(), ledger.open_runners()), (0, Vec::new()));
    assert_eq!((desk.wrong(), accepted > 0), (Vec::new(), true), "{accepted} jobs were accepted");
    let grown = compare(&samples);
    daemon.terminate().await.expect("an end in order");
    assert!(minutes.is_none() || grown.is_empty(), "these grow: {grown:?}");
}

/// One job after the other.
async fn submit(desk: Desk, client: u64, until: Instant) {
    let mut rng = Rng::new(client);
    for number in 0.. {
        if Instant::now() >= until {
            return;
        }
        let kind = Kind::plain(&mut rng);
        let Some(id) = desk.submit(0, kind, &format!("soak-{client}-{number}"), &mut rng).await else { return };
        desk.wait(0, &id).await;
    }
}

impl Sample {
    fn take(daemon: &Daemon) -> Self {
        let pid = daemon.pid().expect("it runs");
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
        };
        let ledger = Ledger::open(&daemon.data());
        let size = |name: &str| fs::metadata(daemon.data().join(name)).map_or(0, |found| found.len() / 1024);
        Self {
            memory: field("VmRSS:"),
            descriptors: fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, |entries| entries.count() as u64),
            threads: field("Threads:"),
            rows: ledger.rows(),
            database: [size("coordinator.db"), size("coordinator.db-wal")],
            logs: size_below(&daemon.data().join("logs")) / 1024,
            ended: ledger.jobs() - ledger.unended(),
        }
    }

    fn figures(&self) -> Vec<(String, u64)> {
        let Self { memory, descriptors, threads, rows, database: [database, wal], logs, .. } = self;
        let own = [("memory", memory), ("descriptors", descriptors), ("threads", threads), ("database", database), ("wal", wal), ("logs", logs)];
        own.iter()
            .map(|(name, value)| ((*name).to_owned(), **value))
            .chain(rows.iter().map(|(table, rows)| (format!("rows of {table}"), *rows)))
            .collect()
    }
}

fn size_below(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.metadata().map_or(0, |found| if found.is_dir() { size_below(&entry.path()) } else { found.len() })).sum()
}

/// The names of what is more in the last third than in the one before.
fn compare(samples: &[Sample]) -> Vec<String> {
    let third = (samples.len() / 3).max(1);
    let mean = |part: &[Sample], at: usize| {
        let sum: u64 = part.iter().map(|sample| sample.figures()[at].1).sum();
        f64::from(u32::try_from(sum).unwrap_or(u32::MAX)) / f64::from(u32::try_from(part.len()).unwrap_or(1))
    };
    let (Some(second), Some(last)) = (samples.get(third..2 * third), samples.get(samples.len() - third..)) else { return Vec::new() };
    let mut grown = Vec::new();
    for (at, (name, _)) in samples[0].figures().iter().enumerate() {
        let (before, after) = (mean(second, at), mean(last, at));
        say(&format!("soak: {name}: {before:.0} in the second third, {after:.0} in the last"));
        if after > before * (1.0 + GROWTH.0) + GROWTH.1 {
            grown.push(name.clone());
        }
    }
    grown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_grows_is_named() {
        let sample = |memory, rows| Sample {
            memory,
            descriptors: 20,
            threads: 5,
            rows: vec![("jobs".to_owned(), rows)],
            database: [100, 50],
            logs: 10,
            ended: rows,
        };
        let samples: Vec<Sample> = (0..9).map(|at| sample(1000 + at, 100 * at)).collect();
        assert_eq!(compare(&samples), ["rows of jobs"]);
    }
}
