//! Which jobs get the free room, as pure functions over the ledger and what waits: what fits, and whose turn it is when a job waited too long
//! for several GPUs. [`super::plan`] carries it out; the model test beside this file does the same with a made-up machine.

use std::time::Duration;

use jiff::Timestamp;

use crate::domain::clock::has_passed;
use crate::domain::{ClassName, GpuId, Placement};
use crate::platform::{Ever, Ledger, Unfit};
use crate::store::Waiting;

/// What turns are decided by.
pub(super) struct Rules<'a> {
    /// A class's most runners at once.
    pub(super) limit: &'a (dyn Fn(&ClassName) -> Option<u32> + Sync),
    /// A job that waited so long for several GPUs has its turn.
    pub(super) hold_after: Duration,
    /// GPUs of runners that wait for work: they have no end that could be waited for.
    pub(super) kept_long: &'a [GpuId],
}

/// Whose turn it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn<'w> {
    /// Nobody's: the queue's order decides.
    Nobody,
    /// This one goes before all others, for it fits at last.
    First(&'w Waiting),
    /// What is free of its GPUs is held back for this one.
    HeldBack(&'w Waiting),
}

/// Finds the job that waited longest, and too long, for several GPUs and for nothing else, and sees to it that it gets them: smaller ones would
/// take each that becomes free for ever, and those of higher priority all of them. One at a time, so that two do not each hold half of
/// what both need; one whose GPUs no end will free is passed over.
pub(super) fn turn<'w>(ledger: &mut Ledger<'_>, waiting: &'w [Waiting], rules: &Rules<'_>, now: Timestamp) -> Turn<'w> {
    let mut long: Vec<&Waiting> = waiting.iter().filter(|waiting| has_passed(waiting.since, rules.hold_after, now)).collect();
    long.sort_by_key(|waiting| waiting.since);
    for waiting in long {
        let Some(request) = waiting.requirement.gpus.as_ref().filter(|request| ledger.may_starve(request)) else { continue };
        match ledger.fit(&waiting.requirement, (rules.limit)(&waiting.requirement.class)) {
            Ok(_) => return Turn::First(waiting),
            Err(missing) if lacks_gpus_only(&missing) && ledger.hold_back(request, rules.kept_long).is_some() => return Turn::HeldBack(waiting),
            Err(_) => {}
        }
    }
    Turn::Nobody
}

fn lacks_gpus_only(missing: &[Unfit]) -> bool {
    missing.iter().all(|unfit| matches!(unfit, Unfit::Gpus { .. }) && unfit.ever() == Ever::Later)
}

/// What of all that waits fits now, and what it would be given. A class that was taken out of the configuration still has its jobs claimed, so
/// that they end with that reason.
pub(super) fn fitting<'w>(ledger: &Ledger<'_>, waiting: &'w [Waiting], rules: &Rules<'_>) -> Vec<(&'w Waiting, Placement)> {
    let fit = |waiting: &'w Waiting| Some((waiting, ledger.fit(&waiting.requirement, (rules.limit)(&waiting.requirement.class)).ok()?));
    waiting.iter().filter_map(fit).collect()
}

#[cfg(test)]
#[path = "turn_fixture.rs"]
mod fixture;
#[cfg(test)]
#[path = "turn_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "turn_store_tests.rs"]
mod store_tests;
