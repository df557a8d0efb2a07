//! Explanations of jobs in a real store, for states that are short or rare outside.

use std::collections::BTreeMap;
use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::domain::{
    Arch, ClassName, CommandWork, CpuMillis, Drain, EndReason, GitLabJob, GitLabRef, HostId, ImageRef, JobSpec, Keywords, MemoryBytes, Placement,
    RunnerId, RunnerOrigin, Step, Work,
};
use crate::platform::Ever;
use crate::platform::explain::Fits;
use crate::store::{Candidate, NewJob, SqliteStore, Submission};

fn t(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_795_000_000 + seconds).expect("a time")
}

/// A store, a machine of four CPUs whose engine answers, and the default settings.
struct Fixture {
    store: SqliteStore,
    status: Status,
    config: Config,
    _dir: TempDir,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("c.toml");
        let toml = format!("data_dir = \"{}\"\n[[classes]]\nname = \"default\"\nmax_runners = 3", dir.path().display());
        std::fs::write(&file, toml).expect("written");
        let config = Config::load(Some(&file), std::iter::empty()).expect("a configuration");
        let facts = HostFacts {
            id: HostId::from_trusted("box1"),
            arch: Some(Arch::Amd64),
            cpus: CpuMillis(4000),
            memory: MemoryBytes(64 << 30),
            emulated: Vec::new(),
            gpus: Vec::new(),
            notes: Vec::new(),
            runtimes: vec!["runc".to_owned()],
        };
        let mut status = super::super::publish::initial(facts, t(0));
        status.engine = EngineState::Up { version: "1".to_owned(), since: t(0) };
        let store = SqliteStore::open(&dir.path().join("queue.db")).expect("a store");
        Self { store, status, config, _dir: dir }
    }

    async fn submit(&self, cpus: u64, work: Work) -> JobId {
        let source = if matches!(work, Work::GitLab(_)) { Source::GitLab } else { Source::Api };
        let gitlab = match &work {
            Work::GitLab(reference) => Some(GitLabJob { reference: reference.clone(), token: "t".to_owned(), payload: "{}".to_owned() }),
            Work::Command(_) => None,
        };
        let spec = JobSpec { source, project: None, requirement: requirement(cpus), timeout: Duration::from_secs(60), priority: 0, retries: 0, work };
        let new = NewJob {
            job: Job::new(JobId::generate(), spec, t(0)),
            gitlab,
            idempotency: None,
            weight: 1,
            queue_limit: 10_000,
            whole_queue_limit: u32::MAX,
        };
        match self.store.submit(new).await.expect("stored") {
            Submission::Created(job) => job.id,
            other => panic!("not created: {other:?}"),
        }
    }

    /// Claims the first waiting job, as the manager would.
    async fn claim(&self) -> RunnerId {
        let waiting = self.store.waiting().await.expect("the queue").remove(0);
        let placement =
            Placement { cpus: waiting.requirement.cpus, memory: waiting.requirement.memory, devices: Vec::new(), share: None, opened: None };
        let runner = planned(RunnerOrigin::Job, placement);
        let claimed = self.store.claim(&[Candidate { requirement: waiting.id, runner }], t(1)).await.expect("a claim");
        claimed.expect("a job").runner.id
    }

    async fn take(&self, runner: &RunnerId, steps: impl IntoIterator<Item = Step>) {
        for step in steps {
            self.store.apply(runner, step, t(2)).await.expect("a step");
        }
    }

    async fn explain(&self, id: &JobId) -> Explanation {
        let circumstances = Circumstances { status: &self.status, config: &self.config, now: t(10) };
        explain(&self.store, circumstances, id).await.expect("an answer").expect("a job").1
    }

    async fn preparing(&self, id: &JobId) -> Preparing {
        match self.explain(id).await.standing {
            Standing::Starting { preparing, .. } => preparing,
            other => panic!("it does not start: {other:?}"),
        }
    }
}

fn requirement(cpus: u64) -> Requirement {
    let class = ClassName::from_trusted("default");
    let (cpus, memory) = (CpuMillis(cpus * 1000), MemoryBytes(1 << 30));
    Requirement::plain(class, cpus, memory)
}

