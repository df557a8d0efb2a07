//! How often one caller may come: each token has a pace of its own, and so has each address that shows none which is known. Whoever is faster is
//! answered 429 (RFC 6585, 4) with the time after which they are not.
//!
//! What all callers together may hold at once is [`rations`](super::rations)' business.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::config::Limits;

/// How long somebody may have been away and still make up for it at once.
const SLACK: Duration = Duration::from_secs(5);
/// Most callers that are told apart; all further ones share one pace.
const MAX_CALLERS: usize = 10_000;
/// Least time between two looks for callers who are gone.
const SWEEP: Duration = Duration::from_secs(1);
/// The part of an address of IPv6 that is one customer's.
const PREFIX: u32 = 64;

/// Who comes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Caller {
    /// The holder of the token of this name.
    Token(String),
    /// Somebody without a token that is known, by address.
    Stranger(IpAddr),
    /// Those who cannot be told apart any more.
    Crowd,
}

impl Caller {
    /// A stranger, with all addresses that are likely theirs.
    pub(super) fn stranger(ip: IpAddr) -> Self {
        Self::Stranger(match ip.to_canonical() {
            IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> PREFIX << PREFIX).into(),
            ip @ IpAddr::V4(_) => ip,
        })
    }

    /// The key that says how often they may come, and what it says.
    fn limit(&self, limits: &Limits) -> (&'static str, u32) {
        match self {
            Self::Token(_) => ("limits.token_requests", limits.token_requests),
            Self::Stranger(_) | Self::Crowd => ("limits.address_refusals", limits.address_refusals),
        }
    }
}

/// Somebody came too often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Haste {
    /// The key that says how often they may come.
    pub limit: &'static str,
    /// What it says, per second.
    pub per_second: u32,
    /// In how many seconds they may come again.
    pub retry_after: u32,
}

/// Everybody's pace: until when what they asked for would take, had they asked for it evenly (the generic cell rate algorithm of ITU-T I.371).
/// Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Pace(Arc<Mutex<Ledger>>);

#[derive(Debug, Clone, Default)]
struct Ledger {
    busy: HashMap<Caller, Instant>,
    /// When those who are no longer in it were last looked for.
    swept: Option<Instant>,
}

impl Ledger {
    /// Under which name somebody is counted.
    fn name(&mut self, caller: Caller, now: Instant) -> Caller {
        if self.busy.len() < MAX_CALLERS || self.busy.contains_key(&caller) {
            return caller;
        }
        // Not for everyone of a crowd: it costs more than they do.
        if self.swept.is_none_or(|last| now.saturating_duration_since(last) >= SWEEP) {
            self.swept = Some(now);
            self.busy.retain(|_, until| *until > now);
        }
        if self.busy.len() < MAX_CALLERS { caller } else { Caller::Crowd }
    }
}

impl Pace {
    /// Counts a request.
    pub(super) fn count(&self, caller: Caller, limits: &Limits, now: Instant) -> Result<(), Haste> {
        let mut ledger = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let caller = ledger.name(caller, now);
        let (limit, per_second) = caller.limit(limits);
        let until = ledger.busy.entry(caller).or_insert(now);
        let next = (*until).max(now) + Duration::from_secs(1) / per_second.max(1);
        let ahead = next.duration_since(now);
        if ahead > SLACK {
            let wait = ahead.saturating_sub(SLACK).as_secs_f64().ceil().max(1.0);
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a second or two")]
            return Err(Haste { limit, per_second, retry_after: wait as u32 });
        }
        *until = next;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn limits(token_requests: u32, address_refusals: u32) -> Limits {
        Limits { token_requests, address_refusals, ..Limits::default() }
    }

    fn token(name: &str) -> Caller {
        Caller::Token(name.to_owned())
    }

    #[test]
    fn each_has_a_pace_of_their_own_that_comes_back_with_time() {
        let (pace, limits, start) = (Pace::default(), limits(2, 1), Instant::now());
        let many = |caller: Caller, now| (0..100).filter(|_| pace.count(caller.clone(), &limits, now).is_ok()).count();
        assert_eq!(many(token("a"), start), 10, "the slack at once");
        assert_eq!(pace.count(token("a"), &limits, start), Err(Haste { limit: "limits.token_requests", per_second: 2, retry_after: 1 }));
        assert_eq!((many(token("b"), start), many(Caller::stranger([10, 0, 0, 1].into()), start)), (10, 5));
        assert_eq!(many(token("a"), start + Duration::from_secs(3)), 6);
        assert_eq!(many(token("a"), start + Duration::from_secs(60)), 10, "nothing is saved beyond the slack");
    }

    #[test]
    fn addresses_of_one_customer_are_one() {
        let stranger = |text: &str| Caller::stranger(text.parse().expect("an address"));
        assert_eq!(stranger("2001:db8:1:2::1"), stranger("2001:db8:1:2:ffff::9"));
        assert_ne!(stranger("2001:db8:1:2::1"), stranger("2001:db8:1:3::1"));
        assert_eq!(stranger("::ffff:10.0.0.1"), stranger("10.0.0.1"));
        assert_ne!(stranger("10.0.0.2"), stranger("10.0.0.1"));
    }

    #[test]
    fn who_is_many_takes_no_memory_beyond_a_bound_and_nobody_elses_pace() {
        let (pace, limits, now) = (Pace::default(), limits(2, 1), Instant::now());
        for host in 0..20_000_u32 {
            let _ = pace.count(Caller::stranger(std::net::Ipv4Addr::from_bits(host).into()), &limits, now);
        }
        let held = || pace.0.lock().expect("whole").busy.len();
        assert!(held() <= MAX_CALLERS + 1, "{}", held());
        assert!(pace.count(Caller::stranger([200, 0, 0, 1].into()), &limits, now).is_err(), "one of the crowd");
        assert!(pace.count(Caller::stranger([200, 0, 0, 1].into()), &limits, now + Duration::from_secs(20)).is_ok());
        assert!(held() <= 2, "who was away is forgotten: {}", held());
    }

    proptest! {
        #[test]
        fn nobody_gets_more_than_their_pace_and_whoever_waits_as_told_gets_in(per_second in 1..500_u32, gaps in proptest::collection::vec(0..400_u64, 1..200)) {
            let (pace, limits, start) = (Pace::default(), limits(per_second, 1), Instant::now());
            let (mut now, mut taken) = (start, 0_u32);
            for gap in gaps {
                now += Duration::from_millis(gap);
                match pace.count(token("a"), &limits, now) {
                    Ok(()) => taken += 1,
                    Err(haste) => {
                        let later = Pace(Arc::new(Mutex::new(pace.0.lock().expect("whole").clone())));
                        prop_assert!(later.count(token("a"), &limits, now + Duration::from_secs(haste.retry_after.into())).is_ok());
                    }
                }
                let most = (now - start + SLACK).as_secs_f64() * f64::from(per_second);
                prop_assert!(f64::from(taken) <= most + 1.0, "{taken} of {most}");
            }
        }
    }
}
