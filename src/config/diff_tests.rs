//! Tests of what a reload changes: one row for every key that there is, so that a new one has to be thought of.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use proptest::prelude::*;
use tempfile::TempDir;

use super::Effect::{AtOnce, Restart};
use super::*;
use crate::config::layers::Layers;
use crate::config::load::from_layers;
use crate::config::section::SecretFiles;

/// A key, two values of it, under which name a change of it is told, and when it takes effect.
type Row = (&'static str, &'static str, &'static str, &'static str, Effect);

const ROWS: &[Row] = &[
    ("service_name", "a", "b", "service_name", Restart),
    // The queue lies in it unless its own place is given.
    ("data_dir", "/tmp/a", "/tmp/b", "data_dir store.url", Restart),
    ("http.listen", "127.0.0.1:1", "127.0.0.1:2", "http.listen", Restart),
    ("http.socket", "/a", "/b", "http.socket", Restart),
    ("http.tls.certificate_file", "tls-one", "tls-two", "http.tls.certificate_file", AtOnce),
    ("http.tls.key_file", "tls-key", "tls-key-again", "http.tls.key_file", AtOnce),
    ("http.tls.client_ca_file", "tls-one", "tls-two", "http.tls.client_ca_file", AtOnce),
    ("http.tokens[].name", "a", "b", "http.tokens[a] http.tokens[b]", AtOnce),
    ("http.tokens[].role", "viewer", "operator", "http.tokens[ci].role", AtOnce),
    ("http.tokens[].projects", "a/b", "a/c", "http.tokens[ci].projects", AtOnce),
    ("http.tokens[].sha256", SHA_1, SHA_2, "http.tokens[ci].sha256", AtOnce),
    ("store.url", "sqlite:a.db", "sqlite:b.db", "store.url", Restart),
    ("store.url_file", "db-one", "db-two", "store.url", Restart),
    ("fleet.host_lost_after", "1m", "2m", "fleet.host_lost_after", AtOnce),
    ("fleet.url", "http://a.test", "http://b.test", "fleet.url", AtOnce),
    ("docker.host", "unix:///a", "unix:///b", "docker.host", Restart),
    ("docker.dns", "10.0.0.1", "10.0.0.2", "docker.dns", AtOnce),
    ("docker.data_dir", "/a", "/b", "docker.data_dir", Restart),
    ("docker.registries[].server", "a.test", "b.test", "docker.registries[a.test] docker.registries[b.test]", AtOnce),
    ("docker.registries[].username", "a", "b", "docker.registries[r.test].username", AtOnce),
    ("docker.registries[].password", "hunter2", "hunter3", "docker.registries[r.test].password", AtOnce),
    ("docker.registries[].password_file", "one", "two", "docker.registries[r.test].password", AtOnce),
    ("host.name", "a", "b", "host.name", Restart),
    ("host.cpus", "1", "2", "host.cpus", Restart),
    ("host.memory", "1GiB", "2GiB", "host.memory", Restart),
    ("gpu.probe_interval", "1s", "2s", "gpu.probe_interval", Restart),
    ("gpu.hold_after", "1s", "2s", "gpu.hold_after", AtOnce),
    ("gpu.recheck_after", "1s", "2s", "gpu.recheck_after", Restart),
    ("gpu.integrated", "ignore", "use", "gpu.integrated", Restart),
    ("gpu.shared", "*A*", "*B*", "gpu.shared", Restart),
    ("gpu.toolkit", "a", "b", "gpu.toolkit", Restart),
    ("gpu.old_toolkit", "refuse", "allow", "gpu.old_toolkit", Restart),
    ("gpu.nvml", "a", "b", "gpu.nvml", Restart),
    ("gpu.sysfs", "/a", "/b", "gpu.sysfs", Restart),
    ("gpu.dev", "/a", "/b", "gpu.dev", Restart),
    ("gpu.proc", "/a", "/b", "gpu.proc", Restart),
    ("log.level", "info", "debug", "log.level", AtOnce),
    ("log.format", "text", "json", "log.format", Restart),
    ("gitlab.url", "https://a.test", "https://b.test", "gitlab.url", Restart),
    ("gitlab.poll_interval", "1s", "2s", "gitlab.poll_interval", AtOnce),
    ("gitlab.repair_interval", "1s", "2s", "gitlab.repair_interval", AtOnce),
    ("gitlab.read_token", "hunter2", "hunter3", "gitlab.read_token", Restart),
    ("gitlab.read_token_file", "one", "two", "gitlab.read_token", Restart),
    ("gitlab.projects", "a/b", "a/c", "gitlab.projects", AtOnce),
    ("gitlab.webhook.secret_token", "hunter2", "hunter3", "gitlab.webhook.secret_token", AtOnce),
    ("gitlab.webhook.secret_token_file", "one", "two", "gitlab.webhook.secret_token", AtOnce),
    ("gitlab.webhook.signing_token", SIGNING_1, SIGNING_2, "gitlab.webhook.signing_token", AtOnce),
    ("gitlab.webhook.signing_token_file", "key-one", "key-two", "gitlab.webhook.signing_token", AtOnce),
    ("broker.listen", "gateway:1", "gateway:2", "broker.listen", Restart),
    ("broker.advertise", "http://a.test", "http://b.test", "broker.advertise", Restart),
    ("classes[].name", "a", "b", "classes[a] classes[b]", AtOnce),
    ("classes[].image", "a", "b", "classes[c].image", AtOnce),
    ("classes[].tags", "a", "b", "classes[c].tags", AtOnce),
    ("classes[].arch", "amd64", "arm64", "classes[c].arch", AtOnce),
    ("classes[].emulation", "deny", "allow", "classes[c].emulation", AtOnce),
    ("classes[].gpus.count", "1", "2", "classes[c].gpus", AtOnce),
    ("classes[].gpus.vendor", "nvidia", "amd", "classes[c].gpus", AtOnce),
    ("classes[].gpus.min_memory", "1GiB", "2GiB", "classes[c].gpus", AtOnce),
    ("classes[].gpus.model", "*A*", "*B*", "classes[c].gpus", AtOnce),
    ("classes[].gpus.compute_capability", "7.0", "8.0", "classes[c].gpus", AtOnce),
    ("classes[].gpus.mig_profile", "1g.5gb", "2g.10gb", "classes[c].gpus", AtOnce),
    ("classes[].gpus.memory", "1GiB", "2GiB", "classes[c].gpus", AtOnce),
    ("classes[].cpus", "1", "2", "classes[c].cpus", AtOnce),
    ("classes[].memory", "1GiB", "2GiB", "classes[c].memory", AtOnce),
    ("classes[].pids", "100", "200", "classes[c].pids", AtOnce),
    ("classes[].timeout", "1m", "2m", "classes[c].timeout", AtOnce),
    ("classes[].require_digest", "true", "false", "classes[c].require_digest", AtOnce),
    ("classes[].network", "none", "isolated", "classes[c].network", AtOnce),
    ("classes[].network_allow", "a.example", "b.example", "classes[c].network_allow", AtOnce),
    ("classes[].runtime", "runc", "runsc", "classes[c].runtime", AtOnce),
    ("classes[].user", "1:1", "2:2", "classes[c].user", AtOnce),
    ("classes[].warm", "1", "2", "classes[c].warm", AtOnce),
    ("classes[].max_runners", "3", "4", "classes[c].max_runners", AtOnce),
    ("classes[].priority", "1", "2", "classes[c].priority", AtOnce),
    ("classes[].gitlab_token", "hunter2", "hunter3", "classes[c].gitlab_token", AtOnce),
    ("classes[].gitlab_token_file", "one", "two", "classes[c].gitlab_token", AtOnce),
    ("classes[].pull", "always", "never", "classes[c].pull", AtOnce),
    ("classes[].tmp_size", "1MiB", "2MiB", "classes[c].tmp_size", AtOnce),
    ("classes[].job_image", "deny", "ignore", "classes[c].job_image", AtOnce),
    ("classes[].job_images", "a", "b", "classes[c].job_image", AtOnce),
    ("classes[].runner_binary", "/a", "/b", "classes[c].job_image", AtOnce),
    ("classes[].shell", "bash", "sh", "classes[c].shell", AtOnce),
    ("projects[].name", "a", "b", "projects[a] projects[b]", AtOnce),
    ("projects[].weight", "1", "2", "projects[p].weight", AtOnce),
    ("projects[].max_running", "1", "2", "projects[p].max_running", AtOnce),
    ("projects[].max_gpus", "1", "2", "projects[p].max_gpus", AtOnce),
    ("traces.endpoint", "http://a.test", "http://b.test", "traces.endpoint", Restart),
    ("traces.headers[].name", "a", "b", "traces.headers", Restart),
    ("traces.headers[].value", "hunter2", "hunter3", "traces.headers", Restart),
    ("traces.headers[].value_file", "one", "two", "traces.headers", Restart),
    ("traces.sample", "0.1", "0.2", "traces.sample", Restart),
    ("limits.body", "1MiB", "2MiB", "limits.body", AtOnce),
    ("limits.webhook_body", "1MiB", "2MiB", "limits.webhook_body", AtOnce),
    ("limits.token_requests", "1", "2", "limits.token_requests", AtOnce),
    ("limits.address_refusals", "1", "2", "limits.address_refusals", AtOnce),
    ("limits.queue_per_project", "1", "2", "limits.queue_per_project", AtOnce),
    ("limits.queue", "1", "2", "limits.queue", AtOnce),
    ("limits.log_size", "1MiB", "2MiB", "limits.log_size", AtOnce),
    ("limits.infrastructure_retries", "1", "2", "limits.infrastructure_retries", AtOnce),
    ("limits.retry_backoff", "1s", "2s", "limits.retry_backoff", AtOnce),
    ("limits.retry_backoff_max", "1m", "2m", "limits.retry_backoff_max", AtOnce),
    ("limits.stop_grace", "1s", "2s", "limits.stop_grace", AtOnce),
    ("limits.start_timeout", "1s", "2s", "limits.start_timeout", AtOnce),
    ("limits.stuck_after", "1s", "2s", "limits.stuck_after", AtOnce),
    ("limits.runner_contact_timeout", "2m", "3m", "limits.runner_contact_timeout", AtOnce),
    ("limits.delivery_memory", "1h", "2h", "limits.delivery_memory", AtOnce),
    ("limits.max_timeout", "2h", "3h", "limits.max_timeout", AtOnce),
    ("limits.env_vars", "1", "2", "limits.env_vars", AtOnce),
    ("limits.command_bytes", "1MiB", "1KiB", "limits.command_bytes", AtOnce),
    ("retention.jobs", "1day", "2days", "retention.jobs", AtOnce),
    ("retention.max_jobs", "100", "200", "retention.max_jobs", AtOnce),
    ("retention.logs", "1day", "2days", "retention.logs", AtOnce),
    ("retention.usage", "1day", "2days", "retention.usage", AtOnce),
    ("disk.low", "20%", "30% or 1TiB", "disk.low", AtOnce),
    ("disk.full", "1GiB", "2GiB", "disk.full", AtOnce),
    ("images.max_age", "1day", "2days", "images.max_age", AtOnce),
    ("images.pinned", "a", "b", "images.pinned", AtOnce),
];

