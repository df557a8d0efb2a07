//! What a request is answered when it cannot be served: RFC 9457 problems, made in this one place so that every cause has one status and
//! one stable `type`, and nothing of our inside gets out.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::faces::{self, Face};
use super::pace::Haste;
use super::rations::Bound;
use super::wire::Wire;
use crate::config::Role;
use crate::domain::{FieldFault, chain};
use crate::platform::Unfit;
use crate::store::StoreError;

/// The media type of a problem.
pub const PROBLEM_JSON: &str = "application/problem+json";
/// Seconds after which a request may be repeated that met a passing difficulty of ours.
const RETRY_UNAVAILABLE: u32 = 5;
/// Seconds after which a submission may be repeated that met a full queue.
const RETRY_QUEUE_FULL: u32 = 30;
/// Seconds after which a request may be repeated that met a crowd: it is gone as soon as it is answered.
const RETRY_OVERLOADED: u32 = 1;
/// What whoever asked for a change has to know whose answer did not come in time.
const MAYBE_DONE: &str = "it did not answer in time. What was asked for may have been done: look, or repeat it with the same Idempotency-Key";
/// Seconds after which a submission may be repeated that met a full disk: somebody has to make room.
const RETRY_DISK_FULL: u32 = 60;
/// Longest text that is taken over from a parser into an answer, in characters: it may quote what the client sent.
const QUOTE_CHARS: usize = 300;

/// Why a request cannot be served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// The body is not JSON.
    NotJson {
        /// The parser's words.
        detail: String,
    },
    /// The body's content type is not JSON's.
    WrongContentType,
    /// The body is JSON, but its fields are not what is needed.
    InvalidFields(Vec<FieldFault>),
    /// Query parameters or headers are not what is needed.
    InvalidParameters(Vec<FieldFault>),
    /// The body is larger than allowed.
    BodyTooLarge,
    /// The request was not complete, or not answered, in time.
    TooSlow,
    /// There is no token, or not one of ours.
    Unauthorized,
    /// The webhook's secret is missing or wrong.
    WebhookUnverified,
    /// The token is good, but not for this.
    Forbidden {
        /// The role that is needed.
        needs: Role,
    },
    /// Without tokens only this machine's own names are served, and no page of another site.
    ForeignHost,
    /// There is no such path.
    NoSuchPath,
    /// The path has no such method.
    NoSuchMethod,
    /// There is no such job, runner or log.
    Unknown {
        /// What was looked for, with its id: `job 0190…`.
        what: String,
    },
    /// The job has ended, so it cannot be cancelled.
    JobEnded {
        /// Its state.
        state: &'static str,
    },
    /// The job has not ended, so it cannot be tried again.
    JobNotEnded {
        /// Its state.
        state: &'static str,
    },
    /// The job is GitLab's, and only GitLab can do this with it.
    JobOfGitLab {
        /// Its page in GitLab, or what is known of that.
        page: String,
    },
    /// The machine takes no new work.
    Drained {
        /// Since when, and why.
        detail: String,
    },
    /// The machine's disk is nearly full.
    DiskFull {
        /// Which, and how much is free.
        detail: String,
    },
    /// No machine can ever run the job, or the runner.
    Unsatisfiable(Vec<FieldFault>),
    /// The machine has no room for the runner at present.
    NoRoom(Vec<FieldFault>),
    /// The daemon is about to end.
    Stopping,
    /// The idempotency key was used with another body.
    KeyReused,
    /// As many jobs wait for the project as may.
    QueueFull {
        /// The limit.
        limit: u32,
    },
    /// As many jobs wait in all as may.
    WholeQueueFull {
        /// The limit.
        limit: u32,
    },
    /// More is asked at once than may be.
    Overloaded(Bound),
    /// As many streams are open as may.
    TooManyStreams,
    /// The caller comes more often than they may.
    TooFast(Haste),
    /// What was asked contradicts the state of things.
    Conflict,
    /// The store does not answer.
    StoreUnavailable {
        /// What that means for what was asked, where there is more to say.
        detail: Option<&'static str>,
    },
    /// A fault of ours; the log knows more.
    Internal,
    /// The framework refused the request before it reached us.
    Refused(StatusCode),
}

/// Goes with an answer that a bound on amounts led to, for metrics: which one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Refused(pub(super) &'static str);

impl Problem {
    /// One faulty field of the body.
    pub fn field(field: &str, message: impl Into<String>) -> Self {
        Self::InvalidFields(vec![FieldFault::new(field, message)])
    }

    /// One faulty query parameter or header.
    pub fn parameter(name: &str, message: impl Into<String>) -> Self {
        Self::InvalidParameters(vec![FieldFault::new(name, message)])
    }

    /// A body that the parser could not read.
    pub fn not_json(error: &impl std::fmt::Display) -> Self {
        Self::NotJson { detail: quoted(&error.to_string()) }
    }

