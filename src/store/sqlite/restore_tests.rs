//! Backups and restores, on real files: whole or not there, whenever the process dies.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tempfile::TempDir;

use super::*;
use crate::domain::JobId;
use crate::store::contract_tests::{command, created, requirement};
use crate::store::sqlite::{Overwrite, SqliteStore, backup, migrations};
use crate::store::{JobFilter, Store, StoreError};

fn at() -> Timestamp {
    Timestamp::from_second(1_795_000_000).expect("a time")
}

async fn add(store: &SqliteStore) -> JobId {
    created(store, command(requirement("default", 1000), 0)).await.id
}

async fn jobs(store: &SqliteStore) -> Vec<JobId> {
    let all = store.jobs(JobFilter { limit: 100_000, ..JobFilter::default() }).await.expect("jobs");
    let mut ids: Vec<JobId> = all.into_iter().map(|job| job.id).collect();
    ids.sort_by(|one, other| one.as_str().cmp(other.as_str()));
    ids
}

/// A store with a job, a backup of it, and a second job that came after the backup.
async fn history() -> (TempDir, PathBuf, PathBuf, [JobId; 2]) {
    let dir = tempfile::tempdir().expect("a directory");
    let (database, file) = (dir.path().join("data/queue.db"), dir.path().join("backup"));
    let store = SqliteStore::open(&database).expect("a store");
    let first = add(&store).await;
    backup(&database, &file, Overwrite::Never).expect("a backup");
    let second = add(&store).await;
    drop(store);
    (dir, database, file, [first, second])
}

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).expect("a directory").flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn why(error: &CopyError) -> String {
    crate::domain::chain(error)
}

#[tokio::test(flavor = "multi_thread")]
async fn backups_under_writes_are_of_one_moment_and_hold_nobody_up() {
    let dir = tempfile::tempdir().expect("a directory");
    let database = dir.path().join("data/queue.db");
    let store = Arc::new(SqliteStore::open(&database).expect("a store"));
    let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let writing = async {
        let mut during = 0;
        while !stop.load(Ordering::Relaxed) {
            add(&store).await;
            during = answered.fetch_add(1, Ordering::Relaxed) + 1;
        }
        during
    };
    let copying = {
        let (database, dir, stop, answered) = (database.clone(), dir.path().to_owned(), Arc::clone(&stop), Arc::clone(&answered));
        tokio::task::spawn_blocking(move || {
            let mut told = Vec::new();
            for number in 0..8 {
                let before = answered.load(Ordering::Relaxed);
                let file = dir.join(format!("backup-{number}"));
                let made = backup(&database, &file, Overwrite::Never).expect("a backup");
                told.push((file, before, made.contents.jobs));
            }
            stop.store(true, Ordering::Relaxed);
            told
        })
    };
    let (written, told) = tokio::join!(writing, copying);
    for (file, before, counted) in told.expect("copied") {
        assert!((before as u64..=written as u64).contains(&counted), "{before} were answered before, {counted} are in it");
        let copy = SqliteStore::open(&file).expect("a backup is a store");
        assert_eq!(jobs(&copy).await.len() as u64, counted, "counters and rows are of one moment");
        assert_eq!(copy.instance(), store.instance());
    }
    assert_eq!(jobs(&store).await.len(), written);
}

