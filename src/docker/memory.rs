//! What an engine remembers of what happened. It forgets all of it when it ends, and the oldest when there is much, so that whoever was away
//! can tell whether the engine was too.

use std::collections::HashSet;

use bollard::models::EventMessage;

/// The engine's memory, as it was read once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EngineMemory {
    begun: HashSet<String>,
    oldest_ns: Option<u64>,
}

impl EngineMemory {
    pub(super) fn add(&mut self, event: EventMessage) {
        let at = event.time_nano.and_then(|at| u64::try_from(at).ok()).filter(|at| *at > 0);
        self.oldest_ns = self.oldest_ns.into_iter().chain(at).min();
        // A container that is just being started is listed before its start is remembered, so that it was made counts too.
        if matches!(event.action.as_deref(), Some("create" | "start")) {
            self.begun.extend(event.actor.and_then(|actor| actor.id));
        }
    }

    /// Whether the engine is shown to have gone on since the container was made or started, or since `seen_ns`, a moment at which it still gave its output.
    #[must_use]
    pub fn reaches_back(&self, container: &str, seen_ns: Option<u64>) -> bool {
        self.begun.contains(container) || self.oldest_ns.zip(seen_ns).is_some_and(|(oldest, seen)| oldest <= seen)
    }
}

#[cfg(test)]
mod tests {
    use bollard::models::EventActor;

    use super::*;

    fn memory(events: &[(&str, &str, i64)]) -> EngineMemory {
        let mut memory = EngineMemory::default();
        for (container, action, at) in events {
            let actor = EventActor { id: Some((*container).to_owned()), ..EventActor::default() };
            memory.add(EventMessage { action: Some((*action).to_owned()), actor: Some(actor), time_nano: Some(*at), ..EventMessage::default() });
        }
        memory
    }

    #[test]
    fn a_beginning_that_is_remembered_shows_that_the_engine_went_on() {
        let memory = memory(&[("c", "create", 4), ("a", "start", 6), ("b", "die", 7)]);
        assert!(memory.reaches_back("a", None));
        assert!(memory.reaches_back("c", None), "its start is under way, or is yet to be remembered");
        assert!(!memory.reaches_back("b", None), "it started before all that is remembered");
        assert!(!EngineMemory::default().reaches_back("a", Some(9)), "an engine that remembers nothing shows nothing");
    }

    #[test]
    fn so_does_a_memory_that_is_older_than_the_last_output() {
        let memory = memory(&[("a", "die", 7), ("c", "die", 5)]);
        assert!(memory.reaches_back("b", Some(5)) && memory.reaches_back("b", Some(6)));
        assert!(!memory.reaches_back("b", Some(4)));
    }
}
