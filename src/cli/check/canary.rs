//! The part of `check` that runs one container as a job's would be: hardened, in a network of ours, from its making to its removal.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use tokio::sync::mpsc;

use crate::config::{Class, Config, Network};
use crate::docker::{ContainerFacts, ContainerPlan, ContainerState, DockerDriver, Driver, DriverError, Owner, ResolvedImage};
use crate::domain::{ImageRef, RunnerId, chain};
use crate::gitlab::diagnosis::Finding;
use crate::security::{CallFilter, DeviceGrant, Exec, NetworkAccess, ProfileRequest, SecurityManager, TmpfsMount};

/// How long the container may run: it does nothing.
const RUN: Duration = Duration::from_secs(30);
/// Between two looks at it.
const STEP: Duration = Duration::from_millis(20);

/// What may be done for the canary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Mode {
    /// Run it if an image of a class is on this machine.
    Local,
    /// Fetch the image if it is not.
    Pull,
    /// Run none.
    Off,
}

/// How it went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Flight {
    created: Duration,
    started: Duration,
    ended: Duration,
    exit_code: Option<i64>,
}

/// Runs the canary and says how it went; nothing of it is left, however it went.
pub(super) async fn fly(config: &Config, filter: CallFilter, mode: Mode, image: Option<&str>) -> Finding {
    if mode == Mode::Off {
        return Finding::Odd("canary: left out, so no container was tried".to_owned());
    }
    // An owner of its own, so that no daemon takes the container for one of its own or for a stray.
    let instance = format!("check-{}", uuid::Uuid::now_v7().simple());
    let driver = match DockerDriver::new(&config.docker.host, instance.clone(), Vec::new()) {
        Ok(driver) => driver,
        Err(error) => return Finding::Bad(format!("canary: {}", chain(&error))),
    };
    let (class, image) = match choose(config, &driver, mode, image).await {
        Ok(Some(found)) => found,
        Ok(None) => {
            return Finding::Odd(
                "canary: no image of a class is on this machine, so no container was tried: `--canary pull`, or `--canary-image IMAGE`".to_owned(),
            );
        }
        Err(why) => return Finding::Bad(format!("canary: {why}")),
    };
    let name = image.reference.to_string();
    let flown = flight((config, class), filter, &driver, image, &instance).await;
    let swept = sweep(&driver).await;
    match (flown, swept) {
        (Ok(flight), Ok(())) => landed(&name, class.name.as_str(), &flight),
        (Err(why), Ok(())) => Finding::Bad(format!("canary: a container of {name} as class {} makes it failed: {why}", class.name)),
        (_, Err(error)) => Finding::Bad(format!("canary: something of it is left (label runner-coordinator.instance={instance}): {}", chain(&error))),
    }
}

fn landed(image: &str, class: &str, flight: &Flight) -> Finding {
    let Flight { created, started, ended, exit_code } = flight;
    match exit_code {
        Some(0) => Finding::Good(format!(
            "canary: a hardened container of {image} (class {class}) was made in {} ms, started in {} ms, ended after {} ms and is gone",
            created.as_millis(),
            started.as_millis(),
            ended.as_millis()
        )),
        Some(126 | 127) => Finding::Bad(format!("canary: {image} has no /bin/sh to try: name another with `--canary-image IMAGE`")),
        Some(code) => {
            Finding::Bad(format!("canary: `exit 0` in {image} (class {class}) ended with {code}: try it with `docker run {image} sh -c 'exit 0'`"))
        }
        None => Finding::Bad(format!("canary: {image} (class {class}) ended without an exit code: see the engine's log (`journalctl -u docker`)")),
    }
}

/// The class and the image to try: the named one, else that of the first class whose image is here.
async fn choose<'c>(
    config: &'c Config,
    driver: &DockerDriver,
    mode: Mode,
    named: Option<&str>,
) -> Result<Option<(&'c Class, ResolvedImage)>, String> {
    let named = named.map(|text| ImageRef::parse("--canary-image", text)).transpose().map_err(|fault| fault.to_string())?;
    let wanted: Vec<(&Class, ImageRef)> = match named {
        Some(image) => config.classes.first().map(|class| (class, image)).into_iter().collect(),
        None => config.classes.iter().filter_map(|class| Some((class, class.image.clone()?))).collect(),
    };
    for (class, image) in &wanted {
        if let Some(found) = driver.resolve_image(image).await.map_err(|error| chain(&error))? {
            return Ok(Some((*class, found)));
        }
    }
    match wanted.into_iter().next() {
        Some((class, image)) if mode == Mode::Pull => {
            let (progress, _unheard) = mpsc::channel(1);
            let pulled = driver.pull(&image, class.arch, progress).await.map_err(|error| chain(&error))?;
            Ok(Some((class, pulled)))
        }
        Some(_) | None => Ok(None),
    }
}

