//! The trait's methods: each is one transaction.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use super::transaction::{at_one_moment, in_transaction};
use super::{PostgresStore, caps, claim, deliveries, feed, history, hosts, jobs, queue, retention, runners, share, steps, usage};
use crate::domain::clock::truncate_to_millis;
use crate::domain::job::CancelEffect;
use crate::domain::step::{Aggregate, Step};
use crate::domain::{
    Attempt, ClassName, Drain, EndReason, Event, EventKind, GitLabJob, GpuId, GpuRecord, GpuUsage, HostId, ImageRef, Job, JobId, ProjectCap,
    ProjectUsage, RequirementId, Runner, RunnerId,
};
use crate::store::ended::Ended;
use crate::store::fleet::Fleet;
use crate::store::{
    Candidate, ClassQueue, Counts, Delivery, EventQuery, Forgotten, JobFilter, Keep, NewJob, QueueGroup, Recorded, RunnerFilter, Store, StoreError,
    Submission, Waiting, count, rows,
};

/// Carries work out to its end even when nobody waits for it any more, so that what was committed is also counted and told.
async fn to_its_end<T: Send + 'static>(
    tasks: TaskTracker,
    doing: &'static str,
    work: impl Future<Output = Result<T, StoreError>> + Send + 'static,
) -> Result<T, StoreError> {
    let ended = tasks.spawn(work).await;
    ended.unwrap_or_else(|error| Err(StoreError::Unavailable { doing, source: Box::new(error) }))
}

impl PostgresStore {
    /// Tells of a job that was bound, and lets its project's turn be over.
    async fn served(database: &super::Database, bound: Option<claim::Bound>, at: Timestamp) -> Option<Aggregate> {
        let bound = bound?;
        count::bound(database.metrics(), Some(&bound.aggregate), at);
        if let Some(job) = &bound.aggregate.job {
            // One that is lost gives its project one turn more, and the job is bound already.
            let _: Result<(), StoreError> = in_transaction!(quietly database, "end a turn", tx => share::serve(&tx, job, bound.share));
        }
        Some(bound.aggregate)
    }
}

#[async_trait]
impl Store for PostgresStore {
    fn instance(&self) -> &str {
        &self.instance
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.database.ticks()
    }

    fn fleet(&self) -> Option<&dyn Fleet> {
        Some(self)
    }

    async fn ping(&self) -> Result<(), StoreError> {
        in_transaction!(quietly self.database, "show that it can write", tx => history::ping(&tx))
    }

    async fn submit(&self, new: NewJob) -> Result<Submission, StoreError> {
        let database = Arc::clone(&self.database);
        to_its_end(self.database.tasks().clone(), "store a job", async move {
            let submission = in_transaction!(database, "store a job", tx => queue::submit(&tx, &new))?;
            count::submitted(database.metrics(), &submission);
            Ok(submission)
        })
        .await
    }

    async fn record_delivery(&self, delivery: Delivery, at: Timestamp) -> Result<Recorded, StoreError> {
        in_transaction!(self.database, "remember a delivery", tx => deliveries::record(&tx, &delivery, at))
    }

    async fn cancel_job(&self, job: &JobId, reason: EndReason, at: Timestamp) -> Result<Option<(Job, CancelEffect)>, StoreError> {
        let (database, job, at) = (Arc::clone(&self.database), job.clone(), truncate_to_millis(at));
        to_its_end(self.database.tasks().clone(), "cancel a job", async move {
            let (done, ended) = in_transaction!(database, "cancel a job", tx => steps::cancel(&tx, &job, reason, at))?;
            count::cancelled(database.metrics(), done.as_ref());
            ended.iter().for_each(Ended::tell);
            Ok(done)
        })
        .await
    }

    async fn set_caps(&self, caps: &[ProjectCap]) -> Result<(), StoreError> {
        in_transaction!(self.database, "store the limits of projects", tx => caps::set(&tx, caps))
    }

    async fn waiting(&self) -> Result<Vec<Waiting>, StoreError> {
        at_one_moment!(self.database, "look at the queue", tx => queue::waiting(&tx))
    }

    async fn ahead(&self, job: &JobId, among: &[RequirementId], most: u32) -> Result<u32, StoreError> {
        at_one_moment!(self.database, "count the jobs before another", tx => queue::ahead(&tx, job, among, most))
    }

    async fn promote_due(&self, at: Timestamp) -> Result<Option<Timestamp>, StoreError> {
        in_transaction!(self.database, "end back-offs", tx => queue::promote_due(&tx, at))
    }

