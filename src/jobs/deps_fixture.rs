//! An engine that does what a test says, and what the manager works with around it.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use jiff::Timestamp;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::super::assemble::Seams;
use super::super::manager::Seat;
use super::super::proof::Proof;
use super::{Deps, Shared};
use crate::config::{Config, Live};
use crate::docker::{
    ContainerFacts, ContainerPlan, ContainerState, Driver, DriverError, EngineEvent, EngineInfo, EngineMemory, ImageRemoval, LogRecord, LogStream,
    NetworkInfo, ResolvedImage, Usage, fixture,
};
use crate::domain::{Arch, ClassName, Clock, CpuMillis, HostFile, ImageRef, MemoryBytes};
use crate::firewall::fixture::Willing;
use crate::metrics::Metrics;
use crate::platform::{HostProbe, KernelFacts, PlatformManager};
use crate::security::{HardenedProfile, SecurityManager};
use crate::store::SqliteStore;
use crate::store::log::LogStore;

/// An engine with one container at most, `c`, whose output is one line.
#[derive(Debug, Default)]
pub(crate) struct FakeEngine {
    /// Whether the container runs.
    pub(crate) runs: AtomicBool,
    /// Whether it lists its containers.
    pub(crate) lists: AtomicBool,
    /// Its networks.
    pub(crate) networks: Mutex<Vec<NetworkInfo>>,
    /// Whether something is on each of them.
    pub(crate) keeps_networks: AtomicBool,
}

fn no<T>(call: &'static str) -> Result<T, DriverError> {
    Err(DriverError::Deadline { call, after: Duration::from_secs(1) })
}

#[async_trait]
impl Driver for FakeEngine {
    async fn ping(&self) -> Result<(), DriverError> {
        Ok(())
    }

    async fn info(&self) -> Result<EngineInfo, DriverError> {
        Ok(fixture::engine())
    }

    async fn memory(&self, _now: Timestamp) -> Result<Option<EngineMemory>, DriverError> {
        no("memory")
    }

    async fn sees_file(&self, _file: &HostFile) -> Result<bool, DriverError> {
        Ok(true)
    }

    async fn ensure_network(&self, class: Option<&ClassName>) -> Result<NetworkInfo, DriverError> {
        let networks = self.networks.lock().unwrap_or_else(PoisonError::into_inner);
        networks.iter().find(|network| network.class.as_ref() == class).cloned().map_or_else(|| no("network"), Ok)
    }

