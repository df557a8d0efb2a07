//! The one task that decides.
//!
//! Start-up, a nudge, a timer, a container's death and a full channel all lead to the same `JobManager::tick`: read what is stored
//! and what the engine shows, decide with pure functions, act. A pass that is repeated does no harm, so losing a wake-up loses
//! nothing, and recovery after a crash is a pass like any other.
//!
//! Passes never wait for the engine: operations on containers run as tasks of their own, one at a time per runner, and the engine is
//! watched by the [`super::observer::Observer`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::ages::{Ages, Pass};
use super::conclude::cancel_waiting;
use super::deps::{Deps, Shared};
use super::follow::follow;
use super::handle::{ManagerHandle, Status, WAKE_QUEUE, Wake};
use super::hearing::{Broker, Hearing};
use super::held::Held;
use super::observer::{EngineSight, EngineView};
use super::ops::Operations;
use super::plan::Restarts;
use super::reconcile::{Action, InFlight, Receipt, Seen, Sight, decide};
use super::strays::{Stray, Strays, holds_up, is_stray};
use super::stuck::{self, Stuck};
use super::vitals::Vitals;
use super::{drain, gpus, plan, publish, retire};
use crate::config::Config;
use crate::docker::ContainerState;
use crate::domain::{Aggregate, Clock, EventKind, HostFacts, RunnerId, RunnerState, Step, chain};
use crate::store::{Store, StoreError};
use crate::tasks::Tasks;

/// Longest time between two passes.
const TICK: Duration = Duration::from_secs(1);

/// The ends of the channels that belong to the manager's task; made before it, so that others can hold a [`ManagerHandle`] first.
#[derive(Debug)]
pub struct Seat {
    wake: mpsc::Receiver<Wake>,
    status: watch::Sender<Arc<Status>>,
}

/// Makes the handle that others hold and the seat that [`JobManager::new`] takes.
#[must_use]
pub fn channel(store: Arc<dyn Store>, clock: Arc<dyn Clock>, vitals: Arc<Vitals>, facts: HostFacts) -> (ManagerHandle, Seat) {
    let (wake, woken) = mpsc::channel(WAKE_QUEUE);
    let (status, published) = watch::channel(Arc::new(publish::initial(facts, clock.now())));
    let tasks = Tasks::new(Arc::clone(&clock));
    let handle = ManagerHandle { wake, status: published, bell: watch::Sender::new(0), vitals, store, clock, tasks };
    (handle, Seat { wake: woken, status })
}

/// The scheduler of this machine.
#[derive(Debug)]
pub struct JobManager {
    shared: Arc<Shared>,
    seat: Seat,
    operations: Operations,
    strays: Strays,
    /// Runners whose container cannot be taken away, as found by the pass that goes on.
    stuck: BTreeMap<RunnerId, Timestamp>,
    ages: Ages,
    restarts: Restarts,
    hearing: Hearing,
    held: Held,
    adopted: bool,
    /// The settings of the pass before.
    config: Arc<Config>,
}

impl JobManager {
    /// A manager that has not begun.
    #[must_use]
    pub fn new(deps: Deps, seat: Seat, epoch_base: u64) -> Self {
        let shared = Shared::new(deps, epoch_base);
        shared.disks.publish_to(seat.status.clone());
        Self {
            config: shared.deps.config.current(),
            shared: Arc::new(shared),
            seat,
            operations: Operations::default(),
            strays: Strays::default(),
            stuck: BTreeMap::new(),
            ages: Ages::default(),
            restarts: Restarts::default(),
            hearing: Hearing::default(),
            held: Held::default(),
            adopted: false,
        }
    }

