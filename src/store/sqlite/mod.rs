//! The queue in one `SQLite` file: one thread writes in groups, two read, and no thread of the runtime ever waits for the disk.
//!
//! ```text
//!  Store methods ──▶ writer.rs (one thread, one transaction for all that wait) ──▶ queue.rs, steps.rs, history.rs ──▶ jobs.rs, runners.rs
//!               └──▶ reader.rs (two threads, read-only)                       ──▶        the same                 ──▶ rows.rs
//! ```
//!
//! How many jobs wait, and how many there are, is kept in counters by triggers (`migrations/0001.sql`), so no answer depends on the
//! queue's length.

mod backup;
mod caps;
mod copy;
mod damage;
mod deliveries;
mod drains;
mod export;
mod fault;
mod files;
mod gpus;
mod history;
mod images;
mod jobs;
mod migrations;
mod open;
mod queue;
mod reader;
mod restore;
mod retention;
mod rows;
mod runners;
mod share;
mod steps;
mod usage;
mod writer;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::sync::watch;

pub use self::backup::{Backup, Overwrite, backup};
pub use self::copy::{Contents, CopyError};
pub use self::export::ExportError;
pub(super) use self::export::{Export, Table};
pub use self::restore::{Restored, restore};

use self::damage::Damage;
use self::reader::Readers;
use self::writer::{Notice, Writer};
use super::ended::Ended;
use super::{
    Candidate, ClassQueue, Counts, Delivery, EventQuery, Forgotten, JobFilter, Keep, NewJob, QueueGroup, Recorded, RunnerFilter, Store, StoreError,
    Submission, Waiting,
};
use crate::domain::clock::truncate_to_millis;
use crate::domain::job::CancelEffect;
use crate::domain::step::{Aggregate, Step};
use crate::domain::{
    Attempt, ClassName, Drain, EndReason, Event, EventKind, GitLabJob, GpuId, GpuRecord, GpuUsage, HostId, ImageRef, Job, JobId, ProjectCap,
    ProjectUsage, RequirementId, Runner, RunnerId,
};
use crate::metrics::Metrics;
use crate::store::count;

/// The durable queue in one `SQLite` file.
///
/// Dropping it waits until what was asked for is written, and frees the file.
#[derive(Debug)]
pub struct SqliteStore {
    // In the order in which they are dropped: the lock last.
    readers: Readers,
    writer: Writer,
    instance: String,
    damage: Arc<Damage>,
    _lock: Option<File>,
}

/// How well writes were grouped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupTally {
    /// Transactions committed since the store was opened.
    pub commits: u64,
    /// Operations in them.
    pub operations: u64,
}

impl SqliteStore {
    /// Opens the database, or makes it when there is none. Reads and checks the file: call it before the service serves.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] naming the file when another process has it, when it is damaged, not ours or written by a newer
    /// program, or when the file system refuses. Never replaces what is there.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Self::open_metered(path, Arc::default())
    }

    /// The same, counted in these metrics.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_metered(path: &Path, metrics: Arc<Metrics>) -> Result<Self, StoreError> {
        const DOING: &str = "open the database";
        let failed = |source: open::OpenError| StoreError::Unavailable { doing: DOING, source: Box::new(source) };
        let opened = open::open(path).map_err(failed)?;
        let damage = Arc::new(Damage::none_in(path));
        let readers = Readers::start(path, Arc::clone(&metrics), Arc::clone(&damage)).map_err(failed)?;
        let writer = Writer::start(opened.writer, metrics, Arc::clone(&damage))
            .map_err(|source| StoreError::Unavailable { doing: DOING, source: Box::new(source) })?;
        Ok(Self { readers, writer, instance: opened.instance, damage, _lock: Some(opened.lock) })
    }

    /// A queue in memory without threads: each call is carried out by its caller, before it first waits. For simulations, which replay only
    /// what no thread's pace decides.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] with what `SQLite` says.
    pub fn in_memory(metrics: Arc<Metrics>) -> Result<Self, StoreError> {
        let opened = open::in_memory().map_err(|source| StoreError::Unavailable { doing: "open a queue in memory", source: Box::new(source) });
        let (connection, instance) = opened?;
        let damage = Arc::new(Damage::none_in(Path::new(":memory:")));
        let (writer, work) = Writer::in_caller(connection, Arc::clone(&metrics), Arc::clone(&damage));
        Ok(Self { readers: Readers::in_asker(work, metrics, Arc::clone(&damage)), writer, instance, damage, _lock: None })
    }

    /// How well writes were grouped, for metrics and tests.
    pub fn tally(&self) -> GroupTally {
        let tally = self.writer.tally();
        GroupTally { commits: tally.commits.load(Ordering::Relaxed), operations: tally.operations.load(Ordering::Relaxed) }
    }
}

