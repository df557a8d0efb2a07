//! The one thread that writes: it takes all operations that wait, carries them out in one transaction, commits once, and only then
//! answers. One commit for many requests is what makes a durable answer cheap (a commit costs a disk flush).

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot, watch};

use super::fault::{Fault, Outcome, gone, unavailable};
use crate::metrics::Metrics;
use crate::store::StoreError;

/// Most operations that wait; further callers wait for room.
const WAITING: usize = 1024;
/// Most operations in one transaction.
const GROUP: usize = 256;

/// Whether a commit is worth waking those who wait for a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Notice {
    /// It is, if it changed anything.
    Changes,
    /// It is not.
    Quiet,
}

/// How much the writer has done since it began.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Transactions committed.
    pub commits: AtomicU64,
    /// Operations in them.
    pub operations: AtomicU64,
}

/// The writing thread's handle.
#[derive(Debug)]
pub(super) struct Writer {
    way: Way,
    changes: watch::Receiver<u64>,
    tally: Arc<Tally>,
    metrics: Arc<Metrics>,
}

/// Who carries operations out.
#[derive(Debug)]
enum Way {
    /// The thread; both are `None` once it is to end.
    Thread(Option<mpsc::Sender<Box<dyn Operation>>>, Option<JoinHandle<()>>),
    /// Whoever calls, one operation to a group.
    Caller(Arc<Mutex<Work>>),
}

impl Writer {
    /// Starts the thread, which owns the connection from now on.
    pub(super) fn start(connection: Connection, metrics: Arc<Metrics>) -> std::io::Result<Self> {
        let (queue, waiting) = mpsc::channel(WAITING);
        let (mut work, changes) = Work::new(connection, metrics);
        let (tally, metrics) = (Arc::clone(&work.tally), Arc::clone(&work.metrics));
        let thread = std::thread::Builder::new().name("store-writer".to_owned()).spawn(move || work.run(waiting))?;
        Ok(Self { way: Way::Thread(Some(queue), Some(thread)), changes, tally, metrics })
    }

    /// Without a thread; whoever calls does the work. Also answers with the connection, for those who read.
    pub(super) fn in_caller(connection: Connection, metrics: Arc<Metrics>) -> (Self, Arc<Mutex<Work>>) {
        let (work, changes) = Work::new(connection, metrics);
        let (tally, metrics) = (Arc::clone(&work.tally), Arc::clone(&work.metrics));
        let work = Arc::new(Mutex::new(work));
        (Self { way: Way::Caller(Arc::clone(&work)), changes, tally, metrics }, work)
    }

    /// Carries out one operation and answers after its commit. One that fails leaves no trace, whatever stands beside it in the group.
    pub(super) async fn call<T, F>(&self, doing: &'static str, notice: Notice, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Outcome<T> + Send + 'static,
    {
        self.call_then(doing, notice, work, |_, _| {}).await
    }

    /// The same, and `then` hears of what was committed right after the commit, also when nobody waits for the answer any more: for what is to be
    /// counted or told.
    pub(super) async fn call_then<T, F, G>(&self, doing: &'static str, notice: Notice, work: F, then: G) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Outcome<T> + Send + 'static,
        G: FnOnce(&Metrics, &T) + Send + 'static,
    {
        let asked = Instant::now();
        let (answer, answered) = oneshot::channel();
        let call = Box::new(Call { doing, notice, work: Some(work), then, result: None, answer });
        let sent = match &self.way {
            Way::Thread(Some(queue), _) => queue.send(call).await.ok(),
            Way::Thread(None, _) => None,
            Way::Caller(work) => {
                work.lock().unwrap_or_else(PoisonError::into_inner).do_one(call);
                Some(())
            }
        };
        let result = match sent {
            Some(()) => answered.await.unwrap_or_else(|_| Err(gone(doing))),
            None => Err(gone(doing)),
        };
        self.metrics.store.record(doing, asked.elapsed(), result.as_ref().err().map(StoreError::kind));
        result
    }

    /// Ticks after every commit that changed something.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.clone()
    }

    /// What has been done so far.
    pub(super) fn tally(&self) -> &Tally {
        &self.tally
    }
}

impl Drop for Writer {
    /// Waits until the thread has written everything and closed the file, so that it can be opened again.
    fn drop(&mut self) {
        let Way::Thread(queue, thread) = &mut self.way else { return };
        *queue = None;
        if let Some(thread) = thread.take() {
            let _ = thread.join();
        }
    }
}

/// One operation in a group.
trait Operation: Send + std::fmt::Debug {
    /// Carries it out; tells whether it succeeded.
    fn run(&mut self, connection: &Connection) -> Ran;
    /// Answers the caller.
    fn answer(self: Box<Self>, committed: Result<(), &str>, metrics: &Metrics);
    /// Whether others are to hear of it.
    fn notice(&self) -> Notice;
}

/// How an operation went, before its commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ran {
    /// Keep what it did.
    Well,
    /// Undo what it did.
    Badly,
}

struct Call<T, F, G> {
    doing: &'static str,
    notice: Notice,
    work: Option<F>,
    then: G,
    result: Option<Result<T, StoreError>>,
    answer: oneshot::Sender<Result<T, StoreError>>,
}

impl<T, F, G> std::fmt::Debug for Call<T, F, G> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.doing)
    }
}

