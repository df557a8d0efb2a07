//! What the broker keeps in memory of each runner at work: the job's token and description, its log, and what the store said last.
//! All of it can be had again from the store; losing it costs only a look.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::domain::step::Aggregate;
use crate::domain::{GitLabJob, JobId, RunnerId};

use super::trace::TraceLog;
use super::{BrokerError, BrokerParts, RETRY_SOON, STORE_PATIENCE, warn_store};

/// Most runners that are remembered; a machine runs far fewer.
const MAX_RUNNERS: usize = 4096;

/// One attempt at one job of GitLab.
pub(super) struct Session {
    pub(super) job: JobId,
    pub(super) attempt: u32,
    pub(super) gitlab: GitLabJob,
    /// Held while the trace is written, so that repeated parts are cut exactly.
    pub(super) trace: tokio::sync::Mutex<TraceLog>,
    /// The words about the job's end are in the trace.
    pub(super) end_told: AtomicBool,
}

impl Session {
    pub(super) fn new(gitlab: GitLabJob, job: JobId, attempt: u32) -> Self {
        Self { job, attempt, gitlab, trace: tokio::sync::Mutex::default(), end_told: AtomicBool::new(false) }
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("job", &self.job).field("attempt", &self.attempt).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Known {
    aggregate: Aggregate,
    session: Option<Arc<Session>>,
    last_progress: Option<jiff::Timestamp>,
}

/// The sessions of all runners at work.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    known: Mutex<HashMap<RunnerId, Known>>,
    /// Every runner at work has its session here.
    complete: AtomicBool,
}

impl Sessions {
    /// What the store says about a runner, or said last when it does not answer in time.
    pub(super) async fn load(&self, parts: &BrokerParts, runner: &RunnerId) -> Result<Aggregate, BrokerError> {
        let unavailable = BrokerError::Unavailable { retry_after: RETRY_SOON };
        match tokio::time::timeout(STORE_PATIENCE, parts.store.runner(runner)).await {
            Ok(Ok(Some(aggregate))) => {
                self.remember(&aggregate);
                Ok(aggregate)
            }
            Ok(Ok(None)) => Err(BrokerError::Denied),
            Ok(Err(error)) => {
                warn_store(&error, "look up a runner");
                self.remembered(runner).ok_or(unavailable)
            }
            Err(_) => self.remembered(runner).ok_or(unavailable),
        }
    }

    /// The session of a runner's present attempt.
    pub(super) async fn open(&self, parts: &BrokerParts, runner: &RunnerId, job: &JobId, attempt: u32) -> Result<Arc<Session>, BrokerError> {
        if let Some(session) = self.session_of(runner, job, attempt) {
            return Ok(session);
        }
        let gitlab = parts.store.gitlab_job(job).await.map_err(|error| {
            warn_store(&error, "look up a job of GitLab");
            BrokerError::Unavailable { retry_after: RETRY_SOON }
        })?;
        let session = Arc::new(Session::new(gitlab.ok_or(BrokerError::Denied)?, job.clone(), attempt));
        let mut all = self.lock();
        let Some(known) = all.get_mut(runner) else { return Ok(session) };
        // Two calls may have come at once; both must write the trace through one session.
        if let Some(other) = known.session.as_ref().filter(|other| other.job == *job && other.attempt == attempt) {
            return Ok(Arc::clone(other));
        }
        known.session = Some(Arc::clone(&session));
        Ok(session)
    }

    /// The runner whose session is this one.
    pub(super) fn find(&self, is: impl Fn(&Session) -> bool) -> Option<RunnerId> {
        let all = self.lock();
        all.iter().find(|(_, known)| known.session.as_deref().is_some_and(&is)).map(|(runner, _)| runner.clone())
    }

    /// Whether a session that is not found is that of no runner.
    pub(super) fn are_complete(&self) -> bool {
        self.complete.load(Ordering::Relaxed)
    }

    /// Every runner at work was given its session.
    pub(super) fn mark_complete(&self) {
        self.complete.store(true, Ordering::Relaxed);
    }

    pub(super) fn session_of(&self, runner: &RunnerId, job: &JobId, attempt: u32) -> Option<Arc<Session>> {
        let all = self.lock();
        let session = all.get(runner)?.session.as_ref()?;
        (session.job == *job && session.attempt == attempt).then(|| Arc::clone(session))
    }

    /// Notes a report of progress, unless the last one was later than `since`.
    pub(super) fn may_progress(&self, runner: &RunnerId, since: jiff::Timestamp, now: jiff::Timestamp) -> bool {
        let mut all = self.lock();
        let Some(known) = all.get_mut(runner) else { return true };
        if known.last_progress.is_some_and(|last| last > since) {
            return false;
        }
        known.last_progress = Some(now);
        true
    }

    pub(super) fn forget(&self, runner: &RunnerId) {
        self.lock().remove(runner);
    }

    pub(super) fn remember(&self, aggregate: &Aggregate) {
        let mut all = self.lock();
        if let Some(known) = all.get_mut(&aggregate.runner.id) {
            known.aggregate = aggregate.clone();
            return;
        }
        if !aggregate.runner.is_open() {
            return;
        }
        if all.len() >= MAX_RUNNERS {
            all.clear();
            self.complete.store(false, Ordering::Relaxed);
        }
        let known = Known { aggregate: aggregate.clone(), session: None, last_progress: None };
        all.insert(aggregate.runner.id.clone(), known);
    }

    fn remembered(&self, runner: &RunnerId) -> Option<Aggregate> {
        self.lock().get(runner).map(|known| known.aggregate.clone())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<RunnerId, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
