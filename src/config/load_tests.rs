//! Tests of the whole way from sources to settings, and of the example.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use proptest::prelude::*;
use secrecy::ExposeSecret;
use tempfile::TempDir;

use super::*;
use crate::config::{Limits, Network, Pull};
use crate::domain::{Arch, GpuVendor};

#[path = "load_gitlab_tests.rs"]
mod gitlab;

#[path = "load_gpu_tests.rs"]
mod gpus;

#[path = "load_reference_tests.rs"]
mod reference;

const EXAMPLE: &str = include_str!("../../config/runner-coordinator.toml");

/// A directory with the file `c.toml`.
fn written(toml: &str) -> TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    fs::write(dir.path().join("c.toml"), toml).expect("written");
    dir
}

fn layers(dir: &TempDir, env: &[(&str, &str)]) -> Layers {
    let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Layers::read(Some(&dir.path().join("c.toml")), Path::new("/nonexistent"), env).unwrap_or_else(|faults| panic!("{faults}"))
}

fn load(toml: &str, env: &[(&str, &str)]) -> Result<Config, ConfigFaults> {
    let dir = written(toml);
    from_layers(layers(&dir, env), SecretFiles::Needed).0
}

fn good(toml: &str, env: &[(&str, &str)]) -> Config {
    load(toml, env).unwrap_or_else(|faults| panic!("{faults}"))
}

/// The faults as `source key`, without the directory.
fn faulty(toml: &str, env: &[(&str, &str)]) -> BTreeSet<String> {
    let faults = load(toml, env).expect_err("a fault");
    let short = |source: &str| source.rsplit('/').next().unwrap_or_default().to_owned();
    faults.0.iter().map(|fault| format!("{} {}", short(&fault.source), fault.key.as_deref().unwrap_or("-"))).collect()
}

fn set(faults: &[&str]) -> BTreeSet<String> {
    faults.iter().map(ToString::to_string).collect()
}

#[test]
fn without_anything_the_defaults_serve() {
    let layers = Layers::read(None, Path::new("/nonexistent"), std::iter::empty()).unwrap_or_else(|faults| panic!("{faults}"));
    let config = from_layers(layers, SecretFiles::Needed).0.expect("no fault");
    assert_eq!(config.service_name, "runner-coordinator");
    assert_eq!(config.http.listen.to_string(), "127.0.0.1:8080");
    assert_eq!(config.docker.host, "unix:///var/run/docker.sock");
    assert_eq!(config.broker, Broker { listen: BrokerListen::Gateway { port: 8093 }, advertise: None });
    assert_eq!(config.limits, Limits::default());
    assert!(config.gitlab.is_none() && config.data_dir.is_absolute() && !config.host.name.as_str().is_empty());
    assert_eq!(config.store, StoreUrl::Sqlite(config.data_dir.join("coordinator.db")));
    let [class] = config.classes.as_slice() else { panic!("not one class") };
    assert_eq!((class.name.as_str(), class.cpus, class.network, class.pull), ("default", CpuMillis(1000), Network::Isolated, Pull::IfMissing));
}

