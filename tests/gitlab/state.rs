//! What the stand-in remembers: runner entities, jobs, options, and the rules by which a job moves on.
//!
//! Everything lives behind one mutex that is never held across an await. Each change bumps a `watch` counter, so
//! whoever waits for a job to reach a state is woken instead of polling.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::watch;

use super::admin::Admin;
use super::log::{Fault, RequestRecord};
use super::misbehave::Misbehaviour;
use super::spec::{ArtifactView, JobSpec, JobView, Status, UpdateView};
use super::webhook::{Delivery, Hook};

/// How long a runner may hold a job unconfirmed in a two-phase commit before it is offered again.
const COMMIT_WINDOW: Duration = Duration::from_secs(120);

/// A runner entity as an administrator created it in GitLab.
pub(super) struct Runner {
    /// Its id, the `runner.id` of Job events.
    pub(super) id: i64,
    /// Its authentication token.
    pub(super) token: String,
    /// Its tags; a runner without tags takes untagged jobs only.
    pub(super) tags: Vec<String>,
    /// Whether GitLab withholds jobs from it.
    pub(super) paused: bool,
}

impl Runner {
    /// GitLab's matching rule: the job's tags are a subset of the runner's.
    fn takes(&self, job: &JobSpec) -> bool {
        if job.tags.is_empty() {
            return self.tags.is_empty();
        }
        job.tags.iter().all(|tag| self.tags.contains(tag))
    }
}

/// What a runner said about itself that changes how GitLab treats its jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Features {
    /// `two_phase_job_commit`.
    pub(super) two_phase: bool,
    /// `cancel_gracefully`.
    pub(super) cancel_gracefully: bool,
}

/// One job with its history.
pub(super) struct Job {
    /// Its id.
    pub(super) id: i64,
    /// The token that is good for this job's calls.
    pub(super) token: String,
    /// What the test asked for.
    pub(super) spec: JobSpec,
    /// Where it stands.
    pub(super) status: Status,
    /// The runner that was given it.
    pub(super) runner_id: Option<i64>,
    /// Which machine it was given to, as the runner said.
    pub(super) system_id: Option<String>,
    /// What that runner can do.
    pub(super) features: Features,
    /// When an unconfirmed assignment lapses.
    pub(super) confirm_by: Option<Instant>,
    /// The trace so far.
    pub(super) trace: Vec<u8>,
    /// Reason of a failure.
    pub(super) failure_reason: Option<String>,
    /// Exit code the runner reported.
    pub(super) exit_code: Option<i64>,
    /// Uploaded archives.
    pub(super) artifacts: Vec<ArtifactView>,
    /// How often it was handed out.
    pub(super) n_assigned: u32,
    /// Status updates received.
    pub(super) updates: Vec<UpdateView>,
    /// When it was made.
    pub(super) created_at: Timestamp,
    /// When it started to run.
    pub(super) started_at: Option<Timestamp>,
    /// When it ended.
    pub(super) finished_at: Option<Timestamp>,
}

impl Job {
    /// A copy for the outside.
    pub(super) fn view(&self) -> JobView {
        JobView {
            id: self.id,
            name: self.spec.name.clone(),
            project: self.spec.project.clone(),
            project_id: self.spec.project_id,
            status: self.status,
            runner_id: self.runner_id,
            trace: String::from_utf8_lossy(&self.trace).into_owned(),
            failure_reason: self.failure_reason.clone(),
            exit_code: self.exit_code,
            artifacts: self.artifacts.clone(),
            n_assigned: self.n_assigned,
            updates: self.updates.clone(),
            waited: self.started_at.map(|at| at.duration_since(self.created_at).unsigned_abs()),
            job_token: self.token.clone(),
        }
    }

    /// Whether a runner holds the job, confirmed or not, so that its job token is good.
    pub(super) fn is_held(&self) -> bool {
        !self.status.is_final() && self.runner_id.is_some()
    }

