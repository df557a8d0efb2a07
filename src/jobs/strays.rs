//! Containers of ours that belong to no runner: when each was seen first, and when its removal may be tried again.

use std::collections::HashMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::domain::clock::has_passed;

/// Wait before one that could not be removed is tried again.
const RETRY: SignedDuration = SignedDuration::from_secs(30);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Strays(HashMap<String, Tried>);

#[derive(Debug, Clone, Copy)]
struct Tried {
    first: Timestamp,
    last: Timestamp,
}

impl Strays {
    /// Forgets those that are gone.
    pub(super) fn retain(&mut self, there: impl Fn(&str) -> bool) {
        self.0.retain(|name, _| there(name));
    }

    /// Whether one is to be removed now; then it is tried.
    pub(super) fn is_due(&mut self, name: &str, now: Timestamp) -> bool {
        let Some(tried) = self.0.get_mut(name) else {
            self.0.insert(name.to_owned(), Tried { first: now, last: now });
            return true;
        };
        let due = now.duration_since(tried.last) >= RETRY;
        if due {
            tried.last = now;
        }
        due
    }

    /// How many have stayed for longer than `limit`.
    pub(super) fn stuck(&self, limit: Duration, now: Timestamp) -> usize {
        self.0.values().filter(|tried| has_passed(tried.first, limit, now)).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stray_is_tried_now_and_then_and_told_when_it_stays() {
        let at = |second: i64| Timestamp::from_second(1_000_000 + second).expect("a time");
        let mut strays = Strays::default();
        let due: Vec<bool> = [0, 1, 29, 30, 31, 60].into_iter().map(|second| strays.is_due("a", at(second))).collect();
        assert_eq!(due, [true, false, false, true, false, true]);
        assert!(strays.is_due("b", at(60)));
        let limit = Duration::from_secs(100);
        assert_eq!([99, 100, 160].map(|second| strays.stuck(limit, at(second))), [0, 1, 2]);
        strays.retain(|name| name == "b");
        assert_eq!(strays.stuck(limit, at(160)), 1);
    }
}
