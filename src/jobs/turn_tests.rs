//! A model of a coordinator on one machine: the real ledger and the real decisions, a made-up queue and engine, and a million random
//! operations. Every figure comes from a seed, which a failure names.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::fixture::{Dice, kinds, limit, machine, time};
use super::*;
use crate::domain::{CpuMillis, Gpu, GpuHealth, GpuRequest, GpuVendor, HostFacts, MemoryBytes, Reading, Requirement, RequirementId};

/// Machines, each with a seed of its own, and operations on each: a million together.
const MACHINES: u64 = 40;
const OPERATIONS: u64 = 25_000;
const HOLD_AFTER: Duration = Duration::from_secs(600);
/// Most jobs that wait at once, so that they come to the front.
const QUEUE: usize = 40;

/// A job that waits: the higher priority first, then the older.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Queued {
    priority: std::cmp::Reverse<u64>,
    number: u64,
    kind: usize,
    since: u64,
}

#[derive(Debug, Clone)]
struct Running {
    job: Queued,
    placement: Placement,
}

/// What was promised to a job for which GPUs are held back: that it starts when those have ended.
#[derive(Debug)]
struct Promise {
    job: u64,
    runners: HashSet<u64>,
}

#[derive(Debug, Default)]
struct Tally {
    passes: u64,
    claims: u64,
    promises: u64,
    kept: u64,
}

struct Model {
    seed: u64,
    dice: Dice,
    facts: HostFacts,
    kinds: Vec<Requirement>,
    now: u64,
    submitted: u64,
    ended: u64,
    next_runner: u64,
    queue: BTreeSet<Queued>,
    /// Runners of the store, by number.
    rows: BTreeMap<u64, Running>,
    /// Containers of the engine, by their runner's number.
    containers: BTreeMap<u64, Vec<GpuId>>,
    promise: Option<Promise>,
    tally: Tally,
}

impl Model {
    fn new(seed: u64) -> Self {
        Self {
            seed,
            dice: Dice(seed),
            facts: machine(),
            kinds: kinds(),
            now: 0,
            submitted: 0,
            ended: 0,
            next_runner: 0,
            queue: BTreeSet::new(),
            rows: BTreeMap::new(),
            containers: BTreeMap::new(),
            promise: None,
            tally: Tally::default(),
        }
    }

    fn operate(&mut self) {
        self.now += self.dice.roll(60);
        // Half of the machines keep their devices, so that long waits are seen too.
        let calm = self.seed.is_multiple_of(2);
        match self.dice.roll(100) {
            0..40 => self.submit(),
            40..70 => self.finish(),
            70..73 => self.crash(),
            73..76 => self.reconcile(),
            76..80 if !calm => self.probe(),
            80..82 if !calm => self.quarantine(),
            _ => self.pass(),
        }
    }

    fn submit(&mut self) {
        if self.queue.len() < QUEUE {
            let priority = std::cmp::Reverse(self.dice.roll(3));
            let kind = self.dice.pick(self.kinds.len());
            self.queue.insert(Queued { priority, number: self.submitted, kind, since: self.now });
            self.submitted += 1;
        }
    }

    fn a_runner(&mut self) -> Option<u64> {
        let at = (!self.rows.is_empty()).then(|| self.dice.pick(self.rows.len()))?;
        self.rows.keys().nth(at).copied()
    }

    fn finish(&mut self) {
        if let Some(runner) = self.a_runner() {
            self.containers.remove(&runner);
            self.rows.remove(&runner);
            self.ended += 1;
        }
    }

    /// The daemon dies before the container is there, after it is gone, or an older database is put back.
    fn crash(&mut self) {
        let Some(runner) = self.a_runner() else { return };
        if self.dice.roll(2) == 0 {
            self.containers.remove(&runner);
        } else if let Some(row) = self.rows.remove(&runner) {
            self.queue.insert(row.job);
        }
    }

    /// A row without a container is ended and its job tried again; a container without a row is removed.
    fn reconcile(&mut self) {
        let lost: Vec<u64> = self.rows.keys().filter(|runner| !self.containers.contains_key(runner)).copied().collect();
        self.queue.extend(lost.into_iter().filter_map(|runner| self.rows.remove(&runner)).map(|row| row.job));
        self.containers.retain(|runner, _| self.rows.contains_key(runner));
    }