#[tokio::test]
async fn a_backup_is_one_private_file_and_replaces_another_only_when_told() {
    let (dir, database, file, _) = history().await;
    let about = std::fs::metadata(&file).expect("a file");
    assert_eq!(about.permissions().mode() & 0o777, 0o600);
    assert_eq!(names(dir.path()), ["backup", "data"], "nothing is left beside it");
    let refused = backup(&database, &file, Overwrite::Never).expect_err("it is there");
    assert!(why(&refused).contains("backup exists already"), "{}", why(&refused));
    assert_eq!(std::fs::metadata(&file).expect("a file").ino(), about.ino(), "and it is as it was");
    let made = backup(&database, &file, Overwrite::WhenWhole).expect("replaced");
    assert_eq!((made.contents.jobs, made.bytes), (2, std::fs::metadata(&file).expect("a file").len()));
    for own in ["data/queue.db", "data/queue.db-wal"] {
        let store = SqliteStore::open(&database).expect("a store");
        let refused = backup(&database, &dir.path().join(own), Overwrite::WhenWhole).expect_err("the database itself");
        assert!(why(&refused).contains("the database in use itself"), "{}", why(&refused));
        drop(store);
    }
    std::os::unix::fs::symlink(&database, dir.path().join("link")).expect("a link");
    assert!(matches!(backup(&database, &dir.path().join("link"), Overwrite::WhenWhole), Err(CopyError::Exists(_))), "a link is nobody's backup");
    assert!(matches!(backup(&dir.path().join("none"), &dir.path().join("b"), Overwrite::Never), Err(CopyError::Missing(_))));
    assert!(matches!(backup(&database, &dir.path().join("no/such/b"), Overwrite::Never), Err(CopyError::Files { .. })));
}

#[tokio::test]
async fn a_backup_of_a_damaged_database_fails_and_leaves_the_one_before() {
    let (dir, database, file, _) = history().await;
    let before = std::fs::read(&file).expect("a backup");
    let mut bytes = std::fs::read(&database).expect("a file");
    let from = bytes.len() / 2;
    bytes[from..].fill(0x55);
    std::fs::write(&database, bytes).expect("damaged");
    let refused = why(&backup(&database, &file, Overwrite::WhenWhole).expect_err("it was backed up"));
    assert!(refused.contains("queue.db cannot be used: it is damaged") || refused.contains(".part cannot be used"), "{refused}");
    assert_eq!((std::fs::read(&file).expect("a backup"), names(dir.path())), (before, vec!["backup".to_owned(), "data".to_owned()]));
}

#[tokio::test]
async fn two_backups_into_one_file_do_not_meet() {
    let (dir, database, file, _) = history().await;
    let part = super::super::files::private_file(&dir.path().join(".backup.part")).expect("a file");
    rustix::fs::flock(&part, rustix::fs::FlockOperation::LockExclusive).expect("held");
    assert!(matches!(backup(&database, &file, Overwrite::WhenWhole), Err(CopyError::Busy(_))));
    part.set_permissions(std::fs::Permissions::from_mode(0o644)).expect("opened");
    drop(part);
    backup(&database, &file, Overwrite::WhenWhole).expect("what a dead one left is taken over");
    assert_eq!(std::fs::metadata(&file).expect("a file").permissions().mode() & 0o777, 0o600, "and closed to others");
    std::os::unix::fs::symlink(dir.path().join("elsewhere"), dir.path().join(".other.part")).expect("a link");
    assert!(matches!(backup(&database, &dir.path().join("other"), Overwrite::Never), Err(CopyError::Files { .. })));
    assert!(!dir.path().join("elsewhere").exists(), "nothing was written where somebody else pointed to");
}

#[tokio::test]
async fn a_restore_brings_the_backup_back_and_keeps_what_it_replaces() {
    let (dir, database, file, [first, second]) = history().await;
    let done = restore(&database, &file, at()).expect("restored");
    assert_eq!(names(&dir.path().join("data")), ["queue.db", "queue.db.lock", "queue.db.replaced-20261118T110640Z"]);
    let store = SqliteStore::open(&database).expect("a store");
    assert_eq!(jobs(&store).await, std::slice::from_ref(&first));
    add(&store).await;
    assert!(database.with_extension("db-wal").exists(), "it has a log again, or readers would wait for the writer");
    drop(store);
    let replaced = done.replaced.expect("kept");
    let undone = restore(&database, &replaced, at()).expect("what was replaced can be restored");
    assert_eq!(undone.contents.jobs, 2);
    assert_eq!(jobs(&SqliteStore::open(&database).expect("a store")).await, [first, second]);
    assert_ne!(undone.replaced.expect("kept").parent(), replaced.parent(), "of the same second, under another name");
}