fn planned(origin: RunnerOrigin, placement: Placement) -> Runner {
    Runner::planned(RunnerId::generate(), ClassName::from_trusted("default"), HostId::from_trusted("box1"), origin, placement, t(1))
}

fn command() -> Work {
    Work::Command(CommandWork { image: ImageRef::from_trusted("debian"), command: vec!["true".to_owned()], env: BTreeMap::new() })
}

fn of_gitlab(job_id: u64) -> Work {
    let url = "https://gitlab.example.com".to_owned();
    let (project_id, pipeline_id, name, stage, ref_name, sha) = (None, None, None, None, None, None);
    Work::GitLab(GitLabRef { url, job_id, project_id, pipeline_id, name, stage, ref_name, sha, keywords: Keywords::default() })
}

fn up() -> [Step; 3] {
    [Step::ContainerCreated { container: "c1".to_owned(), image: None, opened: Vec::new() }, Step::StartSent { engine_epoch: 0 }, Step::Started]
}

#[tokio::test]
async fn a_long_queue_is_not_counted_to_its_end() {
    let fixture = Fixture::new();
    futures_util::future::join_all((0..MOST_AHEAD).map(|_| fixture.submit(1, command()))).await;
    let last = fixture.submit(1, command()).await;
    assert_eq!(fixture.explain(&last).await.ahead, Some(Ahead::Exactly(MOST_AHEAD)));
    let beyond = fixture.submit(1, command()).await;
    assert_eq!(fixture.explain(&beyond).await.ahead, Some(Ahead::MoreThan(MOST_AHEAD)));
}

#[tokio::test]
async fn jobs_that_can_never_run_here_are_not_ahead() {
    let fixture = Fixture::new();
    fixture.submit(9, command()).await;
    let job = fixture.submit(1, command()).await;
    let said = fixture.explain(&job).await;
    assert_eq!((said.ahead, said.estimated_start, said.hosts[0].fits), (Some(Ahead::Exactly(0)), Some(t(10)), Fits::Now));
}

#[tokio::test]
async fn holders_are_bounded_by_what_really_ends_them() {
    let fixture = Fixture::new();
    let (command, gitlab) = (fixture.submit(1, command()).await, fixture.submit(1, of_gitlab(1)).await);
    for _ in 0..2 {
        let runner = fixture.claim().await;
        fixture.take(&runner, up()).await;
        if fixture.store.job(&gitlab).await.expect("read").is_some_and(|job| job.state == JobState::Starting) {
            fixture.take(&runner, [Step::HandedOver]).await;
        }
    }
    let warm = planned(
        RunnerOrigin::Pool,
        Placement { cpus: CpuMillis(1000), memory: MemoryBytes(1 << 30), devices: Vec::new(), share: None, opened: None },
    );
    fixture.store.plan_runner(&warm).await.expect("stored");
    let waits = fixture.submit(4, self::command()).await;
    let said = fixture.explain(&waits).await;
    let holders: Vec<_> = said.hosts[0].missing[0].holders.iter().map(|holder| (holder.job.clone(), holder.ends_by)).collect();
    // A minute each and the grace of a stop; a runner of GitLab ends its job itself, and we a minute later.
    assert_eq!(holders, [(Some(command), Some(t(2 + 60 + 10))), (Some(gitlab), Some(t(2 + 60 + 60 + 10))), (None, None)]);
    assert_eq!((said.hosts[0].room_by, said.estimated_start, said.ever), (None, None, Some(Ever::Later)));
    let class = said.hosts[0].missing.last().expect("missing");
    assert_eq!((class.unfit.to_string().as_str(), class.holders.len()), ("class default runs its most of 3 runners", 3));
}

#[tokio::test]
async fn a_runner_that_waits_takes_jobs_of_gitlab_only() {
    let fixture = Fixture::new();
    let warm = planned(
        RunnerOrigin::Pool,
        Placement { cpus: CpuMillis(4000), memory: MemoryBytes(1 << 30), devices: Vec::new(), share: None, opened: None },
    );
    fixture.store.plan_runner(&warm).await.expect("stored");
    fixture.take(&warm.id, up().into_iter().chain([Step::Reported])).await;
    let (gitlab, command) = (fixture.submit(1, of_gitlab(1)).await, fixture.submit(1, command()).await);
    assert_eq!(fixture.explain(&gitlab).await.standing, Standing::Handover(warm.id));
    assert_eq!(fixture.explain(&command).await.standing, Standing::Waiting);
}

