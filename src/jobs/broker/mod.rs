//! The broker: what a runner in a container takes for its GitLab.
//!
//! ```text
//!  runner ── POST jobs/request ─────▶ broker   answers with the job that the store bound to this runner, and no other
//!         ── PUT, PATCH, artifacts ─▶ broker ─▶ GitLab   with GitLab's token of this one job
//! ```
//!
//! A token opens exactly its runner's own job. What GitLab took is written down here before the runner hears of it: the trace
//! into the job's log, the verdict into the store. So a crash between the two is repaired when the runner repeats its call.
//!
//! Every call looks into the store, because a job may be cancelled at any moment. When the store does not answer in time,
//! traces, updates and artifacts go on with what it said last about the runner; a verdict waits for it.

mod access;
mod artifacts;
mod claim;
mod inside;
mod report;
mod request;
mod session;
mod standing;
mod trace;
mod update;
mod verdict;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::domain::{Clock, EndReason, HostId, RetryPolicy, RunnerId};
use crate::gitlab::{GitLab, GitLabError, Relay};
use crate::security::SecurityManager;
use crate::store::log::LogStore;
use crate::store::{Store, StoreError};

use super::contacts::Contacts;
use access::Present;
use session::Sessions;

pub use claim::Claim;
pub use report::{KnownEnd, ReportResult};
pub use request::{LONG_POLL, WorkAnswer};
pub use standing::Standing;

/// How long the store may take before the broker goes on with what it knew.
const STORE_PATIENCE: Duration = Duration::from_secs(2);
/// When a runner shall repeat what could not be done.
const RETRY_SOON: Duration = Duration::from_secs(5);

/// Why the broker does not do what a runner asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BrokerError {
    /// The token is none of ours, its runner is gone, or it does not open this job.
    #[error("this token does not open that")]
    Denied,
    /// The request makes no sense.
    #[error("{0}")]
    Malformed(&'static str),
    /// The runner does this too often.
    #[error("too often")]
    TooOften {
        /// When it may again.
        retry_after: Duration,
    },
    /// GitLab or the store cannot do it now; nothing has changed.
    #[error("not now")]
    Unavailable {
        /// When to try again.
        retry_after: Duration,
    },
}

/// What a broker is made of.
pub struct BrokerParts {
    /// The durable queue.
    pub store: Arc<dyn Store>,
    /// GitLab, where one is configured.
    pub gitlab: Option<Arc<dyn GitLab>>,
    /// Makes and checks the runners' tokens.
    pub security: Arc<SecurityManager>,
    /// The jobs' logs.
    pub logs: Arc<LogStore>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// The machine.
    pub host: HostId,
    /// Where the runners' signs of life are kept.
    pub contacts: Arc<Contacts>,
    /// What follows a job's end, by the settings in force.
    pub retry: Arc<dyn Fn() -> RetryPolicy + Send + Sync>,
    /// Wakes the `JobManager`.
    pub nudge: Arc<dyn Fn() + Send + Sync>,
}

impl fmt::Debug for BrokerParts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BrokerParts").field("store", &self.store).field("gitlab", &self.gitlab).finish_non_exhaustive()
    }
}

/// The broker.
#[derive(Debug)]
pub struct Broker {
    parts: BrokerParts,
    sessions: Sessions,
}

impl Broker {
    /// Puts a broker together.
    #[must_use]
    pub fn new(parts: BrokerParts) -> Self {
        Self { parts, sessions: Sessions::default() }
    }

    /// Checks a runner's token (`POST /runners/verify`).
    ///
    /// # Errors
    /// [`BrokerError::Denied`] when it is none of ours or its runner is gone.
    pub async fn verify(&self, token: &str) -> Result<(), BrokerError> {
        let runner = self.known_runner(token)?;
        let aggregate = self.sessions.load(&self.parts, &runner).await?;
        if aggregate.runner.is_open() { Ok(()) } else { Err(BrokerError::Denied) }
    }

    /// Forgets a runner that is gone. Call it when its last step is stored.
    pub fn forget_runner(&self, runner: &RunnerId) {
        self.sessions.forget(runner);
        self.parts.contacts.forget(runner);
    }

    fn gitlab(&self) -> Result<&dyn GitLab, BrokerError> {
        self.parts.gitlab.as_deref().ok_or(BrokerError::Denied)
    }

    /// Writes down that GitLab wants the job to end, when its answer says so.
    async fn heed(&self, present: &Present, answer: &Relay) {
        let ended = matches!(answer.job_status(), Some("canceled" | "canceling" | "failed"));
        if !ended || present.job.cancel.is_some() || present.has_ended() {
            return;
        }
        match self.parts.store.cancel_job(&present.job.id, EndReason::CanceledInGitlab, self.parts.clock.now()).await {
            Ok(_) => (self.parts.nudge)(),
            Err(error) => warn_store(&error, "note that GitLab cancelled the job"),
        }
    }
}

/// GitLab's answer as the runner may get it: a failure of GitLab always says when to try again.
fn settled(answer: Result<Relay, GitLabError>) -> Result<Relay, BrokerError> {
    match answer {
        Ok(mut relay) => {
            if relay.status >= 500 {
                relay.status = if relay.status == 503 { 503 } else { 502 };
            }
            if (relay.status >= 500 || relay.status == 429) && relay.headers.get("retry-after").is_none() {
                relay.headers.set("retry-after", &RETRY_SOON.as_secs().to_string());
            }
            Ok(relay)
        }
        Err(error) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "GitLab gave no answer to what a runner sent; the runner will repeat it");
            Err(BrokerError::Unavailable { retry_after: error.retry_after().unwrap_or(RETRY_SOON) })
        }
    }
}

fn warn_gitlab(error: &GitLabError) {
    tracing::warn!(error = error as &dyn std::error::Error, "GitLab could not be told how a job stands");
}

fn warn_store(error: &StoreError, doing: &str) {
    tracing::warn!(error = error as &dyn std::error::Error, "the broker could not {doing}");
}

#[cfg(test)]
#[path = "tests/mod.rs"]
pub(crate) mod tests;