#[tokio::test]
async fn a_restore_to_an_empty_machine_makes_the_directory() {
    let (dir, _, file, [first, _]) = history().await;
    let database = dir.path().join("new/machine/queue.db");
    assert_eq!(restore(&database, &file, at()).expect("restored").replaced, None);
    assert_eq!(jobs(&SqliteStore::open(&database).expect("a store")).await, [first]);
    assert_eq!(std::fs::metadata(&database).expect("a file").permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::metadata(dir.path().join("new/machine")).expect("a directory").permissions().mode() & 0o777, 0o700);
}

#[tokio::test]
async fn a_restore_under_a_running_store_is_refused() {
    let (dir, database, file, _) = history().await;
    let store = SqliteStore::open(&database).expect("a store");
    let refused = why(&restore(&database, &file, at()).expect_err("it runs"));
    assert!(refused.contains("queue.db is in use by a running runner-coordinator; stop it first"), "{refused}");
    assert_eq!(jobs(&store).await.len(), 2);
    assert!(!names(&dir.path().join("data")).iter().any(|name| name.contains("restoring")));
    drop(store);
    assert!(matches!(restore(&database, &database, at()), Err(CopyError::Same(_))));
}

#[tokio::test]
async fn what_is_no_whole_backup_of_ours_is_refused_and_changes_nothing() {
    let (dir, database, file, both) = history().await;
    let whole = std::fs::read(&file).expect("a backup");
    let other = dir.path().join("other");
    rusqlite::Connection::open(&other).expect("a database").execute_batch("CREATE TABLE other (x)").expect("a table");
    let foreign = std::fs::read(&other).expect("a file");
    let newer = dir.path().join("newer");
    std::fs::copy(&file, &newer).expect("copied");
    rusqlite::Connection::open(&newer).expect("a database").pragma_update(None, "user_version", 99).expect("set");
    let newer = std::fs::read(newer).expect("a file");
    let mut torn = whole.clone();
    torn[whole.len() / 2..].fill(0);
    let known = migrations::MIGRATIONS.len();
    let cases: [(&str, &[u8], String); 6] = [
        ("nothing", b"", "bad cannot be used: it is not a database of runner-coordinator".to_owned()),
        ("text", &[b'x'; 9000], "bad cannot be used: it is no database".to_owned()),
        ("half", &whole[..whole.len() / 2], "bad cannot be used: it is damaged".to_owned()),
        ("half of it zeros", &torn, "cannot be used: it is damaged".to_owned()),
        ("foreign", &foreign, "bad cannot be used: it is not a database of runner-coordinator".to_owned()),
        ("newer", &newer, format!("bad: its schema is version 99, and this program knows no version above {known}; use a newer")),
    ];
    let bad = dir.path().join("bad");
    for (name, bytes, expected) in cases {
        std::fs::write(&bad, bytes).expect("written");
        let refused = why(&restore(&database, &bad, at()).expect_err(name));
        assert!(refused.contains(&expected), "{name}: {refused}");
        assert_eq!(names(&dir.path().join("data")), ["queue.db", "queue.db.lock"], "{name}");
    }
    assert!(matches!(restore(&database, &dir.path().join("none"), at()), Err(CopyError::Missing(_))));
    assert_eq!(jobs(&SqliteStore::open(&database).expect("a store")).await, both);
}

/// Copies the files and directories of a data directory.
fn copy_all(from: &Path, to: &Path) {
    std::fs::create_dir(to).expect("a directory");
    for entry in std::fs::read_dir(from).expect("a directory").flatten() {
        let to = to.join(entry.file_name());
        if entry.path().is_dir() { copy_all(&entry.path(), &to) } else { assert!(std::fs::copy(entry.path(), to).is_ok()) }
    }
}