const SHA_1: &str = "1111111111111111111111111111111111111111111111111111111111111111";
const SHA_2: &str = "2222222222222222222222222222222222222222222222222222222222222222";
const SIGNING_1: &str = "whsec_MTExMTExMTExMTExMTExMTExMTExMTExMTExMTExMTE=";
const SIGNING_2: &str = "whsec_MjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjI=";

const BASE: &str = "data_dir = \"data\"\n[gitlab]\nurl = \"https://g.test\"\n[[http.tokens]]\nname = \"ci\"\nrole = \"viewer\"\n\
                    sha256 = \"0000000000000000000000000000000000000000000000000000000000000000\"\n\
                    [[docker.registries]]\nserver = \"r.test\"\nusername = \"u\"\n[[classes]]\nname = \"c\"\nimage = \"i\"\n[[projects]]\nname = \"p\"\n\
                    [traces]\nendpoint = \"http://t.test\"\n[[traces.headers]]\nname = \"h\"\n";

/// What else has to be given, so that the key may be.
fn companions(key: &str) -> &'static [(&'static str, &'static str)] {
    match key {
        "http.tls.certificate_file" => &[("http.tls.key_file", "tls-key")],
        "http.tls.key_file" => &[("http.tls.certificate_file", "tls-one")],
        "http.tls.client_ca_file" => &[("http.tls.certificate_file", "tls-one"), ("http.tls.key_file", "tls-key")],
        "http.tokens[].projects" => &[("http.tokens[].role", "submitter")],
        "gitlab.projects" => &[("gitlab.read_token", "x")],
        "classes[].warm" => &[("classes[].gitlab_token", "x")],
        "classes[].job_images" => &[("classes[].job_image", "allow"), ("classes[].runner_binary", "/r")],
        "classes[].runner_binary" => &[("classes[].job_image", "allow")],
        "classes[].gpus.min_memory" | "classes[].gpus.model" | "classes[].gpus.vendor" => &[("classes[].gpus.count", "1")],
        "classes[].gpus.compute_capability" | "classes[].gpus.mig_profile" => &[("classes[].gpus.count", "1"), ("classes[].gpus.vendor", "nvidia")],
        "classes[].require_digest" => &[("classes[].image", "i@sha256:0000000000000000000000000000000000000000000000000000000000000000")],
        _ => &[],
    }
}

