//! The settings of the daemon: what an operator may say, checked as a whole, so that no other room reads a file or the environment.
//!
//! Defaults come first, then the TOML file, then the environment. Every fault is reported at once, with where it stands and its dotted
//! key. [`mod@reference`] says in words what each key means, and `docs/configuration.md` is made from it.

mod classes;
mod diff;
mod disk;
mod docker;
mod fault;
mod fleet;
mod gitlab;
mod gpu;
mod layers;
mod limits;
mod live;
mod load;
mod log;
mod network;
mod opening;
mod projects;
pub mod reference;
mod retention;
mod secret;
mod section;
mod tls;
mod traces;
mod values;

#[cfg(test)]
mod fixture;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;

pub use diff::{Changes, diff};
pub use disk::Images;
pub use docker::{Docker, Registry};
pub use fault::{ConfigFault, ConfigFaults};
pub use fleet::{DatabaseUrl, Fleet};
pub use gitlab::GitLab;
pub use gpu::{Gpu, IntegratedGpus, OldToolkit};
pub use limits::Limits;
pub use live::{Live, Loading};
pub use load::SetupConfig;
pub use log::{Log, LogFormat};
pub use network::{Destination, Network, Place};
pub use opening::Opening;
pub use projects::Project;
pub use retention::Retention;
pub use secret::{read_secret_file, read_secret_text, secret_of_env};
pub use tls::{Tls, Transport};
pub use traces::{TraceHeader, Traces};

use crate::domain::{
    Arch, ClassName, CpuMillis, DiskMarks, Emulation, FieldFault, GpuRequest, HostFile, HostId, ImagePattern, ImageRef, MemoryBytes, ProjectName,
};

/// Everything that an operator decides.
#[derive(Debug, Clone)]
pub struct Config {
    /// `service_name`, default `runner-coordinator`, also `SERVICE_NAME`: names this service in logs, labels, metrics and `/status`.
    pub service_name: String,
    /// `data_dir`, default `/var/lib/runner-coordinator` or `./data` when that is not writable: database, logs of jobs, own keys. Absolute.
    pub data_dir: PathBuf,
    /// `http.*`: the API, the webhook and the page.
    pub http: Http,
    /// `store.url` or `store.url_file`, default an `SQLite` file in `data_dir`: the queue.
    pub store: StoreUrl,
    /// `docker.*`: the engine.
    pub docker: Docker,
    /// `host.*`: this machine.
    pub host: Host,
    /// `gpu.*`: how its GPUs are found.
    pub gpu: Gpu,
    /// `gitlab.*`: the GitLab to work for; `None` without that section.
    pub gitlab: Option<GitLab>,
    /// `broker.*`: where runners reach us.
    pub broker: Broker,
    /// `[[classes]]`: the kinds of runners; never empty. Without any, one class `default`.
    pub classes: Vec<Class>,
    /// `[[projects]]`, default none: what single projects are due.
    pub projects: Vec<Project>,
    /// `limits.*`: bounds on everything that others can make grow.
    pub limits: Limits,
    /// `fleet.*`: daemons that share one database.
    pub fleet: Fleet,
    /// `retention.*`: how long what has ended is kept.
    pub retention: Retention,
    /// `disk.*`: what must stay free of the machine's disks.
    pub disk: DiskMarks,
    /// `images.*`: which images may be removed for it.
    pub images: Images,
    /// `traces.*`: where the traces of ended jobs go; `None` without that section: nowhere.
    pub traces: Option<Traces>,
    /// `log.*`: which lines are logged, and in which form.
    pub log: Log,
}

/// The API, the webhook and the page.
#[derive(Debug, Clone)]
pub struct Http {
    /// `http.listen`, default `127.0.0.1:8080`. An address other machines reach needs at least one token.
    pub listen: SocketAddr,
    /// `http.socket`, default none: a Unix socket with the same API, for whom its file's mode lets in.
    pub socket: Option<PathBuf>,
    /// `http.tls.*`, default plain HTTP: what is spoken at `http.listen`.
    pub transport: Transport,
    /// `[[http.tokens]]`, default none: bearer tokens of the API.
    pub tokens: Vec<ApiToken>,
}

