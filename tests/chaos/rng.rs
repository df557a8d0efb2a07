//! Numbers that follow from a seed, so that a round can be had again.

use std::time::Duration;

/// The generator.
#[derive(Debug, Clone)]
pub(crate) struct Rng {
    seed: u64,
    numbers: fastrand::Rng,
}

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed, numbers: fastrand::Rng::with_seed(seed) }
    }

    /// Another one, which depends on this one's seed and on `tag` only.
    pub(crate) fn fork(&self, tag: u64) -> Self {
        Self::new(fastrand::Rng::with_seed(self.seed ^ tag.rotate_left(32)).u64(..))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.numbers.u64(..)
    }

    /// One of `low..=high`.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        self.numbers.u64(low..=high)
    }

    /// Whether what happens in so many of a hundred cases happens.
    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.numbers.u64(..100) < percent
    }

    /// One of several; `None` of none.
    pub(crate) fn pick<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        self.numbers.choice(of)
    }

    /// One of several by their weights.
    pub(crate) fn weighted<'a, T>(&mut self, of: &'a [(u64, T)]) -> &'a T {
        let mut at = self.numbers.u64(..of.iter().map(|(weight, _)| weight).sum::<u64>());
        for (weight, one) in of {
            if at < *weight {
                return one;
            }
            at -= weight;
        }
        unreachable!("the weights were summed up")
    }

    /// So many milliseconds.
    pub(crate) fn millis(&mut self, low: u64, high: u64) -> Duration {
        Duration::from_millis(self.between(low, high))
    }
}