async fn flight(
    (config, class): (&Config, &Class),
    filter: CallFilter,
    driver: &DockerDriver,
    image: ResolvedImage,
    instance: &str,
) -> Result<Flight, String> {
    let said = |error: DriverError| chain(&error);
    let network = match class.network {
        Network::None => None,
        Network::Isolated | Network::Allowlist | Network::Open => Some(driver.ensure_network(None).await.map_err(said)?.id),
    };
    let request = ProfileRequest {
        user: class.user.clone(),
        cpus: class.cpus,
        memory: class.memory,
        pids: class.pids,
        tmpfs: vec![TmpfsMount { path: "/tmp".to_owned(), size: class.tmp_size.min(class.memory), exec: Exec::Allowed }],
        network: if network.is_some() { NetworkAccess::Bridge } else { NetworkAccess::None },
        runtime: class.runtime.clone(),
        stop_grace: config.limits.stop_grace,
        devices: DeviceGrant::None,
        runner_binary: None,
        filter,
        proof: None,
    };
    let profile = SecurityManager::harden(request).map_err(|fault| fault.to_string())?;
    let runner = RunnerId::generate();
    let plan = ContainerPlan {
        name: format!("rc-check-{runner}"),
        owner: Owner {
            instance: instance.to_owned(),
            host: config.host.name.clone(),
            runner: runner.clone(),
            class: class.name.clone(),
            job: None,
            nonce: runner.to_string(),
        },
        image,
        command: ["/bin/sh", "-c", "exit 0"].map(str::to_owned).to_vec(),
        entrypoint: Some(Vec::new()),
        env: BTreeMap::new(),
        network,
        workdir: None,
        opened: Vec::new(),
    };
    let begun = Instant::now();
    let container = driver.create(&plan, &profile).await.map_err(said)?;
    let created = begun.elapsed();
    match driver.start(&container).await {
        Ok(()) => {}
        // The engine has two ways to say that there is no such program.
        Err(DriverError::Refused { message, .. }) if message.contains("/bin/sh") => {
            return Ok(Flight { created, started: begun.elapsed(), ended: Duration::ZERO, exit_code: Some(127) });
        }
        Err(error) => return Err(said(error)),
    }
    let started = begun.elapsed().saturating_sub(created);
    let facts = ended(driver, &container).await?;
    Ok(Flight { created, started, ended: begun.elapsed().saturating_sub(created + started), exit_code: facts.exit_code })
}

async fn ended(driver: &DockerDriver, container: &str) -> Result<ContainerFacts, String> {
    let watched = tokio::time::timeout(RUN, watch_end(driver, container)).await;
    watched.unwrap_or_else(|_| Err(format!("it did not end within {} s", RUN.as_secs())))
}

async fn watch_end(driver: &DockerDriver, container: &str) -> Result<ContainerFacts, String> {
    loop {
        let found = driver.inspect(container).await.map_err(|error| chain(&error))?;
        let facts = found.ok_or_else(|| "it is gone while it was watched".to_owned())?;
        if matches!(facts.state, ContainerState::Exited | ContainerState::Dead) {
            return Ok(facts);
        }
        tokio::time::sleep(STEP).await;
    }
}

/// Takes everything away that is ours alone: containers, then networks.
async fn sweep(driver: &DockerDriver) -> Result<(), DriverError> {
    for container in driver.list().await? {
        driver.remove(&container.id).await?;
    }
    for network in driver.networks().await? {
        driver.remove_network(&network.id).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_end_says_what_to_do() {
        let flight = |exit_code| Flight { created: Duration::from_millis(7), started: RUN, ended: RUN, exit_code };
        let of = |exit_code| landed("debian:12", "gpu", &flight(exit_code));
        assert!(matches!(of(Some(0)), Finding::Good(text) if text.contains("debian:12 (class gpu) was made in 7 ms")));
        assert!(matches!(of(Some(127)), Finding::Bad(text) if text.contains("--canary-image")));
        assert!(matches!(of(Some(3)), Finding::Bad(text) if text.contains("ended with 3")));
        assert!(matches!(of(None), Finding::Bad(text) if text.contains("journalctl")));
    }
}
