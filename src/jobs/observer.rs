//! Watches the engine: its list of our containers is the truth, its events only say when to read the list again.
//!
//! Runs as a task of its own, so that an engine that hangs delays no pass of the manager; the manager reads the latest
//! [`EngineView`]. Each view carries a stamp taken before the engine was asked: what a view says of a container proves nothing
//! about an operation that ended after the stamp.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use jiff::Timestamp;
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::ear::Ear;
use super::handle::Wake;
use crate::docker::{ContainerFacts, Driver, DriverError, EngineInfo, EngineMemory};
use crate::domain::{Clock, HostFile, Runner, RunnerId, chain};
use crate::metrics::Metrics;

/// How long a view may get old without any event.
const REFRESH: Duration = Duration::from_secs(5);
/// Wait before an engine that did not answer is asked again.
const RETRY: Duration = Duration::from_secs(1);
/// Least time between two lists; a long list makes it longer, so that watching never costs more than half of a core.
const LEAST_GAP: Duration = Duration::from_millis(20);

/// Bits of an epoch that count the breaks within one run of the daemon.
const RUN_BITS: u32 = 16;

/// How long the kernel's word about memory may come after a container's end; on a busy machine half a second was not always enough.
const OOM_PATIENCE: Duration = Duration::from_secs(3);
/// Looks after an end, beside the one that its event leads to: engine 20.10 tells of an end before its list shows it.
const AFTER_AN_END: [Duration; 3] = [Duration::from_millis(50), Duration::from_millis(200), Duration::from_millis(800)];

/// What the engine showed.
#[derive(Debug, Clone)]
pub struct EngineView {
    /// Taken before the engine was asked.
    pub stamp: u64,
    /// What it said.
    pub sight: EngineSight,
}

/// What the engine said.
#[derive(Debug, Clone)]
pub enum EngineSight {
    /// Nothing was asked yet.
    Unknown,
    /// Our containers by name, and what the engine told of itself.
    Up {
        /// By name.
        containers: Arc<BTreeMap<String, ContainerFacts>>,
        /// The engine.
        info: Arc<EngineInfo>,
        /// Since when it answers.
        since: Timestamp,
    },
    /// It did not answer.
    Down {
        /// What went wrong.
        error: String,
        /// Since when.
        since: Timestamp,
    },
}

/// The observer's outer face.
#[derive(Debug)]
pub struct Observer {
    stamps: AtomicU64,
    epoch: AtomicU64,
    refresh: Notify,
    ended: AtomicBool,
    out_of_memory: watch::Sender<HashSet<RunnerId>>,
    view: watch::Sender<EngineView>,
    ear: Ear,
    init: HostFile,
    unseen: Mutex<Option<String>>,
    /// What the engine remembered when it was first seen.
    memory: OnceLock<Option<EngineMemory>>,
}

impl Observer {
    /// An observer that has seen nothing. `epoch_base` tells one boot of the machine and one run of the daemon from another; `init` is a file
    /// that the engine has to see.
    #[must_use]
    pub fn new(epoch_base: u64, init: HostFile) -> Self {
        let view = watch::Sender::new(EngineView { stamp: 0, sight: EngineSight::Unknown });
        Self {
            stamps: AtomicU64::new(1),
            epoch: AtomicU64::new(epoch_base),
            refresh: Notify::new(),
            ended: AtomicBool::new(false),
            out_of_memory: watch::Sender::default(),
            view,
            ear: Ear::default(),
            init,
            unseen: Mutex::new(None),
            memory: OnceLock::new(),
        }
    }

