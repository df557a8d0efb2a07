//! What a runner's container is made of: a command's own, or the class's GitLab runner pointed at the broker.

use std::collections::BTreeMap;
use std::time::Duration;

use secrecy::ExposeSecret as _;

use super::deps::Shared;
use super::proof::receipt_of;
use crate::config::{Class, Network, Opening, Shell};
use crate::docker::{ContainerPlan, Owner, ResolvedImage};
use crate::domain::{Aggregate, HostFile, ImageRef, Work};
use crate::security::{CallFilter, DeviceGrant, Exec, HardenedProfile, NetworkAccess, ProfileRequest, TmpfsMount};

/// The variable in which the first process of a container finds its ticket; the command does not get it.
const RECEIPT_VARIABLE: &str = "RUNNER_COORDINATOR_RECEIPT";

/// Whose image a runner's container is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    /// A command's own.
    Command(ImageRef),
    /// The class's, which brings the runner.
    Class(ImageRef),
    /// The one that a job of GitLab names. It is lent the runner, and so has no say in how it is started.
    Job(ImageRef, HostFile),
}

impl Origin {
    /// The image.
    pub(super) fn image(&self) -> &ImageRef {
        match self {
            Self::Command(image) | Self::Class(image) | Self::Job(image, _) => image,
        }
    }
}

/// What the class decides about the container, with the resources that the runner was given.
pub(super) fn profile_request(aggregate: &Aggregate, class: &Class, origin: &Origin, stop_grace: Duration) -> ProfileRequest {
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
            Network::Isolated | Network::Allowlist | Network::Open => NetworkAccess::Bridge,
        },
        runtime: class.runtime.clone(),
        stop_grace,
        devices: DeviceGrant::None,
        runner_binary: match origin {
            Origin::Job(_, runner) => Some(runner.clone()),
            Origin::Command(_) | Origin::Class(_) => None,
        },
        filter: CallFilter::Ours,
        proof: None,
    }
}

/// What of its class's openings the container has, in words: the runner is lent only to one that is made of the job's own image.
fn opened(class: &Class, origin: &Origin) -> Vec<String> {
    let has = |opening: &Opening<'_>| match opening {
        Opening::Network | Opening::NetworkAllow(_) | Opening::Runtime(_) => true,
        Opening::JobImage { .. } => matches!(origin, Origin::Job(..)),
    };
    class.openings().iter().filter(|opening| has(opening)).map(ToString::to_string).collect()
}

/// What else a container is made of, found out or decided by its launch.
pub(super) struct Parts<'a> {
    pub(super) class: &'a Class,
    pub(super) origin: &'a Origin,
    pub(super) image: ResolvedImage,
    pub(super) network: Option<String>,
    pub(super) broker_url: Option<String>,
}

/// The container of a runner.
pub(super) fn container_plan(shared: &Shared, aggregate: &Aggregate, parts: Parts<'_>) -> ContainerPlan {
    let Parts { class, origin, image, network, broker_url } = parts;
    let runner = &aggregate.runner;
    let mut env = BTreeMap::from([("HOME".to_owned(), "/tmp".to_owned())]);
    let command = match aggregate.job.as_ref().map(|job| &job.spec.work) {
        Some(Work::Command(command)) => {
            env.extend(command.env.clone());
            env.extend(
                receipt_of(aggregate).map(|of| (RECEIPT_VARIABLE.to_owned(), shared.deps.security.receipt_ticket(&of).expose_secret().to_owned())),
            );
            command.command.clone()
        }
        Some(Work::GitLab(_)) | None => run_single(class.shell),
    };
    if let Some((job, _)) = &runner.job {
        env.insert("RUNNER_COORDINATOR_JOB_ID".to_owned(), job.to_string());
    }
    if let Some(share) = runner.placement.share {
        env.insert("RUNNER_COORDINATOR_GPU_MEMORY_BYTES".to_owned(), share.0.to_string());
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
        entrypoint: match origin {
            Origin::Command(_) => Some([HardenedProfile::INIT_PATH, HardenedProfile::RECEIPT_PATH].map(str::to_owned).to_vec()),
            Origin::Class(_) => None,
            Origin::Job(..) => Some(vec![HardenedProfile::RUNNER_PATH.to_owned()]),
        },
        env,
        network,
        workdir: None,
        opened: opened(class, origin),
    }
}

/// The official runner's command for one job; URL and token come by the environment, where the process list does not show them.
fn run_single(shell: Shell) -> Vec<String> {
    let shell: &[&str] = match shell {
        // Its own choice, as every version has it.
        Shell::Bash => &[],
        Shell::Sh => &["--shell", "sh"],
    };
    let command =
        ["run-single", "--executor", "shell", "--builds-dir", "/builds", "--cache-dir", "/cache", "--max-builds", "1", "--wait-timeout", "0"];
    command.iter().chain(shell).map(|argument| (*argument).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::JobImage;
    use crate::domain::ClassName;

    #[test]
    fn the_runner_is_opened_only_to_a_container_of_the_jobs_own_image() {
        let image = ImageRef::from_trusted("debian");
        let runner_binary = HostFile::parse("f", "/opt/gitlab-runner").expect("a file");
        let job_image = JobImage::Allow { images: Vec::new(), runner_binary: runner_binary.clone() };
        let default = Class::named(ClassName::from_trusted("a"));
        let class = Class { network: Network::Open, runtime: "runsc".to_owned(), job_image, ..default.clone() };
        let all: Vec<String> = class.openings().iter().map(ToString::to_string).collect();
        let own = Origin::Job(image.clone(), runner_binary);
        assert_eq!((all.len(), opened(&class, &own)), (3, all.clone()));
        for origin in [Origin::Command(image.clone()), Origin::Class(image)] {
            assert_eq!(opened(&class, &origin), all[..2], "{origin:?}");
            assert_eq!(opened(&default, &origin), Vec::<String>::new());
        }
    }
}
