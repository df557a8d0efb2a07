//! Says of each job whether what the daemon tells is what happened, and whether anything is left.

use std::collections::{HashMap, HashSet};
use std::fs;

use bollard::query_parameters::{ListNetworksOptions, ListVolumesOptions};
use serde_json::Value;

use crate::daemon::INFRASTRUCTURE_RETRIES;
use crate::forge::Harm;
use crate::ledger::{Entry, Ledger, Row};
use crate::marks::{Life, overlap};
use crate::tally::Wrong;
use crate::work::{Accepted, Kind, Own, Wish};
use crate::world::{Part, World};
use crate::{quiet, say};

/// Everything that is known of one job.
#[derive(Debug)]
struct Story {
    job: Accepted,
    row: Option<Row>,
    events: Vec<Entry>,
    lives: Vec<Life>,
    /// Whether the job itself was killed on purpose in its last attempt.
    struck: bool,
}

type Finding = Option<(Wrong, String)>;

/// Cancels that were answered with "accepted", and how many of their jobs ended by them: others may have ended by themselves before.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Cancels {
    heard: u64,
    heeded: u64,
}

impl Cancels {
    fn count(&mut self, job: &Accepted, row: Option<&Row>) {
        if job.wish == Wish::Heard {
            self.heard += 1;
            self.heeded += u64::from(row.is_some_and(|row| row.state == "canceled"));
        }
    }

    /// Whether so few were heeded that they seem to be ignored.
    pub(crate) fn seem_ignored(self) -> bool {
        self.heeded * 5 < self.heard
    }
}

/// Judges all jobs that were accepted since the last time, and what is left; what became of cancels.
pub(crate) async fn judge(world: &mut World) -> Cancels {
    let mut cancels = Cancels::default();
    let ledgers: Vec<Ledger> = world.daemons.iter().map(|daemon| Ledger::open(&daemon.data())).collect();
    let mut holders: HashMap<String, Vec<Life>> = HashMap::new();
    for job in world.desk.accepted() {
        world.tally.accepted += 1;
        world.tally.accepted_by_api += 1;
        let ledger = &ledgers[job.daemon];
        let events = ledger.events(&job.id);
        let last = containers(&events).into_iter().max_by_key(|(_, attempt)| *attempt).map(|(container, _)| container);
        let struck = last.is_some_and(|container| world.struck_jobs.contains(&container));
        let story = Story { row: ledger.job(&job.id), events, lives: world.witness.lives(&job.id), struck, job };
        cancels.count(&story.job, story.row.as_ref());
        let mut findings = story.findings();
        findings.extend(story.log(world).await);
        world.tally.attempts += u64::from(story.row.as_ref().map_or(0, |row| row.attempt));
        if findings.iter().all(|(wrong, _)| !matches!(wrong, Wrong::Lost | Wrong::Doubled)) {
            world.tally.finished_once += 1;
        }
        for life in story.lives.iter().filter(|life| !life.gpu.ends_with(':')) {
            holders.entry(life.gpu.clone()).or_default().push(life.clone());
        }
        world.witness.is_over(&story.job.id);
        for (wrong, words) in findings {
            let log = world.daemons[story.job.daemon].log();
            world.complain(wrong, format!("job {}: {words}\n{story:#?}\nthe daemon's log: {}", story.job.id, log.display()));
        }
    }
    judge_gitlab(world);
    for (gpu, lives) in &holders {
        if let Some((one, other)) = overlap(lives) {
            world.complain(Wrong::Lease, format!("two jobs had the GPU {gpu} at once: {one:?} {other:?}"));
        }
    }
    for late in world.witness.late() {
        world.complain(Wrong::Doubled, format!("after the job's end something of it lived: {late}"));
    }
    for (wrong, words) in world.desk.wrong() {
        world.complain(wrong, words);
    }
    for (at, ledger) in ledgers.iter().enumerate() {
        left(world, at, ledger).await;
    }
    for words in world.foreign.touched(&world.engine).await {
        world.complain(Wrong::Foreign, words);
    }
    strangers(world, &ledgers).await;
    cancels
}

fn judge_gitlab(world: &mut World) {
    let found = world.forge.judge(&world.witness, if world.broken.is_empty() { Harm::None } else { Harm::Done });
    world.tally.accepted += found.queued;
    world.tally.finished_once += found.finished_once;
    world.tally.spoilt += found.spoilt;
    for (wrong, words) in found.wrong {
        world.complain(wrong, words);
    }
}

