//! Since when silence means something: a runner that nobody could have heard is not lost.

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

/// How far the wall clock may be off from what has really passed between two passes before it counts as a jump.
const JUMP: SignedDuration = SignedDuration::from_secs(10);

/// Whether and since when runners can be heard at the broker.
#[derive(Debug, Default)]
pub(super) struct Hearing {
    since: Option<Timestamp>,
    last: Option<(Timestamp, Instant)>,
}

impl Hearing {
    /// Notes, at each pass, whether the broker listens. Hearing begins anew when it begins to listen and when the clock has jumped.
    pub(super) fn observe(&mut self, broker: Broker, now: Timestamp) {
        let real = Instant::now();
        let jumped = self.last.is_some_and(|(wall, instant)| {
            let passed = SignedDuration::try_from(real.duration_since(instant)).unwrap_or(SignedDuration::MAX);
            (now.duration_since(wall) - passed).abs() > JUMP
        });
        self.last = Some((now, real));
        self.since = match broker {
            Broker::Silent => None,
            Broker::Listens if jumped => Some(now),
            Broker::Listens => self.since.or(Some(now)),
        };
    }

    /// Since when; at the earliest now while nobody can be heard.
    pub(super) fn since(&self, now: Timestamp) -> Timestamp {
        self.since.unwrap_or(now)
    }
}

/// Whether the broker listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Broker {
    /// It does.
    Listens,
    /// It does not.
    Silent,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn silence_counts_from_when_the_broker_listens_and_not_across_a_jump_of_the_clock() {
        let at = |second: i64| Timestamp::from_second(1_000_000 + second).expect("a time");
        let mut hearing = Hearing::default();
        assert_eq!(hearing.since(at(5)), at(5));
        hearing.observe(Broker::Silent, at(10));
        assert_eq!(hearing.since(at(400)), at(400), "nobody can be heard");
        hearing.observe(Broker::Listens, at(10));
        tokio::time::advance(std::time::Duration::from_secs(60)).await;
        hearing.observe(Broker::Listens, at(70));
        assert_eq!(hearing.since(at(70)), at(10));
        hearing.observe(Broker::Listens, at(7200));
        assert_eq!(hearing.since(at(7200)), at(7200), "the clock jumped");
    }
}