fn directory() -> TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("ours");
    };
    for (name, text) in [
        ("c.toml", BASE),
        ("db-one", "postgres://u@a/x"),
        ("db-two", "postgres://u@b/x"),
        ("one", "hunter4"),
        ("two", "hunter5"),
        ("key-one", SIGNING_1),
        ("key-two", SIGNING_2),
    ] {
        write(name, text);
    }
    // Two certificates of one key, and the key in two forms.
    let key = rcgen::KeyPair::generate().expect("a key");
    for name in ["tls-one", "tls-two"] {
        write(name, &rcgen::CertificateParams::new([format!("{name}.test")]).and_then(|of| of.self_signed(&key)).expect("a certificate").pem());
    }
    write("tls-key", &key.serialize_pem());
    write("tls-key-again", &format!("the same\n{}", key.serialize_pem()));
    dir
}

/// The base with these keys set.
fn with(dir: &TempDir, keys: &[(&str, &str)]) -> Config {
    let mut keys: Vec<_> = keys.to_vec();
    if !keys.iter().any(|(key, _)| key.contains("password")) {
        keys.push(("docker.registries[].password", "x"));
    }
    if !keys.iter().any(|(key, _)| key.contains("headers[].value")) {
        keys.push(("traces.headers[].value", "x"));
    }
    let env = keys.iter().map(|(key, value)| {
        let variable = key.replace("[]", ".0").to_uppercase().replace('.', "__");
        (format!("RUNNER_COORDINATOR__{variable}"), (*value).to_owned())
    });
    let layers = Layers::read(Some(&dir.path().join("c.toml")), Path::new("/nonexistent"), env).unwrap_or_else(|faults| panic!("{faults}"));
    from_layers(layers, SecretFiles::Needed).0.unwrap_or_else(|faults| panic!("{keys:?}: {faults}"))
}

