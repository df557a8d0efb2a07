//! A runner written by others, the broker, and a GitLab: a job and its artifact arrive whole at both ends.
#![expect(clippy::expect_used, clippy::panic, reason = "what helps a test may fail as the test may")]

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::TryStreamExt as _;
use gitlab_runner::job::Job as RunnerJob;
use gitlab_runner::{GitlabLayer, JobHandler, JobResult, Phase, RunnerBuilder, UploadableFile};
use runner_coordinator::config::Config;
use runner_coordinator::domain::step::Step;
use runner_coordinator::domain::{
    Arch, ClassName, Clock as _, CpuMillis, HostId, Job, JobId, JobSpec, MemoryBytes, Placement, Requirement, RetryPolicy, Runner, RunnerId,
    RunnerOrigin, Source, SystemClock, Work,
};
use runner_coordinator::gitlab::{ClaimedJob, GitLab as _, HttpGitLab, JobAnswer, RunnerInfo};
use runner_coordinator::http::broker_router;
use runner_coordinator::jobs::broker::{Broker, BrokerParts, KnownEnd, ReportResult};
use runner_coordinator::jobs::contacts::Contacts;
use runner_coordinator::security::SecurityManager;
use runner_coordinator::store::log::{Follow, LogStore, Times};
use runner_coordinator::store::sqlite::SqliteStore;
use runner_coordinator::store::{NewJob, Store, Submission};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::task::JoinSet;
use tracing_subscriber::layer::SubscriberExt as _;

use crate::gitlab::{GitLab, JobSpec as GitLabSpec, Status};

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(60);
/// What every job says last.
const LAST_LINE: &str = "line 1999 \u{1f980}\n";
/// The class's token.
const TOKEN: &str = "glrt-broker";

/// A coordinator without an engine: everything between a runner and GitLab.
struct Rig {
    gitlab: GitLab,
    client: HttpGitLab,
    store: Arc<dyn Store>,
    logs: Arc<LogStore>,
    broker: Arc<Broker>,
    security: Arc<SecurityManager>,
    url: String,
    directory: tempfile::TempDir,
    _tasks: JoinSet<()>,
}

impl Rig {
    async fn start() -> Self {
        let gitlab = GitLab::start(SocketAddr::from(([127, 0, 0, 1], 0))).await.expect("a stand-in");
        gitlab.add_runner(TOKEN, &[]);
        let directory = tempfile::tempdir().expect("a directory");
        let config = Config::load(None, std::iter::empty()).expect("the defaults serve");
        let security = Arc::new(SecurityManager::open(directory.path(), &config).expect("a key"));
        let store: Arc<dyn Store> = Arc::new(SqliteStore::open(&directory.path().join("queue.db")).expect("a store"));
        let logs = Arc::new(LogStore::new(directory.path().join("logs"), 1 << 20).expect("a thread"));
        let http = || HttpGitLab::new(gitlab.url(), "r_broker_test1").expect("a client");
        let broker = Arc::new(Broker::new(BrokerParts {
            store: Arc::clone(&store),
            gitlab: Some(Arc::new(http())),
            security: Arc::clone(&security),
            logs: Arc::clone(&logs),
            clock: Arc::new(SystemClock),
            host: HostId::from_trusted("box1"),
            contacts: Arc::new(Contacts::default()),
            retry: Arc::new(|| RetryPolicy { infrastructure_retries: 0, backoff: Duration::ZERO, backoff_max: Duration::ZERO }),
            nudge: Arc::new(|| {}),
        }));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let router = broker_router(Arc::clone(&broker));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { axum::serve(listener, router).await.expect("it serves") });
        let client = http();
        Self { gitlab, client, store, logs, broker, security, url, directory, _tasks: tasks }
    }

    /// Takes the next job from GitLab and gives it to a runner whose container has been started.
    async fn claim(&self) -> (RunnerId, JobId) {
        let info = RunnerInfo { name: "test".into(), version: "0".into(), arch: Arch::Amd64 };
        let answer = self.client.request_job(&SecretString::from(TOKEN), &info).await.expect("an answer");
        let JobAnswer::Job(claimed) = answer else { panic!("GitLab has no job") };
        let new =
            NewJob { job: waiting(&claimed), gitlab: Some(claimed.job), idempotency: None, weight: 1, queue_limit: 10, whole_queue_limit: u32::MAX };
        let Submission::Created(job) = self.store.submit(new).await.expect("stored") else { panic!("it is new") };
        let requirement = &job.spec.requirement;
        let placement = Placement { cpus: requirement.cpus, memory: requirement.memory, devices: Vec::new(), share: None, opened: None };
        let (id, now) = (RunnerId::generate(), SystemClock.now());
        let runner = Runner::planned(id.clone(), requirement.class.clone(), HostId::from_trusted("box1"), RunnerOrigin::Pool, placement, now);
        self.store.plan_runner(&runner).await.expect("stored");
        for step in
            [Step::ContainerCreated { container: "c".into(), image: None, opened: Vec::new() }, Step::StartSent { engine_epoch: 0 }, Step::Reported]
        {
            self.store.apply(&id, step, now).await.expect("may be taken");
        }
        let bound = self.store.assign(&id, now).await.expect("stored").expect("a job waits");
        assert_eq!(bound.job.map(|job| job.id), Some(job.id.clone()));
        (id, job.id)
    }

    /// Lets the third-party runner do one job.
    async fn run(&self, runner: &RunnerId) {
        let (layer, jobs) = GitlabLayer::new();
        let _guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(layer));
        let token = self.security.runner_token(runner).expose_secret().to_owned();
        let build_dir = self.directory.path().join("builds");
        std::fs::create_dir(&build_dir).expect("a directory");
        let mut runner = RunnerBuilder::new(self.url.parse().expect("an address"), token, build_dir, jobs).build().await;
        assert!(runner.request_job(|job| async move { Ok(Script(job)) }).await.expect("an answer"), "there is a job");
        tokio::time::timeout(PATIENCE, runner.drain()).await.expect("it ends");
    }

    async fn log(&self, job: &JobId) -> String {
        let parts: Vec<_> = self.logs.read(job, 1, Follow::No, Times::Without).try_collect().await.expect("readable");
        String::from_utf8(parts.concat()).expect("text")
    }

    async fn state(&self, job: &JobId) -> &'static str {
        self.store.job(job).await.expect("the store answers").expect("the job").state.name()
    }
}

