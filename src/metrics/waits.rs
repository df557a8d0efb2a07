//! Calls that have not been answered yet, so that the oldest can be told: one that hangs is in no histogram.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Calls that wait.
#[derive(Debug, Default)]
pub struct Waits {
    next: AtomicU64,
    open: Mutex<BTreeMap<u64, Instant>>,
}

/// One of them; it waits until this is dropped.
#[derive(Debug)]
pub struct Waiting {
    waits: Arc<Waits>,
    number: u64,
}

impl Waits {
    /// A call begins.
    #[must_use]
    pub fn begin(self: &Arc<Self>) -> Waiting {
        // Under the lock, so that numbers and times have one order.
        let mut open = self.open();
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        open.insert(number, Instant::now());
        Waiting { waits: Arc::clone(self), number }
    }

    /// How long the oldest has waited; zero when none does.
    #[must_use]
    pub fn oldest(&self) -> Duration {
        self.open().first_key_value().map_or(Duration::ZERO, |(_, since)| since.elapsed())
    }

    fn open(&self) -> MutexGuard<'_, BTreeMap<u64, Instant>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.waits.open().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_that_is_left_counts() {
        let waits = Arc::new(Waits::default());
        assert_eq!(waits.oldest(), Duration::ZERO);
        let first = waits.begin();
        while waits.oldest() < Duration::from_millis(5) {
            std::hint::spin_loop();
        }
        let second = waits.begin();
        assert!(waits.oldest() >= Duration::from_millis(5));
        drop(first);
        assert!(waits.oldest() < Duration::from_millis(5));
        drop(second);
        assert_eq!(waits.oldest(), Duration::ZERO);
    }
}