#[test]
fn the_environment_wins_over_the_file() {
    let toml = "service_name = \"file\"\ndata_dir = \"/d\"\n[http]\nlisten = \"127.0.0.1:1\"\n[[classes]]\nname = \"a\"\ncpus = 2\n[[classes]]\nname = \"b\"\n";
    let env = [
        ("SERVICE_NAME", "env"),
        ("RUNNER_COORDINATOR__HTTP__LISTEN", "127.0.0.1:9000"),
        ("RUNNER_COORDINATOR__CLASSES__1__CPUS", "0.5"),
        ("RUNNER_COORDINATOR__CLASSES__1__TAGS", "x, y"),
        ("RUNNER_COORDINATOR__CLASSES__1__PIDS", "9"),
        ("RUNNER_COORDINATOR__STORE__URL", "sqlite:q.db"),
        ("DOCKER_HOST", "tcp://10.0.0.1:2375"),
        ("RUNNER_COORDINATOR__DATA_DIR", ""),
        ("UNRELATED", "x"),
    ];
    let config = good(toml, &env);
    assert_eq!((config.service_name.as_str(), config.http.listen.port()), ("env", 9000));
    assert_eq!((config.classes[0].cpus, config.classes[1].cpus, config.classes[1].pids), (CpuMillis(2000), CpuMillis(500), 9));
    assert_eq!(config.classes[1].tags, ["x", "y"]);
    assert_eq!(config.store, StoreUrl::Sqlite("/d/q.db".into()));
    assert_eq!(config.docker.host, "tcp://10.0.0.1:2375");
    let both = [("SERVICE_NAME", "a"), ("RUNNER_COORDINATOR__SERVICE_NAME", "b"), ("DOCKER_HOST", "tcp://h:1")];
    let config = good("docker.host = \"unix:///s\"", &both);
    assert_eq!((config.service_name.as_str(), config.docker.host.as_str()), ("b", "unix:///s"));
}

#[test]
fn the_engine_may_see_the_data_directory_elsewhere() {
    let seen = |toml: &str| good(toml, &[]).on_engine(Path::new("/d/receipts")).map(|path| path.as_str().to_owned());
    assert_eq!(seen("data_dir = \"/d\"").as_deref(), Some("/d/receipts"));
    assert_eq!(seen("data_dir = \"/d\"\ndocker.data_dir = \"/v/_data\"").as_deref(), Some("/v/_data/receipts"));
    assert_eq!(seen("data_dir = \"/elsewhere\"\ndocker.data_dir = \"/v/_data\""), None, "what is not in it");
}

#[test]
fn every_fault_is_told_at_once_with_its_place() {
    let toml = r#"
        datadir = "/x"
        http = { listen = "nowhere", port = 3 }
        store.url = "postgres://user:hunter2/x"
        [[classes]]
        name = "a"
        memory = "lots"
        colour = "red"
        [[classes]]
        cpus = "2"
        user = "root"
        gpus = { vendor = "acme" }
        [limits]
        body = 5
    "#;
    let env = [
        ("RUNNER_COORDINATOR__CLASSES__0__PIDS", "many"),
        ("RUNNER_COORDINATOR__HTPP__LISTEN", "x"),
        ("DOCKER_HOST", "ssh://box"),
        ("RUNNER_COORDINATOR__LIMITS__ENV_VARS", "-1"),
    ];
    let expected = [
        "c.toml datadir",
        "c.toml http.listen",
        "c.toml http.port",
        "c.toml store.url",
        "c.toml classes[0].memory",
        "c.toml classes[0].colour",
        "c.toml classes[1].name",
        "c.toml classes[1].cpus",
        "c.toml classes[1].user",
        "c.toml classes[1].gpus.vendor",
        "c.toml classes[1].gpus.count",
        "c.toml limits.body",
        "RUNNER_COORDINATOR__CLASSES__0__PIDS classes[0].pids",
        "RUNNER_COORDINATOR__HTPP__LISTEN htpp.listen",
        "DOCKER_HOST docker.host",
        "RUNNER_COORDINATOR__LIMITS__ENV_VARS limits.env_vars",
    ];
    assert_eq!(faulty(toml, &env), set(&expected));
    let text = load(toml, &env).expect_err("faults").to_string();
    assert_eq!(text.lines().count(), expected.len());
    assert!(text.contains("store.url must be postgres://USER:PASSWORD@HOST:PORT/DATABASE") && !text.contains("hunter2"), "{text}");
}