fn known_keys() -> BTreeSet<String> {
    let example = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/config/runner-coordinator.toml"));
    let layers = Layers::read(Some(example), example, std::iter::empty()).unwrap_or_else(|faults| panic!("{faults}"));
    from_layers(layers, SecretFiles::MayBeMissing).1.known.into_inner()
}

fn told(key: &str, effect: Effect) -> Changes {
    let keys: Vec<String> = key.split(' ').map(str::to_owned).collect();
    match effect {
        AtOnce => Changes { applied: keys, restart: Vec::new() },
        Restart => Changes { applied: Vec::new(), restart: keys },
    }
}

#[test]
fn there_is_a_row_for_every_key() {
    let rows: BTreeSet<String> = ROWS.iter().map(|(key, ..)| (*key).to_owned()).collect();
    assert_eq!(rows, known_keys());
}

#[test]
fn every_key_takes_effect_at_once_or_at_the_next_start_and_nothing_else_is_told() {
    let dir = directory();
    for (key, before, after, shown, effect) in ROWS {
        let set = |value| with(&dir, &[&[(*key, value)], companions(key)].concat());
        let (old, new) = (set(before), set(after));
        let expected = told(shown, *effect);
        assert_eq!(diff(&old, &new), expected, "{key}");
        assert_eq!(diff(&old, &old.clone()), Changes::default(), "{key}");
        assert!(!format!("{:?}", diff(&old, &new)).contains("hunter"), "{key}");
        // What is told is what happens.
        let (taken, changes) = old.taking_over(new.clone()).unwrap_or_else(|faults| panic!("{key}: {faults}"));
        assert_eq!(changes, expected, "{key}");
        let (done, left) = (diff(&old, &taken), diff(&taken, &new));
        assert_eq!((&done.applied, &done.restart), (&expected.applied, &Vec::new()), "{key}");
        assert_eq!((&left.applied, &left.restart), (&Vec::new(), &expected.restart), "{key}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn changes_of_many_keys_are_told_together(chosen in prop::sample::subsequence(
        ROWS.iter().filter(|(key, ..)| stands_beside_others(key)).collect::<Vec<_>>(), 0..=12,
    )) {
        let dir = directory();
        let companions: Vec<_> = chosen.iter().flat_map(|(key, ..)| companions(key)).copied().collect();
        let all = |value: fn(&Row) -> &'static str| {
            let mut keys: Vec<_> = companions.clone();
            keys.extend(chosen.iter().map(|row| (row.0, value(row))));
            with(&dir, &keys)
        };
        let changes = diff(&all(|row| row.1), &all(|row| row.2));
        let of = |effect: Effect| chosen.iter().filter(|row| row.4 == effect).flat_map(|row| row.3.split(' ')).map(str::to_owned).collect::<BTreeSet<_>>();
        prop_assert_eq!(BTreeSet::from_iter(changes.applied), of(AtOnce));
        prop_assert_eq!(BTreeSet::from_iter(changes.restart), of(Restart));
    }
}

