//! As much of a store as the broker uses, in memory.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::sync::watch;

use crate::domain::job::CancelEffect;
use crate::domain::step::{Aggregate, Step};
use crate::domain::{
    Attempt, EndReason, Event, EventKind, GitLabJob, GpuId, GpuRecord, HostId, ImageRef, Job, JobId, RequirementId, Runner, RunnerId,
};
use crate::store::{
    Candidate, Counts, Delivery, EventQuery, Forgotten, JobFilter, Keep, NewJob, QueueGroup, Recorded, RunnerFilter, Store, StoreError, Submission,
    Waiting,
};

/// As much of a store as the broker uses, with the real rules of change.
#[derive(Debug)]
pub(crate) struct MemoryStore {
    runners: Mutex<HashMap<RunnerId, Aggregate>>,
    gitlab: Mutex<HashMap<JobId, GitLabJob>>,
    pub(crate) notes: Mutex<Vec<EventKind>>,
    pub(crate) fails: AtomicBool,
    changes: watch::Sender<u64>,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self {
            runners: Mutex::default(),
            gitlab: Mutex::default(),
            notes: Mutex::default(),
            fails: AtomicBool::new(false),
            changes: watch::Sender::new(0),
        }
    }
}

impl MemoryStore {
    pub(crate) fn put(&self, aggregate: Aggregate, gitlab: Option<GitLabJob>) {
        if let (Some(job), Some(gitlab)) = (&aggregate.job, gitlab) {
            self.gitlab.lock().expect("lock").insert(job.id.clone(), gitlab);
        }
        self.runners.lock().expect("lock").insert(aggregate.runner.id.clone(), aggregate);
        self.changes.send_modify(|n| *n += 1);
    }

    pub(crate) fn of(&self, runner: &RunnerId) -> Aggregate {
        self.runners.lock().expect("lock")[runner].clone()
    }

    fn check(&self) -> Result<(), StoreError> {
        if self.fails.load(Ordering::Relaxed) {
            return Err(StoreError::Unavailable { doing: "test", source: "disk full".into() });
        }
        Ok(())
    }
}

#[async_trait]
impl Store for MemoryStore {
    fn instance(&self) -> &'static str {
        "test"
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    async fn cancel_job(&self, job: &JobId, reason: EndReason, at: Timestamp) -> Result<Option<(Job, CancelEffect)>, StoreError> {
        self.check()?;
        let mut runners = self.runners.lock().expect("lock");
        let found = runners.values_mut().filter_map(|aggregate| aggregate.job.as_mut()).find(|found| found.id == *job);
        Ok(found.map(|job| {
            let effect = job.cancel(reason, at);
            (job.clone(), effect)
        }))
    }

    async fn apply(&self, runner: &RunnerId, step: Step, at: Timestamp) -> Result<Aggregate, StoreError> {
        self.check()?;
        let mut runners = self.runners.lock().expect("lock");
        let aggregate = runners.get_mut(runner).ok_or_else(|| StoreError::UnknownRunner(runner.clone()))?;
        aggregate.apply(&step, at)?;
        if let Some(job) = aggregate.job.as_ref().filter(|job| job.has_ended()) {
            self.gitlab.lock().expect("lock").remove(&job.id);
        }
        self.changes.send_modify(|n| *n += 1);
        Ok(aggregate.clone())
    }

    async fn write_gpu_usage(&self, _: &[(JobId, u32, crate::domain::GpuUsage)]) -> Result<(), StoreError> {
        unimplemented!()
    }

    async fn gpu_usage(&self, _: &JobId) -> Result<std::collections::BTreeMap<u32, crate::domain::GpuUsage>, StoreError> {
        unimplemented!()
    }

    async fn project_usage(&self, _: Timestamp, _: u32) -> Result<Vec<crate::domain::ProjectUsage>, StoreError> {
        unimplemented!()
    }

    async fn class_queues(&self, _: &[crate::domain::ClassName]) -> Result<Vec<crate::store::ClassQueue>, StoreError> {
        unimplemented!()
    }

    async fn set_caps(&self, _: &[crate::domain::ProjectCap]) -> Result<(), StoreError> {
        unimplemented!()
    }

    async fn note(&self, _: &RunnerId, kind: EventKind, _: Timestamp) -> Result<(), StoreError> {
        self.check()?;
        self.notes.lock().expect("lock").push(kind);
        Ok(())
    }

    async fn gitlab_job(&self, job: &JobId) -> Result<Option<GitLabJob>, StoreError> {
        self.check()?;
        Ok(self.gitlab.lock().expect("lock").get(job).cloned())
    }