#[async_trait]
impl Store for SqliteStore {
    fn instance(&self) -> &str {
        &self.instance
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.writer.changes()
    }

    fn damage(&self) -> Option<String> {
        self.damage.found().map(str::to_owned)
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.writer.call("show that it can write", Notice::Quiet, history::ping).await?;
        self.readers.ask("show that it can read", |connection| Ok(connection.query_row("SELECT 1", [], |_| Ok(()))?)).await
    }

    async fn submit(&self, new: NewJob) -> Result<Submission, StoreError> {
        self.writer.call_then("store a job", Notice::Changes, move |connection| queue::submit(connection, &new), count::submitted).await
    }

    async fn record_delivery(&self, delivery: Delivery, at: Timestamp) -> Result<Recorded, StoreError> {
        let work = move |connection: &_| deliveries::record(connection, &delivery, at);
        self.writer.call("remember a delivery", Notice::Changes, work).await
    }

    async fn cancel_job(&self, job: &JobId, reason: EndReason, at: Timestamp) -> Result<Option<(Job, CancelEffect)>, StoreError> {
        let (job, at) = (job.clone(), truncate_to_millis(at));
        let work = move |connection: &_| steps::cancel(connection, &job, reason, at);
        let told = |metrics: &Metrics, (done, ended): &steps::Cancelled| {
            count::cancelled(metrics, done.as_ref());
            ended.iter().for_each(Ended::tell);
        };
        Ok(self.writer.call_then("cancel a job", Notice::Changes, work, told).await?.0)
    }

    async fn set_caps(&self, caps: &[ProjectCap]) -> Result<(), StoreError> {
        let caps = caps.to_vec();
        self.writer.call("store the limits of projects", Notice::Changes, move |connection| caps::set(connection, &caps)).await
    }

    async fn waiting(&self) -> Result<Vec<Waiting>, StoreError> {
        self.readers.ask("look at the queue", queue::waiting).await
    }

    async fn ahead(&self, job: &JobId, among: &[RequirementId], most: u32) -> Result<u32, StoreError> {
        let (job, among) = (job.clone(), among.to_vec());
        self.readers.ask("count the jobs before another", move |connection| queue::ahead(connection, &job, &among, most)).await
    }

    async fn promote_due(&self, at: Timestamp) -> Result<Option<Timestamp>, StoreError> {
        self.writer.call("end back-offs", Notice::Changes, move |connection| queue::promote_due(connection, at)).await
    }

    async fn claim(&self, candidates: &[Candidate], at: Timestamp) -> Result<Option<Aggregate>, StoreError> {
        let (candidates, at) = (candidates.to_vec(), truncate_to_millis(at));
        let work = move |connection: &_| queue::claim(connection, &candidates, at);
        self.writer.call_then("claim a job", Notice::Changes, work, move |metrics, bound| count::bound(metrics, bound.as_ref(), at)).await
    }

    async fn assign(&self, runner: &RunnerId, at: Timestamp) -> Result<Option<Aggregate>, StoreError> {
        let (runner, at) = (runner.clone(), truncate_to_millis(at));
        let work = move |connection: &_| queue::assign(connection, &runner, at);
        self.writer.call_then("assign a job", Notice::Changes, work, move |metrics, bound| count::bound(metrics, bound.as_ref(), at)).await
    }

    async fn plan_runner(&self, runner: &Runner) -> Result<(), StoreError> {
        let runner = runner.clone();
        self.writer.call("store a runner", Notice::Changes, move |connection| runners::insert(connection, &runner)).await
    }

