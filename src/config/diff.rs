//! What a new configuration changes while the daemon runs, and what of it only the next start can take over.
//!
//! Every struct of settings is taken apart without `..`, so that a key that is added cannot be forgotten here.

use secrecy::{ExposeSecret as _, SecretSlice, SecretString};

use super::fault::{ConfigFault, ConfigFaults};
use super::{
    ApiToken, Broker, Class, Config, Docker, Fleet, GitLab, Gpu, Host, Http, Images, Limits, Log, Project, Registry, Retention, Tls, TraceHeader,
    Traces, Transport,
};
use crate::domain::DiskMarks;

/// The keys in which two configurations differ, dotted, entries of lists by their names: `classes[gpu].memory`. Never a value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Those that take effect at once.
    pub applied: Vec<String>,
    /// Those that take effect at the next start.
    pub restart: Vec<String>,
}

/// When a change takes effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    AtOnce,
    Restart,
}

impl Changes {
    fn note(&mut self, effect: Effect, key: String) {
        match effect {
            Effect::AtOnce => self.applied.push(key),
            Effect::Restart => self.restart.push(key),
        }
    }

    /// Notes the key if the two differ.
    fn compare<T: PartialEq + ?Sized>(&mut self, effect: Effect, key: impl Into<String>, old: &T, new: &T) {
        if old != new {
            self.note(effect, key.into());
        }
    }

    /// The same for secrets.
    fn compare_secrets<T: Same>(&mut self, effect: Effect, key: impl Into<String>, old: &T, new: &T) {
        if !old.is_same(new) {
            self.note(effect, key.into());
        }
    }
}

/// Compares secrets, which have no `==` so that nobody compares those of others with it. Both sides are the operator's own here.
trait Same {
    fn is_same(&self, other: &Self) -> bool;
}

impl Same for SecretString {
    fn is_same(&self, other: &Self) -> bool {
        self.expose_secret() == other.expose_secret()
    }
}

impl Same for SecretSlice<u8> {
    fn is_same(&self, other: &Self) -> bool {
        self.expose_secret() == other.expose_secret()
    }
}

impl Same for TraceHeader {
    fn is_same(&self, other: &Self) -> bool {
        self.name == other.name && self.value.is_same(&other.value)
    }
}

impl<T: Same> Same for Option<T> {
    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Some(one), Some(other)) => one.is_same(other),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        }
    }
}

impl<T: Same> Same for Vec<T> {
    fn is_same(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().zip(other).all(|(one, other)| one.is_same(other))
    }
}

/// Compares all fields of one struct; their names are those of the keys.
macro_rules! compare {
    ($changes:expr, $prefix:expr, $old:expr, $new:expr, $type:ident { $($field:ident: $effect:ident),* } $(secrets { $($secret:ident: $secret_effect:ident),* })?) => {{
        let $type { $($field,)* $($($secret,)*)? } = $old;
        $($changes.compare(Effect::$effect, format!("{}{}", $prefix, stringify!($field)), $field, &$new.$field);)*
        $($($changes.compare_secrets(Effect::$secret_effect, format!("{}{}", $prefix, stringify!($secret)), $secret, &$new.$secret);)*)?
    }};
}

