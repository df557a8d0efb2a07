//! Which of several GPUs that would all do: those that others need least, and close to each other. A pure function.

use std::cmp::Reverse;
use std::collections::HashMap;

use crate::domain::{Gpu, GpuId, MemoryBytes, Nearness, Sharing};

/// What choosing needs to know of all cards of a machine; made once for many choices.
#[derive(Debug, Clone)]
pub(super) struct Chart<'m> {
    /// Each card's place in `rank` and `bonds`.
    places: HashMap<&'m GpuId, usize>,
    /// Who goes first.
    rank: Vec<Rank<'m>>,
    bonds: Bonds,
}

/// The least memory goes first, so that big cards stay free for those that need them; among equally big ones the model of which the machine has
/// most, so that scarce ones stay for those that name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Rank<'m> {
    /// Cards of which jobs may have shares go last.
    open: bool,
    memory: MemoryBytes,
    of_model: Reverse<usize>,
    id: &'m GpuId,
}

impl Rank<'_> {
    fn worth(&self) -> (bool, MemoryBytes, Reverse<usize>) {
        (self.open, self.memory, self.of_model)
    }
}

impl<'m> Chart<'m> {
    /// The chart of a machine.
    pub(super) fn new(machine: &'m [Gpu]) -> Self {
        let mut models: HashMap<&str, usize> = HashMap::new();
        let model = |gpu: &'m Gpu| gpu.model.known().map_or("", String::as_str);
        for gpu in machine.iter().filter(|gpu| gpu.is_for_jobs()) {
            *models.entry(model(gpu)).or_default() += 1;
        }
        let rank = |gpu: &'m Gpu| Rank {
            open: gpu.sharing == Sharing::Open,
            memory: memory(gpu),
            of_model: Reverse(models.get(model(gpu)).copied().unwrap_or(0)),
            id: &gpu.id,
        };
        Self {
            places: machine.iter().enumerate().map(|(at, gpu)| (&gpu.id, at)).collect(),
            rank: machine.iter().map(rank).collect(),
            bonds: Bonds::new(machine),
        }
    }

    /// `count` of the `free` ones, which are at least so many, in the order in which the container counts them: by [`Rank`]; among equal ones
    /// those that are nearest to each other, and of these those that are nearest to none of the others, so that large requests find cards
    /// that belong together later.
    pub(super) fn choose(&self, free: &[&Gpu], count: usize) -> Vec<GpuId> {
        let mut places: Vec<usize> = free.iter().filter_map(|gpu| self.places.get(&gpu.id).copied()).collect();
        places.sort_unstable_by_key(|at| self.rank[*at]);
        let worth = |at: &usize| self.rank[*at].worth();
        let Some(last) = count.checked_sub(1).and_then(|last| places.get(last)).map(worth) else { return Vec::new() };
        // Those before `sure` are taken in any case; of those up to `equal` so many as are missing.
        let (sure, equal) = (places.partition_point(|at| worth(at) < last), places.partition_point(|at| worth(at) <= last));
        let ids = |places: &[usize]| places.iter().map(|at| self.rank[*at].id.clone()).collect();
        if equal == count {
            return ids(&places[..count]);
        }
        let (fixed, open) = (&places[..sure], &places[sure..equal]);
        let seeds: Vec<Option<usize>> = if sure == 0 { open.iter().copied().map(Some).collect() } else { vec![None] };
        let grown = seeds.into_iter().map(|seed| self.bonds.grow(fixed.iter().copied().chain(seed).collect(), open, count, &places));
        let best = grown.min_by_key(|set| (Reverse(self.bonds.within(set)), self.bonds.cut(set, &places)));
        let mut best = best.unwrap_or_default();
        best.sort_unstable_by_key(|at| self.rank[*at]);
        ids(&best)
    }
}

/// How many pairs are so near, the nearest first: one pair that is nearer counts for more than any number that is less near.
type Pairs = [u32; 4];