    async fn apply(&self, runner: &RunnerId, step: Step, at: Timestamp) -> Result<Aggregate, StoreError> {
        let (runner, at) = (runner.clone(), truncate_to_millis(at));
        let work = move |connection: &_| steps::apply(connection, &runner, &step, at);
        let told = move |metrics: &Metrics, taken: &count::Taken| {
            count::step(metrics, taken, at);
            taken.ended.iter().for_each(Ended::tell);
        };
        Ok(self.writer.call_then("take a step", Notice::Changes, work, told).await?.after)
    }

    async fn note(&self, runner: &RunnerId, kind: EventKind, at: Timestamp) -> Result<(), StoreError> {
        let (runner, noted) = (runner.clone(), kind.clone());
        let work = move |connection: &_| steps::note(connection, &runner, &kind, at);
        let then = move |metrics: &Metrics, runner: &Runner| count::event(metrics, runner, &noted, at);
        self.writer.call_then("add to the history", Notice::Changes, work, then).await.map(|_runner| ())
    }

    async fn job(&self, id: &JobId) -> Result<Option<Job>, StoreError> {
        let id = id.clone();
        self.readers.ask("read a job", move |connection| jobs::find(connection, id.as_str())).await
    }

    async fn jobs(&self, filter: JobFilter) -> Result<Vec<Job>, StoreError> {
        self.readers.ask("list jobs", move |connection| jobs::list(connection, &filter)).await
    }

    async fn latest_retry(&self, job: &JobId) -> Result<Option<JobId>, StoreError> {
        let job = job.clone();
        self.readers.ask("find a job's retry", move |connection| jobs::latest_retry(connection, &job)).await
    }

    async fn attempts(&self, job: &JobId) -> Result<Vec<Attempt>, StoreError> {
        let job = job.clone();
        self.readers.ask("list attempts", move |connection| jobs::attempts(connection, &job)).await
    }

    async fn gitlab_job(&self, job: &JobId) -> Result<Option<GitLabJob>, StoreError> {
        let job = job.clone();
        self.readers.ask("read a job of GitLab", move |connection| jobs::gitlab(connection, &job)).await
    }

    async fn jobs_of_gitlab(&self, url: &str, gitlab_id: u64) -> Result<Vec<JobId>, StoreError> {
        let url = url.to_owned();
        self.readers.ask("find a job of GitLab", move |connection| jobs::of_gitlab_id(connection, &url, gitlab_id)).await
    }

    async fn events(&self, query: EventQuery) -> Result<Vec<Event>, StoreError> {
        self.readers.ask("read the history", move |connection| history::events(connection, &query)).await
    }

    async fn latest_event(&self, job: &JobId) -> Result<Option<Event>, StoreError> {
        let job = job.clone();
        self.readers.ask("read the end of a history", move |connection| history::latest(connection, &job)).await
    }

    async fn runner(&self, id: &RunnerId) -> Result<Option<Aggregate>, StoreError> {
        let id = id.clone();
        let work = move |connection: &_| runners::find(connection, &id)?.map(|runner| runners::with_job(connection, runner)).transpose();
        self.readers.ask("read a runner", work).await
    }

    async fn runners(&self, filter: RunnerFilter) -> Result<Vec<Runner>, StoreError> {
        self.readers.ask("list runners", move |connection| runners::list(connection, &filter)).await
    }

    async fn open_runners(&self, host: &HostId) -> Result<Vec<Aggregate>, StoreError> {
        let host = host.clone();
        self.readers.ask("list open runners", move |connection| runners::open(connection, &host)).await
    }

    async fn drain(&self, host: &HostId) -> Result<Option<Drain>, StoreError> {
        let host = host.clone();
        self.readers.ask("read whether a machine is drained", move |connection| drains::read(connection, &host)).await
    }

    async fn set_drain(&self, host: &HostId, drain: Option<&Drain>) -> Result<(), StoreError> {
        let (host, drain) = (host.clone(), drain.cloned());
        self.writer
            .call("write whether a machine is drained", Notice::Changes, move |connection| drains::write(connection, &host, drain.as_ref()))
            .await
    }

    async fn counts(&self) -> Result<Counts, StoreError> {
        self.readers.ask("count", history::counts).await
    }