/// Names change what the others are told under, files exclude values, and some keys contradict others.
fn stands_beside_others(key: &str) -> bool {
    let alone = [
        "classes[].gpus",
        "_file",
        "[].name",
        "[].server",
        "job_image",
        "runner_binary",
        "require_digest",
        "network",
        "gitlab_token",
        "warm",
        "read_token",
    ];
    !alone.iter().any(|part| key.contains(part)) && !key.ends_with("projects")
}

fn keys_of(faults: &ConfigFaults) -> Vec<String> {
    faults.0.iter().filter_map(|fault| fault.key.clone()).collect()
}

#[test]
fn a_daemon_that_others_reach_keeps_its_tokens() {
    let dir = directory();
    let open = with(&dir, &[("http.listen", "0.0.0.0:80")]);
    let mut none = with(&dir, &[]);
    none.http.tokens.clear();
    assert_eq!(keys_of(&open.taking_over(none.clone()).expect_err("refused")), ["http.tokens"]);
    assert!(with(&dir, &[]).taking_over(none).is_ok(), "on loopback nobody else comes in");
}

#[test]
fn a_token_for_another_gitlab_is_not_shown_to_this_one() {
    let dir = directory();
    let here = with(&dir, &[("classes[].gitlab_token", "a")]);
    let there = |token| with(&dir, &[("gitlab.url", "https://other.test"), ("classes[].gitlab_token", token)]);
    assert_eq!(keys_of(&here.taking_over(there("b")).expect_err("refused")), ["classes[0].gitlab_token"]);
    let (kept, changes) = here.taking_over(there("a")).unwrap_or_else(|faults| panic!("{faults}"));
    assert_eq!((kept.gitlab.map(|gitlab| gitlab.url).as_deref(), changes), (Some("https://g.test"), told("gitlab.url", Restart)));
    let mut nowhere = with(&dir, &[]);
    nowhere.gitlab = None;
    assert_eq!(keys_of(&nowhere.taking_over(here).expect_err("refused")), ["classes[0].gitlab_token"]);
}

#[test]
fn queues_of_gitlab_are_looked_at_only_with_a_token_that_is_there() {
    let dir = directory();
    let can = [("gitlab.read_token", "x"), ("gitlab.projects", "a/b")];
    assert_eq!(keys_of(&with(&dir, &[]).taking_over(with(&dir, &can)).expect_err("refused")), ["gitlab.projects"]);
    assert!(with(&dir, &can[..1]).taking_over(with(&dir, &can)).is_ok());
}

#[test]
fn without_its_section_gitlab_stays_until_the_next_start_and_its_webhooks_are_refused() {
    let dir = directory();
    let with_gitlab = with(&dir, &[("gitlab.webhook.secret_token", "x")]);
    let mut without = with(&dir, &[]);
    without.gitlab = None;
    let (taken, changes) = with_gitlab.taking_over(without.clone()).unwrap_or_else(|faults| panic!("{faults}"));
    assert_eq!((changes.applied, changes.restart), (vec!["gitlab.webhook.secret_token".to_owned()], vec!["gitlab.url".to_owned()]));
    assert!(taken.gitlab.is_some_and(|gitlab| gitlab.webhook_secret_tokens.is_empty()));
    let (taken, changes) = without.taking_over(with_gitlab).unwrap_or_else(|faults| panic!("{faults}"));
    assert_eq!((taken.gitlab.is_none(), changes), (true, told("gitlab.url", Restart)));
}

#[test]
fn runners_are_made_anew_only_for_what_is_built_into_them() {
    let dir = directory();
    for (key, before, after, ..) in ROWS.iter().filter(|(key, ..)| key.starts_with("classes[].") && *key != "classes[].name") {
        let set = |value| with(&dir, &[&[(*key, value)], companions(key)].concat()).classes.remove(0);
        let field = key.trim_start_matches("classes[].").trim_end_matches("_file");
        assert_eq!(set(before).makes_the_same_runners(&set(after)), NOT_IN_CONTAINERS.contains(&field), "{key}");
        assert_eq!(set(before).has_the_same_token(&set(after)), field != "gitlab_token", "{key}");
    }
}