/// In what the two differ.
#[must_use]
pub fn diff(old: &Config, new: &Config) -> Changes {
    let mut changes = Changes::default();
    let Config {
        service_name,
        data_dir,
        http,
        store,
        docker,
        host,
        gpu,
        gitlab,
        broker,
        classes,
        projects,
        limits,
        fleet,
        retention,
        disk,
        images,
        traces,
        log,
    } = old;
    changes.compare(Effect::Restart, "service_name", service_name, &new.service_name);
    changes.compare(Effect::Restart, "data_dir", data_dir, &new.data_dir);
    let Http { listen, socket, transport, tokens } = http;
    changes.compare(Effect::Restart, "http.listen", listen, &new.http.listen);
    changes.compare(Effect::Restart, "http.socket", socket, &new.http.socket);
    diff_tls(&mut changes, transport, &new.http.transport);
    lists(&mut changes, "http.tokens", (tokens, &new.http.tokens), |token| &token.name, diff_token);
    changes.compare(Effect::Restart, "store.url", store, &new.store);
    compare!(changes, "fleet.", fleet, new.fleet, Fleet { host_lost_after: AtOnce, url: AtOnce });
    let Docker { host: engine, data_dir: seen, dns, registries } = docker;
    changes.compare(Effect::Restart, "docker.host", engine, &new.docker.host);
    changes.compare(Effect::Restart, "docker.data_dir", seen, &new.docker.data_dir);
    changes.compare(Effect::AtOnce, "docker.dns", dns, &new.docker.dns);
    lists(&mut changes, "docker.registries", (registries, &new.docker.registries), |registry| &registry.server, diff_registry);
    compare!(changes, "host.", host, new.host, Host { name: Restart, cpus: Restart, memory: Restart });
    diff_gpu(&mut changes, gpu, &new.gpu);
    match (gitlab, &new.gitlab) {
        (Some(old), Some(new)) => diff_gitlab(&mut changes, old, new),
        // Of a section that goes, the url stays in force until the next start, and with it the section.
        (Some(old), None) => diff_gitlab(&mut changes, old, &GitLab::at("")),
        (None, Some(_)) => changes.note(Effect::Restart, "gitlab.url".to_owned()),
        (None, None) => {}
    }
    compare!(changes, "broker.", broker, new.broker, Broker { listen: Restart, advertise: Restart });
    lists(&mut changes, "classes", (classes, &new.classes), |class| class.name.as_str(), diff_class);
    lists(&mut changes, "projects", (projects, &new.projects), |project| project.name.as_str(), diff_project);
    diff_limits(&mut changes, limits, &new.limits);
    compare!(changes, "retention.", retention, new.retention, Retention { jobs: AtOnce, max_jobs: AtOnce, logs: AtOnce, usage: AtOnce });
    compare!(changes, "disk.", disk, new.disk, DiskMarks { low: AtOnce, full: AtOnce });
    compare!(changes, "images.", images, new.images, Images { max_age: AtOnce, pinned: AtOnce });
    diff_traces(&mut changes, traces.as_ref(), new.traces.as_ref());
    compare!(changes, "log.", log, new.log, Log { level: AtOnce, format: Restart });
    changes
}

/// Entries that came, went or changed, by name.
fn lists<T>(changes: &mut Changes, key: &str, (old, new): (&[T], &[T]), name: impl Fn(&T) -> &str, diff: impl Fn(&mut Changes, &str, &T, &T)) {
    for entry in old {
        match new.iter().find(|other| name(other) == name(entry)) {
            Some(other) => diff(changes, &format!("{key}[{}].", name(entry)), entry, other),
            None => changes.note(Effect::AtOnce, format!("{key}[{}]", name(entry))),
        }
    }
    for entry in new.iter().filter(|entry| !old.iter().any(|other| name(other) == name(entry))) {
        changes.note(Effect::AtOnce, format!("{key}[{}]", name(entry)));
    }
}

/// By what the files hold, whatever they are called.
fn diff_tls(changes: &mut Changes, old: &Transport, new: &Transport) {
    let parts = |transport: &Transport| match transport {
        Transport::Tls(Tls { certificate, key, client_ca, server: _ }) => (Some(certificate.clone()), Some(key.clone()), client_ca.clone()),
        Transport::Plain | Transport::Sealed => (None, None, None),
    };
    let ((certificate, key, client_ca), new) = (parts(old), parts(new));
    changes.compare(Effect::AtOnce, "http.tls.certificate_file", &certificate, &new.0);
    changes.compare_secrets(Effect::AtOnce, "http.tls.key_file", &key, &new.1);
    changes.compare(Effect::AtOnce, "http.tls.client_ca_file", &client_ca, &new.2);
}

fn diff_token(changes: &mut Changes, prefix: &str, old: &ApiToken, new: &ApiToken) {
    compare!(changes, prefix, old, new, ApiToken { name: AtOnce, role: AtOnce, projects: AtOnce, sha256: AtOnce });
}

