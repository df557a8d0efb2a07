//! What a new look at the devices means for what was known. Pure functions.
//!
//! A card does not walk away: one that is no longer found stays known as lost until it is found again or the daemon is started anew,
//! so that an operator sees what is missing, and so that a job that holds it is not forgotten with it. A part of a card is
//! forgotten when it is gone, for cards are divided anew now and then, unless a job still holds it.

use std::collections::HashSet;
use std::fmt;
use std::hash::BuildHasher;

use super::Sight;
use crate::domain::{Gpu, GpuHealth, GpuId, GpuRole, GpuVendor};

/// Something that became different.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It was not known before.
    Appeared(Gpu),
    /// It is known no more.
    Vanished(Gpu),
    /// Whether it can be given to a job changed.
    Health {
        /// The device as it is now.
        gpu: Gpu,
        /// How it was.
        before: GpuHealth,
    },
    /// Something else about it changed, for example its driver.
    Facts(Gpu),
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Appeared(gpu) => match gpu.health.reason() {
                None => write!(f, "GPU {} is there", gpu.id),
                Some(reason) => write!(f, "GPU {} is there and cannot be used: {reason}", gpu.id),
            },
            Self::Vanished(gpu) => write!(f, "GPU {} is known no more", gpu.id),
            Self::Health { gpu, .. } => match &gpu.health {
                GpuHealth::Healthy => write!(f, "GPU {} can be used again", gpu.id),
                GpuHealth::Unhealthy(reason) | GpuHealth::Quarantined(reason) => write!(f, "GPU {} cannot be used: {reason}", gpu.id),
                GpuHealth::Checking => write!(f, "GPU {} is being checked", gpu.id),
                GpuHealth::Lost(reason) => write!(f, "GPU {} is lost: {reason}", gpu.id),
            },
            Self::Facts(gpu) => write!(f, "GPU {} is not as it was", gpu.id),
        }
    }
}

/// The devices of one vendor after a look, given those known before and those that jobs hold. No id is in it twice.
#[must_use]
pub fn merge(before: &[Gpu], vendor: GpuVendor, sight: &Sight, held: &HashSet<GpuId, impl BuildHasher>) -> Vec<Gpu> {
    let known = before.iter().filter(|gpu| gpu.vendor == vendor);
    let seen = match sight {
        Sight::Blind(reason) => return known.map(|gpu| lost(gpu, reason)).collect(),
        Sight::Seen(seen) => seen,
    };
    let mut ids = HashSet::new();
    let mut now: Vec<Gpu> = seen.iter().map(|one| &one.gpu).filter(|gpu| ids.insert(gpu.id.clone())).cloned().collect();
    let stays = |gpu: &&Gpu| match gpu.role {
        GpuRole::Card | GpuRole::Divided => true,
        GpuRole::Part { .. } | GpuRole::Unused(_) => held.contains(&gpu.id),
    };
    now.extend(known.filter(|gpu| !ids.contains(&gpu.id)).filter(stays).map(|gpu| lost(gpu, "it is no longer there")));
    now
}

/// A device that was lost before keeps its first reason: it tells more than the later ones.
fn lost(gpu: &Gpu, reason: &str) -> Gpu {
    match gpu.health {
        GpuHealth::Lost(_) => gpu.clone(),
        GpuHealth::Healthy | GpuHealth::Checking | GpuHealth::Unhealthy(_) | GpuHealth::Quarantined(_) => {
            Gpu { health: GpuHealth::Lost(reason.to_owned()), ..gpu.clone() }
        }
    }
}