    /// A look at the devices finds one changed: gone, back, or its memory not to be read.
    fn probe(&mut self) {
        let gpu = self.dice.pick(self.facts.gpus.len());
        let fresh = machine().gpus.swap_remove(gpu);
        self.facts.gpus[gpu] = match self.dice.roll(4) {
            0 => Gpu { health: GpuHealth::Lost("it is no longer there".to_owned()), ..fresh },
            1 => Gpu { memory: Reading::Unreadable("it does not answer".to_owned()), ..fresh },
            _ => fresh,
        };
        self.promise = None;
    }

    fn quarantine(&mut self) {
        let gpu = self.dice.pick(self.facts.gpus.len());
        self.facts.gpus[gpu].health = match (&self.facts.gpus[gpu].health, self.dice.roll(3)) {
            (GpuHealth::Healthy, 0) => GpuHealth::Checking,
            (GpuHealth::Healthy, 1) => GpuHealth::Unhealthy("it is too hot".to_owned()),
            (GpuHealth::Healthy, _) => GpuHealth::Quarantined("by hand".to_owned()),
            (GpuHealth::Checking | GpuHealth::Quarantined(_) | GpuHealth::Unhealthy(_) | GpuHealth::Lost(_), _) => GpuHealth::Healthy,
        };
        self.promise = None;
    }

    /// What the store tells: the first job of each kind, the best one first.
    fn waiting(&self) -> Vec<(Waiting, Queued)> {
        let mut heads: BTreeMap<usize, (u64, Queued)> = BTreeMap::new();
        for job in &self.queue {
            heads.entry(job.kind).or_insert_with(|| (0, job.clone())).0 += 1;
        }
        let mut heads: Vec<(u64, Queued)> = heads.into_values().collect();
        heads.sort_by(|(_, a), (_, b)| a.cmp(b));
        let waiting = |jobs, job: &Queued| Waiting {
            id: RequirementId(i64::try_from(job.kind).expect("small")),
            requirement: self.kinds[job.kind].clone(),
            jobs,
            since: time(job.since),
            capped: None,
        };
        heads.into_iter().map(|(jobs, job)| (waiting(jobs, &job), job)).collect()
    }

    /// What containers hold that nobody knows.
    fn unknown(&self) -> impl Iterator<Item = &Vec<GpuId>> {
        self.containers.iter().filter(|(runner, _)| !self.rows.contains_key(runner)).map(|(_, devices)| devices)
    }