#[tokio::test]
async fn a_job_that_starts_tells_what_it_waits_for() {
    let mut fixture = Fixture::new();
    let id = fixture.submit(1, of_gitlab(1)).await;
    let runner = fixture.claim().await;
    assert_eq!(fixture.preparing(&id).await, Preparing::Broker);
    fixture.status.broker = Some("http://127.0.0.1".to_owned());
    assert_eq!(fixture.preparing(&id).await, Preparing::Image);
    let note = async |kind| fixture.store.note(&runner, kind, t(2)).await.expect("noted");
    note(EventKind::ImagePull { progress: "half".to_owned() }).await;
    assert_eq!(fixture.preparing(&id).await, Preparing::Pull("half".to_owned()));
    note(EventKind::ImageReady { digest: "d".to_owned() }).await;
    assert_eq!(fixture.preparing(&id).await, Preparing::Container);
    fixture
        .take(&runner, [Step::ContainerCreated { container: "c1".to_owned(), image: None, opened: Vec::new() }, Step::StartSent { engine_epoch: 0 }])
        .await;
    assert_eq!(fixture.preparing(&id).await, Preparing::Start);
    note(EventKind::ContainerStarted).await;
    assert_eq!(fixture.preparing(&id).await, Preparing::Runner);
    fixture.take(&runner, [Step::StopOrdered { reason: EndReason::RunnerTerminated }]).await;
    assert_eq!(fixture.explain(&id).await.standing, Standing::Ending(EndReason::RunnerTerminated));
}

#[tokio::test]
async fn an_engine_that_does_not_answer_is_said_and_nothing_is_promised() {
    let mut fixture = Fixture::new();
    let id = fixture.submit(1, command()).await;
    fixture.status.engine = EngineState::Down { error: "refused".to_owned(), since: t(0) };
    let said = fixture.explain(&id).await;
    assert_eq!((said.hosts[0].fits, said.estimated_start), (Fits::Now, None));
    assert!(said.to_string().contains("its engine has not answered since") && said.to_string().contains("refused"), "{said}");
    fixture.status.engine = EngineState::Up { version: "1".to_owned(), since: t(0) };
    fixture.status.stopping = true;
    assert_eq!(fixture.explain(&id).await.hosts[0].readiness, Readiness::Stopping);
    fixture.status.facts.runtimes.clear();
    fixture.status.engine = EngineState::Unknown;
    let circumstances = Circumstances { status: &fixture.status, config: &fixture.config, now: t(0) };
    assert_eq!(circumstances.never(&requirement(9)), [], "the kernel alone does not know");
    assert_eq!(fixture.explain(&fixture.submit(9, command()).await).await.ever, None);
}

#[tokio::test]
async fn a_drained_machine_says_so_until_it_is_empty_and_after() {
    let mut fixture = Fixture::new();
    let id = fixture.submit(1, command()).await;
    let drain = Drain { since: t(0), by: Some("ops".to_owned()), reason: Some("new kernel".to_owned()) };
    (fixture.status.drain, fixture.status.runners) = (Some(drain.clone()), 1);
    let said = fixture.explain(&id).await;
    assert_eq!((&said.hosts[0].readiness, said.hosts[0].fits, said.estimated_start), (&Readiness::Draining(drain.clone()), Fits::Now, None));
    assert!(said.to_string().contains("box1: it takes no new work: it was drained at 2026-11-18T11:06:40Z by ops (new kernel)"), "{said}");
    fixture.status.runners = 0;
    assert_eq!(readiness(&fixture.status), Readiness::Drained(drain.clone()));
    // What keeps it from work beyond that comes first.
    fixture.status.stopping = true;
    assert_eq!(readiness(&fixture.status), Readiness::Stopping);
    fixture.status.engine = EngineState::Down { error: "refused".to_owned(), since: t(0) };
    assert_eq!(readiness(&fixture.status).name(), "engine_down");
}
