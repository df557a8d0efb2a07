//! A job: what was asked for, where it stands, and how its latest attempt went.
//!
//! ```text
//!            claim               container up / handed over
//!  Queued ───────────▶ Starting ───────────────────────────▶ Running
//!    ▲  │                 │                                     │
//!    │  │ cancel          │ failed, may be tried again          │
//!    │  ▼                 ▼                                     ▼
//!    │ Ended ◀────────────┴────────────── ended ────────────────┘
//!    └──────────────────────── retry ◀──────────────────────────┘
//! ```

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::gitlab::GitLabRef;
use super::ids::{HostId, JobId, ProjectName, RunnerId};
use super::image::{ImageRef, PinnedImage};
use super::reason::{EndReason, Outcome};
use super::requirement::{Placement, Requirement};

/// Where a job came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// `POST /jobs`.
    Api,
    /// GitLab.
    GitLab,
}

impl Source {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Api, Self::GitLab];

    /// The name in answers and rows.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::GitLab => "gitlab",
        }
    }
}

/// A command to run in an image: a job of the API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandWork {
    /// The image.
    pub image: ImageRef,
    /// The command and its arguments; never empty.
    pub command: Vec<String>,
    /// The user's environment, already sanitised.
    pub env: BTreeMap<String, String>,
}

/// What the runner does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// Runs one command.
    Command(CommandWork),
    /// Runs a job of GitLab through the class's runner image and the broker.
    GitLab(GitLabRef),
}

/// What was asked for. Never changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobSpec {
    /// Where it came from.
    pub source: Source,
    /// On whose behalf.
    pub project: Option<ProjectName>,
    /// What it needs of a machine, its class included.
    pub requirement: Requirement,
    /// Longest run time of one attempt.
    pub timeout: Duration,
    /// Higher goes first.
    pub priority: i32,
    /// How often the job wants to be tried again after failing by itself.
    pub retries: u32,
    /// What to run.
    pub work: Work,
}

/// Where a job stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobState {
    /// It waits; after a failed attempt not before the given time.
    Queued {
        /// Earliest start.
        not_before: Option<Timestamp>,
    },
    /// A runner is being made ready for it.
    Starting,
    /// It runs.
    Running,
    /// It has ended.
    Ended {
        /// When.
        at: Timestamp,
        /// How.
        outcome: Outcome,
    },
}

impl JobState {
    /// The name in answers and rows.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Queued { .. } => "queued",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Ended { outcome: Outcome::Succeeded, .. } => "succeeded",
            Self::Ended { outcome: Outcome::Failed(_), .. } => "failed",
            Self::Ended { outcome: Outcome::Canceled { .. }, .. } => "canceled",
        }
    }

    /// Every name, for filters and their error messages.
    pub const NAMES: [&str; 6] = ["queued", "starting", "running", "succeeded", "failed", "canceled"];
}

/// One try at a job: the runner it had and how it went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// Counted from 1.
    pub number: u32,
    /// The runner.
    pub runner: RunnerId,
    /// The machine.
    pub host: HostId,
    /// What it held.
    pub placement: Placement,
    /// When the job's command began, or the broker handed it over.
    pub started_at: Option<Timestamp>,
    /// When and how it ended.
    pub ended: Option<(Timestamp, Outcome)>,
}

/// A wish that a job should end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CancelRequest {
    /// Who wished it.
    pub reason: EndReason,
    /// When it was first wished.
    pub at: Timestamp,
}

/// A job with its latest attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// Its id.
    pub id: JobId,
    /// What was asked for.
    pub spec: JobSpec,
    /// Where it stands.
    pub state: JobState,
    /// The latest attempt; `None` before the first.
    pub attempt: Option<Attempt>,
    /// Attempts that failed for reasons of the machine, the engine or ourselves.
    pub infrastructure_failures: u32,
    /// Attempts that failed by the job's own doing.
    pub own_failures: u32,
    /// Somebody wants it to end.
    pub cancel: Option<CancelRequest>,
    /// When it was stored.
    pub created_at: Timestamp,
    /// The job whose request it repeats, if it does.
    pub retry_of: Option<JobId>,
    /// What its containers are made of; `None` before the first, and of a job that a waiting runner took.
    pub image: Option<PinnedImage>,
}

/// What a wish to cancel led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CancelEffect {
    /// It was waiting and has ended.
    Ended,
    /// Its runner will be stopped.
    Requested,
    /// It had been wished before.
    AlreadyRequested,
    /// It had ended before; nothing changed.
    AlreadyEnded,
}

impl Job {
    /// A new job that waits from `now` on.
    #[must_use]
    pub fn new(id: JobId, spec: JobSpec, now: Timestamp) -> Self {
        Self {
            id,
            spec,
            state: JobState::Queued { not_before: None },
            attempt: None,
            infrastructure_failures: 0,
            own_failures: 0,
            cancel: None,
            created_at: now,
            retry_of: None,
            image: None,
        }
    }

    /// Whether it has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        matches!(self.state, JobState::Ended { .. })
    }

    /// Whether its latest attempt goes on.
    #[must_use]
    pub fn has_open_attempt(&self) -> bool {
        self.attempt.as_ref().is_some_and(|attempt| attempt.ended.is_none())
    }

    /// Whether it is a command, which runs as soon as its container does; a job of GitLab runs only once the broker handed it over.
    #[must_use]
    pub fn is_command(&self) -> bool {
        matches!(self.spec.work, Work::Command(_))
    }

    /// Notes that somebody wants the job to end. A waiting job ends at once; nothing can start it afterwards.
    pub fn cancel(&mut self, reason: EndReason, now: Timestamp) -> CancelEffect {
        if self.has_ended() {
            return CancelEffect::AlreadyEnded;
        }
        if self.cancel.is_some() {
            return CancelEffect::AlreadyRequested;
        }
        self.cancel = Some(CancelRequest { reason, at: now });
        match self.state {
            JobState::Queued { .. } => {
                self.state = JobState::Ended { at: now, outcome: Outcome::Canceled { reason, detail: None } };
                CancelEffect::Ended
            }
            JobState::Starting | JobState::Running | JobState::Ended { .. } => CancelEffect::Requested,
        }
    }
}
