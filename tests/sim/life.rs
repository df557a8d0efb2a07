//! One daemon's life in the world: put together as the composition root does it, until it dies, is stopped, or all is done.

use std::sync::Arc;
use std::time::Duration;

use runner_coordinator::config::{Config, Live};
use runner_coordinator::domain::{Aggregate, Clock, CpuMillis, HostId, MemoryBytes, RunnerOrigin};
use runner_coordinator::gitlab::GitLab;
use runner_coordinator::jobs::broker::Broker;
use runner_coordinator::jobs::{JobManager, ManagerHandle, Proof, Seams};
use runner_coordinator::metrics::Metrics;
use runner_coordinator::platform::{HostProbe, KernelFacts, PlatformManager};
use runner_coordinator::security::SecurityManager;
use runner_coordinator::store::log::LogStore;
use runner_coordinator::store::{SqliteStore, Store};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::driver::SimDriver;
use crate::engine::CPUS;
use crate::firewall::SimNetfilter;
use crate::gitlab::SimGitLab;
use crate::store::SimStore;
use crate::users::Users;
use crate::world::World;
use crate::{gpus, runner};

/// Every machine's name.
pub(crate) const HOST: &str = "box";
/// How long a daemon may take to stop.
const STOP: Duration = Duration::from_secs(20);
/// How long after the last fault everything must be over.
const PATIENCE: u64 = 30 * 60 * 1000;

/// How a life ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Died,
    Stopped,
    /// Every job has ended and nothing is left.
    Done,
    /// It goes on and on.
    Stuck,
}

#[derive(Debug)]
struct Kernel;

impl HostProbe for Kernel {
    fn probe(&self) -> KernelFacts {
        KernelFacts { machine: "x86_64".to_owned(), cpus: CPUS, memory: MemoryBytes(16 << 30), boot: 1 }
    }
}

/// The settings of every simulated daemon.
fn config(world: &World, users: &Users) -> Config {
    let file = world.data.join("config.toml");
    let text = format!(
        "data_dir = \"{}\"\ndisk.low = \"0%\"\ndisk.full = \"0%\"\nhost.name = \"{HOST}\"\n\
         limits.start_timeout = \"20s\"\nlimits.stop_grace = \"2s\"\nlimits.infrastructure_retries = 2\nlimits.retry_backoff = \"1s\"\n\
         limits.retry_backoff_max = \"4s\"\n\
         [[classes]]\nname = \"default\"\nimage = \"job:1\"\ncpus = 1\nmemory = \"1GiB\"\ntimeout = \"60s\"\n{}",
        world.data.display(),
        if users.gitlab { users.classes_of_gitlab() } else { String::new() }
    );
    std::fs::write(&file, text).expect("a file is written");
    Config::load(Some(&file), std::iter::empty()).unwrap_or_else(|faults| panic!("{faults}"))
}

/// Lives until the world, a user or the end of the story says otherwise.
pub(crate) fn live(world: &Arc<World>, store: &Arc<SqliteStore>, users: &Arc<Users>, run: u64) -> End {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
    world.revive();
    let end = runtime.block_on(async {
        world.time.begin();
        let daemon = Daemon::start(world, store, users, run).await;
        let others = TaskTracker::new();
        others.spawn(gpus::watch(Arc::clone(world), Arc::clone(&daemon.platform), daemon.handle.clone()));
        let outside = Arc::clone(world);
        others.spawn(async move { outside.turn().await });
        let (acting, theirs, handle) = (Arc::clone(users), Arc::clone(world), daemon.handle.clone());
        let way: Arc<dyn Store> = Arc::clone(&daemon.store);
        others.spawn(async move { acting.act(&theirs, way.as_ref(), &handle).await });
        others.spawn(runner::run_all(Arc::clone(world), Arc::clone(&daemon.broker), others.clone()));
        let mut end = tokio::select! {
            biased;
            () = world.death.notified() => End::Died,
            end = watch_over(world, store, users) => end,
        };
        if end == End::Stopped {
            daemon.stop.cancel();
            daemon.tracker.close();
            tokio::select! {
                biased;
                () = world.death.notified() => end = End::Died,
                stopped = tokio::time::timeout(STOP, daemon.tracker.wait()) => if stopped.is_err() {
                    let now = world.now();
                    world.engine().story.breach(now, "it did not stop in time");
                }
            }
        }
        world.time.freeze();
        end
    });
    runtime.shutdown_background();
    end
}

