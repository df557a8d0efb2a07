//! Whether a webhook comes from our GitLab.
//!
//! Since 19.0 GitLab can sign its webhooks (Standard Webhooks): an HMAC covers id, time and body. Before, and beside that, it sends a secret
//! itself in `X-Gitlab-Token`. A signature that is there decides alone: one that is wrong, or that nobody can check, never falls back to the
//! secret.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use ring::hmac;
use secrecy::{ExposeSecret as _, SecretSlice, SecretString};

use super::compare::{Comparer, Fingerprint};
use crate::config::GitLab;

/// How far the time of a signed webhook may lie from ours, in seconds, either way: the default of Standard Webhooks.
const CLOCK_TOLERANCE_SECONDS: u64 = 5 * 60;
/// Most signatures of one webhook that are looked at. GitLab sends one, and says that it may be more.
const MAX_SIGNATURES: usize = 16;

/// The headers that say who sent a webhook; bytes, because that is what headers are.
#[derive(Clone, Copy, Default)]
pub struct WebhookHeaders<'a> {
    /// `webhook-id`.
    pub id: Option<&'a [u8]>,
    /// `webhook-timestamp`: seconds since 1970.
    pub timestamp: Option<&'a [u8]>,
    /// `webhook-signature`: one or more of `v1,` and the base64 of an HMAC-SHA256, with spaces between.
    pub signature: Option<&'a [u8]>,
    /// `X-Gitlab-Token`.
    pub token: Option<&'a [u8]>,
}

impl std::fmt::Debug for WebhookHeaders<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (has_signature, has_token) = (self.signature.is_some(), self.token.is_some());
        f.debug_struct("WebhookHeaders").field("has_signature", &has_signature).field("has_token", &has_token).finish_non_exhaustive()
    }
}

/// Why a webhook is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WebhookDenied {
    /// No GitLab is configured.
    #[error("no GitLab is configured: set gitlab.url and gitlab.webhook.signing_token or secret_token")]
    NoGitLab,
    /// There is nothing to compare with.
    #[error("no secret for webhooks is configured: set gitlab.webhook.signing_token or secret_token")]
    NoSecret,
    /// It is signed, and no signing token is configured.
    #[error("it is signed, and no gitlab.webhook.signing_token is configured to check that")]
    NoSigningToken,
    /// It is not signed, and only signing tokens are configured.
    #[error("the webhook-signature header is missing, and no gitlab.webhook.secret_token is configured")]
    MissingSignature,
    /// It is signed, and does not say what was signed.
    #[error("it is signed, and its webhook-id or webhook-timestamp header is missing")]
    IncompleteSignature,
    /// The time that was signed is not one.
    #[error("the webhook-timestamp header is not a number of seconds")]
    BadTimestamp,
    /// It was signed long ago, or will be: it is an old one sent again, or a clock is wrong.
    #[error("the webhook-timestamp header is more than 5 minutes from this machine's time")]
    OutOfTime,
    /// No signature was made with one of the configured signing tokens.
    #[error("the webhook-signature header is wrong")]
    WrongSignature,
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
    /// That their sender knows one of these; perhaps none.
    Knows {
        /// What signs.
        keys: Vec<hmac::Key>,
        /// What is sent as it is.
        secrets: Vec<Fingerprint>,
    },
}

impl WebhookRule {
    pub(super) fn new(comparer: &Comparer, gitlab: Option<&GitLab>) -> Self {
        let key = |key: &SecretSlice<u8>| hmac::Key::new(hmac::HMAC_SHA256, key.expose_secret());
        let fingerprint = |secret: &SecretString| comparer.fingerprint(secret.expose_secret().as_bytes());
        gitlab.map_or(Self::NoGitLab, |gitlab| Self::Knows {
            keys: gitlab.webhook_signing_keys.iter().map(key).collect(),
            secrets: gitlab.webhook_secret_tokens.iter().map(fingerprint).collect(),
        })
    }

    /// `now` is this machine's time, for signed webhooks.
    pub(super) fn verify(&self, comparer: &Comparer, headers: WebhookHeaders<'_>, body: &[u8], now: Timestamp) -> Result<(), WebhookDenied> {
        let (keys, secrets) = match self {
            Self::NoGitLab => return Err(WebhookDenied::NoGitLab),
            Self::Knows { keys, secrets } => (keys, secrets),
        };
        match (headers.signature, keys.is_empty(), secrets.is_empty()) {
            (_, true, true) => Err(WebhookDenied::NoSecret),
            (Some(_), true, false) => Err(WebhookDenied::NoSigningToken),
            (Some(signatures), false, _) => {
                let signed = Signed::read(headers, body)?;
                signed.check_time(now)?;
                signed.check(comparer, keys, signatures)
            }
            (None, false, true) => Err(WebhookDenied::MissingSignature),
            (None, _, false) => check_token(comparer, secrets, headers.token),
        }
    }
}

/// What a signature covers.
struct Signed<'a> {
    id: &'a [u8],
    timestamp: &'a [u8],
    body: &'a [u8],
}

impl<'a> Signed<'a> {
    fn read(headers: WebhookHeaders<'a>, body: &'a [u8]) -> Result<Self, WebhookDenied> {
        let given = |header: Option<&'a [u8]>| header.filter(|value| !value.is_empty()).ok_or(WebhookDenied::IncompleteSignature);
        Ok(Self { id: given(headers.id)?, timestamp: given(headers.timestamp)?, body })
    }

    fn check_time(&self, now: Timestamp) -> Result<(), WebhookDenied> {
        let seconds = std::str::from_utf8(self.timestamp).ok().and_then(|text| text.parse::<i64>().ok()).ok_or(WebhookDenied::BadTimestamp)?;
        if now.as_second().abs_diff(seconds) <= CLOCK_TOLERANCE_SECONDS { Ok(()) } else { Err(WebhookDenied::OutOfTime) }
    }

    /// Every signature is compared with that of every key, so that the time tells nothing of which one it is.
    fn check(&self, comparer: &Comparer, keys: &[hmac::Key], signatures: &[u8]) -> Result<(), WebhookDenied> {
        let expected: Vec<_> = keys.iter().map(|key| comparer.fingerprint(self.signature(key).as_bytes())).collect();
        let given = signatures.split(|byte| *byte == b' ').take(MAX_SIGNATURES);
        let known = given.fold(false, |known, signature| is_one_of(comparer, signature, &expected) | known);
        if known { Ok(()) } else { Err(WebhookDenied::WrongSignature) }
    }

    fn signature(&self, key: &hmac::Key) -> String {
        let mut context = hmac::Context::with_key(key);
        for part in [self.id, b".", self.timestamp, b".", self.body] {
            context.update(part);
        }
        format!("v1,{}", BASE64.encode(context.sign()))
    }
}

fn check_token(comparer: &Comparer, secrets: &[Fingerprint], token: Option<&[u8]>) -> Result<(), WebhookDenied> {
    let token = token.filter(|token| !token.is_empty()).ok_or(WebhookDenied::MissingToken)?;
    if is_one_of(comparer, token, secrets) { Ok(()) } else { Err(WebhookDenied::WrongToken) }
}

/// Compares with every one, so that the time tells nothing of which one it is.
fn is_one_of(comparer: &Comparer, given: &[u8], expected: &[Fingerprint]) -> bool {
    expected.iter().fold(false, |known, expected| comparer.matches(given, expected) | known)
}

#[cfg(test)]
#[path = "webhook_tests.rs"]
pub(super) mod tests;
