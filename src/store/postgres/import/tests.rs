//! A store is taken over whole or not at all.

use std::collections::BTreeSet;
use std::sync::Arc;

use rusqlite::Connection;
use tempfile::TempDir;
use tokio_util::task::TaskTracker;

use super::*;
use crate::domain::{EndReason, GpuRequest, HostId, ImageRef, JobId, JobState, Requirement, RunnerOrigin, RunnerState};
use crate::store::contract_tests::{candidates, command, created, of_project, planned, requirement, t};
use crate::store::postgres::Machine;
use crate::store::postgres::test_database::TestDatabase;
use crate::store::sqlite::upgrade_tests::lived_in;
use crate::store::{EventQuery, JobFilter, Keep, PostgresStore, RunnerFilter, SqliteStore, Store, StoreError};

/// A store with jobs in every state, rows in every table, and gaps where what ended was forgotten.
async fn source(dir: &TempDir) -> PathBuf {
    let path = dir.path().join("queue.db");
    let store = SqliteStore::open(&path).expect("a store");
    // What comes first goes again: numbers and positions do not begin at 1.
    let keep = Keep { since: t(1_000_000), most_jobs: u32::MAX, spare_since: t(1_000_000), usage_since: t(0) };
    let early = created(&store, command(requirement("default", 1000), 0)).await.id;
    store.cancel_job(&early, EndReason::CanceledByUser, t(1)).await.expect("canceled");
    store.forget_ended(&keep).await.expect("forgotten");
    lived_in(&store).await;
    for (n, project) in ["b", "a", "b", "ä", "b", "a"].into_iter().enumerate() {
        let mut new = of_project(command(requirement(["default", "other"][n % 2], 1000 + n as u64), i32::from(n == 4)), project);
        new.weight = if project == "b" { 3 } else { 1 };
        created(&store, new).await;
    }
    let gpus = Requirement { gpus: Some(GpuRequest::any(3)), ..requirement("default", 1000) };
    created(&store, of_project(command(gpus, 0), "a")).await;
    store.plan_runner(&planned("gitlab", RunnerOrigin::Request)).await.expect("stored");
    store.remember_image(&HostId::from_trusted("box1"), &ImageRef::from_trusted("debian"), t(90)).await.expect("stored");
    // The newest of all goes too.
    let late = created(&store, command(requirement("default", 1000), 0)).await.id;
    store.cancel_job(&late, EndReason::CanceledByUser, t(1)).await.expect("canceled");
    drop(store);
    let plain = Connection::open(&path).expect("a database");
    plain.execute("DELETE FROM events WHERE job_id = ?1", [late.as_str()]).expect("gone");
    plain.execute("DELETE FROM jobs WHERE id = ?1", [late.as_str()]).expect("gone");
    path
}

async fn target(database: &TestDatabase) -> PostgresStore {
    opened(&database.url()).await.unwrap_or_else(|error| panic!("{}", crate::domain::chain(&error)))
}

async fn opened(url: &SecretString) -> Result<PostgresStore, StoreError> {
    PostgresStore::open(url, &HostId::from_trusted("box1"), &Machine::named("box1"), Arc::default()).await
}

