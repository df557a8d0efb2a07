//! The composition root: turns settings into a running daemon. The only place that knows the concrete types; tests start the daemon
//! through the same function, with stand-ins for the outside world.

mod door;
mod fleet;
mod reload;

use std::net::SocketAddr;
use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use door::Door;
pub use reload::Reloader;

use crate::config::{Config, Live, StoreUrl, Traces};
use crate::docker::{DockerDriver, Driver, DriverError, Metered as MeteredDriver, RegistryLogin};
use crate::domain::{Clock, HostId, SystemClock};
use crate::firewall::{Netfilter, Nft};
use crate::gitlab::{GitLab, GitLabError, HttpGitLab, HttpListing, Listing, Metered as MeteredGitLab};
use crate::http::{AppState, Doors, router, serve, through_socket};
use crate::jobs::history;
use crate::jobs::{JobManager, ManagerHandle, Proof, Seams};
use crate::lifecycle::Lifecycle;
use crate::listen::{self, Inherited, ListenError, Listeners, LocalSocket};
use crate::metrics::Metrics;
use crate::platform::devices::{self, watch::Held};
use crate::platform::{HostProbe, PlatformManager, SystemProbe};
use crate::security::audit::{Act, AuditLog};
use crate::security::{SecurityError, SecurityManager};
use crate::store::log::LogStore;
use crate::store::postgres::Machine;
use crate::store::sqlite::SqliteStore;
use crate::store::{PostgresStore, RunnerFilter, Store, StoreError};
use crate::traces::{Collector, CollectorError, Exporter, Parts, cursor::Cursor, exporter, spans};

