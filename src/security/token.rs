//! Tokens: those of runners, which prove themselves, and those of the API, of which only digests are known.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::rand::{SecureRandom, SystemRandom};
use ring::{digest, hmac};
use secrecy::{ExposeSecret as _, SecretString};

use super::SecurityError;
use super::compare::{Comparer, Fingerprint};
use crate::config::{ApiToken, Role};
use crate::domain::{ProjectName, RunnerId};

/// What a runner's token begins with.
const RUNNER_PREFIX: &str = "rct-";
/// What a token of the API begins with, so that scanners for leaked secrets can know it.
const API_PREFIX: &str = "rca-";

/// Who sends a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// The token's name in the configuration.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// What a submitter is bound to.
    pub projects: Arc<[ProjectName]>,
}

/// Makes and knows tokens of runners: `rct-<runner id>-<HMAC of the id>`. Nothing has to be stored, and a token is good for one runner only.
pub(super) struct RunnerTokens(pub(super) hmac::Key);

impl RunnerTokens {
    pub(super) fn issue(&self, runner: &RunnerId) -> SecretString {
        let proof = hex(hmac::sign(&self.0, runner.as_str().as_bytes()).as_ref());
        SecretString::from(format!("{RUNNER_PREFIX}{runner}-{proof}"))
    }

    pub(super) fn verify(&self, token: &str) -> Option<RunnerId> {
        let (id, proof) = token.strip_prefix(RUNNER_PREFIX)?.rsplit_once('-')?;
        hmac::verify(&self.0, id.as_bytes(), &from_hex(proof)?).ok()?;
        Some(RunnerId::from_trusted(id))
    }
}

/// Knows the tokens of the API by their digests.
pub(super) struct ApiTokens {
    known: Vec<(Fingerprint, Principal)>,
}

impl ApiTokens {
    pub(super) fn new(comparer: &Comparer, tokens: &[ApiToken]) -> Self {
        let principal = |token: &ApiToken| Principal { name: token.name.clone(), role: token.role, projects: token.projects.clone().into() };
        Self { known: tokens.iter().map(|token| (comparer.fingerprint(&token.sha256), principal(token))).collect() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Compares with every token, so that the time tells nothing of which one it is.
    pub(super) fn find(&self, comparer: &Comparer, bearer: &str) -> Option<Principal> {
        let digest = digest::digest(&digest::SHA256, bearer.as_bytes());
        let matches = |found, (print, principal)| if comparer.matches(digest.as_ref(), print) { Some(principal) } else { found };
        self.known.iter().map(|(print, principal)| (print, principal)).fold(None, matches).cloned()
    }
}

/// A new token of the API and its SHA-256 in hexadecimal digits.
pub(super) fn generate_api_token() -> Result<(SecretString, String), SecurityError> {
    let token = SecretString::from(format!("{API_PREFIX}{}", hex(&random()?)));
    let digest = hex(digest::digest(&digest::SHA256, token.expose_secret().as_bytes()).as_ref());
    Ok((token, digest))
}

/// A new signing token of a webhook, as GitLab takes it: `whsec_` and the base64 of 32 bytes.
pub(super) fn generate_signing_token() -> Result<SecretString, SecurityError> {
    Ok(SecretString::from(format!("whsec_{}", BASE64.encode(random()?))))
}

/// A new secret token of a webhook.
pub(super) fn generate_secret_token() -> Result<SecretString, SecurityError> {
    Ok(SecretString::from(hex(&random()?)))
}

fn random() -> Result<[u8; 32], SecurityError> {
    let mut bytes = [0; 32];
    SystemRandom::new().fill(&mut bytes).map_err(|_| SecurityError::Random)?;
    Ok(bytes)
}

pub(super) fn hex(bytes: &[u8]) -> String {
    let digit = |value: u8| char::from_digit(u32::from(value), 16).unwrap_or('0');
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 0xf)]).collect()
}

/// Reads lower-case digits only, so that each token can be written in one way.
pub(super) fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    if !text.len().is_multiple_of(2) {
        return None;
    }
    text.as_bytes().chunks_exact(2).map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
}
