//! Why a job is where it is: gathers what [`crate::platform::explain`] decides over.

use jiff::Timestamp;

use super::deps::{class_named, deadlines};
use super::disk;
use super::handle::{EngineState, Status};
use super::network::Unguarded;
use super::reconcile::{Deadlines, time_limit};
use crate::config::Config;
use crate::domain::{
    Aggregate, CapReached, ClassName, EventKind, HostFacts, Job, JobId, JobState, Requirement, RequirementId, Runner, RunnerState, Source, Start,
};
use crate::platform::Unfit;
use crate::platform::explain::{Ahead, Explanation, HostReport, Machine, Preparing, Readiness, Standing, Tenant, Wish, competes, examine};
use crate::store::{Store, StoreError, Waiting};

/// Most jobs that are counted before another: the answer costs the same however many wait.
pub const MOST_AHEAD: u32 = 1000;

/// What an explanation is made of beside the store.
#[derive(Debug, Clone, Copy)]
pub struct Circumstances<'a> {
    /// What the manager published last.
    pub status: &'a Status,
    /// The settings.
    pub config: &'a Config,
    /// The time.
    pub now: Timestamp,
}

impl<'a> Circumstances<'a> {
    /// What a requirement can never have on any machine, however long it waits; empty when some machine could run it, or while that is
    /// not known, because no engine has answered yet.
    #[must_use]
    pub fn never(&self, requirement: &Requirement) -> Vec<Unfit> {
        let facts = &self.status.facts;
        if facts.runtimes.is_empty() {
            return Vec::new();
        }
        let machine = Machine { facts, tenants: &[], readiness: self.readiness(&requirement.class) };
        examine(&machine, self.wish(requirement)).never().cloned().collect()
    }

    /// Whether another machine of the fleet could run it one day; also while that is not known.
    #[must_use]
    pub fn is_possible_on(&self, facts: &HostFacts, requirement: &Requirement) -> bool {
        let machine = Machine { facts, tenants: &[], readiness: Readiness::Ready };
        facts.runtimes.is_empty() || examine(&machine, self.wish(requirement)).never().next().is_none()
    }

    fn wish<'r>(&self, requirement: &'r Requirement) -> Wish<'r> {
        Wish { requirement, limit: class_named(self.config, &requirement.class).and_then(|class| class.max_runners) }
    }

    /// Whether this machine takes work of a class.
    fn readiness(&self, class: &ClassName) -> Readiness {
        let filtered = class_named(self.config, class).is_some_and(|class| class.network.is_filtered());
        match (readiness(self.status), &self.status.unguarded) {
            (Readiness::Ready, Some(Unguarded { why, since })) if filtered => Readiness::Unguarded { why: why.clone(), since: *since },
            (readiness, _) => readiness,
        }
    }

    fn facts(&self) -> &'a HostFacts {
        &self.status.facts
    }
}

/// Whether this machine takes work.
#[must_use]
pub fn readiness(status: &Status) -> Readiness {
    match (&status.engine, &status.drain) {
        (EngineState::Unknown, _) => Readiness::Unasked,
        (EngineState::Down { error, since }, _) => Readiness::EngineDown { error: error.clone(), since: *since },
        (EngineState::Up { .. }, _) if status.stopping => Readiness::Stopping,
        (EngineState::Up { .. }, Some(drain)) if status.runners > 0 => Readiness::Draining(drain.clone()),
        (EngineState::Up { .. }, Some(drain)) => Readiness::Drained(drain.clone()),
        (EngineState::Up { .. }, None) => match (status.disks_silent, disk::full(&status.disks)) {
            (Some(since), _) => Readiness::DiskUnresponsive(since),
            (None, Some(disk)) => Readiness::DiskFull(disk.to_string()),
            (None, None) => Readiness::Ready,
        },
    }
}

/// Explains a job. `None` when there is none of this id.
///
/// # Errors
/// When the store fails.
pub async fn explain(store: &dyn Store, circumstances: Circumstances<'_>, id: &JobId) -> Result<Option<(Job, Explanation)>, StoreError> {
    let Some(job) = store.job(id).await? else { return Ok(None) };
    let explanation = match (&job.state, &job.cancel) {
        (JobState::Ended { at, outcome }, _) => Explanation::settled(Standing::Ended { at: *at, outcome: outcome.clone() }),
        (JobState::Queued { not_before }, _) => {
            let open = store.open_runners(&circumstances.facts().id).await?;
            let standing = waiting(&job, *not_before, &open, circumstances.now);
            explain_waiting(store, circumstances, &job, standing, &open).await?
        }
        (JobState::Starting | JobState::Running, Some(cancel)) => Explanation::settled(Standing::Ending(cancel.reason)),
        (JobState::Starting | JobState::Running, None) => Explanation::settled(under_way(store, circumstances, &job).await?),
    };
    Ok(Some((job, explanation)))
}

fn waiting(job: &Job, not_before: Option<Timestamp>, open: &[Aggregate], now: Timestamp) -> Standing {
    let takes = |runner: &&Runner| runner.class == job.spec.requirement.class && runner.state == RunnerState::Idle && runner.job.is_none();
    let may_be_taken = job.spec.source == Source::GitLab && job.spec.requirement.start == Start::Any;
    let idle = open.iter().map(|aggregate| &aggregate.runner).find(takes).filter(|_| may_be_taken);
    match (not_before.filter(|until| *until > now), idle) {
        (Some(until), _) => Standing::BackOff(until),
        (None, Some(runner)) => Standing::Handover(runner.id.clone()),
        (None, None) => Standing::Waiting,
    }
}

