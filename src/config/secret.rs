//! Secrets given as a value or in a file: read once, kept where nothing prints them.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use secrecy::SecretString;

use super::section::{Reading, SecretFiles, Section};
use crate::domain::FieldFault;

/// Largest file that is taken for a secret, in bytes.
const MAX_BYTES: u64 = 64 * 1024;

impl Section<'_> {
    /// The secret under `key` or in the file under `key_file`; both are a fault.
    pub(super) fn secret(&mut self, key: &str) -> Option<SecretString> {
        let (file_key, value, file) = self.secret_texts(key, Self::text_of_one);
        self.remember(&file_key, &file);
        let read = file.first().map(|name| (file_key.as_str(), self.reading().secret_file(name)));
        let (from, secret) = read.or_else(|| value.into_iter().next().map(|value| (key, checked(value))))?;
        if from == file_key && secret.is_err() && self.reading().files == SecretFiles::MayBeMissing {
            return None;
        }
        secret.map_err(|message| self.fault(from, message)).ok()
    }

    /// One secret or several, from the values under `key` or the files under `key_file`; both are a fault.
    pub(super) fn secrets(&mut self, key: &str) -> Vec<SecretString> {
        self.secrets_read_by(key, |_, secret| Ok(secret))
    }

    /// The same, of a form that `read` understands; `read` gets the dotted key that the secret came from, and the secret.
    pub(super) fn secrets_read_by<T>(&mut self, key: &str, read: impl Fn(&str, SecretString) -> Result<T, FieldFault>) -> Vec<T> {
        // A comma in a secret is a character like any other, also in a variable.
        let (file_key, values, files) = self.secret_texts(key, Self::whole_texts);
        let from_files = files.iter().map(|name| (file_key.as_str(), self.reading().secret_file(name)));
        let from_values = values.into_iter().map(|value| (key, checked(value)));
        self.remember(&file_key, &files);
        let secrets = from_files.chain(from_values).filter_map(|(from, secret)| {
            if from == file_key && secret.is_err() && self.reading().files == SecretFiles::MayBeMissing {
                return None;
            }
            let secret = secret.map_err(|message| self.fault(from, message)).ok()?;
            self.note(from, read(&self.field(from), secret))
        });
        secrets.collect()
    }

    fn remember(&self, file_key: &str, files: &[String]) {
        let Some(name) = files.first() else { return };
        self.reading().named.borrow_mut().insert(self.field(file_key), self.reading().secret_path(name));
    }

    fn text_of_one(&mut self, key: &str) -> Vec<String> {
        self.text(key).into_iter().collect()
    }

    fn secret_texts(&mut self, key: &str, mut take: impl FnMut(&mut Self, &str) -> Vec<String>) -> (String, Vec<String>, Vec<String>) {
        let file_key = format!("{key}_file");
        let (values, files) = (take(self, key), take(self, &file_key));
        if self.has(key) && self.has(&file_key) {
            self.fault(&file_key, format!("must not be given together with {}", self.field(key)));
            return (file_key, values, Vec::new());
        }
        (file_key, values, files)
    }
}

impl Reading {
    /// A relative name is one of systemd's credentials, or else stands beside the configuration file.
    pub(super) fn secret_path(&self, name: &str) -> PathBuf {
        let beside = || self.file.as_ref().and_then(|file| file.parent()).map_or_else(PathBuf::new, Path::to_path_buf);
        self.credentials.clone().unwrap_or_else(beside).join(name)
    }

    fn secret_file(&self, name: &str) -> Result<SecretString, String> {
        let path = self.secret_path(name);
        read_file(&path, self.too_wide(&path))
    }

    /// The same for a secret of several lines.
    pub(super) fn secret_file_of_lines(&self, name: &str) -> Result<SecretString, String> {
        let path = self.secret_path(name);
        read_text(&path, self.too_wide(&path)).map(SecretString::from)
    }

