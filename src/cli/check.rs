//! `check`: validates the configuration and examines the machine, one line per finding.

mod canary;
mod devices;
mod gitlab;
mod machine;
mod network;

pub(super) use gitlab::TOKEN_VARIABLE;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;

use super::say;
use crate::config::{Class, Config};
use crate::docker::{DockerDriver, Driver, EngineInfo, init};
use crate::domain::disk::judge;
use crate::domain::{DiskMarks, DiskState, DiskUse};
use crate::gitlab::diagnosis::Finding;
use crate::jobs::{DiskRole, class_requirement, disk_places};
use crate::platform::process::disk_use;
use crate::platform::{PlatformManager, SystemProbe, fits_ever};
use crate::security::CallFilter;

/// Where in GitLab to look, with an administrator's token in `GITLAB_TOKEN`.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// The project whose webhook and waiting jobs are examined, by path or id. Needs an administrator's token in `GITLAB_TOKEN`.
    #[arg(long, value_name = "PROJECT", conflicts_with = "gitlab_group")]
    gitlab_project: Option<String>,
    /// The same for a group.
    #[arg(long, value_name = "GROUP")]
    gitlab_group: Option<String>,
    /// Whether one container is run as a job's would be.
    #[arg(long, value_enum, default_value = "local", value_name = "MODE")]
    canary: canary::Mode,
    /// The image for it; else that of the first class whose image is on this machine.
    #[arg(long, value_name = "IMAGE")]
    canary_image: Option<String>,
}

/// Examines everything, prints what was found, and fails when something is bad.
pub(super) async fn run(config: &Config, options: &Options) -> ExitCode {
    let mut findings = vec![Finding::Good(format!("configuration: {} class(es)", config.classes.len())), data_dir(&config.data_dir)];
    findings.extend(disk_places(config, None).into_iter().map(|(role, path)| disk(role, &path, config.disk)));
    findings.extend(machine::rights(config));
    let engine = engine(config, &mut findings).await;
    let platform = Arc::new(PlatformManager::new(config.host.clone(), &SystemProbe).sharing(config.gpu.shared.clone()));
    if let Some(info) = &engine {
        platform.on_engine(info);
    }
    findings.extend(devices::lines(config, &platform).await);
    classes(config, &platform, &mut findings);
    if let Some(info) = &engine {
        findings.extend(machine::limits(info));
        let of_engine = disk_places(config, info.data_root.as_deref()).into_iter().filter(|(role, _)| *role == DiskRole::Engine);
        findings.extend(of_engine.map(|(role, path)| disk(role, &path, config.disk)));
    }
    findings.extend(machine::clocks(config, engine.as_ref()).await);
    findings.extend(machine::listeners(config).await);
    findings.extend(network::openings(config));
    if engine.is_some() {
        findings.extend(network::firewall(config).await);
    }
    findings.push(match &engine {
        Some(info) => canary::fly(config, info.call_filter(), options.canary, options.canary_image.as_deref()).await,
        None => Finding::Odd("canary: no engine, so no container was tried".to_owned()),
    });
    gitlab::examine(config, options, &mut findings).await;
    let bad = findings.iter().filter(|finding| matches!(finding, Finding::Bad(_))).count();
    for finding in &findings {
        match finding {
            Finding::Good(text) => say(&format!("ok    {text}")),
            Finding::Odd(text) => say(&format!("note  {text}")),
            Finding::Bad(text) => say(&format!("FAIL  {text}")),
        }
    }
    if bad == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn data_dir(path: &Path) -> Finding {
    let probe = path.join(".check");
    let written = std::fs::create_dir_all(path).and_then(|()| std::fs::write(&probe, b"")).and_then(|()| std::fs::remove_file(&probe));
    match written {
        Ok(()) => Finding::Good(format!("data_dir: {} can be written", path.display())),
        Err(error) => Finding::Bad(format!("data_dir: {} cannot be written: {error}", path.display())),
    }
}

/// Room for work, by the marks of the configuration.
fn disk(role: DiskRole, path: &Path, marks: DiskMarks) -> Finding {
    match disk_use(path) {
        Ok(usage) => disk_finding(role, path, usage, marks),
        Err(error) => Finding::Bad(format!("{}: {} cannot be looked at: {error}", disk_name(role), path.display())),
    }
}

fn disk_name(role: DiskRole) -> &'static str {
    match role {
        DiskRole::Data => "disk",
        DiskRole::Store => "disk of the store",
        DiskRole::Engine => "disk of the engine",
    }
}

fn disk_finding(role: DiskRole, path: &Path, usage: DiskUse, marks: DiskMarks) -> Finding {
    let text = format!("{}: {usage} below {}", disk_name(role), path.display());
    let below = || format!("{text}: less than disk.low ({})", marks.low);
    match judge(usage, marks, DiskState::Fine) {
        DiskState::Fine => Finding::Good(text),
        DiskState::Low if role == DiskRole::Engine => Finding::Odd(format!("{}, so images that were not used lately are removed", below())),
        DiskState::Low => Finding::Odd(below()),
        DiskState::Full => Finding::Bad(format!("{text}, less than disk.full ({}): no new work begins. Free some (`docker system df`)", marks.full)),
    }
}

