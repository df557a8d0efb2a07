//! Who may do what: webhooks, tokens, and what a job may bring into its container.
//!
//! Every comparison of a secret happens in this room, in constant time. Nothing here shows a secret in `Debug` or in an error.

pub mod audit;
mod compare;
mod devices;
mod env;
mod key;
pub mod profile;
mod receipt;
mod seccomp;
mod secret_file;
mod token;
mod webhook;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use ring::rand::SystemRandom;
use secrecy::SecretString;

pub use devices::{DeviceGrant, GrantedGpu, GrantedNode, NvidiaWay};
pub use env::is_refused;
pub use profile::{CallFilter, Exec, HardenedProfile, NetworkAccess, ProfileRequest, ProofFiles, TmpfsMount};
pub use secret_file::{Removed, SecretFile, Staged};
pub use token::Principal;
#[cfg(test)]
pub(crate) use webhook::tests::sign as sign_webhook;
pub use webhook::{WebhookDenied, WebhookHeaders};

use crate::config::{Config, Limits, Live};
use crate::domain::{FieldFault, Proven, ReceiptOf, RunnerId};

/// Why the manager cannot be made, or a token cannot.
#[derive(Debug, thiserror::Error)]
pub enum SecurityError {
    /// The master key's file cannot be read or written.
    #[error("the key file {path} cannot be read or made", path = path.display())]
    KeyFile {
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// The master key's file must not be trusted.
    #[error("the key file {path} {why}", path = path.display())]
    KeyRefused {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, as a verb phrase.
        why: String,
    },
    /// The system gives no random bytes.
    #[error("the system gives no random bytes")]
    Random,
    /// The audit log cannot be read or written.
    #[error("the audit log {path} cannot be used", path = path.display())]
    Audit {
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
}

/// What the key of the audit log is derived for.
const AUDIT_PURPOSE: &str = "audit log, 1";

/// Decides who may do what.
pub struct SecurityManager {
    comparer: compare::Comparer,
    runner_tokens: token::RunnerTokens,
    receipt_keys: receipt::ReceiptKeys,
    audit_key: ring::hmac::Key,
    live: Live,
    rules: Mutex<Arc<Rules>>,
}

/// What follows from one configuration, so that it is worked out once and not at every request.
struct Rules {
    config: Arc<Config>,
    api_tokens: token::ApiTokens,
    webhook: webhook::WebhookRule,
}

impl Rules {
    fn of(comparer: &compare::Comparer, config: Arc<Config>) -> Arc<Self> {
        let api_tokens = token::ApiTokens::new(comparer, &config.http.tokens);
        let webhook = webhook::WebhookRule::new(comparer, config.gitlab.as_ref());
        Arc::new(Self { config, api_tokens, webhook })
    }
}

/// What a caller of the API may be taken for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// No token is configured: the daemon serves loopback only, and everybody there may do everything.
    Open,
    /// Who holds the token that was shown.
    Known(Principal),
    /// Nobody: the token that was shown is unknown, or none was.
    Unknown,
}

impl std::fmt::Debug for SecurityManager {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SecurityManager").finish_non_exhaustive()
    }
}

impl SecurityManager {
    /// Reads `<data_dir>/secret.key`, or makes it at the first start, and goes by what the configuration says from then on.
    ///
    /// # Errors
    /// When the file cannot be read or made, or is open to others.
    pub fn open(data_dir: &Path, config: impl Into<Live>) -> Result<Self, SecurityError> {
        let master = key::MasterKey::open(data_dir)?;
        let comparer = compare::Comparer::new(&SystemRandom::new()).map_err(|_| SecurityError::Random)?;
        let live = config.into();
        Ok(Self {
            runner_tokens: token::RunnerTokens(master.derive("runner token, 1")),
            receipt_keys: receipt::ReceiptKeys(master.derive("receipt, 1")),
            audit_key: master.derive(AUDIT_PURPOSE),
            rules: Mutex::new(Rules::of(&comparer, live.current())),
            comparer,
            live,
        })
    }

