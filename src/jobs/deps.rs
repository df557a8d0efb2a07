//! What the manager and its operations work with, and the small decisions that several of them share.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::askers::Askers;
use super::assemble::Seams;
use super::board::Board;
use super::broker::Broker;
use super::conclude::Untold;
use super::disk::Disks;
use super::handle::ManagerHandle;
use super::images::ImageBook;
use super::network::Networks;
use super::observer::Observer;
use super::queue_there::QueueBoard;
use super::reconcile::Deadlines;
use super::vitals::Vitals;
use crate::config::{Class, Config};
use crate::docker::DriverError;
use crate::domain::{ClassName, Requirement, RetryPolicy, RunnerId, Start};
use crate::firewall::FirewallError;
use crate::store::StoreError;
use crate::store::log::LogWriter;

/// Everything that the manager works with: the world, which is met as if it were its own part, and what [`Seams::assemble`] makes around it.
#[derive(Debug)]
pub struct Deps {
    /// The world.
    pub seams: Seams,
    /// The broker.
    pub broker: Arc<Broker>,
    /// Signs of life.
    pub vitals: Arc<Vitals>,
    /// The manager's own face.
    pub handle: ManagerHandle,
    /// Where tasks are counted.
    pub tracker: TaskTracker,
    /// No new work from here on.
    pub stop: CancellationToken,
}

impl Deref for Deps {
    type Target = Seams;

    fn deref(&self) -> &Seams {
        &self.seams
    }
}

/// [`Deps`] with what the operations share among themselves.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) deps: Deps,
    pub(super) observer: Observer,
    /// Containers that may be created and started at once: more than twice the cores only makes each slower, as measured on two cores.
    pub(super) starts: Semaphore,
    pub(super) followers: Followers,
    pub(super) intake: Board,
    pub(super) askers: Askers,
    pub(super) queue_there: QueueBoard,
    pub(super) untold: Untold,
    pub(super) disks: Disks,
    pub(super) images: ImageBook,
    pub(super) networks: Networks,
}

/// A log that is being followed; its task hands the writer back when the container's output has ended.
pub(super) type Follower = JoinHandle<Option<LogWriter>>;

/// The logs that are being followed, by runner.
#[derive(Debug, Default)]
pub(super) struct Followers(Mutex<BTreeMap<RunnerId, Follower>>);

impl Followers {
    /// Starts one unless the runner has one.
    pub(super) fn ensure(&self, runner: &RunnerId, start: impl FnOnce() -> Follower) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !all.contains_key(runner) {
            all.insert(runner.clone(), start());
        }
    }

    /// Takes a runner's.
    pub(super) fn take(&self, runner: &RunnerId) -> Option<Follower> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(runner)
    }

    /// Ends those of runners that are gone: a log that somebody keeps open never ends for its readers.
    pub(super) fn retain(&self, keep: impl Fn(&RunnerId) -> bool) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|runner, follower| {
            let stays = keep(runner);
            if !stays {
                follower.abort();
            }
            stays
        });
    }
}

/// What stops an operation; it is tried again later.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Driver(#[from] DriverError),
    #[error("the rules of the firewall are not in force")]
    Firewall(#[from] FirewallError),
    #[error("a file of the job could not be written")]
    Log(#[from] std::io::Error),
    #[error("{0}")]
    NotYet(&'static str),
}

impl Shared {
    /// Nothing has been done yet.
    pub(super) fn new(deps: Deps, epoch_base: u64) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let observer = Observer::new(epoch_base, deps.proof.init().clone());
        let networks = Networks::new(Arc::clone(&deps.netfilter));
        Self {
            deps,
            observer,
            starts: Semaphore::new((2 * cores).min(8)),
            followers: Followers::default(),
            intake: Board::default(),
            askers: Askers::default(),
            queue_there: QueueBoard::default(),
            untold: Untold::default(),
            disks: Disks::default(),
            images: ImageBook::default(),
            networks,
        }
    }

    pub(super) fn retry_policy(&self) -> RetryPolicy {
        retry_policy(&self.deps.config.current())
    }

    pub(super) fn deadlines(&self) -> Deadlines {
        deadlines(&self.deps.config.current())
    }
}

/// How long a runner may stay silent or in a state, by the configuration.
pub(super) fn deadlines(config: &Config) -> Deadlines {
    let limits = &config.limits;
    Deadlines {
        report: limits.start_timeout,
        contact: limits.runner_contact_timeout,
        leave: Duration::from_secs(30),
        wind_down: Duration::from_secs(60),
    }
}

/// How failures that are not a job's own are tried again, by the configuration.
#[must_use]
pub(super) fn retry_policy(config: &Config) -> RetryPolicy {
    let limits = &config.limits;
    RetryPolicy { infrastructure_retries: limits.infrastructure_retries, backoff: limits.retry_backoff, backoff_max: limits.retry_backoff_max }
}

/// The class of that name.
#[must_use]
pub fn class_named<'c>(config: &'c Config, name: &ClassName) -> Option<&'c Class> {
    config.classes.iter().find(|class| class.name == *name)
}

/// What a runner of this class needs of a machine when nothing else is asked for.
#[must_use]
pub fn class_requirement(class: &Class) -> Requirement {
    Requirement {
        class: class.name.clone(),
        arch: class.arch,
        emulation: class.emulation,
        cpus: class.cpus,
        memory: class.memory,
        gpus: class.gpus.clone(),
        runtime: Some(class.runtime.clone()),
        start: Start::Any,
    }
}

#[cfg(test)]
#[path = "deps_fixture.rs"]
pub(super) mod fixture;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn followers_of_runners_that_are_gone_are_ended_and_the_others_go_on() {
        let (tracker, followers) = (TaskTracker::new(), Followers::default());
        let (gone, open) = (RunnerId::from_trusted("r1"), RunnerId::from_trusted("r2"));
        let (kept, mut given_back) = tokio::sync::mpsc::channel::<()>(1);
        for runner in [&gone, &open] {
            let kept = kept.clone();
            followers.ensure(runner, || {
                tracker.spawn(async move {
                    let _log = kept;
                    std::future::pending().await
                })
            });
        }
        drop(kept);
        followers.retain(|runner| *runner == open);
        assert!(followers.take(&gone).is_none());
        let follower = followers.take(&open).expect("it goes on");
        assert!(!follower.is_finished());
        follower.abort();
        // Each holds an end of the channel, and the first was left to end by itself.
        let all = tokio::time::timeout(Duration::from_secs(1), given_back.recv()).await;
        assert!(all.is_ok_and(|none| none.is_none()));
        tracker.close();
        tracker.wait().await;
    }
}
