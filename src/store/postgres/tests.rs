//! The contract of every store, and what only a server with many clients can get wrong.

use std::collections::HashSet;

use futures_util::future::join_all;
use proptest::prelude::*;

use super::test_database::TestDatabase;
use super::*;
use crate::domain::JobId;
use crate::store::contract_tests::claims::{claims_follow_the_model, deeds};
use crate::store::contract_tests::shares::{arrivals, turns_are_fair};
use crate::store::contract_tests::{candidates, claim, command, created, every_rule, gitlab, of_project, requirement, t};
use crate::store::{EventQuery, Store as _, Submission};

async fn store_on(database: &TestDatabase) -> PostgresStore {
    store_of(database, "box1").await
}

async fn store_of(database: &TestDatabase, host: &str) -> PostgresStore {
    opened(&database.url(), host, host).await.unwrap_or_else(|error| panic!("{}", crate::domain::chain(&error)))
}

async fn opened(url: &SecretString, host: &str, machine: &str) -> Result<PostgresStore, StoreError> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    PostgresStore::open(url, &HostId::from_trusted(host), &Machine::named(machine), Arc::default()).await
}

async fn open() -> (PostgresStore, TestDatabase) {
    let database = TestDatabase::make().await;
    (store_on(&database).await, database)
}

every_rule!(open);

/// Shows that the sums that the database keeps are those of its rows.
async fn sums_are_true(database: &TestDatabase) {
    let client = database.connect().await;
    let wrong = "SELECT count(*) FROM (
        (SELECT 'state' AS kind, state AS key, count(*) AS n FROM jobs GROUP BY state
         UNION ALL SELECT 'queue', coalesce(project, ''), count(*) FROM jobs WHERE state = 'queued' GROUP BY project
         UNION ALL SELECT 'ready', requirement_id::text, count(*) FROM jobs WHERE state = 'queued' AND not_before IS NULL GROUP BY requirement_id)
        EXCEPT SELECT kind, key, sum(n)::bigint FROM tallies GROUP BY kind, key HAVING sum(n) <> 0) AS wrong";
    let more = "SELECT count(*) FROM (SELECT kind, key FROM tallies GROUP BY kind, key HAVING sum(n) < 0) AS less";
    for sql in [wrong, more] {
        assert_eq!(client.query_one(sql, &[]).await.expect("counted").get::<_, i64>(0), 0, "{sql}");
    }
}

fn block_on(work: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(work);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn claims_follow_a_plain_list(deeds in deeds()) {
        block_on(async {
            let (store, database) = open().await;
            claims_follow_the_model(&store, deeds).await;
            sums_are_true(&database).await;
        });
    }

    #[test]
    fn turns_between_projects_are_fair(arrivals in arrivals()) {
        block_on(async {
            let (store, _database) = open().await;
            turns_are_fair(&store, arrivals).await;
        });
    }
}

/// So many stores on one database, as daemons on different machines have them.
async fn stores(database: &TestDatabase, many: usize) -> Vec<PostgresStore> {
    let names: Vec<String> = (1..=many).map(|number| format!("box{number}")).collect();
    join_all(names.iter().map(|name| store_of(database, name))).await
}