    /// As after a restart: from what is stored, and from containers that nobody knows.
    fn ledger<'f>(&self, facts: &'f HostFacts) -> Ledger<'f> {
        let open = self.rows.values().map(|row| (&self.kinds[row.job.kind].class, &row.placement));
        let mut ledger = Ledger::new(facts, open);
        self.unknown().for_each(|devices| ledger.hold(devices));
        ledger
    }

    /// What `plan::claim` does.
    fn pass(&mut self) {
        self.tally.passes += 1;
        let facts = self.facts.clone();
        let mut ledger = self.ledger(&facts);
        let rules = Rules { limit: &limit, hold_after: HOLD_AFTER, kept_long: &[] };
        let (mut settled, mut kept_for) = (false, None);
        let due = self.due(&ledger);
        let mut overtaken = false;
        loop {
            let (waiting, jobs): (Vec<Waiting>, Vec<Queued>) = self.waiting().into_iter().unzip();
            let turn = if settled { Turn::Nobody } else { turn(&mut ledger, &waiting, &rules, time(self.now)) };
            settled = !matches!(turn, Turn::First(_));
            let job_of = |waiting: &Waiting| jobs.iter().find(|job| i64::try_from(job.kind) == Ok(waiting.id.0)).expect("it waits");
            let among = match turn {
                Turn::First(first) => {
                    // One that waited longer still, and lacked something else until now, makes the promise begin anew.
                    let number = job_of(first).number;
                    overtaken |= self.promise.as_ref().is_some_and(|promise| promise.job != number);
                    std::slice::from_ref(first)
                }
                Turn::HeldBack(first) => {
                    kept_for = Some((job_of(first).number, self.next_runner));
                    &waiting[..]
                }
                Turn::Nobody => &waiting[..],
            };
            let Some((best, placement)) = fitting(&ledger, among, &rules).into_iter().min_by_key(|(waiting, _)| job_of(waiting)) else { break };
            let job = job_of(best).clone();
            self.grant(&job, &placement);
            ledger.reserve(&self.kinds[job.kind].class, &placement);
            self.start(job, placement);
        }
        self.check_due(due, kept_for);
        self.promise = self.promise.take().filter(|_| !overtaken);
        self.check_promise(kept_for);
        self.check_sums(&ledger);
    }

    /// Nothing that is given is broken, foreign or somebody else's.
    fn grant(&self, job: &Queued, placement: &Placement) {
        let wanted = &self.kinds[job.kind];
        let count = wanted.gpus.as_ref().map_or(0, |request| request.count as usize);
        let distinct: HashSet<&GpuId> = placement.devices.iter().collect();
        assert_eq!((distinct.len(), placement.devices.len()), (count, count), "seed {}: as many as asked for, each once", self.seed);
        let mut vendors = HashSet::new();
        for id in &placement.devices {
            let gpu = self.facts.gpus.iter().find(|gpu| gpu.id == *id).expect("one of the machine's");
            vendors.insert(gpu.vendor);
            assert_eq!(gpu.health, GpuHealth::Healthy, "seed {}: {id} was given away", self.seed);
            assert!(wanted.gpus.as_ref().is_some_and(|request| request.is_met_by(gpu)), "seed {}: {id} is of another kind", self.seed);
            let with_it = || self.rows.values().map(|row| &row.placement).filter(|placement| placement.devices.contains(id));
            let alone = with_it().any(|other| other.share.is_none()) || self.unknown().flatten().any(|held| held == id);
            let shares: u64 = with_it().filter_map(|other| other.share).map(|share| share.0).sum();
            let room = gpu.memory.known().map_or(0, |memory| memory.0);
            let fits = placement.share.map_or(shares == 0, |share| shares + share.0 <= room);
            assert!(!alone && fits, "seed {}: {id} is given twice at {}", self.seed, self.now);
            assert_eq!(placement.share, wanted.gpus.as_ref().and_then(|request| request.share), "seed {}", self.seed);
        }
        assert!(vendors.len() <= 1, "seed {}: of two vendors", self.seed);
    }

    fn start(&mut self, job: Queued, placement: Placement) {
        self.tally.claims += 1;
        if self.promise.as_ref().is_some_and(|promise| promise.job == job.number) {
            self.promise = None;
            self.tally.kept += 1;
        }
        assert!(self.queue.remove(&job), "seed {}: {job:?} was claimed twice", self.seed);
        self.containers.insert(self.next_runner, placement.devices.clone());
        self.rows.insert(self.next_runner, Running { job, placement });
        self.next_runner += 1;
    }

    /// The job for which GPUs were held back, where all are there now: it starts in this pass.
    fn due(&self, ledger: &Ledger<'_>) -> Option<Queued> {
        let promised = self.promise.as_ref()?.job;
        let job = self.waiting().into_iter().map(|(_, job)| job).find(|job| job.number == promised)?;
        ledger.fit(&self.kinds[job.kind], limit(&self.kinds[job.kind].class)).is_ok().then_some(job)
    }

    fn check_due(&self, due: Option<Queued>, kept_for: Option<(u64, u64)>) {
        let Some(job) = due.filter(|job| self.queue.contains(job)) else { return };
        // One that waited longer still, and for something else than GPUs until now, goes before it or has GPUs held back.
        let ledger = Ledger::new(&self.facts, []);
        let several = |row: &&Running| self.kinds[row.job.kind].gpus.as_ref().is_some_and(|request| ledger.may_starve(request));
        let older = self.rows.values().filter(several).any(|row| row.job.since <= job.since);
        let held = self.queue.iter().any(|other| kept_for.is_some_and(|(number, _)| number == other.number) && other.since <= job.since);
        assert!(older || held, "seed {}: {job:?} is passed by: its GPUs were there and others got them", self.seed);
    }

    /// The bound on starvation: a job for which GPUs are held back starts at the latest when what ran at that moment has ended.
    fn check_promise(&mut self, kept_for: Option<(u64, u64)>) {
        let Some((job, next_runner)) = kept_for else {
            self.promise = None;
            return;
        };
        match &mut self.promise {
            Some(promise) if promise.job == job => {
                promise.runners.retain(|runner| self.rows.contains_key(runner) || self.containers.contains_key(runner));
                // What was in use is looked at before the next job is given it.
                let checked = self.facts.gpus.iter().any(|gpu| gpu.health == GpuHealth::Checking);
                assert!(
                    checked || !promise.runners.is_empty(),
                    "seed {}: job {job} is passed by: all that ran when GPUs were kept for it have ended",
                    self.seed
                );
            }
            Some(_) | None => {
                self.tally.promises += 1;
                let held = self.rows.keys().chain(self.containers.keys()).copied();
                self.promise = Some(Promise { job, runners: held.filter(|runner| *runner < next_runner).collect() });
            }
        }
    }

    /// What is reserved is what the rows say, within the machine, and a restart reckons the same.
    fn check_sums(&self, ledger: &Ledger<'_>) {
        let cpus: u64 = self.rows.values().map(|row| row.placement.cpus.0).sum();
        let memory: u64 = self.rows.values().map(|row| row.placement.memory.0).sum();
        assert_eq!(ledger.used(), (CpuMillis(cpus), MemoryBytes(memory)), "seed {}", self.seed);
        assert_eq!(self.ledger(&self.facts).used(), ledger.used(), "seed {}: after a restart", self.seed);
        assert!(cpus <= self.facts.cpus.0 && memory <= self.facts.memory.0, "seed {}: more than there is", self.seed);
        let narrow = self.rows.values().filter(|row| self.kinds[row.job.kind].class.as_str() == "narrow").count();
        assert!(narrow <= 2, "seed {}: {narrow} of a class of two", self.seed);
    }

    /// Everything ends, and then everything is free.
    fn drain(&mut self) {
        self.facts = machine();
        self.promise = None;
        self.reconcile();
        for _ in 0..10 * QUEUE {
            self.now += 60;
            self.pass();
            while !self.rows.is_empty() {
                self.finish();
            }
        }
        assert_eq!((self.queue.len(), self.ended), (0, self.submitted), "seed {}: each job ends, and once", self.seed);
        let ledger = self.ledger(&self.facts);
        assert_eq!(ledger.used(), (CpuMillis(0), MemoryBytes(0)), "seed {}", self.seed);
        for (count, vendor) in [(5, GpuVendor::Nvidia), (3, GpuVendor::Amd)] {
            let gpus = Some(GpuRequest { vendor: Some(vendor), ..GpuRequest::any(count) });
            let all = Requirement { gpus, ..self.kinds[0].clone() };
            assert!(ledger.fit(&all, None).is_ok(), "seed {}: a lease has leaked", self.seed);
        }
    }
}

fn run(seeds: impl Iterator<Item = u64>) -> Tally {
    let mut sum = Tally::default();
    for seed in seeds {
        let mut model = Model::new(seed);
        for _ in 0..OPERATIONS {
            model.operate();
        }
        model.drain();
        sum.passes += model.tally.passes;
        sum.claims += model.tally.claims;
        sum.promises += model.tally.promises;
        sum.kept += model.tally.kept;
    }
    sum
}

#[test]
fn a_million_operations_give_no_gpu_twice_leak_nothing_and_starve_nobody() {
    let halves = std::thread::scope(|scope| {
        let halves = [0, MACHINES / 2].map(|from| scope.spawn(move || run(from..from + MACHINES / 2)));
        halves.map(|half| half.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    for tally in halves {
        // It must have met what it is about.
        assert!(tally.claims > 10_000 && tally.promises > 100 && tally.kept > 100, "{tally:?}");
    }
}
