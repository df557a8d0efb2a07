//! Gives the machine's free room away: waiting jobs first, then warm runners, then it may be offered to GitLab.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;
use tracing::{debug, info};

use super::deps::{Shared, class_named, class_requirement};
use super::handle::Spawned;
use super::observer::{EngineSight, EngineView};
use super::publish::Planned;
use super::turn::{Rules, Turn, fitting, turn};
use super::{disk, drain, gpus};
use crate::config::Config;
use crate::domain::retry::doubled;
use crate::domain::{
    Aggregate, ClassName, EndReason, GpuId, HostFacts, Placement, Requirement, Runner, RunnerId, RunnerOrigin, RunnerState, Start, Step,
};
use crate::platform::Ledger;
use crate::store::{Candidate, StoreError, Waiting};

/// Most jobs that one pass claims, so that a pass stays short; the next one follows at once.
const CLAIMS_PER_PASS: usize = 64;
/// So many jobs of a class that wait only for their projects' limits, and GitLab is not asked for more of the class: they are kept alive there.
const MOST_CAPPED: u64 = 64;
/// First wait before a runner that died without work is replaced; doubled each time.
const REPLACE_AFTER: Duration = Duration::from_secs(1);
/// Longest such wait.
const REPLACE_AFTER_MAX: Duration = Duration::from_secs(60);

/// Runners that died without work and are to be replaced, by class.
#[derive(Debug, Default)]
pub(super) struct Restarts {
    by_class: HashMap<ClassName, Restart>,
    seen: HashSet<RunnerId>,
}

#[derive(Debug, Default)]
struct Restart {
    /// Deaths without work in a row.
    deaths: u32,
    not_before: Option<Instant>,
    /// Runners asked for by `POST /runners` that died and are owed.
    owed: u32,
}

impl Restarts {
    /// Notes the runners that are dying without having had work, each once.
    fn observe(&mut self, open: &[Aggregate]) {
        for Aggregate { runner, .. } in open {
            let without_work = runner.job.is_none() && runner.origin != RunnerOrigin::Job;
            match runner.state {
                RunnerState::Idle => {
                    if let Some(restart) = self.by_class.get_mut(&runner.class) {
                        restart.deaths = 0;
                    }
                }
                RunnerState::Stopping { reason } if without_work && reason == Some(crate::domain::EndReason::RunnerTerminated) => {}
                RunnerState::Stopping { .. } | RunnerState::Lost { .. } if without_work && self.seen.insert(runner.id.clone()) => {
                    let restart = self.by_class.entry(runner.class.clone()).or_default();
                    let wait = doubled(REPLACE_AFTER, restart.deaths, REPLACE_AFTER_MAX);
                    restart.deaths = restart.deaths.saturating_add(1);
                    restart.not_before = Some(Instant::now() + wait);
                    restart.owed += u32::from(runner.origin == RunnerOrigin::Request);
                }
                RunnerState::Starting { .. }
                | RunnerState::Busy
                | RunnerState::Stopping { .. }
                | RunnerState::Lost { .. }
                | RunnerState::Gone { .. } => {}
            }
        }
        let ids: HashSet<&RunnerId> = open.iter().map(|aggregate| &aggregate.runner.id).collect();
        self.seen.retain(|runner| ids.contains(runner));
    }
}

/// What was given away.
#[derive(Debug)]
pub(super) struct Plan {
    /// Runners to launch.
    pub(super) launch: Vec<Aggregate>,
    /// All runners that are not gone.
    pub(super) open: HashSet<RunnerId>,
    /// What is to be published.
    pub(super) numbers: Planned,
}

