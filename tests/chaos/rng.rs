//! Numbers that follow from a seed, so that a round can be had again. (`SplitMix64`: any seed will do, and so will any fork of one.)

/// The generator.
#[derive(Debug, Clone)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Another one, which depends on this one's seed and on `tag` only.
    pub(crate) fn fork(&self, tag: u64) -> Self {
        let mut forked = Self(self.0 ^ tag.wrapping_mul(0xa076_1d64_78bd_642f));
        forked.next();
        forked
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// One of `low..=high`.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low + 1)
    }

    /// Whether what happens in so many of a hundred cases happens.
    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }

    /// One of several; `None` of none.
    pub(crate) fn pick<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        let at = self.next().checked_rem(u64::try_from(of.len()).ok()?)?;
        of.get(usize::try_from(at).ok()?)
    }

    /// One of several by their weights.
    pub(crate) fn weighted<'a, T>(&mut self, of: &'a [(u64, T)]) -> &'a T {
        let mut at = self.next() % of.iter().map(|(weight, _)| weight).sum::<u64>();
        for (weight, one) in of {
            if at < *weight {
                return one;
            }
            at -= weight;
        }
        unreachable!("the weights were summed up")
    }

    /// So many milliseconds.
    pub(crate) fn millis(&mut self, low: u64, high: u64) -> std::time::Duration {
        std::time::Duration::from_millis(self.between(low, high))
    }
}