impl<T, F, G> Operation for Call<T, F, G>
where
    T: Send + 'static,
    F: FnOnce(&Connection) -> Outcome<T> + Send + 'static,
    G: FnOnce(&Metrics, &T) + Send + 'static,
{
    fn run(&mut self, connection: &Connection) -> Ran {
        let Some(work) = self.work.take() else { return Ran::Badly };
        let result = guarded(connection, work).map_err(|fault| fault.into_store_error(self.doing));
        let ran = if result.is_ok() { Ran::Well } else { Ran::Badly };
        self.result = Some(result);
        ran
    }

    fn answer(self: Box<Self>, committed: Result<(), &str>, metrics: &Metrics) {
        let result = match (self.result, committed) {
            // A refusal stands by itself; it did not depend on the commit.
            (Some(Err(error)), _) => Err(error),
            (Some(Ok(value)), Ok(())) => Ok(value),
            (Some(Ok(_)) | None, Err(why)) => Err(unavailable(self.doing, why.to_owned())),
            (None, Ok(())) => Err(gone(self.doing)),
        };
        if let Ok(value) = &result {
            (self.then)(metrics, value);
        }
        let _ = self.answer.send(result);
    }

    fn notice(&self) -> Notice {
        self.notice
    }
}

/// Calls `work`; a panic in it is its own failure and nobody else's.
pub(super) fn guarded<T>(connection: &Connection, work: impl FnOnce(&Connection) -> Outcome<T>) -> Outcome<T> {
    catch_unwind(AssertUnwindSafe(|| work(connection))).unwrap_or_else(|panic| Err(Fault::Panicked(panic_text(panic.as_ref()))))
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned()).or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "a panic without words".to_owned())
}

/// What it takes to carry operations out; the thread's own where there is one.
#[derive(Debug)]
pub(super) struct Work {
    connection: Connection,
    ticks: watch::Sender<u64>,
    tally: Arc<Tally>,
    metrics: Arc<Metrics>,
    group: Vec<Box<dyn Operation>>,
}

impl Work {
    fn new(connection: Connection, metrics: Arc<Metrics>) -> (Self, watch::Receiver<u64>) {
        let (ticks, changes) = watch::channel(0);
        (Self { connection, ticks, tally: Arc::default(), metrics, group: Vec::with_capacity(GROUP) }, changes)
    }

    /// The connection.
    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    fn do_one(&mut self, operation: Box<dyn Operation>) {
        self.group.push(operation);
        while !self.group.is_empty() {
            self.commit_group();
        }
    }

    fn run(&mut self, mut waiting: mpsc::Receiver<Box<dyn Operation>>) {
        while waiting.blocking_recv_many(&mut self.group, GROUP) > 0 {
            while !self.group.is_empty() {
                self.commit_group();
            }
        }
        // So that the next start finds one whole file; if it fails the log is simply read then.
        let _ = self.connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)");
    }

    /// Runs the waiting group (or, when `SQLite` gave up the transaction midway, its first part) and answers it.
    fn commit_group(&mut self) {
        let before = self.connection.total_changes();
        let mut done: Vec<Box<dyn Operation>> = Vec::with_capacity(self.group.len());
        let begun = self.connection.prepare_cached("BEGIN IMMEDIATE").and_then(|mut begin| begin.execute([]));
        let mut tick = false;
        let committed = if let Err(error) = begun {
            done.append(&mut self.group);
            Err(error)
        } else {
            let mut rest = std::mem::take(&mut self.group).into_iter();
            for mut operation in rest.by_ref() {
                tick |= self.run_one(operation.as_mut());
                done.push(operation);
                if self.connection.is_autocommit() {
                    break;
                }
            }
            self.group = rest.collect();
            self.commit()
        };
        if committed.is_ok() {
            self.tally.commits.fetch_add(1, Ordering::Relaxed);
            self.metrics.store_commits.count([]);
            self.tally.operations.fetch_add(done.len() as u64, Ordering::Relaxed);
            if tick && self.connection.total_changes() != before {
                self.ticks.send_modify(|tick| *tick = tick.wrapping_add(1));
            }
        }
        let why = committed.err().map(|error| error.to_string());
        for operation in done {
            operation.answer(why.as_deref().map_or(Ok(()), Err), &self.metrics);
        }
    }

    /// Runs one operation in its own savepoint; tells whether others are to hear of it.
    fn run_one(&self, operation: &mut dyn Operation) -> bool {
        let sql = |text| self.connection.prepare_cached(text).and_then(|mut statement| statement.execute([]));
        if sql("SAVEPOINT operation").is_err() {
            return false;
        }
        match operation.run(&self.connection) {
            Ran::Well => sql("RELEASE operation").is_ok() && operation.notice() == Notice::Changes,
            Ran::Badly => {
                // After the worst errors SQLite has already rolled everything back; then this fails and `commit` finds out.
                let _ = sql("ROLLBACK TO operation");
                let _ = sql("RELEASE operation");
                false
            }
        }
    }

    fn commit(&self) -> rusqlite::Result<()> {
        let committed = self.connection.prepare_cached("COMMIT").and_then(|mut commit| commit.execute([]));
        if committed.is_err() && !self.connection.is_autocommit() {
            let _ = self.connection.execute_batch("ROLLBACK");
        }
        committed.map(|_| ())
    }
}

#[cfg(test)]
#[path = "writer_tests.rs"]
mod tests;
