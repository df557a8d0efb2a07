//! The seam to GitLab: the calls of the runner protocol (`/api/v4/jobs…`, `/api/v4/runners/verify`) that we make,
//! so that tests can put a scripted GitLab in its place.

use std::error::Error;
use std::fmt;
use std::io;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use secrecy::SecretString;
use serde_json::{Value, json};

use crate::domain::{Arch, Disposition, GitLabJob};

/// The headers of an answer of GitLab that mean something to a runner and are passed on; all others are dropped.
pub const RELAYED_HEADERS: [&str; 9] = [
    "job-status",
    "x-gitlab-trace-update-interval",
    "range",
    "retry-after",
    "content-type",
    "location",
    "content-disposition",
    "content-length",
    "content-transfer-encoding",
];

/// The features that `gitlab-runner` 19.4 with the shell executor reports.
///
/// Left out: `session` and `terminal`, because nothing can reach a terminal in our containers.
const FEATURES: [&str; 22] = [
    "variables",
    "shared",
    "native_steps_integration",
    "trace_reset",
    "trace_checksum",
    "trace_size",
    "cancelable",
    "cancel_gracefully",
    "two_phase_job_commit",
    "job_inputs",
    "artifacts",
    "upload_multiple_artifacts",
    "upload_raw_artifacts",
    "cache",
    "fallback_cache_keys",
    "refspecs",
    "masking",
    "raw_variables",
    "artifacts_exclude",
    "multi_build_steps",
    "vault_secrets",
    "return_exit_code",
];

/// What GitLab is told about the runner that asks for work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunnerInfo {
    /// Shown in GitLab as the runner manager's name.
    pub name: String,
    /// The version of the runner.
    pub version: String,
    /// The architecture that jobs will find.
    pub arch: Arch,
}

impl RunnerInfo {
    /// The `info` object of the runner protocol.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let features: serde_json::Map<String, Value> = FEATURES.iter().map(|name| ((*name).to_owned(), Value::Bool(true))).collect();
        json!({
            "name": self.name,
            "version": self.version,
            "platform": "linux",
            "architecture": self.arch.as_str(),
            "executor": "shell",
            "shell": "bash",
            "features": features,
        })
    }
}

/// A job that GitLab gave us. A GitLab that knows the two-phase commit waits for our word that it runs, and offers it again after
/// 2 minutes without one; in any other it is ours from this moment on, and hangs there when it is lost here.
#[derive(Debug, Clone)]
pub struct ClaimedJob {
    /// What the broker needs of it.
    pub job: GitLabJob,
    /// Longest run time that GitLab allows (`runner_info.timeout`).
    pub timeout: Option<Duration>,
    /// The project's full path, for example `team/app`.
    pub project: Option<String>,
}

/// GitLab's answer to a request for work.
#[derive(Debug, Clone)]
pub enum JobAnswer {
    /// A job.
    Job(Box<ClaimedJob>),
    /// None at present, or the runner is paused.
    NoJob,
}

/// Headers to pass on: only those of [`RELAYED_HEADERS`], by lower-case name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RelayHeaders(Vec<(&'static str, String)>);

impl RelayHeaders {
    /// Keeps what may be passed on.
    pub fn from_pairs<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut headers = Self::default();
        for (name, value) in pairs {
            headers.set(name, value);
        }
        headers
    }

    /// The value of a header, by lower-case name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str())
    }

    /// Sets a header. One that is not in [`RELAYED_HEADERS`] is dropped.
    pub fn set(&mut self, name: &str, value: &str) {
        let Some(name) = RELAYED_HEADERS.into_iter().find(|known| known.eq_ignore_ascii_case(name)) else { return };
        self.remove(name);
        self.0.push((name, value.to_owned()));
    }

    /// Drops a header, by lower-case name.
    pub fn remove(&mut self, name: &str) {
        self.0.retain(|(known, _)| *known != name);
    }

    /// Every header.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.0.iter().map(|(name, value)| (*name, value.as_str()))
    }
}

/// An answer of GitLab to hand on to a runner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relay {
    /// The HTTP status, whatever it is.
    pub status: u16,
    /// What may be passed on.
    pub headers: RelayHeaders,
    /// The body, at most [`Relay::MAX_BODY_BYTES`].
    pub body: Bytes,
}

impl Relay {
    /// Longest body that is read.
    pub const MAX_BODY_BYTES: usize = 1024 * 1024;

    /// An answer of our own without a body.
    #[must_use]
    pub fn empty(status: u16) -> Self {
        Self { status, headers: RelayHeaders::default(), body: Bytes::new() }
    }

    /// Whether GitLab took what was sent.
    #[must_use]
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// `Job-Status`: how the job stands in GitLab.
    #[must_use]
    pub fn job_status(&self) -> Option<&str> {
        self.headers.get("job-status")
    }
}

/// An answer of GitLab whose body is passed on while it arrives.
pub struct StreamingRelay {
    /// The HTTP status, whatever it is.
    pub status: u16,
    /// What may be passed on.
    pub headers: RelayHeaders,
    /// The body. An error ends it.
    pub body: BoxStream<'static, io::Result<Bytes>>,
}

