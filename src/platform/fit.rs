//! Whether a requirement fits a machine, and if not, exactly why not. Pure functions over facts and reservations.
//!
//! The scheduler, `explain` and the refusal of jobs that can never run all ask here, so they can never disagree.

mod nearest;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::OnceLock;

use super::choose::Chart;
use super::share::Shares;
use crate::domain::{
    Arch, ClassName, CpuMillis, Emulation, Gpu, GpuHealth, GpuId, GpuRequest, GpuVendor, HostFacts, MemoryBytes, Placement, Requirement, Sharing,
};

/// Whether waiting can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ever {
    /// It fits when others have ended.
    Later,
    /// This machine, as it is, never fits.
    Never,
}

/// One thing that is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unfit {
    /// The machine has another architecture.
    Arch {
        /// Asked for.
        wanted: Arch,
        /// The machine's; `None` for one that we do not schedule for.
        host: Option<Arch>,
        /// Whether the machine could emulate it, which the job does not allow.
        emulates: bool,
    },
    /// Too little processor time.
    Cpus {
        /// Asked for.
        wanted: CpuMillis,
        /// Not reserved.
        free: CpuMillis,
        /// All that jobs may use.
        total: CpuMillis,
    },
    /// Too little memory.
    Memory {
        /// Asked for.
        wanted: MemoryBytes,
        /// Not reserved.
        free: MemoryBytes,
        /// All that jobs may use.
        total: MemoryBytes,
    },
    /// Too few GPUs of the kind.
    Gpus {
        /// What was asked for.
        wanted: GpuRequest,
        /// GPUs of the kind that are healthy and not taken.
        free: usize,
        /// GPUs of the kind, healthy or not, taken or not.
        total: usize,
        /// What the machine has that comes nearest, in words.
        nearest: String,
    },
    /// The engine does not know the runtime.
    Runtime {
        /// Asked for.
        wanted: String,
        /// Those it knows.
        known: Vec<String>,
    },
    /// The class runs as many as it may.
    ClassFull {
        /// The class.
        class: ClassName,
        /// Its `max_runners`.
        limit: u32,
    },
}

impl Unfit {
    /// Whether waiting can help.
    #[must_use]
    pub fn ever(&self) -> Ever {
        let possible = match self {
            Self::Arch { .. } | Self::Runtime { .. } => false,
            Self::Cpus { wanted, total, .. } => wanted <= total,
            Self::Memory { wanted, total, .. } => wanted <= total,
            Self::Gpus { wanted, total, .. } => usize::try_from(wanted.count).is_ok_and(|count| count <= *total),
            Self::ClassFull { limit, .. } => *limit > 0,
        };
        if possible { Ever::Later } else { Ever::Never }
    }

