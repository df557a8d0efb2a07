//! Permission to make a container, as a value: what every container of ours is held to, and the little that a class may choose.
//!
//! A [`HardenedProfile`] can be made only in this room, has no default and no way to loosen it; the docker room cannot create a
//! container without one. So an unhardened container cannot be written down. What each fixed part stops was measured against
//! engines 20.10, 26 and 28 with a program that tries to break out.

use std::collections::BTreeSet;
use std::time::Duration;

use super::devices::DeviceGrant;
use super::seccomp;
use crate::domain::{CpuMillis, FieldFault, HostFile, MemoryBytes};

/// Whether files on a mount may be executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exec {
    /// They may: builds that run what they made.
    Allowed,
    /// They may not.
    Forbidden,
}

/// A writable directory in memory. Its pages count against the container's memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TmpfsMount {
    /// Absolute path in the container.
    pub path: String,
    /// Most bytes that it may hold.
    pub size: MemoryBytes,
    /// Whether files on it may be executed.
    pub exec: Exec,
}

/// What network a container may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetworkAccess {
    /// None: only its own loopback.
    None,
    /// A bridge of ours: what may pass on it is the firewall's to say.
    Bridge,
}

/// What the administrator's class decides about a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProfileRequest {
    /// Numeric `uid:gid`; a name would be looked up in the image, which an attacker may have made.
    pub user: String,
    /// Most processor time.
    pub cpus: CpuMillis,
    /// Most memory; there is no swap on top of it.
    pub memory: MemoryBytes,
    /// Most processes and threads together.
    pub pids: u32,
    /// Writable directories; everything else is read-only.
    pub tmpfs: Vec<TmpfsMount>,
    /// Network.
    pub network: NetworkAccess,
    /// The engine's runtime, for example `runc`; always named, because the engine's default may hand out GPUs.
    pub runtime: String,
    /// Time between TERM and KILL.
    pub stop_grace: Duration,
    /// The machine's GPUs that it is given.
    pub devices: DeviceGrant,
    /// GitLab Runner on the engine's machine, for an image that does not bring it. Beside its GPUs the only thing of the machine that a container
    /// is ever shown: one file, read-only, at [`HardenedProfile::RUNNER_PATH`].
    pub runner_binary: Option<HostFile>,
    /// Who filters its system calls.
    pub filter: CallFilter,
    /// What proves a command's end: our first process and the receipt that it writes. A runner of GitLab has none, it reports by itself.
    pub proof: Option<ProofFiles>,
}

/// Whether a container's system calls can be filtered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallFilter {
    /// They are, by our own list.
    Ours,
    /// The engine says that it cannot, for want of a kernel that does, and refuses every list. `check` tells of it.
    EngineHasNone,
}

/// The two files of the engine's machine with which the end of a job is proved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProofFiles {
    /// Our first process, which the container sees read-only at [`HardenedProfile::INIT_PATH`].
    pub init: HostFile,
    /// Its receipt, at [`HardenedProfile::RECEIPT_PATH`]: the one file of the machine that a container may write.
    pub receipt: HostFile,
}

/// A limit on one of a process's resources.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ulimit {
    /// The engine's name of it.
    pub name: &'static str,
    /// Soft and hard value.
    pub value: i64,
}

/// The checked decisions about a container, together with what is never up for decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HardenedProfile {
    request: ProfileRequest,
}

