//! What can go wrong with an engine, by kind, so that callers decide by the kind and people read the words.

use std::time::Duration;

use bollard::errors::Error as EngineError;

use crate::domain::Disposition;

/// The call that starts a container.
pub(super) const START: &str = "start";

/// A call to the engine that did not succeed. `call` names the call, as `verb` of [`super::Driver`].
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// The engine's address cannot be used.
    #[error("the engine's address {host:?} {problem}")]
    BadHost {
        /// As configured.
        host: String,
        /// The rest of the sentence.
        problem: &'static str,
    },
    /// Nothing answers at the engine's address.
    #[error("the engine cannot be reached ({call})")]
    Unreachable {
        /// The call.
        call: &'static str,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The engine took the call and did not answer in time. What it asked for may still happen.
    #[error("the engine did not answer to {call} within {} s", .after.as_secs())]
    Deadline {
        /// The call.
        call: &'static str,
        /// The deadline.
        after: Duration,
    },
    /// The engine stopped in the middle of its answer.
    #[error("the engine's answer to {call} broke off")]
    Interrupted {
        /// The call.
        call: &'static str,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// What the call is about does not exist.
    #[error("the engine found nothing to {call}: {message}")]
    NotFound {
        /// The call.
        call: &'static str,
        /// The engine's words.
        message: String,
    },
    /// The call contradicts what there is: a name that another's container has, for example.
    #[error("the engine could not {call}: {message}")]
    Conflict {
        /// The call.
        call: &'static str,
        /// The engine's words, or ours.
        message: String,
    },
    /// The engine refused.
    #[error("the engine refused to {call}: {message}")]
    Refused {
        /// The call.
        call: &'static str,
        /// HTTP status.
        status: u16,
        /// The engine's words.
        message: String,
    },
    /// The engine's answer cannot be understood.
    #[error("the engine's answer to {call} makes no sense: {message}")]
    Garbled {
        /// The call.
        call: &'static str,
        /// What is wrong with it.
        message: String,
    },
    /// The registry does not have the image, or not for us.
    #[error("the image {image} cannot be had: {message}")]
    ImageRefused {
        /// The image.
        image: String,
        /// The registry's words.
        message: String,
    },
    /// The image could not be fetched this time.
    #[error("fetching the image {image} failed: {message}")]
    PullFailed {
        /// The image.
        image: String,
        /// The engine's words.
        message: String,
    },
    /// Nothing moved for too long while the image was fetched.
    #[error("fetching the image {image} stood still for {} s", .after.as_secs())]
    PullStalled {
        /// The image.
        image: String,
        /// How long.
        after: Duration,
    },
}

impl DriverError {
    /// Whether another attempt may help ([`Disposition::Infrastructure`]) or would only repeat it ([`Disposition::Final`]).
    #[must_use]
    pub fn disposition(&self) -> Disposition {
        match self {
            // Engines answer 400 to a start that failed because they, or their containerd, were going: "no such file" is a command that is not
            // there, to them, also where it is a socket of theirs. What a request lacks was refused when the container was made.
            Self::Refused { call: START, .. } => Disposition::Infrastructure,
            Self::BadHost { .. } | Self::ImageRefused { .. } | Self::Refused { status: 400..=499, .. } => Disposition::Final,
            Self::Unreachable { .. }
            | Self::Deadline { .. }
            | Self::Interrupted { .. }
            | Self::NotFound { .. }
            | Self::Conflict { .. }
            | Self::Refused { .. }
            | Self::Garbled { .. }
            | Self::PullFailed { .. }
            | Self::PullStalled { .. } => Disposition::Infrastructure,
        }
    }

    /// The kind, in a word: for metrics.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::BadHost { .. } => "bad_host",
            Self::Unreachable { .. } => "unreachable",
            Self::Deadline { .. } => "deadline",
            Self::Interrupted { .. } => "interrupted",
            Self::NotFound { .. } => "not_found",
            Self::Conflict { .. } => "conflict",
            Self::Refused { .. } => "refused",
            Self::Garbled { .. } => "garbled",
            Self::ImageRefused { .. } => "image_refused",
            Self::PullFailed { .. } => "pull_failed",
            Self::PullStalled { .. } => "pull_stalled",
        }
    }

    /// Whether the engine behind the address may be another one from now on, so that its version has to be asked for again.
    pub(super) fn ends_connection(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Interrupted { .. } => true,
            Self::Refused { status: 400, message, .. } => message.contains("client version"),
            Self::BadHost { .. }
            | Self::Deadline { .. }
            | Self::NotFound { .. }
            | Self::Conflict { .. }
            | Self::Refused { .. }
            | Self::Garbled { .. }
            | Self::ImageRefused { .. }
            | Self::PullFailed { .. }
            | Self::PullStalled { .. } => false,
        }
    }

    /// Sorts the client's errors, of which it has many, into our few.
    pub(super) fn from_engine(call: &'static str, error: EngineError) -> Self {
        match error {
            EngineError::DockerResponseServerError { status_code, message } => match status_code {
                404 => Self::NotFound { call, message },
                409 => Self::Conflict { call, message },
                status => Self::Refused { call, status, message },
            },
            EngineError::HyperLegacyError { err } if err.is_connect() => Self::Unreachable { call, source: Box::new(err) },
            EngineError::HyperLegacyError { err } => Self::Interrupted { call, source: Box::new(err) },
            EngineError::SocketNotFoundError(path) => Self::Unreachable { call, source: format!("there is no socket {path}").into() },
            EngineError::HyperResponseError { err } => Self::Interrupted { call, source: Box::new(err) },
            EngineError::IOError { err } => Self::Interrupted { call, source: Box::new(err) },
            other => Self::Garbled { call, message: other.to_string() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status_code: u16, message: &str) -> DriverError {
        DriverError::from_engine("create", EngineError::DockerResponseServerError { status_code, message: message.to_owned() })
    }

    #[test]
    fn answers_are_sorted_by_status() {
        assert!(matches!(answer(404, ""), DriverError::NotFound { .. }));
        assert!(matches!(answer(409, ""), DriverError::Conflict { .. }));
        assert!(matches!(answer(500, ""), DriverError::Refused { status: 500, .. }));
        assert!(matches!(DriverError::from_engine("ping", EngineError::SocketNotFoundError("/x".into())), DriverError::Unreachable { .. }));
    }

    #[test]
    fn only_what_may_change_is_worth_another_attempt() {
        assert_eq!(answer(400, "unknown runtime").disposition(), Disposition::Final);
        assert_eq!(answer(500, "could not select device driver").disposition(), Disposition::Infrastructure);
        assert_eq!(answer(409, "name in use").disposition(), Disposition::Infrastructure);
        let hook = "OCI runtime create failed: error running hook #0: exit status 1, stderr: no such file or directory: unknown";
        let start = EngineError::DockerResponseServerError { status_code: 400, message: hook.to_owned() };
        assert_eq!(DriverError::from_engine(START, start).disposition(), Disposition::Infrastructure);
        assert_eq!(DriverError::ImageRefused { image: "a".into(), message: "denied".into() }.disposition(), Disposition::Final);
        assert_eq!(DriverError::Deadline { call: "start", after: Duration::from_secs(60) }.disposition(), Disposition::Infrastructure);
    }

    #[test]
    fn an_engine_of_another_version_is_asked_again() {
        assert!(answer(400, "client version 1.51 is too new. Maximum supported API version is 1.41").ends_connection());
        assert!(!answer(400, "invalid memory").ends_connection());
    }
}
