//! The broker between a scripted GitLab and a store in memory.

mod calls;
mod ends;
pub(crate) mod fake;
pub(crate) mod memory;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::TryStreamExt;
use jiff::Timestamp;
use secrecy::ExposeSecret;

use super::*;
use crate::config::Config;
use crate::domain::step::{Aggregate, Step};
use crate::domain::{
    ClassName, CpuMillis, GitLabJob, GitLabRef, GpuId, HostId, Job, JobId, JobSpec, MemoryBytes, Outcome, Placement, Requirement, Runner,
    RunnerOrigin, Source, Work,
};
use crate::store::log::{Follow, Times};
use fake::FakeGitLab;
use memory::MemoryStore;

/// GitLab's id of the one job.
pub(crate) const GITLAB_ID: u64 = 4711;
/// GitLab's description of it.
pub(crate) const PAYLOAD: &str = r#"{"id":4711,"token":"glcbt-job","big":12345678901234567890123,"dependencies":[{"id":4700,"token":"glcbt-dep"}]}"#;

#[derive(Debug)]
struct StoppedClock;

impl Clock for StoppedClock {
    fn now(&self) -> Timestamp {
        now()
    }
}

pub(crate) fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).expect("a time")
}

/// A broker with everything around it.
pub(crate) struct Rig {
    pub(crate) broker: Arc<Broker>,
    pub(crate) gitlab: Arc<FakeGitLab>,
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) runner: RunnerId,
    pub(crate) token: String,
    pub(crate) contacts: Arc<Contacts>,
    pub(crate) nudges: Arc<AtomicUsize>,
    directory: tempfile::TempDir,
}

impl Rig {
    /// A runner whose container has been started, with the job bound to it.
    pub(crate) fn new() -> Self {
        let rig = Self::idle();
        rig.bind();
        rig
    }

    /// The same, with the job handed over.
    pub(crate) async fn at_work() -> Self {
        let rig = Self::new();
        rig.broker.request(&rig.token).await.expect("the job");
        rig
    }

    /// A runner whose container has been started, without a job.
    pub(crate) fn idle() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let (gitlab, store) = (Arc::new(FakeGitLab::default()), Arc::new(MemoryStore::default()));
        let (contacts, nudges, security) = (Arc::new(Contacts::default()), Arc::new(AtomicUsize::new(0)), security(directory.path()));
        let runner = RunnerId::generate();
        let token = security.runner_token(&runner).expose_secret().to_owned();
        let broker = broker(directory.path(), &store, &gitlab, &contacts, &nudges);
        let rig = Self { broker, gitlab, store, runner, token, contacts, nudges, directory };
        let mut aggregate = Aggregate::new(planned(&rig.runner), None);
        for step in [Step::ContainerCreated { container: "c".into(), image: None, opened: Vec::new() }, Step::StartSent { engine_epoch: 0 }] {
            aggregate.apply(&step, now()).expect("may be taken");
        }
        rig.store.put(aggregate, None);
        rig
    }

    /// The same with a broker that remembers nothing.
    pub(crate) fn restarted(mut self) -> Self {
        self.broker = broker(self.directory.path(), &self.store, &self.gitlab, &self.contacts, &self.nudges);
        self
    }

    /// Binds the job to the runner, as the scheduler does.
    pub(crate) fn bind(&self) {
        let (job, gitlab) = gitlab_job();
        let (aggregate, _) = Aggregate::bind(self.store.of(&self.runner).runner, job, now()).expect("both are free");
        self.store.put(aggregate, Some(gitlab));
    }

    pub(crate) fn job(&self) -> Job {
        self.store.of(&self.runner).job.expect("a job")
    }

    pub(crate) async fn cancel(&self, reason: EndReason) {
        self.store.cancel_job(&self.job().id, reason, now()).await.expect("the store answers");
    }

    pub(crate) async fn step(&self, step: Step) {
        self.store.apply(&self.runner, step, now()).await.expect("may be taken");
    }

    pub(crate) async fn send(&self, range: &str, text: &'static str) -> Result<Relay, BrokerError> {
        self.broker.trace(&self.token, GITLAB_ID, range, "debug_trace=false", text.into()).await
    }

    pub(crate) async fn report(&self, state: &str) -> Result<Relay, BrokerError> {
        self.broker.update(&self.token, GITLAB_ID, serde_json::json!({ "token": self.token, "state": state })).await
    }

    /// A good token, but of a runner that there is not.
    pub(crate) fn strangers_token(&self) -> String {
        security(self.directory.path()).runner_token(&RunnerId::generate()).expose_secret().to_owned()
    }

    /// The job's own log.
    pub(crate) async fn log(&self) -> String {
        let job = self.job();
        if let Some(session) = self.broker.sessions.session_of(&self.runner, &job.id, 1) {
            session.close_log().await;
        }
        let parts: Vec<_> = self.broker.parts.logs.read(&job.id, 1, Follow::No, Times::Without).try_collect().await.expect("readable");
        String::from_utf8(parts.concat()).expect("text")
    }
}

fn broker(directory: &Path, store: &Arc<MemoryStore>, gitlab: &Arc<FakeGitLab>, contacts: &Arc<Contacts>, nudges: &Arc<AtomicUsize>) -> Arc<Broker> {
    let counter = Arc::clone(nudges);
    Arc::new(Broker::new(BrokerParts {
        store: Arc::clone(store) as Arc<dyn Store>,
        gitlab: Some(Arc::clone(gitlab) as Arc<dyn GitLab>),
        security: security(directory),
        logs: Arc::new(LogStore::new(directory.join("logs"), 1 << 20).expect("a thread")),
        clock: Arc::new(StoppedClock),
        host: HostId::from_trusted("box1"),
        contacts: Arc::clone(contacts),
        retry: Arc::new(|| RetryPolicy { infrastructure_retries: 3, backoff: Duration::from_secs(1), backoff_max: Duration::from_secs(9) }),
        nudge: Arc::new(move || {
            counter.fetch_add(1, Ordering::Relaxed);
        }),
    }))
}

/// The manager of a data directory: two of the same directory know each other's tokens.
fn security(data_dir: &Path) -> Arc<SecurityManager> {
    let config = Config::load(None, std::iter::empty()).expect("the defaults serve");
    Arc::new(SecurityManager::open(data_dir, &config).expect("a key"))
}

fn placement() -> Placement {
    Placement { cpus: CpuMillis(1000), memory: MemoryBytes(1 << 30), devices: vec![GpuId::from_trusted("GPU-1")], share: None, opened: None }
}

fn planned(id: &RunnerId) -> Runner {
    let (class, host) = (ClassName::from_trusted("default"), HostId::from_trusted("box1"));
    Runner::planned(id.clone(), class, host, RunnerOrigin::Pool, placement(), now())
}

/// The one job, waiting.
pub(crate) fn gitlab_job() -> (Job, GitLabJob) {
    let reference = GitLabRef::bare("http://gitlab.test", GITLAB_ID);
    let placement = placement();
    let requirement = Requirement::plain(ClassName::from_trusted("default"), placement.cpus, placement.memory);
    let spec = JobSpec {
        source: Source::GitLab,
        project: None,
        requirement,
        timeout: Duration::from_secs(3600),
        priority: 0,
        retries: 0,
        work: Work::GitLab(reference.clone()),
    };
    let job = Job::new(JobId::generate(), spec, now());
    (job, GitLabJob { reference, token: "glcbt-job".into(), payload: PAYLOAD.into() })
}