/// Why the daemon could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store could not be opened.
    #[error("the store cannot be opened")]
    Store(#[from] StoreError),
    /// What tells this machine from others cannot be kept.
    #[error("what tells this machine from others cannot be kept in data_dir")]
    Machine(#[source] std::io::Error),
    /// Own keys could not be read or made.
    #[error("the daemon's own keys cannot be used")]
    Security(#[from] SecurityError),
    /// What proves the ends of jobs has no place.
    #[error("what proves the ends of jobs cannot be laid down in data_dir")]
    Proof(#[source] std::io::Error),
    /// The logs of jobs have no place.
    #[error("the logs of jobs cannot be kept in data_dir")]
    Logs(#[source] std::io::Error),
    /// The engine's address makes no sense.
    #[error("docker.host cannot be used")]
    Docker(#[from] DriverError),
    /// GitLab's address makes no sense.
    #[error("gitlab.url cannot be used")]
    GitLab(#[from] GitLabError),
    /// Traces cannot be sent as configured.
    #[error("traces cannot be sent")]
    Traces(#[from] CollectorError),
    /// The store holds runners of a machine of another name, which nobody would look after.
    #[error(
        "the store holds runners of the machine \"{stored}\", and this one is called \"{configured}\": set host.name = \"{stored}\" until they are gone"
    )]
    OtherHost {
        /// The name under which they were made.
        stored: HostId,
        /// The name now.
        configured: HostId,
    },
    /// The API cannot be met.
    #[error("the daemon cannot listen")]
    Listen(#[from] ListenError),
}

/// The outside world, so that tests can put something else in its place.
#[derive(Debug)]
pub struct Outside {
    /// Sockets that the service manager opened.
    pub inherited: Inherited,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// The kernel.
    pub probe: Arc<dyn HostProbe>,
    /// The kernel's packet filter.
    pub netfilter: Arc<dyn Netfilter>,
    /// The engine; `None` is the configured one.
    pub driver: Option<Arc<dyn Driver>>,
}

impl Default for Outside {
    fn default() -> Self {
        Self { inherited: Inherited::default(), clock: Arc::new(SystemClock), probe: Arc::new(SystemProbe), netfilter: Arc::new(Nft), driver: None }
    }
}

/// A running daemon.
#[derive(Debug)]
pub struct App {
    /// Where the API listens.
    pub address: SocketAddr,
    /// The manager.
    pub handle: ManagerHandle,
    /// The store.
    pub store: Arc<dyn Store>,
    /// The settings in force.
    pub config: Live,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What was done by whom.
    pub audit: AuditLog,
}

/// Starts the daemon. It runs until `lifecycle.stop`.
///
/// # Errors
/// When something of its own cannot be had. An engine or a GitLab that does not answer is not an error: the daemon waits for it.
pub async fn start(config: Config, outside: Outside, lifecycle: &Lifecycle) -> Result<App, StartError> {
    let live = Live::new(config, outside.clock.now());
    let config = live.current();
    Proof::make_room(&config);
    let metrics = Arc::new(Metrics::new(config.classes.iter().map(|class| &class.name)));
    let store = open_store(&config, &metrics).await?;
    store.set_caps(&config.caps()).await?;
    let security = Arc::new(SecurityManager::open(&config.data_dir, live.clone())?);
    let audit = AuditLog::open(&config.data_dir, &security)?;
    let logs = Arc::new(log_store(&live).map_err(StartError::Logs)?);
    let driver = engine(outside.driver, &live, store.instance(), &metrics)?;
    let gitlab = gitlab(&config, store.instance(), &metrics)?;
    let platform = Arc::new(
        PlatformManager::new(config.host.clone(), outside.probe.as_ref())
            .rechecking_after(config.gpu.recheck_after)
            .sharing(config.gpu.shared.clone()),
    );
    recall_gpus(store.as_ref(), &config.host.name, &platform, outside.clock.now()).await?;
    let (broker_url_sender, broker_url) = watch::channel(None);
    let seams = Seams {
        store: Arc::clone(&store),
        driver: Arc::clone(&driver),
        netfilter: outside.netfilter,
        platform: Arc::clone(&platform),
        security: Arc::clone(&security),
        proof: Proof::open(&config).map_err(StartError::Proof)?,
        logs: Arc::clone(&logs),
        clock: Arc::clone(&outside.clock),
        config: live.clone(),
        gitlab,
        listing: listing(&config, store.instance(), &metrics)?,
        broker_url,
        metrics: Arc::clone(&metrics),
    };
    let (deps, seat) = seams.assemble(lifecycle.tracker.clone(), lifecycle.stop.clone());
    let (handle, broker) = (deps.handle.clone(), Arc::clone(&deps.broker));
    watch_devices(&config, &platform, &handle, Arc::clone(&outside.clock), lifecycle).await;
    // One bit of the boot's number is given up, because stores count with a sign.
    let epoch = u64::from(outside.probe.probe().boot >> 1) << 32 | run_number() << 16;
    let clock = Arc::clone(&outside.clock);
    let state = AppState::new(Arc::clone(&store), logs, handle.clone(), security, live.clone(), outside.clock);
    let state = AppState { metrics: Arc::clone(&metrics), audit: audit.clone(), ..state };
    keep_history(&state, lifecycle);
    fleet::keep(&state, lifecycle);
    export_traces(&config, &store, &handle, lifecycle).await?;
    let listeners = listen::open(&config.http, outside.inherited).await?;
    audit.note(Act::of_daemon("daemon.start", concat!("version ", env!("CARGO_PKG_VERSION"))), clock.now());
    let address = serve_api(listeners, state, lifecycle);
    door::keep(Door { broker, driver, config: Arc::clone(&config), url: broker_url_sender, metrics: Arc::clone(&metrics) }, &handle, lifecycle);
    handle.tasks().stake((&lifecycle.tracker, &lifecycle.stop), "manager", JobManager::new(deps, seat, epoch).run());
    info!(%address, instance = store.instance(), "listening");
    Ok(App { address, handle, store, config: live, metrics, audit })
}

/// The configured store. The embedded one is one machine's; of the other this machine has a lease from now on.
async fn open_store(config: &Config, metrics: &Arc<Metrics>) -> Result<Arc<dyn Store>, StartError> {
    match &config.store {
        StoreUrl::Sqlite(path) => {
            let store = SqliteStore::open_metered(path, Arc::clone(metrics))?;
            refuse_other_host(&store, &config.host.name).await?;
            Ok(Arc::new(store))
        }
        StoreUrl::Postgres(url) => {
            let machine = Machine::of(&config.data_dir).map_err(StartError::Machine)?;
            let store = PostgresStore::open(url.secret(), &config.host.name, &machine, Arc::clone(metrics)).await?;
            Ok(Arc::new(store))
        }
    }
}

fn log_store(live: &Live) -> std::io::Result<LogStore> {
    let limited = live.clone();
    LogStore::cut_at(live.current().data_dir.join("logs"), move || limited.current().limits.log_size.0)
}

fn docker_driver(live: &Live, instance: &str) -> Result<DockerDriver, DriverError> {
    let logging_in = live.clone();
    let driver = DockerDriver::new(&live.current().docker.host, instance.to_owned(), Vec::new())?;
    Ok(driver.logging_in_by(move || logins(&logging_in.current())))
}

/// The configured engine unless there is another, measured.
fn engine(driver: Option<Arc<dyn Driver>>, live: &Live, instance: &str, metrics: &Arc<Metrics>) -> Result<Arc<dyn Driver>, DriverError> {
    let driver = match driver {
        Some(driver) => driver,
        None => Arc::new(docker_driver(live, instance)?),
    };
    Ok(Arc::new(MeteredDriver::new(driver, Arc::clone(metrics))))
}

/// The configured GitLab, measured.
fn gitlab(config: &Config, instance: &str, metrics: &Arc<Metrics>) -> Result<Option<Arc<dyn GitLab>>, GitLabError> {
    let Some(gitlab) = &config.gitlab else { return Ok(None) };
    let client = HttpGitLab::new(&gitlab.url, crate::gitlab::client::system_id(instance))?;
    Ok(Some(Arc::new(MeteredGitLab::new(client, Arc::clone(metrics)))))
}

/// Only with an access token: everything else works without.
fn listing(config: &Config, instance: &str, metrics: &Arc<Metrics>) -> Result<Option<Arc<dyn Listing>>, GitLabError> {
    let Some((gitlab, token)) = config.gitlab.as_ref().and_then(|gitlab| Some((gitlab, gitlab.read_token.clone()?))) else { return Ok(None) };
    let client = HttpListing::new(&gitlab.url, crate::gitlab::client::system_id(instance), token)?;
    Ok(Some(Arc::new(MeteredGitLab::new(client, Arc::clone(metrics)))))
}

/// Samples the last hours.
fn keep_history(state: &AppState, lifecycle: &Lifecycle) {
    let (history, store, manager, stop) = (Arc::clone(&state.history), Arc::clone(&state.store), state.manager.clone(), lifecycle.stop.clone());
    state.manager.tasks().keep((&lifecycle.tracker, &lifecycle.stop), "history", move || {
        history::run(Arc::clone(&history), Arc::clone(&store), manager.clone(), stop.clone())
    });
}

/// Sends the traces of ended jobs, where that is configured; else nothing of it exists.
async fn export_traces(config: &Arc<Config>, store: &Arc<dyn Store>, handle: &ManagerHandle, lifecycle: &Lifecycle) -> Result<(), StartError> {
    let Some(traces) = &config.traces else { return Ok(()) };
    // What cannot work is told at the start.
    let mut first = Some(exporter(config, traces, store).await?);
    let (config, store, stop) = (Arc::clone(config), Arc::clone(store), lifecycle.stop.clone());
    handle.tasks().keep((&lifecycle.tracker, &lifecycle.stop), "traces", move || {
        let (first, config, store, stop) = (first.take(), Arc::clone(&config), Arc::clone(&store), stop.clone());
        async move {
            let made = match (first, &config.traces) {
                (Some(first), _) => Ok(first),
                (None, Some(traces)) => exporter(&config, traces, &store).await,
                (None, None) => return,
            };
            match made {
                Ok(exporter) => exporter.run(stop).await,
                Err(error) => warn!(error = crate::domain::chain(&error), "traces cannot be sent"),
            }
        }
    });
    info!(endpoint = traces.endpoint, "traces of ended jobs are sent");
    Ok(())
}

async fn exporter(config: &Config, traces: &Traces, store: &Arc<dyn Store>) -> Result<Exporter, StartError> {
    let parts = Parts {
        store: Arc::clone(store),
        collector: Collector::new(traces)?,
        cursor: Cursor::new(config.data_dir.join("traces.json"), store.instance()),
        sample: traces.sample,
        service: vec![
            ("service.name", spans::text(&config.service_name)),
            ("service.version", spans::text(env!("CARGO_PKG_VERSION"))),
            ("service.instance.id", spans::text(store.instance())),
            ("host.name", spans::text(&config.host.name)),
        ],
        max_backlog: exporter::MAX_BACKLOG,
    };
    Ok(Exporter::new(parts).await?)
}

/// Before anybody looks at the GPUs: what was remembered of them, and which of them runners hold.
async fn recall_gpus(store: &dyn Store, host: &HostId, platform: &PlatformManager, now: Timestamp) -> Result<(), StoreError> {
    platform.recall_gpus(store.gpu_records(host).await?, now);
    let open = store.open_runners(host).await?;
    platform.take_gpus(open.iter().flat_map(|aggregate| &aggregate.runner.placement.devices), now);
    Ok(())
}

/// Looks at the devices once, so that the first jobs meet what is there, and then goes on looking. A driver that hangs costs its deadline.
async fn watch_devices(config: &Config, platform: &Arc<PlatformManager>, handle: &ManagerHandle, clock: Arc<dyn Clock>, lifecycle: &Lifecycle) {
    let interval = config.gpu.probe_interval;
    let (seen, config, platform) = (handle.clone(), config.clone(), Arc::clone(platform));
    let held: Held = Arc::new(move || seen.status().devices_in_use.iter().cloned().collect());
    let mut made = move || devices::settings::watch(&config, &platform, Arc::clone(&held), Arc::clone(&clock));
    let Some(mut watch) = made() else { return };
    watch.look().await;
    let (mut first, nudged, stop) = (Some(watch), handle.clone(), lifecycle.stop.clone());
    handle.tasks().keep((&lifecycle.tracker, &lifecycle.stop), "devices", move || {
        let (watch, nudged, stop) = (first.take().or_else(&mut made), nudged.clone(), stop.clone());
        async move {
            if let Some(watch) = watch {
                watch.run(interval, move || nudged.nudge(), stop).await;
            }
        }
    });
}

/// The embedded store is one machine's. Were that machine renamed, its running containers would belong to nobody.
async fn refuse_other_host(store: &dyn Store, configured: &HostId) -> Result<(), StartError> {
    let open = store.runners(RunnerFilter { limit: u32::MAX, ..RunnerFilter::default() }).await?;
    match open.into_iter().find(|runner| runner.host != *configured) {
        Some(runner) => Err(StartError::OtherHost { stored: runner.host, configured: configured.clone() }),
        None => Ok(()),
    }
}

/// Tells this run of the daemon from others, in 16 bits: the low end of a fresh id is random.
fn run_number() -> u64 {
    uuid::Uuid::now_v7().as_u64_pair().1 & 0xffff
}

fn logins(config: &Config) -> Vec<RegistryLogin> {
    let login = |registry: &crate::config::Registry| RegistryLogin {
        registry: registry.server.clone(),
        username: registry.username.clone(),
        password: registry.password.clone(),
    };
    config.docker.registries.iter().map(login).collect()
}

/// Serves the API wherever the daemon is met; where that is in the network. Nobody could open its listeners once more, so they are at stake.
fn serve_api(listeners: Listeners, state: AppState, lifecycle: &Lifecycle) -> SocketAddr {
    let (within, stop, tasks) = ((&lifecycle.tracker, &lifecycle.stop), lifecycle.stop.clone(), state.manager.tasks().clone());
    let Listeners { http, address, socket } = listeners;
    if let Some(socket) = socket {
        // With places of its own, for connections and for requests: who comes through it gets in however crowded the network is.
        let beside = AppState { rations: state.rations.beside(), ..state.clone() };
        tasks.stake(within, "http_socket", serve_socket(socket, through_socket(router(beside)), stop.clone()));
    }
    let doors = Doors::default().speaking(state.config.clone());
    tasks.stake(within, "http", serve(http, router(state), doors, stop));
    address
}

/// The same for the Unix socket, whose file goes when it is no longer served.
async fn serve_socket(socket: LocalSocket, router: axum::Router, stop: CancellationToken) {
    let LocalSocket { listener, path, file } = socket;
    info!(path = %path.display(), "listening on a Unix socket");
    serve(listener, router, Doors::default(), stop).await;
    drop(file);
}
