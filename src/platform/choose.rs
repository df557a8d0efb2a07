//! Which of several GPUs that would all do: those that others need least, and close to each other. A pure function.

use std::collections::BTreeMap;

use crate::domain::{Gpu, MemoryBytes};

/// `count` of the `free` ones, which are at least so many, in the order in which the container counts them.
///
/// The least memory goes first, so that big cards stay free for those that need them. Among equally big ones those of one NUMA node go
/// first, of the node that is left with the fewest free: so large requests find whole nodes later.
pub(super) fn choose<'g>(mut free: Vec<&'g Gpu>, count: usize) -> Vec<&'g Gpu> {
    free.sort_by_key(|gpu| (memory(gpu), &gpu.id));
    let mut by_node: BTreeMap<u32, Vec<&'g Gpu>> = BTreeMap::new();
    for gpu in &free {
        if let Some(node) = gpu.numa_node.known() {
            by_node.entry(*node).or_default().push(gpu);
        }
    }
    let of_one_node = by_node.into_values().filter(|gpus| gpus.len() >= count).map(|gpus| (gpus.len(), first(gpus, count)));
    let everywhere = (usize::MAX, first(free, count));
    // The last is always there; the first of equal ones is taken, so a node goes before a set from everywhere.
    let best = of_one_node.chain([everywhere]).min_by_key(|(left, gpus)| (cost(gpus), *left));
    best.map(|(_, gpus)| gpus).unwrap_or_default()
}

fn first(mut gpus: Vec<&Gpu>, count: usize) -> Vec<&Gpu> {
    gpus.truncate(count);
    gpus
}

fn cost(gpus: &[&Gpu]) -> u128 {
    gpus.iter().map(|gpu| u128::from(memory(gpu).0)).sum()
}

/// A card whose driver does not tell is wanted least: no request for memory can be met with it.
fn memory(gpu: &Gpu) -> MemoryBytes {
    gpu.memory.known().copied().unwrap_or(MemoryBytes(0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::Reading;
    use crate::platform::devices::fixture::card;

    /// `a80@0` is the GPU `a80@0` with 80 GiB on NUMA node 0; without a node it is not known.
    fn gpus(text: &str) -> Vec<Gpu> {
        text.split_whitespace()
            .map(|word| {
                let (name, node) = word.split_once('@').map_or((word, None), |(name, node)| (name, node.parse().ok()));
                let gib: u64 = name[1..].parse().expect("GiB");
                Gpu { memory: Reading::Known(MemoryBytes(gib << 30)), numa_node: node.map_or(Reading::NotSupported, Reading::Known), ..card(word) }
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
        ] {
            let machine = gpus(free);
            let chosen: Vec<&str> = choose(machine.iter().collect(), count).into_iter().map(|gpu| gpu.id.as_str()).collect();
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
            let chosen = choose(machine.iter().collect(), count);
            let mut ids: Vec<_> = chosen.iter().map(|gpu| &gpu.id).collect();
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
