//! The durable queue: what was accepted, what was claimed, and how it ended.
//!
//! The database is the queue; everything else only wakes somebody to look at it. Every method that changes something answers
//! after its commit is on disk. The rules of change are not here but in [`crate::domain::step`]: a store loads, applies, writes.

mod cells;
mod count;
mod ended;
mod error;
pub mod fleet;
pub mod log;
pub mod postgres;
pub mod receipts;
mod retention;
mod rows;
mod rules;
pub mod sqlite;

pub use self::error::StoreError;
pub use self::postgres::PostgresStore;
pub use self::retention::{Forgotten, Keep};
pub use self::sqlite::SqliteStore;

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::sync::watch;

use crate::domain::job::CancelEffect;
use crate::domain::step::{Aggregate, Step};
use crate::domain::{
    Attempt, CapReached, ClassName, Drain, EndReason, Event, EventKind, GitLabJob, GpuId, GpuRecord, GpuUsage, HostId, ImageRef, Job, JobId,
    ProjectCap, ProjectName, ProjectUsage, Requirement, RequirementId, Runner, RunnerId,
};

#[cfg(test)]
pub(crate) mod contract_tests;

/// Longest wait for an answer of a store: more than a busy disk takes, and no more than GitLab waits for a webhook's.
pub const ANSWERS_WITHIN: Duration = Duration::from_secs(10);

/// A job to accept.
#[derive(Debug, Clone)]
pub struct NewJob {
    /// The job, waiting.
    pub job: Job,
    /// What the broker needs, for a job of GitLab.
    pub gitlab: Option<GitLabJob>,
    /// The submitter's key against doubles.
    pub idempotency: Option<IdempotencyKey>,
    /// How much of the machine the job's project (or all jobs without one) is due beside others: with twice the weight, twice the jobs.
    /// 0 counts as 1.
    pub weight: u32,
    /// Most jobs that may wait for the job's project (or without one) at once.
    pub queue_limit: u32,
    /// Most jobs that may wait in all at once.
    pub whole_queue_limit: u32,
}

/// A submitter's key against doubles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyKey {
    /// The `Idempotency-Key` header.
    pub key: String,
    /// SHA-256 of the body, to tell a repetition from a reuse.
    pub body_sha256: [u8; 32],
}

/// Most jobs made of one job of GitLab that [`Store::jobs_of_gitlab`] answers.
pub const MAX_OFFERS: u32 = 16;

/// What became of a [`NewJob`].
#[derive(Debug, Clone)]
pub enum Submission {
    /// It was stored.
    Created(Box<Job>),
    /// It had been stored before: same idempotency key and body, or the same job of the same GitLab, which is open still. What the
    /// broker needs of the latter is now that of the latest offer.
    Existing(Box<Job>),
    /// The idempotency key was used before with another body.
    KeyReused,
    /// As many jobs wait for the project as are allowed.
    QueueFull {
        /// The limit.
        limit: u32,
    },
    /// As many jobs wait in all as are allowed.
    WholeQueueFull {
        /// The limit.
        limit: u32,
    },
}

/// A webhook delivery, remembered so that a double is known.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// GitLab's `webhook-id` or `Idempotency-Key`, else a digest of the body.
    pub key: String,
    /// The event's name.
    pub event: String,
    /// What was done with it, for people: `accepted`, or why it was ignored.
    pub outcome: String,
    /// The job of GitLab that it rang for or ended; `None` when nothing was done for one.
    pub about: Option<DeliveredJob>,
}

/// A job of GitLab that a delivery was accepted for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveredJob {
    /// GitLab's base URL.
    pub url: String,
    /// The job's id there.
    pub gitlab_id: u64,
    /// How it stood there, in GitLab's word.
    pub status: String,
}

/// Whether a delivery is new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recorded {
    /// It is.
    First,
    /// It came before.
    Duplicate,
}

