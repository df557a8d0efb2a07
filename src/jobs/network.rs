//! The networks of containers and the rules that hold them in. A container with a network that is nothing without its rules starts only where
//! they are in force; they are looked at every few seconds, and set again when somebody took them away.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ipnet::IpNet;
use jiff::Timestamp;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::deps::{OpError, Shared, class_named};
use super::handle::{EngineState, Status};
use super::observer::EngineSight;
use crate::config::{Class, Config, Destination, Network, Place};
use crate::docker::NetworkInfo;
use crate::domain::ids::short_instance;
use crate::domain::{ClassName, chain};
use crate::firewall::{Allowed, Firewall, FirewallError, Guarded, Names, Netfilter, Reach, Rules};

/// Time between two looks at the rules.
const EVERY: Duration = Duration::from_secs(5);
/// What a look found is true for this long; jobs that start meanwhile do not look again.
const FRESH: Duration = Duration::from_secs(1);

/// That the rules are not in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unguarded {
    /// Why, with what to do.
    pub why: String,
    /// Since when.
    pub since: Timestamp,
}

/// What is known of networks and rules.
#[derive(Debug)]
pub(super) struct Networks {
    firewall: Firewall,
    names: Names,
    last: tokio::sync::Mutex<Option<Look>>,
    fault: Mutex<Option<Unguarded>>,
    /// Whether there was a look yet; before that nothing is claimed that would have to wait for it.
    looked: AtomicBool,
    /// What classes were held to, so that containers whose class is no longer configured keep it.
    held_to: Mutex<HashMap<ClassName, Reach>>,
}

/// What the last look found to be in force.
#[derive(Debug)]
struct Look {
    at: Instant,
    /// The settings it was by.
    config: Arc<Config>,
    bridges: Vec<String>,
}

impl Networks {
    pub(super) fn new(netfilter: Arc<dyn Netfilter>) -> Self {
        Self {
            firewall: Firewall::new(netfilter),
            names: Names::default(),
            last: tokio::sync::Mutex::default(),
            fault: Mutex::default(),
            looked: AtomicBool::new(false),
            held_to: Mutex::default(),
        }
    }

    fn known_fault(&self) -> MutexGuard<'_, Option<Unguarded>> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why the rules are not in force, if they are not.
    pub(super) fn unguarded(&self) -> Option<Unguarded> {
        self.known_fault().clone()
    }

    /// Whether nothing of this class may start, because its rules are not known to be in force.
    pub(super) fn closes(&self, class: &Class) -> bool {
        class.network.is_filtered() && (!self.looked.load(Ordering::SeqCst) || self.known_fault().is_some())
    }

    /// Notes how a look ended: why the rules are not in force, if they are not. Tells whether that is news.
    fn post(&self, why: Option<String>, now: Timestamp) -> bool {
        let mut known = self.known_fault();
        let first = !self.looked.swap(true, Ordering::SeqCst);
        if !first && known.as_ref().map(|known| &known.why) == why.as_ref() {
            return false;
        }
        let since = known.as_ref().map_or(now, |known| known.since);
        *known = why.map(|why| Unguarded { why, since });
        true
    }
}

/// Makes a class's network ready for a container: the engine's id of it, once its rules are in force. `None` for a class that has none.
pub(super) async fn ready(shared: &Shared, class: &Class) -> Result<Option<String>, OpError> {
    if class.network == Network::None {
        return Ok(None);
    }
    let network = shared.deps.driver.ensure_network(Some(&class.name)).await?;
    match guard(shared, &network).await {
        Ok(()) => {}
        Err(OpError::Firewall(error)) if !class.network.is_filtered() => debug!(%error, "no rules guard a network that is open"),
        Err(error) => return Err(error),
    }
    Ok(Some(network.id))
}

