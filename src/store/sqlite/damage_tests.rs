//! Damage of every kind: refused by name at the start, told at once where only a later read meets it, never a silent fresh start.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::store::contract_tests::{command, created, requirement};
use crate::store::sqlite::SqliteStore;
use crate::store::{JobFilter, Store};

/// A database with some pages, closed.
async fn lived_in(jobs: usize) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("queue.db");
    let store = SqliteStore::open(&path).expect("a store");
    for _ in 0..jobs {
        created(&store, command(requirement("default", 1000), 0)).await;
    }
    drop(store);
    (dir, path)
}

fn refused(path: &Path) -> String {
    let error = SqliteStore::open(path).map(drop).expect_err("it was opened");
    crate::domain::chain(&error)
}

#[tokio::test]
async fn every_damage_is_refused_by_name_with_the_way_back_and_left_as_it_is() {
    let (dir, path) = lived_in(200).await;
    let whole = std::fs::read(&path).expect("a file");
    let page = |number: usize| 8192 * number..8192 * (number + 1);
    let changed = |range: std::ops::Range<usize>, byte: u8| {
        let mut bytes = whole.clone();
        bytes[range].fill(byte);
        bytes
    };
    let other = dir.path().join("other");
    rusqlite::Connection::open(&other).expect("a database").execute_batch("CREATE TABLE other (x)").expect("a table");
    let pages = whole.len() / 8192;
    let mut cases = vec![
        ("empty".to_owned(), Vec::new()),
        ("one byte".to_owned(), vec![b'S']),
        ("half".to_owned(), whole[..whole.len() / 2].to_vec()),
        ("a page too short".to_owned(), whole[..whole.len() - 8192].to_vec()),
        ("half a page too short".to_owned(), whole[..whole.len() - 4096].to_vec()),
        ("garbage in the header".to_owned(), changed(0..100, 0xa7)),
        ("garbage behind the header's first words".to_owned(), changed(16..100, 0xa7)),
        ("zeros".to_owned(), vec![0; whole.len()]),
        ("another program's".to_owned(), std::fs::read(other).expect("a file")),
    ];
    // A page of the queue, of an index, of anything that is in use.
    cases.extend((1..pages).step_by(3).map(|number| (format!("page {number} zeroed"), changed(page(number), 0))));
    for (name, bytes) in cases {
        std::fs::write(&path, &bytes).expect("written");
        let told = refused(&path);
        assert!(told.contains("queue.db cannot be used") && told.contains("runner-coordinator restore FILE"), "{name}: {told}");
        assert_eq!(std::fs::read(&path).expect("a file"), bytes, "{name} was changed");
    }
}

#[tokio::test]
async fn a_damaged_database_is_not_changed_by_its_log_either() {
    let (dir, path) = lived_in(200).await;
    let store = SqliteStore::open(&path).expect("a store");
    created(&store, command(requirement("default", 1000), 0)).await;
    let (main, log) = (std::fs::read(&path).expect("a file"), std::fs::read(dir.path().join("queue.db-wal")).expect("a log"));
    let copy = dir.path().join("copy.db");
    let mut damaged = main.clone();
    let end = damaged.len();
    damaged[end / 2..].fill(0x55);
    std::fs::write(&copy, &damaged).expect("written");
    std::fs::write(dir.path().join("copy.db-wal"), &log).expect("written");
    assert!(refused(&copy).contains("it is damaged"));
    assert_eq!((std::fs::read(&copy).expect("a file"), std::fs::read(dir.path().join("copy.db-wal")).expect("a log")), (damaged, log));
}

/// What is lost with the end of a write-ahead log cannot be known: `SQLite` takes it for a commit that was never finished.
#[tokio::test]
async fn a_damaged_log_costs_its_last_commits_and_never_the_rest() {
    let (dir, path) = lived_in(3).await;
    let store = SqliteStore::open(&path).expect("a store");
    for _ in 0..5 {
        created(&store, command(requirement("default", 1000), 0)).await;
    }
    let (main, log) = (std::fs::read(&path).expect("a file"), std::fs::read(dir.path().join("queue.db-wal")).expect("a log"));
    let mut garbled = log.clone();
    let end = garbled.len();
    garbled[end / 2..].fill(0x55);
    let cases = [("cut", log[..log.len() / 2].to_vec()), ("garbled", garbled), ("empty", Vec::new()), ("garbage", vec![0xa7; log.len()])];
    for (number, (name, log)) in cases.into_iter().enumerate() {
        let copy = dir.path().join(format!("copy-{number}.db"));
        std::fs::write(&copy, &main).expect("written");
        std::fs::write(dir.path().join(format!("copy-{number}.db-wal")), log).expect("written");
        let store = SqliteStore::open(&copy).expect(name);
        let jobs = store.jobs(JobFilter { limit: 100, ..JobFilter::default() }).await.expect("jobs").len();
        assert!((3..8).contains(&jobs), "{name}: {jobs}");
    }
}

#[tokio::test]
async fn damage_that_only_a_later_read_meets_is_told_once_and_remembered() {
    let (_dir, path) = lived_in(400).await;
    let store = SqliteStore::open(&path).expect("a store");
    assert_eq!(store.damage(), None);
    // Under the open store, as a failing disk does it; the pages of the list are not in the cache.
    let mut bytes = std::fs::read(&path).expect("a file");
    bytes[8192 * 3..].fill(0x55);
    std::fs::write(&path, bytes).expect("damaged");
    let listed = store.jobs(JobFilter { limit: 1000, ..JobFilter::default() }).await;
    assert!(listed.is_err(), "{:?}", listed.map(|jobs| jobs.len()));
    assert!(store.damage().is_some(), "it is remembered");
}

#[tokio::test]
async fn a_row_that_makes_no_sense_is_damage_too() {
    let (_dir, path) = lived_in(1).await;
    let store = SqliteStore::open(&path).expect("a store");
    rusqlite::Connection::open(&path).expect("a database").execute_batch("UPDATE jobs SET spec = '{'").expect("changed");
    assert!(store.jobs(JobFilter { limit: 10, ..JobFilter::default() }).await.is_err());
    assert!(store.damage().is_some());
    store.ping().await.expect("it can be written to all the same");
}