/// A bearer token of the API. Only its digest is configured, so the configuration cannot be used to call the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiToken {
    /// `name`: who holds it, for logs. Unique.
    pub name: String,
    /// `role`.
    pub role: Role,
    /// `projects`: of a `submitter`, and needed there: those whose jobs it may submit and look at. Else empty.
    pub projects: Vec<ProjectName>,
    /// `sha256`: SHA-256 of the token, 64 hexadecimal digits in the file.
    pub sha256: [u8; 32],
}

/// What the holder of a token may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// `submitter`: submit jobs of its projects, and look at those that came so.
    Submitter,
    /// `viewer`: look.
    Viewer,
    /// `operator`: look, submit, cancel, spawn, terminate, drain.
    Operator,
}

impl Role {
    /// Every role, in the order in which messages list them.
    pub const ALL: [Self; 3] = [Self::Submitter, Self::Viewer, Self::Operator];

    /// The name in the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Submitter => "submitter",
            Self::Viewer => "viewer",
            Self::Operator => "operator",
        }
    }
}

/// Where the queue is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreUrl {
    /// `sqlite:PATH`: a file of this machine. Absolute.
    Sqlite(PathBuf),
    /// `postgres://…`: a database that daemons share.
    Postgres(DatabaseUrl),
}

/// This machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// `host.name`, default the machine's host name: its id in a fleet.
    pub name: HostId,
    /// `host.cpus`, default all: most processor time that jobs may use together.
    pub cpus: Option<CpuMillis>,
    /// `host.memory`, default all: most memory that jobs may use together.
    pub memory: Option<MemoryBytes>,
}

/// Where runners reach us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broker {
    /// `broker.listen`, default `gateway:8093`.
    pub listen: BrokerListen,
    /// `broker.advertise`, default the address listened on: base URL that runners use, without a slash at the end.
    pub advertise: Option<String>,
}

/// Which address the broker listens on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BrokerListen {
    /// `gateway` or `gateway:PORT`: this machine's address in the runners' network.
    Gateway {
        /// The port.
        port: u16,
    },
    /// `ADDRESS:PORT`.
    Address(SocketAddr),
}

impl BrokerListen {
    /// The port when none is named.
    pub const DEFAULT_PORT: u16 = 8093;
}

/// A kind of runner: what its containers look like and get.
#[derive(Debug, Clone)]
pub struct Class {
    /// `name`, needed: unique.
    pub name: ClassName,
    /// `image`, default none: the runner's image for GitLab, or the image of jobs that name none.
    pub image: Option<ImageRef>,
    /// `tags`, default none: for people; GitLab matches jobs by the tags of its own runner.
    pub tags: Vec<String>,
    /// `arch`, default any.
    pub arch: Option<Arch>,
    /// `emulation`, default `deny`: whether jobs that do not say so themselves may run on an emulated architecture.
    pub emulation: Emulation,
    /// `gpus = { count, vendor, min_memory, mig_profile }`, default none.
    pub gpus: Option<GpuRequest>,
    /// `cpus`, default 1.
    pub cpus: CpuMillis,
    /// `memory`, default `2GiB`.
    pub memory: MemoryBytes,
    /// `pids`, default 512: most processes and threads.
    pub pids: u32,
    /// `timeout`, default `1h`: longest run time of a job that names none; at most `limits.max_timeout`.
    pub timeout: Duration,
    /// `network`, default `isolated`.
    pub network: Network,
    /// `network_allow`, default none: what containers may reach beside what `network` says.
    pub network_allow: Vec<Destination>,
    /// `runtime`, default `runc`: the engine's runtime.
    pub runtime: String,
    /// `user`, default `65532:65532`: numeric user and group, neither of them root.
    pub user: String,
    /// `warm`, default 0: runners that are kept ready for GitLab's jobs. Needs `gitlab_token`.
    pub warm: u32,
    /// `max_runners`, default what the machine can hold.
    pub max_runners: Option<u32>,
    /// `priority`, default 0: of jobs that name none; higher goes first.
    pub priority: i32,
    /// `gitlab_token` or `gitlab_token_file`, default none: authentication token of a runner of GitLab. Needs `image` and `gitlab.url`.
    pub gitlab_token: Option<SecretString>,
    /// `pull`, default `if-missing`.
    pub pull: Pull,
    /// `require_digest`, default false: whether every image has to be named by its digest, the class's own and those that jobs name.
    pub require_digest: bool,
    /// `tmp_size`, default `512MiB`: size of `/tmp`, which counts as memory.
    pub tmp_size: MemoryBytes,
    /// `job_image`, default `deny`: what becomes of a job of GitLab that names an image of its own.
    pub job_image: JobImage,
    /// `shell`, default `bash`: the shell that GitLab Runner writes scripts for; the image must have it.
    pub shell: Shell,
}

