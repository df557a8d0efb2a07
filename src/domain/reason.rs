//! Why things end: a closed list of reasons that people read and scripts compare.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why a job, an attempt or a runner ended otherwise than well. The names are part of the HTTP contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    /// The job's own command ended with a non-zero exit code.
    ExitCode,
    /// The kernel killed the job's main process for want of memory.
    OutOfMemory,
    /// The job ran longer than its timeout.
    TimedOut,
    /// The image could not be had: not there, not allowed, or the registry did not answer.
    ImageUnavailable,
    /// The engine could not create or start the container.
    StartFailed,
    /// The container vanished, or ended in a way that proves nothing about the job (an engine that died meanwhile).
    ContainerLost,
    /// The container ended, and its first process left no receipt of the job's end (it was killed with its engine, for example).
    NoReceipt,
    /// The runner ended without telling how its job went.
    RunnerExited,
    /// The runner did not report to the broker for too long, or stayed in a state past its deadline.
    RunnerUnresponsive,
    /// An operator ended the runner; or it had no job and made room for one that it could not take.
    RunnerTerminated,
    /// The machine that ran the job is gone.
    HostLost,
    /// A GPU of the job failed.
    GpuUnhealthy,
    /// A person or program cancelled the job here.
    CanceledByUser,
    /// The job was cancelled in GitLab.
    CanceledInGitlab,
    /// GitLab has the job again before it began here: it heard nothing of us for too long and may have given it to another runner.
    ReturnedToGitlab,
    /// No machine can ever run the job.
    Unsatisfiable,
    /// The class that the job was queued for is no longer configured.
    ClassRemoved,
    /// The job asks for something that its class does not give: an image of its own, or services.
    Unsupported,
}

impl EndReason {
    /// Every reason, for tables and tests.
    pub const ALL: [Self; 18] = [
        Self::ExitCode,
        Self::OutOfMemory,
        Self::TimedOut,
        Self::ImageUnavailable,
        Self::StartFailed,
        Self::ContainerLost,
        Self::NoReceipt,
        Self::RunnerExited,
        Self::RunnerUnresponsive,
        Self::RunnerTerminated,
        Self::HostLost,
        Self::GpuUnhealthy,
        Self::CanceledByUser,
        Self::CanceledInGitlab,
        Self::ReturnedToGitlab,
        Self::Unsatisfiable,
        Self::ClassRemoved,
        Self::Unsupported,
    ];

    /// The name in answers and rows.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ExitCode => "exit_code",
            Self::OutOfMemory => "out_of_memory",
            Self::TimedOut => "timed_out",
            Self::ImageUnavailable => "image_unavailable",
            Self::StartFailed => "start_failed",
            Self::ContainerLost => "container_lost",
            Self::NoReceipt => "no_receipt",
            Self::RunnerExited => "runner_exited",
            Self::RunnerUnresponsive => "runner_unresponsive",
            Self::RunnerTerminated => "runner_terminated",
            Self::HostLost => "host_lost",
            Self::GpuUnhealthy => "gpu_unhealthy",
            Self::CanceledByUser => "canceled_by_user",
            Self::CanceledInGitlab => "canceled_in_gitlab",
            Self::ReturnedToGitlab => "returned_to_gitlab",
            Self::Unsatisfiable => "unsatisfiable",
            Self::ClassRemoved => "class_removed",
            Self::Unsupported => "unsupported",
        }
    }

    /// Reads a stored name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == name)
    }

    /// How a job ends whose runner was stopped for this reason.
    #[must_use]
    pub fn outcome_when_stopped(self, detail: Option<String>) -> Outcome {
        match self {
            Self::CanceledByUser | Self::CanceledInGitlab | Self::ReturnedToGitlab => Outcome::Canceled { reason: self, detail },
            Self::RunnerUnresponsive
            | Self::HostLost
            | Self::GpuUnhealthy
            | Self::ContainerLost
            | Self::NoReceipt
            | Self::StartFailed
            | Self::RunnerExited => Outcome::Failed(Failure { reason: self, exit_code: None, detail, disposition: Disposition::Infrastructure }),
            Self::ExitCode | Self::OutOfMemory | Self::TimedOut => {
                Outcome::Failed(Failure { reason: self, exit_code: None, detail, disposition: Disposition::Job })
            }
            Self::ImageUnavailable | Self::RunnerTerminated | Self::Unsatisfiable | Self::ClassRemoved | Self::Unsupported => {
                Outcome::Failed(Failure { reason: self, exit_code: None, detail, disposition: Disposition::Final })
            }
        }
    }
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whose failure it was, and so who may try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Disposition {
    /// The job's own doing: tried again only as often as the job's `retries` asks.
    Job,
    /// Ours, the engine's or the machine's: tried again by the configured policy.
    Infrastructure,
    /// Nothing would change by trying again.
    Final,
}

/// How an attempt failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The typed reason.
    pub reason: EndReason,
    /// The exit code of the job's command, where one is known and believed.
    pub exit_code: Option<i64>,
    /// A sentence for people: the engine's own words, for example.
    pub detail: Option<String>,
    /// Whether another attempt may help.
    pub disposition: Disposition,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The job's command ended with exit code 0, or GitLab took the job's success.
    Succeeded,
    /// It failed.
    Failed(Failure),
    /// It was cancelled.
    Canceled {
        /// By whom.
        reason: EndReason,
        /// A sentence for people.
        detail: Option<String>,
    },
}

impl Outcome {
    /// A failure of the machine, the engine or ourselves.
    pub fn infrastructure(reason: EndReason, detail: impl Into<String>) -> Self {
        Self::Failed(Failure { reason, exit_code: None, detail: Some(detail.into()), disposition: Disposition::Infrastructure })
    }

    /// A failure that another attempt would repeat.
    pub fn final_failure(reason: EndReason, detail: impl Into<String>) -> Self {
        Self::Failed(Failure { reason, exit_code: None, detail: Some(detail.into()), disposition: Disposition::Final })
    }

    /// The reason, when it did not end well.
    #[must_use]
    pub fn reason(&self) -> Option<EndReason> {
        match self {
            Self::Succeeded => None,
            Self::Failed(failure) => Some(failure.reason),
            Self::Canceled { reason, .. } => Some(*reason),
        }
    }

    /// The exit code that is known and believed.
    #[must_use]
    pub fn exit_code(&self) -> Option<i64> {
        match self {
            Self::Succeeded => Some(0),
            Self::Failed(failure) => failure.exit_code,
            Self::Canceled { .. } => None,
        }
    }

    /// The sentence for people, where there is one.
    #[must_use]
    pub fn detail(&self) -> Option<&str> {
        match self {
            Self::Succeeded => None,
            Self::Failed(failure) => failure.detail.as_deref(),
            Self::Canceled { detail, .. } => detail.as_deref(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_reads_back_from_its_name_and_json() {
        for reason in EndReason::ALL {
            assert_eq!(EndReason::from_name(reason.as_str()), Some(reason));
            assert_eq!(serde_json::to_string(&reason).expect("json"), format!("\"{reason}\""));
        }
    }
}