/// Claims what fits, keeps the warm runners, and finds for which classes GitLab may be asked.
pub(super) async fn plan(
    shared: &Shared,
    config: &Config,
    restarts: &mut Restarts,
    mut open: Vec<Aggregate>,
    view: &EngineView,
    now: Timestamp,
) -> Result<Plan, StoreError> {
    gpus::hold(shared, &open, view, now);
    let drained = shared.deps.store.drain(&config.host.name).await?;
    let facts = shared.deps.platform.facts();
    let mut room = Room { config, ledger: ledger(&facts, &open), launch: Vec::new() };
    let up = if let EngineSight::Up { containers, .. } = &view.sight {
        // A container that no runner knows of goes soon; until then its GPUs are nobody else's. What a runner knows of is reserved already, and
        // of a GPU that it shares only its share.
        let known: HashMap<String, &Runner> = open.iter().map(|aggregate| (aggregate.runner.container_name(), &aggregate.runner)).collect();
        for (name, container) in containers.iter() {
            let placed = known.get(name).map(|runner| runner.placement.devices.as_slice()).unwrap_or_default();
            let more: Vec<GpuId> = container.devices.iter().filter(|gpu| !placed.contains(gpu)).cloned().collect();
            room.ledger.hold(&more);
        }
        true
    } else {
        false
    };
    restarts.observe(&open);
    let begins = up && drained.is_none() && shared.disks.let_begin(view);
    if up {
        gpus::evict(shared, &facts, &open, now).await?;
        if drained.is_some() {
            drain::clear(shared, &open).await?;
        } else if begins {
            let left = claim(shared, &mut room, &mut open, view, now).await?;
            make_way(shared, &left, &room, &open, now).await?;
            if crowded_out(config, &facts, &left) {
                end_one_that_waits(shared, &open, |_| true, now).await?;
            } else {
                keep_warm(shared, restarts, &open, &mut room, now).await?;
            }
        }
    }
    let askable = if begins { askable(shared, &room, &open).await? } else { HashSet::new() };
    let (used, launch) = (room.ledger.used(), room.launch);
    shared.deps.platform.take_gpus(launch.iter().flat_map(|aggregate| &aggregate.runner.placement.devices), now);
    open.extend(launch.iter().cloned());
    let numbers = Planned::new(used, &open, askable, drained);
    Ok(Plan { launch, open: open.into_iter().map(|aggregate| aggregate.runner.id).collect(), numbers })
}

/// What is left of the machine in this pass, and the runners that took the rest.
struct Room<'f> {
    /// The settings of this pass.
    config: &'f Config,
    ledger: Ledger<'f>,
    launch: Vec<Aggregate>,
}

impl Room<'_> {
    fn take(&mut self, aggregate: Aggregate) {
        self.ledger.reserve(&aggregate.runner.class, &aggregate.runner.placement);
        self.launch.push(aggregate);
    }
}

