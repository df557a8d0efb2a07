//! Rows that make no sense are told, not guessed.

use crate::domain::{Outcome, Step};
use crate::store::contract_tests::{claim, command, created, ended, planned, requirement, take, up};
use crate::store::{Store, StoreError};
use crate::{domain::RunnerOrigin, store::SqliteStore};

#[tokio::test]
async fn a_row_that_makes_no_sense_is_corrupt() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("queue.db");
    let (job, runner) = {
        let store = SqliteStore::open(&path).expect("a store");
        created(&store, command(requirement("default", 1000), 0)).await;
        let claimed = claim(&store, 1).await.expect("a job").runner;
        take(&store, &claimed.id, up().into_iter().chain([ended(Outcome::Succeeded), Step::Exited]), 2).await;
        store.plan_runner(&planned("warm", RunnerOrigin::Pool)).await.expect("stored");
        (claimed.job.expect("a job").0, claimed.id)
    };
    let whole = std::fs::read(&path).expect("a file");
    let of_job = [
        "UPDATE jobs SET spec = '{}'",
        "UPDATE jobs SET outcome = NULL",
        "UPDATE jobs SET outcome = '\"exploded\"'",
        "UPDATE jobs SET state = 'failed'",
        "UPDATE jobs SET state = 'queued'",
        "UPDATE jobs SET ended_at = NULL",
        "UPDATE jobs SET not_before = 5",
        "UPDATE jobs SET attempt = 2",
        "UPDATE jobs SET attempt = -1",
        "UPDATE jobs SET infrastructure_failures = -1",
        "UPDATE jobs SET cancel_at = 5",
        "UPDATE jobs SET cancel_at = 5, cancel_reason = 'whim'",
        "UPDATE jobs SET created_at = 9223372036854775807",
        "UPDATE attempts SET outcome = NULL",
        "UPDATE attempts SET placement = '[]'",
    ];
    let of_runner = [
        "UPDATE runners SET state = 'busy', start_sent = 5",
        "UPDATE runners SET state = 'lost', reason = NULL",
        "UPDATE runners SET reason = 'whim'",
        "UPDATE runners SET origin = 'stork'",
        "UPDATE runners SET attempt = NULL",
        "UPDATE runners SET engine_epoch = -1",
        "UPDATE runners SET restarts = 99999999999",
        "UPDATE runners SET placement = ''",
    ];
    for sql in of_job.into_iter().chain(of_runner) {
        std::fs::write(&path, &whole).expect("written");
        {
            let connection = rusqlite::Connection::open(&path).expect("a database");
            // The counters are not in question here.
            connection.execute_batch("DROP TRIGGER jobs_changed; DROP TRIGGER jobs_ready_again").expect("dropped");
            connection.execute_batch(sql).expect(sql);
        }
        let store = SqliteStore::open(&path).expect("a store");
        if of_job.contains(&sql) {
            let read = store.job(&job).await;
            assert!(matches!(read, Err(StoreError::Corrupt(_))), "{sql}: {read:?}");
        } else {
            let read = store.runner(&runner).await;
            assert!(matches!(read, Err(StoreError::Corrupt(_))), "{sql}: {read:?}");
        }
    }
}