fn diff_registry(changes: &mut Changes, prefix: &str, old: &Registry, new: &Registry) {
    compare!(changes, prefix, old, new, Registry { server: AtOnce, username: AtOnce } secrets { password: AtOnce });
}

fn diff_project(changes: &mut Changes, prefix: &str, old: &Project, new: &Project) {
    compare!(changes, prefix, old, new, Project { name: AtOnce, weight: AtOnce, max_running: AtOnce, max_gpus: AtOnce });
}

fn diff_gpu(changes: &mut Changes, old: &Gpu, new: &Gpu) {
    compare!(
        changes,
        "gpu.",
        old,
        new,
        Gpu {
            probe_interval: Restart,
            hold_after: AtOnce,
            recheck_after: Restart,
            integrated: Restart,
            shared: Restart,
            toolkit: Restart,
            old_toolkit: Restart,
            nvml: Restart,
            sysfs: Restart,
            dev: Restart,
            proc: Restart
        }
    );
}

fn diff_gitlab(changes: &mut Changes, old: &GitLab, new: &GitLab) {
    let GitLab { url, webhook_signing_keys, webhook_secret_tokens, poll_interval, read_token, projects, repair_interval } = old;
    changes.compare(Effect::Restart, "gitlab.url", url, &new.url);
    changes.compare_secrets(Effect::AtOnce, "gitlab.webhook.signing_token", webhook_signing_keys, &new.webhook_signing_keys);
    changes.compare_secrets(Effect::AtOnce, "gitlab.webhook.secret_token", webhook_secret_tokens, &new.webhook_secret_tokens);
    changes.compare(Effect::AtOnce, "gitlab.poll_interval", poll_interval, &new.poll_interval);
    changes.compare_secrets(Effect::Restart, "gitlab.read_token", read_token, &new.read_token);
    changes.compare(Effect::AtOnce, "gitlab.projects", projects, &new.projects);
    changes.compare(Effect::AtOnce, "gitlab.repair_interval", repair_interval, &new.repair_interval);
}

fn diff_traces(changes: &mut Changes, old: Option<&Traces>, new: Option<&Traces>) {
    match (old, new) {
        (Some(Traces { endpoint, headers, sample }), Some(new)) => {
            changes.compare(Effect::Restart, "traces.endpoint", endpoint, &new.endpoint);
            changes.compare_secrets(Effect::Restart, "traces.headers", headers, &new.headers);
            changes.compare(Effect::Restart, "traces.sample", sample, &new.sample);
        }
        (Some(_), None) | (None, Some(_)) => changes.note(Effect::Restart, "traces.endpoint".to_owned()),
        (None, None) => {}
    }
}

fn diff_class(changes: &mut Changes, prefix: &str, old: &Class, new: &Class) {
    compare!(changes, prefix, old, new, Class {
        name: AtOnce, image: AtOnce, tags: AtOnce, arch: AtOnce, emulation: AtOnce, gpus: AtOnce, cpus: AtOnce, memory: AtOnce, pids: AtOnce,
        timeout: AtOnce, network: AtOnce, network_allow: AtOnce, runtime: AtOnce, user: AtOnce, warm: AtOnce, max_runners: AtOnce, priority: AtOnce, pull: AtOnce,
        require_digest: AtOnce, tmp_size: AtOnce, job_image: AtOnce, shell: AtOnce
    } secrets { gitlab_token: AtOnce });
}

fn diff_limits(changes: &mut Changes, old: &Limits, new: &Limits) {
    compare!(
        changes,
        "limits.",
        old,
        new,
        Limits {
            body: AtOnce,
            webhook_body: AtOnce,
            queue_per_project: AtOnce,
            token_requests: AtOnce,
            address_refusals: AtOnce,
            queue: AtOnce,
            log_size: AtOnce,
            infrastructure_retries: AtOnce,
            retry_backoff: AtOnce,
            retry_backoff_max: AtOnce,
            stop_grace: AtOnce,
            start_timeout: AtOnce,
            stuck_after: AtOnce,
            runner_contact_timeout: AtOnce,
            delivery_memory: AtOnce,
            max_timeout: AtOnce,
            env_vars: AtOnce,
            command_bytes: AtOnce
        }
    );
}

