//! Which GPUs are kept from jobs although they answer: those whose job has just ended, until they are found as before, and those in
//! quarantine. Decides over readings and times that are given; looks at nothing itself.
//!
//! ```text
//!            a container holds it           none does any more
//!   idle ───────────────────────▶ in use ─────────────────────▶ checking ──▶ idle, as it was before
//!                                                                        └─▶ idle and in quarantine: tested again and again, by health
//! ```
//!
//! A fault of the card itself puts it into quarantine at any time; the job on it goes on.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;
use std::hash::BuildHasher;
use std::time::Duration;

use jiff::Timestamp;

use crate::domain::clock::has_passed;
use crate::domain::retry::doubled;
use crate::domain::{Baseline, Gpu, GpuHealth, GpuId, GpuRecord, GpuRole, GpuUse, GpuVitals, Quarantine, QuarantinedBy, Verdict};

/// How long a GPU may take to become as it was: drivers free memory late.
pub const GRACE: Duration = Duration::from_secs(5);
/// Time between two looks at a GPU that has not become as it was yet.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Wait before a GPU in quarantine is tested again, where the settings say nothing; it doubles each time.
pub const RECHECK_AFTER: Duration = Duration::from_secs(30);
/// Longest such wait.
pub const RECHECK_AFTER_MAX: Duration = Duration::from_secs(30 * 60);
/// How long a GPU that is no longer there is remembered, unless a person put it into quarantine.
const ABSENT: Duration = Duration::from_secs(24 * 3600);

/// Something that was found out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// A GPU is as it was before its job.
    Clean(GpuId),
    /// A GPU went into quarantine.
    Bad(GpuId, Quarantine),
    /// A GPU in quarantine was tested and stays there.
    StillBad(GpuId, Quarantine),
    /// A GPU came out of quarantine.
    Good(GpuId),
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Clean(gpu) => write!(f, "GPU {gpu} is as it was before its job"),
            Self::Bad(gpu, why) => write!(f, "GPU {gpu} is given to nobody, {why}"),
            Self::StillBad(gpu, why) => write!(f, "GPU {gpu} stays {why}"),
            Self::Good(gpu) => write!(f, "GPU {gpu} was tested, is good and comes out of quarantine"),
        }
    }
}

/// A GPU as a look found it.
#[derive(Debug, Clone, Copy)]
pub struct Reading<'a> {
    /// The GPU.
    pub gpu: &'a Gpu,
    /// What it is doing; `None` when its driver did not tell.
    pub vitals: Option<&'a GpuVitals>,
    /// When the look began: what was told is not older.
    pub asked_at: Timestamp,
}

#[derive(Debug, Clone)]
struct Entry {
    usage: GpuUse,
    /// Since when it is in that use, or was taken note of.
    since: Timestamp,
    baseline: Baseline,
    failures: u32,
    quarantine: Option<Quarantine>,
    /// Faults of the card that were taken note of.
    faults: u64,
}

impl Entry {
    fn new(usage: GpuUse, since: Timestamp) -> Self {
        Self { usage, since, baseline: Baseline::default(), failures: 0, quarantine: None, faults: 0 }
    }

    fn turn(&mut self, usage: GpuUse, now: Timestamp) {
        (self.usage, self.since) = (usage, now);
    }

    fn is_by(&self, by: QuarantinedBy) -> bool {
        self.quarantine.as_ref().is_some_and(|quarantine| quarantine.by == by)
    }
}

/// Keeps what is known of every GPU between looks.
#[derive(Debug)]
pub struct Ward {
    entries: BTreeMap<GpuId, Entry>,
    /// What the store has.
    stored: BTreeMap<GpuId, GpuRecord>,
    recheck_after: Duration,
}

impl Default for Ward {
    fn default() -> Self {
        Self::new(RECHECK_AFTER)
    }
}

impl Ward {
    /// Knows nothing yet. `recheck_after` is the first wait before a GPU in quarantine is tested again.
    #[must_use]
    pub fn new(recheck_after: Duration) -> Self {
        Self { entries: BTreeMap::new(), stored: BTreeMap::new(), recheck_after }
    }

