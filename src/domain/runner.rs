//! A runner: one container of ours, from its planning to its removal.
//!
//! ```text
//!              start sent        waits for work      has work
//!  Starting ──────────────▶ (up) ───────────▶ Idle ──────────▶ Busy
//!     │                                         │                │
//!     │ stop, exit, failure                     ▼                ▼
//!     └────────────────────────────────────▶ Stopping ──────▶ Gone      (Lost: no sign of life; ended like Stopping)
//! ```
//!
//! What it holds of the machine is free again only in `Gone`, when the engine no longer lists its container.

use jiff::Timestamp;

use super::ids::{ClassName, HostId, JobId, RunnerId};
use super::reason::EndReason;
use super::requirement::Placement;

/// Why the runner was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunnerOrigin {
    /// For one attempt of one job.
    Job,
    /// To keep the class's number of warm runners.
    Pool,
    /// Asked for by `POST /runners`.
    Request,
}

impl RunnerOrigin {
    /// Every origin.
    pub const ALL: [Self; 3] = [Self::Job, Self::Pool, Self::Request];

    /// The name in answers and rows.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Job => "job",
            Self::Pool => "pool",
            Self::Request => "request",
        }
    }

    /// Reads a stored name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|origin| origin.as_str() == name)
    }
}

/// Where a runner stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunnerState {
    /// Its container is being made.
    Starting {
        /// When the engine was told to start it. Written before the call, because starting twice would run the job twice.
        start_sent: Option<Timestamp>,
    },
    /// It waits at the broker for work.
    Idle,
    /// It runs a job.
    Busy,
    /// It is being ended and taken away; `None` when it did its work and has only to leave.
    Stopping {
        /// Why.
        reason: Option<EndReason>,
    },
    /// It showed no sign of life for too long, or its container vanished; it is being taken away.
    Lost {
        /// What was noticed.
        reason: EndReason,
    },
    /// Its container and everything that belonged to it are gone.
    Gone {
        /// Why it ended; `None` when it did its work.
        reason: Option<EndReason>,
    },
}

impl RunnerState {
    /// Every name, for filters and their error messages.
    pub const NAMES: [&str; 6] = ["starting", "idle", "busy", "stopping", "lost", "gone"];

    /// The name in answers and rows.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Starting { .. } => "starting",
            Self::Idle => "idle",
            Self::Busy => "busy",
            Self::Stopping { .. } => "stopping",
            Self::Lost { .. } => "lost",
            Self::Gone { .. } => "gone",
        }
    }

    /// Why it ended or is being ended.
    #[must_use]
    pub fn reason(&self) -> Option<EndReason> {
        match self {
            Self::Stopping { reason } | Self::Gone { reason } => *reason,
            Self::Lost { reason } => Some(*reason),
            Self::Starting { .. } | Self::Idle | Self::Busy => None,
        }
    }
}

/// A runner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Runner {
    /// Its id.
    pub id: RunnerId,
    /// Its class.
    pub class: ClassName,
    /// The machine it is on.
    pub host: HostId,
    /// Why it was made.
    pub origin: RunnerOrigin,
    /// Where it stands.
    pub state: RunnerState,
    /// Since when.
    pub state_since: Timestamp,
    /// The job and the number of its attempt that it runs or ran.
    pub job: Option<(JobId, u32)>,
    /// What it holds of the machine.
    pub placement: Placement,
    /// The engine's id of its container, once made.
    pub container: Option<String>,
    /// When it was planned.
    pub created_at: Timestamp,
    /// When it last spoke to the broker.
    pub last_contact_at: Option<Timestamp>,
    /// How many runners before it died without work, when it replaces one.
    pub restarts: u32,
    /// How often the engine had been seen to break off when this runner's container started: an exit code that was
    /// reported after a further break proves less.
    pub engine_epoch: u64,
}

impl Runner {
    /// A runner that is only planned yet.
    #[must_use]
    pub fn planned(id: RunnerId, class: ClassName, host: HostId, origin: RunnerOrigin, placement: Placement, now: Timestamp) -> Self {
        Self {
            id,
            class,
            host,
            origin,
            state: RunnerState::Starting { start_sent: None },
            state_since: now,
            job: None,
            placement,
            container: None,
            created_at: now,
            last_contact_at: None,
            restarts: 0,
            engine_epoch: 0,
        }
    }

    /// The container's name: the same for every repetition of the same attempt, so that a create whose answer was lost can be repeated.
    #[must_use]
    pub fn container_name(&self) -> String {
        match (&self.job, self.origin) {
            (Some((job, attempt)), RunnerOrigin::Job) => format!("rc-{job}-{attempt}"),
            (_, RunnerOrigin::Job | RunnerOrigin::Pool | RunnerOrigin::Request) => format!("rc-{}", self.id),
        }
    }

    /// Whether anything of it may still exist on the machine.
    #[must_use]
    pub fn is_open(&self) -> bool {
        !matches!(self.state, RunnerState::Gone { .. })
    }
}
