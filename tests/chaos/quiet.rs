//! After the faults: everybody is up again, store and engine agree, and the jobs end.

use std::collections::HashMap;
use std::time::Duration;

use bollard::models::ContainerSummary;
use bollard::query_parameters::ListContainersOptionsBuilder;
use tokio::time::Instant;

use crate::daemon::Daemon;
use crate::engine::{Engine, Restart};
use crate::ledger::{Ledger, Open};
use crate::tally::Wrong;
use crate::world::World;
use crate::{pause, say};

/// How long an engine may take to come to itself after it was struck, before it is started anew.
const ENGINE: Duration = Duration::from_secs(60);
/// How long jobs may take to end; longer than any is allowed to run.
const JOBS: Duration = Duration::from_secs(240);
/// How long store and engine may disagree before it is called wrong. What is promised is less, and is measured.
const AGREEMENT: Duration = Duration::from_secs(60);

/// Our containers as the engine lists them; `None` when it does not.
pub(crate) async fn containers(engine: &Engine, instance: &str) -> Option<Vec<ContainerSummary>> {
    let label = vec![format!("runner-coordinator.instance={instance}")];
    let options = ListContainersOptionsBuilder::new().all(true).filters(&HashMap::from([("label", label)])).build();
    tokio::time::timeout(Duration::from_secs(10), engine.docker().list_containers(Some(options))).await.ok()?.ok()
}

/// Waits until the engine is well, kills the daemons once more, and measures how long each takes to agree with it. Since when that was.
pub(crate) async fn settle(world: &mut World) -> Instant {
    world.restore();
    let deadline = Instant::now() + ENGINE;
    while containers(&world.engine, "any").await.is_none() {
        if Instant::now() >= deadline {
            say("  the engine does not come to itself and is started anew");
            world.engine.kill();
            world.engine.resume(Restart::Keeps).await;
        }
        pause().await;
    }
    // Once more, so that it is seen how soon whoever has just come agrees with the engine.
    for at in 0..world.daemons.len() {
        world.kill_daemon(at);
    }
    let since = Instant::now();
    for at in 0..world.daemons.len() {
        world.daemons[at].start().await;
        agree(world, at).await;
    }
    let deadline = Instant::now() + ENGINE;
    for at in 0..world.daemons.len() {
        while !world.daemons[at].is_well().await {
            if Instant::now() >= deadline {
                world.complain(
                    Wrong::Other,
                    format!("daemon {at} is not well after {} s: see {}", ENGINE.as_secs(), world.daemons[at].log().display()),
                );
                break;
            }
            pause().await;
        }
    }
    since
}

/// Waits until store and engine agree, from when both answer on.
async fn agree(world: &mut World, at: usize) {
    let ledger = Ledger::open(&world.daemons[at].data());
    let (instance, since) = (ledger.instance(), Instant::now());
    loop {
        match disagreement(&world.engine, &ledger, &instance).await {
            None => break world.tally.agreed(since.elapsed()),
            Some(words) if since.elapsed() >= AGREEMENT => break world.complain(Wrong::Other, format!("store and engine do not agree: {words}")),
            Some(_) => pause().await,
        }
    }
}

/// What store and engine do not agree on; `None` when they do, at a moment at which nothing changed.
async fn disagreement(engine: &Engine, ledger: &Ledger, instance: &str) -> Option<String> {
    let before = ledger.open_runners();
    let Some(listed) = containers(engine, instance).await else { return Some("the engine does not list".to_owned()) };
    if ledger.open_runners() != before {
        return Some("the store changes".to_owned());
    }
    differences(&before, &listed)
}

fn differences(runners: &[Open], listed: &[ContainerSummary]) -> Option<String> {
    let name = |container: &ContainerSummary| container.names.iter().flatten().next().map(|name| name.trim_start_matches('/').to_owned());
    let names: Vec<String> = listed.iter().filter_map(name).collect();
    let stray = names.iter().find(|name| !runners.iter().any(|runner| runner.container == **name));
    let gone = runners.iter().find(|runner| runner.state == "busy" && !names.contains(&runner.container));
    stray.map(|name| format!("nobody's container {name}")).or_else(|| gone.map(|runner| format!("no container of the busy runner {}", runner.id)))
}

/// Waits until all jobs have ended and everything was taken away, as far as it is.
pub(crate) async fn all_have_ended(world: &World, since: Instant) {
    while !world.forge.all_have_ended() && Instant::now() < since + JOBS {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for daemon in &world.daemons {
        one_has_ended(daemon, &world.engine, since).await;
    }
}

/// The same of one daemon.
pub(crate) async fn one_has_ended(daemon: &Daemon, engine: &Engine, since: Instant) {
    let ledger = Ledger::open(&daemon.data());
    let (instance, deadline) = (ledger.instance(), since + JOBS);
    loop {
        let ended = ledger.unended() == 0 && ledger.open_runners().is_empty();
        if ended && containers(engine, &instance).await.is_some_and(|left| left.is_empty()) || Instant::now() >= deadline {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The GPUs of a daemon's machine that do not get free, in words.
pub(crate) async fn held(world: &World, at: usize) -> Vec<String> {
    let deadline = Instant::now() + AGREEMENT;
    loop {
        match world.desk.held(at).await {
            Some(held) if held.is_empty() => return held,
            Some(held) if Instant::now() >= deadline => return held,
            None if Instant::now() >= deadline => return vec!["the daemon does not say".to_owned()],
            Some(_) | None => pause().await,
        }
    }
}
