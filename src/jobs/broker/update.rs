//! `PUT /jobs/{id}`: the runner's reports of how its job stands. The last one ends the job, here as in GitLab.

use serde_json::Value;

use crate::domain::step::Step;
use crate::gitlab::Relay;
use crate::store::StoreError;

use super::access::Present;
use super::verdict::{Reported, StateReport};
use super::{Broker, BrokerError, RETRY_SOON, settled, warn_store};

impl Broker {
    /// Passes a report on. When GitLab has taken the last one, the job's end is stored before the runner is answered.
    ///
    /// # Errors
    /// When the token does not open this job, the state is none, GitLab gives no answer, or the end could not be stored;
    /// the runner repeats its report then.
    pub async fn update(&self, token: &str, gitlab_id: u64, body: Value) -> Result<Relay, BrokerError> {
        let present = self.at_job(token, gitlab_id).await?;
        let report = StateReport::read(&body)?;
        if present.has_ended() {
            // The answer to the last report got lost, or the job was ended here; either way the runner has only to leave.
            return if report.state.is_final() { Ok(Relay::empty(200)) } else { Err(BrokerError::Denied) };
        }
        let session = self.session(&present).await?;
        let sent = settled(self.gitlab()?.update_job(gitlab_id, &session.gitlab.token, body).await);
        if report.state.is_final() {
            return self.take_verdict(&present, &report, sent?).await;
        }
        let mut answer = match sent {
            Ok(answer) if answer.status < 500 && answer.status != 429 => answer,
            // The runner need not wait for GitLab to hear that it shall abort.
            Ok(_) | Err(_) if present.is_cancelled_here() => Relay::empty(200),
            other => return other,
        };
        self.heed(&present, &answer).await;
        if answer.is_success() && present.is_cancelled_here() {
            answer.headers.set("job-status", "canceled");
        }
        Ok(answer)
    }

    async fn take_verdict(&self, present: &Present, report: &StateReport, answer: Relay) -> Result<Relay, BrokerError> {
        let status = answer.job_status();
        let ended_before = answer.status == 403 && matches!(status, Some("success" | "failed" | "canceled"));
        // The job, its project or its token is gone in GitLab: nobody there will ever take the verdict, but we can.
        let gone = matches!(answer.status, 403 | 404) && status.is_none();
        if answer.status != 200 && !ended_before && !gone {
            // 202: the trace is not complete; 412: it must be sent again. The runner knows what to do, and the job is not over.
            return Ok(answer);
        }
        self.store_end(present, report, status).await?;
        // GitLab refuses a second verdict; when it is the same as the first, the answer to the first got lost.
        if ended_before && status == Some(report.state.job_status()) {
            return Ok(Relay::empty(200));
        }
        Ok(answer)
    }

    async fn store_end(&self, present: &Present, report: &StateReport, status_in_gitlab: Option<&str>) -> Result<(), BrokerError> {
        debug_assert!(report.state != Reported::Alive, "a sign of life ends nothing");
        let outcome = report.outcome(&present.job, status_in_gitlab);
        let step = Step::JobEnded { outcome, retry: (self.parts.retry)() };
        match self.parts.store.apply(&present.runner, step, self.parts.clock.now()).await {
            Ok(after) => {
                self.sessions.remember(&after);
                if let Some(session) = self.sessions.session_of(&present.runner, &present.job.id, present.attempt) {
                    session.close_log().await;
                }
                (self.parts.nudge)();
                Ok(())
            }
            Err(error @ StoreError::Refused(_)) => {
                // Another end was stored meanwhile; GitLab has this one and the runner is done.
                warn_store(&error, "store a job's end");
                Ok(())
            }
            Err(error) => {
                warn_store(&error, "store a job's end");
                Err(BrokerError::Unavailable { retry_after: RETRY_SOON })
            }
        }
    }
}