    /// Whether a runner may be given the job now.
    fn is_free(&self) -> bool {
        self.status == Status::Pending && self.runner_id.is_none()
    }
}

/// Whether final updates must prove that the trace arrived whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Checksums {
    /// Final updates are believed.
    #[default]
    Ignore,
    /// A final update whose `output.checksum` does not fit the trace is answered with 412.
    Verify,
}

/// Whether a runner that advertises the two-phase commit gets one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Commit {
    /// A job runs as soon as it is handed out.
    #[default]
    SinglePhase,
    /// A job stays pending until the runner says that it runs.
    TwoPhase,
}

/// Whether Job events are sent on their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum AutoHooks {
    /// Only when asked for.
    #[default]
    Off,
    /// At every transition for which GitLab sends one.
    On,
}

/// All of the stand-in's memory.
#[derive(Default)]
pub(super) struct Inner {
    /// Runner entities in the order of their creation.
    pub(super) runners: Vec<Runner>,
    /// Jobs by id, so that the oldest comes first.
    pub(super) jobs: BTreeMap<i64, Job>,
    /// Counts what a waiting runner must know about: the `X-GitLab-Last-Update` value.
    pub(super) queue_version: u64,
    /// Every request to the runner API.
    pub(super) requests: Vec<RequestRecord>,
    /// Failures that are still to be injected.
    pub(super) faults: Vec<Fault>,
    /// What every call meets at present.
    pub(super) misbehaviour: Misbehaviour,
    /// Where Job events go.
    pub(super) hook: Option<Hook>,
    /// Job events that are due.
    pub(super) outbox: VecDeque<serde_json::Value>,
    /// Job events that were sent.
    pub(super) deliveries: Vec<Delivery>,
    /// What only administrators see.
    pub(super) admin: Admin,
    /// See [`AutoHooks`].
    pub(super) auto_hooks: AutoHooks,
    /// See [`Commit`].
    pub(super) commit: Commit,
    /// See [`Checksums`].
    pub(super) checksums: Checksums,
    /// How many final updates are still to be answered with "202, not complete yet".
    pub(super) delayed_finals: u32,
    /// What `X-GitLab-Trace-Update-Interval` says, in seconds.
    pub(super) trace_interval_seconds: u64,
}

impl Inner {
    /// The runner entity with this token.
    pub(super) fn runner_by_token(&self, token: &str) -> Option<&Runner> {
        self.runners.iter().find(|runner| runner.token == token)
    }

    /// Queues a job and answers with its id.
    pub(super) fn enqueue(&mut self, spec: JobSpec, url: &str) -> i64 {
        let id = self.jobs.last_key_value().map_or(473_579, |(last, _)| last + 1);
        let job = Job {
            id,
            token: format!("glcbt-64_{}", random_hex()),
            spec,
            status: Status::Pending,
            runner_id: None,
            system_id: None,
            features: Features::default(),
            confirm_by: None,
            trace: Vec::new(),
            failure_reason: None,
            exit_code: None,
            artifacts: Vec::new(),
            n_assigned: 0,
            updates: Vec::new(),
            created_at: Timestamp::now(),
            started_at: None,
            finished_at: None,
        };
        self.jobs.insert(id, job);
        self.queue_version += 1;
        self.announce(id, url);
        id
    }

    /// Gives the oldest fitting job to a runner, as `POST /jobs/request` does.
    pub(super) fn assign(&mut self, runner_id: i64, features: Features, url: &str) -> Option<i64> {
        self.release_lapsed(Instant::now());
        let runner = self.runners.iter().find(|runner| runner.id == runner_id)?;
        if runner.paused {
            return None;
        }
        let job = self.jobs.values_mut().find(|job| job.is_free() && runner.takes(&job.spec))?;
        job.runner_id = Some(runner_id);
        job.features = features;
        job.n_assigned += 1;
        let id = job.id;
        if features.two_phase && self.commit == Commit::TwoPhase {
            job.confirm_by = Some(Instant::now() + COMMIT_WINDOW);
        } else {
            self.advance(id, Status::Running, url);
        }
        Some(id)
    }

