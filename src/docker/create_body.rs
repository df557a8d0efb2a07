//! The request that makes a container, as a pure function of the plan and the profile, so that tests can read every field of it.
//!
//! Every field that could loosen something is set, also where the engine's default is the same: a default may change, and an engine
//! may be configured with another.

use std::collections::{BTreeMap, HashMap};

use bollard::models::{
    ContainerCreateBody, HealthConfig, HostConfig, HostConfigCgroupnsModeEnum, HostConfigLogConfig, Mount, MountBindOptions,
    MountBindOptionsPropagationEnum, MountType, ResourcesUlimits, RestartPolicy, RestartPolicyNameEnum,
};

use super::devices::{self, Openings};
use super::labels;
use super::plan::ContainerPlan;
use crate::domain::HostFile;
use crate::security::{Exec, HardenedProfile, NetworkAccess, is_refused};

/// Whether a name in an image's environment could subvert the runtime, the assignment of devices or the coordinator's own variables.
#[must_use]
pub fn must_be_forced(name: &str) -> bool {
    is_refused(name)
}

/// The whole request.
#[must_use]
pub fn create_body(plan: &ContainerPlan, profile: &HardenedProfile) -> ContainerCreateBody {
    let network = network(plan, profile);
    ContainerCreateBody {
        image: Some(plan.image.id.clone()),
        user: Some(profile.user().to_owned()),
        cmd: (!plan.command.is_empty()).then(|| plan.command.clone()),
        entrypoint: plan.entrypoint.as_ref().map(|entrypoint| no_entrypoint_spelled_out(entrypoint)),
        env: Some(environment(plan, profile)),
        working_dir: plan.workdir.clone(),
        labels: Some(labels::of_plan(plan, profile)),
        tty: Some(false),
        open_stdin: Some(false),
        attach_stdin: Some(false),
        attach_stdout: Some(false),
        attach_stderr: Some(false),
        healthcheck: Some(HealthConfig { test: Some(vec!["NONE".to_owned()]), ..HealthConfig::default() }),
        stop_signal: Some("SIGTERM".to_owned()),
        stop_timeout: Some(i64::try_from(profile.stop_grace().as_secs()).unwrap_or(i64::MAX)),
        network_disabled: Some(network.is_none()),
        host_config: Some(host_config(plan, profile, network)),
        ..ContainerCreateBody::default()
    }
}

fn host_config(plan: &ContainerPlan, profile: &HardenedProfile, network: Option<&str>) -> HostConfig {
    let memory = Some(profile.memory().as_i64());
    let Openings { requests, nodes, groups } = devices::openings(profile.devices());
    HostConfig {
        privileged: Some(false),
        publish_all_ports: Some(false),
        auto_remove: Some(false),
        cap_drop: Some(owned(HardenedProfile::CAP_DROP)),
        security_opt: Some(profile.security_opt()),
        readonly_rootfs: Some(true),
        tmpfs: Some(tmpfs(plan, profile)),
        mounts: mounts(profile),
        ipc_mode: Some(HardenedProfile::IPC_MODE.to_owned()),
        shm_size: Some(HardenedProfile::SHM_SIZE.as_i64()),
        cgroupns_mode: Some(HostConfigCgroupnsModeEnum::PRIVATE),
        // Ours is the first process where there is one.
        init: Some(profile.proof().is_none()),
        memory,
        memory_swap: memory,
        nano_cpus: Some(profile.cpus().as_nanos()),
        pids_limit: Some(i64::from(profile.pids())),
        oom_score_adj: Some(HardenedProfile::OOM_SCORE_ADJ),
        ulimits: Some(ulimits()),
        masked_paths: Some(owned(HardenedProfile::MASKED_PATHS)),
        readonly_paths: Some(owned(HardenedProfile::READONLY_PATHS)),
        log_config: Some(HostConfigLogConfig {
            typ: Some(HardenedProfile::LOG_DRIVER.to_owned()),
            config: Some(HardenedProfile::LOG_OPTIONS.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()),
        }),
        network_mode: Some(network.unwrap_or("none").to_owned()),
        restart_policy: Some(RestartPolicy { name: Some(RestartPolicyNameEnum::NO), maximum_retry_count: None }),
        runtime: Some(profile.runtime().to_owned()),
        device_requests: requests,
        devices: nodes,
        group_add: groups,
        ..HostConfig::default()
    }
}

/// A network is joined only when the profile and the plan agree on it.
fn network<'a>(plan: &'a ContainerPlan, profile: &HardenedProfile) -> Option<&'a str> {
    match profile.network() {
        NetworkAccess::None => None,
        NetworkAccess::Bridge => plan.network.as_deref(),
    }
}

/// The engine reads an empty list as "the image's own"; one empty text is its way to say "none".
fn no_entrypoint_spelled_out(entrypoint: &[String]) -> Vec<String> {
    if entrypoint.is_empty() { vec![String::new()] } else { entrypoint.to_vec() }
}

