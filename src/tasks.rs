//! The tasks that must live as long as the daemon does, and what becomes of one that dies.
//!
//! ```text
//!  runs ── panics, or ends although nobody told it to ──▶ counted, logged, shown in /health
//!   ▲                                                      │
//!   └── started again, after a wait that doubles ◀─────────┤
//!                                                          └── or, where nobody can start it again: the daemon ends with
//!                                                              failure, its service manager starts it, containers are adopted
//! ```

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use jiff::Timestamp;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info};

use crate::domain::Clock;
use crate::domain::retry::doubled;

/// First wait before a task that died is started again; doubled for each further death.
const WAIT: Duration = Duration::from_millis(500);
/// Longest such wait.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// A task that has lived for so long is well again.
const WELL_AFTER: Duration = Duration::from_secs(60);

/// How a kind of task does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskState {
    /// Which kind.
    pub name: &'static str,
    /// How many of it died since the start of the daemon.
    pub deaths: u64,
    /// Now.
    pub standing: Standing,
}

/// How a task does now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It runs.
    Well,
    /// It runs again since it died, and not yet for long.
    Again {
        /// When it died.
        died_at: Timestamp,
    },
    /// It died and waits to be started again.
    Dead {
        /// When it died.
        died_at: Timestamp,
    },
}

/// What a task's end means when nobody told it to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Return {
    IsDeath,
    IsFine,
}

#[derive(Debug, Default)]
struct Task {
    deaths: u64,
    waiting: u32,
    died: Option<(Timestamp, Instant)>,
}

/// The daemon's long-lived tasks. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Tasks(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    all: Mutex<BTreeMap<&'static str, Task>>,
    clock: Arc<dyn Clock>,
    lost: CancellationToken,
}

/// Where tasks are counted, and what tells them to end.
pub type Within<'w> = (&'w TaskTracker, &'w CancellationToken);

