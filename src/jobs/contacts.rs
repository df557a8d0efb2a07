//! When each runner last spoke to the broker. Kept in memory: a write per poll would cost a commit, and silence is judged
//! only some time after a start anyway.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

use crate::domain::RunnerId;

/// The last contact of every runner that is open. Bounded by the open runners, as long as those that went are forgotten.
#[derive(Debug, Default)]
pub struct Contacts(Mutex<HashMap<RunnerId, Timestamp>>);

impl Contacts {
    /// A runner whose token was checked spoke at this time.
    pub fn touch(&self, runner: &RunnerId, at: Timestamp) {
        let mut contacts = self.lock();
        match contacts.get_mut(runner) {
            // Not the greater of both: a clock that was set back would make every runner silent.
            Some(last) => *last = at,
            None => drop(contacts.insert(runner.clone(), at)),
        }
    }

    /// When a runner last spoke since this process started.
    #[must_use]
    pub fn last(&self, runner: &RunnerId) -> Option<Timestamp> {
        self.lock().get(runner).copied()
    }

    /// A runner is gone.
    pub fn forget(&self, runner: &RunnerId) {
        self.lock().remove(runner);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<RunnerId, Timestamp>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_contact_counts_until_the_runner_is_forgotten() {
        let (contacts, runner) = (Contacts::default(), RunnerId::generate());
        let at = |second| Timestamp::from_second(second).expect("a time");
        assert_eq!(contacts.last(&runner), None);
        contacts.touch(&runner, at(20));
        contacts.touch(&runner, at(10));
        assert_eq!(contacts.last(&runner), Some(at(10)), "the clock was set back meanwhile");
        contacts.forget(&runner);
        assert_eq!(contacts.last(&runner), None);
    }
}
