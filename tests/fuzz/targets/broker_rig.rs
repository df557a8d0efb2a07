//! A broker between a store in memory, where one job of GitLab's runs, and a GitLab that keeps exact offsets of the trace.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use jiff::Timestamp;
use runner_coordinator::config::Config;
use runner_coordinator::domain::{
    ClassName, Clock, CpuMillis, GitLabJob, GitLabRef, HostId, Job, JobId, JobSpec, MemoryBytes, Placement, Requirement, RetryPolicy, Runner,
    RunnerId, RunnerOrigin, Source, Step, Work,
};
use runner_coordinator::gitlab::{GitLab, GitLabError, JobAnswer, Relay, RelayHeaders, RunnerInfo, StreamingRelay, Upload};
use runner_coordinator::http::broker_router;
use runner_coordinator::jobs::broker::{Broker, BrokerParts};
use runner_coordinator::metrics::Metrics;
use runner_coordinator::security::SecurityManager;
use runner_coordinator::store::log::LogStore;
use runner_coordinator::store::{Candidate, NewJob, SqliteStore, Store};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;

/// GitLab's id of the job, and of one whose artifacts it needs.
pub(crate) const GITLAB_ID: u64 = 4711;
const NEEDED_ID: u64 = 4700;
/// GitLab's tokens for the two.
pub(crate) const JOB_TOKEN: &str = "glcbt-job";
pub(crate) const NEEDED_TOKEN: &str = "glcbt-dep";
const PAYLOAD: &str = r#"{"id":4711,"token":"glcbt-job","dependencies":[{"id":4700,"token":"glcbt-dep"}]}"#;

/// The machine.
const HOST: &str = "box1";
/// Most jobs of one store.
const MOST_JOBS: u32 = 500;

/// The one job, waiting.
pub(crate) fn gitlab_job(now: Timestamp, number: u32) -> (Job, GitLabJob) {
    let reference = GitLabRef::bare("http://gitlab.test", GITLAB_ID);
    let spec = JobSpec {
        source: Source::GitLab,
        project: None,
        requirement: Requirement::plain(ClassName::from_trusted("default"), CpuMillis(1000), MemoryBytes(1 << 30)),
        timeout: Duration::from_secs(3600),
        priority: 0,
        retries: 0,
        work: Work::GitLab(reference.clone()),
    };
    let job = Job::new(JobId::from_trusted(format!("0190abcdef{number:04}")), spec, now);
    (job, GitLabJob { reference, token: JOB_TOKEN.to_owned(), payload: PAYLOAD.to_owned() })
}

/// Puts it into the queue.
pub(crate) async fn submitted(store: &dyn Store, job: Job, gitlab: GitLabJob) {
    let new = NewJob { job, gitlab: Some(gitlab), idempotency: None, weight: 1, queue_limit: 100, whole_queue_limit: 100 };
    store.submit(new).await.expect("a store");
}

/// The time of all that happens here.
#[derive(Debug)]
pub(crate) struct Stopped;

impl Clock for Stopped {
    fn now(&self) -> Timestamp {
        Timestamp::from_second(1_795_000_000).expect("a time")
    }
}

/// A GitLab with the one job.
#[derive(Debug, Default)]
pub(crate) struct OneJob {
    /// What it answers instead of thinking for itself.
    pub(crate) script: Mutex<VecDeque<Relay>>,
    pub(crate) trace: Mutex<Vec<u8>>,
    pub(crate) calls: Mutex<usize>,
    status: Mutex<Option<String>>,
}

impl OneJob {
    /// Counts a call, which must be one of the job's own, and gives the scripted answer if there is one.
    fn called(&self, job: u64, token: &str) -> Option<Relay> {
        let known = [(GITLAB_ID, JOB_TOKEN), (NEEDED_ID, NEEDED_TOKEN)];
        assert!(known.contains(&(job, token)), "GitLab is called for job {job} with {token:?}");
        *self.calls.lock().expect("lock") += 1;
        self.script.lock().expect("lock").pop_front()
    }

    fn answer(&self, status: u16, held: Option<usize>) -> Relay {
        let ended = self.status.lock().expect("lock").clone();
        let mut headers = RelayHeaders::from_pairs([("Job-Status", ended.as_deref().unwrap_or("running"))]);
        if let Some(held) = held {
            headers.set("range", &format!("0-{held}"));
        }
        Relay { status, headers, body: Bytes::new() }
    }
}

#[async_trait]
impl GitLab for OneJob {
    async fn request_job(&self, _: &SecretString, _: &RunnerInfo) -> Result<JobAnswer, GitLabError> {
        panic!("a runner makes nobody ask GitLab for work")
    }

    async fn verify_runner(&self, _: &SecretString) -> Result<(), GitLabError> {
        panic!("no token of a runner of GitLab's is in reach")
    }

    async fn update_job(&self, job: u64, job_token: &str, body: Value) -> Result<Relay, GitLabError> {
        if let Some(scripted) = self.called(job, job_token) {
            return Ok(scripted);
        }
        let mut ended = self.status.lock().expect("lock");
        let refused = ended.is_some();
        if let Some(state @ ("success" | "failed")) = body["state"].as_str() {
            ended.get_or_insert_with(|| state.to_owned());
        }
        drop(ended);
        Ok(self.answer(if refused { 403 } else { 200 }, None))
    }