/// The jobs that wait with one requirement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// The requirement's id.
    pub id: RequirementId,
    /// The requirement.
    pub requirement: Requirement,
    /// How many wait and may start now.
    pub jobs: u64,
    /// When the first of them was submitted.
    pub since: Timestamp,
    /// The limit of their project that keeps all of them from starting now. Jobs of a project without limits are never in one of these with
    /// jobs of a project that has some.
    pub capped: Option<CapReached>,
}

/// A requirement that fits at present, with the runner that would be made for its next job.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// The requirement.
    pub requirement: RequirementId,
    /// The planned runner; stored only if a job of this requirement is the one that is claimed.
    pub runner: Runner,
}

/// Which jobs to list.
#[derive(Debug, Clone, Default)]
pub struct JobFilter {
    /// Only these states, by [`crate::domain::JobState::name`]; empty is all.
    pub states: Vec<String>,
    /// Only this project.
    pub project: Option<ProjectName>,
    /// Only this class.
    pub class: Option<ClassName>,
    /// Only jobs older than this one: the previous page's last.
    pub before: Option<JobId>,
    /// Most jobs to answer.
    pub limit: u32,
}

/// Which runners to list.
#[derive(Debug, Clone, Default)]
pub struct RunnerFilter {
    /// Only these states, by [`crate::domain::RunnerState::name`]; empty is all but `gone`.
    pub states: Vec<String>,
    /// Only this class.
    pub class: Option<ClassName>,
    /// Only runners older than this one: the previous page's last.
    pub before: Option<RunnerId>,
    /// Most runners to answer.
    pub limit: u32,
}

/// How much of what there is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Jobs by state name; a state without jobs may be missing.
    pub jobs: Vec<(String, u64)>,
    /// Runners by state name, `gone` left out.
    pub runners: Vec<(String, u64)>,
    /// When the oldest job that waits was stored.
    pub oldest_queued_at: Option<Timestamp>,
}

/// Jobs that wait for the same class and project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueGroup {
    /// Their class.
    pub class: ClassName,
    /// Their project; `None` for those without one.
    pub project: Option<ProjectName>,
    /// How many.
    pub jobs: u64,
    /// When the oldest of them was stored.
    pub oldest: Timestamp,
}

/// What waits for one class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClassQueue {
    /// The class.
    pub class: ClassName,
    /// How many of its jobs wait and may start now.
    pub ready: u64,
    /// When the oldest of its jobs that wait was stored, one that waits for a later try included.
    pub oldest: Option<Timestamp>,
}

/// Which part of the history to read, oldest first.
#[derive(Debug, Clone, Default)]
pub struct EventQuery {
    /// Only this job's.
    pub job: Option<JobId>,
    /// Only after this position.
    pub after: i64,
    /// Most events to answer.
    pub limit: u32,
}

/// The durable queue.
#[async_trait]
pub trait Store: Send + Sync + std::fmt::Debug {
    /// The coordinator's id, made with the store and never changed: what our containers carry as their owner.
    fn instance(&self) -> &str;

    /// Ticks after every commit, so that readers can wait for a change in place of asking again and again.
    fn changes(&self) -> watch::Receiver<u64>;

    /// What shows that the store is damaged, once it was met; only a restore mends that.
    fn damage(&self) -> Option<String> {
        None
    }

    /// What daemons on other machines share through it; `None` for the store of one machine.
    fn fleet(&self) -> Option<&dyn fleet::Fleet> {
        None
    }

    /// Shows that the store answers and can write.
    async fn ping(&self) -> Result<(), StoreError>;

    /// Accepts a job, with its `submitted` event, in one commit; before that event, for a job of GitLab, the latest delivery that rang for it.
    async fn submit(&self, new: NewJob) -> Result<Submission, StoreError>;

    /// Remembers a webhook delivery. The first that tells of a status of a job that is open here goes into the job's history too.
    async fn record_delivery(&self, delivery: Delivery, at: Timestamp) -> Result<Recorded, StoreError>;