/// The plan's environment, then what must not be otherwise: later entries win over the image's and the plan's.
/// The coordinator's own variables are the plan's to give.
fn environment(plan: &ContainerPlan, profile: &HardenedProfile) -> Vec<String> {
    let grant = profile.devices();
    let forced = plan.image.forced_env.iter().map(|name| (name.as_str(), devices::value_instead(grant, name)));
    let mut env: BTreeMap<&str, String> = forced.collect();
    for (name, value) in &plan.env {
        if name.starts_with("RUNNER_COORDINATOR_") || !must_be_forced(name) {
            env.insert(name, value.clone());
        }
    }
    env.extend(devices::forced_env(grant));
    env.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
}

/// Every file of the machine that the container sees.
fn mounts(profile: &HardenedProfile) -> Option<Vec<Mount>> {
    let runner = profile.runner_binary().map(|file| file_mount(file, HardenedProfile::RUNNER_PATH, ReadOnly::Yes));
    let proof = profile.proof().map(|proof| {
        [file_mount(&proof.init, HardenedProfile::INIT_PATH, ReadOnly::Yes), file_mount(&proof.receipt, HardenedProfile::RECEIPT_PATH, ReadOnly::No)]
    });
    let mounts: Vec<Mount> = runner.into_iter().chain(proof.into_iter().flatten()).collect();
    (!mounts.is_empty()).then_some(mounts)
}

/// A request that an engine refuses because of the file when it does not see it, and because of the image when it does.
pub(super) fn file_seen(file: &HostFile) -> ContainerCreateBody {
    ContainerCreateBody {
        image: Some(format!("sha256:{}", "0".repeat(64))),
        host_config: Some(HostConfig { mounts: Some(vec![file_mount(file, HardenedProfile::INIT_PATH, ReadOnly::Yes)]), ..HostConfig::default() }),
        ..ContainerCreateBody::default()
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum ReadOnly {
    Yes,
    No,
}

/// One file of the machine. A mount and not a "bind", because for that the engine would make a directory of a file that is
/// missing. The interface has no `nosuid` for it; `no-new-privileges` and the lack of every capability do the same.
fn file_mount(file: &HostFile, target: &str, read_only: ReadOnly) -> Mount {
    Mount {
        typ: Some(MountType::BIND),
        source: Some(file.as_str().to_owned()),
        target: Some(target.to_owned()),
        read_only: Some(read_only == ReadOnly::Yes),
        bind_options: Some(MountBindOptions {
            propagation: Some(MountBindOptionsPropagationEnum::RPRIVATE),
            non_recursive: Some(true),
            create_mountpoint: Some(false),
            ..MountBindOptions::default()
        }),
        ..Mount::default()
    }
}

/// The profile's directories, and one over each `VOLUME` of the image that is not one of them.
fn tmpfs(plan: &ContainerPlan, profile: &HardenedProfile) -> HashMap<String, String> {
    // The owner too: some versions of runc give the directory the mode that the image's one has below it.
    let (uid, gid) = profile.user().split_once(':').unwrap_or((profile.user(), profile.user()));
    let options = |size: u64, exec: Exec| {
        let exec = match exec {
            Exec::Allowed => "exec",
            Exec::Forbidden => "noexec",
        };
        format!("rw,nosuid,nodev,{exec},size={size},mode=1777,uid={uid},gid={gid}")
    };
    let covered = options(HardenedProfile::VOLUME_SIZE.min(profile.memory()).0, Exec::Forbidden);
    // The engine takes no two mounts at one place; a file of ours covers the volume as well.
    let lent = |path: &String| {
        let ours = [HardenedProfile::INIT_PATH, HardenedProfile::RECEIPT_PATH];
        profile.runner_binary().is_some() && path == HardenedProfile::RUNNER_PATH || profile.proof().is_some() && ours.contains(&path.as_str())
    };
    let volumes = plan.image.volumes.iter().filter_map(|path| clean_path(path)).filter(|path| !lent(path)).map(|path| (path, covered.clone()));
    let chosen = profile.tmpfs().iter().map(|mount| (mount.path.clone(), options(mount.size.0, mount.exec)));
    volumes.chain(chosen).collect()
}

/// The path as the engine will take it (Go's `path.Clean`), so that no spelling of a volume escapes its cover. `None` for the root.
fn clean_path(path: &str) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            name => parts.push(name),
        }
    }
    (!parts.is_empty()).then(|| format!("/{}", parts.join("/")))
}

fn ulimits() -> Vec<ResourcesUlimits> {
    let limit = |limit: &crate::security::profile::Ulimit| ResourcesUlimits {
        name: Some(limit.name.to_owned()),
        soft: Some(limit.value),
        hard: Some(limit.value),
    };
    HardenedProfile::ULIMITS.iter().map(limit).collect()
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

#[cfg(test)]
#[path = "create_body_tests.rs"]
mod tests;
