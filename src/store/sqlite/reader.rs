//! The threads that read, each with its own connection: they see what is committed and never wait for the writer.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::fault::{Outcome, gone};
use super::open::{OpenError, Role, connect};
use super::writer::{Work, guarded};
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
    way: Way,
    metrics: Arc<Metrics>,
}

/// Who answers.
#[derive(Debug)]
enum Way {
    /// The threads; the queue is `None` once they are to end.
    Threads(Option<mpsc::Sender<Question>>, Vec<JoinHandle<()>>),
    /// Whoever asks, on the connection that writes.
    Asker(Arc<Mutex<Work>>),
}

impl Readers {
    /// Opens the connections and starts the threads.
    pub(super) fn start(path: &Path, metrics: Arc<Metrics>) -> Result<Self, OpenError> {
        let (queue, waiting) = mpsc::channel(WAITING);
        let waiting = Arc::new(Mutex::new(waiting));
        let mut threads = Vec::with_capacity(THREADS);
        for number in 1..=THREADS {
            let connection = connect(path, Role::Reader)?;
            let waiting = Arc::clone(&waiting);
            let thread = std::thread::Builder::new().name(format!("store-reader-{number}")).spawn(move || answer_all(&connection, &waiting));
            let started = thread.map_err(|source| OpenError::Files { doing: "start a thread for", path: path.to_owned(), source });
            threads.push(started?);
        }
        Ok(Self { way: Way::Threads(Some(queue), threads), metrics })
    }

    /// Without threads; whoever asks does the work.
    pub(super) fn in_asker(work: Arc<Mutex<Work>>, metrics: Arc<Metrics>) -> Self {
        Self { way: Way::Asker(work), metrics }
    }

    /// Asks one question; everything that it reads is of one moment.
    pub(super) async fn ask<T, F>(&self, doing: &'static str, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Outcome<T> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let question: Question = Box::new(move |connection| {
            let result = guarded(connection, |connection| {
                let moment = connection.unchecked_transaction()?;
                work(&moment)
            });
            let _ = answer.send(result.map_err(|fault| fault.into_store_error(doing)));
        });
        let asked = Instant::now();
        let sent = match &self.way {
            Way::Threads(Some(queue), _) => queue.send(question).await.ok(),
            Way::Threads(None, _) => None,
            Way::Asker(work) => {
                question(work.lock().unwrap_or_else(PoisonError::into_inner).connection());
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
}

impl Drop for Readers {
    fn drop(&mut self) {
        let Way::Threads(queue, threads) = &mut self.way else { return };
        *queue = None;
        for thread in threads.drain(..) {
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
