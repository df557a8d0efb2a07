//! Containers that carry our mark but belong to no open runner: an answer to a create that came after we had given up, or what ran after the
//! backup was made that the store was restored from. They are removed, and until they are gone no container of the same job is started.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use tracing::warn;

use super::deps::Shared;
use super::observer::{EngineSight, EngineView};
use super::ops::Operations;
use super::reconcile::InFlight;
use crate::domain::{Aggregate, JobId, RunnerId, Source, chain};

/// Wait before a stray that could not be removed is tried again.
const RETRY: SignedDuration = SignedDuration::from_secs(30);

/// A container of ours that no runner knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stray {
    name: String,
    /// The job that it was made for; one that was made without may have been given any of GitLab's.
    job: Option<JobId>,
}

/// When each was tried last.
#[derive(Debug, Default)]
pub(super) struct Strays(HashMap<String, Timestamp>);

impl Strays {
    /// Those that the engine shows.
    pub(super) fn find(&mut self, shared: &Shared, operations: &Operations, open: &[Aggregate], view: &EngineView) -> Vec<Stray> {
        let EngineSight::Up { containers, .. } = &view.sight else { return Vec::new() };
        self.0.retain(|name, _| containers.contains_key(name));
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
                strays.push(Stray { name: name.clone(), job: owner.job.as_ref().map(|(job, _attempt)| job.clone()) });
            }
        }
        strays
    }

    /// Removes them, those left out that were tried a moment ago.
    pub(super) fn remove(&mut self, shared: &Arc<Shared>, strays: &[Stray], now: Timestamp) {
        for Stray { name, .. } in strays {
            if self.0.get(name).is_some_and(|at| now.duration_since(*at) < RETRY) {
                continue;
            }
            self.0.insert(name.clone(), now);
            shared.deps.metrics.manager.strays.count([]);
            warn!(container = name, "a container of ours belongs to no runner; it is removed");
            let (shared, name) = (Arc::clone(shared), name.clone());
            shared.deps.tracker.clone().spawn(async move {
                if let Err(error) = shared.deps.driver.remove(&name).await {
                    warn!(container = name, error = chain(&error), "it could not be removed");
                }
                shared.observer.refresh();
            });
        }
    }
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
            crate::domain::Placement { cpus: crate::domain::CpuMillis(1), memory: crate::domain::MemoryBytes(1), devices: Vec::new(), share: None },
            Timestamp::UNIX_EPOCH,
        );
        let with = |job| Aggregate { runner: runner.clone(), job };
        let (api, theirs) = (command(requirement("default", 1000), 0).job, gitlab(requirement("default", 1000), 0, 1).job);
        let stray = |job: Option<&JobId>| [Stray { name: "rc-x".to_owned(), job: job.cloned() }];
        assert!(holds_up(&stray(Some(&api.id)), &with(Some(api.clone()))));
        assert!(!holds_up(&stray(Some(&theirs.id)), &with(Some(api.clone()))), "another's job");
        assert!(holds_up(&stray(None), &with(Some(theirs.clone()))), "one that waits at the broker may have got it");
        assert!(!holds_up(&stray(None), &with(Some(api.clone()))), "the broker gives out GitLab's jobs only");
        assert!(!holds_up(&stray(Some(&api.id)), &with(None)) && !holds_up(&[], &with(Some(api))));
    }
}