async fn engine(config: &Config, findings: &mut Vec<Finding>) -> Option<EngineInfo> {
    let driver = match DockerDriver::new(&config.docker.host, "check".to_owned(), Vec::new()) {
        Ok(driver) => driver,
        Err(error) => {
            findings.push(Finding::Bad(format!("docker.host: {error}")));
            return None;
        }
    };
    match driver.info().await {
        Ok(info) => {
            findings.push(Finding::Good(format!(
                "engine: {} at {}, {} CPUs, {} MiB, cgroup v{}",
                info.version,
                config.docker.host,
                info.cpus,
                info.memory.0 >> 20,
                info.cgroup_version.as_deref().unwrap_or("?")
            )));
            findings.push(match info.arch {
                Some(arch) => Finding::Good(format!("architecture: {arch}")),
                None => Finding::Bad(format!("architecture: {} is none of amd64, arm64, riscv64", info.machine)),
            });
            findings.push(if info.call_filter() == CallFilter::Ours {
                Finding::Good("seccomp: the engine filters system calls".to_owned())
            } else {
                Finding::Bad("seccomp: the engine cannot filter system calls; jobs would run with less protection".to_owned())
            });
            findings.push(proof(config, &driver).await);
            Some(info)
        }
        Err(error) => {
            findings.push(Finding::Bad(format!(
                "engine: {} does not answer: {error}; is Docker running, and may this user reach it?",
                config.docker.host
            )));
            None
        }
    }
}

/// What proves the ends of jobs: the engine has to see it, and containers have to be able to execute it.
async fn proof(config: &Config, driver: &DockerDriver) -> Finding {
    let directory = config.data_dir.display();
    let path = match init::install(&config.data_dir) {
        Ok(path) => path,
        Err(error) => return Finding::Bad(format!("receipts: the first process of jobs cannot be laid down in {directory}: {error}")),
    };
    if rustix::fs::statvfs(&config.data_dir).is_ok_and(|about| about.f_flag.contains(rustix::fs::StatVfsMountFlags::NOEXEC)) {
        return Finding::Bad(format!("receipts: {directory} is mounted noexec, so no job of the API can start"));
    }
    let Some(seen) = config.on_engine(&path) else { return Finding::Bad(format!("receipts: {directory} is not UTF-8")) };
    match driver.sees_file(&seen).await {
        Ok(true) => Finding::Good("receipts: the engine sees data_dir".to_owned()),
        Ok(false) => Finding::Bad(format!(
            "receipts: the engine does not see {seen}, so no job of the API can start; docker.data_dir says where it sees {directory}"
        )),
        Err(error) => Finding::Bad(format!("receipts: whether the engine sees {directory} is not known: {error}")),
    }
}

fn classes(config: &Config, platform: &PlatformManager, findings: &mut Vec<Finding>) {
    let facts = platform.facts();
    for class in &config.classes {
        let name = &class.name;
        findings.push(match fits_ever(&facts, &class_requirement(class), class.max_runners) {
            Ok(()) => Finding::Good(format!("class {name}: fits this machine{}", from_gitlab(class))),
            Err(missing) => {
                let missing: Vec<String> = missing.iter().map(ToString::to_string).collect();
                Finding::Bad(format!("class {name}: can never run here: {}", missing.join("; ")))
            }
        });
    }
}

fn from_gitlab(class: &Class) -> &'static str {
    if class.gitlab_token.is_some() { ", takes work from GitLab" } else { "" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_judged_by_the_marks_of_the_configuration() {
        let of = |role: DiskRole, percent: u64| {
            let usage = DiskUse { total: 1 << 30, free: (1 << 30) / 100 * percent, ..DiskUse::default() };
            disk_finding(role, Path::new("/d"), usage, DiskMarks::default())
        };
        assert!(matches!(of(DiskRole::Data, 50), Finding::Good(_)));
        assert!(matches!(of(DiskRole::Data, 14), Finding::Odd(text) if text.ends_with("less than disk.low (15% or 50GiB)")));
        assert!(matches!(of(DiskRole::Engine, 14), Finding::Odd(text) if text.contains("images that were not used lately are removed")));
        assert!(matches!(of(DiskRole::Store, 4), Finding::Bad(text) if text.contains("disk.full (5% or 5GiB)")));
        let files = DiskUse { total: 1 << 30, free: 1 << 30, inodes: 1000, inodes_free: 20 };
        let judged = disk_finding(DiskRole::Data, Path::new("/d"), files, DiskMarks::default());
        assert!(matches!(judged, Finding::Bad(text) if text.contains("20 of 1000 files")));
    }
}