    /// There is no job with this id.
    pub fn unknown_job(id: &str) -> Self {
        Self::Unknown { what: quoted(&format!("job {id}")) }
    }

    /// There is no runner with this id.
    pub fn unknown_runner(id: &str) -> Self {
        Self::Unknown { what: quoted(&format!("runner {id}")) }
    }

    /// There is no GPU with this id, only the known ones.
    pub fn unknown_gpu(id: &str, known: &str) -> Self {
        Self::Unknown { what: quoted(&format!("GPU {}; known: {known}", quoted(id))) }
    }

    /// There is no host with this id, only the known one.
    pub fn unknown_host(id: &str, known: &str) -> Self {
        Self::Unknown { what: quoted(&format!("host {}; known: {known}", quoted(id))) }
    }

    /// The status that it is answered with.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.face().status
    }

    pub(super) fn face(&self) -> Face {
        match self {
            Self::NotJson { .. } => faces::NOT_JSON,
            Self::WrongContentType => faces::WRONG_CONTENT_TYPE,
            Self::InvalidFields(_) => faces::INVALID_FIELDS,
            Self::InvalidParameters(_) => faces::INVALID_PARAMETERS,
            Self::BodyTooLarge => faces::BODY_TOO_LARGE,
            Self::TooSlow => faces::TOO_SLOW,
            Self::Unauthorized => faces::UNAUTHORIZED,
            Self::WebhookUnverified => faces::WEBHOOK_UNVERIFIED,
            Self::Forbidden { .. } => faces::FORBIDDEN,
            Self::ForeignHost => faces::FOREIGN_HOST,
            Self::NoSuchPath => faces::NO_SUCH_PATH,
            Self::NoSuchMethod => faces::NO_SUCH_METHOD,
            Self::Unknown { .. } => faces::UNKNOWN,
            Self::JobEnded { .. } => faces::JOB_ENDED,
            Self::JobNotEnded { .. } => faces::JOB_NOT_ENDED,
            Self::JobOfGitLab { .. } => faces::JOB_OF_GITLAB,
            Self::Drained { .. } => faces::DRAINED,
            Self::DiskFull { .. } => faces::DISK_FULL,
            Self::Unsatisfiable(_) => faces::UNSATISFIABLE,
            Self::NoRoom(_) => faces::NO_ROOM,
            Self::Stopping => faces::STOPPING,
            Self::KeyReused => faces::KEY_REUSED,
            Self::QueueFull { .. } => faces::QUEUE_FULL,
            Self::WholeQueueFull { .. } => faces::WHOLE_QUEUE_FULL,
            Self::Overloaded(_) => faces::OVERLOADED,
            Self::TooManyStreams => faces::TOO_MANY_STREAMS,
            Self::TooFast(_) => faces::TOO_FAST,
            Self::Conflict => faces::CONFLICT,
            Self::StoreUnavailable { .. } => faces::STORE_UNAVAILABLE,
            Self::Internal => faces::INTERNAL,
            Self::Refused(status) => Face { status: *status, ..faces::REFUSED },
        }
    }

    /// Seconds after which repeating the request may help.
    fn retry_after(&self) -> Option<u32> {
        match self {
            Self::QueueFull { .. } | Self::WholeQueueFull { .. } => Some(RETRY_QUEUE_FULL),
            Self::Overloaded(_) => Some(RETRY_OVERLOADED),
            Self::TooManyStreams | Self::StoreUnavailable { .. } | Self::Stopping => Some(RETRY_UNAVAILABLE),
            Self::DiskFull { .. } => Some(RETRY_DISK_FULL),
            Self::TooFast(haste) => Some(haste.retry_after),
            Self::NotJson { .. }
            | Self::WrongContentType
            | Self::InvalidFields(_)
            | Self::InvalidParameters(_)
            | Self::BodyTooLarge
            | Self::TooSlow
            | Self::Unauthorized
            | Self::WebhookUnverified
            | Self::Forbidden { .. }
            | Self::ForeignHost
            | Self::NoSuchPath
            | Self::NoSuchMethod
            | Self::Unknown { .. }
            | Self::JobEnded { .. }
            | Self::JobNotEnded { .. }
            | Self::JobOfGitLab { .. }
            | Self::Drained { .. }
            | Self::Unsatisfiable(_)
            | Self::NoRoom(_)
            | Self::KeyReused
            | Self::Conflict
            | Self::Internal
            | Self::Refused(_) => None,
        }
    }

    /// The bound that stands against it, where it is one on amounts: one of [`crate::metrics::REFUSALS`].
    fn refused_by(&self) -> Option<&'static str> {
        match self {
            Self::QueueFull { .. } => Some("project_queue"),
            Self::WholeQueueFull { .. } => Some("whole_queue"),
            Self::TooManyStreams => Some("streams"),
            Self::TooFast(_) => Some("pace"),
            Self::Overloaded(bound) => Some(bound.as_str()),
            _ => None,
        }
    }

    fn wire(self, face: &Face) -> Wire {
        let mut wire = Wire { r#type: face.kind(), title: face.title, status: face.status.as_u16(), detail: None, errors: Vec::new() };
        match self {
            Self::NotJson { detail } | Self::Drained { detail } | Self::DiskFull { detail } => wire.detail = Some(detail),
            Self::InvalidFields(faults) | Self::InvalidParameters(faults) => {
                let sentences: Vec<String> = faults.iter().map(ToString::to_string).collect();
                wire.detail = Some(quoted(&sentences.join("; ")));
                wire.errors = faults.into_iter().map(Into::into).collect();
            }
            // The sentences about a machine are whole without the field.
            Self::Unsatisfiable(faults) | Self::NoRoom(faults) => {
                let sentences: Vec<&str> = faults.iter().map(|fault| fault.message.as_str()).collect();
                wire.detail = Some(sentences.join("; "));
                wire.errors = faults.into_iter().map(Into::into).collect();
            }
            Self::Forbidden { needs } => wire.detail = Some(format!("the role {} is needed", needs.as_str())),
            Self::ForeignHost => wire.detail = Some("configure http.tokens to be reached under other names, or through a proxy".to_owned()),
            Self::Unknown { what } => wire.detail = Some(format!("there is no {what}")),
            Self::JobEnded { state } | Self::JobNotEnded { state } => wire.detail = Some(format!("it is {state}")),
            Self::JobOfGitLab { page } => wire.detail = Some(format!("retry it there: {page}")),
            Self::QueueFull { limit } => wire.detail = Some(format!("limits.queue_per_project is {limit}")),
            Self::WholeQueueFull { limit } => wire.detail = Some(format!("limits.queue is {limit}")),
            Self::StoreUnavailable { detail } => wire.detail = detail.map(str::to_owned),
            Self::Overloaded(bound) => wire.detail = Some(bound.sentence()),
            Self::TooFast(haste) => wire.detail = Some(format!("{} is {} a second", haste.limit, haste.per_second)),
            Self::WrongContentType
            | Self::BodyTooLarge
            | Self::TooSlow
            | Self::Unauthorized
            | Self::WebhookUnverified
            | Self::NoSuchPath
            | Self::NoSuchMethod
            | Self::Stopping
            | Self::KeyReused
            | Self::TooManyStreams
            | Self::Conflict
            | Self::Internal
            | Self::Refused(_) => {}
        }
        wire
    }

    /// The problem for an answer of the framework that has only a status.
    #[must_use]
    pub fn from_status(status: StatusCode) -> Self {
        match status {
            StatusCode::NOT_FOUND => Self::NoSuchPath,
            StatusCode::METHOD_NOT_ALLOWED => Self::NoSuchMethod,
            StatusCode::PAYLOAD_TOO_LARGE => Self::BodyTooLarge,
            StatusCode::REQUEST_TIMEOUT => Self::TooSlow,
            StatusCode::INTERNAL_SERVER_ERROR => Self::Internal,
            other => Self::Refused(other),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let face = self.face();
        let retry_after = self.retry_after();
        let (asks_for_token, refused) = (self == Self::Unauthorized, self.refused_by());
        let body = serde_json::to_string(&self.wire(&face)).unwrap_or_default();
        let mut response = (face.status, [(header::CONTENT_TYPE, PROBLEM_JSON)], body).into_response();
        if let Some(reason) = refused {
            response.extensions_mut().insert(Refused(reason));
        }
        if let Some(seconds) = retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if asks_for_token {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"runner-coordinator\""));
        }
        response
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Refused(_) => Self::Conflict,
            StoreError::UnknownRunner(id) => Self::unknown_runner(id.as_str()),
            StoreError::Unavailable { .. } | StoreError::Fenced(_) => {
                tracing::error!(error = %chain(&error), "a request could not be served: {}", chain(&error));
                Self::StoreUnavailable { detail: None }
            }
            StoreError::Overdue { .. } => {
                tracing::error!(error = %error, "a request could not be served: {error}");
                Self::StoreUnavailable { detail: Some(MAYBE_DONE) }
            }
            StoreError::Corrupt(_) => {
                tracing::error!(error = %error, "a request could not be served: {error}");
                Self::Internal
            }
        }
    }
}

impl From<FieldFault> for Problem {
    fn from(fault: FieldFault) -> Self {
        Self::InvalidFields(vec![fault])
    }
}

/// What a machine lacks, by the field that asks for it.
pub(super) fn missing(unfit: Vec<Unfit>) -> Vec<FieldFault> {
    unfit.into_iter().map(|one| FieldFault::new(one.field(), one.to_string())).collect()
}

/// At most [`QUOTE_CHARS`] of a text that may quote the client.
pub(super) fn quoted(text: &str) -> String {
    match text.char_indices().nth(QUOTE_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
#[path = "problem_tests.rs"]
pub(super) mod tests;
