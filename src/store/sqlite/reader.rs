//! The threads that read, each with its own connection: they see what is committed and never wait for the writer.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::damage::Damage;
use super::fault::{Outcome, gone};
use super::open::{OpenError, Role, connect};
use super::writer::guarded;
use crate::metrics::Metrics;
use crate::store::StoreError;

/// Threads that read.
const THREADS: usize = 2;
/// Most questions that wait; further callers wait for room.
const WAITING: usize = 256;

type Question = Box<dyn FnOnce(&Connection) + Send>;

/// The reading threads' handle.
#[derive(Debug)]
pub(super) struct Readers {
    queue: Option<mpsc::Sender<Question>>,
    threads: Vec<JoinHandle<()>>,
    metrics: Arc<Metrics>,
    damage: Arc<Damage>,
}

impl Readers {
    /// Opens the connections and starts the threads.
    pub(super) fn start(path: &Path, metrics: Arc<Metrics>, damage: Arc<Damage>) -> Result<Self, OpenError> {
        let (queue, waiting) = mpsc::channel(WAITING);
        let waiting = Arc::new(Mutex::new(waiting));
        let mut readers = Self { queue: Some(queue), threads: Vec::with_capacity(THREADS), metrics, damage };
        for number in 1..=THREADS {
            let connection = connect(path, Role::Reader)?;
            let waiting = Arc::clone(&waiting);
            let thread = std::thread::Builder::new().name(format!("store-reader-{number}")).spawn(move || answer_all(&connection, &waiting));
            let started = thread.map_err(|source| OpenError::Files { doing: "start a thread for", path: path.to_owned(), source });
            readers.threads.push(started?);
        }
        Ok(readers)
    }

    /// Asks one question; everything that it reads is of one moment.
    pub(super) async fn ask<T, F>(&self, doing: &'static str, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Outcome<T> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let damage = Arc::clone(&self.damage);
        let question: Question = Box::new(move |connection| {
            let result = guarded(connection, |connection| {
                let moment = connection.unchecked_transaction()?;
                work(&moment)
            });
            let _ = answer.send(result.inspect_err(|fault| damage.heed(fault)).map_err(|fault| fault.into_store_error(doing)));
        });
        let asked = Instant::now();
        let sent = async { self.queue.as_ref()?.send(question).await.ok() }.await;
        let result = match sent {
            Some(()) => answered.await.unwrap_or_else(|_| Err(gone(doing))),
            None => Err(gone(doing)),
        };
        self.metrics.store.record(doing, asked.elapsed(), result.as_ref().err().map(StoreError::kind));
        result
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.queue = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// One thread: the one that holds the lock waits for the next question, then lets the other wait while it answers.
fn answer_all(connection: &Connection, waiting: &Mutex<mpsc::Receiver<Question>>) {
    loop {
        let question = waiting.lock().unwrap_or_else(PoisonError::into_inner).blocking_recv();
        let Some(question) = question else { return };
        question(connection);
    }
}