    /// Runs until told to stop. Containers are left running; the next start adopts them.
    pub async fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        self.sweep_receipts().await;
        // Before anything is begun.
        super::disk::first_look(&shared).await;
        self.spawn_watchers();
        let mut waiting: Vec<oneshot::Sender<()>> = Vec::new();
        loop {
            let began = Instant::now();
            let pass = self.tick().await;
            self.publish(pass.as_ref().err());
            self.held.note(&shared.deps.metrics, &self.seat.status.borrow(), began.into_std());
            shared.deps.metrics.manager.passes.observe([], began.elapsed());
            if let Err(error) = pass {
                shared.deps.metrics.manager.failures.count([]);
                error!(error = chain(&error), "a pass failed; the next one begins from scratch");
            }
            for reply in waiting.drain(..) {
                let _ = reply.send(());
            }
            // Both arms only wait: a message that is not taken stays in the channel.
            let woken = tokio::select! {
                biased;
                () = shared.deps.stop.cancelled() => break,
                wake = tokio::time::timeout(TICK, self.seat.wake.recv()) => wake,
            };
            match woken {
                Ok(Some(wake)) => self.on_wake(wake, &mut waiting).await,
                Ok(None) => break,
                Err(_) => {}
            }
            for wake in gathered(&mut self.seat.wake) {
                self.on_wake(wake, &mut waiting).await;
            }
        }
        info!(operations = self.operations.under_way(), "no new work; running containers are left to the next start");
    }

    /// Before anything is started: what a crash left of runners that are gone.
    async fn sweep_receipts(&self) {
        let deps = &self.shared.deps;
        match deps.store.open_runners(&deps.config.current().host.name).await {
            Ok(open) => deps.proof.sweep(|runner| open.iter().any(|aggregate| aggregate.runner.id == *runner)),
            Err(error) => warn!(error = chain(&error), "whose receipts are left is not known; the next start looks again"),
        }
    }

    fn spawn_watchers(&self) {
        keep(&self.shared, "observer", |shared| async move {
            let deps = &shared.deps;
            shared.observer.run(deps.driver.as_ref(), deps.clock.as_ref(), &deps.handle.wake, &deps.stop).await;
        });
        keep(&self.shared, "events", |shared| async move {
            shared.observer.follow_events(shared.deps.driver.as_ref(), &shared.deps.metrics, &shared.deps.stop).await;
        });
        keep(&self.shared, "sampler", |shared| async move { super::sample::run(&shared).await });
        keep(&self.shared, "retention", |shared| async move { super::retention::run(&shared).await });
        keep(&self.shared, "disks", |shared| async move { super::disk::run(&shared).await });
        keep(&self.shared, "networks", |shared| async move { super::network::run(&shared).await });
        if self.shared.deps.store.fleet().is_some() {
            keep(&self.shared, "lost_machines", |shared| async move { super::lost::run(&shared).await });
        }
        keep(&self.shared, "upkeep", |shared| async move { super::upkeep::run(&shared).await });
        if self.shared.deps.gitlab.is_some() {
            keep(&self.shared, "repair", |shared| async move { super::repair::run(&shared).await });
            keep(&self.shared, "askers", |shared| async move { super::askers::run(&shared).await });
        }
    }

    async fn on_wake(&mut self, wake: Wake, waiting: &mut Vec<oneshot::Sender<()>>) {
        match wake {
            Wake::Look => {}
            Wake::Done { runner, stamp, result } => {
                self.operations.on_done(&runner, stamp, result);
                self.shared.observer.refresh();
            }
            Wake::Settle(reply) => waiting.push(reply),
            Wake::Cancel { job, reason, reply } => {
                let shared = Arc::clone(&self.shared);
                self.shared.deps.tracker.spawn(async move {
                    let _ = reply.send(cancel_waiting(&shared, &job, reason).await);
                });
            }
            Wake::Spawn { class, reply } => {
                let _ = reply.send(plan::spawn(&self.shared, class).await);
            }
            Wake::Host { wish, reply } => {
                let _ = reply.send(drain::wish(&self.shared, wish).await);
            }
            Wake::GiveBack { job } => drain::give_back(&self.shared, &job).await,
            Wake::Mark { gpu, mark, reply } => {
                let marked = gpus::mark(&self.shared, &gpu, mark).await;
                let platform = &self.shared.deps.platform;
                self.seat.status.send_modify(|status| {
                    let status = Arc::make_mut(status);
                    (status.facts, status.quarantines) = (platform.facts(), platform.quarantines());
                });
                let _ = reply.send(marked);
            }
        }
    }

    /// One pass over everything.
    async fn tick(&mut self) -> Result<(), StoreError> {
        self.shared.deps.proof.keep_small();
        let now = self.shared.deps.clock.now();
        let view = self.shared.observer.view();
        self.promote_due(now).await?;
        let open = self.shared.deps.store.open_runners(&self.shared.deps.config.current().host.name).await?;
        if let EngineSight::Up { info, .. } = &view.sight {
            self.shared.deps.platform.on_engine(info);
        }
        let broker = if self.shared.deps.broker_url.borrow().is_some() { Broker::Listens } else { Broker::Silent };
        self.hearing.observe(broker, now);
        self.note_adopted(&open, &view, now).await?;
        let strays = self.strays.find(&self.shared, &self.operations, &open, &view);
        let pass = Pass::begin(now);
        self.stuck.clear();
        for aggregate in &open {
            self.step(aggregate, &view, &strays, &pass, now).await?;
        }
        self.ages.end(pass);
        self.strays.remove(&self.shared, &strays);
        let config = self.shared.deps.config.current();
        retire::retire(&self.shared, (&self.config, &config), &open, now).await?;
        let plan = plan::plan(&self.shared, &config, &mut self.restarts, open, &view, now).await?;
        self.config = config;
        // Before anything is started on a GPU it is written down how that was.
        gpus::save(&self.shared).await?;
        for aggregate in plan.launch.into_iter().filter(|aggregate| !holds_up(&strays, aggregate)) {
            self.operations.begin(&self.shared, aggregate, Action::Launch);
        }
        // What concerns runners that are gone is forgotten, so that nothing grows.
        self.operations.retain(&plan.open, view.stamp);
        self.shared.deps.vitals.retain(|runner| plan.open.contains(runner));
        self.shared.observer.retain(|runner| plan.open.contains(runner));
        self.shared.untold.retain(|runner| plan.open.contains(runner));
        self.shared.followers.retain(|runner| plan.open.contains(runner));
        let stuck = Stuck { runners: std::mem::take(&mut self.stuck), strays: self.strays.stuck(stuck_after(&self.config)) };
        self.seat.status.send_modify(|status| {
            let status = Arc::make_mut(status);
            plan.numbers.write(status);
            status.stuck = stuck;
        });
        Ok(())
    }

    /// Makes jobs startable whose back-off is over. None is longer than the configured one, so a job that is due later waits for a clock that was
    /// set back.
    async fn promote_due(&self, now: Timestamp) -> Result<(), StoreError> {
        let store = &self.shared.deps.store;
        let longest = now.checked_add(self.shared.retry_policy().backoff_max).unwrap_or(Timestamp::MAX);
        match store.promote_due(now).await? {
            Some(next) if next > longest => store.promote_due(next).await.map(|_| ()),
            Some(_) | None => Ok(()),
        }
    }

    /// Decides about one runner and acts.
    async fn step(&mut self, aggregate: &Aggregate, view: &EngineView, strays: &[Stray], pass: &Pass, now: Timestamp) -> Result<(), StoreError> {
        let runner = &aggregate.runner;
        let name = runner.container_name();
        let seen = if is_stray(strays, &name) { Seen::Unknown } else { seen(view, self.operations.proven_after(&runner.id), &name) };
        if matches!(seen, Seen::Listed(facts) if matches!(facts.state, ContainerState::Running { .. })) {
            self.ensure_follower(aggregate);
        }
        let known = stuck::Known {
            before: self.seat.status.borrow().stuck.runners.get(&runner.id).copied(),
            failing: self.operations.end_failing_since(&runner.id, now),
        };
        if let Some(since) = stuck::since(runner, seen, known, stuck_after(&self.shared.deps.config.current()), now) {
            self.note_stuck(&runner.id, since);
        }
        let begun = !matches!(runner.state, RunnerState::Starting { start_sent: None });
        let sight = Sight {
            seen,
            receipt: if begun { self.shared.deps.proof.sight(&self.shared.deps.security, aggregate) } else { Receipt::None },
            work: self.operations.on(&runner.id),
            contact: self.shared.deps.vitals.of(&runner.id).last_contact_at.or(runner.last_contact_at),
            listening_since: self.hearing.since(now),
        };
        if !matches!(runner.state, RunnerState::Starting { .. }) {
            // Whoever ordered its end, a pull for it is not worth going on with.
            self.operations.cancel_launch(&runner.id);
        }
        let ages = self.ages.of(&runner.id, pass);
        let Some(action) = decide(aggregate, &sight, &self.shared.deadlines(), &ages) else { return Ok(()) };
        let ordered = match action {
            Action::OrderStop(reason) => Some(Step::StopOrdered { reason }),
            Action::DeclareLost(reason) => Some(Step::Lost { reason }),
            Action::NoteStarted => Some(Step::Started),
            Action::Launch | Action::Stop | Action::Finish | Action::Remove => None,
        };
        let Some(step) = ordered else {
            if action == Action::Launch && holds_up(strays, aggregate) {
                return Ok(());
            }
            self.operations.begin(&self.shared, aggregate.clone(), action);
            return Ok(());
        };
        match self.shared.deps.store.apply(&runner.id, step, now).await {
            Ok(_) => {}
            // Somebody else was quicker; the next pass sees what they did.
            Err(StoreError::Refused(refused)) => info!(runner.id = %runner.id, %refused, "a decision came too late"),
            Err(error) => return Err(error),
        }
        self.operations.cancel_launch(&runner.id);
        self.shared.deps.handle.nudge();
        Ok(())
    }

    fn ensure_follower(&self, aggregate: &Aggregate) {
        let up = matches!(aggregate.runner.state, RunnerState::Starting { start_sent: Some(_) } | RunnerState::Busy | RunnerState::Stopping { .. });
        // Whoever ends a runner takes its follower: nobody would take another, and its log would never end.
        if aggregate.runs_command() && up && self.operations.on(&aggregate.runner.id) != InFlight::End {
            let (runner, name) = (&aggregate.runner.id, aggregate.runner.container_name());
            self.shared.followers.ensure(runner, || follow(&self.shared, aggregate, name));
        }
    }

    /// Once after a start, as soon as the engine was seen: says which runners were found alive.
    async fn note_adopted(&mut self, open: &[Aggregate], view: &EngineView, now: Timestamp) -> Result<(), StoreError> {
        if self.adopted || !matches!(view.sight, EngineSight::Up { .. }) {
            return Ok(());
        }
        self.adopted = true;
        for aggregate in open {
            if let Seen::Listed(facts) = seen(view, 0, &aggregate.runner.container_name())
                && matches!(facts.state, ContainerState::Running { .. })
            {
                info!(runner.id = %aggregate.runner.id, container = facts.name, "adopted");
                self.shared.deps.store.note(&aggregate.runner.id, EventKind::Adopted, now).await?;
            }
        }
        Ok(())
    }

    /// Says once that a container cannot be taken away.
    fn note_stuck(&mut self, runner: &RunnerId, since: Timestamp) {
        if !self.seat.status.borrow().stuck.runners.contains_key(runner) {
            warn!(runner.id = %runner, %since, "its container cannot be taken away; what it holds stays held, and it is tried on");
        }
        self.stuck.insert(runner.clone(), since);
    }

    fn publish(&mut self, error: Option<&StoreError>) {
        let status = publish::status(&self.shared, &self.seat.status.borrow(), error.map(|error| chain(error)));
        self.seat.status.send_replace(Arc::new(status));
    }
}