    /// Takes over what was remembered. A GPU whose job ended while nobody looked is checked as if it had ended now.
    pub fn recall(&mut self, records: Vec<GpuRecord>, now: Timestamp) {
        for record in records {
            let GpuRecord { gpu, usage, baseline, failures, quarantine } = record.clone();
            self.entries.insert(gpu.clone(), Entry { baseline, failures, quarantine, ..Entry::new(usage, now) });
            self.stored.insert(gpu, record);
        }
    }

    /// Notes which GPUs containers hold, all of them; those that one held and none holds any more have to be checked. Tells whether there are such.
    pub fn hold(&mut self, held: &HashSet<GpuId, impl BuildHasher>, now: Timestamp) -> bool {
        self.take(held, now);
        let mut ended = false;
        for (_, entry) in self.entries.iter_mut().filter(|(gpu, entry)| entry.usage == GpuUse::InUse && !held.contains(*gpu)) {
            entry.turn(GpuUse::Checking, now);
            ended = true;
        }
        ended
    }

    /// Notes that containers are about to hold these GPUs too.
    pub fn take<'g>(&mut self, gpus: impl IntoIterator<Item = &'g GpuId>, now: Timestamp) {
        for gpu in gpus {
            let entry = self.entries.entry(gpu.clone()).or_insert_with(|| Entry::new(GpuUse::InUse, now));
            if entry.usage != GpuUse::InUse {
                entry.turn(GpuUse::InUse, now);
            }
        }
    }

    /// Takes what a round of looks found of all GPUs.
    pub fn examine<'a>(&mut self, readings: impl IntoIterator<Item = Reading<'a>>, now: Timestamp) -> Vec<Finding> {
        self.turn_back(now);
        let mut present = BTreeSet::new();
        let mut findings = Vec::new();
        for reading in readings {
            present.insert(reading.gpu.id.clone());
            if !matches!(reading.gpu.role, GpuRole::Unused(_)) {
                findings.extend(self.see(reading, now));
            }
        }
        self.entries.retain(|gpu, entry| present.contains(gpu) || !is_forgotten(entry, now));
        let absent = self.entries.iter_mut().filter(|(gpu, _)| !present.contains(*gpu));
        findings.extend(absent.filter_map(|(gpu, entry)| test_again(entry, gpu, None, self.recheck_after, now)));
        findings
    }

    /// After the clock was set back nothing has happened yet that happened, and what is due is far away: both begin anew now.
    fn turn_back(&mut self, now: Timestamp) {
        let furthest = now.checked_add(RECHECK_AFTER_MAX.max(self.recheck_after)).unwrap_or(Timestamp::MAX);
        for entry in self.entries.values_mut() {
            entry.since = entry.since.min(now);
            if let Some(quarantine) = &mut entry.quarantine {
                quarantine.next_check = quarantine.next_check.map(|at| if at > furthest { now } else { at });
            }
        }
    }

    fn see(&mut self, reading: Reading<'_>, now: Timestamp) -> Option<Finding> {
        let Reading { gpu, vitals, asked_at } = reading;
        let first = self.recheck_after;
        let entry = self.entries.entry(gpu.id.clone()).or_insert_with(|| Entry::new(GpuUse::Idle, asked_at));
        let sound = gpu.health == GpuHealth::Healthy;
        let faults = vitals.map_or(entry.faults, |vitals| vitals.faults.count);
        let fault = if faults > entry.faults { vitals.and_then(|vitals| vitals.faults.last.clone()) } else { None };
        entry.faults = faults;
        // What was asked while its job still ran tells nothing about afterwards, and a card that is lost tells nothing at all.
        let tells = asked_at >= entry.since && entry.usage != GpuUse::InUse && !matches!(gpu.health, GpuHealth::Lost(_));
        let verdict = vitals.filter(|_| tells).map(|vitals| entry.baseline.judge(vitals));
        let checked = if entry.usage == GpuUse::Checking { check(entry, verdict.as_ref(), asked_at, now) } else { None };
        let finding = match (fault, checked) {
            (Some(fault), _) => bad(entry, &gpu.id, fault, first, now),
            (None, Some(Verdict::Dirty(reason))) => bad(entry, &gpu.id, reason, first, now),
            (None, Some(Verdict::Clean | Verdict::Unreadable(_))) if entry.quarantine.is_none() => Some(Finding::Clean(gpu.id.clone())),
            (None, Some(Verdict::Clean | Verdict::Unreadable(_)) | None) => {
                test_again(entry, &gpu.id, verdict.filter(|verdict| sound || *verdict != Verdict::Clean), first, now)
            }
        };
        if let Some(vitals) = vitals
            && sound
            && entry.usage == GpuUse::Idle
            && entry.quarantine.is_none()
            && asked_at >= entry.since
        {
            entry.baseline.learn(vitals);
        }
        finding
    }

    /// Puts a GPU into quarantine by hand, also one that is in quarantine already.
    pub fn quarantine(&mut self, gpu: &GpuId, reason: &str, now: Timestamp) -> Quarantine {
        let entry = self.entries.entry(gpu.clone()).or_insert_with(|| Entry::new(GpuUse::Idle, now));
        let since = entry.quarantine.as_ref().map_or(now, |earlier| earlier.since);
        let quarantine = Quarantine { reason: reason.to_owned(), since, by: QuarantinedBy::Operator, next_check: None };
        entry.quarantine = Some(quarantine.clone());
        quarantine
    }

    /// Lets a GPU out of quarantine, whoever put it there; how it is now is how it has to be from now on. Tells what it was there for.
    pub fn release(&mut self, gpu: &GpuId, now: Timestamp) -> Option<Quarantine> {
        let entry = self.entries.get_mut(gpu)?;
        let quarantine = entry.quarantine.take()?;
        entry.failures = 0;
        if entry.usage != GpuUse::InUse {
            entry.baseline = Baseline::default();
            entry.turn(GpuUse::Idle, now);
        }
        Some(quarantine)
    }

    /// Whether a GPU may be given to a job, all in all. A part of a card in quarantine may not.
    #[must_use]
    pub fn health(&self, gpu: &Gpu) -> GpuHealth {
        if gpu.health != GpuHealth::Healthy {
            return gpu.health.clone();
        }
        let own = self.entries.get(&gpu.id);
        let card = gpu.card().and_then(|card| self.entries.get(card));
        let quarantine = |entry: Option<&Entry>| Some(GpuHealth::Quarantined(entry?.quarantine.as_ref()?.to_string()));
        match quarantine(own).or_else(|| quarantine(card)) {
            Some(health) => health,
            None if own.is_some_and(|entry| entry.usage == GpuUse::Checking) => GpuHealth::Checking,
            None => GpuHealth::Healthy,
        }
    }

    /// All that are in quarantine, also those that are not there at present.
    #[must_use]
    pub fn quarantines(&self) -> BTreeMap<GpuId, Quarantine> {
        self.entries.iter().filter_map(|(gpu, entry)| Some((gpu.clone(), entry.quarantine.clone()?))).collect()
    }

    /// In how long somebody should look, if before the next regular look.
    #[must_use]
    pub fn next_look(&self, now: Timestamp) -> Option<Duration> {
        let due = |entry: &Entry| match (entry.usage, &entry.quarantine) {
            (GpuUse::InUse, _) | (GpuUse::Idle, None) => None,
            (_, Some(quarantine)) => quarantine.next_check.map(|at| Duration::try_from(at.duration_since(now)).unwrap_or_default()),
            // Later than that it waits for a driver that does not answer.
            (GpuUse::Checking, None) => (!has_passed(entry.since, GRACE + LOOK_AGAIN, now)).then_some(Duration::ZERO),
        };
        self.entries.values().filter_map(due).min().map(|wait| wait.max(LOOK_AGAIN))
    }

    /// What the store has to be told: records to write, and GPUs to forget.
    #[must_use]
    pub fn unsaved(&self) -> (Vec<GpuRecord>, Vec<GpuId>) {
        let now: BTreeMap<&GpuId, GpuRecord> = self.entries.iter().filter_map(|(gpu, entry)| Some((gpu, record(gpu, entry)?))).collect();
        let forgotten = self.stored.keys().filter(|gpu| !now.contains_key(gpu)).cloned().collect();
        let changed = now.into_values().filter(|record| self.stored.get(&record.gpu) != Some(record));
        (changed.collect(), forgotten)
    }

    /// Notes that the store was told.
    pub fn saved(&mut self, records: Vec<GpuRecord>, forgotten: &[GpuId]) {
        self.stored.retain(|gpu, _| !forgotten.contains(gpu));
        self.stored.extend(records.into_iter().map(|record| (record.gpu.clone(), record)));
    }
}

