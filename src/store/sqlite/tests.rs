//! The contract of every store, and what only a file can get wrong.

use std::os::unix::fs::PermissionsExt as _;

use futures_util::future::join_all;
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::store::contract_tests::claims::{claims_follow_the_model, deeds};
use crate::store::contract_tests::shares::{arrivals, turns_are_fair};
use crate::store::contract_tests::{claim, command, created, every_rule, gitlab, requirement};

pub(super) fn open() -> (SqliteStore, TempDir) {
    let dir = tempfile::tempdir().expect("a directory");
    (SqliteStore::open(&dir.path().join("data/queue.db")).expect("a store"), dir)
}

/// An error with its causes.
fn words(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        words = format!("{words}: {error}");
        cause = error.source();
    }
    words
}

fn refused(path: &Path) -> String {
    words(&SqliteStore::open(path).expect_err("it was opened"))
}

/// Without threads, as simulations have it.
mod in_memory {
    use super::*;

    fn open() -> std::future::Ready<(SqliteStore, ())> {
        std::future::ready((SqliteStore::in_memory(Arc::default()).expect("a store"), ()))
    }

    every_rule!(open);
}

fn opened() -> std::future::Ready<(SqliteStore, TempDir)> {
    std::future::ready(open())
}

every_rule!(opened);

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn claims_follow_a_plain_list(deeds in deeds()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        runtime.block_on(async {
            let (store, dir) = open();
            claims_follow_the_model(&store, deeds).await;
            drop(store);
            counters_are_true(&dir.path().join("data/queue.db"));
        });
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn turns_between_projects_are_fair(arrivals in arrivals()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        runtime.block_on(async {
            let (store, _dir) = open();
            turns_are_fair(&store, arrivals).await;
        });
    }
}

#[tokio::test]
async fn a_queue_from_before_there_were_shares_goes_by_age() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("queue.db");
    let mut connection = rusqlite::Connection::open(&path).expect("a database");
    migrations::migrate(&mut connection, &migrations::MIGRATIONS[..2]).expect("migrated");
    let spec = serde_json::to_string(&requirement("default", 1000)).expect("JSON");
    connection
        .execute("INSERT INTO requirements (key, class, spec) VALUES (?1, 'default', ?2)", [requirement("default", 1000).key(), spec])
        .expect("a requirement");
    for id in ["old-1", "old-2"] {
        let job = command(requirement("default", 1000), 0).job;
        let spec = serde_json::to_string(&job.spec).expect("JSON");
        let sql = "INSERT INTO jobs (id, requirement_id, source, class, priority, spec, state, created_at) VALUES (?1, 1, 'api', 'default', 0, ?2, 'queued', 0)";
        connection.execute(sql, [id, &spec]).expect("a job");
    }
    migrations::migrate(&mut connection, migrations::MIGRATIONS).expect("migrated");
    let heads = connection.prepare(&queue::HEAD.replace("?1", "1")).expect("a query").query_row([], |row| row.get::<_, String>(3));
    assert_eq!(heads.expect("a job"), "old-1");
    let shares: Vec<i64> = {
        let mut all = connection.prepare("SELECT share FROM jobs").expect("a query");
        all.query_map([], |row| row.get(0)).expect("rows").collect::<Result<_, _>>().expect("rows")
    };
    assert_eq!(shares, [0, 0]);
}

/// The counters that triggers keep are what counting gives.
pub(super) fn counters_are_true(path: &Path) {
    let connection = rusqlite::Connection::open(path).expect("a database");
    let wrong = |sql: &str| connection.query_row(&format!("SELECT count(*) FROM ({sql})"), [], |row| row.get::<_, i64>(0)).expect("counted");
    let ready = "SELECT id FROM requirements r WHERE ready <> (SELECT count(*) FROM jobs WHERE requirement_id = r.id \
                 AND state = 'queued' AND not_before IS NULL)";
    let states = "SELECT state FROM job_counts c WHERE jobs <> (SELECT count(*) FROM jobs WHERE state = c.state)";
    let projects = "SELECT project FROM queue_lengths q WHERE jobs <> (SELECT count(*) FROM jobs WHERE ifnull(project, '') = q.project \
                    AND state = 'queued')";
    assert_eq!((wrong(ready), wrong(states), wrong(projects)), (0, 0, 0));
}

