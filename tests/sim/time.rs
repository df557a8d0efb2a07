//! Simulated time: it goes on only while a daemon lives, as its runtime's paused clock says, or when it is told to pass.

use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::{SignedDuration, Timestamp};
use runner_coordinator::domain::Clock;
use tokio::time::Instant;

/// When every simulation begins, in seconds since 1970.
const BEGINNING: i64 = 1_795_000_000;

/// Milliseconds since the beginning, and what the machine's wall clock makes of them.
#[derive(Debug, Default)]
pub(crate) struct Time(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    base: u64,
    /// When the present life began on its runtime's clock.
    origin: Option<Instant>,
    /// By how much the wall clock is wrong, in milliseconds.
    skew: i64,
}

impl Time {
    /// Milliseconds since the beginning.
    pub(crate) fn now(&self) -> u64 {
        let state = self.lock();
        let lived = state.origin.map_or(0, |origin| origin.elapsed().as_millis());
        state.base + u64::try_from(lived).expect("a simulation is short")
    }

    /// The clock of the runtime that calls goes on from here.
    pub(crate) fn begin(&self) {
        self.lock().origin = Some(Instant::now());
    }

    /// The runtime's clock is about to end.
    pub(crate) fn freeze(&self) {
        let now = self.now();
        let mut state = self.lock();
        (state.base, state.origin) = (now, None);
    }

    /// So much passes while no daemon lives.
    pub(crate) fn pass(&self, millis: u64) {
        self.lock().base += millis;
    }

    /// Sets the wall clock wrong by so many milliseconds.
    pub(crate) fn skew(&self, millis: i64) {
        self.lock().skew = millis;
    }

    /// What the wall clock showed, or will show if nobody turns it, at `millis`.
    pub(crate) fn wall(&self, millis: u64) -> Timestamp {
        let skew = self.lock().skew;
        let since = SignedDuration::from_millis(i64::try_from(millis).expect("a simulation is short") + skew);
        Timestamp::from_second(BEGINNING).expect("a time") + since
    }

    /// What the wall clock shows.
    pub(crate) fn now_wall(&self) -> Timestamp {
        self.wall(Time::now(self))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clock for Time {
    fn now(&self) -> Timestamp {
        self.wall(Time::now(self))
    }
}
