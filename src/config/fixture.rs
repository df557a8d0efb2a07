//! Configurations for tests of single parts.

use super::Config;

/// What `toml` says, with a directory of data; its faults in words.
pub(super) fn load(toml: &str) -> Result<Config, String> {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("c.toml");
    std::fs::write(&file, format!("data_dir = \"{}\"\n{toml}", dir.path().display())).expect("written");
    Config::load(Some(&file), std::iter::empty()).map_err(|faults| faults.to_string())
}
