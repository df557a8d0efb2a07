//! Why a job waits, machine by machine: what is missing, who holds it, and when it is free at the latest. Pure.
//!
//! Whether something fits is asked of the [`Ledger`] and of nobody else, so an explanation cannot contradict the scheduler; the refusal
//! of jobs that can never run reads the same [`HostReport`].

mod words;

use std::cmp::Reverse;
use std::time::Duration;

use jiff::Timestamp;

use super::fit::{Ever, Ledger, Unfit, fits_ever, unusable};
use crate::domain::{CapReached, ClassName, Drain, GpuId, HostFacts, HostId, JobId, Outcome, Placement, ProjectName, Requirement, RunnerId};

/// Most holders that are named for one thing that is missing.
pub const MOST_HOLDERS: usize = 16;

/// A runner that holds a share of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenant {
    /// The runner.
    pub runner: RunnerId,
    /// Its class.
    pub class: ClassName,
    /// Its job, if it has one.
    pub job: Option<JobId>,
    /// On whose behalf the job runs.
    pub project: Option<ProjectName>,
    /// What it holds.
    pub placement: Placement,
    /// Since when.
    pub since: Timestamp,
    /// When it is gone at the latest by the timeouts; `None` when none bounds it.
    pub ends_by: Option<Timestamp>,
}

/// Whether a machine takes work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// It does.
    Ready,
    /// Its engine was not asked yet, so what is known of the machine may be wrong.
    Unasked,
    /// Its engine does not answer.
    EngineDown {
        /// What it or the socket said.
        error: String,
        /// Since when.
        since: Timestamp,
    },
    /// Its coordinator is about to end.
    Stopping,
    /// It is to get empty, and something runs on it still.
    Draining(Drain),
    /// It is to get empty, and is.
    Drained(Drain),
    /// One of its disks is nearly full: which, in words.
    DiskFull(String),
    /// A file system does not answer, since then.
    DiskUnresponsive(Timestamp),
    /// The job's network is nothing without rules of the firewall, and they are not in force.
    Unguarded {
        /// Why, with what to do.
        why: String,
        /// Since when.
        since: Timestamp,
    },
}

impl Readiness {
    /// Every name in answers.
    pub const NAMES: [&'static str; 9] =
        ["ready", "starting", "engine_down", "stopping", "draining", "drained", "disk_full", "disk_unresponsive", "network_unguarded"];

    /// The name in answers.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Unasked => "starting",
            Self::EngineDown { .. } => "engine_down",
            Self::Stopping => "stopping",
            Self::Draining(_) => "draining",
            Self::Drained(_) => "drained",
            Self::DiskFull(_) => "disk_full",
            Self::DiskUnresponsive(_) => "disk_unresponsive",
            Self::Unguarded { .. } => "network_unguarded",
        }
    }
}

/// A machine at one moment.
#[derive(Debug, Clone)]
pub struct Machine<'a> {
    /// What it is made of.
    pub facts: &'a HostFacts,
    /// Every runner that is not gone.
    pub tenants: &'a [Tenant],
    /// Whether it takes work.
    pub readiness: Readiness,
}

/// What somebody wants of a machine.
#[derive(Debug, Clone, Copy)]
pub struct Wish<'a> {
    /// The requirement.
    pub requirement: &'a Requirement,
    /// Its class's `max_runners`.
    pub limit: Option<u32>,
}

/// Whether there is room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fits {
    /// There is.
    Now,
    /// There may be when others have ended.
    Later,
    /// There never is on this machine as it is.
    Never,
}

/// One thing that is missing and who holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// What.
    pub unfit: Unfit,
    /// Who holds some of it, those first that are gone first by their timeouts, at most [`MOST_HOLDERS`].
    pub holders: Vec<Tenant>,
    /// Holders beyond those.
    pub more_holders: usize,
    /// GPUs that would do but are given to nobody, and why.
    pub unusable: Vec<(GpuId, String)>,
}

/// What a machine has to say to a wish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostReport {
    /// The machine.
    pub host: HostId,
    /// Whether it takes work.
    pub readiness: Readiness,
    /// Whether there is room; says nothing about readiness.
    pub fits: Fits,
    /// Everything that is missing; empty exactly when it fits now.
    pub missing: Vec<Missing>,
    /// When there is room if all that run now run until their timeouts and nothing else takes it; `None` when no timeout tells.
    pub room_by: Option<Timestamp>,
}

