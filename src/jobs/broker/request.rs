//! `POST /jobs/request`: the runner asks for work and gets the job that is bound to it.

use std::time::Duration;

use tokio::time::Instant;

use crate::domain::step::{Aggregate, Step};
use crate::domain::{GitLabJob, Job, JobState, RunnerId, RunnerState, Work};
use crate::store::StoreError;

use super::{Broker, BrokerError, Claim, RETRY_SOON, warn_store};

/// How long a runner's request waits for a job. Shorter than what proxies and runners bear (GitLab itself holds it up to 50 s).
pub const LONG_POLL: Duration = Duration::from_secs(20);

/// What a runner that asks for work gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WorkAnswer {
    /// Its job, as JSON text.
    Job(String),
    /// None now.
    NoJob {
        /// `X-GitLab-Last-Update`: opaque to the runner, which sends it back.
        last_update: String,
    },
}

enum Look {
    Job(String),
    Wait,
    Leave,
}

impl Broker {
    /// Answers a runner that asks for work; waits up to [`LONG_POLL`] for a job to be bound to it.
    ///
    /// A runner that gets its job and loses the answer gets the same job again. One that is being stopped gets "no job" at once:
    /// the official runner then asks again every 3 s and follows a signal at any time, while a 403 would put it to sleep for 300 s.
    ///
    /// # Errors
    /// When the token is none of ours or the runner is gone, or the store does not answer.
    pub async fn request(&self, token: &str) -> Result<WorkAnswer, BrokerError> {
        let runner = self.known_runner(token)?;
        let deadline = Instant::now() + LONG_POLL;
        let mut changes = self.parts.store.changes();
        loop {
            // Registered before looking: a job that is bound in between wakes us.
            let seen = *changes.borrow_and_update();
            let none = WorkAnswer::NoJob { last_update: format!("{seen:x}") };
            match self.look_for_work(&runner).await? {
                Look::Job(text) => return Ok(WorkAnswer::Job(text)),
                Look::Leave => return Ok(none),
                Look::Wait => {}
            }
            match tokio::time::timeout_at(deadline, changes.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return Ok(none),
            }
        }
    }

    async fn look_for_work(&self, id: &RunnerId) -> Result<Look, BrokerError> {
        let aggregate = self.parts.store.runner(id).await.map_err(|error| unavailable(&error))?.ok_or(BrokerError::Denied)?;
        match aggregate.runner.state {
            RunnerState::Gone { .. } => return Err(BrokerError::Denied),
            RunnerState::Stopping { .. } | RunnerState::Lost { .. } => return Ok(Look::Leave),
            RunnerState::Starting { .. } | RunnerState::Idle | RunnerState::Busy => {}
        }
        self.parts.contacts.touch(id, self.parts.clock.now());
        self.sessions.remember(&aggregate);
        let aggregate = self.reported(aggregate).await?;
        match aggregate.job {
            Some(job) => self.hand_over(id, &job).await,
            None => Ok(Look::Wait),
        }
    }

    /// The first contact is written down; later ones only in memory.
    async fn reported(&self, aggregate: Aggregate) -> Result<Aggregate, BrokerError> {
        let waits = matches!(aggregate.runner.state, RunnerState::Starting { start_sent: Some(_) }) && aggregate.job.is_none();
        if aggregate.runner.last_contact_at.is_some() && !waits {
            return Ok(aggregate);
        }
        let now = self.parts.clock.now();
        let after = self.parts.store.apply(&aggregate.runner.id, Step::Reported, now).await.map_err(|error| unavailable(&error))?;
        (self.parts.nudge)();
        Ok(after)
    }

    async fn hand_over(&self, runner: &RunnerId, job: &Job) -> Result<Look, BrokerError> {
        if !job.has_open_attempt() || job.cancel.is_some() || !matches!(job.spec.work, Work::GitLab(_)) {
            return Ok(Look::Leave);
        }
        let Some(gitlab) = self.parts.store.gitlab_job(&job.id).await.map_err(|error| unavailable(&error))? else {
            return Ok(Look::Leave);
        };
        if !matches!(job.state, JobState::Running) && !self.begins(job, &gitlab).await? {
            return Ok(Look::Leave);
        }
        match self.parts.store.apply(runner, Step::HandedOver, self.parts.clock.now()).await {
            Ok(after) => {
                self.sessions.remember(&after);
                if let Some((job, attempt)) = &after.runner.job {
                    self.sessions.open(&self.parts, runner, job, *attempt).await?;
                }
                (self.parts.nudge)();
                Ok(Look::Job(gitlab.payload))
            }
            // Cancelled or ended since we looked.
            Err(StoreError::Refused(_)) => Ok(Look::Leave),
            Err(error) => Err(unavailable(&error)),
        }
    }
}

impl Broker {
    /// Tells GitLab that the job runs from now on; a job that GitLab does not want to run here any more is ended here.
    async fn begins(&self, job: &Job, gitlab: &GitLabJob) -> Result<bool, BrokerError> {
        let reason = match self.accept(gitlab).await {
            Claim::Taken | Claim::Reserved => return Ok(true),
            Claim::NotReachable => return Err(BrokerError::Unavailable { retry_after: RETRY_SOON }),
            Claim::Gone(reason) => reason,
        };
        self.parts.store.cancel_job(&job.id, reason, self.parts.clock.now()).await.map_err(|error| unavailable(&error))?;
        (self.parts.nudge)();
        Ok(false)
    }
}

fn unavailable(error: &StoreError) -> BrokerError {
    warn_store(error, "give a runner its job");
    BrokerError::Unavailable { retry_after: RETRY_SOON }
}