    /// Every field that can be named.
    pub const FIELDS: [&'static str; 5] = ["arch", "cpus", "memory", "gpus", "class"];

    /// The request's field that asks for what is missing: one of [`Self::FIELDS`].
    #[must_use]
    pub fn field(&self) -> &'static str {
        match self {
            Self::Arch { .. } => "arch",
            Self::Cpus { .. } => "cpus",
            Self::Memory { .. } => "memory",
            Self::Gpus { .. } => "gpus",
            Self::Runtime { .. } | Self::ClassFull { .. } => "class",
        }
    }
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let never = self.ever() == Ever::Never;
        match self {
            Self::Arch { wanted, host: Some(host), emulates: false } => write!(f, "needs {wanted}, this machine is {host}"),
            Self::Arch { wanted, host: Some(host), emulates: true } => {
                write!(f, "needs {wanted}, this machine is {host} and would emulate it, which neither the job nor its class allows")
            }
            Self::Arch { wanted, host: None, .. } => write!(f, "needs {wanted}, this machine is none of amd64, arm64, riscv64"),
            Self::Cpus { wanted, total, .. } if never => write!(f, "needs {}, this machine has {total} for jobs", cpus(*wanted)),
            Self::Memory { wanted, total, .. } if never => write!(f, "needs {wanted} of memory, this machine has {total} for jobs"),
            Self::Cpus { wanted, free, total } => write!(f, "needs {}, {free} of {total} are free", cpus(*wanted)),
            Self::Memory { wanted, free, total } => write!(f, "needs {wanted} of memory, {free} of {total} are free"),
            Self::Gpus { wanted, free, total, nearest } => {
                if let Some(share) = wanted.share {
                    let needs = format!("needs {share} of {}", gpus(1, wanted.vendor));
                    return match never {
                        true => write!(f, "{needs}, {nearest}"),
                        false if nearest.is_empty() => write!(f, "{needs}, none of the {total} such is free"),
                        false => write!(f, "{needs}, {nearest} of the {total} such"),
                    };
                }
                let least = wanted.min_memory.map_or(String::new(), |least| format!(" of {least} or more"));
                let needs = format!("needs {}{least}", gpus(wanted.count, wanted.vendor));
                match never {
                    true if nearest.is_empty() => write!(f, "{needs}, this machine has {total} such"),
                    true => write!(f, "{needs}, {nearest}"),
                    false => write!(f, "{needs}, {free} of {total} such are free"),
                }
            }
            Self::Runtime { wanted, known } => write!(f, "needs the runtime {wanted}, the engine has {}", known.join(", ")),
            Self::ClassFull { class, limit } => write!(f, "class {class} runs its most of {limit} runners"),
        }
    }
}

fn cpus(amount: CpuMillis) -> String {
    format!("{amount} {}", if amount.0 == 1000 { "CPU" } else { "CPUs" })
}

/// So many GPUs, in words: `1 nvidia GPU`, `2 GPUs of one vendor`.
fn gpus(count: u32, vendor: Option<GpuVendor>) -> String {
    match (count, vendor) {
        (1, Some(vendor)) => format!("1 {vendor} GPU"),
        (1, None) => "1 GPU".to_owned(),
        (_, Some(vendor)) => format!("{count} {vendor} GPUs"),
        (_, None) => format!("{count} GPUs of one vendor"),
    }
}

/// A machine and what is reserved on it.
#[derive(Debug, Clone)]
pub struct Ledger<'a> {
    facts: &'a HostFacts,
    cpus: CpuMillis,
    memory: MemoryBytes,
    taken: HashSet<GpuId>,
    shares: Shares,
    runners: HashMap<ClassName, u32>,
    /// Made when it is first needed: most machines have no GPU, and most choices are of one ledger.
    chart: OnceLock<Chart<'a>>,
}