fn pair(nearness: Nearness) -> Pairs {
    match nearness {
        Nearness::Linked => [1, 0, 0, 0],
        Nearness::Bridge => [0, 1, 0, 0],
        Nearness::Root => [0, 0, 1, 0],
        Nearness::Node => [0, 0, 0, 1],
        Nearness::Apart => [0; 4],
    }
}

fn add(sum: Pairs, more: Pairs) -> Pairs {
    std::array::from_fn(|at| sum[at] + more[at])
}

/// How near each card is to each other one.
#[derive(Debug, Clone)]
struct Bonds(Vec<Vec<Pairs>>);

impl Bonds {
    fn new(machine: &[Gpu]) -> Self {
        let bond = |one: &Gpu, other: &Gpu| if one.id == other.id { [0; 4] } else { pair(one.nearness(other)) };
        Self(machine.iter().map(|one| machine.iter().map(|other| bond(one, other)).collect()).collect())
    }

    fn to(&self, one: usize, set: &[usize]) -> Pairs {
        set.iter().fold([0; 4], |sum, other| add(sum, self.0[one][*other]))
    }

    /// Adds the one that is nearest to the set until there are `count`, of equally near ones the one that is nearest to no other that is free.
    fn grow(&self, mut set: Vec<usize>, from: &[usize], count: usize, free: &[usize]) -> Vec<usize> {
        let mut left: Vec<(usize, Pairs, Pairs)> =
            from.iter().filter(|at| !set.contains(at)).map(|at| (*at, self.to(*at, &set), self.to(*at, free))).collect();
        while set.len() < count
            && let Some(next) = left.iter().min_by_key(|(_, near, all)| (Reverse(*near), *all)).map(|(at, ..)| *at)
        {
            left.retain(|(at, ..)| *at != next);
            set.push(next);
            for (at, near, _) in &mut left {
                *near = add(*near, self.0[*at][next]);
            }
        }
        set
    }

    /// Pairs within a set, each counted twice.
    fn within(&self, set: &[usize]) -> Pairs {
        set.iter().fold([0; 4], |sum, one| add(sum, self.to(*one, set)))
    }

    /// Pairs of one in a set and one that is free and not in it.
    fn cut(&self, set: &[usize], free: &[usize]) -> Pairs {
        let others: Vec<usize> = free.iter().copied().filter(|at| !set.contains(at)).collect();
        set.iter().fold([0; 4], |sum, one| add(sum, self.to(*one, &others)))
    }
}

