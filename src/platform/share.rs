//! Shares of one GPU's memory: how much of which card is promised, and where the next share goes. No hardware keeps a program to its share.

use std::collections::HashMap;

use crate::domain::{Gpu, GpuId, MemoryBytes};

/// What is promised of cards that jobs share.
#[derive(Debug, Clone, Default)]
pub(super) struct Shares(HashMap<GpuId, MemoryBytes>);

impl Shares {
    /// Promises one more share of a card.
    pub(super) fn add(&mut self, gpu: &GpuId, amount: MemoryBytes) {
        let promised = self.0.entry(gpu.clone()).or_insert(MemoryBytes(0));
        promised.0 = promised.0.saturating_add(amount.0);
    }

    /// What is promised of a card; `None` when nobody has a share of it.
    pub(super) fn of(&self, gpu: &GpuId) -> Option<MemoryBytes> {
        self.0.get(gpu).copied()
    }

    /// What is left of a card; nothing of one whose memory is not known.
    pub(super) fn left(&self, gpu: &Gpu) -> MemoryBytes {
        let all = gpu.memory.known().map_or(0, |memory| memory.0);
        MemoryBytes(all.saturating_sub(self.of(&gpu.id).map_or(0, |promised| promised.0)))
    }

    /// The card on which least is left beside the share, so that large shares find room later.
    pub(super) fn best<'g>(&self, free: &[&'g Gpu]) -> Option<&'g Gpu> {
        free.iter().copied().min_by_key(|gpu| (self.left(gpu), &gpu.id))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::{ClassName, CpuMillis, GpuRequest, HostFacts, HostId, Placement, Reading, Requirement, Sharing};
    use crate::platform::Ledger;
    use crate::platform::devices::fixture::card;

    /// `a80* b24`: cards and their GiB; those with a star are open for sharing.
    fn machine(text: &str) -> HostFacts {
        let gpus = text.split_whitespace().map(|word| {
            let (sharing, word) = word.strip_suffix('*').map_or((Sharing::Exclusive, word), |word| (Sharing::Open, word));
            let gib: u64 = word[1..].parse().expect("GiB");
            Gpu { memory: Reading::Known(MemoryBytes(gib << 30)), sharing, ..card(&word[..1]) }
        });
        HostFacts {
            id: HostId::from_trusted("box"),
            arch: None,
            cpus: CpuMillis(1_000_000),
            memory: MemoryBytes(1 << 50),
            emulated: Vec::new(),
            gpus: gpus.collect(),
            notes: Vec::new(),
            runtimes: Vec::new(),
        }
    }

    /// `10` asks for a share of 10 GiB, `x2` for two cards.
    fn wanted(word: &str) -> Requirement {
        let gpus = match word.strip_prefix('x') {
            Some(count) => GpuRequest::any(count.parse().expect("a count")),
            None => GpuRequest { share: Some(MemoryBytes(word.parse::<u64>().expect("GiB") << 30)), ..GpuRequest::any(1) },
        };
        Requirement { gpus: Some(gpus), ..Requirement::plain(ClassName::from_trusted("default"), CpuMillis(1), MemoryBytes(1)) }
    }

    /// Where each job goes, one after the other; `-` is nowhere.
    fn placed(machine: &HostFacts, jobs: &str) -> (String, Vec<Placement>) {
        let (mut ledger, mut words, mut all) = (Ledger::new(machine, []), Vec::new(), Vec::new());
        for word in jobs.split_whitespace() {
            let requirement = wanted(word);
            match ledger.fit(&requirement, None) {
                Ok(placement) => {
                    ledger.reserve(&requirement.class, &placement);
                    words.push(placement.devices.iter().map(GpuId::as_str).collect::<Vec<_>>().join("+"));
                    all.push(placement);
                }
                Err(_) => words.push("-".to_owned()),
            }
        }
        (words.join(" "), all)
    }

    /// The ledger of a machine on which these are held.
    fn ledger<'f>(machine: &'f HostFacts, held: &[Placement]) -> Ledger<'f> {
        let class = ClassName::from_trusted("default");
        Ledger::new(machine, held.iter().map(|placement| (&class, placement)))
    }

    #[test]
    fn who_gets_what() {
        for (cards, jobs, given) in [
            // Where least is left, so that the large one still finds room.
            ("a80* b24*", "20 4 60 20 1", "b b a a -"),
            ("a24* b24*", "10 10 10 10 10", "a a b b -"),
            // Only cards that are open, and never more than there is.
            ("a80 b24*", "30 24 1", "- b -"),
            ("a80", "1", "-"),
            // A card with shares is nobody's alone, and the other way round; those that are not open go first.
            ("a24* b80", "10 x1 x1 10", "a b - a"),
            ("a24* b80", "x1 x1 10", "b a -"),
            ("a24* b24*", "10 x1 20 10", "a b - a"),
            ("a24* b24*", "10 x2", "a -"),
        ] {
            assert_eq!(placed(&machine(cards), jobs).0, given, "{jobs} on {cards}");
        }
    }

    #[test]
    fn what_is_missing_is_told() {
        let said = |cards: &str, held: &str, job: &str| {
            let machine = machine(cards);
            let (_, all) = placed(&machine, held);
            let missing = ledger(&machine, &all).fit(&wanted(job), None).expect_err("it does not fit");
            missing.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
        };
        assert_eq!(said("a80 b24", "", "10"), "needs 10GiB of 1 GPU, none here is open for sharing");
        assert_eq!(said("a80 b24*", "", "30"), "needs 30GiB of 1 GPU, the largest here that is open for sharing has 24GiB");
        assert_eq!(said("b24*", "20", "10"), "needs 10GiB of 1 GPU, 4GiB is the most that is free of the 1 such");
        assert_eq!(said("b24*", "x1", "10"), "needs 10GiB of 1 GPU, none of the 1 such is free");
    }

    #[test]
    fn a_card_is_kept_from_shares_for_one_who_needs_it_alone() {
        let machine = machine("a24* b24*");
        let (_, held) = placed(&machine, "10 20");
        let mut ledger = ledger(&machine, &held);
        assert!(ledger.fit(&wanted("3"), None).is_ok());
        let alone = wanted("x1").gpus.expect("a GPU");
        assert_eq!(ledger.hold_back(&alone, &[]), Some(0));
        let given = ledger.fit(&wanted("3"), None).map(|placement| placement.devices[0].to_string());
        assert_eq!(given.as_deref(), Ok("b"), "one of the two runs empty");
    }

    #[test]
    fn a_large_share_is_not_passed_by_for_ever() {
        let machine = machine("a24* b24*");
        let (_, held) = placed(&machine, "10 20");
        let mut ledger = ledger(&machine, &held);
        let large = wanted("24").gpus.expect("a share");
        assert!(ledger.may_starve(&large) && ledger.hold_back(&large, &[GpuId::from_trusted("a")]).is_some());
        let next = |ledger: &Ledger<'_>| ledger.fit(&wanted("3"), None).map(|placement| placement.devices[0].to_string());
        assert_eq!(next(&ledger).as_deref(), Ok("a"), "b runs empty, because what is on a stays");
        assert_eq!(ledger.hold_back(&large, &[GpuId::from_trusted("a"), GpuId::from_trusted("b")]), None);
    }

    proptest! {
        #[test]
        fn shares_never_add_up_to_more_than_the_card_and_no_card_is_both(
            jobs in prop::collection::vec(prop_oneof![(1_u32..30).prop_map(|gib| gib.to_string()), (1_u32..4).prop_map(|count| format!("x{count}"))], 0..40)
        ) {
            let machine = machine("a80* b24* c24* d24 e24");
            let (_, all) = placed(&machine, &jobs.join(" "));
            for gpu in &machine.gpus {
                let holders: Vec<&Placement> = all.iter().filter(|placement| placement.devices.contains(&gpu.id)).collect();
                let shares: u64 = holders.iter().filter_map(|placement| placement.share).map(|share| share.0).sum();
                prop_assert!(shares <= gpu.memory.known().expect("known").0);
                let alone = holders.iter().filter(|placement| placement.share.is_none()).count();
                prop_assert!(alone == 0 || holders.len() == 1, "{} is held by {holders:?}", gpu.id);
                prop_assert!(shares == 0 || gpu.sharing == Sharing::Open);
            }
        }
    }
}