    /// The rules of the configuration in force.
    fn rules(&self) -> Arc<Rules> {
        let config = self.live.current();
        let mut rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&rules.config, &config) {
            *rules = Rules::of(&self.comparer, config);
        }
        Arc::clone(&rules)
    }

    /// The token with which this one runner talks to the broker: always the same for the same runner and data directory.
    #[must_use]
    pub fn runner_token(&self, runner: &RunnerId) -> SecretString {
        self.runner_tokens.issue(runner)
    }

    /// The runner whose token this is. Whether that runner still lives is the caller's question.
    #[must_use]
    pub fn verify_runner_token(&self, token: &str) -> Option<RunnerId> {
        self.runner_tokens.verify(token)
    }

    /// What the first process of an attempt's container needs to prove the job's end, the key of that one attempt among it: it belongs into that
    /// process's environment and nowhere else.
    #[must_use]
    pub fn receipt_ticket(&self, of: &ReceiptOf<'_>) -> SecretString {
        self.receipt_keys.ticket(of)
    }

    /// What a receipt proves; `None` for what is not the receipt of this attempt, whole and signed.
    #[must_use]
    pub fn verify_receipt(&self, of: &ReceiptOf<'_>, text: &[u8]) -> Option<Proven> {
        self.receipt_keys.verify(of, text)
    }

    /// What a caller with this bearer token, or without one, is taken for.
    #[must_use]
    pub fn access(&self, bearer: Option<&str>) -> Access {
        let rules = self.rules();
        if rules.api_tokens.is_empty() {
            return Access::Open;
        }
        bearer.and_then(|bearer| rules.api_tokens.find(&self.comparer, bearer)).map_or(Access::Unknown, Access::Known)
    }

    /// Whether two secrets are the same, in a time that does not tell where they differ.
    #[must_use]
    pub fn is_same_secret(&self, given: &str, expected: &str) -> bool {
        self.comparer.matches(given.as_bytes(), &self.comparer.fingerprint(expected.as_bytes()))
    }

    /// A new token of the API, and its SHA-256 as the configuration takes it.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn generate_api_token() -> Result<(SecretString, String), SecurityError> {
        token::generate_api_token()
    }

    /// A new signing token for GitLab's webhooks.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn generate_signing_token() -> Result<SecretString, SecurityError> {
        token::generate_signing_token()
    }

    /// A new secret token for the webhooks of a GitLab that cannot sign.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn generate_secret_token() -> Result<SecretString, SecurityError> {
        token::generate_secret_token()
    }

    /// Turns the administrator's decisions into a profile, which a container cannot be made without.
    ///
    /// # Errors
    /// Names the field of the request that no container may have.
    pub fn harden(request: ProfileRequest) -> Result<HardenedProfile, FieldFault> {
        HardenedProfile::new(request)
    }

    /// Whether a webhook comes from our GitLab; a signed one also not long before or after `now`.
    ///
    /// # Errors
    /// Why it is refused; also when there is no secret to compare with, because then anybody could have sent it.
    pub fn verify_webhook(&self, headers: WebhookHeaders<'_>, body: &[u8], now: Timestamp) -> Result<(), WebhookDenied> {
        self.rules().webhook.verify(&self.comparer, headers, body, now)
    }

    /// Checks the environment that a job asks for. `field` is the name of the environment's field in the request, `limits` are those by
    /// which the request is judged.
    ///
    /// # Errors
    /// Every variable that must not be set, as `field.NAME`, and limits that are passed.
    pub fn sanitise_env(field: &str, env: BTreeMap<String, String>, limits: &Limits) -> Result<BTreeMap<String, String>, Vec<FieldFault>> {
        let bounds = env::EnvLimits { variables: usize::try_from(limits.env_vars).unwrap_or(usize::MAX), bytes: limits.command_bytes.0 };
        env::sanitise(field, env, bounds)
    }
}

/// The SHA-256 of what is public: bodies that must be told apart. Secrets are compared by the manager.
#[must_use]
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut digest = [0; 32];
    digest.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref());
    digest
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