/// The class's settings that are built into its containers, each by name; those that are read when a job is chosen are not among them.
const NOT_IN_CONTAINERS: [&str; 7] = ["tags", "timeout", "warm", "max_runners", "priority", "pull", "gitlab_token"];

impl Class {
    /// Whether a runner made of `other` would be made as one of this class.
    #[must_use]
    pub fn makes_the_same_runners(&self, other: &Self) -> bool {
        let mut changes = Changes::default();
        diff_class(&mut changes, "", self, other);
        changes.applied.iter().all(|key| NOT_IN_CONTAINERS.contains(&key.as_str()))
    }

    /// Whether both have the same token of GitLab.
    #[must_use]
    pub fn has_the_same_token(&self, other: &Self) -> bool {
        self.gitlab_token.is_same(&other.gitlab_token)
    }
}

impl Config {
    /// These settings with what of `new` can be taken over without a restart, and in what the two differ.
    ///
    /// # Errors
    /// When the two together would be a configuration that is refused at a start, or would show secrets to the wrong server.
    pub fn taking_over(&self, new: Self) -> Result<(Self, Changes), ConfigFaults> {
        let faults = contradictions(self, &new);
        if !faults.is_empty() {
            return Err(ConfigFaults(faults));
        }
        let changes = diff(self, &new);
        let gitlab = self.gitlab.as_ref().map(|running| GitLab {
            url: running.url.clone(),
            read_token: running.read_token.clone(),
            ..new.gitlab.unwrap_or_else(|| GitLab::at(""))
        });
        let config = Self {
            service_name: self.service_name.clone(),
            data_dir: self.data_dir.clone(),
            http: Http { listen: self.http.listen, socket: self.http.socket.clone(), ..new.http },
            store: self.store.clone(),
            docker: Docker { host: self.docker.host.clone(), data_dir: self.docker.data_dir.clone(), ..new.docker },
            host: self.host.clone(),
            gpu: Gpu { hold_after: new.gpu.hold_after, ..self.gpu.clone() },
            gitlab,
            broker: self.broker.clone(),
            classes: new.classes,
            projects: new.projects,
            limits: new.limits,
            fleet: new.fleet,
            retention: new.retention,
            disk: new.disk,
            images: new.images,
            traces: self.traces.clone(),
            log: Log { level: new.log.level, format: self.log.format },
        };
        Ok((config, changes))
    }
}

/// What of `new` cannot stand beside what only a restart would change.
fn contradictions(running: &Config, new: &Config) -> Vec<ConfigFault> {
    let mut faults = Vec::new();
    let mut fault = |key: String, message: &str| {
        faults.push(ConfigFault { source: "reload".to_owned(), key: Some(key), message: message.to_owned() });
    };
    if !running.http.listen.ip().to_canonical().is_loopback() && new.http.tokens.is_empty() {
        fault("http.tokens".to_owned(), "must not be empty, because http.listen changes only at a restart: everyone could run jobs");
    }
    let url = |config: &Config| config.gitlab.as_ref().map(|gitlab| gitlab.url.clone());
    if url(running) != url(new) {
        let known = |class: &Class| running.classes.iter().any(|other| other.name == class.name && other.has_the_same_token(class));
        for (index, _) in new.classes.iter().enumerate().filter(|(_, class)| class.gitlab_token.is_some() && !known(class)) {
            fault(
                format!("classes[{index}].gitlab_token"),
                "cannot be taken over before a restart, which gitlab.url needs: it would be shown to another server",
            );
        }
    }
    let can_read = |config: &Config| config.gitlab.as_ref().is_some_and(|gitlab| gitlab.read_token.is_some());
    if new.gitlab.as_ref().is_some_and(|gitlab| !gitlab.projects.is_empty()) && running.gitlab.is_some() && !can_read(running) {
        fault("gitlab.projects".to_owned(), "cannot be taken over before a restart, which gitlab.read_token needs");
    }
    faults
}

#[cfg(test)]
#[path = "diff_tests.rs"]
mod tests;
