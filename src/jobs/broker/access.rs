//! Which runner, and which job, a token opens.
//!
//! A runner has a token of ours, with which it asks for its job and speaks of itself. Its job comes with GitLab's own token of that one job,
//! and reports with it, as any runner does; here that opens the job only while the runner holds it.

use std::sync::Arc;

use crate::domain::{Aggregate, Job, RunnerId, Work};
use crate::gitlab::payload;

use super::session::Session;
use super::{Broker, BrokerError, RETRY_SOON, warn_store};

/// A runner that showed its token, with its job.
pub(super) struct Present {
    pub(super) runner: RunnerId,
    pub(super) job: Job,
    pub(super) attempt: u32,
}

impl Present {
    pub(super) fn has_ended(&self) -> bool {
        !self.job.has_open_attempt()
    }

    /// Whether somebody here wants the runner to abort. A cancel in GitLab is GitLab's to announce: it may let `after_script` run.
    pub(super) fn is_cancelled_here(&self) -> bool {
        self.job.cancel.as_ref().is_some_and(|cancel| cancel.reason != crate::domain::EndReason::CanceledInGitlab)
    }
}

impl Broker {
    pub(super) fn known_runner(&self, token: &str) -> Result<RunnerId, BrokerError> {
        self.parts.security.verify_runner_token(token).ok_or(BrokerError::Denied)
    }

    /// The runner that showed its own token and its job, whatever the job's origin.
    pub(super) async fn at_work(&self, token: &str) -> Result<Present, BrokerError> {
        let runner = self.known_runner(token)?;
        self.present(runner).await
    }

    /// The runner whose job is this job of GitLab, when this is its token or the job's. Also after the job's end.
    pub(super) async fn at_job(&self, token: &str, gitlab_id: u64) -> Result<Present, BrokerError> {
        let runner = match self.known_runner(token) {
            Ok(runner) => runner,
            Err(_) => self.holder(|session| self.is_own(session, gitlab_id, token)).await?,
        };
        let present = self.present(runner).await?;
        match &present.job.spec.work {
            Work::GitLab(reference) if reference.job_id == gitlab_id => Ok(present),
            Work::GitLab(_) | Work::Command(_) => Err(BrokerError::Denied),
        }
    }

    /// The runner that may fetch the artifacts of this job of GitLab, and GitLab's token for that: its own job's, or those of one
    /// that its job needs.
    pub(super) async fn at_artifacts(&self, token: &str, gitlab_id: u64) -> Result<String, BrokerError> {
        let runner = match self.known_runner(token) {
            Ok(runner) => runner,
            Err(_) => self.holder(|session| self.is_own(session, gitlab_id, token) || self.is_needed(session, gitlab_id, token)).await?,
        };
        let present = self.present(runner).await?;
        let session = self.session(&present).await?;
        if session.gitlab.reference.job_id == gitlab_id {
            return Ok(session.gitlab.token.clone());
        }
        let needed = payload::dependencies(&session.gitlab.payload).into_iter().find(|other| other.id == gitlab_id);
        Ok(needed.ok_or(BrokerError::Denied)?.token.unwrap_or_else(|| session.gitlab.token.clone()))
    }

    /// What is needed to speak to GitLab for a runner's present job.
    pub(super) async fn session(&self, present: &Present) -> Result<Arc<Session>, BrokerError> {
        if present.has_ended() {
            return Err(BrokerError::Denied);
        }
        self.sessions.open(&self.parts, &present.runner, &present.job.id, present.attempt).await
    }

    async fn present(&self, runner: RunnerId) -> Result<Present, BrokerError> {
        let aggregate = self.sessions.load(&self.parts, &runner).await?;
        if !aggregate.runner.is_open() {
            return Err(BrokerError::Denied);
        }
        self.parts.contacts.touch(&runner, self.parts.clock.now());
        let job = aggregate.job.ok_or(BrokerError::Denied)?;
        let attempt = job.attempt.as_ref().map(|attempt| attempt.number).ok_or(BrokerError::Denied)?;
        Ok(Present { runner, job, attempt })
    }

    fn is_own(&self, session: &Session, gitlab_id: u64, token: &str) -> bool {
        session.gitlab.reference.job_id == gitlab_id && self.parts.security.is_same_secret(token, &session.gitlab.token)
    }

    fn is_needed(&self, session: &Session, gitlab_id: u64, token: &str) -> bool {
        let needed = payload::dependencies(&session.gitlab.payload);
        let mut tokens = needed.into_iter().filter(|other| other.id == gitlab_id).filter_map(|other| other.token);
        tokens.any(|known| self.parts.security.is_same_secret(token, &known))
    }

    /// The runner whose session is this one.
    async fn holder(&self, is: impl Fn(&Session) -> bool) -> Result<RunnerId, BrokerError> {
        if let Some(runner) = self.sessions.find(&is) {
            return Ok(runner);
        }
        // After a restart nothing is remembered before each runner has asked for something once.
        if self.sessions.are_complete() {
            return Err(BrokerError::Denied);
        }
        let open = self.parts.store.open_runners(&self.parts.host).await.map_err(|error| {
            warn_store(&error, "look up the runners at work");
            BrokerError::Unavailable { retry_after: RETRY_SOON }
        })?;
        for aggregate in open.iter().filter(|aggregate| aggregate.has_open_attempt() && !aggregate.runs_command()) {
            self.restore(aggregate).await?;
        }
        self.sessions.mark_complete();
        self.sessions.find(&is).ok_or(BrokerError::Denied)
    }

    async fn restore(&self, aggregate: &Aggregate) -> Result<(), BrokerError> {
        self.sessions.remember(aggregate);
        let Some((job, attempt)) = &aggregate.runner.job else { return Ok(()) };
        match self.sessions.open(&self.parts, &aggregate.runner.id, job, *attempt).await {
            // Ended since it was listed.
            Ok(_) | Err(BrokerError::Denied) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
