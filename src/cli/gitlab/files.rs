//! Where the secrets of the set-up lie, and what is in them.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use secrecy::{ExposeSecret as _, SecretString};

use super::SetupError;
use crate::config::{Class, SetupConfig, read_secret_file};
use crate::gitlab::setup::{SecretKind, SecretState};
use crate::security::{SecretFile, SecurityManager};

/// The places of the secrets: those that the configuration names, else ours in one directory.
#[derive(Debug)]
pub(super) struct Files<'a> {
    setup: &'a SetupConfig,
    dir: PathBuf,
    beside: PathBuf,
}

impl<'a> Files<'a> {
    /// `dir` is where new files go; by default beside the configuration file.
    pub(super) fn new(setup: &'a SetupConfig, dir: Option<&Path>) -> Result<Self, SetupError> {
        let beside = setup.file.as_deref().and_then(Path::parent).unwrap_or_else(|| Path::new(""));
        let whole = |path: &Path| std::path::absolute(if path.as_os_str().is_empty() { Path::new(".") } else { path });
        let whole = |path: &Path| whole(path).map_err(|error| SetupError::Words(format!("{}: {error}", path.display())));
        let (dir, beside) = (whole(dir.unwrap_or(beside))?, whole(beside)?);
        if !dir.is_dir() {
            return Err(SetupError::Words(format!("{} is no directory: make it, or name another with --secrets-dir", dir.display())));
        }
        Ok(Self { setup, dir, beside })
    }

    /// The dotted key of a class's token file.
    pub(super) fn token_key(&self, class: &Class) -> String {
        let index = self.setup.config.classes.iter().position(|other| other.name == class.name).unwrap_or_default();
        format!("classes[{index}].gitlab_token_file")
    }

    /// The dotted key of the webhook's secret.
    pub(super) fn hook_key(kind: SecretKind) -> &'static str {
        match kind {
            SecretKind::Signing => "gitlab.webhook.signing_token_file",
            SecretKind::Secret => "gitlab.webhook.secret_token_file",
        }
    }

    /// Whether the configuration names this file.
    pub(super) fn is_named(&self, key: &str) -> bool {
        self.setup.secret_files.contains_key(key)
    }

    /// Where a class's token lies.
    pub(super) fn token(&self, class: &Class) -> SecretFile {
        self.at(&self.token_key(class), &format!("gitlab-runner-{}", class.name))
    }

    /// Where the webhook's secret lies.
    pub(super) fn hook(&self, kind: SecretKind) -> SecretFile {
        let name = match kind {
            SecretKind::Signing => "gitlab-webhook-signing-token",
            SecretKind::Secret => "gitlab-webhook-secret-token",
        };
        self.at(Self::hook_key(kind), name)
    }

    fn at(&self, key: &str, name: &str) -> SecretFile {
        SecretFile::at(self.setup.secret_files.get(key).cloned().unwrap_or_else(|| self.dir.join(name)))
    }

    /// How the configuration names a file: a file beside it by its name, others by their whole path, wherever the configuration may move.
    pub(super) fn name(&self, file: &SecretFile) -> String {
        let path = file.path();
        let own = path.file_name().filter(|_| path.parent() == Some(&self.beside));
        own.map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
    }

    /// The token that we hold for a class.
    pub(super) fn read_token(&self, class: &Class) -> Option<SecretString> {
        let configured = class.gitlab_token.clone();
        configured.or_else(|| read_secret_file(self.token(class).path()).ok())
    }

    /// The webhook's secret that GitLab was told.
    pub(super) fn read_hook(&self, kind: SecretKind) -> Option<SecretString> {
        let settings = self.setup.config.gitlab.as_ref();
        let configured = settings.and_then(|settings| match kind {
            SecretKind::Signing => {
                let key = settings.webhook_signing_keys.first()?;
                Some(SecretString::from(format!("whsec_{}", BASE64.encode(key.expose_secret()))))
            }
            SecretKind::Secret => settings.webhook_secret_tokens.first().cloned(),
        });
        configured.or_else(|| read_secret_file(self.hook(kind).path()).ok())
    }

    /// What we hold of the webhook's secret.
    pub(super) fn hook_state(&self, kind: SecretKind) -> SecretState {
        if self.hook(kind).staged_path().exists() {
            return SecretState::Staged;
        }
        if self.read_hook(kind).is_some() { SecretState::Ready } else { SecretState::Missing }
    }

    /// The secret to tell GitLab, staged if it is not in its place yet.
    pub(super) fn hook_secret(&self, kind: SecretKind) -> Result<(SecretString, SecretState), SetupError> {
        let file = self.hook(kind);
        match self.hook_state(kind) {
            SecretState::Staged => {
                if let Ok(secret) = read_secret_file(&file.staged_path()) {
                    return Ok((secret, SecretState::Staged));
                }
            }
            SecretState::Ready => {
                if let Some(secret) = self.read_hook(kind) {
                    return Ok((secret, SecretState::Ready));
                }
            }
            SecretState::Missing => {}
        }
        let secret = match kind {
            SecretKind::Signing => SecurityManager::generate_signing_token(),
            SecretKind::Secret => SecurityManager::generate_secret_token(),
        }?;
        file.stage(&secret).map(drop).map_err(|source| SetupError::file(&file, source))?;
        Ok((secret, SecretState::Staged))
    }
}