/// The attempt that each container was made for, by the first twelve digits of its id.
fn containers(events: &[Entry]) -> HashMap<String, u32> {
    let made = events.iter().filter(|event| event.kind == "container_created");
    made.filter_map(|event| Some((event.body["container"].as_str()?.get(..12)?.to_owned(), event.attempt?))).collect()
}

impl Story {
    fn findings(&self) -> Vec<(Wrong, String)> {
        let Some(row) = &self.row else { return vec![(Wrong::Lost, "it is not in the store".to_owned())] };
        if !["succeeded", "failed", "canceled"].contains(&row.state.as_str()) {
            return vec![(Wrong::Lost, format!("it has not ended: {}", row.state))];
        }
        [self.ends(), self.attempts(row), self.runs(), self.outcome(row)].into_iter().flatten().collect()
    }

    fn ends(&self) -> Finding {
        let ends = self.events.iter().filter(|event| event.kind == "ended").count();
        (ends != 1).then(|| (Wrong::Doubled, format!("it ended {ends} times")))
    }

    fn attempts(&self, row: &Row) -> Finding {
        let ended = self.events.iter().filter(|event| event.kind == "attempt_ended").filter_map(|event| event.attempt);
        let (mut seen, mut twice) = (HashSet::new(), Vec::new());
        ended.for_each(|attempt| {
            if !seen.insert(attempt) {
                twice.push(attempt);
            }
        });
        if let Some(attempt) = twice.first() {
            return Some((Wrong::Doubled, format!("attempt {attempt} ended twice")));
        }
        let counts = |event: &&Entry| event.body["outcome"]["failed"]["disposition"] != "infrastructure";
        let final_one = self.events.iter().filter(|event| event.kind == "attempt_ended").find(counts).and_then(|event| event.attempt);
        if let Some(attempt) = final_one.filter(|attempt| *attempt != row.attempt) {
            return Some((Wrong::Doubled, format!("it was tried again after attempt {attempt}, whose end was the job's own")));
        }
        let most = 1 + INFRASTRUCTURE_RETRIES;
        (row.attempt > most).then(|| (Wrong::Doubled, format!("it was tried {} times, and may be {most} times", row.attempt)))
    }

    /// What the witness heard against what is written down.
    fn runs(&self) -> Finding {
        let made = containers(&self.events);
        let mut ran = HashMap::new();
        for life in &self.lives {
            let Some(attempt) = made.get(&life.container) else {
                return Some((Wrong::Doubled, format!("it ran in {}, which no attempt was written down for", life.container)));
            };
            if let Some(other) = ran.insert(attempt, life) {
                return Some((Wrong::Doubled, format!("attempt {attempt} ran twice, in {} and {}", other.container, life.container)));
            }
        }
        let both = overlap(&self.lives);
        both.map(|(one, other)| (Wrong::Doubled, format!("it ran in {} while it ran in {}", one.container, other.container)))
    }

    /// The end that is told against the end that was.
    fn outcome(&self, row: &Row) -> Finding {
        let failure = &row.outcome["failed"];
        let (reason, code) = (failure["reason"].as_str().unwrap_or_default(), failure["exit_code"].as_i64());
        let own = self.job.kind.own();
        let whole = self.last_life().is_some_and(|life| life.ended.is_some());
        let right = match (row.state.as_str(), reason) {
            ("succeeded", _) => whole && own == Own::Success,
            ("canceled", _) | ("failed", "runner_terminated") => self.job.wish != Wish::No,
            ("failed", "exit_code") => whole && code.is_some_and(|code| own == Own::Code(code)) || self.struck && code == Some(137),
            ("failed", "no_receipt" | "container_lost" | "start_failed") => row.attempt == 1 + INFRASTRUCTURE_RETRIES || self.job.wish != Wish::No,
            _ => false,
        };
        (!right).then(|| (Wrong::Outcome, format!("it is told to have ended so: {} {}", row.state, row.outcome)))
    }

    /// The run of the last attempt that has a container.
    fn last_life(&self) -> Option<&Life> {
        let made = containers(&self.events);
        let last = made.values().max()?;
        self.lives.iter().find(|life| made.get(&life.container) == Some(last))
    }