impl fmt::Debug for StreamingRelay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamingRelay").field("status", &self.status).field("headers", &self.headers).finish_non_exhaustive()
    }
}

/// Why a call to GitLab has no useful answer. Never contains a token.
#[derive(Debug, thiserror::Error)]
pub enum GitLabError {
    /// No connection, or it broke.
    #[error("GitLab could not be reached to {doing}")]
    Unreachable {
        /// What was being done, as a verb phrase.
        doing: &'static str,
        /// The client's own error, without the address.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// GitLab did not answer in time.
    #[error("GitLab did not answer within {} s when it was to {doing}", after.as_secs())]
    Deadline {
        /// What was being done.
        doing: &'static str,
        /// How long we waited.
        after: Duration,
    },
    /// 403: GitLab does not know the token, or the runner may not do this.
    #[error("GitLab refused the token when it was to {doing}")]
    Denied {
        /// What was being done.
        doing: &'static str,
    },
    /// 429: we ask too often.
    #[error("GitLab asks us to slow down: {doing} again in {} s", retry_after.as_secs())]
    TooMany {
        /// What was being done.
        doing: &'static str,
        /// When GitLab will answer again.
        retry_after: Duration,
    },
    /// 409: another runner was faster.
    #[error("GitLab gave the job to another runner")]
    Conflict,
    /// 5xx.
    #[error("GitLab failed with status {status} when it was to {doing}")]
    Server {
        /// What was being done.
        doing: &'static str,
        /// The HTTP status.
        status: u16,
    },
    /// An answer that the runner protocol does not know.
    #[error("GitLab's answer makes no sense when it was to {doing}: {detail}")]
    Protocol {
        /// What was being done.
        doing: &'static str,
        /// What is wrong with it, without its content.
        detail: String,
    },
}

impl GitLabError {
    /// Whether asking again may help: only a refused token stays refused until a person acts.
    #[must_use]
    pub fn disposition(&self) -> Disposition {
        match self {
            Self::Denied { .. } => Disposition::Final,
            Self::Unreachable { .. }
            | Self::Deadline { .. }
            | Self::TooMany { .. }
            | Self::Conflict
            | Self::Server { .. }
            | Self::Protocol { .. } => Disposition::Infrastructure,
        }
    }

    /// The kind, in a word: for metrics.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Denied { .. } => "denied",
            Self::Unreachable { .. } => "unreachable",
            Self::Deadline { .. } => "deadline",
            Self::TooMany { .. } => "too_many",
            Self::Conflict => "conflict",
            Self::Server { .. } => "server",
            Self::Protocol { .. } => "protocol",
        }
    }

    /// How long GitLab wants to be left alone, when it said so.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::TooMany { retry_after, .. } => Some(*retry_after),
            Self::Unreachable { .. } | Self::Deadline { .. } | Self::Denied { .. } | Self::Conflict | Self::Server { .. } | Self::Protocol { .. } => {
                None
            }
        }
    }
}

/// The runner protocol of one GitLab.
///
/// The calls for one job hand back whatever GitLab answered, any status included; they fail only when there is no answer.
#[async_trait]
pub trait GitLab: Send + Sync + fmt::Debug {
    /// Asks for a job. Never sends `last_update`, so GitLab does not hold the call.
    async fn request_job(&self, runner_token: &SecretString, info: &RunnerInfo) -> Result<JobAnswer, GitLabError>;

    /// Shows that a runner's token is good, and counts as a sign of life of that runner.
    async fn verify_runner(&self, runner_token: &SecretString) -> Result<(), GitLabError>;

    /// Tells a job's state. The body's `token` is replaced by `job_token`.
    async fn update_job(&self, job: u64, job_token: &str, body: Value) -> Result<Relay, GitLabError>;

    /// Appends to a job's trace; `query` is the part after `?`, possibly empty.
    async fn patch_trace(&self, job: u64, job_token: &str, content_range: &str, query: &str, body: Bytes) -> Result<Relay, GitLabError>;

    /// Passes a multipart upload on while it arrives.
    async fn upload_artifacts(&self, job: u64, job_token: &str, upload: Upload) -> Result<Relay, GitLabError>;

    /// Begins a download. A redirect is answered, not followed.
    async fn download_artifacts(&self, job: u64, job_token: &str, query: &str) -> Result<StreamingRelay, GitLabError>;
}

/// An upload of artifacts, as the runner sent it.
pub struct Upload {
    /// The part of the address after `?`, possibly empty.
    pub query: String,
    /// `multipart/form-data` with its boundary.
    pub content_type: String,
    /// The body's length in bytes, where the runner told it.
    pub content_length: Option<u64>,
    /// The body.
    pub body: BoxStream<'static, io::Result<Bytes>>,
}

impl fmt::Debug for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upload").field("content_type", &self.content_type).field("content_length", &self.content_length).finish_non_exhaustive()
    }
}
