//! What GitLab hears of a job between its claim and its start: that we still want it, and then that it runs.
//!
//! A GitLab that knows the two-phase commit keeps a job that it gave us `pending` until we say `running`, and offers it to others when
//! it hears nothing for 2 minutes. So a job that cannot be started here is given back by saying nothing more. Any other GitLab
//! takes the job as running from its claim on; it knows no word `pending` (400) and is told `running` in its place.

use serde_json::json;

use crate::domain::{GitLabJob, Job};
use crate::gitlab::{GitLab, GitLabError, Relay};

use super::{Broker, warn_gitlab, warn_store};

/// How a job that waits here stands in GitLab.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeepAlive {
    /// It is still wanted, and runs as far as GitLab knows.
    Wanted,
    /// It is still wanted, and GitLab waits for our word that it runs: it can be given back.
    Reserved,
    /// It was cancelled or has otherwise ended; GitLab needs no further word.
    Ended,
    /// GitLab waited for our word too long and may have given it to another runner.
    Lapsed,
    /// GitLab did not answer; the next call may get one.
    NotReachable,
}

/// Whether GitLab takes a job for running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepted {
    /// It does.
    Yes,
    /// The job was cancelled or has otherwise ended there.
    Ended,
    /// GitLab waited for our word too long and may have given it to another runner.
    Lapsed,
    /// GitLab did not answer; what it knows is not known.
    NotReachable,
}

impl Broker {
    /// Tells GitLab that a job which waits here is still wanted, and hears how it stands there.
    ///
    /// A job that is being cancelled in GitLab is reported as failed at once, which completes the cancel there: no runner will.
    pub async fn keep_alive(&self, job: &Job) -> KeepAlive {
        let Some(client) = self.parts.gitlab.as_deref() else { return KeepAlive::NotReachable };
        let gitlab = match self.parts.store.gitlab_job(&job.id).await {
            Ok(Some(gitlab)) => gitlab,
            Ok(None) => return KeepAlive::Ended,
            Err(error) => {
                warn_store(&error, "look up a job of GitLab");
                return KeepAlive::NotReachable;
            }
        };
        let said = match say(client, &gitlab, "pending").await {
            Ok(Relay { status: 400, .. }) => say(client, &gitlab, "running").await,
            said => said,
        };
        heard(client, &gitlab, said).await
    }

    /// Tells GitLab that a job runs, just before it does.
    pub async fn accept(&self, gitlab: &GitLabJob) -> Accepted {
        let Some(client) = self.parts.gitlab.as_deref() else { return Accepted::NotReachable };
        let said = say(client, gitlab, "running").await;
        match heard(client, gitlab, said).await {
            KeepAlive::Wanted | KeepAlive::Reserved => Accepted::Yes,
            KeepAlive::Ended => Accepted::Ended,
            KeepAlive::Lapsed => Accepted::Lapsed,
            KeepAlive::NotReachable => Accepted::NotReachable,
        }
    }
}

async fn say(client: &dyn GitLab, gitlab: &GitLabJob, state: &str) -> Result<Relay, GitLabError> {
    client.update_job(gitlab.reference.job_id, &gitlab.token, json!({ "state": state })).await
}

/// What GitLab's answer says of the job.
async fn heard(client: &dyn GitLab, gitlab: &GitLabJob, said: Result<Relay, GitLabError>) -> KeepAlive {
    let answer = match said {
        Ok(answer) => answer,
        Err(error) => {
            warn_gitlab(&error);
            return KeepAlive::NotReachable;
        }
    };
    match (answer.status, answer.job_status()) {
        (500.. | 429, _) => KeepAlive::NotReachable,
        (200..=299, Some("canceling")) => complete_cancel(client, gitlab).await,
        (200..=299, Some("pending")) => KeepAlive::Reserved,
        // Pending and not ours, or running on another runner.
        (403 | 404, Some("pending" | "running")) | (409, _) => KeepAlive::Lapsed,
        (200..=299, Some("canceled" | "failed" | "success")) | (403 | 404, _) => KeepAlive::Ended,
        _ => KeepAlive::Wanted,
    }
}

async fn complete_cancel(client: &dyn GitLab, gitlab: &GitLabJob) -> KeepAlive {
    let failed = json!({ "state": "failed", "failure_reason": "runner_system_failure" });
    match client.update_job(gitlab.reference.job_id, &gitlab.token, failed).await {
        Ok(answer) if answer.status < 500 && answer.status != 429 => KeepAlive::Ended,
        Ok(_) => KeepAlive::NotReachable,
        Err(error) => {
            warn_gitlab(&error);
            KeepAlive::NotReachable
        }
    }
}
