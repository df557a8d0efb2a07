//! Databases of earlier versions, kept as text in `tests/store`, are brought to the present schema with everything that is in them.
//!
//! Whoever adds a migration has the dump of the schema before it there already; that of the new one is written by
//! `UPDATE_STORE_DUMP=1 cargo test --lib store::sqlite::upgrade_tests`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use tempfile::TempDir;

use super::open::APPLICATION_ID;
use super::{SqliteStore, migrations};
use crate::domain::{
    Attempt, CpuMillis, Drain, EndReason, EventKind, GpuId, GpuUsage, HostId, Job, JobState, MemoryBytes, Outcome, Placement, ProjectCap,
    ProjectName, Runner, RunnerOrigin, RunnerState, Step, Work,
};
use crate::store::contract_tests::{RETRY, command, created, gitlab, of_project, planned, requirement, t};
use crate::store::{Candidate, DeliveredJob, Delivery, EventQuery, IdempotencyKey, JobFilter, NewJob, RunnerFilter, Store, Submission};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/store")
}

/// A job that the tests' engine can run.
fn busybox(priority: i32) -> NewJob {
    let mut new = command(requirement("default", 1000), priority);
    if let Work::Command(command) = &mut new.job.spec.work {
        command.image = crate::domain::ImageRef::from_trusted("rc-test/busybox:1");
        command.command = ["sh", "-c", "echo ran"].map(str::to_owned).into();
    }
    new
}

fn without_gpus(class: &str, origin: RunnerOrigin) -> Runner {
    let placement = Placement { cpus: CpuMillis(1000), memory: MemoryBytes(1 << 28), devices: Vec::new(), share: None, opened: None };
    Runner { placement, ..planned(class, origin) }
}

/// Submits a job and takes these steps with it.
async fn live(store: &SqliteStore, new: NewJob, runner: Runner, steps: Vec<Step>, at: i64) {
    created(store, new).await;
    let waiting = store.waiting().await.expect("the queue");
    let wanted = waiting.iter().find(|waiting| waiting.requirement.class == runner.class).expect("it waits");
    let candidate = Candidate { requirement: wanted.id, runner: runner.clone() };
    store.claim(&[candidate], t(at)).await.expect("a claim").expect("claimed");
    for (step, at) in steps.into_iter().zip(at + 1..) {
        store.apply(&runner.id, step, t(at)).await.expect("a step");
    }
}

/// Jobs in every state and rows in every table.
pub(in crate::store) async fn lived_in(store: &SqliteStore) {
    let created_step = || Step::ContainerCreated { container: "c1".to_owned(), image: None, opened: Vec::new() };
    let running = || vec![created_step(), Step::StartSent { engine_epoch: 7 }, Step::Started];
    let ended = |outcome| Step::JobEnded { outcome, retry: RETRY };
    let to_the_end = |outcome| [running(), vec![ended(outcome), Step::Exited, Step::Removed]].concat();
    let default = || without_gpus("default", RunnerOrigin::Job);
    let caps = [ProjectCap { project: ProjectName::from_trusted("team/capped"), max_running: Some(1), max_gpus: None }];
    store.set_caps(&caps).await.expect("limits");
    live(store, of_project(busybox(9), "team/app"), default(), to_the_end(Outcome::Succeeded), 10).await;
    live(store, busybox(9), default(), to_the_end(Outcome::final_failure(EndReason::ImageUnavailable, "it \"is\" not there; 'really'")), 20).await;
    let with_gpu = Runner { placement: planned("default", RunnerOrigin::Job).placement, ..default() };
    live(store, of_project(busybox(9), "team/gpu"), with_gpu.clone(), running(), 30).await;
    let job = store.runner(&with_gpu.id).await.expect("read").expect("a runner").runner.job.expect("a job").0;
    store.write_gpu_usage(&[(job, 1, GpuUsage::default())]).await.expect("written");
    for (step, at) in [ended(Outcome::Succeeded), Step::Exited, Step::Removed].into_iter().zip(35..) {
        store.apply(&with_gpu.id, step, t(at)).await.expect("a step");
    }
    let canceled = created(store, busybox(9)).await.id;
    store.cancel_job(&canceled, EndReason::CanceledByUser, t(40)).await.expect("canceled");
    live(store, busybox(9), default(), running(), 50).await;
    live(store, busybox(9), default(), vec![created_step()], 60).await;
    let lost = ended(Outcome::infrastructure(EndReason::StartFailed, "the engine said no"));
    live(store, busybox(9), default(), vec![lost, Step::Exited, Step::Removed], 70).await;
    let key = IdempotencyKey { key: "once".to_owned(), body_sha256: [7; 32] };
    assert!(matches!(store.submit(NewJob { idempotency: Some(key), ..busybox(0) }).await, Ok(Submission::Created(_))));
    created(store, of_project(busybox(0), "team/capped")).await;
    created(store, gitlab(requirement("gitlab", 1000), 0, 4711)).await;
    let about = DeliveredJob { url: "https://gitlab.example.com".to_owned(), gitlab_id: 4711, status: "pending".to_owned() };
    let delivery = Delivery { key: "d1".to_owned(), event: "Job Hook".to_owned(), outcome: "accepted".to_owned(), about: Some(about) };
    store.record_delivery(delivery, t(80)).await.expect("recorded");
    let record = serde_json::json!({ "gpu": "GPU-1", "usage": "checking", "baseline": { "memory_used": 5, "uncorrected_errors": null, "processes": [7] }, "failures": 1, "quarantine": null });
    let record = serde_json::from_value(record).expect("a record");
    store.write_gpu_records(&HostId::from_trusted("box1"), &[record], &[]).await.expect("written");
    let drain = Drain { since: t(85), by: None, reason: Some("new disk".to_owned()) };
    store.set_drain(&HostId::from_trusted("box2"), Some(&drain)).await.expect("written");
}

