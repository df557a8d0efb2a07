//! What one decision costs: the look at what waits, the fit, and the claim, with a short queue and a long one; and the fit alone over one machine
//! and over a thousand.
//!
//! `make decision` runs it with a million jobs and shows the table; `make test` only shows that it still works.

#![expect(clippy::print_stdout, reason = "the table is what `--nocapture` shows")]

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use runner_coordinator::domain::{
    Arch, ClassName, CommandWork, CpuMillis, Gpu, GpuHealth, GpuId, GpuRequest, GpuRole, GpuVendor, HostFacts, HostId, ImageRef, Job, JobId, JobSpec,
    MemoryBytes, ProjectName, Reading, Requirement, Runner, RunnerId, RunnerOrigin, Sharing, Source, Wiring, Work,
};
use runner_coordinator::platform::Ledger;
use runner_coordinator::store::{Candidate, NewJob, SqliteStore, Store as _};

/// Different requirements, and projects, of the jobs that wait.
const REQUIREMENTS: u32 = 20;
const PROJECTS: usize = 10;
/// The short queue, and how often each thing is measured.
const SHORT: u64 = 1_000;
const RUNS: usize = 200;

fn jobs() -> u64 {
    let named = std::env::vars().find(|(name, _)| name == "RC_DECISION_JOBS");
    named.map_or(5_000, |(_, count)| count.parse().expect("RC_DECISION_JOBS is a number"))
}

fn now() -> jiff::Timestamp {
    jiff::Timestamp::from_second(1_700_000_000).expect("a time")
}

fn requirement(number: u32) -> Requirement {
    let gpus = number.is_multiple_of(2).then(|| GpuRequest::any(1 + number % 4));
    Requirement { gpus, ..Requirement::plain(ClassName::from_trusted("default"), CpuMillis(100 + u64::from(number)), MemoryBytes(1 << 30)) }
}

/// A machine with eight cards.
fn machine(name: &str) -> HostFacts {
    let gpu = |index: u32| Gpu {
        id: GpuId::from_trusted(format!("GPU-{index}")),
        vendor: GpuVendor::Nvidia,
        index,
        pci: Reading::NotSupported,
        model: Reading::Known("NVIDIA H100 80GB HBM3".to_owned()),
        memory: Reading::Known(MemoryBytes(80 << 30)),
        compute: Reading::Known("9.0".to_owned()),
        driver: Reading::NotSupported,
        numa_node: Reading::Known(index / 4),
        wiring: Wiring { path: vec![format!("pci0000:{index}0"), format!("0000:{index}0:00.0")], links: Vec::new() },
        sharing: Sharing::Exclusive,
        nodes: Vec::new(),
        role: GpuRole::Card,
        health: GpuHealth::Healthy,
    };
    HostFacts {
        id: HostId::from_trusted(name),
        arch: Some(Arch::Amd64),
        cpus: CpuMillis(64_000),
        memory: MemoryBytes(256 << 30),
        emulated: Vec::new(),
        gpus: (0..8).map(gpu).collect(),
        notes: Vec::new(),
        runtimes: Vec::new(),
    }
}

