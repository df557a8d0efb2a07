//! What the rule takes and what it leaves, against a plain list; and how long the writer is held.

use std::io::Write as _;
use std::time::Instant;

use proptest::prelude::*;

use super::*;
use crate::domain::{EndReason, EventKind, Outcome, RunnerId};
use crate::store::contract_tests::{OFF, claim, command, created, ended, requirement, t, take, up};
use crate::store::sqlite::SqliteStore;
use crate::store::sqlite::tests::{counters_are_true, open};
use crate::store::{Keep, Store as _};

/// How far a job has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Waits,
    Starts,
    Runs,
    BacksOff,
    /// It ended, and its container is there still.
    Winds,
    Over,
    /// It was cancelled before it had a runner.
    Cancelled,
}

const FATES: [Fate; 7] = [Fate::Waits, Fate::Starts, Fate::Runs, Fate::BacksOff, Fate::Winds, Fate::Over, Fate::Cancelled];

/// Leads a job there; those that are to wait come last, because the first that waits is claimed.
async fn lead(store: &SqliteStore, fate: Fate, at: i64) -> JobId {
    let job = created(store, command(requirement("default", 1000 + at.unsigned_abs() % 5), 0)).await.id;
    if fate == Fate::Waits {
        return job;
    }
    if fate == Fate::Cancelled {
        store.cancel_job(&job, EndReason::CanceledByUser, t(at)).await.expect("cancelled");
        return job;
    }
    let runner: RunnerId = claim(store, at).await.expect("a job").runner.id;
    match fate {
        Fate::Starts | Fate::Waits | Fate::Cancelled => {}
        Fate::BacksOff => drop(take(store, &runner, [ended(Outcome::infrastructure(EndReason::StartFailed, "no"))], at).await),
        Fate::Runs => drop(take(store, &runner, up(), at).await),
        Fate::Winds => drop(take(store, &runner, up().into_iter().chain([ended(Outcome::Succeeded)]), at).await),
        Fate::Over => drop(take(store, &runner, up().into_iter().chain([ended(Outcome::Succeeded)]).chain(OFF), at).await),
    }
    job
}

/// The rule on a plain list: what goes, oldest end first.
fn to_go(jobs: &[(JobId, Fate, i64)], keep: &Keep) -> Vec<JobId> {
    let (since, spare) = (keep.since.as_millisecond(), keep.spare_since.as_millisecond());
    let has_ended = |fate| matches!(fate, Fate::Over | Fate::Cancelled | Fate::Winds);
    let mut may: Vec<_> = jobs.iter().filter(|(_, fate, _)| has_ended(*fate) && *fate != Fate::Winds).collect();
    may.sort_by_key(|(_, _, at)| *at);
    let at = |at: i64| t(at).as_millisecond();
    let mut gone: Vec<_> = may.iter().filter(|(_, _, ended)| at(*ended) < since).map(|(job, ..)| job.clone()).collect();
    let left = jobs.iter().filter(|(_, fate, _)| has_ended(*fate)).count() - gone.len();
    let excess = left.saturating_sub(keep.most_jobs as usize);
    let early = may.iter().filter(|(_, _, ended)| at(*ended) >= since && at(*ended) < spare);
    gone.extend(early.take(excess).map(|(job, ..)| job.clone()));
    gone.sort();
    gone
}