/// Looks every now and then at what every promise is about; ends when there is nothing more to wait for.
async fn watch_over(world: &World, store: &SqliteStore, users: &Users) -> End {
    loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        users.look(world, store).await;
        let now = world.now();
        if now < users.storm_ends {
            let mut engine = world.engine();
            if engine.chance(|dials| dials.stop / 2) {
                engine.story.tell(now, "it is told to stop");
                return End::Stopped;
            }
            continue;
        }
        if !world.is_calm() {
            world.calm();
        }
        if users.are_done() && nothing_left(world, store).await {
            return End::Done;
        }
        if now > users.storm_ends + PATIENCE {
            return End::Stuck;
        }
    }
}

async fn nothing_left(world: &World, store: &SqliteStore) -> bool {
    let open = store.open_runners(&HostId::from_trusted(HOST)).await.expect("a store");
    let counts = store.counts().await.expect("a store");
    let unfinished = |(state, jobs): &(String, u64)| ["queued", "starting", "running"].contains(&state.as_str()) && *jobs > 0;
    let waits = |aggregate: &Aggregate| aggregate.runner.origin == RunnerOrigin::Pool && aggregate.job.is_none();
    let busy = open.iter().any(|aggregate| !waits(aggregate));
    let kept: Vec<String> = open.iter().map(|aggregate| aggregate.runner.container_name()).collect();
    let stray = world.engine().containers.keys().any(|name| !kept.contains(name));
    !busy && !stray && !counts.jobs.iter().any(unfinished) && world.gitlab().are_done()
}

/// What was remembered of the GPUs, and which of them runners hold.
async fn recall_gpus(store: &SqliteStore, platform: &PlatformManager, now: jiff::Timestamp) {
    let host = HostId::from_trusted(HOST);
    platform.recall_gpus(store.gpu_records(&host).await.expect("a store"), now);
    let open = store.open_runners(&host).await.expect("a store");
    platform.take_gpus(open.iter().flat_map(|aggregate| &aggregate.runner.placement.devices), now);
}

struct Daemon {
    handle: ManagerHandle,
    store: Arc<dyn Store>,
    platform: Arc<PlatformManager>,
    broker: Arc<Broker>,
    tracker: TaskTracker,
    stop: CancellationToken,
}

impl Daemon {
    async fn start(world: &Arc<World>, inner: &Arc<SqliteStore>, users: &Users, run: u64) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(WorldClock(Arc::clone(world)));
        let config = Live::new(config(world, users), clock.now());
        let settings = config.current();
        let store: Arc<dyn Store> = Arc::new(SimStore { inner: Arc::clone(inner), world: Arc::clone(world) });
        let security = Arc::new(SecurityManager::open(&world.data, config.clone()).expect("keys"));
        let logs = Arc::new(LogStore::in_caller(world.data.join("logs"), 1 << 20));
        let platform = Arc::new(PlatformManager::new(settings.host.clone(), &Kernel));
        recall_gpus(inner, &platform, clock.now()).await;
        gpus::look(world, &platform);
        let seams = Seams {
            store: Arc::clone(&store),
            driver: Arc::new(SimDriver(Arc::clone(world))),
            netfilter: Arc::new(SimNetfilter(Arc::clone(world))),
            platform: Arc::clone(&platform),
            security,
            proof: Proof::open(&settings).expect("a place for receipts"),
            logs,
            clock,
            config,
            gitlab: users.gitlab.then(|| Arc::new(SimGitLab(Arc::clone(world))) as Arc<dyn GitLab>),
            listing: None,
            broker_url: watch::channel(Some("http://172.30.0.1:8093".to_owned())).1,
            metrics: Arc::new(Metrics::new(settings.classes.iter().map(|class| &class.name))),
        };
        let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
        let (deps, seat) = seams.assemble(tracker.clone(), stop.clone());
        let (handle, broker) = (deps.handle.clone(), Arc::clone(&deps.broker));
        tracker.spawn(JobManager::new(deps, seat, 1 << 32 | run << 16).run());
        Self { handle, store, platform, broker, tracker, stop }
    }
}

/// The world's clock as the daemon holds it.
#[derive(Debug)]
struct WorldClock(Arc<World>);

impl Clock for WorldClock {
    fn roll(&self) -> u64 {
        self.0.engine().rng.u64(..)
    }

    fn now(&self) -> jiff::Timestamp {
        Clock::now(&self.0.time)
    }
}

/// What the simulated classes run with by default.
pub(crate) const JOB_CPUS: CpuMillis = CpuMillis(1000);
