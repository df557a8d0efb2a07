//! The simulated engine: its containers, what their processes really do, and what it says of them, which is not always the same.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;

use fastrand::Rng;
use runner_coordinator::docker::{ContainerFacts, ContainerPlan, ContainerState, DriverError, Owner};
use runner_coordinator::domain::{ClassName, CpuMillis, GpuId, HowEnded};
use runner_coordinator::security::HardenedProfile;

use crate::dials::Dials;
use crate::process::{Run, Script, Ticket};
use crate::runner::Phase;
use crate::story::Story;

/// Processors of the machine, in thousandths.
pub(crate) const CPUS: CpuMillis = CpuMillis(4000);

/// What only one attempt may have.
pub(crate) type Of = (String, u32);

/// A container.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) owner: Owner,
    pub(crate) devices: Vec<GpuId>,
    pub(crate) cpus: CpuMillis,
    script: Script,
    ticket: Option<Ticket>,
    /// What the engine believes.
    state: ContainerState,
    exit_code: Option<i64>,
    started: Option<u64>,
    finished: Option<u64>,
    /// Before this moment a list does not show it, or not its end.
    shown_from: u64,
    /// Which run of its attempt is its process.
    pub(crate) run: Option<usize>,
    /// The token of a GitLab runner and how far it has come, and which job of GitLab it executes.
    pub(crate) runner: Option<(String, Phase)>,
    pub(crate) executes: Option<u64>,
}

/// The engine, and the truth about what runs on it.
#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) rng: Rng,
    pub(crate) dials: Dials,
    pub(crate) story: Story,
    pub(crate) containers: BTreeMap<String, Container>,
    /// Every process that a job ever had, by attempt.
    pub(crate) runs: BTreeMap<Of, Vec<Run>>,
    /// Nothing answers before this moment.
    pub(crate) down_until: u64,
    /// What it tells to those who listen: container, action, runner.
    pub(crate) events: VecDeque<(u64, String, &'static str, String)>,
    pub(crate) told: u64,
    /// How often it died.
    pub(crate) deaths: u32,
    /// Jobs of GitLab whose runners ended, and when.
    pub(crate) over: Vec<(u64, u64)>,
    /// Whose bridges there are.
    pub(crate) networks: BTreeSet<Option<ClassName>>,
    /// The rules of the machine's firewall.
    pub(crate) rules: String,
    receipts: PathBuf,
    made: u64,
}

/// How a start or a stop of the engine treats what runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Death {
    /// They go on.
    LiveRestore,
    /// They are told to end, and killed soon after.
    Told,
    /// They are killed.
    Killed,
}

impl Engine {
    pub(crate) fn new(rng: Rng, dials: Dials, receipts: PathBuf) -> Self {
        Self {
            rng,
            dials,
            story: Story::default(),
            containers: BTreeMap::new(),
            runs: BTreeMap::new(),
            down_until: 0,
            events: VecDeque::new(),
            told: 0,
            deaths: 0,
            over: Vec::new(),
            networks: BTreeSet::new(),
            rules: String::new(),
            receipts,
            made: 0,
        }
    }

    /// Whether something with so many chances in a thousand happens now.
    pub(crate) fn chance(&mut self, of: impl Fn(&Dials) -> u32) -> bool {
        let thousandths = of(&self.dials);
        let happens = thousandths > 0 && self.rng.u32(..1000) < thousandths;
        self.story.faults += u64::from(happens);
        happens
    }

