//! The configuration: TOML, and before it, up to a line `%%`, variables as `NAME=VALUE`.
//!
//! What must hold: a refusal names faults and no secret; what is accepted keeps the promises of its keys, and is the same when read again.

use std::path::Path;
use std::time::Duration;

use runner_coordinator::config::{Changes, Config, ConfigFaults, diff};

/// A value that stands for a secret wherever the corpus has one.
const SECRET: &str = "hunter2";
/// Keys of secrets: a value of theirs must not be told.
const SECRET_KEYS: [&str; 4] = ["secret_token", "signing_token", "password", "gitlab_token"];

struct Place {
    directory: tempfile::TempDir,
}

thread_local! {
    static PLACE: Place = Place { directory: tempfile::tempdir().expect("a directory") };
}

pub(crate) fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (variables, toml) = text.split_once("\n%%\n").unwrap_or(("", text));
    let env: Vec<(String, String)> = variables.lines().filter_map(|line| line.split_once('=')).map(super::owned).filter(is_ours).collect();
    // Files that others name are read where they are; none of this machine's are to be.
    if text.contains("_file") && text.contains('/') {
        return;
    }
    PLACE.with(|place| {
        let file = place.directory.path().join("config.toml");
        std::fs::write(&file, toml).expect("written");
        let read = || Config::load(Some(&file), env.clone().into_iter());
        match read() {
            Ok(config) => {
                accepted(&config);
                let same = read().expect("it was sound");
                let changes = diff(&config, &same);
                assert_eq!(changes, Changes::default(), "it differs from itself");
            }
            Err(faults) => refused(&faults, toml, &file),
        }
    });
}

/// The name of another file would lead out of the place of the test.
fn is_ours((name, _): &(String, String)) -> bool {
    name == "SERVICE_NAME" || name == "DOCKER_HOST" || name.starts_with("RUNNER_COORDINATOR__")
}

fn refused(faults: &ConfigFaults, toml: &str, file: &Path) {
    assert!(!faults.0.is_empty(), "refused without a fault");
    let told = faults.to_string();
    let is_secret = |line: &str| SECRET_KEYS.iter().any(|key| line == format!("{key} = \"{SECRET}\""));
    // Where the word stands elsewhere too, as a key perhaps, it may be told.
    if toml.lines().any(is_secret) && toml.matches(SECRET).count() == 1 {
        assert!(!told.contains(SECRET), "{}: {told}", file.display());
    }
}

fn accepted(config: &Config) {
    assert!(!config.classes.is_empty(), "without a class nothing runs");
    assert!(config.http.listen.ip().to_canonical().is_loopback() || !config.http.tokens.is_empty(), "everyone could run jobs");
    assert!(config.data_dir.is_absolute(), "{}", config.data_dir.display());
    for (at, class) in config.classes.iter().enumerate() {
        assert!((Duration::from_secs(1)..=config.limits.max_timeout).contains(&class.timeout), "{class:?}");
        assert!(config.classes.iter().skip(at + 1).all(|other| other.name != class.name), "two classes of one name: {}", class.name);
        assert!(class.network_allow.is_empty() || class.network.is_filtered(), "{class:?}");
        let root = class.user.split(':').any(|id| id.parse::<u32>().is_ok_and(|id| id == 0) || id.parse::<u32>().is_err());
        assert!(!root && class.user.contains(':'), "{class:?}");
        assert!(class.gitlab_token.is_none() || class.image.is_some() && config.gitlab.is_some(), "{class:?}");
        assert!(class.warm == 0 || class.gitlab_token.is_some(), "{class:?}");
        assert!(class.image.as_ref().is_none_or(|image| class.check_image("image", image).is_ok()), "{class:?}");
    }
    let shown = format!("{config:?}");
    assert!(shown.len() < 1 << 22, "it grows without bounds");
}