/// All that a store tells, without what differs between two runs.
async fn told(store: &SqliteStore) -> (BTreeMap<String, usize>, Vec<Job>) {
    let mut told = BTreeMap::new();
    let mut count = |what: String| *told.entry(what).or_insert(0) += 1;
    let jobs = store.jobs(JobFilter { limit: 100, ..JobFilter::default() }).await.expect("jobs");
    for job in &jobs {
        let backs_off = matches!(job.state, JobState::Queued { not_before: Some(_) });
        count(format!("job {}{}", job.state.name(), if backs_off { " that backs off" } else { "" }));
        let attempts: Vec<Attempt> = store.attempts(&job.id).await.expect("attempts");
        for attempt in attempts {
            count(format!("attempt {}", if attempt.ended.is_some() { "ended" } else { "open" }));
        }
        let events = store.events(EventQuery { job: Some(job.id.clone()), after: 0, limit: 100 }).await.expect("events");
        events.iter().map(|event| event.kind.name()).for_each(|name| count(format!("event {name}")));
        if store.gitlab_job(&job.id).await.expect("read").is_some() {
            count("for the broker".to_owned());
        }
        store.gpu_usage(&job.id).await.expect("read").keys().for_each(|attempt| count(format!("use of GPUs by attempt {attempt}")));
    }
    let every = RunnerState::NAMES.map(str::to_owned).to_vec();
    let runners = store.runners(RunnerFilter { states: every, limit: 100, ..RunnerFilter::default() }).await.expect("runners");
    for runner in runners {
        count(format!("runner {}", runner.state.name()));
    }
    for usage in store.project_usage(t(100), 10).await.expect("sums") {
        count(format!("sum of {}", usage.project.map_or_else(String::new, |name| name.to_string())));
    }
    for (state, jobs) in store.counts().await.expect("counts").jobs {
        told.insert(format!("counted {state}"), usize::try_from(jobs).expect("few"));
    }
    (told, jobs)
}

/// A database as statements that make it again.
fn dump(path: &Path) -> String {
    let connection = Connection::open(path).expect("a database");
    let texts = |sql: &str| -> Vec<String> {
        let mut statement = connection.prepare(sql).expect(sql);
        statement.query_map([], |row| row.get(0)).expect(sql).collect::<Result<_, _>>().expect(sql)
    };
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0)).expect("a version");
    let mut dump = format!("-- A store of schema {version}, with jobs in every state. Written by src/store/sqlite/upgrade_tests.rs.\n");
    let schema = "SELECT sql || ';' FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%' AND";
    let tables =
        texts("SELECT name FROM sqlite_schema WHERE type = 'table' AND (name NOT LIKE 'sqlite_%' OR name = 'sqlite_sequence') ORDER BY name");
    for sql in texts(&format!("{schema} type = 'table' ORDER BY name")) {
        writeln!(dump, "{sql}").expect("written");
    }
    for table in tables {
        let columns = texts(&format!("SELECT name FROM pragma_table_info('{table}')"));
        let values = columns.iter().map(|column| format!("quote({column})")).collect::<Vec<_>>().join(" || ', ' || ");
        for row in texts(&format!("SELECT {values} FROM {table}")) {
            writeln!(dump, "INSERT INTO {table} ({}) VALUES ({row});", columns.join(", ")).expect("written");
        }
    }
    for sql in texts(&format!("{schema} type <> 'table' ORDER BY type, name")) {
        writeln!(dump, "{sql}").expect("written");
    }
    write!(dump, "PRAGMA application_id = {APPLICATION_ID};\nPRAGMA user_version = {version};\n").expect("written");
    dump
}

/// The database of a dump, as a file.
fn load(dump: &str) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("queue.db");
    let connection = Connection::open(&path).expect("a database");
    connection
        .execute_batch(&format!("PRAGMA foreign_keys = OFF; PRAGMA page_size = 8192; PRAGMA journal_mode = WAL; BEGIN;\n{dump}\nCOMMIT;"))
        .expect("the dump is sound");
    (dir, path)
}

