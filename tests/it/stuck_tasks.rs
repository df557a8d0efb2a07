//! Tasks of the daemon that die: one that can be started again is, and one that cannot ends the daemon.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use reqwest::{Method, StatusCode};
use runner_coordinator::app::Outside;
use runner_coordinator::docker::{
    ContainerFacts, ContainerPlan, DockerDriver, Driver, DriverError, EngineEvent, EngineInfo, ImageRemoval, LogRecord, NetworkInfo, ResolvedImage,
    Usage,
};
use runner_coordinator::domain::{Arch, ClassName, Clock, HostFile, ImageRef, SystemClock};
use runner_coordinator::security::HardenedProfile;
use tokio::sync::mpsc;

use crate::harness::{PATIENCE, engine};
use crate::stuck::Inside;

/// An engine behind which the daemon's own code panics, once, when it is told to.
#[derive(Debug)]
struct Trap {
    engine: DockerDriver,
    armed: Arc<AtomicBool>,
}

#[async_trait]
impl Driver for Trap {
    async fn ping(&self) -> Result<(), DriverError> {
        self.engine.ping().await
    }

    async fn info(&self) -> Result<EngineInfo, DriverError> {
        self.engine.info().await
    }

    async fn sees_file(&self, file: &HostFile) -> Result<bool, DriverError> {
        self.engine.sees_file(file).await
    }

    async fn ensure_network(&self, class: Option<&ClassName>) -> Result<NetworkInfo, DriverError> {
        self.engine.ensure_network(class).await
    }

    async fn networks(&self) -> Result<Vec<NetworkInfo>, DriverError> {
        self.engine.networks().await
    }

    async fn remove_network(&self, id: &str) -> Result<(), DriverError> {
        self.engine.remove_network(id).await
    }

    async fn resolve_image(&self, image: &ImageRef) -> Result<Option<ResolvedImage>, DriverError> {
        self.engine.resolve_image(image).await
    }

    async fn pull(&self, image: &ImageRef, platform: Option<Arch>, progress: mpsc::Sender<String>) -> Result<ResolvedImage, DriverError> {
        self.engine.pull(image, platform, progress).await
    }

    async fn images_in_use(&self) -> Result<Vec<String>, DriverError> {
        self.engine.images_in_use().await
    }

    async fn remove_image(&self, image: &ImageRef) -> Result<ImageRemoval, DriverError> {
        self.engine.remove_image(image).await
    }

    async fn create(&self, plan: &ContainerPlan, profile: &HardenedProfile) -> Result<String, DriverError> {
        self.engine.create(plan, profile).await
    }

    async fn start(&self, container: &str) -> Result<(), DriverError> {
        self.engine.start(container).await
    }

    async fn inspect(&self, container: &str) -> Result<Option<ContainerFacts>, DriverError> {
        self.engine.inspect(container).await
    }

    async fn list(&self) -> Result<Vec<ContainerFacts>, DriverError> {
        assert!(!self.armed.swap(false, Ordering::SeqCst), "a test's own panic");
        self.engine.list().await
    }

    async fn stop(&self, container: &str, grace: Duration) -> Result<(), DriverError> {
        self.engine.stop(container, grace).await
    }

    async fn remove(&self, container: &str) -> Result<(), DriverError> {
        self.engine.remove(container).await
    }

    async fn usage(&self, container: &str) -> Result<Option<Usage>, DriverError> {
        self.engine.usage(container).await
    }

    fn logs(&self, container: &str, since_seconds: i64) -> BoxStream<'static, Result<LogRecord, DriverError>> {
        self.engine.logs(container, since_seconds)
    }

    fn events(&self) -> BoxStream<'static, Result<EngineEvent, DriverError>> {
        self.engine.events()
    }
}

/// The machine's clock, which is broken while it is told to be.
#[derive(Debug)]
struct BrokenClock(Arc<AtomicBool>);

impl Clock for BrokenClock {
    fn now(&self) -> jiff::Timestamp {
        assert!(!self.0.load(Ordering::SeqCst), "a test's own panic");
        SystemClock.now()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_that_panics_is_told_and_runs_again_and_jobs_go_on() {
    let armed = Arc::new(AtomicBool::new(false));
    let trap = Arc::clone(&armed);
    let inside = Inside::start("stuck-task", |instance| {
        let engine = DockerDriver::new(&engine::host(), instance.to_owned(), Vec::new()).expect("an engine");
        Outside { driver: Some(Arc::new(Trap { engine, armed: trap })), ..Outside::default() }
    });
    let inside = inside.await;
    inside.until("it is well", async |inside| inside.request(Method::GET, "/health", None).await.0 == StatusCode::OK).await;
    let id = inside.sh("sleep 2; echo done").await;
    armed.store(true, Ordering::SeqCst);
    inside.until("it is told", async |inside| inside.get("/health").await["checks"]["tasks"]["detail"].is_string()).await;
    let health = inside.get("/health").await;
    assert!(health["checks"]["tasks"]["detail"].as_str().is_some_and(|detail| detail.contains("observer")), "{health}");
    assert_eq!(inside.ended(&id).await["state"], "succeeded");
    inside.until("it runs again", async |inside| inside.request(Method::GET, "/health", None).await.0 == StatusCode::OK).await;
    assert!((inside.metric("task_deaths_total{task=\"observer\"}").await - 1.0).abs() < f64::EPSILON);
    assert!((inside.metric("task_up{task=\"observer\"}").await - 1.0).abs() < f64::EPSILON);
    assert!(!inside.app.handle.tasks().is_beyond_help());
    inside.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manager_that_panics_ends_the_daemon() {
    let broken = Arc::new(AtomicBool::new(false));
    let clock = Arc::new(BrokenClock(Arc::clone(&broken)));
    let inside = Inside::start("stuck-clock", |_| Outside { clock, ..Outside::default() }).await;
    assert!(!inside.app.handle.tasks().is_beyond_help());
    // Until the manager has met it, as it does at its next pass: others that ask before it die too, which ends nothing.
    broken.store(true, Ordering::SeqCst);
    tokio::time::timeout(PATIENCE, inside.lifecycle.stop.cancelled()).await.expect("the daemon ends");
    broken.store(false, Ordering::SeqCst);
    assert!(inside.app.handle.tasks().is_beyond_help());
}