    async fn queue_groups(&self, most: u32) -> Result<Vec<QueueGroup>, StoreError> {
        self.readers.ask("group the queue", move |connection| history::queue_groups(connection, most)).await
    }

    async fn class_queues(&self, classes: &[ClassName]) -> Result<Vec<ClassQueue>, StoreError> {
        let classes = classes.to_vec();
        self.readers.ask("look at the queues of classes", move |connection| history::class_queues(connection, &classes)).await
    }

    async fn newest_event(&self) -> Result<i64, StoreError> {
        self.readers.ask("find the newest event", history::newest).await
    }

    async fn gpu_records(&self, host: &HostId) -> Result<Vec<GpuRecord>, StoreError> {
        let host = host.clone();
        self.readers.ask("read what is remembered of GPUs", move |connection| gpus::read(connection, &host)).await
    }

    async fn write_gpu_records(&self, host: &HostId, records: &[GpuRecord], forgotten: &[GpuId]) -> Result<(), StoreError> {
        let (host, records, forgotten) = (host.clone(), records.to_vec(), forgotten.to_vec());
        let work = move |connection: &_| gpus::write(connection, &host, &records, &forgotten);
        self.writer.call("remember GPUs", Notice::Quiet, work).await
    }

    async fn write_gpu_usage(&self, used: &[(JobId, u32, GpuUsage)]) -> Result<(), StoreError> {
        let used = used.to_vec();
        self.writer.call("write down what jobs use of GPUs", Notice::Quiet, move |connection| usage::write(connection, &used)).await
    }

    async fn gpu_usage(&self, job: &JobId) -> Result<BTreeMap<u32, GpuUsage>, StoreError> {
        let job = job.clone();
        self.readers.ask("read what a job used of GPUs", move |connection| usage::of_job(connection, &job)).await
    }

    async fn project_usage(&self, now: Timestamp, most: u32) -> Result<Vec<ProjectUsage>, StoreError> {
        self.readers.ask("read what projects used of GPUs", move |connection| usage::most(connection, now, most)).await
    }

    async fn forget_deliveries(&self, before: Timestamp) -> Result<u64, StoreError> {
        let mut forgotten = 0;
        loop {
            let work = move |connection: &_| history::forget_deliveries(connection, before);
            let some = self.writer.call("forget old deliveries", Notice::Quiet, work).await?;
            forgotten += some;
            if some == 0 {
                return Ok(forgotten);
            }
        }
    }

    async fn forget_ended(&self, keep: &Keep) -> Result<Forgotten, StoreError> {
        let keep = *keep;
        self.writer.call("forget what ended", Notice::Quiet, move |connection| retention::forget(connection, &keep)).await
    }

    async fn remember_image(&self, host: &HostId, image: &ImageRef, at: Timestamp) -> Result<(), StoreError> {
        let (host, image) = (host.clone(), image.clone());
        self.writer.call("remember an image", Notice::Quiet, move |connection| images::remember(connection, &host, &image, at)).await
    }

    async fn use_images(&self, host: &HostId, images: &[ImageRef], at: Timestamp) -> Result<(), StoreError> {
        let (host, images) = (host.clone(), images.to_vec());
        self.writer.call("note which images are used", Notice::Quiet, move |connection| images::used(connection, &host, &images, at)).await
    }

    async fn images(&self, host: &HostId) -> Result<Vec<(ImageRef, Timestamp)>, StoreError> {
        let host = host.clone();
        self.readers.ask("list images", move |connection| images::list(connection, &host)).await
    }

    async fn forget_image(&self, host: &HostId, image: &ImageRef) -> Result<(), StoreError> {
        let (host, image) = (host.clone(), image.clone());
        self.writer.call("forget an image", Notice::Quiet, move |connection| images::forget(connection, &host, &image)).await
    }

    async fn without_logs(&self, jobs: &[JobId], ended_before: Timestamp) -> Result<Vec<JobId>, StoreError> {
        let (jobs, before) = (jobs.to_vec(), rows::millis(ended_before));
        self.readers.ask("find logs that are not to be kept", move |connection| retention::without_logs(connection, &jobs, before)).await
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;

#[cfg(test)]
pub(super) mod upgrade_tests;
