//! What one project may have at once, and when it has it. A pure rule: the store applies it in the commit that claims.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::ids::ProjectName;

/// The most that a project may have at once, over all machines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProjectCap {
    /// The project.
    pub project: ProjectName,
    /// Most of its jobs that start or run.
    pub max_running: Option<u32>,
    /// Most GPUs that these were given together; a share of one counts as one.
    pub max_gpus: Option<u32>,
}

/// What a project has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InUse {
    /// Jobs that start or run.
    pub jobs: u32,
    /// Their GPUs.
    pub gpus: u32,
}

/// A project's limit that keeps a job from starting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CapReached {
    /// The project.
    pub project: ProjectName,
    /// Of what it has the most.
    pub limit: Limit,
    /// The most.
    pub most: u32,
    /// What it has.
    pub used: u32,
}

/// Of what a project may have only so much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Jobs that start or run.
    Running,
    /// Their GPUs.
    Gpus,
}

impl Limit {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Running, Self::Gpus];

    /// The setting's name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "max_running",
            Self::Gpus => "max_gpus",
        }
    }
}

impl ProjectCap {
    /// What keeps one more job with so many GPUs from starting. A job that is [over](Self::is_exceeded_by) the limit alone is not kept: it is
    /// started to be told so, for waiting would not help it.
    #[must_use]
    pub fn reached(&self, used: InUse, gpus: u32) -> Option<CapReached> {
        let reached = |limit, most, used| Some(CapReached { project: self.project.clone(), limit, most, used });
        if let Some(most) = self.max_running.filter(|most| used.jobs >= *most) {
            return reached(Limit::Running, most, used.jobs);
        }
        let most = self.max_gpus.filter(|most| gpus > 0 && gpus <= *most && used.gpus.saturating_add(gpus) > *most)?;
        reached(Limit::Gpus, most, used.gpus)
    }

    /// The limit, when a job with so many GPUs is over it even alone.
    #[must_use]
    pub fn is_exceeded_by(&self, gpus: u32) -> Option<u32> {
        self.max_gpus.filter(|most| gpus > *most)
    }
}

impl fmt::Display for CapReached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { project, limit, most, used } = self;
        match limit {
            Limit::Running => write!(f, "project {project} runs its most of {most} {}", if *most == 1 { "job" } else { "jobs" }),
            Limit::Gpus => write!(f, "project {project} has {used} of its most of {most} {}", if *most == 1 { "GPU" } else { "GPUs" }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_project_starts_no_more_than_it_may() {
        let cap = |max_running, max_gpus| ProjectCap { project: ProjectName::from_trusted("a"), max_running, max_gpus };
        let said = |cap: &ProjectCap, jobs, gpus, more| cap.reached(InUse { jobs, gpus }, more).map(|reached| reached.to_string());
        let none = cap(None, None);
        assert_eq!(said(&none, u32::MAX, u32::MAX, 64), None);
        let running = cap(Some(2), None);
        assert_eq!(said(&running, 1, 60, 64), None);
        assert_eq!(said(&running, 2, 0, 0).as_deref(), Some("project a runs its most of 2 jobs"));
        let gpus = cap(None, Some(4));
        assert_eq!(said(&gpus, 9, 4, 0), None, "a job without GPUs");
        assert_eq!((said(&gpus, 9, 3, 1), said(&gpus, 0, 0, 4)), (None, None));
        assert_eq!(said(&gpus, 9, 3, 2).as_deref(), Some("project a has 3 of its most of 4 GPUs"));
        assert_eq!(said(&gpus, 1, 4, u32::MAX), None, "it is refused when it is started");
        assert_eq!((gpus.is_exceeded_by(4), gpus.is_exceeded_by(5), none.is_exceeded_by(64)), (None, Some(4), None));
    }
}
