//! How a job that runs here stands in GitLab, asked when its own runner has said nothing for a while.

use serde_json::json;

use crate::domain::Job;
use crate::gitlab::Relay;

use super::{Broker, warn_gitlab, warn_store};

/// How a job that runs here stands in GitLab.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It runs there too.
    Runs,
    /// It is being cancelled: what it does at its end may still be done.
    Canceling,
    /// It was cancelled or has otherwise ended.
    Ended,
    /// GitLab gave it to another runner.
    Lapsed,
    /// GitLab refuses the job's token and does not say why: the job may be gone, or something between us and GitLab is in the way.
    Unclear,
    /// There was no answer; the next call may get one.
    NotReachable,
}

impl Broker {
    /// Asks GitLab how a job stands that runs here, with the word that its runner says when it has nothing to say. Changes nothing else.
    pub async fn standing(&self, job: &Job) -> Standing {
        let Some(client) = self.parts.gitlab.as_deref() else { return Standing::Unclear };
        let gitlab = match self.parts.store.gitlab_job(&job.id).await {
            Ok(Some(gitlab)) => gitlab,
            // It has ended since it was listed.
            Ok(None) => return Standing::Unclear,
            Err(error) => {
                warn_store(&error, "look up a job of GitLab");
                return Standing::NotReachable;
            }
        };
        match client.update_job(gitlab.reference.job_id, &gitlab.token, json!({ "state": "running" })).await {
            Ok(answer) => read(&answer),
            Err(error) => {
                warn_gitlab(&error);
                Standing::NotReachable
            }
        }
    }
}

fn read(answer: &Relay) -> Standing {
    match (answer.status, answer.job_status()) {
        (500.. | 429, _) => Standing::NotReachable,
        (200..=299, Some("canceling")) => Standing::Canceling,
        (200..=299 | 403 | 404, Some("canceled" | "failed" | "success")) => Standing::Ended,
        (403 | 404, Some("pending" | "running")) | (409, _) => Standing::Lapsed,
        (200..=299, _) => Standing::Runs,
        // A proxy's refusal looks the same as that of a GitLab that no longer has the job. Its runner aborts on the first such answer.
        _ => Standing::Unclear,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gitlab::RelayHeaders;

    #[test]
    fn only_gitlabs_own_word_counts_against_a_job_that_runs() {
        let table = [
            (200, Some("running"), Standing::Runs),
            (200, None, Standing::Runs),
            (200, Some("canceling"), Standing::Canceling),
            (200, Some("canceled"), Standing::Ended),
            (403, Some("canceled"), Standing::Ended),
            (403, Some("failed"), Standing::Ended),
            (403, Some("success"), Standing::Ended),
            (403, Some("running"), Standing::Lapsed),
            (403, Some("pending"), Standing::Lapsed),
            (403, None, Standing::Unclear),
            (404, None, Standing::Unclear),
            (400, None, Standing::Unclear),
            (429, Some("failed"), Standing::NotReachable),
            (502, None, Standing::NotReachable),
        ];
        for (status, job_status, expected) in table {
            let headers = RelayHeaders::from_pairs(job_status.map(|job_status| ("job-status", job_status)));
            assert_eq!(read(&Relay { headers, ..Relay::empty(status) }), expected, "{status} {job_status:?}");
        }
    }
}