/// Ends the check of a GPU after its job, when it can be ended: at once when it is as before, else when it had its time.
fn check(entry: &mut Entry, verdict: Option<&Verdict>, asked_at: Timestamp, now: Timestamp) -> Option<Verdict> {
    let verdict = verdict?;
    let had_its_time = has_passed(entry.since, GRACE, asked_at);
    match verdict {
        Verdict::Clean if entry.quarantine.is_none() => entry.failures = 0,
        // A person keeps it from jobs anyway, and what is wrong is not to be forgotten meanwhile.
        Verdict::Dirty(_) if !had_its_time || entry.is_by(QuarantinedBy::Operator) => return None,
        Verdict::Unreadable(_) if !had_its_time => return None,
        Verdict::Clean | Verdict::Dirty(_) | Verdict::Unreadable(_) => {}
    }
    entry.turn(GpuUse::Idle, now.min(asked_at));
    Some(verdict.clone())
}

/// Puts a GPU into quarantine, or keeps it there for one more reason. A person's quarantine stays that person's.
fn bad(entry: &mut Entry, gpu: &GpuId, reason: String, first: Duration, now: Timestamp) -> Option<Finding> {
    if entry.is_by(QuarantinedBy::Operator) {
        return None;
    }
    let since = entry.quarantine.as_ref().map_or(now, |earlier| earlier.since);
    let quarantine = Quarantine { reason, since, by: QuarantinedBy::Health, next_check: later(entry, first, now) };
    entry.quarantine = Some(quarantine.clone());
    Some(Finding::Bad(gpu.clone(), quarantine))
}

