//! Who drives a machine, and what becomes of one that is silent.

use std::time::Duration;

use super::*;
use crate::domain::{Aggregate, EndReason, HostFacts, Outcome, RunnerOrigin};
use crate::store::contract_tests::{ended, planned, take, up};
use crate::store::fleet::{Fleet as _, HostReport, LEASE_LASTS, Renewal};

fn report(host: &str) -> HostReport {
    let facts = HostFacts {
        id: HostId::from_trusted(host),
        arch: None,
        cpus: crate::domain::CpuMillis(1000),
        memory: crate::domain::MemoryBytes(1 << 30),
        emulated: Vec::new(),
        gpus: Vec::new(),
        notes: Vec::new(),
        runtimes: Vec::new(),
    };
    HostReport { facts, version: "1".to_owned(), url: None, shown: "{}".to_owned() }
}

/// Makes a machine silent for so long, by the database's clock.
async fn silence(database: &TestDatabase, host: &str, seconds: u64) {
    let sql = format!("UPDATE hosts SET renewed_at = renewed_at - interval '{seconds} seconds' WHERE host = '{host}'");
    database.connect().await.batch_execute(&sql).await.expect("silent");
}

/// As if the machine had renewed its lease in time for a while.
async fn settled(database: &TestDatabase, host: &str) {
    let sql = format!("UPDATE hosts SET unbroken_since = unbroken_since - interval '21 seconds' WHERE host = '{host}'");
    database.connect().await.batch_execute(&sql).await.expect("settled");
}

async fn runs(store: &PostgresStore) -> Aggregate {
    created(store, command(requirement("a", 1000), 0)).await;
    let runner = claim(store, 1).await.expect("a job").runner.id;
    take(store, &runner, up(), 2).await
}

#[tokio::test]
async fn a_name_is_of_one_machine_at_a_time() {
    let database = TestDatabase::make().await;
    let store = store_of(&database, "box1").await;
    let error = opened(&database.url(), "box1", "another").await.expect_err("it is in use");
    assert!(crate::domain::chain(&error).contains("host.name"), "{}", crate::domain::chain(&error));
    silence(&database, "box1", LEASE_LASTS.as_secs() + 1).await;
    let other = opened(&database.url(), "box1", "another").await.expect("nobody works there");
    assert_eq!(other.instance(), store.instance());
    assert!(matches!(store.renew(&report("box1")).await, Err(StoreError::Fenced(_))), "it is the other's now");
}

#[tokio::test]
async fn machines_tell_of_themselves() {
    let database = TestDatabase::make().await;
    let stores = stores(&database, 2).await;
    assert_eq!(stores[0].renew(&report("box1")).await.expect("renewed"), Renewal::Renewed);
    let hosts = stores[1].hosts().await.expect("a list");
    assert_eq!(
        hosts.iter().map(|host| (host.host.as_str(), host.report.is_some(), host.is_live())).collect::<Vec<_>>(),
        [("box1", true, true), ("box2", false, true)]
    );
    silence(&database, "box1", 30).await;
    assert!(!stores[1].hosts().await.expect("a list")[0].is_live());
    database.connect().await.batch_execute("UPDATE hosts SET report = '{\"of\":\"tomorrow\"}' WHERE host = 'box1'").await.expect("told");
    assert_eq!(stores[1].hosts().await.expect("a list")[0].report, None);
}

#[tokio::test]
async fn what_a_machine_writes_after_it_was_taken_for_lost_is_refused() {
    let database = TestDatabase::make().await;
    let stores = stores(&database, 3).await;
    let (lost, other, third) = (&stores[0], &stores[1], &stores[2]);
    let after = Duration::from_secs(60);
    let running = runs(lost).await.runner;
    created(lost, command(requirement("a", 1000), 0)).await;
    let offered = candidates(lost).await;
    assert!(other.fence_lost(after).await.expect("looked").is_empty(), "it is not silent");
    silence(&database, "box1", 61).await;
    assert!(other.fence_lost(after).await.expect("looked").is_empty(), "it has only just come itself");
    settled(&database, "box2").await;
    settled(&database, "box3").await;
    assert_eq!(other.fence_lost(after).await.expect("looked"), [HostId::from_trusted("box1")]);
    assert!(third.fence_lost(after).await.expect("looked").is_empty(), "somebody sees to it already");
    assert_eq!(other.fence_lost(after).await.expect("looked").len(), 1, "until it is done");
    let is_fenced = |result: Result<(), StoreError>| assert!(matches!(result, Err(StoreError::Fenced(_))), "{result:?}");
    is_fenced(lost.apply(&running.id, ended(Outcome::Succeeded), t(3)).await.map(drop));
    is_fenced(lost.claim(&offered, t(3)).await.map(drop));
    is_fenced(lost.plan_runner(&planned("a", RunnerOrigin::Pool)).await);
    is_fenced(lost.note(&running.id, crate::domain::EventKind::Ended, t(3)).await);
    let outcome = Outcome::infrastructure(EndReason::HostLost, "silent");
    let job = take(other, &running.id, [ended(outcome)], 4).await.job.expect("a job");
    assert_eq!(job.state.name(), "queued", "it is tried again");
    take(other, &running.id, crate::store::contract_tests::OFF, 5).await;
    assert!(other.fence_lost(after).await.expect("looked").is_empty(), "nothing is left to end");
    assert_eq!(lost.renew(&report("box1")).await.expect("back"), Renewal::TakenAnew);
    assert!(lost.claim(&offered, t(6)).await.expect("it works again").is_some());
}

#[tokio::test]
async fn after_an_outage_each_has_its_time_to_speak() {
    let database = TestDatabase::make().await;
    let stores = stores(&database, 2).await;
    let after = Duration::from_secs(60);
    runs(&stores[0]).await;
    settled(&database, "box2").await;
    for host in ["box1", "box2"] {
        silence(&database, host, 100).await;
    }
    stores[1].renew(&report("box2")).await.expect("it is the first to reach the database");
    assert!(stores[1].fence_lost(after).await.expect("looked").is_empty());
    assert_eq!(stores[0].renew(&report("box1")).await.expect("and this one comes later"), Renewal::Renewed);
    settled(&database, "box2").await;
    assert!(stores[1].fence_lost(after).await.expect("looked").is_empty());
    silence(&database, "box1", 100).await;
    assert_eq!(stores[1].fence_lost(after).await.expect("looked").len(), 1);
}

#[tokio::test]
async fn a_daemon_that_starts_again_takes_over_at_once() {
    let database = TestDatabase::make().await;
    let before = store_of(&database, "box1").await;
    let running = runs(&before).await.runner;
    let after = store_of(&database, "box1").await;
    assert_eq!(after.open_runners(&running.host).await.expect("a list").len(), 1);
    assert!(matches!(before.apply(&running.id, ended(Outcome::Succeeded), t(3)).await, Err(StoreError::Fenced(_))), "the one before is over");
    take(&after, &running.id, [ended(Outcome::Succeeded)], 4).await;
}