    async fn claim(&self, candidates: &[Candidate], at: Timestamp) -> Result<Option<Aggregate>, StoreError> {
        let (database, lease, candidates, at) = (Arc::clone(&self.database), Arc::clone(&self.lease), candidates.to_vec(), truncate_to_millis(at));
        to_its_end(self.database.tasks().clone(), "claim a job", async move {
            let bound = in_transaction!(database, "claim a job", tx => claim::claim(&tx, &lease, &candidates, at))?;
            Ok(Self::served(&database, bound, at).await)
        })
        .await
    }

    async fn assign(&self, runner: &RunnerId, at: Timestamp) -> Result<Option<Aggregate>, StoreError> {
        let (database, lease, runner, at) = (Arc::clone(&self.database), Arc::clone(&self.lease), runner.clone(), truncate_to_millis(at));
        to_its_end(self.database.tasks().clone(), "assign a job", async move {
            let bound = in_transaction!(database, "assign a job", tx => claim::assign(&tx, &lease, &runner, at))?;
            Ok(Self::served(&database, bound, at).await)
        })
        .await
    }

    async fn plan_runner(&self, runner: &Runner) -> Result<(), StoreError> {
        in_transaction!(self.database, "store a runner", tx => async {
            self.lease.check(&tx).await?;
            runners::save(&tx, runner, runners::Save::Insert).await
        })
    }

    async fn apply(&self, runner: &RunnerId, step: Step, at: Timestamp) -> Result<Aggregate, StoreError> {
        let (database, lease, runner, at) = (Arc::clone(&self.database), Arc::clone(&self.lease), runner.clone(), truncate_to_millis(at));
        to_its_end(self.database.tasks().clone(), "take a step", async move {
            let taken = in_transaction!(database, "take a step", tx => steps::apply(&tx, &lease, &runner, &step, at))?;
            count::step(database.metrics(), &taken, at);
            taken.ended.iter().for_each(Ended::tell);
            Ok(taken.after)
        })
        .await
    }

    async fn note(&self, runner: &RunnerId, kind: EventKind, at: Timestamp) -> Result<(), StoreError> {
        let (database, lease, runner) = (Arc::clone(&self.database), Arc::clone(&self.lease), runner.clone());
        to_its_end(self.database.tasks().clone(), "add to the history", async move {
            let noted = in_transaction!(database, "add to the history", tx => steps::note(&tx, &lease, &runner, &kind, at))?;
            count::event(database.metrics(), &noted, &kind, at);
            Ok(())
        })
        .await
    }

    async fn job(&self, id: &JobId) -> Result<Option<Job>, StoreError> {
        at_one_moment!(self.database, "read a job", tx => jobs::find(&tx, id.as_str()))
    }

    async fn jobs(&self, filter: JobFilter) -> Result<Vec<Job>, StoreError> {
        at_one_moment!(self.database, "list jobs", tx => jobs::list(&tx, &filter))
    }

    async fn latest_retry(&self, job: &JobId) -> Result<Option<JobId>, StoreError> {
        at_one_moment!(self.database, "find a job's retry", tx => jobs::latest_retry(&tx, job))
    }

    async fn attempts(&self, job: &JobId) -> Result<Vec<Attempt>, StoreError> {
        at_one_moment!(self.database, "list attempts", tx => jobs::attempts(&tx, job))
    }

    async fn gitlab_job(&self, job: &JobId) -> Result<Option<GitLabJob>, StoreError> {
        at_one_moment!(self.database, "read a job of GitLab", tx => jobs::gitlab(&tx, job))
    }

    async fn jobs_of_gitlab(&self, url: &str, gitlab_id: u64) -> Result<Vec<JobId>, StoreError> {
        at_one_moment!(self.database, "find a job of GitLab", tx => jobs::of_gitlab_id(&tx, url, gitlab_id))
    }

    async fn events(&self, query: EventQuery) -> Result<Vec<Event>, StoreError> {
        if let Some(job) = &query.job {
            at_one_moment!(self.database, "read the history", tx => history::of_job(&tx, job, &query))
        } else {
            in_transaction!(quietly self.database, "read the history", tx => feed::read(&tx, &query))
        }
    }

    async fn newest_event(&self) -> Result<i64, StoreError> {
        at_one_moment!(self.database, "find the newest event", tx => history::newest(&tx))
    }

    async fn latest_event(&self, job: &JobId) -> Result<Option<Event>, StoreError> {
        at_one_moment!(self.database, "read the end of a history", tx => history::latest(&tx, job))
    }

    async fn runner(&self, id: &RunnerId) -> Result<Option<Aggregate>, StoreError> {
        at_one_moment!(self.database, "read a runner", tx => async {
            match runners::find(&tx, id).await? {
                Some(runner) => Ok(Some(runners::with_job(&tx, runner).await?)),
                None => Ok(None),
            }
        })
    }

