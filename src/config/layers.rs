//! Lays the sources over each other with the `config` crate. Each value keeps where it came from: a variable's name, or nothing for the file.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use config::{ConfigError, File, FileFormat, Map, Source, Value, ValueKind};

use super::fault::ConfigFaults;

/// The file that is read when none is named, if it exists.
pub(super) const DEFAULT_FILE: &str = "/etc/runner-coordinator/config.toml";
/// Names a file, like `--config`.
const FILE_VARIABLE: &str = "RUNNER_COORDINATOR_CONFIG";
/// What every variable of ours begins with; the parts of the key follow, each after two underscores.
const PREFIX: &str = "RUNNER_COORDINATOR__";
/// Highest place in a list that a variable may name, so that a slip does not become a huge list.
const MAX_INDEX: usize = 99;

/// The merged sources.
pub(super) struct Layers {
    /// The values by their first key.
    pub(super) values: Map<String, Value>,
    /// The file that was read.
    pub(super) file: Option<PathBuf>,
    /// Where systemd put this service's credentials.
    pub(super) credentials: Option<PathBuf>,
}

/// One variable's value as a source of its own, so that the order of variables is ours.
#[derive(Debug, Clone)]
struct Variable {
    key: String,
    value: Value,
}

impl Source for Variable {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, ConfigError> {
        Ok(Map::from_iter([(self.key.clone(), self.value.clone())]))
    }
}

impl Layers {
    /// Reads the file and the variables.
    pub(super) fn read(file: Option<&Path>, default_file: &Path, env: impl Iterator<Item = (String, String)>) -> Result<Self, ConfigFaults> {
        // An empty variable counts as not given: that is how container tools pass what is not set.
        let env: BTreeMap<String, String> = env.filter(|(_, value)| !value.is_empty()).collect();
        let named = file.map(Path::to_path_buf).or_else(|| env.get(FILE_VARIABLE).map(PathBuf::from));
        let file = named.or_else(|| default_file.exists().then(|| default_file.to_path_buf()));
        let mut builder = config::Config::builder();
        if let Some(host) = env.get("DOCKER_HOST") {
            builder = builder.add_source(variable("docker.host", "DOCKER_HOST", host));
        }
        if let Some(file) = &file {
            let text = std::fs::read_to_string(file).map_err(|error| ConfigFaults::of_source(file.display().to_string(), error.to_string()))?;
            builder = builder.add_source(File::from_str(&text, FileFormat::Toml));
        }
        if let Some(name) = env.get("SERVICE_NAME") {
            builder = builder.add_source(variable("service_name", "SERVICE_NAME", name));
        }
        for source in variables(&env)? {
            builder = builder.add_source(source);
        }
        let place = file.as_ref().map_or_else(|| "environment".to_owned(), |file| file.display().to_string());
        let merged = builder.build().and_then(|merged| merged.collect());
        let values = merged.map_err(|error| ConfigFaults::of_source(place, without_excerpt(&error)))?;
        Ok(Self { values, file, credentials: env.get("CREDENTIALS_DIRECTORY").map(PathBuf::from) })
    }
}

fn variable(key: &str, name: &str, value: &str) -> Variable {
    Variable { key: key.to_owned(), value: Value::new(Some(&name.to_owned()), ValueKind::String(value.to_owned())) }
}

/// Our variables, last name first: so `…__HTTP` comes after `…__HTTP__LISTEN` and is seen to be at fault instead of vanishing under it.
fn variables(env: &BTreeMap<String, String>) -> Result<Vec<Variable>, ConfigFaults> {
    let mut found = Vec::new();
    let mut faults = Vec::new();
    for (name, value) in env.iter().rev() {
        let Some(rest) = name.strip_prefix(PREFIX) else { continue };
        match key_of(rest) {
            Some(key) => found.push(variable(&key, name, value)),
            None => faults.extend(ConfigFaults::of_source(name, "does not name a key").0),
        }
    }
    if faults.is_empty() { Ok(found) } else { Err(ConfigFaults(faults)) }
}

/// `CLASSES__0__GPUS__COUNT` is `classes[0].gpus.count`.
fn key_of(rest: &str) -> Option<String> {
    let mut key = String::new();
    for part in rest.split("__") {
        let part = part.to_ascii_lowercase();
        if part.is_empty() || !part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            return None;
        }
        if !key.is_empty() && part.chars().all(|c| c.is_ascii_digit()) {
            let index = part.parse::<usize>().ok().filter(|index| *index <= MAX_INDEX)?;
            let _ = write!(key, "[{index}]");
        } else {
            if !key.is_empty() {
                key.push('.');
            }
            key.push_str(&part);
        }
    }
    Some(key)
}

/// The parser's message without the line that it quotes, because that line may hold a secret.
fn without_excerpt(error: &ConfigError) -> String {
    let text = match error {
        ConfigError::FileParse { cause, .. } => cause.to_string(),
        _ => error.to_string(),
    };
    let is_excerpt = |line: &str| line.trim_start().trim_start_matches(|c: char| c.is_ascii_digit()).trim_start().starts_with('|');
    let lines: Vec<_> = text.lines().filter(|line| !is_excerpt(line) && !line.trim().is_empty()).collect();
    lines.join(": ")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn variables_name_keys_and_places_in_lists() {
        assert_eq!(key_of("HTTP__LISTEN").as_deref(), Some("http.listen"));
        assert_eq!(key_of("CLASSES__0__GPUS__MIN_MEMORY").as_deref(), Some("classes[0].gpus.min_memory"));
        for bad in ["", "HTTP__", "__LISTEN", "A____B", "CLASSES__100__NAME", "CLASSES__99999999999999999999__X", "A.B", "A[3]", "É"] {
            assert_eq!(key_of(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_broken_file_is_told_without_quoting_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("c.toml");
        std::fs::write(&file, "[gitlab]\nwebhook.secret_token = \"hunter2\n").expect("written");
        let faults = Layers::read(Some(&file), &file, std::iter::empty()).err().expect("a fault");
        let text = faults.to_string();
        assert!(text.contains("c.toml") && text.contains("line 2"), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
    }

    proptest! {
        #[test]
        fn any_variable_is_read_or_refused(rest in "[A-Z0-9_.\\[\\]-]{0,20}", value in ".{0,8}") {
            let env = BTreeMap::from([(format!("{PREFIX}{rest}"), value.clone())]);
            let layers = Layers::read(None, Path::new("/nonexistent"), env.into_iter());
            prop_assert_eq!(layers.is_ok(), key_of(&rest).is_some() || value.is_empty());
        }
    }
}