#[test]
fn what_stands_in_the_wrong_shape_is_a_fault_of_its_key() {
    assert_eq!(faulty("http = 3\nclasses = \"x\"\n[limits]\npids = []", &[]), set(&["c.toml http", "c.toml classes", "c.toml limits.pids"]));
    assert_eq!(faulty("classes = [1, {name = \"a\"}]", &[]), set(&["c.toml classes[0]"]));
    let env = [("RUNNER_COORDINATOR__HTTP", "x"), ("RUNNER_COORDINATOR__HTTP__LISTEN", "127.0.0.1:1")];
    assert_eq!(faulty("", &env), set(&["RUNNER_COORDINATOR__HTTP http"]));
    let gap = [("RUNNER_COORDINATOR__CLASSES__1__NAME", "b")];
    assert_eq!(faulty("", &gap), set(&["c.toml classes[0]"]));
    for (toml, key) in
        [("tags = [1]", "tags"), ("pids = \"5\"", "pids"), ("pids = 1.5", "pids"), ("cpus = true", "cpus"), ("timeout = 60", "timeout")]
    {
        assert_eq!(faulty(&format!("[[classes]]\nname = \"a\"\n{toml}"), &[]), set(&[&format!("c.toml classes[0].{key}")]), "{toml}");
    }
}

#[test]
fn a_named_file_must_exist_and_the_default_one_need_not() {
    let missing = Path::new("/nonexistent/c.toml");
    assert!(Config::load(Some(missing), std::iter::empty()).is_err_and(|faults| faults.to_string().starts_with("/nonexistent/c.toml: ")));
    let variable = [("RUNNER_COORDINATOR_CONFIG".to_owned(), "/nonexistent/d.toml".to_owned())];
    assert!(Config::load(None, variable.into_iter()).is_err_and(|faults| faults.to_string().starts_with("/nonexistent/d.toml: ")));
    let dir = written("service_name = \"from the default file\"");
    let layers = Layers::read(None, &dir.path().join("c.toml"), std::iter::empty()).unwrap_or_else(|faults| panic!("{faults}"));
    assert_eq!(from_layers(layers, SecretFiles::Needed).0.expect("no fault").service_name, "from the default file");
}

#[test]
fn others_are_served_only_with_tokens() {
    let listen = |address: &str, rest: &str| format!("[http]\nlisten = \"{address}\"\n{rest}");
    let token = format!("[[http.tokens]]\nname = \"a\"\nrole = \"viewer\"\nsha256 = \"{}\"\n", "aB".repeat(32));
    for address in ["0.0.0.0:80", "[::]:80", "10.0.0.1:80", "[::ffff:10.0.0.1]:80"] {
        assert_eq!(faulty(&listen(address, ""), &[]), set(&["c.toml http.listen"]));
        assert_eq!(faulty(&listen(address, "tokens = []"), &[]), set(&["c.toml http.listen"]));
        assert_eq!(good(&listen(address, &token), &[]).http.tokens[0].sha256, [0xab; 32]);
    }
    for address in ["127.0.0.2:80", "[::1]:80", "[::ffff:127.0.0.1]:80"] {
        good(&listen(address, ""), &[]);
    }
    let twice = format!("{token}{token}[[http.tokens]]\nname = \"b\"\nrole = \"root\"\nsha256 = \"xyz\"");
    assert_eq!(faulty(&twice, &[]), set(&["c.toml http.tokens[1].name", "c.toml http.tokens[2].role", "c.toml http.tokens[2].sha256"]));
}

#[test]
fn classes_agree_with_themselves_and_with_the_rest() {
    let class = |rest: &str| format!("gitlab.url = \"https://g/\"\nlimits.max_timeout = \"2h\"\n[[classes]]\nname = \"a\"\n{rest}");
    let of = |rest: &str| faulty(&class(rest), &[]);
    let one = |key: &str| set(&[&format!("c.toml classes[0].{key}")]);
    assert_eq!(of("gitlab_token = \"t\""), one("image"));
    assert_eq!(of("gitlab_token = \"t\"\nimage = \"i\"\nnetwork = \"none\""), one("network"));
    assert_eq!(of("warm = 1"), one("warm"));
    assert_eq!(of("gitlab_token = \"t\"\nimage = \"i\"\nwarm = 3\nmax_runners = 2"), one("warm"));
    assert_eq!(of("timeout = \"3h\""), one("timeout"));
    assert_eq!(of("memory = \"5MiB\""), one("memory"));
    assert_eq!(of("[[classes]]\nname = \"a\""), set(&["c.toml classes[1].name"]));
    let orphan = "[[classes]]\nname = \"a\"\nimage = \"i\"\ngitlab_token = \"t\"";
    assert_eq!(faulty(orphan, &[]), set(&["c.toml classes[0].gitlab_token"]));
    let config = good(&class("gitlab_token = \"t\"\nimage = \"i\"\nwarm = 2\nmax_runners = 2\narch = \"arm64\""), &[]);
    assert_eq!((config.classes[0].warm, config.classes[0].arch), (2, Some(Arch::Arm64)));
    assert_eq!(config.gitlab.expect("a GitLab").url, "https://g");
    assert_eq!(good("limits.max_timeout = \"10m\"\n[[classes]]\nname = \"a\"", &[]).classes[0].timeout, Duration::from_secs(600));
}