    async fn runners(&self, filter: RunnerFilter) -> Result<Vec<Runner>, StoreError> {
        at_one_moment!(self.database, "list runners", tx => runners::list(&tx, &filter))
    }

    async fn open_runners(&self, host: &HostId) -> Result<Vec<Aggregate>, StoreError> {
        at_one_moment!(self.database, "list open runners", tx => runners::open(&tx, host))
    }

    async fn drain(&self, host: &HostId) -> Result<Option<Drain>, StoreError> {
        at_one_moment!(self.database, "read whether a machine is drained", tx => hosts::drain(&tx, host))
    }

    async fn set_drain(&self, host: &HostId, drain: Option<&Drain>) -> Result<(), StoreError> {
        in_transaction!(self.database, "write whether a machine is drained", tx => hosts::write_drain(&tx, host, drain))
    }

    async fn counts(&self) -> Result<Counts, StoreError> {
        at_one_moment!(self.database, "count", tx => history::counts(&tx))
    }

    async fn queue_groups(&self, most: u32) -> Result<Vec<QueueGroup>, StoreError> {
        at_one_moment!(self.database, "group the queue", tx => history::queue_groups(&tx, most))
    }

    async fn class_queues(&self, classes: &[ClassName]) -> Result<Vec<ClassQueue>, StoreError> {
        at_one_moment!(self.database, "look at the queues of classes", tx => history::class_queues(&tx, classes))
    }

    async fn gpu_records(&self, host: &HostId) -> Result<Vec<GpuRecord>, StoreError> {
        at_one_moment!(self.database, "read what is remembered of GPUs", tx => hosts::gpus(&tx, host))
    }

    async fn write_gpu_records(&self, host: &HostId, records: &[GpuRecord], forgotten: &[GpuId]) -> Result<(), StoreError> {
        in_transaction!(quietly self.database, "remember GPUs", tx => hosts::write_gpus(&tx, host, records, forgotten))
    }

    async fn write_gpu_usage(&self, used: &[(JobId, u32, GpuUsage)]) -> Result<(), StoreError> {
        in_transaction!(quietly self.database, "write down what jobs use of GPUs", tx => usage::write(&tx, used))
    }

    async fn gpu_usage(&self, job: &JobId) -> Result<BTreeMap<u32, GpuUsage>, StoreError> {
        at_one_moment!(self.database, "read what a job used of GPUs", tx => usage::of_job(&tx, job))
    }

    async fn project_usage(&self, now: Timestamp, most: u32) -> Result<Vec<ProjectUsage>, StoreError> {
        at_one_moment!(self.database, "read what projects used of GPUs", tx => usage::most(&tx, now, most))
    }

    async fn forget_deliveries(&self, before: Timestamp) -> Result<u64, StoreError> {
        let mut forgotten = 0;
        loop {
            let some = in_transaction!(quietly self.database, "forget old deliveries", tx => history::forget_deliveries(&tx, before))?;
            forgotten += some;
            if some == 0 {
                return Ok(forgotten);
            }
        }
    }

    async fn forget_ended(&self, keep: &Keep) -> Result<Forgotten, StoreError> {
        in_transaction!(quietly self.database, "forget what ended", tx => retention::forget(&tx, keep))
    }

    async fn without_logs(&self, jobs: &[JobId], ended_before: Timestamp) -> Result<Vec<JobId>, StoreError> {
        let before = rows::millis(ended_before);
        at_one_moment!(self.database, "find logs that are not to be kept", tx => retention::without_logs(&tx, jobs, before))
    }

    async fn remember_image(&self, host: &HostId, image: &ImageRef, at: Timestamp) -> Result<(), StoreError> {
        in_transaction!(quietly self.database, "remember an image", tx => hosts::remember_image(&tx, host, image, at))
    }

    async fn use_images(&self, host: &HostId, images: &[ImageRef], at: Timestamp) -> Result<(), StoreError> {
        in_transaction!(quietly self.database, "note which images are used", tx => hosts::use_images(&tx, host, images, at))
    }

    async fn images(&self, host: &HostId) -> Result<Vec<(ImageRef, Timestamp)>, StoreError> {
        at_one_moment!(self.database, "list images", tx => hosts::images(&tx, host))
    }

    async fn forget_image(&self, host: &HostId, image: &ImageRef) -> Result<(), StoreError> {
        in_transaction!(quietly self.database, "forget an image", tx => hosts::forget_image(&tx, host, image))
    }
}