/// All that a store answers.
async fn told(store: &dyn Store) -> Vec<String> {
    let mut told = Vec::new();
    let mut tell = |what: &str, answer: &dyn std::fmt::Debug| told.push(format!("{what}: {answer:?}"));
    tell("instance", &store.instance());
    let jobs = store.jobs(JobFilter { limit: 1000, ..JobFilter::default() }).await.expect("jobs");
    for job in &jobs {
        tell("job", job);
        tell("attempts", &store.attempts(&job.id).await.expect("attempts"));
        tell("events", &store.events(EventQuery { job: Some(job.id.clone()), after: 0, limit: 1000 }).await.expect("events"));
        tell("latest event", &store.latest_event(&job.id).await.expect("an event"));
        tell("for the broker", &store.gitlab_job(&job.id).await.expect("read"));
        tell("retry", &store.latest_retry(&job.id).await.expect("read"));
        tell("GPUs", &store.gpu_usage(&job.id).await.expect("read"));
    }
    let newest = store.newest_event().await.expect("a position");
    for after in [0, 5, newest - 1, newest] {
        tell("history", &store.events(EventQuery { job: None, after, limit: 1000 }).await.expect("events"));
    }
    tell("newest event", &newest);
    let states = RunnerState::NAMES.map(str::to_owned).to_vec();
    tell("runners", &store.runners(RunnerFilter { states, limit: 1000, ..RunnerFilter::default() }).await.expect("runners"));
    for host in ["box1", "box2"].map(HostId::from_trusted) {
        tell("open runners", &store.open_runners(&host).await.expect("runners"));
        tell("drain", &store.drain(&host).await.expect("a drain"));
        tell("GPU records", &store.gpu_records(&host).await.expect("records"));
        tell("images", &store.images(&host).await.expect("images"));
    }
    let waiting = store.waiting().await.expect("the queue");
    tell("waiting", &waiting);
    let among: Vec<_> = waiting.iter().map(|waiting| waiting.id).collect();
    for job in jobs.iter().filter(|job| matches!(job.state, JobState::Queued { .. })) {
        tell("ahead", &store.ahead(&job.id, &among, 100).await.expect("a count"));
    }
    let mut counts = store.counts().await.expect("counts");
    counts.jobs.retain(|(_, jobs)| *jobs > 0);
    counts.jobs.sort();
    counts.runners.sort();
    tell("counts", &counts);
    // All are equally old.
    let mut groups = store.queue_groups(1000).await.expect("groups");
    groups.sort_by_key(|group| format!("{group:?}"));
    tell("groups", &groups);
    let classes: Vec<_> = ["default", "other", "gitlab", "none"].map(crate::domain::ClassName::from_trusted).into();
    tell("classes", &store.class_queues(&classes).await.expect("queues"));
    tell("projects", &store.project_usage(t(100), 10).await.expect("sums"));
    tell("of GitLab", &store.jobs_of_gitlab("https://gitlab.example.com", 4711).await.expect("jobs"));
    told
}

/// Claims all that can be claimed; the jobs in their order.
async fn claimed(store: &dyn Store) -> Vec<JobId> {
    store.promote_due(t(10_000_000)).await.expect("promoted");
    let mut claimed = Vec::new();
    while let Some(bound) = store.claim(&candidates(store).await, t(10_000_000)).await.expect("a claim") {
        claimed.push(bound.job.expect("a job").id);
    }
    claimed
}

async fn rows(database: &TestDatabase, table: &str) -> i64 {
    database.connect().await.query_one(&format!("SELECT count(*) FROM {table}"), &[]).await.expect("counted").get(0)
}

async fn tables(database: &TestDatabase) -> i64 {
    rows(database, "pg_tables WHERE schemaname = 'public'").await
}

/// Brings a database to the present schema without being a daemon.
async fn prepare(database: &TestDatabase) {
    drop(rustls::crypto::ring::default_provider().install_default());
    let mut address = Address::read(&database.url()).expect("an address");
    address.config.application_name("a test");
    let pool = Database::new(&address, Arc::default()).expect("a pool");
    open::open(&pool).await.expect("opened");
}

async fn refused(path: &Path, database: &TestDatabase) -> ImportError {
    import(path, &database.url()).await.expect_err("it was copied")
}

#[tokio::test]
async fn what_both_stores_answer_is_the_same() {
    let (dir, database) = (TempDir::new().expect("a directory"), TestDatabase::make().await);
    let path = source(&dir).await;
    let before = std::fs::read(&path).expect("a file");
    let done = import(&path, &database.url()).await.unwrap_or_else(|error| panic!("{}", crate::domain::chain(&error)));
    assert!(std::fs::read(&path).expect("a file") == before, "the source is as it was");
    for ImportedTable { name, rows } in &done.tables {
        assert!(*rows > 0, "the test's store has no rows in {name}");
        assert_eq!(i64::try_from(*rows).expect("few"), self::rows(&database, name).await, "{name}");
    }
    assert_eq!(done.tables.len(), 17, "{:?}", done.tables);
    let (old, new) = (SqliteStore::open(&path).expect("a store"), target(&database).await);
    assert_eq!(done.instance, old.instance());
    let (expected, found) = (told(&old).await, told(&new).await);
    for (expected, found) in expected.iter().zip(&found) {
        assert_eq!(expected, found);
    }
    assert_eq!(expected.len(), found.len());
    let gpus = database.connect().await.query_one("SELECT sum(gpus)::bigint FROM requirements", &[]).await.expect("a sum");
    assert_eq!(gpus.get::<_, i64>(0), 3, "those that the limits of projects are reckoned with");
    let newest = old.newest_event().await.expect("a position");
    let order = claimed(&old).await;
    assert!(order.len() > 6, "{order:?}");
    assert_eq!(claimed(&new).await, order);
    // What comes now comes after all that was there.
    let next = created(&new, command(requirement("default", 1000), 0)).await.id;
    assert!(new.latest_event(&next).await.expect("read").expect("an event").seq > newest);
    assert_eq!(claimed(&new).await, [next]);
}