    pub(crate) fn create(&mut self, plan: &ContainerPlan, profile: &HardenedProfile, now: u64) -> Result<String, DriverError> {
        if let Some(there) = self.containers.get(&plan.name) {
            if there.owner.runner == plan.owner.runner {
                return Ok(there.id.clone());
            }
            return Err(DriverError::Conflict { call: "create", message: "the name is taken".to_owned() });
        }
        if plan.network.as_ref().is_some_and(|bridge| !self.rules.contains(bridge)) {
            self.story.breach(now, &format!("{} is made on a network without rules", plan.name));
        }
        self.made += 1;
        let id = format!("c{}", self.made);
        let lag = if self.chance(|dials| dials.stale) { self.rng.u64(..400) } else { 0 };
        let container = Container {
            id: id.clone(),
            owner: plan.owner.clone(),
            devices: profile.devices().gpus().into_iter().cloned().collect(),
            cpus: profile.cpus(),
            script: Script::read(&plan.command),
            ticket: plan.env.get("RUNNER_COORDINATOR_RECEIPT").map(|text| Ticket::read(text)),
            state: ContainerState::Created,
            exit_code: None,
            started: None,
            finished: None,
            shown_from: now + lag,
            run: None,
            runner: plan.env.get("CI_SERVER_TOKEN").map(|token| (token.clone(), Phase::Asks)),
            executes: None,
        };
        self.story.tell(now, &format!("made {} for {}", plan.name, plan.owner.runner));
        self.containers.insert(plan.name.clone(), container);
        self.happened(now, &plan.name, "create");
        Ok(id)
    }

    /// Starts a container; one that has ended runs again, as engines do.
    pub(crate) fn start(&mut self, container: &str, now: u64) -> Result<(), DriverError> {
        let name = self.name_of(container).ok_or_else(|| not_found("start", container))?;
        let missing = self.dials.no_image > 0 && self.containers[&name].state == ContainerState::Created && self.chance(|dials| dials.no_image / 4);
        if missing {
            return Err(DriverError::Refused { call: "start", status: 500, message: "OCI runtime create failed".to_owned() });
        }
        if self.containers[&name].state.is_up() {
            return Ok(());
        }
        self.witness_start(&name, now);
        let container = self.containers.get_mut(&name).expect("it is there");
        let of = attempt(&container.owner);
        let runs = self.runs.entry(of).or_default();
        container.run = Some(runs.len());
        runs.push(Run::begin(container.script, now));
        (container.state, container.started, container.finished) = (ContainerState::Running { pid: None }, Some(now), None);
        self.story.tell(now, &format!("started {name}"));
        self.happened(now, &name, "start");
        Ok(())
    }

    /// What must never be when a process begins.
    fn witness_start(&mut self, name: &str, now: u64) {
        let container = &self.containers[name];
        let (job, number) = attempt(&container.owner);
        let mut breaches = Vec::new();
        if self.runs.get(&(job.clone(), number)).is_some_and(|runs| !runs.is_empty()) {
            breaches.push(format!("attempt {number} of job {job} begins a second time"));
        }
        let alive = |run: &Run| run.is_alive(now);
        let of_job = self.runs.range((job.clone(), 0)..=(job.clone(), u32::MAX));
        if of_job.flat_map(|(_, runs)| runs).any(alive) {
            breaches.push(format!("attempt {number} of job {job} begins while another one runs"));
        }
        let running = self.containers.values().filter(|other| self.process(other).is_some_and(alive));
        let (mut cpus, mut held) = (container.cpus.0, BTreeSet::new());
        for other in running {
            cpus += other.cpus.0;
            held.extend(other.devices.iter().cloned());
        }
        if cpus > CPUS.0 {
            breaches.push(format!("{cpus} thousandths of processors are given away, of {}", CPUS.0));
        }
        if let Some(gpu) = container.devices.iter().find(|gpu| held.contains(gpu)) {
            breaches.push(format!("{gpu} is given to two jobs"));
        }
        for breach in breaches {
            self.story.breach(now, &breach);
        }
    }

    pub(crate) fn process(&self, container: &Container) -> Option<&Run> {
        self.runs.get(&attempt(&container.owner))?.get(container.run?)
    }