#[tokio::test]
async fn a_crash_between_any_two_steps_leaves_the_new_database_whole_and_the_old_one_kept() {
    let (dir, database, file, [first, second]) = history().await;
    // The old one died: its last job is in its write-ahead log only.
    let store = SqliteStore::open(&database).expect("a store");
    let third = add(&store).await;
    let crashed = dir.path().join("crashed");
    copy_all(&dir.path().join("data"), &crashed);
    drop(store);
    let database = crashed.join("queue.db");
    assert!(std::fs::metadata(crashed.join("queue.db-wal")).expect("a log").len() > 0);
    prepare(&database, &file).expect("prepared");
    let steps = steps(&database, at());
    assert!(steps.len() > 8, "{steps:?}");
    for taken in 0..=steps.len() {
        let there = dir.path().join(format!("after-{taken}"));
        copy_all(&crashed, &there);
        let moved = |path: &Path| there.join(path.strip_prefix(&crashed).expect("within"));
        for step in &steps[..taken] {
            let step = match step {
                FileStep::Rename(from, to) => FileStep::Rename(moved(from), moved(to)),
                FileStep::Remove(path) => FileStep::Remove(moved(path)),
                FileStep::RemoveDirectory(path) => FileStep::RemoveDirectory(moved(path)),
                FileStep::Flush(path) => FileStep::Flush(moved(path)),
            };
            super::take(&step).expect("a step");
        }
        let store = SqliteStore::open(&there.join("queue.db")).unwrap_or_else(|error| panic!("after {taken} of {steps:?}: {error:?}"));
        assert_eq!(jobs(&store).await, std::slice::from_ref(&first), "after {taken} of {steps:?}");
        drop(store);
        let kept = names(&there).into_iter().filter(|name| name.contains(".replaced-")).collect::<Vec<_>>();
        let [kept] = kept.as_slice() else { panic!("after {taken}: {:?}", names(&there)) };
        assert_eq!(names(&there), ["queue.db", "queue.db.lock", kept]);
        let old = SqliteStore::open(&there.join(kept).join("queue.db")).expect("the old one");
        assert_eq!(jobs(&old).await, [first.clone(), second.clone(), third.clone()], "the old one has its log, after {taken}");
    }
}

#[tokio::test]
async fn a_database_of_any_name_is_restored() {
    let (dir, database, file, both) = history().await;
    for name in ["new.db", "x.new", "new"] {
        let named = dir.path().join(name);
        std::fs::copy(&database, &named).expect("a database of that name");
        let replaced = restore(&named, &file, at()).expect("restored").replaced.expect("the old one is kept");
        assert_eq!(jobs(&SqliteStore::open(&named).expect("a store")).await, both[..1], "{name}");
        assert_eq!(jobs(&SqliteStore::open(&replaced).expect("the old one")).await, both, "{name}");
    }
}

#[tokio::test]
async fn a_crash_before_a_restore_holds_leaves_the_old_database() {
    let (dir, database, file, both) = history().await;
    let part = dir.path().join("data/queue.db.restoring.part");
    std::fs::create_dir(&part).expect("a directory");
    std::fs::copy(&file, part.join("queue.db.new")).expect("half a restore");
    assert_eq!(jobs(&SqliteStore::open(&database).expect("a store")).await, both);
    restore(&database, &file, at()).expect("the left-over is no hindrance");
    assert_eq!(jobs(&SqliteStore::open(&database).expect("a store")).await, both[..1]);
}

#[tokio::test]
async fn a_database_that_is_gone_is_not_taken_for_one_that_never_was() {
    let (dir, database, file, _) = history().await;
    std::fs::remove_file(&database).expect("gone");
    let Err(StoreError::Unavailable { source, .. }) = SqliteStore::open(&database) else { panic!("a fresh start") };
    let told = crate::domain::chain(source.as_ref());
    assert!(told.contains("queue.db cannot be used: it is missing") && told.contains("restore FILE"), "{told}");
    restore(&database, &file, at()).expect("restored");
    drop(SqliteStore::open(&database).expect("a store"));
    std::fs::remove_dir_all(dir.path().join("data")).expect("gone on purpose");
    assert_eq!(jobs(&SqliteStore::open(&database).expect("a store")).await, []);
}