/// What has gathered by now, and no more than the channel holds: whoever sends on and on does not put the next pass off.
fn gathered(wake: &mut mpsc::Receiver<Wake>) -> Vec<Wake> {
    std::iter::from_fn(|| wake.try_recv().ok()).take(WAKE_QUEUE).collect()
}

/// Keeps one of the tasks beside the manager alive.
fn keep<F: Future<Output = ()> + Send>(shared: &Arc<Shared>, name: &'static str, task: impl Fn(Arc<Shared>) -> F + Send + 'static) {
    let (deps, shared) = (&shared.deps, Arc::clone(shared));
    deps.handle.tasks.keep((&deps.tracker, &deps.stop), name, move || task(Arc::clone(&shared)));
}

/// How long a container may stay after its end was ordered before that is told.
fn stuck_after(config: &Config) -> Duration {
    config.limits.stop_grace + config.limits.stuck_after
}

fn seen<'v>(view: &'v EngineView, after: u64, name: &str) -> Seen<'v> {
    match &view.sight {
        EngineSight::Up { containers, .. } if view.stamp >= after => containers.get(name).map_or(Seen::Absent, Seen::Listed),
        EngineSight::Up { .. } | EngineSight::Unknown | EngineSight::Down { .. } => Seen::Unknown,
    }
}

#[cfg(test)]
#[path = "manager_tests.rs"]
mod tests;
