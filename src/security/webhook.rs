//! Whether a webhook comes from our GitLab.
//!
//! GitLab sends the secret itself in `X-Gitlab-Token`. Since 19.0 it can sign the body instead (Standard Webhooks); when that is added, a
//! signature that is present decides alone, and must not fall back to the token.

use secrecy::{ExposeSecret as _, SecretString};

use super::compare::{Comparer, Fingerprint};
use crate::config::GitLab;

/// The headers that say who sent a webhook; bytes, because that is what headers are.
#[derive(Clone, Copy, Default)]
pub struct WebhookHeaders<'a> {
    /// `X-Gitlab-Token`.
    pub token: Option<&'a [u8]>,
}

impl std::fmt::Debug for WebhookHeaders<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WebhookHeaders").field("has_token", &self.token.is_some()).finish()
    }
}

/// Why a webhook is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WebhookDenied {
    /// No GitLab is configured.
    #[error("no GitLab is configured: set gitlab.url and gitlab.webhook.secret_token")]
    NoGitLab,
    /// There is nothing to compare with.
    #[error("no secret for webhooks is configured: set gitlab.webhook.secret_token")]
    NoSecret,
    /// The sender gave no token.
    #[error("the X-Gitlab-Token header is missing")]
    MissingToken,
    /// The token is none of the configured ones.
    #[error("the X-Gitlab-Token header is wrong")]
    WrongToken,
}

/// What webhooks have to prove.
pub(super) enum WebhookRule {
    /// No GitLab is configured.
    NoGitLab,
    /// One of these secrets, perhaps none.
    Secrets(Vec<Fingerprint>),
}

impl WebhookRule {
    pub(super) fn new(comparer: &Comparer, gitlab: Option<&GitLab>) -> Self {
        let fingerprint = |secret: &SecretString| comparer.fingerprint(secret.expose_secret().as_bytes());
        gitlab.map_or(Self::NoGitLab, |gitlab| Self::Secrets(gitlab.webhook_secret_tokens.iter().map(fingerprint).collect()))
    }

    /// The body is not looked at: only a signature covers it.
    pub(super) fn verify(&self, comparer: &Comparer, headers: WebhookHeaders<'_>, _body: &[u8]) -> Result<(), WebhookDenied> {
        let secrets = match self {
            Self::NoGitLab => return Err(WebhookDenied::NoGitLab),
            Self::Secrets(secrets) if secrets.is_empty() => return Err(WebhookDenied::NoSecret),
            Self::Secrets(secrets) => secrets,
        };
        let token = headers.token.filter(|token| !token.is_empty()).ok_or(WebhookDenied::MissingToken)?;
        // Every secret is compared, so that the time tells nothing of which one it is.
        let known = secrets.iter().fold(false, |known, secret| comparer.matches(token, secret) | known);
        if known { Ok(()) } else { Err(WebhookDenied::WrongToken) }
    }
}
