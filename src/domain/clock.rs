//! The clock as a seam, so that tests decide what time it is.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// Tells the wall-clock time. Decisions take the time as a value; only the outer rooms ask a clock.
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// The present moment in UTC.
    fn now(&self) -> Timestamp;

    /// A number to jitter waits by, another one each time.
    fn roll(&self) -> u64 {
        roll()
    }
}

/// The machine's own clock, cut to whole milliseconds, the precision that the store keeps.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the machine's clock")]
        let now = Timestamp::now();
        truncate_to_millis(now)
    }
}

/// Whether at least `limit` lies between `since` and `now`.
#[must_use]
pub fn has_passed(since: Timestamp, limit: Duration, now: Timestamp) -> bool {
    now.duration_since(since) >= SignedDuration::try_from(limit).unwrap_or(SignedDuration::MAX)
}

/// A number that is random enough for jitter: the low bits of a fresh id.
#[must_use]
pub fn roll() -> u64 {
    uuid::Uuid::now_v7().as_u64_pair().1
}

/// Up to so many thousandths more or less, as the roll decides.
#[must_use]
pub fn jittered(wait: Duration, thousandths: u32, roll: u64) -> Duration {
    let roll = u32::try_from(roll % u64::from(2 * thousandths + 1)).unwrap_or(thousandths);
    wait.mul_f64(1.0 + 0.001 * (f64::from(roll) - f64::from(thousandths)))
}

/// Cuts a time to whole milliseconds.
#[must_use]
pub fn truncate_to_millis(time: Timestamp) -> Timestamp {
    Timestamp::from_millisecond(time.as_millisecond()).unwrap_or(time)
}