/// Rows that refer to a job that is not there, and requirements that no job has, the newest left out.
fn orphans(path: &std::path::Path) -> Vec<(String, i64)> {
    let connection = rusqlite::Connection::open(path).expect("a database");
    let tables = ["attempts", "events", "gpu_usage", "gitlab_jobs", "idempotency", "runners"];
    let of_jobs = tables.map(|table| (table, format!("SELECT count(*) FROM {table} WHERE job_id NOT IN (SELECT id FROM jobs)")));
    let requirements =
        "SELECT count(*) FROM requirements WHERE id NOT IN (SELECT requirement_id FROM jobs) AND id < (SELECT max(id) FROM requirements)";
    let all = of_jobs.into_iter().chain([("requirements", requirements.to_owned())]);
    let count = |sql: &str| connection.query_row(sql, [], |row| row.get(0)).expect("counted");
    all.map(|(table, sql)| (table.to_owned(), count(&sql))).filter(|(_, rows)| *rows > 0).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn what_is_open_stays_and_what_ended_goes_by_the_rule(
        mut fates in prop::collection::vec((prop::sample::select(FATES.to_vec()), 1_i64..20), 1..20),
        since in 0_i64..25, spare in 0_i64..25, most_jobs in 0_u32..10,
    ) {
        fates.sort_by_key(|(fate, _)| *fate == Fate::Waits);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        runtime.block_on(async {
            let (store, dir) = open();
            let mut jobs = Vec::new();
            for (fate, at) in fates {
                jobs.push((lead(&store, fate, at).await, fate, at));
            }
            let keep = Keep { since: t(since), most_jobs, spare_since: t(spare), usage_since: t(since) };
            let expected = to_go(&jobs, &keep);
            let mut gone = Vec::new();
            loop {
                let some = store.forget_ended(&keep).await.expect("forgotten");
                gone.extend(some.jobs);
                if some.is_all {
                    break;
                }
            }
            gone.sort();
            // Of those that ended in the same moment either may be the older.
            if since <= spare {
                prop_assert_eq!(gone.len(), expected.len());
            }
            for (job, fate, at) in &jobs {
                let stays = store.job(job).await.expect("read").is_some();
                prop_assert_eq!(stays, !gone.contains(job), "{:?} at {}", fate, at);
                let open = !matches!(fate, Fate::Over | Fate::Cancelled);
                prop_assert!(stays || !open, "{:?} at {} went", fate, at);
                prop_assert!(!stays || open || *at >= since, "{:?} at {} stayed", fate, at);
            }
            let path = dir.path().join("data/queue.db");
            drop(store);
            counters_are_true(&path);
            prop_assert_eq!(orphans(&path), []);
            Ok(())
        })?;
    }
}

#[tokio::test]
async fn a_database_refuses_to_delete_what_is_open() {
    let (store, dir) = open();
    lead(&store, Fate::Runs, 1).await;
    lead(&store, Fate::Waits, 1).await;
    drop(store);
    let connection = rusqlite::Connection::open(dir.path().join("data/queue.db")).expect("a database");
    for sql in ["DELETE FROM jobs WHERE state = 'queued'", "DELETE FROM runners"] {
        let refused = connection.execute(sql, []).expect_err("deleted").to_string();
        assert!(refused.contains("open") && refused.contains("not deleted"), "{sql}: {refused}");
    }
}

#[tokio::test]
async fn a_job_with_a_long_history_goes_in_several_batches() {
    let (store, dir) = open();
    let job = created(&store, command(requirement("default", 1000), 0)).await.id;
    let runner = claim(&store, 1).await.expect("a job").runner.id;
    take(&store, &runner, up(), 1).await;
    let note = |number| EventKind::Progress { message: format!("{number}"), percent: None };
    let notes = (0..2 * ROWS_AT_ONCE).map(|number| store.note(&runner, note(number), t(2)));
    futures_util::future::try_join_all(notes).await.expect("noted");
    take(&store, &runner, [ended(Outcome::Succeeded)].into_iter().chain(OFF), 3).await;
    let keep = Keep { since: t(100), most_jobs: 0, spare_since: t(100), usage_since: t(0) };
    let mut batches = Vec::new();
    while !batches.last().is_some_and(|last: &Forgotten| last.is_all) {
        let batch = store.forget_ended(&keep).await.expect("forgotten");
        assert!(batch.rows <= u64::from(ROWS_AT_ONCE) + 20, "{batch:?}");
        batches.push(batch);
    }
    assert_eq!(batches.iter().map(|batch| batch.jobs.len()).collect::<Vec<_>>(), [0, 0, 1, 0]);
    assert_eq!(store.job(&job).await.expect("read"), None);
    drop(store);
    assert_eq!(orphans(&dir.path().join("data/queue.db")), []);
}