#[test]
fn sections_say_what_they_need() {
    assert_eq!(faulty("[gitlab.webhook]\nsecret_token = \"s\"", &[]), set(&["c.toml gitlab.url"]));
    let registry = "[[docker.registries]]\nserver = \"https://r\"\n[[docker.registries]]\nserver = \"r\"\nusername = \"u\"\npassword = \"p\"";
    let expected = ["server", "username", "password"].map(|key| format!("c.toml docker.registries[0].{key}"));
    assert_eq!(faulty(registry, &[]), expected.into_iter().collect());
    assert_eq!(
        faulty("limits = { retry_backoff = \"10m\", stop_grace = \"1500ms\" }", &[]),
        set(&["c.toml limits.retry_backoff", "c.toml limits.stop_grace"])
    );
}

/// A configuration whose GitLab secret is in the file `s` with this content and mode.
fn with_secret_file(content: &str, mode: u32, env: &[(&str, &str)]) -> Result<Config, ConfigFaults> {
    let dir = written("gitlab = { url = \"https://g\", webhook.secret_token_file = \"s\" }");
    let file = dir.path().join("s");
    fs::write(&file, content).expect("written");
    fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("set");
    let credentials = dir.path().display().to_string();
    let env: Vec<_> = env.iter().map(|(name, value)| (*name, if *value == "HERE" { credentials.as_str() } else { value })).collect();
    from_layers(layers(&dir, &env), SecretFiles::Needed).0
}

fn webhook_secrets(config: &Config) -> Vec<&str> {
    config.gitlab.iter().flat_map(|gitlab| &gitlab.webhook_secret_tokens).map(ExposeSecret::expose_secret).collect()
}

#[test]
fn a_secret_may_stand_in_a_file_that_is_closed_to_others() {
    for content in ["hunter2", "hunter2\n", "hunter2\r\n"] {
        let config = with_secret_file(content, 0o600, &[]).expect("read");
        assert_eq!(webhook_secrets(&config), ["hunter2"]);
    }
    for (content, mode) in [("", 0o600), ("\n", 0o600), ("hunter2\n\n", 0o600), ("hunter2", 0o640), ("hunter2", 0o604), ("hunter2", 0o610)] {
        let faults = with_secret_file(content, mode, &[]).expect_err("a fault").to_string();
        assert!(faults.contains("gitlab.webhook.secret_token_file") && !faults.contains("hunter2"), "{faults}");
    }
    assert!(with_secret_file(&"x".repeat(64 * 1024 + 1), 0o600, &[]).is_err());
    let credential = [("CREDENTIALS_DIRECTORY", "HERE")];
    assert_eq!(webhook_secrets(&with_secret_file("s", 0o440, &credential).expect("systemd's mode")), ["s"]);
    assert!(with_secret_file("s", 0o444, &credential).is_err());
    assert!(with_secret_file("s", 0o600, &[("CREDENTIALS_DIRECTORY", "/nonexistent")]).is_err());
}

