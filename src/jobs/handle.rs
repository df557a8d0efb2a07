//! How the rest of the daemon speaks to the [`super::manager::JobManager`]: wake-ups, the few wishes that only its own task may
//! grant, and what it publishes about itself.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::disk::Disk;
use super::network::Unguarded;
use super::queue_there::GitLabQueue;
use super::stuck::Stuck;
use super::vitals::{Vital, Vitals};
use crate::domain::job::CancelEffect;
use crate::domain::{
    ClassName, CpuMillis, Drain, EndReason, GpuId, GpuVitals, HostFacts, Job, JobId, JobState, MemoryBytes, Quarantine, Runner, RunnerId,
    RunnerState, Source, Step,
};
use crate::platform::Unfit;
use crate::store::{Store, StoreError};
use crate::tasks::Tasks;

/// Wake-ups that may wait for the manager at once. More are not needed: one is as good as a hundred.
pub(super) const WAKE_QUEUE: usize = 64;

/// What reaches the manager's task.
#[derive(Debug)]
pub(super) enum Wake {
    /// Look again.
    Look,
    /// An operation on a runner ended.
    Done { runner: RunnerId, stamp: u64, result: OpResult },
    /// Answer after the next whole pass.
    Settle(oneshot::Sender<()>),
    /// A job of GitLab that waits here is to end, and GitLab to be told.
    Cancel { job: JobId, reason: EndReason, reply: oneshot::Sender<Result<Option<(Job, CancelEffect)>, StoreError>> },
    /// Plan a waiting runner of this class.
    Spawn { class: ClassName, reply: oneshot::Sender<Result<Spawned, StoreError>> },
    /// Do this with the machine.
    Host { wish: HostWish, reply: oneshot::Sender<Result<(), StoreError>> },
    /// Give a job back to GitLab that waits here, if the machine is still to get empty.
    GiveBack { job: JobId },
    /// Do this with a GPU.
    Mark { gpu: GpuId, mark: GpuMark, reply: oneshot::Sender<Result<GpuMarked, StoreError>> },
}

/// How an operation on a runner ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OpResult {
    /// It did what it was to do.
    Success,
    /// It has to be tried again.
    Failure,
}

/// What became of a wish for a waiting runner.
#[derive(Debug)]
pub enum Spawned {
    /// It will be started.
    Planned(Box<Runner>),
    /// No class has this name.
    NoSuchClass,
    /// The class takes no work from GitLab, so nothing would ever come to a runner that waits.
    NotForGitLab,
    /// The machine has no room for it, or never can.
    DoesNotFit(Vec<Unfit>),
    /// The machine takes no new work.
    Drained(Drain),
    /// The machine's disk is nearly full; in words.
    DiskFull(String),
    /// Its network is nothing without rules of the firewall, and they are not in force; why.
    Unguarded(String),
    /// The coordinator is stopping.
    Stopping,
}

/// What somebody wishes with this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostWish {
    /// It is to get empty: what runs ends by itself, and nothing new begins until it is resumed.
    Drain {
        /// The name of the token with which it is asked for.
        by: Option<String>,
        /// Why, for people.
        reason: Option<String>,
    },
    /// It takes work again.
    Resume,
}

/// What became of such a wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostSet {
    /// It is so, and written down.
    Done,
    /// The coordinator is stopping.
    Stopping,
}

/// What somebody wishes with a GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GpuMark {
    /// It is to be given to nobody until it is released. A job that has it goes on.
    Quarantine {
        /// Why, for people.
        reason: String,
    },
    /// It may be given to jobs again, whoever put it into quarantine.
    Release,
}

/// What became of such a wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GpuMarked {
    /// It is so, and written down.
    Done,
    /// There is no such GPU.
    Unknown,
    /// The coordinator is stopping.
    Stopping,
}

/// What became of a wish to end a runner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Termination {
    /// It is being ended.
    Ordered(Box<Runner>),
    /// It was being ended already, or is gone.
    AlreadyEnding(Box<Runner>),
    /// There is no such runner.
    Unknown,
}

/// Whether the engine answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EngineState {
    /// Nothing is known yet.
    Unknown,
    /// It does.
    Up {
        /// Its version.
        version: String,
        /// Since when.
        since: Timestamp,
    },
    /// It does not.
    Down {
        /// What it or the socket said.
        error: String,
        /// Since when.
        since: Timestamp,
    },
}