/// Ended jobs as their lives would leave them, written directly, because a hundred thousand lives take minutes.
fn fill(path: &std::path::Path, jobs: i64) {
    let connection = rusqlite::Connection::open(path).expect("a database");
    connection
        .execute_batch(&format!(
            "PRAGMA synchronous = OFF; BEGIN;
             INSERT OR IGNORE INTO requirements (id, key, class, spec) VALUES (1, 'k', 'default', '{{}}'), (2, 'l', 'default', '{{}}');
             CREATE TEMP TABLE n AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {jobs}) SELECT i FROM n;
             INSERT INTO jobs (id, requirement_id, source, class, priority, spec, state, ended_at, outcome, attempt, created_at)
               SELECT printf('j%08d', i), 1, 'api', 'default', 0, printf('%.600c', 'x'), 'succeeded', i, '{{}}', 1, i FROM n;
             INSERT INTO attempts (job_id, number, runner_id, host, placement) SELECT printf('j%08d', i), 1, 'r', 'box1', '{{}}' FROM n;
             INSERT INTO runners (id, class, host, origin, state, state_since, job_id, attempt, placement, created_at, restarts, engine_epoch)
               SELECT printf('r%08d', i), 'default', 'box1', 'job', 'gone', i, printf('j%08d', i), 1, '{{}}', i, 0, 0 FROM n;
             INSERT INTO events (at, job_id, body) SELECT i, printf('j%08d', i), '{{\"kind\":\"submitted\"}}' FROM n, (SELECT 1 UNION ALL SELECT 2
               UNION ALL SELECT 3 UNION ALL SELECT 4 UNION ALL SELECT 5 UNION ALL SELECT 6 UNION ALL SELECT 7);
             DROP TABLE n; COMMIT;"
        ))
        .expect("filled");
}

fn pages(path: &std::path::Path) -> i64 {
    let connection = rusqlite::Connection::open(path).expect("a database");
    connection.pragma_query_value(None, "page_count", |row| row.get(0)).expect("a count")
}

/// 5,000 here; `RC_RETENTION_JOBS` says how many for a measurement.
#[tokio::test]
async fn the_room_of_what_went_is_used_again_and_no_batch_is_long() {
    let jobs: i64 = crate::config::secret_of_env("RC_RETENTION_JOBS")
        .map_or(5_000, |text| secrecy::ExposeSecret::expose_secret(&text).parse().expect("a number"));
    let (store, dir) = open();
    drop(store);
    let path = dir.path().join("data/queue.db");
    let mut sizes = Vec::new();
    for _ in 0..3 {
        fill(&path, jobs);
        let store = SqliteStore::open(&path).expect("a store");
        let keep = Keep { since: t(0), most_jobs: 0, spare_since: t(0), usage_since: t(0) };
        let (mut longest, mut gone, began) = (std::time::Duration::ZERO, 0, Instant::now());
        loop {
            let asked = Instant::now();
            let batch = store.forget_ended(&keep).await.expect("forgotten");
            longest = longest.max(asked.elapsed());
            gone += batch.jobs.len();
            assert!(batch.jobs.len() <= JOBS_AT_ONCE as usize && batch.rows <= u64::from(ROWS_AT_ONCE) + 20);
            if batch.is_all {
                break;
            }
        }
        let wal = std::fs::metadata(dir.path().join("data/queue.db-wal")).map_or(0, |about| about.len());
        let _ = writeln!(std::io::stdout(), "{gone} jobs in {:?}, the longest batch {longest:?}, WAL {} KiB", began.elapsed(), wal >> 10);
        assert_eq!(i64::try_from(gone), Ok(jobs));
        assert!(wal <= 64 << 20, "{wal}");
        drop(store);
        sizes.push(pages(&path));
    }
    assert!(sizes[2] <= sizes[0] + sizes[0] / 10, "{sizes:?}");
}