fn waiting(claimed: &ClaimedJob) -> Job {
    let requirement = Requirement::plain(ClassName::from_trusted("default"), CpuMillis(1000), MemoryBytes(1 << 30));
    let spec = JobSpec {
        source: Source::GitLab,
        project: None,
        requirement,
        timeout: claimed.timeout.expect("a timeout"),
        priority: 0,
        retries: 0,
        work: Work::GitLab(claimed.job.reference.clone()),
    };
    Job::new(JobId::generate(), spec, SystemClock.now())
}

/// Says much and leaves one file; fails when told to.
struct Script(RunnerJob);

struct File;

#[async_trait::async_trait]
impl UploadableFile for File {
    type Data<'a> = &'a [u8];

    fn get_path(&self) -> Cow<'_, str> {
        "out.bin".into()
    }

    async fn get_data(&self) -> Result<Self::Data<'_>, ()> {
        Ok(b"result")
    }
}

#[async_trait::async_trait]
impl JobHandler<File> for Script {
    async fn step(&mut self, script: &[String], _: Phase) -> JobResult {
        for line in 0..2000 {
            self.0.trace(format!("line {line} \u{1f980}\n"));
            tokio::task::yield_now().await;
        }
        if script.iter().any(|line| line == "false") { Err(()) } else { Ok(()) }
    }

    async fn get_uploadable_files(&mut self) -> Result<Box<dyn Iterator<Item = File> + Send>, ()> {
        Ok(Box::new(std::iter::once(File)))
    }
}

#[tokio::test]
async fn a_job_runs_through_the_broker_and_both_sides_have_the_same_of_it() {
    let rig = Rig::start().await;
    let id = rig.gitlab.enqueue(GitLabSpec::new("build").artifacts(["*.bin"]));
    let (runner, job) = rig.claim().await;
    rig.run(&runner).await;

    let there = rig.gitlab.wait_for(id, PATIENCE, |job| job.status.is_final()).await.expect("it ends");
    assert_eq!(there.status, Status::Success, "{:?}", rig.gitlab.requests());
    assert_eq!(rig.state(&job).await, "succeeded");
    assert!(there.trace.ends_with(LAST_LINE), "{}", there.trace);
    assert_eq!(rig.log(&job).await, there.trace);
    let archive = &there.artifacts[0];
    assert!(archive.bytes.windows(7).any(|part| part == b"out.bin"), "the file is in the archive");
    assert_eq!(archive.size, archive.bytes.len() as u64);
}

#[tokio::test]
async fn a_failure_is_a_failure_on_both_sides() {
    let rig = Rig::start().await;
    let id = rig.gitlab.enqueue(GitLabSpec::new("test").script(["false"]));
    let (runner, job) = rig.claim().await;
    rig.run(&runner).await;
    let there = rig.gitlab.wait_for(id, PATIENCE, |job| job.status.is_final()).await.expect("it ends");
    assert_eq!((there.status, rig.state(&job).await), (Status::Failed, "failed"));
    assert!(there.trace.ends_with(LAST_LINE), "{}", there.trace);
    assert_eq!(rig.log(&job).await, there.trace);
}

#[tokio::test]
async fn gitlab_is_told_of_a_job_whose_runner_never_came() {
    let rig = Rig::start().await;
    let id = rig.gitlab.enqueue(GitLabSpec::new("lost"));
    let (_, job) = rig.claim().await;
    let stored = rig.store.job(&job).await.expect("the store answers").expect("the job");
    let outcome = runner_coordinator::domain::Outcome::infrastructure(runner_coordinator::domain::EndReason::ContainerLost, "gone");
    assert_eq!(rig.broker.report_end(&stored, &outcome).await, ReportResult::Told);
    let there = rig.gitlab.job(id);
    assert_eq!((there.status, there.failure_reason.as_deref()), (Status::Failed, Some("runner_system_failure")));
    assert!(there.trace.contains("Runner Coordinator: the container was lost: gone"), "{}", there.trace);
    assert_eq!(rig.broker.report_end(&stored, &outcome).await, ReportResult::GitLabAlreadyKnew(KnownEnd::Failed));
}