#[test]
fn a_secret_is_a_value_or_a_file_and_not_both() {
    let both = [("RUNNER_COORDINATOR__GITLAB__WEBHOOK__SECRET_TOKEN", "x")];
    let faults = with_secret_file("s", 0o600, &both).expect_err("a fault");
    assert!(faults.to_string().contains("must not be given together with gitlab.webhook.secret_token"), "{faults}");
    let list = good("gitlab = { url = \"http://g\", webhook.secret_token = [\"a\", \"b\"] }", &[]);
    assert_eq!(webhook_secrets(&list), ["a", "b"]);
    assert_eq!(faulty("gitlab = { url = \"http://g\", webhook.secret_token = \"\" }", &[]), set(&["c.toml gitlab.webhook.secret_token"]));
    assert_eq!(
        faulty("gitlab = { url = \"http://g\", webhook.secret_token_file = \"none\" }", &[]),
        set(&["c.toml gitlab.webhook.secret_token_file"])
    );
}

/// A configuration with these signing tokens, as the value of the key.
fn with_signing_token(toml: &str) -> Result<Config, ConfigFaults> {
    load(&format!("gitlab = {{ url = \"http://g\", webhook.signing_token = {toml} }}"), &[])
}

#[test]
fn signing_tokens_are_keys_of_32_bytes_in_gitlabs_form() {
    const ONE: &str = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    const OTHER: &str = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";
    let keys = |config: Config| -> Vec<Vec<u8>> {
        config.gitlab.iter().flat_map(|gitlab| &gitlab.webhook_signing_keys).map(|key| key.expose_secret().to_vec()).collect()
    };
    let one: Vec<u8> = (0..32).collect();
    assert_eq!(keys(with_signing_token(&format!("{ONE:?}")).expect("one")), std::slice::from_ref(&one));
    assert_eq!(keys(with_signing_token(&format!("[{ONE:?}, {OTHER:?}]")).expect("a list")), [one, b"01234567890123456789012345678901".to_vec()]);
    let name = "RUNNER_COORDINATOR__GITLAB__WEBHOOK__SIGNING_TOKEN";
    let variable = [(&*format!("{name}__0"), ONE), (&*format!("{name}__1"), OTHER)];
    assert_eq!(keys(load("gitlab.url = \"http://g\"", &variable).expect("a variable")).len(), 2);
    let (bare, unpadded) = (&ONE["whsec_".len()..], &ONE[..ONE.len() - 1]);
    let long = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8g";
    for wrong in [bare, unpadded, long, "", "whsec_", "WHSEC_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"]
    {
        let faults = with_signing_token(&format!("[{OTHER:?}, {wrong:?}]")).expect_err("a fault");
        assert_eq!(faults.0.len(), 1, "{faults}");
        let told = faults.to_string();
        assert!(told.contains("gitlab.webhook.signing_token must be") && (wrong.len() < 10 || !told.contains(wrong)), "{told}");
    }
}

#[test]
fn a_signing_token_may_stand_in_a_file() {
    let read = |content: &str| {
        let dir = written("gitlab = { url = \"https://g\", webhook.signing_token_file = \"s\" }");
        let file = dir.path().join("s");
        fs::write(&file, content).expect("written");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("set");
        from_layers(layers(&dir, &[]), SecretFiles::Needed).0
    };
    let config = read("whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n").expect("read");
    assert_eq!(config.gitlab.map(|gitlab| gitlab.webhook_signing_keys.len()), Some(1));
    let told = read("whsec_hunter2").expect_err("a fault").to_string();
    assert!(told.contains("gitlab.webhook.signing_token_file must be") && !told.contains("hunter2"), "{told}");
}

#[test]
fn a_comma_in_a_secret_is_a_character_like_any_other() {
    let name = "RUNNER_COORDINATOR__GITLAB__WEBHOOK__SECRET_TOKEN";
    let secrets = |env: &[(&str, &str)]| good("gitlab.url = \"http://g\"", env).gitlab.map_or(0, |gitlab| gitlab.webhook_secret_tokens.len());
    assert_eq!(secrets(&[(name, "k,verylongsecret")]), 1);
    assert_eq!(secrets(&[(&format!("{name}__0"), "one"), (&format!("{name}__1"), "two")]), 2);
}