/// How asking GitLab for work goes, in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IntakeWord {
    /// It was not asked yet.
    Waiting,
    /// It is asked.
    Asking,
    /// It is not asked, because there is no room for its work.
    Full,
    /// It refuses the runner's token.
    Denied,
    /// It asked us to come less often.
    Limited,
    /// It does not answer as it should.
    Failing,
}

impl IntakeWord {
    /// Every word.
    pub const ALL: [Self; 6] = [Self::Waiting, Self::Asking, Self::Full, Self::Denied, Self::Limited, Self::Failing];

    /// The word in answers.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Asking => "asking",
            Self::Full => "full",
            Self::Denied => "denied",
            Self::Limited => "limited",
            Self::Failing => "failing",
        }
    }
}

/// How asking GitLab for work goes, for one class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IntakeState {
    /// The class.
    pub class: ClassName,
    /// In a word.
    pub state: IntakeWord,
    /// When GitLab last answered.
    pub last_answer_at: Option<Timestamp>,
    /// What went wrong last time.
    pub error: Option<String>,
}

/// What the manager knows of itself and the machine, published after every pass.
#[derive(Debug, Clone)]
pub struct Status {
    /// The engine.
    pub engine: EngineState,
    /// Why the engine cannot give jobs what proves their ends.
    pub unseen: Option<String>,
    /// The machine.
    pub facts: HostFacts,
    /// Its disks, as last looked at.
    pub disks: Vec<Disk>,
    /// Since when one of their file systems does not answer, if one does not; nothing new begins then.
    pub disks_silent: Option<Timestamp>,
    /// Why the rules of the firewall are not in force, if they are not and a class needs them.
    pub unguarded: Option<Unguarded>,
    /// Processor time that runners hold.
    pub used_cpus: CpuMillis,
    /// Memory that runners hold.
    pub used_memory: MemoryBytes,
    /// What its GPUs were doing when last looked at.
    pub gpu_vitals: BTreeMap<GpuId, GpuVitals>,
    /// GPUs that runners hold.
    pub devices_in_use: Vec<GpuId>,
    /// GPUs in quarantine, those that are not there at present among them.
    pub quarantines: BTreeMap<GpuId, Quarantine>,
    /// GitLab, by class; empty without GitLab.
    pub intake: Vec<IntakeState>,
    /// What waits in GitLab, as far as it was looked at; `None` without an access token to look with, and before the first look.
    pub gitlab_queue: Option<Arc<GitLabQueue>>,
    /// The base URL at which runners reach the broker, once it listens.
    pub broker: Option<String>,
    /// How many passes have ended. Unlike times it cannot jump.
    pub passes: u64,
    /// When the last pass ended, by the wall clock.
    pub last_tick_at: Timestamp,
    /// The same, by the steady clock.
    pub last_tick: Instant,
    /// What stopped the last pass, if anything did.
    pub last_tick_error: Option<String>,
    /// Whether it has been told to stop.
    pub stopping: bool,
    /// Why it is to get empty, if it is.
    pub drain: Option<Drain>,
    /// Runners that are not gone.
    pub runners: usize,
    /// Containers that cannot be taken away.
    pub stuck: Stuck,
    /// Classes for which there is room now and nothing of GitLab's waits.
    pub askable: HashSet<ClassName>,
}

/// The manager, for everybody else. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ManagerHandle {
    pub(super) wake: mpsc::Sender<Wake>,
    pub(super) status: watch::Receiver<Arc<Status>>,
    pub(super) bell: watch::Sender<u64>,
    pub(super) vitals: Arc<Vitals>,
    pub(super) store: Arc<dyn Store>,
    pub(super) clock: Arc<dyn crate::domain::Clock>,
    pub(super) tasks: Tasks,
}

impl ManagerHandle {
    /// Asks for a pass soon. Never waits: when the queue of wake-ups is full, a pass is due anyway.
    pub fn nudge(&self) {
        let _ = self.wake.try_send(Wake::Look);
    }

    /// GitLab rang: work may wait there.
    pub fn ring(&self) {
        self.bell.send_modify(|rung| *rung = rung.wrapping_add(1));
    }