impl HardenedProfile {
    /// Every capability is dropped: no mknod, chroot, raw sockets, setuid, or writing into the image as root.
    pub const CAP_DROP: &'static [&'static str] = &["ALL"];
    /// A set-uid program in the image gains nothing.
    pub const SECURITY_OPT: &'static [&'static str] = &["no-new-privileges=true"];
    /// Own shared memory: no other container's segments can be seen.
    pub const IPC_MODE: &'static str = "private";
    /// Bytes of `/dev/shm`, which the engine mounts without exec.
    pub const SHM_SIZE: MemoryBytes = MemoryBytes(64 << 20);
    /// The container goes before the daemon and the engine when the machine runs out of memory.
    pub const OOM_SCORE_ADJ: i64 = 500;
    /// Open files: below the hard limit of usual engines, since a higher one makes the start fail. Core dumps: none, they would
    /// be written where the machine's pattern says. Locked memory: too little to pin the machine's memory. Never `nproc`, which the
    /// kernel counts per user over all containers.
    pub const ULIMITS: &'static [Ulimit] =
        &[Ulimit { name: "core", value: 0 }, Ulimit { name: "memlock", value: 65_536 }, Ulimit { name: "nofile", value: 16_384 }];
    /// The engine keeps logs by itself in a bounded ring, so that no job can fill the disk and none is lost while we restart.
    pub const LOG_DRIVER: &'static str = "local";
    /// Size of that ring: two files of 8 MiB.
    pub const LOG_OPTIONS: &'static [(&'static str, &'static str)] = &[("max-size", "8m"), ("max-file", "2"), ("compress", "false")];
    /// Size of the directory in memory that covers a `VOLUME` of an image, which would else be writable disk without limit.
    pub const VOLUME_SIZE: MemoryBytes = MemoryBytes(64 << 20);
    /// What of the machine is hidden: the newest engine's list, for older engines too, and what names the machine.
    pub const MASKED_PATHS: &'static [&'static str] = &[
        "/proc/acpi",
        "/proc/asound",
        "/proc/cmdline",
        "/proc/interrupts",
        "/proc/kcore",
        "/proc/keys",
        "/proc/latency_stats",
        "/proc/sched_debug",
        "/proc/scsi",
        "/proc/timer_list",
        "/proc/timer_stats",
        "/sys/class/dmi",
        "/sys/devices/virtual/dmi",
        "/sys/devices/virtual/powercap",
        "/sys/firmware",
    ];
    /// What of the kernel's controls cannot be written.
    pub const READONLY_PATHS: &'static [&'static str] = &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

    /// Where a container finds the GitLab Runner that it is lent.
    pub const RUNNER_PATH: &'static str = "/usr/local/bin/gitlab-runner";

    /// Where a container finds what is ours.
    const OWN_PATH: &'static str = "/.runner-coordinator";
    /// Where it finds its first process.
    pub const INIT_PATH: &'static str = "/.runner-coordinator/init";
    /// Where that one writes its receipt.
    pub const RECEIPT_PATH: &'static str = "/.runner-coordinator/receipt";

    /// Least memory that the engine takes (it refuses less than 6 MiB).
    const MIN_MEMORY: MemoryBytes = MemoryBytes(6 << 20);
    /// Fewest processes: the init process, a shell and what it runs.
    const MIN_PIDS: u32 = 8;
    /// The kernel's own bound of process ids.
    const MAX_PIDS: u32 = 1 << 22;
    /// Most writable directories.
    const MAX_TMPFS: usize = 16;
    /// Longest time between TERM and KILL.
    const MAX_STOP_GRACE: Duration = Duration::from_secs(60 * 60);

    /// Checks the request.
    ///
    /// # Errors
    /// Names the faulty field.
    pub(in crate::security) fn new(request: ProfileRequest) -> Result<Self, FieldFault> {
        let user = checked_user(&request.user)?;
        let check = |field: &str, holds: bool, message: &str| if holds { Ok(()) } else { Err(FieldFault::new(field, message)) };
        check("cpus", (10..=CpuMillis::MAX_CPUS * 1000).contains(&request.cpus.0), "must be 0.01 to 4096 CPUs")?;
        check("memory", (Self::MIN_MEMORY..=MemoryBytes::MAX).contains(&request.memory), "must be 6MiB to 1024TiB")?;
        check("pids", (Self::MIN_PIDS..=Self::MAX_PIDS).contains(&request.pids), "must be 8 to 4194304")?;
        check("runtime", is_runtime(&request.runtime), "must name one of the engine's runtimes, for example runc")?;
        let grace = Duration::from_secs(1)..=Self::MAX_STOP_GRACE;
        check("stop_grace", grace.contains(&request.stop_grace), "must be one second to one hour")?;
        check("tmpfs", request.tmpfs.len() <= Self::MAX_TMPFS, "must be at most 16 directories")?;
        request.devices.check()?;
        let mut seen = BTreeSet::new();
        for mount in &request.tmpfs {
            check("tmpfs.path", is_tmpfs_path(&mount.path), "must be an absolute path without '..', not / and not in /proc, /sys or /dev")?;
            let hides = std::path::Path::new(&mount.path).starts_with(Self::RUNNER_PATH);
            check("tmpfs.path", !hides, "must not be where the runner's binary is")?;
            check("tmpfs.path", !std::path::Path::new(&mount.path).starts_with(Self::OWN_PATH), "must not be where the coordinator's own files are")?;
            check("tmpfs.path", seen.insert(mount.path.as_str()), "must not be named twice")?;
            let fits = mount.size.0 > 0 && mount.size <= request.memory;
            check("tmpfs.size", fits, "must be more than nothing and at most the memory, which it is taken from")?;
        }
        Ok(Self { request: ProfileRequest { user, ..request } })
    }

    /// A small profile without network.
    #[cfg(test)]
    pub(crate) fn for_tests() -> Self {
        Self::new(tests::request()).expect("a profile")
    }

    /// Numeric `uid:gid`; the uid is never 0.
    #[must_use]
    pub fn user(&self) -> &str {
        &self.request.user
    }

    /// Most processor time.
    #[must_use]
    pub fn cpus(&self) -> CpuMillis {
        self.request.cpus
    }

    /// Most memory, swap included.
    #[must_use]
    pub fn memory(&self) -> MemoryBytes {
        self.request.memory
    }

    /// Most processes and threads together.
    #[must_use]
    pub fn pids(&self) -> u32 {
        self.request.pids
    }

    /// Writable directories.
    #[must_use]
    pub fn tmpfs(&self) -> &[TmpfsMount] {
        &self.request.tmpfs
    }

    /// The engine's options: those that are always set, and the filter of system calls.
    #[must_use]
    pub fn security_opt(&self) -> Vec<String> {
        let filter = match self.request.filter {
            CallFilter::Ours => Some(seccomp::OPTION.clone()),
            CallFilter::EngineHasNone => None,
        };
        Self::SECURITY_OPT.iter().map(|option| (*option).to_owned()).chain(filter).collect()
    }

    /// Network.
    #[must_use]
    pub fn network(&self) -> NetworkAccess {
        self.request.network
    }

    /// The engine's runtime.
    #[must_use]
    pub fn runtime(&self) -> &str {
        &self.request.runtime
    }

    /// Time between TERM and KILL.
    #[must_use]
    pub fn stop_grace(&self) -> Duration {
        self.request.stop_grace
    }

    /// The machine's GPUs that it is given.
    #[must_use]
    pub fn devices(&self) -> &DeviceGrant {
        &self.request.devices
    }

    /// The file of the engine's machine that the container is lent at [`Self::RUNNER_PATH`].
    #[must_use]
    pub fn runner_binary(&self) -> Option<&HostFile> {
        self.request.runner_binary.as_ref()
    }

    /// What proves the end of a command.
    #[must_use]
    pub fn proof(&self) -> Option<&ProofFiles> {
        self.request.proof.as_ref()
    }
}

/// Answers the canonical form, so that `007:1` cannot mean something else to the engine than to us.
fn checked_user(user: &str) -> Result<String, FieldFault> {
    let id = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse::<i32>().ok()).flatten();
    let ids = user.split_once(':').and_then(|(uid, gid)| Some((id(uid)?, id(gid)?)));
    match ids {
        Some((uid, gid)) if uid != 0 => Ok(format!("{uid}:{gid}")),
        Some(_) => Err(FieldFault::new("user", "must not be root: the uid must not be 0")),
        None => Err(FieldFault::new("user", "must be numeric uid:gid such as 65532:65532")),
    }
}

fn is_runtime(name: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.len() <= 128 && name.chars().all(legal)
}

fn is_tmpfs_path(path: &str) -> bool {
    let Some(rest) = path.strip_prefix('/') else { return false };
    let part_ok = |part: &str| !matches!(part, "" | "." | "..") && !part.contains([',', ':']) && !part.chars().any(char::is_control);
    rest.split('/').all(part_ok) && !matches!(rest.split('/').next(), Some("proc" | "sys" | "dev"))
}

#[cfg(test)]
#[path = "profile_tests.rs"]
mod tests;
