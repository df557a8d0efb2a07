//! What a runner's report means for the job, and what we tell GitLab of ends that no runner reported. Pure.

use serde_json::Value;

use crate::domain::{Disposition, EndReason, Failure, Job, Outcome};

use super::BrokerError;

/// The job states of the runner protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reported {
    /// A sign of life: `running`, or `pending` before the runner has accepted the job.
    Alive,
    /// `success`.
    Success,
    /// `failed`.
    Failed,
}

impl Reported {
    /// Whether it is the runner's last word.
    pub(super) fn is_final(self) -> bool {
        match self {
            Self::Alive => false,
            Self::Success | Self::Failed => true,
        }
    }

    /// GitLab's name of the state in which this leaves the job.
    pub(super) fn job_status(self) -> &'static str {
        match self {
            Self::Alive => "running",
            Self::Success => "success",
            Self::Failed => "failed",
        }
    }
}

/// The body of `PUT /jobs/{id}`, as far as we read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StateReport {
    pub(super) state: Reported,
    pub(super) failure_reason: Option<String>,
    pub(super) exit_code: Option<i64>,
}

impl StateReport {
    pub(super) fn read(body: &Value) -> Result<Self, BrokerError> {
        let state = match body["state"].as_str() {
            Some("running" | "pending") => Reported::Alive,
            Some("success") => Reported::Success,
            Some("failed") => Reported::Failed,
            Some(_) | None => return Err(BrokerError::Malformed("state must be pending, running, success or failed")),
        };
        Ok(Self { state, failure_reason: body["failure_reason"].as_str().map(str::to_owned), exit_code: body["exit_code"].as_i64() })
    }

    /// How the job ended, by the runner's last word and by what GitLab made of it. Never an infrastructure failure: GitLab has the
    /// verdict, and GitLab's own `retry:` decides what follows.
    pub(super) fn outcome(&self, job: &Job, status_in_gitlab: Option<&str>) -> Outcome {
        let cancelled = job.cancel.as_ref().map(|cancel| cancel.reason);
        if status_in_gitlab == Some("canceled") {
            return Outcome::Canceled { reason: cancelled.unwrap_or(EndReason::CanceledInGitlab), detail: None };
        }
        match (self.state, status_in_gitlab) {
            (Reported::Success | Reported::Alive, Some("failed")) => {
                Outcome::final_failure(EndReason::RunnerUnresponsive, "GitLab had failed the job before the runner reported its success")
            }
            (Reported::Success | Reported::Alive, _) => Outcome::Succeeded,
            // GitLab itself had failed the job, which to us looked like a cancel.
            (Reported::Failed, Some("failed")) if cancelled == Some(EndReason::CanceledInGitlab) => self.failure(),
            (Reported::Failed, _) => match cancelled {
                Some(reason) => Outcome::Canceled { reason, detail: None },
                None => self.failure(),
            },
        }
    }

    fn failure(&self) -> Outcome {
        let reason = match self.failure_reason.as_deref() {
            Some("job_canceled") => return Outcome::Canceled { reason: EndReason::CanceledInGitlab, detail: None },
            Some("job_execution_timeout") => EndReason::TimedOut,
            Some("runner_system_failure" | "runner_configuration_error") => EndReason::StartFailed,
            Some("runner_unsupported") => EndReason::Unsupported,
            Some("runner_interrupted") => EndReason::RunnerTerminated,
            Some("image_pull_failure") => EndReason::ImageUnavailable,
            // `script_failure`, and what later versions may add: the job is what failed.
            Some(_) | None => EndReason::ExitCode,
        };
        let detail = self.failure_reason.as_deref().map(|words| format!("GitLab Runner reported {}", shortened(words)));
        Outcome::Failed(Failure { reason, exit_code: self.exit_code, detail, disposition: Disposition::Final })
    }
}

/// A text from a runner, short enough to keep.
fn shortened(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(100).collect()
}

/// The `failure_reason` for GitLab of an end that no runner reported. Never `script_failure`: nobody saw the script fail.
pub(super) fn failure_reason(outcome: &Outcome) -> &'static str {
    match outcome.reason() {
        Some(EndReason::TimedOut) => "job_execution_timeout",
        Some(EndReason::Unsupported) => "runner_unsupported",
        Some(
            EndReason::ExitCode
            | EndReason::OutOfMemory
            | EndReason::ImageUnavailable
            | EndReason::StartFailed
            | EndReason::ContainerLost
            | EndReason::NoReceipt
            | EndReason::RunnerExited
            | EndReason::RunnerUnresponsive
            | EndReason::RunnerTerminated
            | EndReason::HostLost
            | EndReason::GpuUnhealthy
            | EndReason::CanceledByUser
            | EndReason::CanceledInGitlab
            | EndReason::ReturnedToGitlab
            | EndReason::Unsatisfiable
            | EndReason::ClassRemoved,
        )
        | None => "runner_system_failure",
    }
}

/// The end in words, for the trace that the job's people read.
pub(super) fn words(outcome: &Outcome) -> String {
    let what = match outcome.reason() {
        None => "the job had succeeded, but its runner ended without saying so",
        Some(EndReason::ExitCode) => "the runner's process failed",
        Some(EndReason::OutOfMemory) => "the job used more memory than it had, and the kernel ended it",
        Some(EndReason::TimedOut) => "the job ran longer than it may",
        Some(EndReason::ImageUnavailable) => "the image could not be had",
        Some(EndReason::StartFailed) => "the container could not be started",
        Some(EndReason::ContainerLost) => "the container was lost",
        Some(EndReason::NoReceipt) => "the end of the job was not proved",
        Some(EndReason::RunnerExited) => "the runner ended without telling how the job went",
        Some(EndReason::RunnerUnresponsive) => "the runner did not respond any more",
        Some(EndReason::RunnerTerminated) => "an operator ended the runner",
        Some(EndReason::HostLost) => "the machine was lost",
        Some(EndReason::GpuUnhealthy) => "a GPU of the job failed",
        Some(EndReason::CanceledByUser) => "the job was cancelled at the coordinator",
        Some(EndReason::CanceledInGitlab) => "the job was cancelled in GitLab",
        Some(EndReason::ReturnedToGitlab) => "GitLab has the job again",
        Some(EndReason::Unsatisfiable) => "no machine can run the job",
        Some(EndReason::ClassRemoved) => "the class of the job is no longer configured",
        Some(EndReason::Unsupported) => "the job asks for what its runner does not give",
    };
    let detail: String = outcome.detail().unwrap_or_default().chars().map(|c| if c.is_control() { ' ' } else { c }).take(500).collect();
    let colon = if detail.is_empty() { "" } else { ": " };
    format!("\n\u{1b}[31;1mERROR: Runner Coordinator: {what}{colon}{detail}\u{1b}[0;m\n")
}

#[cfg(test)]
#[path = "tests/verdict.rs"]
mod tests;
