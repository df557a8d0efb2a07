//! Builds the [`Config`] from its sources.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

use secrecy::{ExposeSecret as _, SecretString};

use super::fault::ConfigFaults;
use super::layers::{DEFAULT_FILE, Layers};
use super::section::{Reading, SecretFiles, Section};
use super::values;
use super::{ApiToken, Broker, BrokerListen, Config, DatabaseUrl, Docker, Host, Http, Registry, Role, StoreUrl, Transport, classes, gitlab, gpu};
use crate::domain::{CpuMillis, FieldFault, HostFile, HostId, MemoryBytes, ProjectName};

/// Where a packaged daemon keeps its data.
const SYSTEM_DATA_DIR: &str = "/var/lib/runner-coordinator";
/// The database's file in `data_dir`.
const DATABASE_FILE: &str = "coordinator.db";

impl Config {
    /// Reads the configuration: defaults, then `file`, then `env`.
    ///
    /// Without `file`, the file that `RUNNER_COORDINATOR_CONFIG` names is read, else `/etc/runner-coordinator/config.toml` if it exists.
    ///
    /// # Errors
    /// Every fault of the configuration; also that a named file cannot be read.
    pub fn load(file: Option<&Path>, env: impl Iterator<Item = (String, String)>) -> Result<Self, ConfigFaults> {
        from_layers(Layers::read(file, Path::new(DEFAULT_FILE), env)?, SecretFiles::Needed).0
    }

    /// Reads the configuration with this process's environment. Variables that are not UTF-8 do not count, unless they are ours: then
    /// what is not UTF-8 in them is replaced, and fails its key's check.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn from_process(file: Option<&Path>) -> Result<Self, ConfigFaults> {
        Self::load(file, process_env())
    }

    /// The same for whoever is about to write the files of secrets: those that cannot be read yet are no fault, and their secrets count as
    /// not given.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn for_setup(file: Option<&Path>) -> Result<SetupConfig, ConfigFaults> {
        let layers = Layers::read(file, Path::new(DEFAULT_FILE), process_env())?;
        let file = layers.file.clone();
        let (config, reading) = from_layers(layers, SecretFiles::MayBeMissing);
        Ok(SetupConfig { config: config?, file, secret_files: reading.named.into_inner() })
    }
}

/// A configuration whose secrets may still be missing.
#[derive(Debug)]
pub struct SetupConfig {
    /// What it says; a secret whose file cannot be read is not given.
    pub config: Config,
    /// The file that was read.
    pub file: Option<PathBuf>,
    /// The files that it names for secrets, readable or not, by dotted key, for example `classes[0].gitlab_token_file`. Of a list of files
    /// the first.
    pub secret_files: BTreeMap<String, PathBuf>,
}

fn process_env() -> impl Iterator<Item = (String, String)> {
    let text = |value: std::ffi::OsString| value.to_string_lossy().into_owned();
    std::env::vars_os().map(move |(name, value)| (text(name), text(value)))
}

/// The configuration, and what was asked for to build it.
pub(super) fn from_layers(layers: Layers, files: SecretFiles) -> (Result<Config, ConfigFaults>, Reading) {
    let Layers { values, file, credentials } = layers;
    let reading = Reading { file, credentials, files, named: RefCell::default(), faults: RefCell::default(), known: RefCell::default() };
    let config = Section::whole(&reading, values).read(whole);
    let faults = reading.faults.borrow().clone();
    let result = if faults.is_empty() { Ok(config) } else { Err(ConfigFaults(faults)) };
    (result, reading)
}

fn whole(section: &mut Section<'_>) -> Config {
    let data_dir = section.parsed("data_dir", data_dir).unwrap_or_else(default_data_dir);
    let limits = section.within("limits", super::limits::read);
    let has_gitlab = section.has("gitlab");
    let has_traces = section.has("traces");
    let gitlab = has_gitlab.then(|| section.within("gitlab", gitlab::read)).flatten();
    let around = classes::Around { max_timeout: limits.max_timeout, has_gitlab };
    Config {
        service_name: section.parsed("service_name", values::name).unwrap_or_else(|| "runner-coordinator".to_owned()),
        http: section.within("http", http),
        store: section.within("store", |store| {
            let read = values::store_url(&data_dir);
            let given = store.secrets_read_by("url", |field, secret| read(field, secret.expose_secret())).into_iter().next();
            match given {
                Some(url) => url,
                // Whoever reads without secrets is to know that there is one.
                None if store.has("url_file") => StoreUrl::Postgres(DatabaseUrl::new(SecretString::default())),
                None => StoreUrl::Sqlite(data_dir.join(DATABASE_FILE)),
            }
        }),
        docker: section.within("docker", docker),
        host: section.within("host", host),
        gpu: section.within("gpu", gpu::read),
        broker: section.within("broker", broker),
        classes: classes::read(section, &around),
        projects: super::projects::read(section),
        fleet: section.within("fleet", super::fleet::read),
        retention: section.within("retention", super::retention::read),
        disk: section.within("disk", super::disk::read),
        images: section.within("images", super::disk::images),
        traces: has_traces.then(|| section.within("traces", super::traces::read)).flatten(),
        log: section.within("log", super::log::read),
        gitlab,
        data_dir,
        limits,
    }
}