async fn explain_waiting(
    store: &dyn Store,
    circumstances: Circumstances<'_>,
    job: &Job,
    standing: Standing,
    open: &[Aggregate],
) -> Result<Explanation, StoreError> {
    let (deadlines, grace) = (deadlines(circumstances.config), circumstances.config.limits.stop_grace);
    let ends_by = |aggregate: &Aggregate| ends_by(aggregate, &deadlines)?.checked_add(grace).ok();
    let tenants: Vec<Tenant> = open.iter().map(|aggregate| tenant(aggregate, ends_by(aggregate))).collect();
    let facts = circumstances.facts();
    let mine = circumstances.wish(&job.spec.requirement);
    let report = examine(&Machine { facts, tenants: &tenants, readiness: circumstances.readiness(&job.spec.requirement.class) }, mine);
    let all = store.waiting().await?;
    let rivals = rivals(circumstances, mine, &report, &all);
    let of_project = |reached: &CapReached| job.spec.project.as_ref() == Some(&reached.project);
    let equal = all.iter().filter(|waiting| waiting.requirement == job.spec.requirement);
    let capped = equal.filter_map(|waiting| waiting.capped.clone()).find(of_project);
    let ahead = match store.ahead(&job.id, &rivals, MOST_AHEAD + 1).await? {
        jobs if jobs > MOST_AHEAD => Ahead::MoreThan(MOST_AHEAD),
        jobs => Ahead::Exactly(jobs),
    };
    Ok(Explanation::waiting(standing, vec![report], ahead, circumstances.now).capped_by(capped))
}

/// The requirements whose waiting jobs want what this one waits for, and may have it.
fn rivals(circumstances: Circumstances<'_>, mine: Wish<'_>, report: &HostReport, waiting: &[Waiting]) -> Vec<RequirementId> {
    let rival = |other: &&Waiting| other.capped.is_none() && competes(circumstances.facts(), mine, report, circumstances.wish(&other.requirement));
    waiting.iter().filter(rival).map(|other| other.id).collect()
}

fn tenant(aggregate: &Aggregate, ends_by: Option<Timestamp>) -> Tenant {
    let Aggregate { runner, job } = aggregate;
    Tenant {
        runner: runner.id.clone(),
        class: runner.class.clone(),
        job: runner.job.as_ref().map(|(job, _)| job.clone()),
        project: job.as_ref().and_then(|job| job.spec.project.clone()),
        placement: runner.placement.clone(),
        since: runner.created_at,
        ends_by,
    }
}

/// When a runner is told to stop at the latest. What is still starting has no such time: how long an image is fetched is not known.
fn ends_by(aggregate: &Aggregate, deadlines: &Deadlines) -> Option<Timestamp> {
    let Aggregate { runner, job } = aggregate;
    match runner.state {
        RunnerState::Starting { .. } | RunnerState::Idle => None,
        RunnerState::Busy => {
            let job = job.as_ref()?;
            job.attempt.as_ref()?.started_at?.checked_add(time_limit(job, deadlines)).ok()
        }
        RunnerState::Stopping { .. } | RunnerState::Lost { .. } | RunnerState::Gone { .. } => runner.state_since.checked_add(deadlines.leave).ok(),
    }
}

/// Of a job that has a runner.
async fn under_way(store: &dyn Store, circumstances: Circumstances<'_>, job: &Job) -> Result<Standing, StoreError> {
    let attempt = job.attempt.as_ref();
    let aggregate = match attempt {
        Some(attempt) => store.runner(&attempt.runner).await?,
        None => None,
    };
    if let Some(reason) = aggregate.as_ref().and_then(|aggregate| aggregate.runner.state.reason()) {
        return Ok(Standing::Ending(reason));
    }
    let started = attempt.and_then(|attempt| attempt.started_at);
    if let (JobState::Running, Some(since)) = (&job.state, started) {
        return Ok(Standing::Running { since, timeout: job.spec.timeout });
    }
    let latest = store.latest_event(&job.id).await?.map(|event| event.kind);
    let broker = circumstances.status.broker.is_some() || job.is_command();
    let (since, preparing) = match &aggregate {
        Some(Aggregate { runner, .. }) => (runner.created_at, preparing(runner, job, latest)),
        None => (job.created_at, Preparing::Image),
    };
    let preparing = if broker || preparing == Preparing::Runner { preparing } else { Preparing::Broker };
    Ok(Standing::Starting {
        since,
        host: circumstances.facts().id.clone(),
        readiness: circumstances.readiness(&job.spec.requirement.class),
        preparing,
    })
}

fn preparing(runner: &Runner, job: &Job, latest: Option<EventKind>) -> Preparing {
    match (&runner.state, latest) {
        (RunnerState::Starting { start_sent: None }, Some(EventKind::ImagePull { progress })) => Preparing::Pull(progress),
        (RunnerState::Starting { start_sent: None }, Some(EventKind::ImageReady { .. })) => Preparing::Container,
        (RunnerState::Starting { start_sent: None }, _) if runner.container.is_none() => Preparing::Image,
        (RunnerState::Starting { start_sent: Some(_) }, Some(EventKind::ContainerStarted)) if !job.is_command() => Preparing::Runner,
        (RunnerState::Starting { .. }, _) => Preparing::Start,
        (RunnerState::Idle | RunnerState::Busy | RunnerState::Stopping { .. } | RunnerState::Lost { .. } | RunnerState::Gone { .. }, _) => {
            Preparing::Runner
        }
    }
}

#[cfg(test)]
#[path = "explain_tests.rs"]
mod tests;
