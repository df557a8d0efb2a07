//! How soon a daemon that comes back agrees with an engine full of containers: some of its own that run, some that went while it was away, some
//! that nobody knows, and some of others.

use std::collections::HashMap;
use std::time::Duration;

use bollard::models::{ContainerCreateBody, HostConfig};
use bollard::query_parameters::{CreateContainerOptionsBuilder, RemoveContainerOptionsBuilder};
use futures_util::{StreamExt as _, stream};
use reqwest::Method;
use serde_json::json;
use tokio::time::Instant;

use crate::daemon::Daemon;
use crate::engine::Engine;
use crate::ledger::Ledger;
use crate::place::Place;
use crate::{BUSYBOX, pause, quiet, say, setting};

const PORT: u16 = 18_150;
/// How many things the engine is asked at once.
const AT_ONCE: usize = 4;
/// Jobs of 0.01 CPUs.
const KNOWN_PER_CORE: u64 = 90;
/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(900);
/// The same for a daemon that comes back to a few containers and has to notice which of its own are gone.
const SOON: Duration = Duration::from_secs(30);
/// No network, so that there may be more containers than addresses.
const SETTINGS: &str = "network = \"none\"\n";

/// Measures it with `RC_CHAOS_CONTAINERS` containers.
pub(crate) async fn measure() {
    let count = setting("RC_CHAOS_CONTAINERS").unwrap_or(16);
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    // A machine has room for so many at the least that a job can ask for.
    let known = (count / 2).min(KNOWN_PER_CORE * u64::try_from(cores).unwrap_or(1));
    let (gone, strays) = (known / 5 + 1, count / 4);
    let others = count - known - strays;
    let place = Place::take();
    let engine = Engine::start(place.path()).await;
    let mut daemon = Daemon::new(place.path(), "agreement", PORT, &format!("unix://{}", engine.socket().display()), SETTINGS);
    let file = place.path().join("agreement/config.toml");
    let config = std::fs::read_to_string(&file).expect("a configuration");
    let config = config.replace("\"90s\"", "\"5h\"");
    let config = config.split_once("infrastructure_retries = ").map(|(before, after)| {
        let rest = after.split_once('\n').map_or("", |(_, rest)| rest);
        format!("{before}infrastructure_retries = 0\n{rest}")
    });
    std::fs::write(&file, config.expect("limits")).expect("a configuration");
    daemon.start().await;
    fill(&daemon, known).await;
    say(&format!("{known} jobs run"));
    let ledger = Ledger::open(&daemon.data());
    let instance = ledger.instance();
    daemon.kill();
    let ids: Vec<String> = quiet::containers(&engine, &instance).await.expect("a list").into_iter().filter_map(|container| container.id).collect();
    stream::iter(ids.iter().take(usize::try_from(gone).expect("a few"))).for_each_concurrent(AT_ONCE, |id| remove(&engine, id)).await;
    stream::iter(0..strays).for_each_concurrent(AT_ONCE, |number| create(&engine, "rc-stray", number, &instance)).await;
    stream::iter(0..others).for_each_concurrent(AT_ONCE, |number| create(&engine, "other", number, "another")).await;
    say(&format!("{gone} of them are removed, {strays} containers that nobody knows and {others} of others are made; the daemon comes back"));
    daemon.start().await;
    let since = Instant::now();
    let told = |what: &str| say(&format!("agreement with {count} containers: {what} after {} ms", since.elapsed().as_millis()));
    until("the daemon is well", async || daemon.is_well().await).await;
    told("the daemon has seen them and is well");
    let left = usize::try_from(known - gone).expect("a few");
    let soon = if setting("RC_CHAOS_CONTAINERS").is_none() { SOON } else { PATIENCE };
    within(soon, "those that are gone are noticed", async || ledger.open_runners().len() == left).await;
    told("those that are gone are noticed, and those that run are adopted");
    until("nobody's are removed", async || quiet::containers(&engine, &instance).await.is_some_and(|listed| listed.len() == left)).await;
    told("those that nobody knows are removed");
    say(&format!("a bare client takes {strays} such containers away in {} ms", bare_removal(&engine, strays).await.as_millis()));
    assert_eq!(ledger.unended(), u64::try_from(left).expect("a few"), "whose jobs run on");
    let all = quiet::containers(&engine, "another").await.expect("a list").len();
    assert_eq!(all, usize::try_from(others).expect("a few"), "those of others are untouched");
}

/// How long the engine takes for the removal of as many containers that are nobody's.
async fn bare_removal(engine: &Engine, count: u64) -> Duration {
    stream::iter(0..count).for_each_concurrent(AT_ONCE, |number| create(engine, "bare", number, "bare")).await;
    let listed = quiet::containers(engine, "bare").await.expect("a list");
    let ids: Vec<String> = listed.into_iter().filter_map(|container| container.id).collect();
    let since = Instant::now();
    stream::iter(&ids).for_each_concurrent(AT_ONCE, |id| remove(engine, id)).await;
    since.elapsed()
}

/// Submits jobs until so many run.
async fn fill(daemon: &Daemon, jobs: u64) {
    let client = crate::client();
    let body = json!({ "image": BUSYBOX, "command": ["sleep", "18000"], "cpus": 0.01, "memory": "8MiB" });
    for _ in 0..jobs {
        let answer = client.request(Method::POST, format!("{}/jobs", daemon.url)).json(&body).send().await.expect("an answer");
        assert!(answer.status().is_success(), "{answer:?}");
    }
    let ledger = Ledger::open(&daemon.data());
    until("all jobs run", async || ledger.running() == jobs).await;
}

async fn create(engine: &Engine, name: &str, number: u64, instance: &str) {
    let values = [("instance", instance), ("host", "chaos"), ("runner", name), ("class", "default"), ("devices", ""), ("nonce", name)];
    let mut labels: HashMap<String, String> =
        values.iter().map(|(label, value)| (format!("runner-coordinator.{label}"), (*value).to_owned())).collect();
    labels.insert("runner-coordinator.runner".to_owned(), format!("{name}-{number}"));
    let options = CreateContainerOptionsBuilder::new().name(&format!("{name}-{number}")).build();
    let host_config = Some(HostConfig { network_mode: Some("none".to_owned()), ..HostConfig::default() });
    let body = ContainerCreateBody { image: Some(BUSYBOX.to_owned()), labels: Some(labels), host_config, ..ContainerCreateBody::default() };
    engine.docker().create_container(Some(options), body).await.expect("a container");
}

async fn remove(engine: &Engine, id: &str) {
    let options = RemoveContainerOptionsBuilder::new().force(true).build();
    engine.docker().remove_container(id, Some(options)).await.expect("removed");
}

async fn until(what: &str, so: impl AsyncFn() -> bool) {
    within(PATIENCE, what, so).await;
}

async fn within(patience: Duration, what: &str, so: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + patience;
    while !so().await {
        assert!(Instant::now() < deadline, "not so in time: {what}");
        pause().await;
    }
}
