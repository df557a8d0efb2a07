//! How long ago things were, by a clock that nobody turns.
//!
//! What is stored carries wall-clock times, and the wall clock may jump: a job would be timed out an hour early, or a deadline come an hour
//! late. So how old a time is, is reckoned from the wall clock once, when it is first met, and goes on with the machine's steady clock.
//! A time that is met after the first pass was written since the pass before, so it cannot be older than that.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::reconcile::Age;
use crate::domain::RunnerId;

/// The ages of what the manager decides by.
#[derive(Debug, Default)]
pub(super) struct Ages {
    known: HashMap<(RunnerId, Timestamp), Since>,
    last_pass: Option<Instant>,
}

/// A time, as this process has known it.
#[derive(Debug, Clone, Copy)]
struct Since {
    /// How old it was when it was met.
    age: Duration,
    met: Instant,
}

/// The ages of one runner's times in one pass.
#[derive(Debug)]
pub(super) struct AgesOf<'a> {
    runner: &'a RunnerId,
    now: Timestamp,
    real: Instant,
    last_pass: Option<Instant>,
    before: &'a HashMap<(RunnerId, Timestamp), Since>,
    asked: &'a Mutex<HashMap<(RunnerId, Timestamp), Since>>,
}

/// One pass: what was asked for in it is kept for the next one, the rest forgotten.
#[derive(Debug)]
pub(super) struct Pass {
    now: Timestamp,
    real: Instant,
    asked: Mutex<HashMap<(RunnerId, Timestamp), Since>>,
}

impl Pass {
    /// A pass that begins now.
    pub(super) fn begin(now: Timestamp) -> Self {
        Self { now, real: Instant::now(), asked: Mutex::default() }
    }
}

impl Ages {
    /// The ages of a runner's times.
    pub(super) fn of<'a>(&'a self, runner: &'a RunnerId, pass: &'a Pass) -> AgesOf<'a> {
        AgesOf { runner, now: pass.now, real: pass.real, last_pass: self.last_pass, before: &self.known, asked: &pass.asked }
    }

    /// All runners were looked at in this pass.
    pub(super) fn end(&mut self, pass: Pass) {
        (self.known, self.last_pass) = (pass.asked.into_inner().unwrap_or_else(PoisonError::into_inner), Some(pass.real));
    }
}

impl Age for &AgesOf<'_> {
    fn of(self, since: Timestamp) -> Duration {
        let key = (self.runner.clone(), since);
        let known = self.before.get(&key).copied().unwrap_or_else(|| {
            let by_the_wall = Duration::try_from(self.now.duration_since(since)).unwrap_or_default();
            let most = self.last_pass.map_or(Duration::MAX, |last| self.real.duration_since(last));
            Since { age: by_the_wall.min(most), met: self.real }
        });
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).insert(key, known);
        known.age.saturating_add(self.real.duration_since(known.met))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_795_000_000 + second).expect("a time")
    }

    fn pass(ages: &mut Ages, now: Timestamp, since: Timestamp) -> u64 {
        let (pass, runner) = (Pass::begin(now), RunnerId::from_trusted("r"));
        let age = (&ages.of(&runner, &pass)).of(since).as_secs();
        ages.end(pass);
        age
    }

    #[tokio::test(start_paused = true)]
    async fn a_time_ages_by_the_steady_clock_whatever_the_wall_clock_does() {
        let mut ages = Ages::default();
        assert_eq!(pass(&mut ages, at(100), at(40)), 60, "met at the start: the wall clock is all there is");
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(pass(&mut ages, at(7300), at(40)), 70, "two hours forward");
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(pass(&mut ages, at(-7000), at(40)), 80, "four hours back");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_met_later_is_no_older_than_the_pass_before() {
        let mut ages = Ages::default();
        pass(&mut ages, at(0), at(0));
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(pass(&mut ages, at(7202), at(1)), 2, "the clock jumped between the two");
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(pass(&mut ages, at(5), at(7202)), 0, "a time that is yet to come");
        tokio::time::advance(Duration::from_secs(4)).await;
        assert_eq!(pass(&mut ages, at(9), at(7202)), 4);
        assert!(ages.known.len() == 1, "what nobody asks for is forgotten");
    }
}