    async fn networks(&self) -> Result<Vec<NetworkInfo>, DriverError> {
        Ok(self.networks.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    async fn remove_network(&self, id: &str) -> Result<(), DriverError> {
        if self.keeps_networks.load(Ordering::SeqCst) {
            return no("remove a network");
        }
        self.networks.lock().unwrap_or_else(PoisonError::into_inner).retain(|network| network.id != id);
        Ok(())
    }

    async fn resolve_image(&self, _image: &ImageRef) -> Result<Option<ResolvedImage>, DriverError> {
        Ok(None)
    }

    async fn pull(&self, _image: &ImageRef, _platform: Option<Arch>, _progress: mpsc::Sender<String>) -> Result<ResolvedImage, DriverError> {
        no("pull")
    }

    async fn images_in_use(&self) -> Result<Vec<String>, DriverError> {
        Ok(Vec::new())
    }

    async fn remove_image(&self, _image: &ImageRef) -> Result<ImageRemoval, DriverError> {
        Ok(ImageRemoval::Gone)
    }

    async fn create(&self, _plan: &ContainerPlan, _profile: &HardenedProfile) -> Result<String, DriverError> {
        no("create")
    }

    async fn start(&self, _container: &str) -> Result<(), DriverError> {
        no("start")
    }

    async fn inspect(&self, container: &str) -> Result<Option<ContainerFacts>, DriverError> {
        let runs = self.runs.load(Ordering::SeqCst);
        Ok(Some(ContainerFacts {
            id: container.to_owned(),
            name: container.to_owned(),
            owner: None,
            devices: Vec::new(),
            given: None,
            state: if runs { ContainerState::Running { pid: None } } else { ContainerState::Exited },
            exit_code: None,
            oom_killed: None,
            error: String::new(),
            started_at: None,
            finished_at: None,
        }))
    }

    async fn list(&self) -> Result<Vec<ContainerFacts>, DriverError> {
        if self.lists.load(Ordering::SeqCst) { Ok(Vec::new()) } else { no("list") }
    }

    async fn stop(&self, _container: &str, _grace: Duration) -> Result<(), DriverError> {
        Ok(())
    }

    async fn remove(&self, _container: &str) -> Result<(), DriverError> {
        Ok(())
    }

    async fn usage(&self, _container: &str) -> Result<Option<Usage>, DriverError> {
        Ok(None)
    }

    fn logs(&self, _container: &str, _since_seconds: i64) -> BoxStream<'static, Result<LogRecord, DriverError>> {
        // Whoever reads it to its end finds that it has ended.
        self.runs.store(false, Ordering::SeqCst);
        let record = LogRecord { ts_ns: 5, stream: LogStream::Stdout, bytes: Bytes::from_static(b"a line\n") };
        stream::iter([Ok(record)]).boxed()
    }

    fn events(&self) -> BoxStream<'static, Result<EngineEvent, DriverError>> {
        stream::pending().boxed()
    }
}

/// A clock that stands still.
#[derive(Debug)]
pub(crate) struct Still;

impl Clock for Still {
    fn now(&self) -> Timestamp {
        Timestamp::UNIX_EPOCH
    }
}

#[derive(Debug)]
struct Kernel;

impl HostProbe for Kernel {
    fn probe(&self) -> KernelFacts {
        KernelFacts { machine: "x86_64".to_owned(), cpus: CpuMillis(2000), memory: MemoryBytes(1 << 30), boot: 1 }
    }
}

/// The same as what operations share.
pub(crate) fn shared(directory: &Path, driver: Arc<FakeEngine>) -> Arc<Shared> {
    Arc::new(Shared::new(deps(directory, driver).0, 1 << 32))
}

/// Everything around this engine, with its files in `directory`.
pub(crate) fn deps(directory: &Path, driver: Arc<FakeEngine>) -> (Deps, Seat) {
    deps_of(directory, driver, "[[classes]]\nname = \"default\"")
}

/// The same with these settings.
pub(crate) fn deps_of(directory: &Path, driver: Arc<FakeEngine>, settings: &str) -> (Deps, Seat) {
    let file = directory.join("config.toml");
    std::fs::write(&file, format!("data_dir = \"{}\"\n{settings}", directory.display())).expect("written");
    let config = Config::load(Some(&file), std::iter::empty()).unwrap_or_else(|faults| panic!("{faults}"));
    let clock: Arc<dyn Clock> = Arc::new(Still);
    let live = Live::new(config, clock.now());
    let settings = live.current();
    let seams = Seams {
        store: Arc::new(SqliteStore::open(&directory.join("queue.db")).expect("a store")),
        driver,
        netfilter: Arc::new(Willing::default()),
        platform: Arc::new(PlatformManager::new(settings.host.clone(), &Kernel)),
        security: Arc::new(SecurityManager::open(directory, live.clone()).expect("keys")),
        proof: Proof::open(&settings).expect("a place for receipts"),
        logs: Arc::new(LogStore::in_caller(directory.join("logs"), 1 << 20)),
        clock,
        config: live,
        gitlab: None,
        listing: None,
        broker_url: watch::channel(None).1,
        metrics: Arc::new(Metrics::new(settings.classes.iter().map(|class| &class.name))),
    };
    seams.assemble(TaskTracker::new(), CancellationToken::new())
}