#[tokio::test]
async fn a_target_that_holds_anything_is_refused() {
    let (dir, database) = (TempDir::new().expect("a directory"), TestDatabase::make().await);
    let path = source(&dir).await;
    let client = database.connect().await;
    client.batch_execute("CREATE TABLE customers (id INT); INSERT INTO customers VALUES (1)").await.expect("of somebody else");
    assert!(matches!(refused(&path, &database).await, ImportError::NotEmpty { .. }));
    client.batch_execute("DROP TABLE customers").await.expect("dropped");
    assert_eq!(tables(&database).await, 0, "nothing was made");
    prepare(&database).await;
    for (table, add) in [
        ("images", "INSERT INTO images VALUES ('box1', 'debian', 0)"),
        // One that this program does not know.
        ("later", "CREATE TABLE later (id INT); INSERT INTO later VALUES (1)"),
    ] {
        client.batch_execute(add).await.expect(add);
        let error = refused(&path, &database).await;
        assert!(matches!(&error, ImportError::NotEmpty { table: found, .. } if found == table), "{error}");
        client.batch_execute(&format!("DELETE FROM {table}")).await.expect("deleted");
    }
    import(&path, &database.url()).await.expect("copied");
    assert!(matches!(refused(&path, &database).await, ImportError::NotEmpty { .. }), "only once");
}

#[tokio::test]
async fn a_target_of_a_running_daemon_is_refused_and_one_that_starts_meanwhile_finds_it_whole() {
    let (dir, database) = (TempDir::new().expect("a directory"), TestDatabase::make().await);
    let path = source(&dir).await;
    let daemon = target(&database).await;
    assert!(matches!(refused(&path, &database).await, ImportError::InUse { .. }));
    drop(daemon);
    let database = TestDatabase::make().await;
    prepare(&database).await;
    // As who copies.
    let other = database.connect().await;
    other.batch_execute(&format!("BEGIN; SELECT pg_advisory_xact_lock({}, {})", open::LOCKS, open::MIGRATING)).await.expect("locked");
    let url = database.url();
    let starts = TaskTracker::new().spawn(async move { opened(&url).await.expect("a store").instance().to_owned() });
    let client = database.connect().await;
    let waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
    let deadline = Instant::now() + Duration::from_secs(30);
    while client.query_one(waits, &[]).await.expect("counted").get::<_, i64>(0) == 0 {
        assert!(Instant::now() < deadline, "it does not wait");
        tokio::task::yield_now().await;
    }
    other
        .batch_execute(
            "INSERT INTO hosts (host, instance, machine, lease, renewed_at) VALUES ('box1', 'taken-over', '', 0, clock_timestamp()); COMMIT",
        )
        .await
        .expect("named");
    assert_eq!(starts.await.expect("it starts"), "taken-over");
}

#[tokio::test]
async fn a_copy_that_breaks_off_leaves_nothing_and_can_be_tried_again() {
    let (dir, database) = (TempDir::new().expect("a directory"), TestDatabase::make().await);
    let path = source(&dir).await;
    prepare(&database).await;
    let client = database.connect().await;
    let breaks = "CREATE FUNCTION breaks() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no' USING DETAIL = 'a secret'; END $$; \
                  CREATE TRIGGER breaks BEFORE INSERT ON runners EXECUTE FUNCTION breaks()";
    client.batch_execute(breaks).await.expect("made");
    let error = refused(&path, &database).await;
    assert_eq!(crate::domain::chain(&error), "the target failed to write table runners: no");
    client.batch_execute("DROP TRIGGER breaks ON runners").await.expect("dropped");
    for table in ["requirements", "jobs", "events", "tallies"] {
        assert_eq!(rows(&database, table).await, 0, "{table}");
    }

    let plain = Connection::open(&path).expect("a database");
    plain.execute_batch("UPDATE drains SET drain = drain || char(0)").expect("a NUL byte");
    let error = refused(&path, &database).await;
    assert!(matches!(&error, ImportError::Source(ExportError::Nul { .. })), "{error}");
    let told = error.to_string();
    assert!(told.contains("table drains") && told.contains("column drain") && told.contains("host = \"box2\""), "{told}");
    assert_eq!(rows(&database, "jobs").await, 0);
    let without = "UPDATE drains SET drain = CAST(substr(CAST(drain AS BLOB), 1, length(CAST(drain AS BLOB)) - 1) AS TEXT)";
    plain.execute_batch(without).expect("without");
    drop(plain);
    import(&path, &database.url()).await.expect("copied");
}