fn dumps() -> BTreeMap<usize, String> {
    let number = |name: &str| name.strip_prefix("schema-")?.strip_suffix(".sql")?.parse().ok();
    let files = std::fs::read_dir(folder()).expect("dumps").flatten();
    let dump = |file: std::fs::DirEntry| Some((number(file.file_name().to_str()?)?, std::fs::read_to_string(file.path()).expect("a dump")));
    files.filter_map(dump).collect()
}

#[tokio::test]
async fn stores_of_earlier_versions_keep_everything() {
    let (fresh, place) = (TempDir::new().expect("a directory"), migrations::MIGRATIONS.len());
    let path = fresh.path().join("queue.db");
    let store = SqliteStore::open(&path).expect("a store");
    lived_in(&store).await;
    let (expected, _) = told(&store).await;
    drop(store);
    if std::env::vars().any(|(name, _)| name == "UPDATE_STORE_DUMP") {
        std::fs::write(folder().join(format!("schema-{place}.sql")), dump(&path)).expect("written");
    }
    for state in ["queued", "queued that backs off", "starting", "running", "succeeded", "failed", "canceled"] {
        assert!(expected.contains_key(&format!("job {state}")), "no job is {state}: {expected:?}");
    }
    let dumps = dumps();
    assert!(dumps.contains_key(&(place - 1)), "the store of the version before this one is in tests/store");
    for (version, dump) in dumps {
        let (_dir, path) = load(&dump);
        let before = Connection::open(&path).expect("a database").query_row("SELECT value FROM meta WHERE key = 'instance'", [], |row| row.get(0));
        let before: String = before.expect("an id");
        let store = SqliteStore::open(&path).unwrap_or_else(|error| panic!("schema {version}: {error:?}"));
        let (found, jobs) = told(&store).await;
        assert_eq!(found, expected, "schema {version}");
        assert_eq!(store.instance(), before);
        goes_on(&store, jobs).await;
        drop(store);
        super::tests::counters_are_true(&path);
    }
}

/// What waits is claimed and what runs comes to its end.
async fn goes_on(store: &SqliteStore, jobs: Vec<Job>) {
    let running = jobs.iter().find(|job| job.state == JobState::Running).expect("one runs");
    let runner = running.attempt.as_ref().expect("an attempt").runner.clone();
    store.note(&runner, EventKind::Adopted, t(90)).await.expect("noted");
    store.apply(&runner, Step::JobEnded { outcome: Outcome::Succeeded, retry: RETRY }, t(91)).await.expect("ended");
    assert_eq!(store.job(&running.id).await.expect("read").expect("a job").state.name(), "succeeded");
    store.promote_due(t(1_000_000)).await.expect("promoted");
    let mut claimed = Vec::new();
    while let Some(waiting) = store.waiting().await.expect("the queue").into_iter().find(|waiting| waiting.capped.is_none()) {
        let runner = without_gpus(waiting.requirement.class.as_str(), RunnerOrigin::Job);
        claimed.push(store.claim(&[Candidate { requirement: waiting.id, runner }], t(100)).await.expect("a claim").expect("claimed"));
    }
    assert_eq!(claimed.len(), jobs.iter().filter(|job| matches!(job.state, JobState::Queued { .. })).count());
    let again = IdempotencyKey { key: "once".to_owned(), body_sha256: [7; 32] };
    assert!(matches!(store.submit(NewJob { idempotency: Some(again), ..busybox(0) }).await, Ok(Submission::Existing(_))));
    assert_eq!(store.gpu_records(&HostId::from_trusted("box1")).await.expect("read")[0].gpu, GpuId::from_trusted("GPU-1"));
}

#[tokio::test]
async fn before_an_upgrade_a_copy_is_kept_and_leads_back() {
    let dumps = dumps();
    let (version, dump) = dumps.iter().find(|(version, _)| **version < migrations::MIGRATIONS.len()).expect("an earlier one");
    let (dir, path) = load(dump);
    let kept = dir.path().join(format!("queue.db.schema-{version}"));
    std::fs::write(dir.path().join("queue.db.schema-1"), "of an upgrade before this one").expect("written");
    drop(SqliteStore::open(&path).expect("upgraded"));
    assert!(!dir.path().join("queue.db.schema-1").exists(), "one is kept");
    let restored = super::restore(&path, &kept, t(0)).expect("the way back");
    assert_eq!(restored.contents.schema, *version, "a restore does not upgrade");
    std::fs::remove_file(&kept).expect("removed");
    drop(SqliteStore::open(&path).expect("upgraded again"));
    std::fs::remove_file(&kept).expect("a copy again");
    drop(SqliteStore::open(&path).expect("up to date"));
    assert!(!kept.exists(), "no copy where nothing changes");
}