/// What is different between two states of knowledge, in the order of the later one, what vanished last.
#[must_use]
pub fn changes(before: &[Gpu], after: &[Gpu]) -> Vec<Change> {
    let find = |all: &[Gpu], id: &GpuId| all.iter().find(|gpu| gpu.id == *id).cloned();
    let mut changes: Vec<Change> = after
        .iter()
        .filter_map(|gpu| match find(before, &gpu.id) {
            None => Some(Change::Appeared(gpu.clone())),
            Some(old) if old.health != gpu.health => Some(Change::Health { gpu: gpu.clone(), before: old.health }),
            Some(old) if old != *gpu => Some(Change::Facts(gpu.clone())),
            Some(_) => None,
        })
        .collect();
    changes.extend(before.iter().filter(|gpu| find(after, &gpu.id).is_none()).cloned().map(Change::Vanished));
    changes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Seen;
    use super::super::fixture::{card, part};
    use super::*;
    use crate::domain::GpuVitals;

    fn seen(gpus: &[Gpu]) -> Sight {
        Sight::Seen(gpus.iter().map(|gpu| Seen { gpu: gpu.clone(), vitals: GpuVitals::unreadable("a test") }).collect())
    }

    fn said(before: &[Gpu], after: &[Gpu]) -> Vec<String> {
        changes(before, after).iter().map(ToString::to_string).collect()
    }

    fn nobody() -> HashSet<GpuId> {
        HashSet::new()
    }

    #[test]
    fn a_card_that_falls_off_the_bus_is_lost_and_comes_back() {
        let both = [card("a"), card("b")];
        let without = merge(&both, GpuVendor::Nvidia, &seen(&both[..1]), &nobody());
        assert_eq!(said(&both, &without), ["GPU b is lost: it is no longer there"]);
        let still = merge(&without, GpuVendor::Nvidia, &Sight::Blind("no driver".into()), &nobody());
        assert_eq!(said(&without, &still), ["GPU a is lost: no driver"], "the one that was lost keeps its reason");
        let back = merge(&still, GpuVendor::Nvidia, &seen(&both), &nobody());
        assert_eq!(said(&still, &back), ["GPU a can be used again", "GPU b can be used again"]);
        assert_eq!(back, both);
    }

    #[test]
    fn a_part_is_forgotten_with_its_division_unless_a_job_holds_it() {
        let divided = [Gpu { role: GpuRole::Divided, ..card("a") }, part("p", "a"), part("q", "a")];
        let held = HashSet::from([GpuId::from_trusted("q")]);
        let whole = merge(&divided, GpuVendor::Nvidia, &seen(&[card("a")]), &held);
        assert_eq!(said(&divided, &whole), ["GPU a is not as it was", "GPU q is lost: it is no longer there", "GPU p is known no more"]);
    }

    #[test]
    fn a_vendor_that_is_looked_at_leaves_the_others_alone_and_a_double_counts_once() {
        let amd = Gpu { vendor: GpuVendor::Amd, ..card("amd-0000:03:00.0") };
        assert_eq!(merge(&[amd, card("a")], GpuVendor::Nvidia, &seen(&[card("a"), card("a")]), &nobody()), [card("a")]);
    }

    fn any_gpus() -> impl Strategy<Value = Vec<Gpu>> {
        let one = (0_u8..6, 0_u8..3, 0_u8..3).prop_map(|(name, role, health)| Gpu {
            role: match role {
                0 => GpuRole::Card,
                1 => GpuRole::Divided,
                _ => GpuRole::Part { of: GpuId::from_trusted("0"), profile: None },
            },
            health: match health {
                0 => GpuHealth::Healthy,
                1 => GpuHealth::Unhealthy("hot".into()),
                _ => GpuHealth::Lost("gone".into()),
            },
            ..card(&name.to_string())
        });
        prop::collection::vec(one, 0..8)
    }

    proptest! {
        /// Whatever is seen and held: nothing held is forgotten, nothing that is not seen can be given away, and the changes tell all.
        #[test]
        fn knowledge_follows_what_is_seen(looks in prop::collection::vec((any_gpus(), any::<bool>()), 1..6), held in prop::collection::hash_set(0_u8..6, 0..4)) {
            let held: HashSet<GpuId> = held.into_iter().map(|name| GpuId::from_trusted(name.to_string())).collect();
            let mut known: Vec<Gpu> = Vec::new();
            for (gpus, blind) in looks {
                let sight = if blind { Sight::Blind("no driver".into()) } else { seen(&gpus) };
                let now = merge(&known, GpuVendor::Nvidia, &sight, &held);
                let ids: HashSet<&GpuId> = now.iter().map(|gpu| &gpu.id).collect();
                prop_assert_eq!(ids.len(), now.len(), "an id twice");
                for old in &known {
                    prop_assert!(!held.contains(&old.id) || ids.contains(&old.id), "{} is held and forgotten", old.id);
                }
                for gpu in &now {
                    let is_seen = !blind && gpus.iter().any(|one| one.id == gpu.id);
                    prop_assert!(is_seen || matches!(gpu.health, GpuHealth::Lost(_)), "{} is not seen and not lost", gpu.id);
                }
                // The changes lead from one to the other.
                let mut replayed = known.clone();
                for change in changes(&known, &now) {
                    match change {
                        Change::Appeared(gpu) => replayed.push(gpu),
                        Change::Vanished(gpu) => replayed.retain(|one| one.id != gpu.id),
                        Change::Health { gpu, .. } | Change::Facts(gpu) => {
                            replayed.retain(|one| one.id != gpu.id);
                            replayed.push(gpu);
                        }
                    }
                }
                let sorted = |mut gpus: Vec<Gpu>| { gpus.sort_by(|a, b| a.id.cmp(&b.id)); gpus };
                prop_assert_eq!(sorted(replayed), sorted(now.clone()));
                prop_assert_eq!(changes(&now, &now), vec![]);
                known = now;
            }
        }
    }
}
