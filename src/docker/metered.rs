//! An engine whose calls are timed and whose failures are counted.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use jiff::Timestamp;
use tokio::sync::mpsc;

use super::{
    ContainerFacts, ContainerPlan, Driver, DriverError, EngineEvent, EngineInfo, EngineMemory, ImageRemoval, LogRecord, NetworkInfo, ResolvedImage,
    Usage,
};
use crate::domain::{Arch, ClassName, HostFile, ImageRef};
use crate::metrics::Metrics;
use crate::security::HardenedProfile;

/// Any engine, measured from outside. A call that is given up by its caller is not counted.
#[derive(Debug)]
pub struct Metered {
    driver: Arc<dyn Driver>,
    metrics: Arc<Metrics>,
}

impl Metered {
    /// Measures this engine.
    #[must_use]
    pub fn new(driver: Arc<dyn Driver>, metrics: Arc<Metrics>) -> Self {
        Self { driver, metrics }
    }

    async fn timed<T>(&self, operation: &'static str, call: impl Future<Output = Result<T, DriverError>>) -> Result<T, DriverError> {
        let asked = Instant::now();
        let result = call.await;
        self.metrics.engine.record(operation, asked.elapsed(), result.as_ref().err().map(DriverError::kind));
        result
    }

    fn watched<T: 'static>(
        &self,
        operation: &'static str,
        stream: BoxStream<'static, Result<T, DriverError>>,
    ) -> BoxStream<'static, Result<T, DriverError>> {
        let metrics = Arc::clone(&self.metrics);
        let count = move |item: &Result<T, DriverError>| {
            if let Err(error) = item {
                metrics.engine.failed(operation, error.kind());
            }
        };
        stream.inspect(count).boxed()
    }
}

#[async_trait]
impl Driver for Metered {
    async fn ping(&self) -> Result<(), DriverError> {
        self.timed("ping", self.driver.ping()).await
    }

    async fn info(&self) -> Result<EngineInfo, DriverError> {
        self.timed("info", self.driver.info()).await
    }

    async fn ensure_network(&self, class: Option<&ClassName>) -> Result<NetworkInfo, DriverError> {
        self.timed("ensure_network", self.driver.ensure_network(class)).await
    }

    async fn networks(&self) -> Result<Vec<NetworkInfo>, DriverError> {
        self.timed("networks", self.driver.networks()).await
    }

    async fn remove_network(&self, id: &str) -> Result<(), DriverError> {
        self.timed("remove_network", self.driver.remove_network(id)).await
    }

    async fn memory(&self, now: Timestamp) -> Result<Option<EngineMemory>, DriverError> {
        self.timed("memory", self.driver.memory(now)).await
    }

    async fn sees_file(&self, file: &HostFile) -> Result<bool, DriverError> {
        self.timed("sees_file", self.driver.sees_file(file)).await
    }

    async fn resolve_image(&self, image: &ImageRef) -> Result<Option<ResolvedImage>, DriverError> {
        self.timed("resolve_image", self.driver.resolve_image(image)).await
    }

    async fn pull(&self, image: &ImageRef, platform: Option<Arch>, progress: mpsc::Sender<String>) -> Result<ResolvedImage, DriverError> {
        let asked = Instant::now();
        let result = self.driver.pull(image, platform, progress).await;
        let how = result.as_ref().err().map_or("ok", DriverError::kind);
        self.metrics.image_pulls.observe([how.into()], asked.elapsed());
        result
    }

    async fn images_in_use(&self) -> Result<Vec<String>, DriverError> {
        self.timed("images_in_use", self.driver.images_in_use()).await
    }

    async fn remove_image(&self, image: &ImageRef) -> Result<ImageRemoval, DriverError> {
        self.timed("remove_image", self.driver.remove_image(image)).await
    }

    async fn create(&self, plan: &ContainerPlan, profile: &HardenedProfile) -> Result<String, DriverError> {
        self.timed("create", self.driver.create(plan, profile)).await
    }

    async fn start(&self, container: &str) -> Result<(), DriverError> {
        self.timed("start", self.driver.start(container)).await
    }

    async fn inspect(&self, container: &str) -> Result<Option<ContainerFacts>, DriverError> {
        self.timed("inspect", self.driver.inspect(container)).await
    }

    async fn list(&self) -> Result<Vec<ContainerFacts>, DriverError> {
        self.timed("list", self.driver.list()).await
    }

    async fn stop(&self, container: &str, grace: Duration) -> Result<(), DriverError> {
        self.timed("stop", self.driver.stop(container, grace)).await
    }

    async fn remove(&self, container: &str) -> Result<(), DriverError> {
        self.timed("remove", self.driver.remove(container)).await
    }

    async fn usage(&self, container: &str) -> Result<Option<Usage>, DriverError> {
        self.timed("usage", self.driver.usage(container)).await
    }

    fn logs(&self, container: &str, since_seconds: i64) -> BoxStream<'static, Result<LogRecord, DriverError>> {
        self.watched("logs", self.driver.logs(container, since_seconds))
    }

    fn events(&self) -> BoxStream<'static, Result<EngineEvent, DriverError>> {
        self.watched("events", self.driver.events())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::docker::DockerDriver;
    use crate::metrics::Format;

    #[tokio::test]
    async fn calls_are_timed_and_failures_of_calls_pulls_and_streams_are_counted_by_kind() {
        let metrics = Arc::new(Metrics::default());
        let nowhere = DockerDriver::new("unix:///no/such/socket", "test".to_owned(), Vec::new()).expect("no engine is needed yet");
        let driver = Metered::new(Arc::new(nowhere), Arc::clone(&metrics));
        for _ in 0..2 {
            assert_eq!(driver.list().await.expect_err("no engine").kind(), "unreachable");
        }
        let (progress, _heard) = mpsc::channel(1);
        driver.pull(&ImageRef::from_trusted("debian"), None, progress).await.expect_err("no engine");
        assert!(driver.events().next().await.is_some_and(|event| event.is_err()));
        let mut text = String::new();
        metrics.write(Format::Prometheus, &mut text).expect("text");
        for line in [
            "runner_coordinator_engine_call_seconds_count{operation=\"list\"} 2",
            "runner_coordinator_engine_call_errors_total{operation=\"list\",kind=\"unreachable\"} 2",
            "runner_coordinator_engine_call_errors_total{operation=\"events\",kind=\"unreachable\"} 1",
            "runner_coordinator_image_pull_seconds_count{result=\"unreachable\"} 1",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line} is not in:\n{text}");
        }
    }
}
