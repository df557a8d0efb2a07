//! The same as the model beside this file, with the real store in place of the made-up queue: fifteen hundred operations, for each is a commit.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::fixture::{Dice, kinds, limit, machine, time};
use super::*;
use crate::domain::{
    Aggregate, CommandWork, CpuMillis, HostFacts, HostId, ImageRef, Job, JobId, JobSpec, MemoryBytes, Outcome, ProjectName, RetryPolicy, Runner,
    RunnerId, RunnerOrigin, Source, Step, Work,
};
use crate::store::{Candidate, NewJob, SqliteStore, Store as _, Submission};

const SEEDS: u64 = 2;
const OPERATIONS: u64 = 750;

struct Model {
    seed: u64,
    dice: Dice,
    facts: HostFacts,
    directory: tempfile::TempDir,
    store: Option<SqliteStore>,
    now: u64,
    submitted: u64,
    /// How far each runner has come: the engine's side, which a crash of the daemon does not touch.
    progress: HashMap<RunnerId, usize>,
}

fn life() -> [Step; 6] {
    let retry = RetryPolicy { infrastructure_retries: 1, backoff: Duration::from_secs(1), backoff_max: Duration::from_secs(1) };
    [
        Step::ContainerCreated { container: "c".to_owned(), image: None, opened: Vec::new() },
        Step::StartSent { engine_epoch: 1 },
        Step::Started,
        Step::JobEnded { outcome: Outcome::Succeeded, retry },
        Step::Exited,
        Step::Removed,
    ]
}

impl Model {
    fn new(seed: u64) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let (dice, facts) = (Dice(seed), machine());
        let mut model = Self { seed, dice, facts, directory, store: None, now: 0, submitted: 0, progress: HashMap::new() };
        model.restart();
        model
    }

    fn restart(&mut self) {
        self.store = None;
        self.store = Some(SqliteStore::open(&self.directory.path().join("model.db")).expect("opened"));
    }

    fn store(&self) -> &SqliteStore {
        self.store.as_ref().expect("it is open")
    }

    async fn open(&self) -> Vec<Aggregate> {
        self.store().open_runners(&self.facts.id).await.expect("runners")
    }

    async fn operate(&mut self) {
        self.now += self.dice.roll(60);
        match self.dice.roll(100) {
            0..30 => self.submit().await,
            30..75 => self.step().await,
            75..78 => self.restart(),
            _ => self.pass().await,
        }
    }

    async fn submit(&mut self) {
        let kinds = kinds();
        let requirement = kinds[self.dice.pick(kinds.len())].clone();
        let work = CommandWork { image: ImageRef::from_trusted("debian"), command: vec!["true".to_owned()], env: BTreeMap::new() };
        let project = Some(ProjectName::from_trusted(["a", "b", "c"][self.dice.pick(3)]));
        let priority = i32::try_from(self.dice.roll(2)).expect("small");
        let work = Work::Command(work);
        let spec = JobSpec { source: Source::Api, project, requirement, timeout: Duration::from_secs(60), priority, retries: 0, work };
        let job = Job::new(JobId::generate(), spec, time(self.now));
        let new = NewJob { job, gitlab: None, idempotency: None, weight: 1, queue_limit: 10_000, whole_queue_limit: u32::MAX };
        assert!(matches!(self.store().submit(new).await.expect("stored"), Submission::Created(_)));
        self.submitted += 1;
    }

    async fn step(&mut self) {
        let open = self.open().await;
        if let Some(at) = (!open.is_empty()).then(|| self.dice.pick(open.len())) {
            self.advance(&open[at].runner.id).await;
        }
    }

    async fn advance(&mut self, runner: &RunnerId) {
        let done = self.progress.entry(runner.clone()).or_default();
        let step = life()[*done].clone();
        *done += 1;
        let seed = self.seed;
        self.store().apply(runner, step, time(self.now)).await.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    }

    async fn pass(&mut self) {
        let open = self.open().await;
        let facts = self.facts.clone();
        let mut ledger = Ledger::new(&facts, open.iter().map(|open| (&open.runner.class, &open.runner.placement)));
        let rules = Rules { limit: &limit, hold_after: Duration::from_secs(600), kept_long: &[] };
        let mut settled = false;
        loop {
            let waiting = self.store().waiting().await.expect("the queue");
            let turn = if settled { Turn::Nobody } else { turn(&mut ledger, &waiting, &rules, time(self.now)) };
            settled = !matches!(turn, Turn::First(_));
            let among = if let Turn::First(first) = turn { std::slice::from_ref(first) } else { &waiting[..] };
            let runner = |class: &ClassName, placement| {
                Runner::planned(RunnerId::generate(), class.clone(), HostId::from_trusted("box1"), RunnerOrigin::Job, placement, time(self.now))
            };
            let fitting = fitting(&ledger, among, &rules).into_iter();
            let candidates: Vec<Candidate> = fitting
                .map(|(waiting, placement)| Candidate { requirement: waiting.id, runner: runner(&waiting.requirement.class, placement) })
                .collect();
            let Some(claimed) = self.store().claim(&candidates, time(self.now)).await.expect("a claim") else { break };
            ledger.reserve(&claimed.runner.class, &claimed.runner.placement);
        }
        self.check(&ledger).await;
    }

    /// What is stored is what the ledger says, and gives no GPU twice.
    async fn check(&self, ledger: &Ledger<'_>) {
        let open = self.open().await;
        let placements = || open.iter().map(|open| &open.runner.placement);
        let (cpus, memory) = (placements().map(|one| one.cpus.0).sum(), placements().map(|one| one.memory.0).sum());
        assert_eq!(ledger.used(), (CpuMillis(cpus), MemoryBytes(memory)), "seed {}", self.seed);
        assert!(cpus <= self.facts.cpus.0 && memory <= self.facts.memory.0, "seed {}", self.seed);
        let mut given = HashSet::new();
        let twice = placements().filter(|one| one.share.is_none()).flat_map(|one| &one.devices).find(|id| !given.insert(*id));
        assert_eq!(twice, None, "seed {}: given twice", self.seed);
        for gpu in &self.facts.gpus {
            let shares: u64 = placements().filter(|one| one.devices.contains(&gpu.id)).filter_map(|one| one.share).map(|share| share.0).sum();
            let most = if given.contains(&gpu.id) { 0 } else { gpu.memory.known().map_or(0, |memory| memory.0) };
            assert!(shares <= most, "seed {}: {shares} of {} is promised", self.seed, gpu.id);
        }
    }

    async fn drain(&mut self) {
        let mut left = 100 * self.submitted;
        loop {
            self.pass().await;
            let open = self.open().await;
            if open.is_empty() {
                break;
            }
            for open in open {
                self.advance(&open.runner.id).await;
            }
            left -= 1;
            assert!(left > 0, "seed {}: it has no end", self.seed);
        }
        let counts = self.store().counts().await.expect("counts");
        let succeeded = counts.jobs.iter().find(|(state, _)| state == "succeeded").map(|(_, jobs)| *jobs);
        assert_eq!((succeeded, counts.oldest_queued_at), (Some(self.submitted), None), "seed {}: each job ends, and once", self.seed);
    }
}

#[tokio::test]
async fn thousands_of_operations_on_the_real_store_give_no_gpu_twice_and_leak_nothing() {
    for seed in 0..SEEDS {
        let mut model = Model::new(seed);
        for _ in 0..OPERATIONS {
            model.operate().await;
        }
        model.drain().await;
    }
}