    /// Notes that a job should end ([`Job::cancel`]). `None` when there is no such job.
    async fn cancel_job(&self, job: &JobId, reason: EndReason, at: Timestamp) -> Result<Option<(Job, CancelEffect)>, StoreError>;

    /// Puts the limits of projects in place of those before; jobs that wait obey them from now on, and for those that run nothing changes.
    async fn set_caps(&self, caps: &[ProjectCap]) -> Result<(), StoreError>;

    /// The requirements for which jobs wait that may start now, best head first: in the order in which [`Store::claim`] would
    /// take the first job of each.
    async fn waiting(&self) -> Result<Vec<Waiting>, StoreError>;

    /// How many waiting jobs of these requirements [`Store::claim`] would take before this one, a job that waits for a later try left out.
    /// Counted up to `most`, so that the answer costs the same however many wait; 0 when there is no such job.
    async fn ahead(&self, job: &JobId, among: &[RequirementId], most: u32) -> Result<u32, StoreError>;

    /// Makes jobs startable whose back-off is over; answers when the next one is due.
    async fn promote_due(&self, at: Timestamp) -> Result<Option<Timestamp>, StoreError>;

    /// Claims the best waiting job of all candidates: the highest priority, then the project's turn (start-time fair queueing by
    /// [`NewJob::weight`]; all jobs without a project are one), then age. A job that is tried again keeps its turn. Candidates of a
    /// project at its [limit](ProjectCap) are passed over. Binds it to its candidate's runner, stores the runner,
    /// the attempt and the event in one commit. `None` when no candidate has a job.
    async fn claim(&self, candidates: &[Candidate], at: Timestamp) -> Result<Option<Aggregate>, StoreError>;

    /// Binds the best waiting job of GitLab of the runner's class to a runner that waits without a job, jobs that need a fresh one
    /// ([`crate::domain::Start`]) and those of projects at their limits left out. `None` when there is none.
    async fn assign(&self, runner: &RunnerId, at: Timestamp) -> Result<Option<Aggregate>, StoreError>;

    /// Stores a planned runner without a job.
    async fn plan_runner(&self, runner: &Runner) -> Result<(), StoreError>;

    /// Takes a step ([`Aggregate::apply`]) and writes the runner, its job, its attempt and the events in one commit. When the job ended,
    /// what only the broker needed of it is forgotten in the same commit.
    async fn apply(&self, runner: &RunnerId, step: Step, at: Timestamp) -> Result<Aggregate, StoreError>;

    /// Adds to a runner's (and its job's) history without a change of state.
    async fn note(&self, runner: &RunnerId, kind: EventKind, at: Timestamp) -> Result<(), StoreError>;

    /// One job.
    async fn job(&self, id: &JobId) -> Result<Option<Job>, StoreError>;

    /// Jobs, newest first.
    async fn jobs(&self, filter: JobFilter) -> Result<Vec<Job>, StoreError>;

    /// The latest job that repeats the request of this one.
    async fn latest_retry(&self, job: &JobId) -> Result<Option<JobId>, StoreError>;

    /// All attempts of a job, first to latest.
    async fn attempts(&self, job: &JobId) -> Result<Vec<Attempt>, StoreError>;

    /// What the broker needs of a job of GitLab; `None` when it has ended or is not one.
    async fn gitlab_job(&self, job: &JobId) -> Result<Option<GitLabJob>, StoreError>;

    /// Our jobs that were made of a job of GitLab, newest first: `url` is GitLab's base URL, `gitlab_id` the job's id there. Only the newest
    /// may be open; the others ended and were given back before GitLab offered the job again. At most [`MAX_OFFERS`].
    async fn jobs_of_gitlab(&self, url: &str, gitlab_id: u64) -> Result<Vec<JobId>, StoreError>;

    /// History, oldest first.
    async fn events(&self, query: EventQuery) -> Result<Vec<Event>, StoreError>;

    /// The position of the newest entry that the history ever had, kept or not; 0 when there was none.
    async fn newest_event(&self) -> Result<i64, StoreError>;