impl HostReport {
    /// What waiting cannot cure.
    pub fn never(&self) -> impl Iterator<Item = &Unfit> {
        self.missing.iter().map(|missing| &missing.unfit).filter(|unfit| unfit.ever() == Ever::Never)
    }
}

/// Asks a machine about a wish.
#[must_use]
pub fn examine(machine: &Machine<'_>, wish: Wish<'_>) -> HostReport {
    let Machine { facts, tenants, readiness } = machine;
    let mut tenants: Vec<&Tenant> = tenants.iter().collect();
    tenants.sort_by_key(|tenant| (tenant.ends_by.is_none(), tenant.ends_by, tenant.since, Reverse(&tenant.runner)));
    let unfit = fit(facts, &tenants, wish).err().unwrap_or_default();
    let fits = match unfit.iter().map(Unfit::ever).find(|ever| *ever == Ever::Never) {
        Some(_) => Fits::Never,
        None if unfit.is_empty() => Fits::Now,
        None => Fits::Later,
    };
    let room_by = if fits == Fits::Later { room_by(facts, &tenants, wish) } else { None };
    let missing = unfit.into_iter().map(|unfit| missing(facts, &tenants, unfit)).collect();
    HostReport { host: facts.id.clone(), readiness: readiness.clone(), fits, missing, room_by }
}

fn fit(facts: &HostFacts, tenants: &[&Tenant], wish: Wish<'_>) -> Result<Placement, Vec<Unfit>> {
    Ledger::new(facts, tenants.iter().map(|tenant| (&tenant.class, &tenant.placement))).fit(wish.requirement, wish.limit)
}

/// The end of the tenant with which there is room. The more are gone, the more fits, so it can be searched for by halves.
fn room_by(facts: &HostFacts, by_end: &[&Tenant], wish: Wish<'_>) -> Option<Timestamp> {
    let bounded = by_end.partition_point(|tenant| tenant.ends_by.is_some());
    let gone: Vec<usize> = (1..=bounded).collect();
    let last = gone.partition_point(|gone| fit(facts, &by_end[*gone..], wish).is_err());
    by_end[..bounded].get(last)?.ends_by
}

fn missing(facts: &HostFacts, by_end: &[&Tenant], unfit: Unfit) -> Missing {
    let gpus = match &unfit {
        Unfit::Gpus { wanted, .. } => facts.gpus.iter().filter(|gpu| wanted.is_met_by(gpu)).collect(),
        Unfit::Arch { .. } | Unfit::Cpus { .. } | Unfit::Memory { .. } | Unfit::Runtime { .. } | Unfit::ClassFull { .. } => Vec::new(),
    };
    let holds = |tenant: &Tenant| match &unfit {
        Unfit::Cpus { .. } => tenant.placement.cpus.0 > 0,
        Unfit::Memory { .. } => tenant.placement.memory.0 > 0,
        Unfit::Gpus { .. } => gpus.iter().any(|gpu| tenant.placement.devices.contains(&gpu.id)),
        Unfit::ClassFull { class, .. } => tenant.class == *class,
        Unfit::Arch { .. } | Unfit::Runtime { .. } => false,
    };
    // Whoever holds some of what is not enough anyway need not be waited for.
    let mut holders: Vec<Tenant> = match unfit.ever() {
        Ever::Later => by_end.iter().copied().filter(|tenant| holds(tenant)).cloned().collect(),
        Ever::Never => Vec::new(),
    };
    let more_holders = holders.len().saturating_sub(MOST_HOLDERS);
    holders.truncate(MOST_HOLDERS);
    let unusable = gpus.iter().filter_map(|gpu| Some((gpu.id.clone(), unusable(gpu)?.to_owned()))).collect();
    Missing { unfit, holders, more_holders, unusable }
}

/// Whether a waiting job with another wish, taken first, may take what a job with this one waits for. `report` is the machine's answer to `mine`.
#[must_use]
pub fn competes(facts: &HostFacts, mine: Wish<'_>, report: &HostReport, other: Wish<'_>) -> bool {
    if report.fits == Fits::Never || fits_ever(facts, other.requirement, other.limit).is_err() {
        return false;
    }
    let takes = |unfit: &Unfit| match unfit {
        // Every job takes some of both.
        Unfit::Cpus { .. } | Unfit::Memory { .. } => true,
        Unfit::Gpus { wanted, .. } => {
            let other = other.requirement.gpus.as_ref();
            other.is_some_and(|other| facts.gpus.iter().any(|gpu| wanted.is_met_by(gpu) && other.is_met_by(gpu)))
        }
        Unfit::ClassFull { .. } => other.requirement.class == mine.requirement.class,
        Unfit::Arch { .. } | Unfit::Runtime { .. } => false,
    };
    report.fits == Fits::Now || report.missing.iter().any(|missing| takes(&missing.unfit))
}