#[tokio::test]
async fn what_the_target_changes_is_noticed() {
    let (dir, database) = (TempDir::new().expect("a directory"), TestDatabase::make().await);
    let path = source(&dir).await;
    prepare(&database).await;
    let client = database.connect().await;
    client.batch_execute("CREATE FUNCTION other() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$").await.expect("made");
    let changes = [
        ("attempts", "BEFORE INSERT", "RETURN NULL;"),
        ("jobs", "BEFORE INSERT", "NEW.image := NULL; NEW.priority := NEW.priority + 1; RETURN NEW;"),
        ("tallies", "BEFORE INSERT", "NEW.n := NEW.n + 1; RETURN NEW;"),
    ];
    for (table, when, body) in changes {
        let change = format!(
            "CREATE OR REPLACE FUNCTION other() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} END $$; \
             CREATE TRIGGER other {when} ON {table} FOR EACH ROW EXECUTE FUNCTION other()"
        );
        client.batch_execute(&change).await.expect("made");
        let error = refused(&path, &database).await;
        assert!(matches!(&error, ImportError::Differs { table: found, .. } if found == table), "{table}: {}", crate::domain::chain(&error));
        client.batch_execute(&format!("DROP TRIGGER other ON {table}")).await.expect("dropped");
        assert_eq!(rows(&database, "jobs").await, 0);
    }
    import(&path, &database.url()).await.expect("copied");
}

#[tokio::test]
async fn a_source_that_is_in_use_old_or_none_is_refused() {
    let (dir, database) = (TempDir::new().expect("a directory"), TestDatabase::make().await);
    let path = source(&dir).await;
    let daemon = SqliteStore::open(&path).expect("a store");
    let told = refused(&path, &database).await.to_string();
    assert!(told.contains("is in use by a running runner-coordinator; stop it first"), "{told}");
    drop(daemon);
    let restoring = dir.path().join("queue.db.restoring");
    std::fs::create_dir(&restoring).expect("made");
    assert!(matches!(refused(&path, &database).await, ImportError::Source(ExportError::Restoring(_))));
    std::fs::remove_dir(&restoring).expect("removed");
    let plain = Connection::open(&path).expect("a database");
    plain.execute_batch("PRAGMA user_version = 3").expect("of before");
    let error = refused(&path, &database).await;
    assert!(matches!(error, ImportError::Source(ExportError::Outdated { found: 3, .. })), "{error}");
    let told = refused(&dir.path().join("none"), &database).await.to_string();
    assert!(told.contains("there is no file"), "{told}");
    assert_eq!(tables(&database).await, 0, "nothing was made");
}

#[tokio::test]
async fn no_password_is_shown() {
    let dir = TempDir::new().expect("a directory");
    let path = source(&dir).await;
    for url in [
        "postgres://rc:hunter2@/x?host=/nowhere",
        "postgres://rc:hunter2@localhost:1/x",
        "postgres://rc:hunter2",
        "postgres://rc:hunter2@h/x?sslmode=no",
    ] {
        let error = import(&path, &SecretString::from(url)).await.expect_err("it was copied");
        let told = format!("{} {error:?}", crate::domain::chain(&error));
        assert!(!told.contains("hunter2"), "{told}");
    }
}

#[tokio::test]
async fn every_table_and_column_of_the_target_comes_from_the_source_or_is_known_not_to() {
    let (dir, database) = (TempDir::new().expect("a directory"), TestDatabase::make().await);
    let path = source(&dir).await;
    prepare(&database).await;
    let sql = "SELECT table_name::text, column_name::text FROM information_schema.columns WHERE table_schema = current_schema()";
    let rows = database.connect().await.query(sql, &[]).await.expect("columns");
    let mut there: BTreeSet<(String, String)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let export = Export::open(&path).expect("a source");
    for Table { name, columns } in export.tables().expect("tables") {
        for column in columns {
            assert!(there.remove(&(name.clone(), column.clone())), "the target has no {name}.{column}");
        }
    }
    // What the database is, what its triggers reckon, machines that look for it, and when a row came into it.
    there.retain(|(table, column)| {
        !["meta", "tallies", "hosts"].contains(&table.as_str()) && (table.as_str(), column.as_str()) != ("events", "written_at")
    });
    assert_eq!(there, BTreeSet::new());
}