/// A store in which so many jobs wait. The first of each requirement and project is submitted, the others are copied by the database.
async fn filled(path: &Path, jobs: u64) -> SqliteStore {
    let store = SqliteStore::open(path).expect("opened");
    for number in 0..REQUIREMENTS {
        for project in 0..PROJECTS {
            let work = CommandWork { image: ImageRef::from_trusted("debian"), command: vec!["true".to_owned()], env: BTreeMap::new() };
            let spec = JobSpec {
                source: Source::Api,
                project: Some(ProjectName::from_trusted(format!("team/{project}"))),
                requirement: requirement(number),
                timeout: Duration::from_secs(60),
                priority: 0,
                retries: 0,
                work: Work::Command(work),
            };
            let job = Job::new(JobId::generate(), spec, now());
            store
                .submit(NewJob { job, gitlab: None, idempotency: None, weight: 1, queue_limit: u32::MAX, whole_queue_limit: u32::MAX })
                .await
                .expect("stored");
        }
    }
    drop(store);
    let copies = jobs / (u64::from(REQUIREMENTS) * u64::try_from(PROJECTS).expect("small")) - 1;
    let database = rusqlite::Connection::open(path).expect("opened");
    let copy = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1) \
        INSERT INTO jobs (id, requirement_id, source, project, class, priority, spec, state, created_at, share) \
        SELECT id || '-' || i, requirement_id, source, project, class, priority, spec, state, created_at, share + i * 1000000 FROM n, jobs";
    if copies > 0 {
        database.execute(copy, [i64::try_from(copies).expect("small")]).expect("copied");
    }
    drop(database);
    SqliteStore::open(path).expect("opened again")
}

/// One decision of a pass, on an empty machine: what waits, what of it fits, and the claim of the best.
async fn decide(store: &SqliteStore, facts: &HostFacts) -> [Duration; 2] {
    let began = Instant::now();
    let ledger = Ledger::new(facts, []);
    let runner =
        |class: &ClassName, placement| Runner::planned(RunnerId::generate(), class.clone(), facts.id.clone(), RunnerOrigin::Job, placement, now());
    let waiting = store.waiting().await.expect("the queue").into_iter();
    let candidates: Vec<Candidate> = waiting
        .filter_map(|waiting| {
            let placement = ledger.fit(&waiting.requirement, None).ok()?;
            Some(Candidate { requirement: waiting.id, runner: runner(&waiting.requirement.class, placement) })
        })
        .collect();
    let found = began.elapsed();
    assert!(store.claim(&candidates, now()).await.expect("a claim").is_some(), "one waits and fits");
    [found, began.elapsed()]
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

#[tokio::test]
async fn a_decision_costs_the_same_with_a_long_queue() {
    let directory = tempfile::tempdir().expect("a directory");
    let facts = machine("box");
    let (short, long) = (SHORT, jobs());
    let stores = [filled(&directory.path().join("short.db"), short).await, filled(&directory.path().join("long.db"), long).await];
    let mut times = [Vec::new(), Vec::new()];
    // In turns, so that both meet the same weather.
    for _ in 0..RUNS {
        for (store, times) in stores.iter().zip(&mut times) {
            times.push(decide(store, &facts).await);
        }
    }
    println!("\n| median of {RUNS} | {short} jobs | {long} jobs | the second against the first |\n| --- | --- | --- | --- |");
    for (part, what) in ["what waits, and what of it fits", "the whole decision, with the claim on disk"].into_iter().enumerate() {
        let [base, other] = times.each_ref().map(|times| median(times.iter().map(|parts| parts[part]).collect()));
        println!("| {what} | {base:?} | {other:?} | {:.2} |", other.as_secs_f64() / base.as_secs_f64());
        assert!(other < base * 5, "{what}: {base:?} with {short} jobs, {other:?} with {long}");
    }
}

#[test]
fn a_decision_over_a_thousand_machines_is_a_thousand_fits() {
    let machines: Vec<HostFacts> = (0..1000).map(|number| machine(&format!("box{number}"))).collect();
    let wanted = requirement(2);
    let fits = |machines: &[HostFacts]| {
        let began = Instant::now();
        let found = machines.iter().filter(|facts| Ledger::new(facts, []).fit(&wanted, None).is_ok()).count();
        assert_eq!(found, machines.len());
        began.elapsed()
    };
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..RUNS / 4 {
        times[0].push(fits(&machines[..1]));
        times[1].push(fits(&machines));
    }
    let [one, thousand] = times.map(median);
    println!("\n| machines | one requirement on each, median | against the first |\n| --- | --- | --- |");
    println!("| 1 | {one:?} | 1 |\n| 1000 | {thousand:?} | {:.0} |", thousand.as_secs_f64() / one.as_secs_f64());
}
