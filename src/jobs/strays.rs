//! Containers of ours that belong to no runner: when each was seen first, and when its removal may be tried again.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

/// Wait before one that could not be removed is tried again.
const RETRY: Duration = Duration::from_secs(30);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Strays(HashMap<String, Tried>);

#[derive(Debug, Clone, Copy)]
struct Tried {
    first: Instant,
    last: Instant,
}

impl Strays {
    /// Forgets those that are gone.
    pub(super) fn retain(&mut self, there: impl Fn(&str) -> bool) {
        self.0.retain(|name, _| there(name));
    }

    /// Whether one is to be removed now; then it is tried.
    pub(super) fn is_due(&mut self, name: &str) -> bool {
        let now = Instant::now();
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
    pub(super) fn stuck(&self, limit: Duration) -> usize {
        self.0.values().filter(|tried| tried.first.elapsed() >= limit).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_stray_is_tried_now_and_then_and_told_when_it_stays() {
        let mut strays = Strays::default();
        let mut due = Vec::new();
        for wait in [0, 1, 28, 1, 1, 29] {
            tokio::time::advance(Duration::from_secs(wait)).await;
            due.push(strays.is_due("a"));
        }
        assert_eq!(due, [true, false, false, true, false, true]);
        assert!(strays.is_due("b"));
        let limit = Duration::from_secs(100);
        let mut stuck = Vec::new();
        for wait in [39, 1, 60] {
            tokio::time::advance(Duration::from_secs(wait)).await;
            stuck.push(strays.stuck(limit));
        }
        assert_eq!(stuck, [0, 1, 2]);
        strays.retain(|name| name == "b");
        assert_eq!(strays.stuck(limit), 1);
    }
}
