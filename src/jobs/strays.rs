//! Containers that carry our mark but belong to no open runner: an answer to a create that came after we had given up, or what ran after the
//! backup was made that the store was restored from. They are removed, and until they are gone no container of the same job is started.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tracing::warn;

use super::deps::Shared;
use super::observer::{EngineSight, EngineView};
use super::ops::Operations;
use super::reconcile::InFlight;
use super::stopping::until_stopped;
use crate::domain::{Aggregate, JobId, RunnerId, Source, chain};

/// Wait before a stray that could not be removed is tried again.
const RETRY: Duration = Duration::from_secs(30);
/// Removals that go on at once. The engine takes no more containers away in a second when more are asked of it, and everybody else waits longer.
const AT_ONCE: usize = 4;

/// A container of ours that no runner knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stray {
    name: String,
    /// The engine's id.
    id: String,
    /// The job that it was made for; one that was made without may have been given any of GitLab's.
    job: Option<JobId>,
}

/// When each was seen first, and what became of its removal.
#[derive(Debug)]
pub(super) struct Strays {
    tried: HashMap<String, Tried>,
    turns: Arc<Semaphore>,
}

#[derive(Debug)]
struct Tried {
    first: Instant,
    last: Instant,
    removal: Option<AbortHandle>,
}

impl Default for Strays {
    fn default() -> Self {
        Self { tried: HashMap::new(), turns: Arc::new(Semaphore::new(AT_ONCE)) }
    }
}

impl Strays {
    /// Those that the engine shows.
    pub(super) fn find(&mut self, shared: &Shared, operations: &Operations, open: &[Aggregate], view: &EngineView) -> Vec<Stray> {
        let EngineSight::Up { containers, .. } = &view.sight else { return Vec::new() };
        self.tried.retain(|name, _| containers.contains_key(name));
        // A name is of a job's attempt: after a restore another runner may be given the same.
        let known: HashMap<String, &RunnerId> = open.iter().map(|aggregate| (aggregate.runner.container_name(), &aggregate.runner.id)).collect();
        let config = shared.deps.config.current();
        let mut strays = Vec::new();
        for (name, facts) in containers.iter() {
            let Some(owner) = facts.owner.as_ref().filter(|owner| owner.host == config.host.name) else { continue };
            if known.get(name) == Some(&&owner.runner) {
                continue;
            }
            // A view that is older than our last operation on the runner may show what that operation took away.
            if operations.on(&owner.runner) == InFlight::Nothing && operations.proven_after(&owner.runner) <= view.stamp {
                strays.push(Stray { name: name.clone(), id: facts.id.clone(), job: owner.job.as_ref().map(|(job, _attempt)| job.clone()) });
            }
        }
        strays
    }

    /// Removes them, those left out that were tried a moment ago.
    pub(super) fn remove(&mut self, shared: &Arc<Shared>, strays: &[Stray]) {
        for Stray { name, id, .. } in strays {
            if !self.is_due(name) {
                continue;
            }
            shared.deps.metrics.manager.strays.count([]);
            warn!(container = name, "a container of ours belongs to no runner; it is removed");
            let (shared, its, id, turns) = (Arc::clone(shared), name.clone(), id.clone(), Arc::clone(&self.turns));
            let removal = shared.deps.tracker.clone().spawn(async move {
                let Some(Ok(_turn)) = shared.deps.stop.run_until_cancelled(turns.acquire()).await else { return };
                // Another may have its name by now.
                if !is_there(&shared.observer.view(), &its, &id) {
                    return;
                }
                if let Some(Err(error)) = until_stopped(&shared.deps.stop, shared.deps.driver.remove(&its)).await {
                    warn!(container = its, error = chain(&error), "it could not be removed");
                }
                shared.observer.refresh();
            });
            if let Some(tried) = self.tried.get_mut(name) {
                tried.removal = Some(removal.abort_handle());
            }
        }
    }

    /// Whether one is to be removed now; then it is tried.
    fn is_due(&mut self, name: &str) -> bool {
        let now = Instant::now();
        let Some(tried) = self.tried.get_mut(name) else {
            self.tried.insert(name.to_owned(), Tried { first: now, last: now, removal: None });
            return true;
        };
        let goes_on = tried.removal.as_ref().is_some_and(|removal| !removal.is_finished());
        let due = !goes_on && now.duration_since(tried.last) >= RETRY;
        if due {
            tried.last = now;
        }
        due
    }

    /// How many have stayed for longer than `limit`.
    pub(super) fn stuck(&self, limit: Duration) -> usize {
        self.tried.values().filter(|tried| tried.first.elapsed() >= limit).count()
    }
}

/// Whether the engine shows this very container under the name.
fn is_there(view: &EngineView, name: &str, id: &str) -> bool {
    let EngineSight::Up { containers, .. } = &view.sight else { return false };
    containers.get(name).is_some_and(|facts| facts.id == id)
}

/// Whether what the engine shows under a name is not what our runner of that name made.
pub(super) fn is_stray(strays: &[Stray], name: &str) -> bool {
    strays.iter().any(|stray| stray.name == name)
}

/// Whether a runner's start has to wait, because a container that no runner knows may be at its job.
pub(super) fn holds_up(strays: &[Stray], aggregate: &Aggregate) -> bool {
    let Some(job) = &aggregate.job else { return false };
    strays.iter().any(|stray| stray.job.as_ref().map_or(job.spec.source == Source::GitLab, |stray| *stray == job.id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::contract_tests::{command, gitlab, requirement};

    #[test]
    fn a_start_waits_for_the_container_that_may_be_at_its_job() {
        let runner = crate::domain::Runner::planned(
            crate::domain::RunnerId::generate(),
            crate::domain::ClassName::from_trusted("default"),
            crate::domain::HostId::from_trusted("box1"),
            crate::domain::RunnerOrigin::Job,
            crate::domain::Placement {
                cpus: crate::domain::CpuMillis(1),
                memory: crate::domain::MemoryBytes(1),
                devices: Vec::new(),
                share: None,
                opened: None,
            },
            jiff::Timestamp::UNIX_EPOCH,
        );
        let with = |job| Aggregate { runner: runner.clone(), job };
        let (api, theirs) = (command(requirement("default", 1000), 0).job, gitlab(requirement("default", 1000), 0, 1).job);
        let stray = |job: Option<&JobId>| [Stray { name: "rc-x".to_owned(), id: "x".to_owned(), job: job.cloned() }];
        assert!(holds_up(&stray(Some(&api.id)), &with(Some(api.clone()))));
        assert!(!holds_up(&stray(Some(&theirs.id)), &with(Some(api.clone()))), "another's job");
        assert!(holds_up(&stray(None), &with(Some(theirs.clone()))), "one that waits at the broker may have got it");
        assert!(!holds_up(&stray(None), &with(Some(api.clone()))), "the broker gives out GitLab's jobs only");
        assert!(!holds_up(&stray(Some(&api.id)), &with(None)) && !holds_up(&[], &with(Some(api))));
    }

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
    }
}