    /// A log has every line once and in order, or says that some may be missing, which it may only where the engine broke off.
    async fn log(&self, world: &World) -> Finding {
        let Kind::Prints(lines) = self.job.kind else { return None };
        if self.row.as_ref()?.state != "succeeded" {
            return None;
        }
        let Some(text) = world.desk.log(self.job.daemon, &self.job.id).await else { return Some((Wrong::Log, "it cannot be read".to_owned())) };
        let numbers: Vec<u64> = text.lines().filter_map(|line| line.strip_prefix("line ")?.parse().ok()).collect();
        let notes = text.lines().filter(|line| line.starts_with("runner-coordinator: ")).count();
        let whole = numbers.iter().copied().eq(1..=lines);
        let ordered = numbers.windows(2).all(|pair| pair[0] < pair[1]);
        let (found, others) = (numbers.len(), text.lines().count() - numbers.len() - notes);
        match (whole, notes > 0 && world.broken.contains(&Part::Engine)) {
            (true, _) if others == 0 && (notes == 0 || world.broken.contains(&Part::Engine)) => None,
            (false, true) if ordered => None,
            _ => Some((Wrong::Log, format!("of {lines} lines there are {found}, in order: {ordered}, {others} others, {notes} notes"))),
        }
    }
}

/// What one daemon left.
async fn left(world: &mut World, at: usize, ledger: &Ledger) {
    let open = ledger.open_runners();
    for runner in &open {
        world.complain(Wrong::Row, format!("daemon {at} has an open runner: {runner:?}"));
        if runner.has_devices {
            world.complain(Wrong::Lease, format!("a runner of daemon {at} still has devices: {runner:?}"));
        }
    }
    for gpu in quiet::held(world, at).await {
        world.complain(Wrong::Lease, format!("a GPU of daemon {at} is not free: {gpu}"));
    }
    for words in ledger.left() {
        world.complain(Wrong::Row, format!("daemon {at}: {words}"));
    }
    let receipts = fs::read_dir(world.daemons[at].data().join("receipts")).map_or(0, Iterator::count);
    if receipts > 0 {
        world.complain(Wrong::Row, format!("daemon {at} has {receipts} receipts left"));
    }
    let instance = ledger.instance();
    for container in quiet::containers(&world.engine, &instance).await.unwrap_or_default() {
        world.complain(Wrong::Container, format!("daemon {at} left a container: {:?} {:?}", container.names, container.status));
    }
}

/// Networks and volumes of the engine that are nobody's: each daemon has one network for the broker, one for each class, and no volume.
async fn strangers(world: &mut World, ledgers: &[Ledger]) {
    let networks = world.engine.docker().list_networks(None::<ListNetworksOptions>).await.expect("networks");
    let mut of: HashMap<Value, usize> = HashMap::new();
    for network in networks {
        let id = network.id.unwrap_or_default();
        let own = network.labels.and_then(|labels| labels.get("runner-coordinator.instance").cloned());
        let name = network.name.unwrap_or_default();
        match own {
            Some(instance) if ledgers.iter().any(|ledger| ledger.instance() == instance) => *of.entry(instance.into()).or_default() += 1,
            Some(_) | None if world.foreign.has_network(&id) || ["none", "host", "bridge"].contains(&name.as_str()) => {}
            Some(_) | None => world.complain(Wrong::Network, format!("nobody's network {name}")),
        }
    }
    for (instance, count) in of.into_iter().filter(|(_, count)| *count > 3) {
        world.complain(Wrong::Network, format!("{instance} has {count} networks"));
    }
    let volumes = world.engine.docker().list_volumes(None::<ListVolumesOptions>).await.expect("volumes").volumes.unwrap_or_default();
    for volume in volumes {
        if !world.foreign.has_volume(&volume.name) {
            world.complain(Wrong::Container, format!("nobody's volume {}", volume.name));
        }
    }
    let jobs: u64 = ledgers.iter().map(Ledger::jobs).sum();
    if jobs != world.tally.accepted_by_api {
        say(&format!("  {jobs} jobs are stored, {} were accepted", world.tally.accepted_by_api));
        if jobs > world.tally.accepted_by_api {
            world.complain(Wrong::Doubled, "more jobs are stored than were accepted");
        }
    }
}
