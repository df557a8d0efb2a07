//! Asks something that may hang, and is never held up by it.
//!
//! A driver whose card is broken can keep a caller in the kernel for ever, where nothing can end it. So each source of facts has a
//! thread of its own, outside the runtime, that nobody waits for: not the asker beyond a deadline, and not the process at its end.
//! A source that has not answered is not asked a second time, so there is never more than one thread of it.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use tokio::sync::oneshot;

/// Where an answer goes.
pub type Reply<T> = oneshot::Sender<T>;
/// What runs on the thread: answers everything that is asked, and returns when nobody can ask any more.
pub type Body<T> = Arc<dyn Fn(&Receiver<Reply<T>>) + Send + Sync>;

/// A body that answers every question with a fresh look.
pub fn each<T: Send + 'static>(look: impl Fn() -> T + Send + Sync + 'static) -> Body<T> {
    Arc::new(move |asked| {
        while let Ok(reply) = asked.recv() {
            // An asker that has gone needs no answer.
            let _ = reply.send(look());
        }
    })
}

/// How a question ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer<T> {
    /// With an answer.
    Given(T),
    /// It is still open after the deadline; the next question waits for the same answer.
    Late,
    /// The thread broke, or could not be started; the next question starts a new one.
    Broke,
}

/// One source, asked by one.
pub struct Guard<T> {
    name: &'static str,
    body: Body<T>,
    thread: Option<SyncSender<Reply<T>>>,
    open: Option<oneshot::Receiver<T>>,
}

impl<T> std::fmt::Debug for Guard<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guard").field("name", &self.name).field("open", &self.open.is_some()).finish_non_exhaustive()
    }
}

impl<T: Send + 'static> Guard<T> {
    /// Guards `body`; `name` names its thread.
    #[must_use]
    pub fn new(name: &'static str, body: Body<T>) -> Self {
        Self { name, body, thread: None, open: None }
    }

    /// Asks, and waits no longer than `deadline`.
    pub async fn ask(&mut self, deadline: Duration) -> Answer<T> {
        let Some(mut open) = self.open.take().or_else(|| self.begin()) else { return Answer::Broke };
        match tokio::time::timeout(deadline, &mut open).await {
            Ok(Ok(answer)) => Answer::Given(answer),
            Ok(Err(_)) => {
                self.thread = None;
                Answer::Broke
            }
            Err(_) => {
                self.open = Some(open);
                Answer::Late
            }
        }
    }

    /// Puts the question to the thread, which is started if there is none.
    fn begin(&mut self) -> Option<oneshot::Receiver<T>> {
        let (reply, open) = oneshot::channel();
        if self.thread.is_none() {
            let (asks, asked) = sync_channel(1);
            let body = Arc::clone(&self.body);
            // Not on the runtime's threads, whose end the process would wait for.
            let started = std::thread::Builder::new().name(format!("probe-{}", self.name)).spawn(move || body(&asked));
            if let Err(error) = started {
                tracing::warn!(%error, source = self.name, "a thread to look at devices could not be started");
                return None;
            }
            self.thread = Some(asks);
        }
        // The thread takes one question at a time and none is open, so there is room unless it ended.
        if self.thread.as_ref()?.try_send(reply).is_err() {
            self.thread = None;
            return None;
        }
        Some(open)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::{Mutex, mpsc};

    use super::*;

    const SOON: Duration = Duration::from_millis(50);
    const PATIENCE: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn a_source_that_hangs_is_late_asked_once_and_believed_when_it_comes_back() {
        let (release, gate) = mpsc::channel::<()>();
        let gate = Mutex::new(gate);
        let asked = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&asked);
        let body = each(move || {
            let number = count.fetch_add(1, Ordering::SeqCst);
            gate.lock().expect("the gate").recv().expect("released");
            number
        });
        let mut guard = Guard::new("test", body);
        assert_eq!(guard.ask(SOON).await, Answer::Late);
        assert_eq!(guard.ask(SOON).await, Answer::Late);
        assert_eq!(asked.load(Ordering::SeqCst), 1, "it was asked again while it hung");
        release.send(()).expect("it waits");
        assert_eq!(guard.ask(PATIENCE).await, Answer::Given(0));
        release.send(()).expect("it waits");
        assert_eq!(guard.ask(PATIENCE).await, Answer::Given(1), "and it works again");
    }

    #[tokio::test]
    async fn a_source_that_breaks_is_started_again() {
        let calls = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&calls);
        let mut guard = Guard::new("test", each(move || assert_ne!(count.fetch_add(1, Ordering::SeqCst), 0, "breaks the first time")));
        assert_eq!(guard.ask(PATIENCE).await, Answer::Broke);
        assert_eq!(guard.ask(PATIENCE).await, Answer::Given(()));
        assert_eq!(calls.load(Ordering::SeqCst), 2);
    }
}