    /// Whether a process runs on a GPU.
    pub(crate) fn is_busy(&self, gpu: &GpuId, now: u64) -> bool {
        let on_it = self.containers.values().filter(|container| container.devices.contains(gpu));
        on_it.filter_map(|container| self.process(container)).any(|run| run.is_alive(now))
    }

    /// When something happens next by itself.
    pub(crate) fn next(&self) -> Option<u64> {
        self.containers.values().filter_map(|container| self.process(container)).filter_map(Run::due).min()
    }

    /// Lets everything happen that is due.
    pub(crate) fn settle(&mut self, now: u64, wall: impl Fn(u64) -> jiff::Timestamp) {
        let due = |engine: &Self, container: &Container| engine.process(container).and_then(Run::due).is_some_and(|due| due <= now);
        let mut names: Vec<(u64, String)> = Vec::new();
        for (name, container) in &self.containers {
            if due(self, container) {
                names.push((self.process(container).and_then(Run::due).unwrap_or(now), name.clone()));
            }
        }
        names.sort();
        for (at, name) in names {
            self.end(&name, at, &wall);
        }
    }

    /// A container's process ends as it was bound to.
    fn end(&mut self, name: &str, at: u64, wall: impl Fn(u64) -> jiff::Timestamp) {
        let misreported = self.chance(|dials| dials.misreports);
        let stale = self.chance(|dials| dials.stale);
        let lag = if stale { self.rng.u64(..400) } else { 0 };
        let false_code = self.rng.choice([0, 137, 143, 255]).unwrap_or(0);
        let unnoticed = misreported && self.rng.u32(..4) == 0;
        let container = self.containers.get_mut(name).expect("it is there");
        let of = attempt(&container.owner);
        let run = self.runs.get_mut(&of).and_then(|runs| runs.get_mut(container.run?)).expect("it runs");
        run.end(at);
        if let (Some(ticket), true) = (&container.ticket, run.writes_receipt()) {
            run.proved = ticket.write(&self.receipts.join(container.owner.runner.as_str()), run, wall(at));
        }
        let code = if misreported { false_code } else { run.exit_code() };
        self.over.extend(container.executes.take().map(|job| (job, at)));
        self.story.tell(at, &format!("{name} ended as {:?}, told {}", run.how, run.told));
        if unnoticed {
            self.story.tell(at, &format!("{name} seems to run on"));
            return;
        }
        (container.state, container.exit_code, container.finished) = (ContainerState::Exited, Some(code), Some(at));
        container.shown_from = at + lag;
        self.happened(at, name, "die");
    }

    /// Tells a container's process to end; answers when it will have.
    pub(crate) fn stop(&mut self, container: &str, grace: u64, now: u64, wall: impl Fn(u64) -> jiff::Timestamp) -> Option<u64> {
        let name = self.name_of(container)?;
        let linger = self.rng.u64(..=grace);
        let container = self.containers.get_mut(&name)?;
        let of = attempt(&container.owner);
        let run = self.runs.get_mut(&of).and_then(|runs| runs.get_mut(container.run?));
        match run {
            Some(run) if run.is_alive(now) => {
                if let Some(ticket) = &container.ticket {
                    ticket.note_told(&self.receipts.join(container.owner.runner.as_str()), wall(now));
                }
                Some(run.tell(now, linger, grace))
            }
            // The process had ended unnoticed.
            Some(_) if container.state.is_up() => {
                (container.state, container.exit_code, container.finished) = (ContainerState::Exited, Some(137), Some(now));
                Some(now)
            }
            Some(_) | None => Some(now),
        }
    }

    pub(crate) fn remove(&mut self, container: &str, now: u64, wall: impl Fn(u64) -> jiff::Timestamp) {
        let Some(name) = self.name_of(container) else { return };
        self.kill(&name, now, wall);
        self.happened(now, &name, "destroy");
        self.containers.remove(&name);
        self.story.tell(now, &format!("removed {name}"));
    }