    /// Extends an unconfirmed assignment, as `PUT state=pending` does.
    pub(super) fn keep_alive(&mut self, id: i64) {
        if let Some(job) = self.jobs.get_mut(&id).filter(|job| job.status == Status::Pending) {
            job.confirm_by = Some(Instant::now() + COMMIT_WINDOW);
        }
    }

    /// Offers jobs again whose runner did not confirm them in time.
    pub(super) fn release_lapsed(&mut self, now: Instant) {
        for job in self.jobs.values_mut() {
            if job.status == Status::Pending && job.confirm_by.is_some_and(|by| by <= now) {
                job.runner_id = None;
                job.confirm_by = None;
                self.queue_version += 1;
            }
        }
    }

    /// Moves a job on and queues the Job event that GitLab would send.
    pub(super) fn advance(&mut self, id: i64, status: Status, url: &str) {
        let Some(job) = self.jobs.get_mut(&id) else {
            return;
        };
        job.status = status;
        job.confirm_by = None;
        if status == Status::Running {
            job.started_at = Some(Timestamp::now());
        }
        if status.is_final() {
            job.finished_at = Some(Timestamp::now());
        }
        self.announce(id, url);
    }

    /// Cancels a job as a person would do in the page.
    pub(super) fn cancel(&mut self, id: i64, url: &str) {
        let Some(job) = self.jobs.get(&id) else {
            return;
        };
        let next = match job.status {
            Status::Running if job.features.cancel_gracefully => Status::Canceling,
            Status::Pending | Status::Running | Status::Canceling => Status::Canceled,
            Status::Success | Status::Failed | Status::Canceled => return,
        };
        self.advance(id, next, url);
    }

    /// The Job event for a job as it stands now.
    pub(super) fn job_event(&self, id: i64, url: &str) -> Option<serde_json::Value> {
        let job = self.jobs.get(&id)?;
        let runner = self.runners.iter().find(|runner| Some(runner.id) == job.runner_id);
        Some(super::event::job_event(job, runner, url))
    }

    /// Puts a Job event into the outbox, unless GitLab sends none for this status.
    fn announce(&mut self, id: i64, url: &str) {
        let canceling = self.jobs.get(&id).is_none_or(|job| job.status == Status::Canceling);
        if self.auto_hooks == AutoHooks::Off || self.hook.is_none() || canceling {
            return;
        }
        if let Some(event) = self.job_event(id, url) {
            self.outbox.push_back(event);
        }
    }
}

/// The memory, the counter that wakes those who wait, and the stand-in's own address.
pub(super) struct Shared {
    /// The memory.
    inner: Mutex<Inner>,
    /// Bumped after every change.
    changed: watch::Sender<u64>,
    /// Base address that the stand-in gives for itself.
    pub(super) url: String,
}

impl Shared {
    /// Fresh memory of a GitLab at `url`.
    pub(super) fn new(url: String) -> Self {
        let inner = Inner { trace_interval_seconds: 1, ..Inner::default() };
        Self { inner: Mutex::new(inner), changed: watch::Sender::new(0), url }
    }

    /// Looks at the memory.
    pub(super) fn read<R>(&self, look: impl FnOnce(&Inner) -> R) -> R {
        look(&self.lock())
    }

    /// Changes the memory and wakes everybody who waits for it.
    pub(super) fn write<R>(&self, change: impl FnOnce(&mut Inner) -> R) -> R {
        let result = change(&mut self.lock());
        self.changed.send_modify(|version| *version += 1);
        result
    }

    /// Tells of every change from now on.
    pub(super) fn watch(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// A panic in another test's closure must not hide what was there before.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Twenty random bytes in hexadecimal, for tokens nobody can guess.
pub(super) fn random_hex() -> String {
    let mut bytes = [0_u8; 20];
    SystemRandom::new().fill(&mut bytes).expect("the system gives random bytes");
    hex(&bytes)
}

/// Bytes in hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