impl Config {
    /// Where the engine sees a file or directory of `data_dir`; `None` when its path cannot be told to an engine.
    #[must_use]
    pub fn on_engine(&self, path: &Path) -> Option<HostFile> {
        let seen = match &self.docker.data_dir {
            Some(theirs) => Path::new(theirs.as_str()).join(path.strip_prefix(&self.data_dir).ok()?),
            None => path.to_path_buf(),
        };
        Some(HostFile::from_trusted(seen.to_str()?.to_owned()))
    }
}

fn data_dir(field: &str, text: &str) -> Result<PathBuf, FieldFault> {
    let path = std::path::absolute(text).ok().filter(|_| !text.contains('\0'));
    path.ok_or_else(|| FieldFault::new(field, "must be a path"))
}

/// The system's place when we may write there, or may create it; else `./data`.
fn default_data_dir() -> PathBuf {
    let system = Path::new(SYSTEM_DATA_DIR);
    let nearest = if system.exists() { Some(system) } else { system.parent() };
    if nearest.is_some_and(|directory| access(directory, Access::WRITE_OK | Access::EXEC_OK).is_ok()) {
        return system.to_path_buf();
    }
    std::path::absolute("data").unwrap_or_else(|_| PathBuf::from("data"))
}

fn http(section: &mut Section<'_>) -> Http {
    let listen = section.parsed("listen", values::address).unwrap_or_else(|| ([127, 0, 0, 1], 8080).into());
    let socket = section.parsed("socket", values::socket);
    let has_tls = section.has("tls");
    let transport = section.within("tls", super::tls::read);
    if has_tls && matches!(transport, Some(Transport::Plain)) {
        section.fault("tls", "must have certificate_file and key_file");
    }
    let mut seen: Vec<String> = Vec::new();
    let mut given = 0_u32;
    let tokens = section.each("tokens", |token| {
        given += 1;
        let name = token.required("name", values::name);
        let role = token.required("role", values::choice(&Role::ALL, Role::as_str));
        let sha256 = token.required("sha256", values::sha256);
        if let Some(name) = &name {
            if seen.contains(name) {
                token.fault("name", "is the name of another token already");
            }
            seen.push(name.clone());
        }
        let projects = projects_of(token, role);
        Some(ApiToken { name: name?, role: role?, projects, sha256: sha256? })
    });
    if !listen.ip().to_canonical().is_loopback() && given == 0 {
        section.fault("listen", "must be a loopback address, because there is no [[http.tokens]]: everyone could run jobs");
    }
    Http { listen, socket, transport: transport.unwrap_or_default(), tokens }
}

/// What a token is bound to.
fn projects_of(token: &mut Section<'_>, role: Option<Role>) -> Vec<ProjectName> {
    let (texts, field) = (token.texts("projects"), token.field("projects"));
    match role {
        Some(Role::Submitter) if texts.is_empty() => token.fault("projects", "must be given: the projects whose jobs a submitter may submit"),
        Some(Role::Viewer | Role::Operator) if token.has("projects") => {
            token.fault("projects", "needs role = \"submitter\"; the other roles are not bound to projects");
        }
        Some(_) | None => {}
    }
    texts.iter().filter_map(|text| token.note("projects", ProjectName::parse(&field, text))).collect()
}

fn docker(section: &mut Section<'_>) -> Docker {
    let host = section.parsed("host", values::docker_host).unwrap_or_else(|| "unix:///var/run/docker.sock".to_owned());
    let mut seen: Vec<String> = Vec::new();
    let registries = section.each("registries", |registry| {
        let server = registry.required("server", values::registry);
        let username = registry.required("username", values::name);
        let password = registry.secret("password");
        if !registry.has("password") && !registry.has("password_file") {
            registry.fault("password", "or password_file must be given");
        }
        if let Some(server) = &server {
            if seen.contains(server) {
                registry.fault("server", "is the server of another registry already");
            }
            seen.push(server.clone());
        }
        Some(Registry { server: server?, username: username?, password: password? })
    });
    Docker { host, data_dir: section.parsed("data_dir", HostFile::parse), dns: dns(section), registries }
}

fn dns(section: &mut Section<'_>) -> Vec<IpAddr> {
    let texts = section.texts("dns");
    let read: Vec<IpAddr> = texts.iter().filter_map(|text| text.parse().ok()).collect();
    if read.len() != texts.len() || read.len() > 10 {
        section.fault("dns", "must be at most 10 addresses such as 10.0.0.2");
    }
    read
}

fn host(section: &mut Section<'_>) -> Host {
    let given = section.parsed("name", values::host_name);
    let uname = rustix::system::uname();
    let own = uname.nodename().to_string_lossy();
    let name = given.unwrap_or_else(|| {
        let own = values::host_name("host.name", &own);
        if own.is_err() && !section.has("name") {
            section.fault("name", "must be given, because the machine's host name cannot be used");
        }
        own.unwrap_or_else(|_| HostId::from_trusted("localhost"))
    });
    Host { name, cpus: section.number("cpus", CpuMillis::parse), memory: section.parsed("memory", MemoryBytes::parse) }
}

fn broker(section: &mut Section<'_>) -> Broker {
    let default = BrokerListen::Gateway { port: BrokerListen::DEFAULT_PORT };
    Broker { listen: section.parsed("listen", values::broker_listen).unwrap_or(default), advertise: section.parsed("advertise", values::base_url) }
}

#[cfg(test)]
#[path = "load_tests.rs"]
mod tests;