#[tokio::test]
async fn daemons_that_start_at_once_have_ids_of_their_own_which_stay() {
    let database = TestDatabase::make().await;
    let stores = stores(&database, 6).await;
    let instances: HashSet<String> = stores.iter().map(|store| store.instance().to_owned()).collect();
    assert_eq!(instances.len(), 6);
    assert_eq!(store_on(&database).await.instance(), stores[0].instance());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn daemons_never_claim_one_job_twice_and_leave_none() {
    let database = TestDatabase::make().await;
    let stores = stores(&database, 4).await;
    for n in 0..120 {
        created(&stores[n % 4], of_project(command(requirement(["a", "b", "c"][n % 3], 1000), 0), ["x", "y"][n % 2])).await;
    }
    let claims = stores.iter().map(|store| async move {
        let mut claimed = Vec::new();
        while let Some(bound) = claim(store, 1).await {
            claimed.push(bound.job.expect("a job").id);
        }
        claimed
    });
    let claimed: Vec<JobId> = join_all(claims).await.into_iter().flatten().collect();
    assert_eq!((claimed.len(), claimed.iter().collect::<HashSet<_>>().len()), (120, 120));
    sums_are_true(&database).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_of_projects_hold_among_daemons() {
    use crate::domain::{ProjectCap, ProjectName};
    let database = TestDatabase::make().await;
    let stores = stores(&database, 4).await;
    let cap = ProjectCap { project: ProjectName::from_trusted("x"), max_running: Some(3), max_gpus: None };
    stores[0].set_caps(&[cap]).await.expect("set");
    for _ in 0..20 {
        created(&stores[0], of_project(command(requirement("a", 1000), 0), "x")).await;
    }
    let offered = candidates(&stores[0]).await;
    let claims = (0..40).map(|n| {
        let (store, mut offered) = (&stores[n % 4], offered.clone());
        for candidate in &mut offered {
            candidate.runner.id = crate::domain::RunnerId::generate();
        }
        async move { store.claim(&offered, t(1)).await.expect("a claim") }
    });
    assert_eq!(join_all(claims).await.into_iter().flatten().count(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_submitted_at_once_through_many_daemons_is_counted_and_told_apart() {
    let database = TestDatabase::make().await;
    let stores = stores(&database, 4).await;
    let same = || {
        let mut new = gitlab(requirement("a", 1000), 0, 7);
        new.queue_limit = 5;
        new
    };
    let answers = join_all((0..12).map(|n| stores[n % 4].submit(same()))).await;
    let made = answers.iter().filter(|answer| matches!(answer, Ok(Submission::Created(_)))).count();
    let known = answers.iter().filter(|answer| matches!(answer, Ok(Submission::Existing(_)))).count();
    assert_eq!((made, known), (1, 11), "one job of GitLab");
    let another = || {
        let mut new = command(requirement("a", 1000), 0);
        new.queue_limit = 5;
        new
    };
    let answers = join_all((0..12).map(|n| stores[n % 4].submit(another()))).await;
    let made = answers.iter().filter(|answer| matches!(answer, Ok(Submission::Created(_)))).count();
    assert_eq!(made, 4, "five may wait");
    sums_are_true(&database).await;
}

#[tokio::test]
async fn daemons_hear_of_each_others_changes() {
    let database = TestDatabase::make().await;
    let stores = stores(&database, 2).await;
    let mut heard = stores[1].changes();
    // Whether it listens already is not known; what it missed before it does is found by looking.
    created(&stores[0], command(requirement("a", 1000), 0)).await;
    tokio::time::timeout(std::time::Duration::from_secs(20), heard.changed()).await.expect("in time").expect("open");
}

#[tokio::test]
async fn a_store_outlives_its_connections() {
    let (store, database) = open().await;
    let job = created(&store, command(requirement("a", 1000), 0)).await.id;
    let client = database.connect().await;
    for _ in 0..3 {
        let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()";
        client.query_one(end, &[]).await.expect("ended");
        store.ping().await.expect("it writes");
        assert_eq!(store.job(&job).await.expect("it reads").expect("a job").id, job);
    }
    // The one that listens is made anew too.
    let other = store_of(&database, "box2").await;
    let mut heard = store.changes();
    heard.mark_unchanged();
    created(&other, command(requirement("a", 1000), 0)).await;
    tokio::time::timeout(std::time::Duration::from_secs(20), heard.changed()).await.expect("in time").expect("open");
}

#[tokio::test]
async fn nothing_of_the_history_is_missed_by_who_reads_on() {
    let (store, database) = open().await;
    created(&store, command(requirement("a", 1000), 0)).await;
    let read = async |after| {
        let events = store.events(EventQuery { job: None, after, limit: 100 }).await.expect("events");
        events.iter().map(|event| event.seq).collect::<Vec<_>>()
    };
    assert_eq!(read(0).await, [1]);
    let late = database.connect().await;
    late.batch_execute("BEGIN; INSERT INTO events (at, body) VALUES (0, '{\"kind\":\"ended\"}')").await.expect("a position is drawn");
    created(&store, command(requirement("a", 1000), 0)).await;
    assert_eq!(read(1).await, [0_i64; 0], "2 is drawn and not seen, so 3 waits");
    late.batch_execute("COMMIT").await.expect("committed");
    assert_eq!(read(1).await, [2, 3]);
    late.batch_execute("BEGIN; INSERT INTO events (at, body) VALUES (0, '{}')").await.expect("another");
    created(&store, command(requirement("a", 1000), 0)).await;
    assert_eq!(read(3).await, [0_i64; 0]);
    late.batch_execute("ROLLBACK").await.expect("undone");
    assert_eq!(read(3).await, [5], "4 will never be");
}

#[tokio::test]
async fn sums_are_put_together() {
    let (store, database) = open().await;
    for _ in 0..30 {
        created(&store, command(requirement("a", 1000), 0)).await;
    }
    let client = database.connect().await;
    let rows = async || client.query_one("SELECT count(*) FROM tallies", &[]).await.expect("counted").get::<_, i64>(0);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while rows().await > 3 {
        assert!(std::time::Instant::now() < deadline, "{} rows", rows().await);
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    sums_are_true(&database).await;
    assert_eq!(store.waiting().await.expect("the queue").iter().map(|waiting| waiting.jobs).sum::<u64>(), 30);
}

mod leases;
mod refusals;