    /// The last entry of a job's history.
    async fn latest_event(&self, job: &JobId) -> Result<Option<Event>, StoreError>;

    /// One runner with its job.
    async fn runner(&self, id: &RunnerId) -> Result<Option<Aggregate>, StoreError>;

    /// Runners, newest first.
    async fn runners(&self, filter: RunnerFilter) -> Result<Vec<Runner>, StoreError>;

    /// Every runner of this machine that is not `gone`, with its job.
    async fn open_runners(&self, host: &HostId) -> Result<Vec<Aggregate>, StoreError>;

    /// Why a machine is to get empty; `None` for one that takes work.
    async fn drain(&self, host: &HostId) -> Result<Option<Drain>, StoreError>;

    /// Writes down that a machine is to get empty, in place of what was said before, or with `None` that it takes work.
    async fn set_drain(&self, host: &HostId, drain: Option<&Drain>) -> Result<(), StoreError>;

    /// How much of what there is.
    async fn counts(&self) -> Result<Counts, StoreError>;

    /// Waiting jobs by class and project, the group with the oldest job first. Only the `most` oldest jobs are counted, so that the answer
    /// does not cost more the longer the queue is.
    async fn queue_groups(&self, most: u32) -> Result<Vec<QueueGroup>, StoreError>;

    /// What waits for each of these classes, in their order. Costs the same however long the queue is.
    async fn class_queues(&self, classes: &[ClassName]) -> Result<Vec<ClassQueue>, StoreError>;

    /// What is remembered of this machine's GPUs, by id.
    async fn gpu_records(&self, host: &HostId) -> Result<Vec<GpuRecord>, StoreError>;

    /// Remembers some GPUs of a machine, each in place of what was remembered of it, and forgets others, in one commit.
    async fn write_gpu_records(&self, host: &HostId, records: &[GpuRecord], forgotten: &[GpuId]) -> Result<(), StoreError>;

    /// Writes what attempts used of their GPUs so far, by job and number, in one commit; of one that has ended nothing changes any more.
    async fn write_gpu_usage(&self, used: &[(JobId, u32, GpuUsage)]) -> Result<(), StoreError>;

    /// What each attempt of a job used of its GPUs, as far as it was written.
    async fn gpu_usage(&self, job: &JobId) -> Result<BTreeMap<u32, GpuUsage>, StoreError>;

    /// The projects whose ended attempts had GPUs for the longest time, at most `most`, the longest first. An attempt is added in the commit of its
    /// end.
    async fn project_usage(&self, now: Timestamp, most: u32) -> Result<Vec<ProjectUsage>, StoreError>;

    /// Forgets deliveries that are older than `before`; how many there were. Idempotency keys go with their jobs.
    async fn forget_deliveries(&self, before: Timestamp) -> Result<u64, StoreError>;

    /// Takes away some of what is not to be [kept](Keep), with everything that belongs to it, in one commit that is short however much there is.
    /// To be repeated until nothing is left to take.
    async fn forget_ended(&self, keep: &Keep) -> Result<Forgotten, StoreError>;

    /// Which of these jobs have no log to keep: those that are not there, and those that ended before and that no runner has which is not gone.
    async fn without_logs(&self, jobs: &[JobId], ended_before: Timestamp) -> Result<Vec<JobId>, StoreError>;

    /// Remembers that a machine's engine fetched an image for us, by its full name.
    async fn remember_image(&self, host: &HostId, image: &ImageRef, at: Timestamp) -> Result<(), StoreError>;

    /// Notes that images are used; those that were not fetched for us are none of ours.
    async fn use_images(&self, host: &HostId, images: &[ImageRef], at: Timestamp) -> Result<(), StoreError>;

    /// The images that a machine's engine fetched for us, and when each was last used, the one that was not used for longest first.
    async fn images(&self, host: &HostId) -> Result<Vec<(ImageRef, Timestamp)>, StoreError>;

    /// Forgets an image that is gone.
    async fn forget_image(&self, host: &HostId, image: &ImageRef) -> Result<(), StoreError>;
}