    /// What was published last.
    #[must_use]
    pub fn status(&self) -> Arc<Status> {
        self.status.borrow().clone()
    }

    /// The long-lived tasks of the daemon, the manager's own and others.
    #[must_use]
    pub fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    /// Signs of life of a runner.
    #[must_use]
    pub fn vitals(&self, runner: &RunnerId) -> Vital {
        self.vitals.of(runner)
    }

    /// Waits until a whole pass has begun and ended after this call. Ends early when the manager has stopped.
    pub async fn settle(&self) {
        let (reply, done) = oneshot::channel();
        if self.wake.send(Wake::Settle(reply)).await.is_ok() {
            let _ = done.await;
        }
    }

    /// Plans a runner of `class` that waits for work from GitLab.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn spawn(&self, class: ClassName) -> Result<Spawned, StoreError> {
        let (reply, answer) = oneshot::channel();
        if self.wake.send(Wake::Spawn { class, reply }).await.is_err() {
            return Ok(Spawned::Stopping);
        }
        answer.await.unwrap_or(Ok(Spawned::Stopping))
    }

    /// Puts a GPU into quarantine or releases it; [`Self::status`] shows it from then on. Doing it again does no harm.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn mark_gpu(&self, gpu: GpuId, mark: GpuMark) -> Result<GpuMarked, StoreError> {
        let (reply, answer) = oneshot::channel();
        if self.wake.send(Wake::Mark { gpu, mark, reply }).await.is_err() {
            return Ok(GpuMarked::Stopping);
        }
        answer.await.unwrap_or(Ok(GpuMarked::Stopping))
    }

    /// Drains this machine or resumes it; [`Self::status`] shows it from then on. Doing it again does no harm.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn set_host(&self, wish: HostWish) -> Result<HostSet, StoreError> {
        let (reply, answer) = oneshot::channel();
        if self.wake.send(Wake::Host { wish, reply }).await.is_err() {
            return Ok(HostSet::Stopping);
        }
        let Ok(set) = answer.await else { return Ok(HostSet::Stopping) };
        set?;
        // The pass that follows is the first to obey, and tells so.
        self.settle().await;
        Ok(HostSet::Done)
    }

    /// Asks that a job goes back to GitLab; whether it does is decided when its turn comes.
    pub(super) async fn give_back(&self, job: JobId) {
        let _ = self.wake.send(Wake::GiveBack { job }).await;
    }

    /// Ends a job, or has it ended ([`Job::cancel`]). `None` when there is no such job.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn cancel(&self, id: &JobId, reason: EndReason) -> Result<Option<(Job, CancelEffect)>, StoreError> {
        let Some(job) = self.store.job(id).await? else { return Ok(None) };
        let cancelled = if job.spec.source == Source::GitLab && matches!(job.state, JobState::Queued { .. }) {
            let (reply, answer) = oneshot::channel();
            // What could not be sent holds the other end of the answer, so nobody waits for that one.
            let answer = match self.wake.send(Wake::Cancel { job: job.id, reason, reply }).await {
                Ok(()) => answer.await.ok(),
                Err(_) => None,
            };
            match answer {
                Some(cancelled) => cancelled?,
                None => self.store.cancel_job(id, reason, self.clock.now()).await?,
            }
        } else {
            self.store.cancel_job(id, reason, self.clock.now()).await?
        };
        self.nudge();
        Ok(cancelled)
    }

    /// Orders a runner's end; its job, if any, ends with [`EndReason::RunnerTerminated`].
    ///
    /// # Errors
    /// When the store fails.
    pub async fn terminate(&self, runner: &RunnerId) -> Result<Termination, StoreError> {
        let Some(before) = self.store.runner(runner).await? else { return Ok(Termination::Unknown) };
        match before.runner.state {
            RunnerState::Stopping { .. } | RunnerState::Lost { .. } | RunnerState::Gone { .. } => {
                Ok(Termination::AlreadyEnding(Box::new(before.runner)))
            }
            RunnerState::Starting { .. } | RunnerState::Idle | RunnerState::Busy => {
                let step = Step::StopOrdered { reason: EndReason::RunnerTerminated };
                let after = self.store.apply(runner, step, self.clock.now()).await?;
                self.nudge();
                Ok(Termination::Ordered(Box::new(after.runner)))
            }
        }
    }
}