async fn guard(shared: &Shared, network: &NetworkInfo) -> Result<(), OpError> {
    let mut last = shared.networks.last.lock().await;
    // Not before: a reload may have made them stricter while we waited.
    let config = shared.deps.config.current();
    let holds = |look: &Look| look.at.elapsed() < FRESH && Arc::ptr_eq(&look.config, &config) && look.bridges.contains(&network.bridge);
    if last.as_ref().is_some_and(holds) {
        return Ok(());
    }
    *last = None;
    let look = last.insert(look(shared, config).await?);
    if !look.bridges.contains(&network.bridge) {
        return Err(OpError::NotYet("its network has just gone again"));
    }
    if !shared.networks.firewall.netfilter().sees(&network.bridge) {
        return Err(FirewallError::Elsewhere(network.bridge.clone()).into());
    }
    Ok(())
}

/// Looks until told to stop.
pub(super) async fn run(shared: &Arc<Shared>) {
    let deps = &shared.deps;
    let (mut reloads, mut broker, mut status) = (deps.config.subscribe(), deps.broker_url.clone(), deps.handle.status.clone());
    let looks = async {
        loop {
            let was_up = is_up(&status.borrow_and_update());
            let mut last = shared.networks.last.lock().await;
            *last = None;
            let looked = match &shared.observer.view().sight {
                EngineSight::Up { .. } => look(shared, deps.config.current()).await,
                EngineSight::Down { .. } | EngineSight::Unknown => Err(OpError::NotYet("the engine does not answer")),
            };
            match looked {
                Ok(look) => *last = Some(look),
                // Told where it is posted.
                Err(OpError::Firewall(_)) => {}
                Err(error) => hold_as_before(shared, &error).await,
            }
            drop(last);
            // All arms only wait. One whose other end is gone waits for nothing; `stop` comes next.
            tokio::select! {
                biased;
                () = tokio::time::sleep(EVERY) => {}
                Ok(()) = reloads.changed() => {}
                Ok(()) = broker.changed() => {}
                // An engine that has just come has jobs waiting.
                Ok(_) = status.wait_for(|status| is_up(status) != was_up) => {}
            }
        }
    };
    deps.stop.run_until_cancelled(looks).await;
}

fn is_up(status: &Status) -> bool {
    matches!(status.engine, EngineState::Up { .. })
}

/// The networks cannot be looked at. What runs on them goes on, so their last rules are kept in force all the same.
async fn hold_as_before(shared: &Shared, error: &OpError) {
    debug!(error = chain(error), "the networks cannot be looked at");
    if let Err(error) = shared.networks.firewall.hold_as_before().await {
        debug!(%error, "the rules of networks that cannot be looked at are not in force");
    }
    let engine_is_up = matches!(shared.observer.view().sight, EngineSight::Up { .. });
    if engine_is_up && !shared.networks.looked.load(Ordering::SeqCst) {
        shared.networks.post(Some(format!("what networks there are is not known: {}", chain(error))), shared.deps.clock.now());
        shared.deps.handle.nudge();
    }
}

/// Finds what networks there are and sees to it that their rules are in force.
async fn look(shared: &Shared, config: Arc<Config>) -> Result<Look, OpError> {
    let deps = &shared.deps;
    let networks = clear(shared, &config, deps.driver.networks().await?).await;
    let rules = rules(shared, &config, &networks).await;
    let held = shared.networks.firewall.hold(&rules).await;
    if shared.networks.post(held.as_ref().err().map(ToString::to_string), deps.clock.now()) {
        match &held {
            Ok(()) => info!("the rules of the firewall are in force"),
            Err(error) if config.classes.iter().any(|class| class.network.is_filtered()) => {
                warn!(%error, "no job starts whose network needs rules of the firewall");
            }
            Err(error) => debug!(%error, "no rules of the firewall are set"),
        }
        deps.handle.nudge();
    }
    held?;
    Ok(Look { at: Instant::now(), config, bridges: networks.into_iter().map(|network| network.bridge).collect() })
}

/// Takes away the networks of classes that are no longer configured or have none, once nothing is on them. Tells which are left.
async fn clear(shared: &Shared, config: &Config, networks: Vec<NetworkInfo>) -> Vec<NetworkInfo> {
    let mut left = Vec::new();
    for network in networks {
        let wanted = |class: &ClassName| class_named(config, class).is_some_and(|class| class.network != Network::None);
        let stays = network.class.as_ref().is_none_or(wanted);
        if stays || shared.deps.driver.remove_network(&network.id).await.is_err() {
            left.push(network);
        } else {
            info!(network.name, "the network of a class that has none any more was taken away");
        }
    }
    left
}

