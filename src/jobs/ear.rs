//! Whether the engine's events still come: a stream that is dead without an end says as little as one to which nothing happens.
//!
//! The list of containers tells them apart. What changes in it was an event; where none was heard long after such a change, the stream is
//! deaf. Until then the list, which is read every few seconds anyway, is all that there is.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::docker::ContainerFacts;

/// How long an event may come after the list showed what it tells, or before.
const PATIENCE: Duration = Duration::from_secs(2);

/// Compares what is listed with what is heard.
#[derive(Debug, Default)]
pub(super) struct Ear {
    known: Mutex<Known>,
    deaf: Notify,
}

#[derive(Debug, Default)]
struct Known {
    /// When an event came, until a list is read long after it: what the lists until then show may be what it told.
    heard: Option<Instant>,
    /// Since when the list has shown something of which nothing was heard.
    unheard: Option<Instant>,
}

impl Ear {
    /// An event came.
    pub(super) fn hears(&self) {
        *self.known() = Known { heard: Some(Instant::now()), unheard: None };
    }

    /// The list was read again.
    pub(super) fn compare(&self, before: &BTreeMap<String, ContainerFacts>, now: &BTreeMap<String, ContainerFacts>) {
        let mut known = self.known();
        let lately = known.heard.is_some();
        known.heard.take_if(|heard| heard.elapsed() >= PATIENCE);
        match known.unheard {
            Some(since) if since.elapsed() >= PATIENCE => {
                known.unheard = None;
                self.deaf.notify_one();
            }
            None if !lately && changed(before, now) => known.unheard = Some(Instant::now()),
            Some(_) | None => {}
        }
    }

    /// Waits until the events are deaf.
    pub(super) async fn is_deaf(&self) {
        self.deaf.notified().await;
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a container came, went, or began or ceased to run.
fn changed(before: &BTreeMap<String, ContainerFacts>, now: &BTreeMap<String, ContainerFacts>) -> bool {
    before.len() != now.len()
        || now.iter().any(|(name, facts)| before.get(name).is_none_or(|before| before.id != facts.id || before.state.is_up() != facts.state.is_up()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::docker::ContainerState;

    fn list(containers: &[(&str, ContainerState)]) -> BTreeMap<String, ContainerFacts> {
        let facts = |(name, state): &(&str, ContainerState)| ContainerFacts {
            id: (*name).to_owned(),
            name: (*name).to_owned(),
            owner: None,
            devices: Vec::new(),
            given: None,
            state: state.clone(),
            exit_code: None,
            oom_killed: None,
            error: String::new(),
            started_at: None,
            finished_at: None,
        };
        containers.iter().map(|one| (one.0.to_owned(), facts(one))).collect()
    }

    /// Whether deafness was found.
    async fn told(ear: &Ear) -> bool {
        tokio::time::timeout(Duration::ZERO, ear.is_deaf()).await.is_ok()
    }

    /// As it is usually: the event is what has the list read.
    #[tokio::test(start_paused = true)]
    async fn what_was_heard_before_the_list_shows_it_is_no_deafness() {
        let up = ContainerState::Running { pid: None };
        let (one, ended) = (list(&[("a", up)]), list(&[("a", ContainerState::Exited)]));
        let ear = Ear::default();
        for late in [0, 1] {
            ear.hears();
            // Some engines tell of an end before their list shows it.
            for _ in 0..late {
                ear.compare(&one, &one);
            }
            tokio::time::advance(PATIENCE / 10).await;
            ear.compare(&one, &ended);
            for _ in 0..3 {
                tokio::time::advance(PATIENCE * 2).await;
                ear.compare(&ended, &ended);
            }
            assert!(!told(&ear).await, "nothing happened since");
        }
        ear.compare(&one, &ended);
        tokio::time::advance(PATIENCE).await;
        ear.compare(&ended, &ended);
        assert!(told(&ear).await, "one event is no excuse for ever");
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_of_which_nothing_is_heard_is_deafness_and_silence_without_a_change_is_not() {
        let up = ContainerState::Running { pid: None };
        let (none, one, ended) = (list(&[]), list(&[("a", up.clone())]), list(&[("a", ContainerState::Exited)]));
        let ear = Ear::default();
        for _ in 0..3 {
            ear.compare(&one, &one);
            tokio::time::advance(PATIENCE).await;
        }
        assert!(!told(&ear).await, "nothing happens");
        for (before, after) in [(&none, &one), (&one, &none), (&one, &ended)] {
            ear.compare(before, after);
            ear.hears();
            tokio::time::advance(PATIENCE).await;
            ear.compare(after, after);
            assert!(!told(&ear).await, "it was heard of");
            ear.compare(before, after);
            ear.compare(after, after);
            assert!(!told(&ear).await, "it may still be heard of");
            tokio::time::advance(PATIENCE).await;
            ear.compare(after, after);
            assert!(told(&ear).await);
            ear.compare(after, after);
            assert!(!told(&ear).await, "told once");
        }
    }
}