    /// Why the engine cannot give jobs what proves their ends; `None` when it can, or was not asked yet.
    pub(super) fn unseen(&self) -> Option<String> {
        self.unseen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks whether the engine sees our files. One that does not say is asked again when it comes back.
    async fn look_for_init(&self, driver: &dyn Driver) {
        let unseen = match driver.sees_file(&self.init).await {
            Ok(true) => None,
            Ok(false) => {
                Some(format!("the engine does not see {}: jobs of the API cannot start; docker.data_dir says where it sees data_dir", self.init))
            }
            Err(error) => {
                warn!(error = chain(&error), "whether the engine sees the files of jobs is not known");
                None
            }
        };
        if let Some(unseen) = &unseen {
            warn!("{unseen}");
        }
        *self.unseen.lock().unwrap_or_else(PoisonError::into_inner) = unseen;
    }

    /// A stamp that is later than that of every view whose engine was already asked.
    pub fn stamp(&self) -> u64 {
        self.stamps.fetch_add(1, Ordering::SeqCst)
    }

    /// Counts how often the engine was seen to break off.
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::SeqCst)
    }

    /// Whether the engine may have broken off, while this daemon did not run, under a container that another run of it started. `seen_ns` is
    /// when the engine wrote the latest output that is kept.
    pub(super) fn may_have_broken(&self, runner: &Runner, seen_ns: Option<u64>) -> bool {
        let Some(Some(memory)) = self.memory.get() else { return false };
        let before = runner.engine_epoch >> RUN_BITS != self.epoch() >> RUN_BITS;
        let container = runner.container.as_deref();
        before && container.is_some_and(|container| !memory.reaches_back(container, seen_ns))
    }

    /// Asks for a new view soon.
    pub fn refresh(&self) {
        self.refresh.notify_one();
    }

    /// The latest view.
    #[must_use]
    pub fn view(&self) -> EngineView {
        self.view.borrow().clone()
    }

    /// Whether the kernel was seen to kill a process of the runner's container for want of memory. Engine 20.10 forgets to say so of a
    /// container whose end reached it before the kernel's word; that word still comes as an event, a moment later.
    pub(super) async fn ran_out_of_memory(&self, runner: &RunnerId) -> bool {
        let mut told = self.out_of_memory.subscribe();
        let heard = told.wait_for(|all| all.contains(runner));
        matches!(tokio::time::timeout(OOM_PATIENCE, heard).await, Ok(Ok(_)))
    }

    /// Forgets runners that are gone, so that nothing grows.
    pub(super) fn retain(&self, keep: impl Fn(&RunnerId) -> bool) {
        self.out_of_memory.send_if_modified(|all| {
            all.retain(|runner| keep(runner));
            false
        });
    }

    fn broke_off(&self) {
        self.epoch.fetch_add(1, Ordering::SeqCst);
    }

    /// Lists until told to stop. Each new view wakes the manager.
    pub(super) async fn run(&self, driver: &dyn Driver, clock: &dyn Clock, wake: &mpsc::Sender<Wake>, stop: &CancellationToken) {
        let mut info = None;
        let mut soon = [].iter();
        loop {
            if self.ended.swap(false, Ordering::SeqCst) {
                soon = AFTER_AN_END.iter();
            }
            let asked = tokio::time::Instant::now();
            // A look that is dropped half-way is made again by whoever starts next.
            let Some(up) = stop.run_until_cancelled(self.look(driver, clock, &mut info)).await else { return };
            let calm = if up { REFRESH } else { RETRY };
            let wait = soon.next().copied().unwrap_or(calm);
            let _ = wake.try_send(Wake::Look);
            let gap = asked.elapsed().max(LEAST_GAP);
            // Both arms only wait; a refresh that arrives during the gap is kept by the Notify.
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep(gap) => {}
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.refresh.notified() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// A look at an engine that is new, or was away.
    async fn look_first(&self, driver: &dyn Driver, clock: &dyn Clock) -> Result<Vec<ContainerFacts>, DriverError> {
        let memory = if self.memory.get().is_none() { Some(driver.memory(clock.now()).await) } else { None };
        self.look_for_init(driver).await;
        let list = driver.list().await?;
        // Kept only now: one that broke off between is asked again.
        if let Some(memory) = memory {
            let _ = self.memory.set(memory.unwrap_or_else(|error| {
                warn!(error = chain(&error), "the engine does not tell what it remembers: whether it broke off before this start is not known");
                None
            }));
        }
        Ok(list)
    }

    /// Whether the engine answered.
    async fn look(&self, driver: &dyn Driver, clock: &dyn Clock, info: &mut Option<Arc<EngineInfo>>) -> bool {
        let stamp = self.stamp();
        let answer = match info {
            Some(known) => driver.list().await.map(|list| (list, Arc::clone(known))),
            None => match driver.info().await {
                Ok(fresh) => self.look_first(driver, clock).await.map(|list| (list, Arc::new(fresh))),
                Err(error) => Err(error),
            },
        };
        let before = self.view.borrow().sight.clone();
        let (sight, up) = match answer {
            Ok((list, engine)) => {
                *info = Some(Arc::clone(&engine));
                let since = match &before {
                    EngineSight::Up { since, .. } => *since,
                    EngineSight::Unknown | EngineSight::Down { .. } => {
                        info!(engine.version = %engine.version, "the engine answers");
                        clock.now()
                    }
                };
                let containers = Arc::new(list.into_iter().map(|facts| (facts.name.clone(), facts)).collect());
                (EngineSight::Up { containers, info: engine, since }, true)
            }
            Err(error) => {
                *info = None;
                let error = chain(&error);
                let since = match &before {
                    EngineSight::Down { since, .. } => *since,
                    EngineSight::Unknown | EngineSight::Up { .. } => {
                        warn!(%error, "the engine does not answer");
                        self.broke_off();
                        clock.now()
                    }
                };
                (EngineSight::Down { error, since }, false)
            }
        };
        if let (EngineSight::Up { containers: before, .. }, EngineSight::Up { containers, .. }) = (&before, &sight) {
            self.ear.compare(before, containers);
        }
        self.view.send_replace(EngineView { stamp, sight });
        up
    }

    /// Turns the engine's events into wishes for a new view. A stream that ends without our doing means that the engine broke off.
    pub(super) async fn follow_events(&self, driver: &dyn Driver, metrics: &Metrics, stop: &CancellationToken) {
        'streams: loop {
            let mut events = driver.events();
            loop {
                // `next` loses nothing when it is dropped: the stream stays.
                let event = tokio::select! {
                    biased;
                    () = self.ear.is_deaf() => {
                        warn!("the engine's events have fallen silent; they are asked for anew");
                        metrics.engine.failed("events", "silent");
                        continue 'streams;
                    }
                    () = stop.cancelled() => return,
                    event = events.next() => event,
                };
                match event {
                    Some(Ok(event)) => {
                        self.ear.hears();
                        self.ended.fetch_or(event.action == "die", Ordering::SeqCst);
                        if let (Some(runner), "oom") = (event.runner, event.action.as_str()) {
                            self.out_of_memory.send_modify(|all| all.extend([runner]));
                        }
                        self.refresh();
                    }
                    Some(Err(_)) | None => break,
                }
            }
            if matches!(self.view.borrow().sight, EngineSight::Up { .. }) {
                self.broke_off();
            }
            self.refresh();
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep(RETRY) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::deps::fixture::{FakeEngine, Still};

    #[tokio::test]
    async fn an_engine_that_does_not_tell_what_it_remembers_is_up_all_the_same() {
        let (engine, mut info) = (FakeEngine::default(), None);
        let observer = Observer::new(1 << 32, HostFile::parse("init", "/opt/init").expect("a path"));
        assert!(!observer.look(&engine, &Still, &mut info).await);
        assert_eq!(observer.memory.get(), None, "one that broke off meanwhile is asked again");
        engine.lists.store(true, Ordering::SeqCst);
        assert!(observer.look(&engine, &Still, &mut info).await);
        assert!(matches!(observer.view().sight, EngineSight::Up { .. }));
        assert_eq!(observer.memory.get(), Some(&None), "it remembers nothing");
    }
}
