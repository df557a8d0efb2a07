//! What GitLab hears of a job between its claim and its start: that we still want it, and then that it runs.
//!
//! A GitLab that knows the two-phase commit keeps a job that it gave us `pending` until we say `running`, and offers it to others when
//! it hears nothing for 2 minutes. So a job that cannot be started here is given back by saying nothing more. Any other GitLab
//! takes the job as running from its claim on; it knows no word `pending` (400) and is told `running` in its place.

use serde_json::json;

use crate::domain::{EndReason, GitLabJob, Job};
use crate::gitlab::{GitLab, GitLabError, Relay};

use super::{Broker, warn_gitlab, warn_store};

/// How a job that has not begun here stands in GitLab.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// It is ours, and runs as far as GitLab knows.
    Taken,
    /// It is ours, and GitLab waits for our word that it runs: it can be given back.
    Reserved,
    /// It is ours no more, for this reason: it was cancelled or has otherwise ended, and GitLab needs no further word; or GitLab waited for
    /// our word too long and may have given it to another runner.
    Gone(EndReason),
    /// GitLab did not answer; what it knows is not known, and the next call may get an answer.
    NotReachable,
}

impl Broker {
    /// Tells GitLab that a job which waits here is still wanted, and hears how it stands there.
    ///
    /// A job that is being cancelled in GitLab is reported as failed at once, which completes the cancel there: no runner will.
    pub async fn keep_alive(&self, job: &Job) -> Claim {
        let Some(client) = self.parts.gitlab.as_deref() else { return Claim::NotReachable };
        let gitlab = match self.parts.store.gitlab_job(&job.id).await {
            Ok(Some(gitlab)) => gitlab,
            Ok(None) => return Claim::Gone(EndReason::CanceledInGitlab),
            Err(error) => {
                warn_store(&error, "look up a job of GitLab");
                return Claim::NotReachable;
            }
        };
        let said = match say(client, &gitlab, "pending").await {
            Ok(Relay { status: 400, .. }) => say(client, &gitlab, "running").await,
            said => said,
        };
        heard(client, &gitlab, said).await
    }

    /// Tells GitLab that a job runs, just before it does.
    pub async fn accept(&self, gitlab: &GitLabJob) -> Claim {
        let Some(client) = self.parts.gitlab.as_deref() else { return Claim::NotReachable };
        let said = say(client, gitlab, "running").await;
        heard(client, gitlab, said).await
    }
}

async fn say(client: &dyn GitLab, gitlab: &GitLabJob, state: &str) -> Result<Relay, GitLabError> {
    client.update_job(gitlab.reference.job_id, &gitlab.token, json!({ "state": state })).await
}

/// What GitLab's answer says of the job.
async fn heard(client: &dyn GitLab, gitlab: &GitLabJob, said: Result<Relay, GitLabError>) -> Claim {
    let answer = match said {
        Ok(answer) => answer,
        Err(error) => {
            warn_gitlab(&error);
            return Claim::NotReachable;
        }
    };
    match (answer.status, answer.job_status()) {
        (500.. | 429, _) => Claim::NotReachable,
        (200..=299, Some("canceling")) => complete_cancel(client, gitlab).await,
        (200..=299, Some("pending")) => Claim::Reserved,
        // Pending and not ours, or running on another runner.
        (403 | 404, Some("pending" | "running")) | (409, _) => Claim::Gone(EndReason::ReturnedToGitlab),
        (200..=299, Some("canceled" | "failed" | "success")) | (403 | 404, _) => Claim::Gone(EndReason::CanceledInGitlab),
        _ => Claim::Taken,
    }
}

async fn complete_cancel(client: &dyn GitLab, gitlab: &GitLabJob) -> Claim {
    let failed = json!({ "state": "failed", "failure_reason": "runner_system_failure" });
    match client.update_job(gitlab.reference.job_id, &gitlab.token, failed).await {
        Ok(answer) if answer.status < 500 && answer.status != 429 => Claim::Gone(EndReason::CanceledInGitlab),
        Ok(_) => Claim::NotReachable,
        Err(error) => {
            warn_gitlab(&error);
            Claim::NotReachable
        }
    }
}
