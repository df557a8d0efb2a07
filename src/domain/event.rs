//! A job's history, one entry per thing that happened.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::ids::{JobId, RunnerId};
use super::reason::{EndReason, Outcome};

/// One entry of the history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Position in the order of all events of the store.
    pub seq: i64,
    /// When.
    pub at: Timestamp,
    /// The job, unless it concerns a runner without one.
    pub job: Option<JobId>,
    /// The runner, where one is concerned.
    pub runner: Option<RunnerId>,
    /// The attempt, where one is concerned.
    pub attempt: Option<u32>,
    /// What happened.
    pub kind: EventKind,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum EventKind {
    /// GitLab told of the job at the webhook.
    Webhook {
        /// How the job stood there: `pending` rang for it.
        status: String,
    },
    /// The job was accepted and stored.
    Submitted,
    /// The job was claimed by this machine and a runner planned for it.
    Claimed,
    /// The job was given to a runner that was waiting.
    Assigned,
    /// The image is being fetched; the engine's own words about how far it is.
    ImagePull {
        /// For example `Downloading 12.3MB of 45.0MB`.
        progress: String,
    },
    /// The image is there.
    ImageReady {
        /// Its digest or id.
        digest: String,
    },
    /// The engine made the container.
    ContainerCreated {
        /// The engine's id of it.
        container: String,
        /// The digest or id of its image; `None` of one that an earlier version made.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        digest: Option<String>,
        /// See [`super::Placement::opened`].
        #[serde(default, skip_serializing_if = "Option::is_none")]
        opened: Option<Vec<String>>,
    },
    /// The container runs.
    ContainerStarted,
    /// The runner waits at the broker for work.
    RunnerIdle,
    /// The broker handed the job to the runner.
    HandedOver,
    /// Somebody asked for the job's end.
    CancelRequested {
        /// Who.
        reason: EndReason,
    },
    /// The runner is being ended.
    StopOrdered {
        /// Why.
        reason: EndReason,
    },
    /// The job reported how far it is.
    Progress {
        /// Its own words.
        message: String,
        /// 0 to 100, where it said so.
        percent: Option<u8>,
    },
    /// The coordinator came back after a restart and found the runner alive.
    Adopted,
    /// The attempt ended.
    AttemptEnded {
        /// How.
        outcome: Outcome,
    },
    /// There will be another attempt.
    RetryScheduled {
        /// Not before this time.
        not_before: Timestamp,
    },
    /// The job ended.
    Ended,
    /// The runner's container and all that belonged to it are gone.
    RunnerRemoved,
}

impl EventKind {
    /// Every name.
    pub const NAMES: [&str; 18] = [
        "webhook",
        "submitted",
        "claimed",
        "assigned",
        "image_pull",
        "image_ready",
        "container_created",
        "container_started",
        "runner_idle",
        "handed_over",
        "cancel_requested",
        "stop_ordered",
        "progress",
        "adopted",
        "attempt_ended",
        "retry_scheduled",
        "ended",
        "runner_removed",
    ];

    /// The name in answers and rows.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Webhook { .. } => "webhook",
            Self::Submitted => "submitted",
            Self::Claimed => "claimed",
            Self::Assigned => "assigned",
            Self::ImagePull { .. } => "image_pull",
            Self::ImageReady { .. } => "image_ready",
            Self::ContainerCreated { .. } => "container_created",
            Self::ContainerStarted => "container_started",
            Self::RunnerIdle => "runner_idle",
            Self::HandedOver => "handed_over",
            Self::CancelRequested { .. } => "cancel_requested",
            Self::StopOrdered { .. } => "stop_ordered",
            Self::Progress { .. } => "progress",
            Self::Adopted => "adopted",
            Self::AttemptEnded { .. } => "attempt_ended",
            Self::RetryScheduled { .. } => "retry_scheduled",
            Self::Ended => "ended",
            Self::RunnerRemoved => "runner_removed",
        }
    }
}