    /// Kills a container's process, if it has one.
    pub(crate) fn kill(&mut self, name: &str, now: u64, wall: impl Fn(u64) -> jiff::Timestamp) {
        let container = &self.containers[name];
        let of = attempt(&container.owner);
        let run = self.runs.get_mut(&of).and_then(|runs| runs.get_mut(container.run?)).filter(|run| run.is_alive(now));
        if let Some(run) = run {
            run.kill(now);
            self.end(name, now, wall);
        }
    }

    /// The engine dies, and is back later.
    pub(crate) fn die(&mut self, how: Death, away: u64, now: u64, wall: impl Fn(u64) -> jiff::Timestamp + Copy) {
        self.story.tell(now, &format!("the engine dies for {away} ms: {how:?}"));
        self.down_until = now + away;
        self.deaths += 1;
        let names: Vec<String> = self.containers.keys().cloned().collect();
        for name in names {
            match how {
                Death::LiveRestore => {}
                Death::Killed => self.kill(&name, now, wall),
                Death::Told => {
                    self.stop(&name, away.min(1000), now, wall);
                }
            }
        }
    }

    /// What it tells of a container; `listed` for what a list shows.
    pub(crate) fn facts(&self, name: &str, listed: Listed, now: u64, wall: impl Fn(u64) -> jiff::Timestamp) -> Option<ContainerFacts> {
        let container = self.containers.get(name)?;
        let late = container.shown_from > now;
        let state = match (&container.state, listed, late) {
            (ContainerState::Created, _, true) => return None,
            (ContainerState::Exited, Listed::Yes, true) => ContainerState::Running { pid: None },
            (state, ..) => state.clone(),
        };
        let inspected = listed == Listed::No;
        Some(ContainerFacts {
            id: container.id.clone(),
            name: name.to_owned(),
            owner: Some(container.owner.clone()),
            devices: container.devices.clone(),
            given: None,
            exit_code: container.exit_code.filter(|_| inspected && !state.is_up()),
            oom_killed: inspected.then_some(false),
            error: String::new(),
            started_at: container.started.filter(|_| inspected).map(&wall),
            finished_at: container.finished.filter(|_| inspected).map(&wall),
            state,
        })
    }

    /// The lines of a container's output with the moment of each, and whether more may come.
    pub(crate) fn output(&self, container: &str, now: u64) -> Option<(Vec<(u64, String)>, bool)> {
        let name = self.name_of(container)?;
        let container = &self.containers[&name];
        let Some(run) = self.process(container) else { return Some((Vec::new(), false)) };
        Some((run.lines(now), container.state.is_up()))
    }

    pub(crate) fn name_of(&self, container: &str) -> Option<String> {
        if self.containers.contains_key(container) {
            return Some(container.to_owned());
        }
        self.containers.iter().find(|(_, known)| known.id == container).map(|(name, _)| name.clone())
    }

    fn happened(&mut self, at: u64, name: &str, action: &'static str) {
        let Some(container) = self.containers.get(name) else { return };
        let (id, runner) = (container.id.clone(), container.owner.runner.to_string());
        self.told += 1;
        self.events.push_back((at, id, action, runner));
        if self.events.len() > 256 {
            self.events.pop_front();
        }
    }
}

/// Whether facts come from a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Listed {
    Yes,
    No,
}

pub(crate) fn attempt(owner: &Owner) -> Of {
    owner.job.as_ref().map_or_else(|| (owner.runner.to_string(), 0), |(job, attempt)| (job.to_string(), *attempt))
}

pub(crate) fn not_found(call: &'static str, what: &str) -> DriverError {
    DriverError::NotFound { call, message: format!("no such container: {what}") }
}

/// The exit code that engines report for an end.
pub(crate) fn code(how: HowEnded) -> i64 {
    match how {
        HowEnded::Exit(code) => i64::from(code),
        HowEnded::Signal(signal) => 128 + i64::from(signal),
    }
}
