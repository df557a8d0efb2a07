//! What the tests against a real engine share: a coordinator of its own per test.
#![expect(clippy::expect_used, reason = "the helpers of tests fail like tests")]

use std::collections::BTreeMap;
use std::time::Duration;

use bollard::Docker;
use bollard::query_parameters::WaitContainerOptions;
use futures_util::{StreamExt, TryStreamExt};
use runner_coordinator::docker::{ContainerFacts, ContainerPlan, DockerDriver, Driver, LogRecord, LogStream, Owner, ResolvedImage};
use runner_coordinator::domain::{ClassName, CpuMillis, HostId, ImageRef, JobId, MemoryBytes, RunnerId};
use runner_coordinator::security::{CallFilter, DeviceGrant, Exec, HardenedProfile, NetworkAccess, ProfileRequest, SecurityManager, TmpfsMount};

/// Longest wait for anything here.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A coordinator of its own per test, so that tests can share an engine.
pub(crate) struct Bench {
    pub(crate) driver: DockerDriver,
    pub(crate) raw: Docker,
    pub(crate) instance: String,
    pub(crate) image: ResolvedImage,
}

impl Bench {
    pub(crate) async fn new() -> Self {
        let host = crate::harness::engine::host();
        let instance = JobId::generate().to_string().chars().rev().collect::<String>();
        let driver = DockerDriver::new(&host, instance.clone(), Vec::new()).expect("a driver");
        let image = driver.resolve_image(&ImageRef::from_trusted("rc-test/busybox:1")).await.expect("the engine answers");
        let image = image.expect("the image rc-test/busybox:1 is missing: run \"make test\"");
        let raw = match host.strip_prefix("unix://") {
            Some(path) => Docker::connect_with_unix(path, 60, bollard::API_DEFAULT_VERSION),
            None => Docker::connect_with_http(&host, 60, bollard::API_DEFAULT_VERSION),
        };
        Self { driver, raw: raw.expect("a client"), instance, image }
    }

    pub(crate) fn plan(&self, script: &str) -> ContainerPlan {
        let runner = RunnerId::generate();
        ContainerPlan {
            name: format!("rc-{runner}"),
            owner: Owner {
                instance: self.instance.clone(),
                host: HostId::from_trusted("box1"),
                runner,
                class: ClassName::from_trusted("default"),
                job: Some((JobId::generate(), 1)),
                nonce: "nonce".to_owned(),
            },
            image: self.image.clone(),
            command: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
            entrypoint: Some(Vec::new()),
            env: BTreeMap::new(),
            network: None,
            workdir: None,
            opened: Vec::new(),
        }
    }

    pub(crate) async fn start(&self, plan: &ContainerPlan, profile: &HardenedProfile) -> String {
        let id = self.driver.create(plan, profile).await.expect("created");
        self.driver.start(&id).await.expect("started");
        id
    }

    /// Waits for the end and tells everything about it.
    pub(crate) async fn ended(&self, id: &str) -> ContainerFacts {
        let mut waiting = self.raw.wait_container(id, None::<WaitContainerOptions>);
        let _code = tokio::time::timeout(PATIENCE, waiting.next()).await.expect("the container ends");
        self.driver.inspect(id).await.expect("inspected").expect("still there")
    }

    pub(crate) async fn run(&self, plan: &ContainerPlan, profile: &HardenedProfile) -> (ContainerFacts, String) {
        let id = self.start(plan, profile).await;
        let facts = self.ended(&id).await;
        (facts, String::from_utf8_lossy(&bytes(&self.records(&id, 0).await, None)).into_owned())
    }

    pub(crate) async fn records(&self, id: &str, since: i64) -> Vec<LogRecord> {
        tokio::time::timeout(PATIENCE, self.driver.logs(id, since).try_collect()).await.expect("the log ends").expect("a whole log")
    }

    /// Takes everything away and shows that nothing is left.
    pub(crate) async fn finish(self) {
        for facts in self.driver.list().await.expect("a list") {
            self.driver.remove(&facts.id).await.expect("removed");
        }
        assert_eq!(self.driver.list().await.expect("a list"), Vec::new());
        let name: String = self.instance.chars().take(12).collect();
        let _absent = self.raw.remove_network(&format!("rc-{name}")).await;
    }
}

pub(crate) fn bytes(records: &[LogRecord], stream: Option<LogStream>) -> Vec<u8> {
    records.iter().filter(|record| stream.is_none_or(|stream| record.stream == stream)).flat_map(|record| record.bytes.to_vec()).collect()
}

pub(crate) fn request() -> ProfileRequest {
    ProfileRequest {
        user: "65532:65532".to_owned(),
        cpus: CpuMillis(500),
        memory: MemoryBytes(64 << 20),
        pids: 64,
        tmpfs: vec![TmpfsMount { path: "/tmp".to_owned(), size: MemoryBytes(16 << 20), exec: Exec::Forbidden }],
        network: NetworkAccess::None,
        runtime: "runc".to_owned(),
        runner_binary: None,
        filter: CallFilter::Ours,
        proof: None,
        stop_grace: Duration::from_secs(5),
        devices: DeviceGrant::None,
    }
}

pub(crate) fn profile() -> HardenedProfile {
    SecurityManager::harden(request()).expect("a profile")
}