    async fn jobs_of_gitlab(&self, _: &str, _: u64) -> Result<Vec<JobId>, StoreError> {
        unimplemented!()
    }

    async fn runner(&self, id: &RunnerId) -> Result<Option<Aggregate>, StoreError> {
        self.check()?;
        Ok(self.runners.lock().expect("lock").get(id).cloned())
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.check()
    }

    async fn submit(&self, _: NewJob) -> Result<Submission, StoreError> {
        unimplemented!()
    }

    async fn record_delivery(&self, _: Delivery, _: Timestamp) -> Result<Recorded, StoreError> {
        unimplemented!()
    }

    async fn waiting(&self) -> Result<Vec<Waiting>, StoreError> {
        unimplemented!()
    }

    async fn ahead(&self, _: &JobId, _: &[RequirementId], _: u32) -> Result<u32, StoreError> {
        unimplemented!()
    }

    async fn latest_event(&self, _: &JobId) -> Result<Option<Event>, StoreError> {
        unimplemented!()
    }

    async fn promote_due(&self, _: Timestamp) -> Result<Option<Timestamp>, StoreError> {
        unimplemented!()
    }

    async fn claim(&self, _: &[Candidate], _: Timestamp) -> Result<Option<Aggregate>, StoreError> {
        unimplemented!()
    }

    async fn assign(&self, _: &RunnerId, _: Timestamp) -> Result<Option<Aggregate>, StoreError> {
        unimplemented!()
    }

    async fn plan_runner(&self, _: &Runner) -> Result<(), StoreError> {
        unimplemented!()
    }

    async fn job(&self, _: &JobId) -> Result<Option<Job>, StoreError> {
        unimplemented!()
    }

    async fn jobs(&self, _: JobFilter) -> Result<Vec<Job>, StoreError> {
        unimplemented!()
    }

    async fn latest_retry(&self, _: &JobId) -> Result<Option<JobId>, StoreError> {
        unimplemented!()
    }

    async fn attempts(&self, _: &JobId) -> Result<Vec<Attempt>, StoreError> {
        unimplemented!()
    }

    async fn events(&self, _: EventQuery) -> Result<Vec<Event>, StoreError> {
        unimplemented!()
    }

    async fn runners(&self, _: RunnerFilter) -> Result<Vec<Runner>, StoreError> {
        unimplemented!()
    }

    async fn open_runners(&self, host: &HostId) -> Result<Vec<Aggregate>, StoreError> {
        self.check()?;
        let all = self.runners.lock().expect("lock");
        Ok(all.values().filter(|aggregate| aggregate.runner.is_open() && aggregate.runner.host == *host).cloned().collect())
    }

    async fn gpu_records(&self, _: &HostId) -> Result<Vec<GpuRecord>, StoreError> {
        unimplemented!()
    }

    async fn write_gpu_records(&self, _: &HostId, _: &[GpuRecord], _: &[GpuId]) -> Result<(), StoreError> {
        unimplemented!()
    }

    async fn queue_groups(&self, _: u32) -> Result<Vec<QueueGroup>, StoreError> {
        unimplemented!()
    }

    async fn newest_event(&self) -> Result<i64, StoreError> {
        unimplemented!()
    }

    async fn drain(&self, _: &HostId) -> Result<Option<crate::domain::Drain>, StoreError> {
        unimplemented!()
    }

    async fn set_drain(&self, _: &HostId, _: Option<&crate::domain::Drain>) -> Result<(), StoreError> {
        unimplemented!()
    }

    async fn counts(&self) -> Result<Counts, StoreError> {
        unimplemented!()
    }

    async fn forget_deliveries(&self, _: Timestamp) -> Result<u64, StoreError> {
        unimplemented!()
    }

    async fn forget_ended(&self, _: &Keep) -> Result<Forgotten, StoreError> {
        unimplemented!()
    }

    async fn without_logs(&self, _: &[JobId], _: Timestamp) -> Result<Vec<JobId>, StoreError> {
        unimplemented!()
    }

    async fn remember_image(&self, _: &HostId, _: &ImageRef, _: Timestamp) -> Result<(), StoreError> {
        unimplemented!()
    }

    async fn use_images(&self, _: &HostId, _: &[ImageRef], _: Timestamp) -> Result<(), StoreError> {
        unimplemented!()
    }

    async fn images(&self, _: &HostId) -> Result<Vec<(ImageRef, Timestamp)>, StoreError> {
        unimplemented!()
    }

    async fn forget_image(&self, _: &HostId, _: &ImageRef) -> Result<(), StoreError> {
        unimplemented!()
    }
}
