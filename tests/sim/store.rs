//! The real store's rules and statements, in memory, with the faults of a disk.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use runner_coordinator::domain::job::CancelEffect;
use runner_coordinator::domain::step::{Aggregate, Step};
use runner_coordinator::domain::{
    Attempt, ClassName, Drain, EndReason, Event, EventKind, GitLabJob, GpuId, GpuRecord, GpuUsage, HostId, ImageRef, Job, JobId, ProjectCap,
    ProjectUsage, RequirementId, Runner, RunnerId,
};
use runner_coordinator::store::{
    Candidate, ClassQueue, Counts, Delivery, EventQuery, Forgotten, JobFilter, Keep, NewJob, QueueGroup, Recorded, RunnerFilter, SqliteStore, Store,
    StoreError, Submission, Waiting,
};
use tokio::sync::watch;

use crate::world::World;

/// One daemon's way to the store.
#[derive(Debug)]
pub(crate) struct SimStore {
    pub(crate) inner: Arc<SqliteStore>,
    pub(crate) world: Arc<World>,
}

/// Writes the trait's methods: each goes to the real store as the world lets it.
macro_rules! by_way_of_the_world {
    ($($way:ident $name:ident($($argument:ident: $kind:ty),*) -> $answer:ty;)*) => {
        #[async_trait]
        impl Store for SimStore {
            fn instance(&self) -> &str {
                self.inner.instance()
            }

            fn changes(&self) -> watch::Receiver<u64> {
                self.inner.changes()
            }

            $(async fn $name(&self, $($argument: $kind),*) -> Result<$answer, StoreError> {
                self.world.$way(stringify!($name), self.inner.$name($($argument),*)).await
            })*
        }
    };
}

by_way_of_the_world! {
    writes ping() -> ();
    writes submit(new: NewJob) -> Submission;
    writes record_delivery(delivery: Delivery, at: Timestamp) -> Recorded;
    writes cancel_job(job: &JobId, reason: EndReason, at: Timestamp) -> Option<(Job, CancelEffect)>;
    writes set_caps(caps: &[ProjectCap]) -> ();
    reads waiting() -> Vec<Waiting>;
    reads ahead(job: &JobId, among: &[RequirementId], most: u32) -> u32;
    writes promote_due(at: Timestamp) -> Option<Timestamp>;
    writes claim(candidates: &[Candidate], at: Timestamp) -> Option<Aggregate>;
    writes assign(runner: &RunnerId, at: Timestamp) -> Option<Aggregate>;
    writes plan_runner(runner: &Runner) -> ();
    writes apply(runner: &RunnerId, step: Step, at: Timestamp) -> Aggregate;
    writes note(runner: &RunnerId, kind: EventKind, at: Timestamp) -> ();
    reads job(id: &JobId) -> Option<Job>;
    reads jobs(filter: JobFilter) -> Vec<Job>;
    reads latest_retry(job: &JobId) -> Option<JobId>;
    reads attempts(job: &JobId) -> Vec<Attempt>;
    reads gitlab_job(job: &JobId) -> Option<GitLabJob>;
    reads jobs_of_gitlab(url: &str, gitlab_id: u64) -> Vec<JobId>;
    reads events(query: EventQuery) -> Vec<Event>;
    reads newest_event() -> i64;
    reads latest_event(job: &JobId) -> Option<Event>;
    reads runner(id: &RunnerId) -> Option<Aggregate>;
    reads runners(filter: RunnerFilter) -> Vec<Runner>;
    reads open_runners(host: &HostId) -> Vec<Aggregate>;
    reads drain(host: &HostId) -> Option<Drain>;
    writes set_drain(host: &HostId, drain: Option<&Drain>) -> ();
    reads counts() -> Counts;
    reads queue_groups(most: u32) -> Vec<QueueGroup>;
    reads class_queues(classes: &[ClassName]) -> Vec<ClassQueue>;
    reads gpu_records(host: &HostId) -> Vec<GpuRecord>;
    writes write_gpu_records(host: &HostId, records: &[GpuRecord], forgotten: &[GpuId]) -> ();
    writes write_gpu_usage(used: &[(JobId, u32, GpuUsage)]) -> ();
    reads gpu_usage(job: &JobId) -> BTreeMap<u32, GpuUsage>;
    reads project_usage(now: Timestamp, most: u32) -> Vec<ProjectUsage>;
    writes forget_deliveries(before: Timestamp) -> u64;
    writes forget_ended(keep: &Keep) -> Forgotten;
    reads without_logs(jobs: &[JobId], ended_before: Timestamp) -> Vec<JobId>;
    writes remember_image(host: &HostId, image: &ImageRef, at: Timestamp) -> ();
    writes use_images(host: &HostId, images: &[ImageRef], at: Timestamp) -> ();
    reads images(host: &HostId) -> Vec<(ImageRef, Timestamp)>;
    writes forget_image(host: &HostId, image: &ImageRef) -> ();
}