async fn rules(shared: &Shared, config: &Config, networks: &[NetworkInfo]) -> Rules {
    let all = &shared.networks;
    let named = config.classes.iter().flat_map(|class| &class.network_allow).chain(&gitlab(config)).chain(&broker(shared)).filter_map(name).collect();
    let named: BTreeSet<String> = named;
    let known = all.names.addresses(all.firewall.netfilter().as_ref(), &named).await;
    let reach = |network: &NetworkInfo| match network.class.as_ref() {
        // An earlier version had all containers on the broker's network.
        None => Reach::Internet(addresses(&known, &gitlab(config))),
        Some(class) => reach(shared, config, class, &known),
    };
    let guard = |network: &NetworkInfo| Guarded { bridge: network.bridge.clone(), subnets: network.subnets.clone(), reach: reach(network) };
    let mut guarded: Vec<Guarded> = networks.iter().map(guard).collect();
    all.held_to
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .retain(|class, _| networks.iter().any(|network| network.class.as_ref() == Some(class)));
    guarded.sort_by(|one, other| one.bridge.cmp(&other.bridge));
    let dns = if config.docker.dns.is_empty() { all.firewall.netfilter().name_servers() } else { config.docker.dns.clone() };
    let broker = addresses(&known, &broker(shared));
    let broker = broker.into_iter().filter_map(|Allowed { net, port }| Some(SocketAddr::new(net.addr(), port?))).collect();
    Rules { table: table(shared.deps.store.instance()), dns: dns.into_iter().collect(), broker, networks: guarded }
}

/// The addresses of names.
type Known = HashMap<String, Vec<IpAddr>>;

/// What the containers of a class may reach.
fn reach(shared: &Shared, config: &Config, name: &ClassName, known: &Known) -> Reach {
    let mut held_to = shared.networks.held_to.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(class) = class_named(config, name).filter(|class| class.network != Network::None) else {
        // What runs goes on as it began; when that was before this daemon, nobody remembers what it was.
        return held_to.get(name).cloned().unwrap_or_else(|| Reach::Listed(BTreeSet::new()));
    };
    let mut wanted = class.network_allow.clone();
    if class.gitlab_token.is_some() {
        wanted.extend(gitlab(config));
    }
    let reach = match class.network {
        Network::Open => Reach::Everything,
        Network::Isolated => Reach::Internet(addresses(known, &wanted)),
        Network::Allowlist | Network::None => Reach::Listed(addresses(known, &wanted)),
    };
    held_to.insert(name.clone(), reach.clone());
    reach
}

fn gitlab(config: &Config) -> Vec<Destination> {
    config.gitlab.iter().filter_map(|gitlab| Destination::of_url(&gitlab.url)).collect()
}

fn broker(shared: &Shared) -> Vec<Destination> {
    shared.deps.broker_url.borrow().iter().filter_map(|url| Destination::of_url(url)).collect()
}

fn name(destination: &Destination) -> Option<String> {
    match &destination.place {
        Place::Name(name) => Some(name.clone()),
        Place::Net(_) => None,
    }
}

fn addresses(known: &Known, destinations: &[Destination]) -> BTreeSet<Allowed> {
    let of = |Destination { place, port }: &Destination| -> Vec<Allowed> {
        let nets = match place {
            Place::Net(net) => vec![*net],
            Place::Name(name) => known.get(name).into_iter().flatten().map(|address| IpNet::from(*address)).collect(),
        };
        nets.into_iter().map(|net| Allowed { net, port: *port }).collect()
    };
    destinations.iter().flat_map(of).collect()
}

/// As its networks are called.
fn table(instance: &str) -> String {
    format!("rc_{}", short_instance(instance))
}

#[cfg(test)]
#[path = "network_tests.rs"]
mod tests;