/// How many of the waiting jobs that [compete](competes) are taken first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ahead {
    /// So many.
    Exactly(u32),
    /// More than so many: they were not counted to the end.
    MoreThan(u32),
}

/// What a job that was claimed has not got to yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Preparing {
    /// Its image is looked for.
    Image,
    /// Its image is being fetched; the engine's own words about how far that is.
    Pull(String),
    /// Its container is being made.
    Container,
    /// Its container is being started.
    Start,
    /// Its runner's container is up, and the runner has not asked for the job yet.
    Runner,
    /// The address at which the runner reaches the coordinator is not open yet.
    Broker,
}

/// Where a job stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It waits and may start.
    Waiting,
    /// It waits, and a runner of its class that has no work takes it at once.
    Handover(RunnerId),
    /// It waits to be tried again, not before the given time.
    BackOff(Timestamp),
    /// It was claimed.
    Starting {
        /// When.
        since: Timestamp,
        /// The machine.
        host: HostId,
        /// How that machine is.
        readiness: Readiness,
        /// What it has not got to yet.
        preparing: Preparing,
    },
    /// It runs.
    Running {
        /// Since when.
        since: Timestamp,
        /// Longest that it may.
        timeout: Duration,
    },
    /// It runs or starts, and is being ended.
    Ending(crate::domain::EndReason),
    /// It has ended.
    Ended {
        /// When.
        at: Timestamp,
        /// How.
        outcome: Outcome,
    },
}

/// Why a job is where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// Where it stands.
    pub standing: Standing,
    /// While it waits: how many are taken first.
    pub ahead: Option<Ahead>,
    /// While it waits: the limit of its project that keeps it from starting, room or not.
    pub capped: Option<CapReached>,
    /// While it waits: what each machine lacks.
    pub hosts: Vec<HostReport>,
    /// Whether any machine could ever run it; `None` while not known.
    pub ever: Option<Ever>,
    /// When it starts at the latest if all that run now run until their timeouts and nothing new goes before it. `None` when that is
    /// not known: a holder has no timeout, or others are taken first, whose start nobody knows.
    pub estimated_start: Option<Timestamp>,
}

impl Explanation {
    /// Of a job that waits.
    #[must_use]
    pub fn waiting(standing: Standing, hosts: Vec<HostReport>, ahead: Ahead, now: Timestamp) -> Self {
        let not_before = if let Standing::BackOff(until) = standing { now.max(until) } else { now };
        let room = |host: &HostReport| match host.fits {
            Fits::Now => Some(now),
            Fits::Later => host.room_by,
            Fits::Never => None,
        };
        let ready = || hosts.iter().filter(|host| host.readiness == Readiness::Ready);
        let room = match (&standing, ahead) {
            (Standing::Handover(_), _) => Some(now),
            (_, Ahead::Exactly(0)) => ready().filter_map(room).min(),
            (_, Ahead::Exactly(_) | Ahead::MoreThan(_)) => None,
        };
        let estimated_start = room.map(|at| at.max(not_before));
        Self { ever: ever(&hosts), standing, ahead: Some(ahead), capped: None, hosts, estimated_start }
    }

    /// The same of a job that its project's limits may keep from starting; until when is not known.
    #[must_use]
    pub fn capped_by(self, capped: Option<CapReached>) -> Self {
        Self { estimated_start: self.estimated_start.filter(|_| capped.is_none()), capped, ..self }
    }

    /// Of a job that does not wait.
    #[must_use]
    pub fn settled(standing: Standing) -> Self {
        Self { standing, ahead: None, capped: None, hosts: Vec::new(), ever: None, estimated_start: None }
    }
}

/// Whether any of the machines could; what the kernel alone says of one counts neither way.
fn ever(hosts: &[HostReport]) -> Option<Ever> {
    let known = || hosts.iter().filter(|host| host.readiness != Readiness::Unasked);
    match known().any(|host| host.fits != Fits::Never) {
        true => Some(Ever::Later),
        false if known().count() == hosts.len() => Some(Ever::Never),
        false => None,
    }
}

#[cfg(test)]
#[path = "explain_tests.rs"]
mod tests;