#[test]
fn nothing_shows_a_secret() {
    let toml = EXAMPLE.replace("replace-me", "hunter2");
    let shown = format!("{:?}", good(&toml, &[]));
    assert!(toml.contains("hunter2") && !shown.contains("hunter2"), "{shown}");
}

/// `[section]` lines and `key =` lines of the example, those that are off too, as dotted keys without places in lists.
fn keys_of_example() -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    let mut section = String::new();
    for line in EXAMPLE.lines() {
        if let Some(name) = line.strip_prefix("[[").and_then(|rest| rest.split_once("]]")) {
            section = format!("{}[].", name.0);
        } else if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            section = format!("{}.", name.0.replace("classes.", "classes[]."));
        } else if let Some((key, _)) = line.strip_prefix('#').unwrap_or(line).split_once(" = ")
            && key.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_.".contains(&b))
        {
            keys.insert(format!("{section}{key}"));
        }
    }
    keys
}

/// Every key that is asked for when every section is there.
fn known_keys() -> BTreeSet<String> {
    let dir = written(EXAMPLE);
    let (config, reading) = from_layers(layers(&dir, &[]), SecretFiles::Needed);
    config.unwrap_or_else(|faults| panic!("{faults}"));
    reading.known.into_inner()
}

#[test]
fn the_example_loads_and_shows_every_key_and_no_other() {
    assert_eq!(keys_of_example(), known_keys());
    let config = good(EXAMPLE, &[]);
    assert_eq!(config.limits, Limits::default(), "the example shows the defaults");
    let (default, example) = (&good("", &[]).classes[0], &config.classes[0]);
    assert_eq!(format!("{default:?}"), format!("{example:?}"), "the example's first class is the default one");
    assert_eq!(config.classes[1].gpus.as_ref().map(|gpus| (gpus.count, gpus.vendor)), Some((1, Some(GpuVendor::Nvidia))));
}

#[test]
fn what_the_example_has_off_can_be_switched_on() {
    // A secret by file excludes the one by value; all others can stand together.
    let on = |line: &str| match line.strip_prefix('#') {
        Some(rest) if rest.starts_with(|c: char| c.is_ascii_lowercase()) && !rest.contains("_file = ") => format!("{rest}\n"),
        _ => format!("{line}\n"),
    };
    let config = good(&EXAMPLE.lines().map(on).collect::<String>(), &[]);
    assert_eq!((config.host.cpus, config.classes[0].max_runners), (Some(CpuMillis(14_500)), Some(4)));
}

proptest! {
    #[test]
    fn any_text_in_any_key_is_taken_or_told(text in "[ -~]{0,24}", key in prop::sample::select(known_keys().into_iter().collect::<Vec<_>>())) {
        // These bound other keys, or need them, which would be the ones at fault.
        prop_assume!(!["disk.low", "limits.max_timeout", "limits.retry_backoff_max"].contains(&key.as_str()) && !key.starts_with("http.tls."));
        // The second class of the example has all that a class can demand.
        let variable = key.replace("classes[]", "classes.1").replace("[]", ".0").to_uppercase().replace('.', "__");
        let name = format!("RUNNER_COORDINATOR__{variable}");
        let Err(faults) = load(EXAMPLE, &[(&name, &text)]) else { return Ok(()) };
        prop_assert!(faults.0.iter().all(|fault| fault.source == name), "{}: {}", name, faults);
    }

    #[test]
    fn any_toml_is_read_or_told(toml in "(\\[{1,2}(http|classes|limits)\\]{1,2}\n)?([a-z.]{1,8} = (1|\"x\"|\\[\\]|\\{\\}|true|1979-05-27)\n){0,3}") {
        let dir = written(&toml);
        let layers = Layers::read(Some(&dir.path().join("c.toml")), Path::new("/nonexistent"), std::iter::empty());
        if let Err(faults) = layers.and_then(|layers| from_layers(layers, SecretFiles::Needed).0) {
            prop_assert!(!faults.0.is_empty());
        }
    }
}