    fn too_wide(&self, path: &Path) -> u32 {
        // systemd lets the service read its credentials through an access list, whose mask shows as the group's bits.
        let is_credential = self.credentials.as_ref().is_some_and(|directory| path.starts_with(directory));
        if is_credential { 0o037 } else { 0o077 }
    }
}

/// The secret in a file that only its owner can read: one line.
///
/// # Errors
/// What is wrong with the file, as a sentence that begins with a verb and never holds its content.
pub fn read_secret_file(path: &Path) -> Result<SecretString, String> {
    read_file(path, 0o077)
}

/// The same of several lines, such as a key in PEM.
///
/// # Errors
/// As [`read_secret_file`].
pub fn read_secret_text(path: &Path) -> Result<SecretString, String> {
    read_text(path, 0o077).map(SecretString::from)
}

/// The secret in the environment under `name`; `None` when it is not there, or empty.
#[must_use]
pub fn secret_of_env(name: &str) -> Option<SecretString> {
    let value = std::env::var_os(name)?.into_string().ok()?;
    checked(value.trim().to_owned()).ok()
}

fn read_file(path: &Path, too_wide: u32) -> Result<SecretString, String> {
    let text = read_text(path, too_wide)?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    let secret = checked(line.strip_suffix('\r').unwrap_or(line).to_owned());
    secret.map_err(|message| format!("names {}, which holds a secret that {message}", path.display()))
}

fn read_text(path: &Path, too_wide: u32) -> Result<String, String> {
    let told = |what: String| format!("names {}, which {what}", path.display());
    let about = fs::metadata(path).map_err(|error| told(format!("cannot be read: {error}")))?;
    if !about.is_file() || about.len() > MAX_BYTES {
        return Err(told(format!("is not a file of at most {MAX_BYTES} bytes")));
    }
    let mode = about.permissions().mode() & 0o777;
    if mode & too_wide != 0 {
        return Err(told(format!("others can read (mode {mode:04o}): make it 0600")));
    }
    fs::read_to_string(path).map_err(|error| told(format!("cannot be read: {error}")))
}

fn checked(text: String) -> Result<SecretString, String> {
    if text.is_empty() || text.chars().any(|c| c.is_control() || c == char::REPLACEMENT_CHARACTER) {
        return Err("must be one line of text, not empty".to_owned());
    }
    Ok(SecretString::from(text))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::layers::Layers;
    use super::super::load::from_layers;
    use super::*;

    #[test]
    fn a_setup_reads_what_names_files_that_are_not_there_yet() {
        let dir = tempfile::tempdir().expect("a directory");
        let read = |toml: &str, files| {
            let file = dir.path().join("c.toml");
            fs::write(&file, toml).expect("written");
            let layers = Layers::read(Some(&file), &file, std::iter::empty()).unwrap_or_else(|faults| panic!("{faults}"));
            let (config, reading) = from_layers(layers, files);
            (config, reading.named.into_inner())
        };
        let toml = "gitlab.url = \"https://g.test\"\ngitlab.webhook.signing_token_file = \"s\"\n\
                    [[classes]]\nname = \"a\"\nimage = \"i\"\nwarm = 1\ngitlab_token_file = \"t\"";
        let (config, named) = read(toml, SecretFiles::MayBeMissing);
        let config = config.expect("no fault");
        assert!(config.classes[0].gitlab_token.is_none() && config.gitlab.expect("one").webhook_signing_keys.is_empty());
        assert_eq!(named.get("classes[0].gitlab_token_file"), Some(&dir.path().join("t")));
        assert_eq!(named.get("gitlab.webhook.signing_token_file"), Some(&dir.path().join("s")));
        assert_eq!(read(toml, SecretFiles::Needed).0.expect_err("faults").0.len(), 2);
        assert!(read("http.listen = \"x\"", SecretFiles::MayBeMissing).0.is_err(), "other faults stay faults");
    }
}