/// Gives waiting jobs of GitLab to runners that wait at the broker, where `waiting` has one for them: asking the store costs a commit.
async fn assign_warm(shared: &Shared, waiting: &[Waiting], open: &mut [Aggregate], view: &EngineView, now: Timestamp) -> Result<(), StoreError> {
    let EngineSight::Up { containers, .. } = &view.sight else { return Ok(()) };
    let wanted = |class: &ClassName| waiting.iter().any(|waiting| waiting.requirement.class == *class && waiting.requirement.start == Start::Any);
    let is_free = |runner: &Runner| runner.state == RunnerState::Idle && runner.job.is_none() && wanted(&runner.class);
    for aggregate in open.iter_mut().filter(|aggregate| is_free(&aggregate.runner)) {
        // One whose container has just ended would only lose the job again.
        if !containers.get(&aggregate.runner.container_name()).is_some_and(|facts| facts.state.is_up()) {
            continue;
        }
        match shared.deps.store.assign(&aggregate.runner.id, now).await {
            Ok(Some(bound)) => *aggregate = bound,
            // None waits, or the runner was told to end meanwhile.
            Ok(None) | Err(StoreError::Refused(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// GPUs of runners that wait for work.
fn kept_long(open: &[Aggregate]) -> Vec<GpuId> {
    let idle = open.iter().map(|aggregate| &aggregate.runner).filter(|runner| runner.state == RunnerState::Idle && runner.job.is_none());
    idle.flat_map(|runner| runner.placement.devices.iter().cloned()).collect()
}

/// Gives waiting jobs to runners that wait, and room to the others. Tells what still waits.
async fn claim(shared: &Shared, room: &mut Room<'_>, open: &mut [Aggregate], view: &EngineView, now: Timestamp) -> Result<Vec<Waiting>, StoreError> {
    let deps = &shared.deps;
    let config = room.config;
    let limit = |class: &ClassName| class_named(config, class).and_then(|class| class.max_runners);
    let kept_long = kept_long(open);
    let rules = Rules { limit: &limit, hold_after: config.gpu.hold_after, kept_long: &kept_long };
    let mut settled = false;
    for _ in 0..CLAIMS_PER_PASS {
        let all_waiting = startable(shared, config).await?;
        let turn = if settled { Turn::Nobody } else { turn(&mut room.ledger, &all_waiting, &rules, now) };
        let among = match turn {
            Turn::First(first) => std::slice::from_ref(first),
            Turn::HeldBack(waiting) => {
                debug!(class = %waiting.requirement.class, since = %waiting.since, "GPUs are held back for a job that waited long");
                &all_waiting
            }
            Turn::Nobody => &all_waiting,
        };
        // One that goes first leaves the turn to the next.
        settled = !matches!(turn, Turn::First(_));
        // After the look at what waits: a job that comes in between would get a container of its own beside a runner that waits for it.
        assign_warm(shared, &all_waiting, open, view, now).await?;
        let candidate = |(waiting, placement): (&Waiting, Placement)| {
            let runner = new_runner(shared, waiting.requirement.class.clone(), RunnerOrigin::Job, placement, now);
            Candidate { requirement: waiting.id, runner }
        };
        let candidates: Vec<Candidate> = fitting(&room.ledger, among, &rules).into_iter().map(candidate).collect();
        if candidates.is_empty() {
            return Ok(all_waiting);
        }
        match deps.store.claim(&candidates, now).await? {
            Some(claimed) => room.take(claimed),
            None if settled => return Ok(all_waiting),
            // It was cancelled meanwhile.
            None => settled = true,
        }
    }
    deps.handle.nudge();
    startable(shared, config).await
}

/// What waits and is kept neither by its project's limits nor by the firewall. In a fleet a class that is not known here is another machine's; alone,
/// its jobs are taken to be ended.
async fn startable(shared: &Shared, config: &Config) -> Result<Vec<Waiting>, StoreError> {
    let mut waiting = shared.deps.store.waiting().await?;
    let closed = |class: &ClassName| class_named(config, class).is_some_and(|class| shared.networks.closes(class));
    let elsewhere = |class: &ClassName| shared.deps.store.fleet().is_some() && class_named(config, class).is_none();
    waiting.retain(|waiting| waiting.capped.is_none() && !closed(&waiting.requirement.class) && !elsewhere(&waiting.requirement.class));
    Ok(waiting)
}

/// Ends a runner that waits for work where a job of its class waits that it cannot take and that finds no room: else the two would
/// wait for ever. One at a time; once it is gone, its room goes to the job before another runner is kept warm in it.
async fn make_way(shared: &Shared, left: &[Waiting], room: &Room<'_>, open: &[Aggregate], now: Timestamp) -> Result<(), StoreError> {
    for waiting in left {
        let Some(class) = class_named(room.config, &waiting.requirement.class) else { continue };
        // What such a runner holds is enough for a job that needs the same.
        let enough = waiting.requirement == Requirement { start: Start::Fresh, ..class_requirement(class) };
        if !enough || room.ledger.fit(&waiting.requirement, class.max_runners).is_ok() {
            continue;
        }
        end_one_that_waits(shared, open, |runner| runner.class == class.name, now).await?;
    }
    Ok(())
}

/// Whether a job waits that would never find room beside the runners that are kept warm, and finds it without them.
fn crowded_out(config: &Config, facts: &HostFacts, left: &[Waiting]) -> bool {
    let limit = |class: &ClassName| class_named(config, class).and_then(|class| class.max_runners);
    let (empty, mut warm) = (ledger(facts, &[]), ledger(facts, &[]));
    for class in config.classes.iter().filter(|class| class.gitlab_token.is_some()) {
        for _ in 0..class.warm {
            let Ok(placement) = warm.fit(&class_requirement(class), class.max_runners) else { break };
            warm.reserve(&class.name, &placement);
        }
    }
    let fits = |ledger: &Ledger<'_>, waiting: &Waiting| ledger.fit(&waiting.requirement, limit(&waiting.requirement.class)).is_ok();
    left.iter().any(|waiting| !fits(&warm, waiting) && fits(&empty, waiting))
}

/// Ends a runner that waits for work, of those that are meant, unless one of them is ending already. One that somebody asked for is ended last.
async fn end_one_that_waits(shared: &Shared, open: &[Aggregate], meant: impl Fn(&Runner) -> bool, now: Timestamp) -> Result<(), StoreError> {
    let of_them = || open.iter().map(|aggregate| &aggregate.runner).filter(|runner| meant(runner));
    if of_them().any(|runner| matches!(runner.state, RunnerState::Stopping { .. } | RunnerState::Lost { .. })) {
        return Ok(());
    }
    let idle = of_them().filter(|runner| runner.state == RunnerState::Idle && runner.job.is_none());
    let Some(runner) = idle.min_by_key(|runner| runner.origin == RunnerOrigin::Request) else { return Ok(()) };
    info!(runner.id = %runner.id, class = %runner.class, "a runner that waits makes room for a job that it cannot take");
    match shared.deps.store.apply(&runner.id, Step::StopOrdered { reason: EndReason::RunnerTerminated }, now).await {
        // It got a job or was told to end meanwhile.
        Ok(_) | Err(StoreError::Refused(_)) => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

/// Plans runners up to each class's `warm`, and those that are owed for one that was asked for and died.
async fn keep_warm(shared: &Shared, restarts: &mut Restarts, open: &[Aggregate], room: &mut Room<'_>, now: Timestamp) -> Result<(), StoreError> {
    for class in room.config.classes.iter().filter(|class| class.gitlab_token.is_some() && !shared.networks.closes(class)) {
        let restart = restarts.by_class.entry(class.name.clone()).or_default();
        if restart.not_before.is_some_and(|not_before| not_before > Instant::now()) {
            continue;
        }
        let waiting = |origin| open.iter().filter(|aggregate| waits(&aggregate.runner, &class.name) && aggregate.runner.origin == origin).count();
        let missing = class.warm.saturating_sub(u32::try_from(waiting(RunnerOrigin::Pool)).unwrap_or(u32::MAX));
        let origins = std::iter::repeat_n(RunnerOrigin::Request, usize::try_from(restart.owed).unwrap_or(0))
            .chain(std::iter::repeat_n(RunnerOrigin::Pool, usize::try_from(missing).unwrap_or(0)));
        for origin in origins {
            // All of a class need the same, so where one does not fit, none does.
            let Ok(placement) = room.ledger.fit(&class_requirement(class), class.max_runners) else { break };
            let runner = Runner { restarts: restart.deaths, ..new_runner(shared, class.name.clone(), origin, placement, now) };
            shared.deps.store.plan_runner(&runner).await?;
            restart.owed -= u32::from(origin == RunnerOrigin::Request);
            room.take(Aggregate::new(runner, None));
        }
    }
    Ok(())
}

/// Classes for which there is room or a waiting runner, and of whose jobs none waits here already. Those that wait for their project's limits
/// do not count, up to [`MOST_CAPPED`], or one project would keep all others of the class out.
async fn askable(shared: &Shared, Room { config, ledger, .. }: &Room<'_>, open: &[Aggregate]) -> Result<HashSet<ClassName>, StoreError> {
    let deps = &shared.deps;
    if deps.gitlab.is_none() {
        return Ok(HashSet::new());
    }
    let mut waiting: HashMap<ClassName, u64> = HashMap::new();
    for Waiting { requirement, jobs, capped, .. } in deps.store.waiting().await? {
        *waiting.entry(requirement.class).or_default() += if capped.is_some() { jobs } else { MOST_CAPPED };
    }
    let crowded = |class: &ClassName| waiting.get(class).is_some_and(|jobs| *jobs >= MOST_CAPPED);
    let room = |class: &crate::config::Class| {
        let idle = open.iter().any(|aggregate| aggregate.runner.state == RunnerState::Idle && aggregate.runner.class == class.name);
        idle || ledger.fit(&class_requirement(class), class.max_runners).is_ok()
    };
    let classes = config.classes.iter().filter(|class| class.gitlab_token.is_some() && !shared.networks.closes(class));
    Ok(classes.filter(|class| !crowded(&class.name) && room(class)).map(|class| class.name.clone()).collect())
}

/// Plans a waiting runner because somebody asked for it.
pub(super) async fn spawn(shared: &Shared, name: ClassName) -> Result<Spawned, StoreError> {
    let deps = &shared.deps;
    let config = deps.config.current();
    let Some(class) = class_named(&config, &name) else { return Ok(Spawned::NoSuchClass) };
    if class.gitlab_token.is_none() {
        return Ok(Spawned::NotForGitLab);
    }
    if let Some(drain) = deps.store.drain(&config.host.name).await? {
        return Ok(Spawned::Drained(drain));
    }
    if let Some(disk) = disk::full(&shared.disks.read()) {
        return Ok(Spawned::DiskFull(disk.to_string()));
    }
    if let Some(unguarded) = shared.networks.unguarded().filter(|_| class.network.is_filtered()) {
        return Ok(Spawned::Unguarded(unguarded.why));
    }
    let now = deps.clock.now();
    let open = deps.store.open_runners(&config.host.name).await?;
    gpus::hold(shared, &open, &shared.observer.view(), now);
    let facts = deps.platform.facts();
    let placement = match ledger(&facts, &open).fit(&class_requirement(class), class.max_runners) {
        Ok(placement) => placement,
        Err(missing) => return Ok(Spawned::DoesNotFit(missing)),
    };
    let runner = new_runner(shared, name, RunnerOrigin::Request, placement, now);
    deps.store.plan_runner(&runner).await?;
    Ok(Spawned::Planned(Box::new(runner)))
}

fn ledger<'f>(facts: &'f HostFacts, open: &[Aggregate]) -> Ledger<'f> {
    Ledger::new(facts, open.iter().map(|aggregate| (&aggregate.runner.class, &aggregate.runner.placement)))
}

fn new_runner(shared: &Shared, class: ClassName, origin: RunnerOrigin, placement: Placement, now: Timestamp) -> Runner {
    Runner::planned(RunnerId::generate(), class, shared.deps.config.current().host.name.clone(), origin, placement, now)
}

fn waits(runner: &Runner, class: &ClassName) -> bool {
    runner.class == *class && runner.job.is_none() && matches!(runner.state, RunnerState::Starting { .. } | RunnerState::Idle)
}