/// Tests a GPU in quarantine when that is due. No `verdict` is no test passed.
fn test_again(entry: &mut Entry, gpu: &GpuId, verdict: Option<Verdict>, first: Duration, now: Timestamp) -> Option<Finding> {
    let quarantine = entry.quarantine.clone().filter(|quarantine| quarantine.by == QuarantinedBy::Health)?;
    let due = quarantine.next_check.is_none_or(|at| at <= now);
    if !due || entry.usage == GpuUse::InUse {
        return None;
    }
    let reason = match verdict {
        Some(Verdict::Clean) => {
            entry.quarantine = None;
            return Some(Finding::Good(gpu.clone()));
        }
        Some(Verdict::Dirty(reason)) => reason,
        Some(Verdict::Unreadable(_)) | None => quarantine.reason,
    };
    let quarantine = Quarantine { reason, since: quarantine.since, by: QuarantinedBy::Health, next_check: later(entry, first, now) };
    entry.quarantine = Some(quarantine.clone());
    Some(Finding::StillBad(gpu.clone(), quarantine))
}

/// When it is tested next: one that keeps failing waits longer, also after it was good in between, until a job left it clean.
fn later(entry: &mut Entry, first: Duration, now: Timestamp) -> Option<Timestamp> {
    let wait = doubled(first, entry.failures, RECHECK_AFTER_MAX.max(first));
    entry.failures = entry.failures.saturating_add(1);
    now.checked_add(wait).ok()
}

fn is_forgotten(entry: &Entry, now: Timestamp) -> bool {
    match &entry.quarantine {
        Some(quarantine) => quarantine.by == QuarantinedBy::Health && has_passed(quarantine.since, ABSENT, now),
        None => match entry.usage {
            GpuUse::Idle => true,
            GpuUse::InUse => false,
            GpuUse::Checking => has_passed(entry.since, ABSENT, now),
        },
    }
}

/// What outlives the daemon; `None` when there is nothing to say.
fn record(gpu: &GpuId, entry: &Entry) -> Option<GpuRecord> {
    let plain = entry.usage == GpuUse::Idle && entry.quarantine.is_none() && entry.failures == 0;
    let record = || GpuRecord {
        gpu: gpu.clone(),
        usage: entry.usage,
        baseline: entry.baseline.clone(),
        failures: entry.failures,
        quarantine: entry.quarantine.clone(),
    };
    (!plain).then(record)
}

#[cfg(test)]
#[path = "ward_tests.rs"]
mod tests;