impl Class {
    /// The engine's runtime where none is named: with the machine's own kernel.
    pub const DEFAULT_RUNTIME: &'static str = "runc";

    /// A class with nothing but defaults.
    #[must_use]
    pub fn named(name: ClassName) -> Self {
        Self {
            name,
            image: None,
            tags: Vec::new(),
            arch: None,
            emulation: Emulation::Deny,
            gpus: None,
            cpus: CpuMillis(1000),
            memory: MemoryBytes(2 << 30),
            pids: 512,
            timeout: Duration::from_secs(60 * 60),
            network: Network::Isolated,
            network_allow: Vec::new(),
            runtime: Self::DEFAULT_RUNTIME.to_owned(),
            user: "65532:65532".to_owned(),
            warm: 0,
            max_runners: None,
            priority: 0,
            gitlab_token: None,
            pull: Pull::IfMissing,
            require_digest: false,
            tmp_size: MemoryBytes(512 << 20),
            job_image: JobImage::Deny,
            shell: Shell::Bash,
        }
    }
}

impl Class {
    /// What is wrong with an image for its jobs.
    ///
    /// # Errors
    /// Names `field` when the class wants a digest and the image has none.
    pub fn check_image(&self, field: &str, image: &ImageRef) -> Result<(), FieldFault> {
        if self.require_digest && !image.names_digest() {
            let message = format!("must name a digest (name@sha256:…), because class {} has require_digest", self.name);
            return Err(FieldFault::new(field, message));
        }
        Ok(())
    }
}

/// When an image is pulled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pull {
    /// `if-missing`: when the engine does not have it.
    IfMissing,
    /// `always`: before every start.
    Always,
    /// `never`: a missing image fails the job.
    Never,
}

impl Pull {
    /// Every choice, in the order in which messages list them.
    pub const ALL: [Self; 3] = [Self::IfMissing, Self::Always, Self::Never];

    /// The name in the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::IfMissing => "if-missing",
            Self::Always => "always",
            Self::Never => "never",
        }
    }
}

/// What becomes of a job of GitLab that names an image of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobImage {
    /// `deny`: it fails, and is told why.
    Deny,
    /// `ignore`: it runs in the class's image, as with GitLab Runner's shell executor.
    Ignore,
    /// `allow`: it runs in its image.
    Allow {
        /// `job_images`, default any: the images that jobs may name.
        images: Vec<ImagePattern>,
        /// `runner_binary`, needed: GitLab Runner on the engine's machine, which such a container is lent.
        runner_binary: HostFile,
    },
}

/// A shell that GitLab Runner can write scripts for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shell {
    /// `bash`.
    Bash,
    /// `sh`: for images without `bash`.
    Sh,
}

impl Shell {
    /// Every choice, in the order in which messages list them.
    pub const ALL: [Self; 2] = [Self::Bash, Self::Sh];

    /// The name in the configuration, and for GitLab Runner.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bash => "bash",
            Self::Sh => "sh",
        }
    }
}