impl Tasks {
    /// None yet.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self(Arc::new(Inner { all: Mutex::default(), clock, lost: CancellationToken::new() }))
    }

    /// Runs what `make` makes until told to stop; it is made anew when it dies.
    pub fn keep<F>(&self, within: Within<'_>, name: &'static str, make: impl FnMut() -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send,
    {
        self.start(within, name, Return::IsDeath, make);
    }

    /// The same for a task that may find that it has no more to do.
    pub fn keep_until_done<F>(&self, within: Within<'_>, name: &'static str, make: impl FnMut() -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send,
    {
        self.start(within, name, Return::IsFine, make);
    }

    /// Runs a task that cannot be made anew: when it dies, the daemon ends ([`Self::is_beyond_help`]).
    pub fn stake(&self, (tracker, stop): Within<'_>, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let (tasks, stop) = (self.clone(), stop.clone());
        tasks.lock().entry(name).or_default();
        tracker.spawn(async move {
            if let Some(why) = death(task, &stop, Return::IsDeath).await {
                tasks.0.lost.cancel();
                error!(task = name, "the task {name} died and cannot be started again, so the daemon ends: {why}");
                stop.cancel();
                tasks.died(name);
            }
        });
    }

    /// Whether a task died without which the daemon is nothing.
    #[must_use]
    pub fn is_beyond_help(&self) -> bool {
        self.0.lost.is_cancelled()
    }

    /// How all kinds of tasks do, by name.
    #[must_use]
    pub fn states(&self) -> Vec<TaskState> {
        self.lock().iter().map(|(name, task)| TaskState { name, deaths: task.deaths, standing: task.standing() }).collect()
    }

    fn start<F>(&self, (tracker, stop): Within<'_>, name: &'static str, end: Return, mut make: impl FnMut() -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send,
    {
        let (tasks, stop) = (self.clone(), stop.clone());
        tasks.lock().entry(name).or_default();
        tracker.spawn(async move {
            let mut deaths = 0;
            loop {
                let born = Instant::now();
                let Some(why) = death(async { make().await }, &stop, end).await else { return };
                deaths = if born.elapsed() < WELL_AFTER { deaths + 1 } else { 0 };
                let wait = doubled(WAIT, deaths, WAIT_MAX);
                tasks.died(name);
                error!(task = name, wait_ms = wait.as_millis(), "the task {name} died and is started again: {why}");
                if stop.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
                    return;
                }
                tasks.lives_again(name);
                info!(task = name, "the task {name} runs again");
            }
        });
    }

    fn died(&self, name: &'static str) {
        let at = self.0.clock.now();
        let mut all = self.lock();
        let task = all.entry(name).or_default();
        task.deaths += 1;
        task.waiting += 1;
        task.died = Some((at, Instant::now()));
    }

    fn lives_again(&self, name: &'static str) {
        let mut all = self.lock();
        let task = all.entry(name).or_default();
        task.waiting = task.waiting.saturating_sub(1);
        // From now on it has to show that it is well.
        task.died = task.died.map(|(at, _)| (at, Instant::now()));
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, Task>> {
        self.0.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Task {
    fn standing(&self) -> Standing {
        match self.died {
            Some((died_at, _)) if self.waiting > 0 => Standing::Dead { died_at },
            Some((died_at, since)) if since.elapsed() < WELL_AFTER => Standing::Again { died_at },
            Some(_) | None => Standing::Well,
        }
    }
}

/// Runs a task to its end; why it died, if it did.
async fn death(task: impl Future<Output = ()>, stop: &CancellationToken, end: Return) -> Option<String> {
    // Nothing of a task is looked at after its panic; what it shares with others is behind locks that forget the poison.
    match AssertUnwindSafe(task).catch_unwind().await {
        Ok(()) if stop.is_cancelled() || end == Return::IsFine => None,
        Ok(()) => Some("it ended although nobody told it to".to_owned()),
        Err(panic) => Some(format!("it panicked: {}", words(panic.as_ref()))),
    }
}

fn words(panic: &(dyn Any + Send)) -> &str {
    panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without words")
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::domain::SystemClock;

    struct Bench {
        tasks: Tasks,
        tracker: TaskTracker,
        stop: CancellationToken,
    }

    impl Bench {
        fn new() -> Self {
            Self { tasks: Tasks::new(Arc::new(SystemClock)), tracker: TaskTracker::new(), stop: CancellationToken::new() }
        }

        fn within(&self) -> Within<'_> {
            (&self.tracker, &self.stop)
        }

        /// How the only kind of task does.
        fn only(&self) -> TaskState {
            self.tasks.states().pop().expect("a task")
        }

        async fn end(self) {
            self.stop.cancel();
            self.tracker.close();
            self.tracker.wait().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_dies_is_started_again_counted_and_shown_until_it_is_well() {
        let (bench, lives) = (Bench::new(), Arc::new(AtomicU32::new(0)));
        let (counted, stop) = (Arc::clone(&lives), bench.stop.clone());
        bench.tasks.keep(bench.within(), "observer", move || {
            let (life, stop) = (counted.fetch_add(1, Ordering::SeqCst), stop.clone());
            async move {
                match life {
                    0 => panic!("a test's own panic"),
                    1 => {}
                    _ => stop.cancelled().await,
                }
            }
        });
        assert_eq!(bench.only().standing, Standing::Well);
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(matches!(bench.only(), TaskState { name: "observer", deaths: 1, standing: Standing::Dead { .. } }));
        tokio::time::sleep(WAIT * 2).await;
        assert!(matches!(bench.only(), TaskState { deaths: 2, standing: Standing::Dead { .. }, .. }), "an end that nobody ordered is a death");
        tokio::time::sleep(WAIT * 4).await;
        assert!(matches!(bench.only(), TaskState { deaths: 2, standing: Standing::Again { .. }, .. }));
        tokio::time::sleep(WELL_AFTER).await;
        assert_eq!(bench.only(), TaskState { name: "observer", deaths: 2, standing: Standing::Well });
        assert_eq!(lives.load(Ordering::SeqCst), 3);
        assert!(!bench.tasks.is_beyond_help());
        bench.end().await;
    }

    #[tokio::test(start_paused = true)]
    async fn the_waits_of_a_task_that_always_dies_are_bounded() {
        let (bench, lives) = (Bench::new(), Arc::new(AtomicU32::new(0)));
        let counted = Arc::clone(&lives);
        bench.tasks.keep(bench.within(), "doomed", move || {
            counted.fetch_add(1, Ordering::SeqCst);
            async { panic!("a test's own panic") }
        });
        tokio::time::sleep(Duration::from_secs(3600)).await;
        let count = lives.load(Ordering::SeqCst);
        assert!((60..=70).contains(&count), "{count} lives in an hour");
        bench.end().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_may_be_done_is_let_go_and_one_at_stake_ends_the_daemon() {
        let bench = Bench::new();
        bench.tasks.keep_until_done(bench.within(), "asker", || async {});
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(bench.only(), TaskState { name: "asker", deaths: 0, standing: Standing::Well });
        let stop = bench.stop.clone();
        bench.tasks.stake(bench.within(), "ended", async move { stop.cancelled().await });
        bench.tasks.stake(bench.within(), "manager", async { panic!("a test's own panic") });
        bench.stop.cancelled().await;
        assert!(bench.tasks.is_beyond_help());
        bench.tracker.close();
        bench.tracker.wait().await;
        let deaths: Vec<u64> = bench.tasks.states().iter().map(|state| state.deaths).collect();
        assert_eq!(deaths, [0, 0, 1], "who ends because it is told to has not died");
        bench.end().await;
    }
}