#[tokio::test]
async fn many_requests_share_a_commit() {
    let (store, _dir) = open();
    let before = store.tally();
    let stored = join_all((0..1500).map(|_| store.submit(command(requirement("default", 1000), 0)))).await;
    assert!(stored.iter().all(Result::is_ok));
    let (commits, operations) = (store.tally().commits - before.commits, store.tally().operations - before.operations);
    assert_eq!(operations, 1500);
    assert!((6..=300).contains(&commits), "{commits} commits for {operations} operations, 256 at most in one");
}

#[tokio::test]
async fn a_reopened_file_keeps_everything() {
    let (store, dir) = open();
    let path = dir.path().join("data/queue.db");
    let job = created(&store, gitlab(requirement("default", 1000), 0, 1)).await;
    let claimed = claim(&store, 1).await.expect("a job");
    let instance = store.instance().to_owned();
    drop(store);
    assert!(!path.with_extension("db-wal").exists(), "the log was not taken in");
    let store = SqliteStore::open(&path).expect("a store");
    assert_eq!(store.instance(), instance);
    assert_eq!(store.runner(&claimed.runner.id).await.expect("read"), Some(claimed));
    assert!(store.gitlab_job(&job.id).await.expect("read").is_some());
}

#[tokio::test]
async fn a_killed_store_keeps_what_it_answered() {
    let (store, dir) = open();
    let job = created(&store, command(requirement("default", 1000), 0)).await;
    // What another process would find had we died here: the files as they are, without our taking the log in.
    let copy = dir.path().join("copy.db");
    for suffix in ["", "-wal"] {
        std::fs::copy(format!("{}/data/queue.db{suffix}", dir.path().display()), format!("{}{suffix}", copy.display())).expect("copied");
    }
    let after = SqliteStore::open(&copy).expect("a store");
    assert_eq!(after.job(&job.id).await.expect("read"), Some(job));
    assert_eq!(after.instance(), store.instance());
}

#[tokio::test]
async fn a_second_store_on_the_same_file_is_refused() {
    let (store, dir) = open();
    let path = dir.path().join("data/queue.db");
    let why = refused(&path);
    assert!(why.contains("queue.db is in use") && why.contains("queue.db.lock"), "{why}");
    drop(store);
    drop(SqliteStore::open(&path).expect("free again"));
}

#[tokio::test]
async fn files_are_for_their_owner_only() {
    let (_store, dir) = open();
    let mode = |name: &str| std::fs::metadata(dir.path().join(name)).expect(name).permissions().mode() & 0o777;
    assert_eq!(mode("data"), 0o700);
    for name in ["data/queue.db", "data/queue.db-wal", "data/queue.db-shm", "data/queue.db.lock"] {
        assert_eq!(mode(name), 0o600, "{name}");
    }
}

#[tokio::test]
async fn a_file_that_cannot_be_read_is_never_replaced() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("queue.db");
    let whole = {
        let store = SqliteStore::open(&path).expect("a store");
        for _ in 0..200 {
            created(&store, command(requirement("default", 1000), 0)).await;
        }
        drop(store);
        std::fs::read(&path).expect("a file")
    };
    let mut damaged = whole.clone();
    damaged[8192 * 2..8192 * 6].fill(0x55);
    let foreign = dir.path().join("foreign.db");
    rusqlite::Connection::open(&foreign).expect("a database").execute_batch("CREATE TABLE other (x)").expect("a table");
    let foreign = std::fs::read(foreign).expect("a file");
    let cases: [(&str, &[u8]); 5] =
        [("empty", b""), ("text", &[b'x'; 9000]), ("cut", &whole[..whole.len() / 2]), ("damaged", &damaged), ("foreign", &foreign)];
    for (name, bytes) in cases {
        std::fs::write(&path, bytes).expect("written");
        let why = refused(&path);
        assert!(why.contains("queue.db cannot be used"), "{name}: {why}");
        assert_eq!(std::fs::read(&path).expect("a file"), bytes, "{name} was changed");
    }
    std::fs::remove_file(&path).expect("removed");
    std::fs::write(dir.path().join("queue.db-wal"), b"x").expect("written");
    assert!(refused(&path).contains("write-ahead log"));
}

#[tokio::test]
async fn a_newer_file_is_refused() {
    let (store, dir) = open();
    drop(store);
    let path = dir.path().join("data/queue.db");
    rusqlite::Connection::open(&path).expect("a database").pragma_update(None, "user_version", 99).expect("set");
    let why = refused(&path);
    assert!(why.contains("schema is version 99") && why.contains("queue.db"), "{why}");
}