impl<'a> Ledger<'a> {
    /// The ledger of a machine on which the given runners hold what they were given.
    pub fn new<'r>(facts: &'a HostFacts, open: impl IntoIterator<Item = (&'r ClassName, &'r Placement)>) -> Self {
        let mut ledger = Self {
            facts,
            cpus: CpuMillis(0),
            memory: MemoryBytes(0),
            taken: HashSet::new(),
            shares: Shares::default(),
            runners: HashMap::new(),
            chart: OnceLock::new(),
        };
        for (class, placement) in open {
            ledger.reserve(class, placement);
        }
        ledger
    }

    /// Takes what a runner was given.
    pub fn reserve(&mut self, class: &ClassName, placement: &Placement) {
        self.cpus = CpuMillis(self.cpus.0.saturating_add(placement.cpus.0));
        self.memory = MemoryBytes(self.memory.0.saturating_add(placement.memory.0));
        match placement.share {
            Some(share) => placement.devices.iter().for_each(|gpu| self.shares.add(gpu, share)),
            None => self.taken.extend(placement.devices.iter().cloned()),
        }
        *self.runners.entry(class.clone()).or_default() += 1;
    }

    /// Takes GPUs that something else still holds, such as a container that is about to be removed.
    pub fn hold(&mut self, gpus: &[GpuId]) {
        self.taken.extend(gpus.iter().cloned());
    }

    /// Keeps what is free of the wanted GPUs, so that a request for several finds them together one day: nobody else is given them while
    /// this ledger lives. Tells how many; `None` where too few of the kind are healthy and not among `kept_long`, which nobody gives back soon.
    ///
    /// Where several vendors' would do, it keeps those of which there are most, free or not: were it those of which most are free, it would go
    /// to and fro between vendors, and give away what it kept.
    pub fn hold_back(&mut self, request: &GpuRequest, kept_long: &[GpuId]) -> Option<usize> {
        let count = usize::try_from(request.count).unwrap_or(usize::MAX);
        let vendors = request.vendors().into_iter().rev().map(|vendor| (self.returning(vendor, request, kept_long), vendor));
        let (returning, vendor) = vendors.filter(|(there, _)| there.len() >= count).max_by_key(|(there, _)| there.len())?;
        if request.share.is_some() {
            // Always the same card: small shares would take each gap for ever.
            let card = returning.iter().map(|gpu| &gpu.id).min()?.clone();
            self.hold(&[card]);
            return Some(0);
        }
        let free = self.free_of_kind(vendor, request);
        let kept = count.min(free.len());
        let kept = self.chart().choose(&free, kept);
        self.hold(&kept);
        self.run_empty(returning, count - kept.len());
        Some(kept.len())
    }

    /// Those of a kind that somebody will give back.
    fn returning(&self, vendor: GpuVendor, request: &GpuRequest, kept_long: &[GpuId]) -> Vec<&'a Gpu> {
        let mut there = self.of_kind(vendor, request);
        there.retain(|gpu| gpu.health.is_sound() && !kept_long.contains(&gpu.id));
        there
    }

    /// Keeps so many of these cards, of which jobs have shares, from further ones, always the same: else they would never be free of shares
    /// at once.
    fn run_empty(&mut self, mut returning: Vec<&'a Gpu>, count: usize) {
        returning.retain(|gpu| !self.taken.contains(&gpu.id) && self.shares.of(&gpu.id).is_some());
        returning.sort_by_key(|gpu| &gpu.id);
        let ids: Vec<GpuId> = returning.into_iter().take(count).map(|gpu| gpu.id.clone()).collect();
        self.hold(&ids);
    }

    /// Whether smaller jobs could take what a request needs for ever: one for several GPUs, for a share, or for one GPU where all that would do
    /// are open for shares.
    #[must_use]
    pub fn may_starve(&self, request: &GpuRequest) -> bool {
        let sound = || self.facts.gpus.iter().filter(|gpu| gpu.is_for_jobs() && gpu.health.is_sound() && request.is_met_by(gpu));
        let all_open = || sound().next().is_some() && sound().all(|gpu| gpu.sharing == Sharing::Open);
        request.count > 1 || request.share.is_some() || all_open()
    }

    /// Processor time and memory that are reserved.
    #[must_use]
    pub fn used(&self) -> (CpuMillis, MemoryBytes) {
        (self.cpus, self.memory)
    }

    /// What the requirement would be given now, or everything that is missing. `max_runners` is its class's limit.
    ///
    /// # Errors
    /// Every reason why it does not fit, not only the first.
    pub fn fit(&self, requirement: &Requirement, max_runners: Option<u32>) -> Result<Placement, Vec<Unfit>> {
        let mut missing = Vec::new();
        self.check_arch_and_runtime(requirement, &mut missing);
        self.check_amounts(requirement, &mut missing);
        if let Some(limit) = max_runners
            && self.runners.get(&requirement.class).copied().unwrap_or(0) >= limit
        {
            missing.push(Unfit::ClassFull { class: requirement.class.clone(), limit });
        }
        let devices = match &requirement.gpus {
            None => Vec::new(),
            Some(request) => self.pick_gpus(request).unwrap_or_else(|unfit| {
                missing.push(*unfit);
                Vec::new()
            }),
        };
        if !missing.is_empty() {
            return Err(missing);
        }
        let share = requirement.gpus.as_ref().and_then(|gpus| gpus.share);
        Ok(Placement { cpus: requirement.cpus, memory: requirement.memory, devices, share, opened: None })
    }

    fn check_arch_and_runtime(&self, requirement: &Requirement, missing: &mut Vec<Unfit>) {
        if let Some(wanted) = requirement.arch.filter(|wanted| self.facts.arch != Some(*wanted)) {
            let emulates = self.facts.emulated.contains(&wanted);
            match requirement.emulation {
                Emulation::Allow if emulates => {}
                Emulation::Allow | Emulation::Deny => missing.push(Unfit::Arch { wanted, host: self.facts.arch, emulates }),
            }
        }
        if let Some(wanted) = &requirement.runtime
            && !self.facts.runtimes.is_empty()
            && !self.facts.runtimes.contains(wanted)
        {
            missing.push(Unfit::Runtime { wanted: wanted.clone(), known: self.facts.runtimes.clone() });
        }
    }

    fn check_amounts(&self, requirement: &Requirement, missing: &mut Vec<Unfit>) {
        let free = CpuMillis(self.facts.cpus.0.saturating_sub(self.cpus.0));
        if requirement.cpus > free {
            missing.push(Unfit::Cpus { wanted: requirement.cpus, free, total: self.facts.cpus });
        }
        let free = MemoryBytes(self.facts.memory.0.saturating_sub(self.memory.0));
        if requirement.memory > free {
            missing.push(Unfit::Memory { wanted: requirement.memory, free, total: self.facts.memory });
        }
    }

    fn chart(&self) -> &Chart<'a> {
        self.chart.get_or_init(|| Chart::new(&self.facts.gpus))
    }

    /// All of one vendor; [`Chart::choose`] says which.
    fn pick_gpus(&self, request: &GpuRequest) -> Result<Vec<GpuId>, Box<Unfit>> {
        let count = usize::try_from(request.count).unwrap_or(usize::MAX);
        let mut best = (0, 0);
        for vendor in request.vendors() {
            let free = self.free_of_kind(vendor, request);
            if let (Some(_), Some(card)) = (request.share, self.shares.best(&free)) {
                return Ok(vec![card.id.clone()]);
            }
            if free.len() >= count {
                return Ok(self.chart().choose(&free, count));
            }
            best = best.max((self.of_kind(vendor, request).len(), free.len()));
        }
        Err(Box::new(Unfit::Gpus { wanted: request.clone(), free: best.1, total: best.0, nearest: self.nearest(request) }))
    }

    fn of_kind(&self, vendor: GpuVendor, request: &GpuRequest) -> Vec<&'a Gpu> {
        self.facts.gpus.iter().filter(|gpu| gpu.vendor == vendor && gpu.is_for_jobs() && request.is_met_by(gpu)).collect()
    }

    fn free_of_kind(&self, vendor: GpuVendor, request: &GpuRequest) -> Vec<&'a Gpu> {
        let mut free = self.of_kind(vendor, request);
        let has_room = |gpu: &Gpu| match request.share {
            Some(share) => self.shares.left(gpu) >= share,
            None => self.shares.of(&gpu.id).is_none(),
        };
        free.retain(|gpu| gpu.health == GpuHealth::Healthy && !self.taken.contains(&gpu.id) && has_room(gpu));
        free
    }
}

/// Why a GPU is given to nobody.
pub(super) fn unusable(gpu: &Gpu) -> Option<&str> {
    gpu.health.reason()
}

/// Whether the machine could run the requirement if nothing else ran.
///
/// # Errors
/// Every reason that waiting cannot cure.
pub fn fits_ever(facts: &HostFacts, requirement: &Requirement, max_runners: Option<u32>) -> Result<(), Vec<Unfit>> {
    let Err(missing) = Ledger::new(facts, []).fit(requirement, max_runners) else { return Ok(()) };
    let never: Vec<Unfit> = missing.into_iter().filter(|unfit| unfit.ever() == Ever::Never).collect();
    if never.is_empty() { Ok(()) } else { Err(never) }
}

#[cfg(test)]
#[path = "fit_tests.rs"]
mod tests;
