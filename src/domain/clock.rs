//! The clock as a seam, so that tests decide what time it is.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// Tells the wall-clock time. Decisions take the time as a value; only the outer rooms ask a clock.
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// The present moment in UTC.
    fn now(&self) -> Timestamp;
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

/// Up to so many thousandths more or less. Random enough: the low bits of a fresh id.
#[must_use]
pub fn jittered(wait: Duration, thousandths: u32) -> Duration {
    let roll = uuid::Uuid::now_v7().as_u128() % u128::from(2 * thousandths + 1);
    let roll = u32::try_from(roll).unwrap_or(thousandths);
    wait.mul_f64(1.0 + 0.001 * (f64::from(roll) - f64::from(thousandths)))
}

/// Cuts a time to whole milliseconds.
#[must_use]
pub fn truncate_to_millis(time: Timestamp) -> Timestamp {
    Timestamp::from_millisecond(time.as_millisecond()).unwrap_or(time)
}