    async fn patch_trace(&self, job: u64, job_token: &str, content_range: &str, _: &str, body: Bytes) -> Result<Relay, GitLabError> {
        if let Some(scripted) = self.called(job, job_token) {
            return Ok(scripted);
        }
        let mut trace = self.trace.lock().expect("lock");
        let start = content_range.trim().split_once('-').and_then(|(start, _)| start.parse::<usize>().ok()).expect("it was checked");
        let ended = self.status.lock().expect("lock").is_some();
        if ended || start != trace.len() {
            return Ok(self.answer(if ended { 403 } else { 416 }, Some(trace.len())));
        }
        trace.extend_from_slice(&body);
        Ok(self.answer(202, Some(trace.len())))
    }

    async fn upload_artifacts(&self, job: u64, job_token: &str, upload: Upload) -> Result<Relay, GitLabError> {
        let scripted = self.called(job, job_token);
        let parts: Vec<Bytes> =
            upload.body.try_collect().await.map_err(|error| GitLabError::Unreachable { doing: "upload", source: error.into() })?;
        drop(parts);
        Ok(scripted.unwrap_or_else(|| self.answer(201, None)))
    }

    async fn download_artifacts(&self, job: u64, job_token: &str, _: &str) -> Result<StreamingRelay, GitLabError> {
        let Relay { status, headers, body } = self.called(job, job_token).unwrap_or_else(|| self.answer(200, None));
        Ok(StreamingRelay { status, headers, body: stream::iter([Ok(body)]).boxed() })
    }
}

/// What outlives an input: a key costs more than all the rest.
pub(crate) struct Ground {
    pub(crate) runtime: tokio::runtime::Runtime,
    /// The store of now, and how many jobs it has had: making one takes as long as a hundred inputs.
    store: RefCell<(Arc<dyn Store>, u32)>,
    security: Arc<SecurityManager>,
    directory: tempfile::TempDir,
}

impl Ground {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let config = Config::load(Some(std::path::Path::new("/dev/null")), std::iter::empty()).expect("the defaults serve");
        let security = Arc::new(SecurityManager::open(directory.path(), &config).expect("a key"));
        Self { runtime: super::runtime(), store: RefCell::new((new_store(), 0)), security, directory }
    }

    /// A store in which no job waits or runs, and a number for the next one.
    async fn store(&self) -> (Arc<dyn Store>, u32) {
        let (store, jobs) = self.store.borrow().clone();
        let left = store.open_runners(&HostId::from_trusted(HOST)).await.expect("a store");
        let mut is_clean = store.waiting().await.expect("a store").is_empty();
        for aggregate in left {
            // The container goes when the job has ended.
            for step in [Step::Exited, Step::Removed] {
                is_clean &= !aggregate.has_open_attempt() && store.apply(&aggregate.runner.id, step, Stopped.now()).await.is_ok();
            }
        }
        let store = if jobs < MOST_JOBS && is_clean { store } else { new_store() };
        let next = if jobs >= MOST_JOBS { 1 } else { jobs + 1 };
        *self.store.borrow_mut() = (Arc::clone(&store), next);
        (store, next)
    }
}

fn new_store() -> Arc<dyn Store> {
    Arc::new(SqliteStore::in_memory(Arc::new(Metrics::default())).expect("a store"))
}

/// A broker with its one runner at work.
pub(crate) struct Rig {
    pub(crate) router: Router,
    pub(crate) gitlab: Arc<OneJob>,
    pub(crate) logs: Arc<LogStore>,
    pub(crate) job: JobId,
    /// The runner's token.
    pub(crate) token: String,
}

impl Rig {
    pub(crate) async fn new(ground: &Ground) -> Self {
        let (store, number) = ground.store().await;
        let (now, runner) = (Stopped.now(), RunnerId::from_trusted(format!("0190runner{number:04}")));
        let (job, gitlab_job) = gitlab_job(now, number);
        let id = job.id.clone();
        submitted(store.as_ref(), job, gitlab_job).await;
        claimed(store.as_ref(), &runner).await;
        let logs = ground.directory.path().join("logs");
        // Nothing is left of the input before.
        let _ = std::fs::remove_dir_all(&logs);
        let (gitlab, logs) = (Arc::new(OneJob::default()), Arc::new(LogStore::in_caller(logs, 1 << 20)));
        let token = ground.security.runner_token(&runner).expose_secret().to_owned();
        let broker = Broker::new(BrokerParts {
            store,
            gitlab: Some(Arc::clone(&gitlab) as Arc<dyn GitLab>),
            security: Arc::clone(&ground.security),
            logs: Arc::clone(&logs),
            clock: Arc::new(Stopped),
            host: HostId::from_trusted(HOST),
            contacts: Arc::default(),
            retry: Arc::new(|| RetryPolicy { infrastructure_retries: 3, backoff: Duration::from_secs(1), backoff_max: Duration::from_secs(9) }),
            nudge: Arc::new(|| {}),
        });
        Self { router: broker_router(Arc::new(broker)), gitlab, logs, job: id, token }
    }
}

/// Gives the waiting job a runner whose container has started.
async fn claimed(store: &dyn Store, runner: &RunnerId) {
    let now = Stopped.now();
    let waiting = store.waiting().await.expect("a store");
    let first = waiting.first().expect("the job waits");
    let placement = Placement { cpus: first.requirement.cpus, memory: first.requirement.memory, devices: Vec::new(), share: None, opened: None };
    let planned = Runner::planned(runner.clone(), first.requirement.class.clone(), HostId::from_trusted(HOST), RunnerOrigin::Job, placement, now);
    store.claim(&[Candidate { requirement: first.id, runner: planned }], now).await.expect("a store").expect("the job");
    for step in [Step::ContainerCreated { container: "c1".to_owned(), image: None, opened: Vec::new() }, Step::StartSent { engine_epoch: 0 }] {
        store.apply(runner, step, now).await.expect("may be taken");
    }
}
