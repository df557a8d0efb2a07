//! What a runner's container is made of: a command's own, or the class's GitLab runner pointed at the broker.

use std::collections::BTreeMap;
use std::time::Duration;

use secrecy::ExposeSecret as _;

use super::deps::Shared;
use crate::config::{Class, Network};
use crate::docker::{ContainerPlan, Owner, ResolvedImage};
use crate::domain::{Aggregate, Work};
use crate::security::{DeviceGrant, Exec, NetworkAccess, ProfileRequest, TmpfsMount};

/// What the class decides about the container, with the resources that the runner was given.
pub(super) fn profile_request(aggregate: &Aggregate, class: &Class, stop_grace: Duration) -> ProfileRequest {
    let placement = &aggregate.runner.placement;
    let mount = |path: &str, size| TmpfsMount { path: path.to_owned(), size, exec: Exec::Allowed };
    // A job may ask for less memory than the class's `/tmp` could hold; what it holds counts as memory all the same.
    let mut tmpfs = vec![mount("/tmp", class.tmp_size.min(placement.memory))];
    if !aggregate.runs_command() {
        // The work tree and the cache live in memory too; the container's memory limit bounds them.
        tmpfs.extend(["/builds", "/cache"].map(|path| mount(path, placement.memory)));
    }
    ProfileRequest {
        user: class.user.clone(),
        cpus: placement.cpus,
        memory: placement.memory,
        pids: class.pids,
        tmpfs,
        network: match class.network {
            Network::None => NetworkAccess::None,
            Network::Isolated => NetworkAccess::Isolated,
        },
        runtime: class.runtime.clone(),
        stop_grace,
        devices: DeviceGrant::None,
    }
}

/// The container of a runner.
pub(super) fn container_plan(
    shared: &Shared,
    aggregate: &Aggregate,
    image: ResolvedImage,
    network: Option<String>,
    broker_url: Option<String>,
) -> ContainerPlan {
    let runner = &aggregate.runner;
    let mut env = BTreeMap::from([("HOME".to_owned(), "/tmp".to_owned())]);
    let command = match aggregate.job.as_ref().map(|job| &job.spec.work) {
        Some(Work::Command(command)) => {
            env.extend(command.env.clone());
            command.command.clone()
        }
        Some(Work::GitLab(_)) | None => run_single(),
    };
    if let Some((job, _)) = &runner.job {
        env.insert("RUNNER_COORDINATOR_JOB_ID".to_owned(), job.to_string());
    }
    if let (Some(url), Some(_)) = (broker_url, &network) {
        let token = shared.deps.security.runner_token(&runner.id).expose_secret().to_owned();
        if !aggregate.runs_command() {
            env.insert("CI_SERVER_URL".to_owned(), url.clone());
            env.insert("CI_SERVER_TOKEN".to_owned(), token.clone());
            env.insert("RUNNER_NAME".to_owned(), runner.container_name());
        }
        env.insert("RUNNER_COORDINATOR_URL".to_owned(), url);
        env.insert("RUNNER_COORDINATOR_TOKEN".to_owned(), token);
    }
    ContainerPlan {
        name: runner.container_name(),
        owner: Owner {
            instance: shared.deps.store.instance().to_owned(),
            host: runner.host.clone(),
            runner: runner.id.clone(),
            class: runner.class.clone(),
            job: runner.job.clone(),
            nonce: runner.id.to_string(),
        },
        image,
        command,
        entrypoint: aggregate.runs_command().then(Vec::new),
        env,
        network,
        workdir: None,
    }
}

/// The official runner's command for one job; URL and token come by the environment, where the process list does not show them.
fn run_single() -> Vec<String> {
    ["run-single", "--executor", "shell", "--builds-dir", "/builds", "--cache-dir", "/cache", "--max-builds", "1", "--wait-timeout", "0"]
        .map(str::to_owned)
        .to_vec()
}