/// A card whose driver does not tell is wanted least: no request for memory can be met with it.
fn memory(gpu: &Gpu) -> MemoryBytes {
    gpu.memory.known().copied().unwrap_or(MemoryBytes(0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::{PciAddress, Reading, Wiring};
    use crate::platform::devices::fixture::card;

    /// `a80@0` is the GPU `a80@0` with 80 GiB on NUMA node 0; without a node it is not known. `/3a.1` is its way on the PCI bus, `~5` the bus of a
    /// switch to which its links lead, `=T` its model.
    fn gpus(text: &str) -> Vec<Gpu> {
        text.split_whitespace()
            .map(|word| {
                let after = |mark: char| word.split_once(mark).map(|(_, rest)| rest.split(['@', '/', '~', '=']).next().unwrap_or_default());
                let gib = word[1..].split(['@', '/', '~', '=']).next().expect("GiB").parse::<u64>().expect("GiB");
                let node = after('@').map_or(Reading::NotSupported, |node| Reading::Known(node.parse().expect("a node")));
                let path = after('/').map(|path| path.split('.').map(str::to_owned).collect()).unwrap_or_default();
                let links = after('~').map(|bus| PciAddress { domain: 0, bus: bus.parse().expect("a bus"), device: 0, function: 0 });
                let wiring = Wiring { path, links: links.into_iter().collect() };
                let model = Reading::Known(after('=').unwrap_or("M").to_owned());
                Gpu { memory: Reading::Known(MemoryBytes(gib << 30)), numa_node: node, wiring, model, ..card(word) }
            })
            .collect()
    }

    #[test]
    fn who_gets_what() {
        for (free, count, given) in [
            // The smallest first, wherever it is.
            ("a80@0 b24@1", 1, "b24@1"),
            ("a80@0 b80@0 c24@0 d24@1", 2, "c24@0 d24@1"),
            // Together where that costs no bigger card.
            ("a80@0 b80@1 c80@1", 2, "b80@1 c80@1"),
            ("a80@0 b80@1 c80@0 d80@1", 2, "a80@0 c80@0"),
            // The node that has fewest left, so that four stay together on the other.
            ("a80@0 b80@0 c80@0 d80@0 e80@1 f80@1", 2, "e80@1 f80@1"),
            ("a80@0 b80@0 e80@1", 1, "e80@1"),
            // No node has enough, or none is known.
            ("a80@0 b80@1 c80@2", 2, "a80@0 b80@1"),
            ("b80 a80 c80", 2, "a80 b80"),
            // Links of their own go before a common bridge, that before a common root, and that before a common node.
            ("a80@0~1 b80@0 c80@1~1 d80@1", 2, "a80@0~1 c80@1~1"),
            ("a80@0/x.1 b80@0/x.2 c80@0/x.1 d80@0/x.2", 2, "a80@0/x.1 c80@0/x.1"),
            ("a80@0/x.1 b80@0/y.2 c80@0/x.3", 2, "a80@0/x.1 c80@0/x.3"),
            // Pairs that are linked stay together: the one without a partner goes first.
            ("a80~1 b80~1 c80~2", 1, "c80~2"),
            ("a80~1 b80~1 c80~2 d80~2 e80~3", 3, "a80~1 b80~1 e80~3"),
            // Of four and two, the two.
            ("a80~1 b80~1 c80~1 d80~1 e80~2 f80~2", 2, "e80~2 f80~2"),
            // A scarce model stays for those that name it, and even then no bigger card is taken than needed.
            ("a80=H b80=A c80=A d80=A", 1, "b80=A"),
            ("a80=H b80=A c80=A d80=A", 3, "b80=A c80=A d80=A"),
            ("a24=H b80=A c80=A", 1, "a24=H"),
            ("a80=H~1 b80=A~1 c80=A", 2, "b80=A~1 c80=A"),
        ] {
            let machine = gpus(free);
            let ids = Chart::new(&machine).choose(&machine.iter().collect::<Vec<_>>(), count);
            let chosen: Vec<&str> = ids.iter().map(GpuId::as_str).collect();
            assert_eq!(chosen.join(" "), given, "{count} of {free}");
        }
    }

    proptest! {
        #[test]
        fn it_gives_as_many_as_asked_each_once_and_never_bigger_ones_than_needed(
            sizes in prop::collection::vec((prop::sample::select(vec![16_u64, 24, 80]), prop::option::of(0_u32..3)), 1..12), wanted in 1_usize..12
        ) {
            let text: Vec<String> = sizes.iter().enumerate().map(|(number, (gib, node))| {
                let letter = char::from(b'a' + u8::try_from(number).expect("small"));
                node.map_or(format!("{letter}{gib}"), |node| format!("{letter}{gib}@{node}"))
            }).collect();
            let machine = gpus(&text.join(" "));
            let count = wanted.min(machine.len());
            let mut ids = Chart::new(&machine).choose(&machine.iter().collect::<Vec<_>>(), count);
            let chosen: Vec<&Gpu> = ids.iter().filter_map(|id| machine.iter().find(|gpu| gpu.id == *id)).collect();
            ids.sort();
            ids.dedup();
            prop_assert_eq!(ids.len(), count);
            let mut all: Vec<u64> = sizes.iter().map(|(gib, _)| *gib).collect();
            all.sort_unstable();
            let mut given: Vec<u64> = chosen.iter().map(|gpu| memory(gpu).0 >> 30).collect();
            given.sort_unstable();
            prop_assert_eq!(&given[..], &all[..count]);
        }
    }
}