#[test]
fn a_failed_migration_leaves_no_trace() {
    let mut connection = rusqlite::Connection::open_in_memory().expect("a database");
    let version = |connection: &rusqlite::Connection| connection.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0));
    let bad = ["CREATE TABLE a (x)", "CREATE TABLE b (x); INSERT INTO nowhere VALUES (1)"];
    let why = words(&migrations::migrate(&mut connection, &bad).expect_err("it was taken"));
    assert!(why.contains("migration 2 failed"), "{why}");
    assert_eq!(version(&connection), Ok(0), "not the first either");
    migrations::migrate(&mut connection, &["CREATE TABLE a (x)", "CREATE TABLE b (x)"]).expect("the rest is taken");
    assert_eq!(version(&connection), Ok(2));
}

#[tokio::test]
async fn no_question_scans_the_queue() {
    let (store, dir) = open();
    drop(store);
    let connection = rusqlite::Connection::open(dir.path().join("data/queue.db")).expect("a database");
    let plan = |sql: &str| {
        let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).expect(sql);
        statement.query_map([], |row| row.get::<_, String>(3)).expect(sql).collect::<Result<Vec<_>, _>>().expect(sql).join("; ")
    };
    let bound = |sql: &str| ["?1", "?2", "?3", "?4", "?5"].into_iter().fold(sql.to_owned(), |sql, name| sql.replace(name, "1"));
    let job = |rest: &str| format!("{} WHERE {rest} ORDER BY j.id DESC LIMIT 5", rows::JOB);
    let cases = [
        (queue::HEAD.replace("?1", "1"), "jobs_ready "),
        (queue::GITLAB_HEAD.replace("?1", "1"), "jobs_ready_gitlab "),
        (bound(queue::AHEAD_BY_PRIORITY), "jobs_ready (requirement_id=? AND priority>?)"),
        (bound(queue::AHEAD_BY_SHARE), "jobs_ready (requirement_id=? AND priority=? AND share<?)"),
        (bound(queue::AHEAD_BY_AGE), "jobs_ready (requirement_id=? AND priority=? AND share=? AND rowid<?)"),
        (bound(history::READY_OF_CLASS), "requirements_ready (class=?)"),
        (bound(history::OLDEST_OF_CLASS), "jobs_by_class (class=? AND state=?)"),
        (bound(share::FORGET), "shares_behind (priority=? AND promised<?)"),
        (bound(&format!("{} {}", rows::EVENT, history::LATEST)), "events_by_job "),
        (job("j.id < 'x'"), "(id<?)"),
        (job("j.state = 'queued' AND j.id < 'x'"), "jobs_by_state "),
        (job("j.project = 'p' AND j.state = 'queued' AND j.id < 'x'"), "jobs_by_project "),
        (job("j.class = 'p' AND j.state = 'queued' AND j.id < 'x'"), "jobs_by_class "),
        ("SELECT min(created_at) FROM jobs INDEXED BY jobs_oldest WHERE state = 'queued'".to_owned(), "jobs_oldest"),
        ("SELECT min(not_before) FROM jobs INDEXED BY jobs_due WHERE state = 'queued' AND not_before IS NOT NULL".to_owned(), "jobs_due"),
        (
            "UPDATE jobs INDEXED BY jobs_due SET not_before = NULL WHERE state = 'queued' AND not_before IS NOT NULL AND not_before <= 5".to_owned(),
            "jobs_due",
        ),
        (bound(jobs::LATEST_RETRY), "jobs_by_retry (retry_of=?"),
        (bound(retention::DUE), "jobs_by_end (ended_at<?)"),
        (bound(retention::EVENTS_OF_JOB), "events_by_job (job_id=?)"),
        (bound(retention::OF_NO_JOB[0]), "runners_gone (state_since<?)"),
        (bound(retention::OF_NO_JOB[1]), "events_of_no_job (at<?)"),
        (bound(retention::USAGE), "project_usage_by_end (last_at<?)"),
        (bound(deliveries::LATEST), "deliveries_by_job (gitlab_id=? AND url=? AND status=?"),
        (bound(usage::MOST), "project_usage_most"),
        (bound(caps::USED), "jobs_by_project (project=? AND state=?)"),
        ("SELECT id, spec, ready, project FROM requirements WHERE ready > 0".to_owned(), "requirements_ready"),
        (format!("{} WHERE job_id = 'x' AND seq > 5 ORDER BY seq LIMIT 5", rows::EVENT), "events_by_job "),
        (format!("{} WHERE host = 'x' AND state <> 'gone' ORDER BY id", rows::RUNNER), "runners_open "),
    ];
    for (sql, index) in cases {
        let plan = plan(&sql);
        assert!(plan.contains(index) && !plan.contains("B-TREE"), "{sql}\n{plan}");
    }
}
