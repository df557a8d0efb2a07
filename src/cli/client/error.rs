//! Why the daemon gave no good answer, and what to do next.

use std::error::Error as _;
use std::io::ErrorKind;

use super::Place;
use crate::config::ConfigFaults;

/// Why there is no good answer.
#[derive(Debug, thiserror::Error)]
pub(in crate::cli) enum ClientError {
    /// The configuration, which would tell where the daemon is, cannot be used.
    #[error("the configuration does not tell where the daemon is")]
    Configuration(#[source] ConfigFaults),
    /// The token's file cannot be used.
    #[error("--token-file {0}")]
    TokenFile(String),
    /// The authorities' file cannot be used.
    #[error("--ca-file {0}")]
    CaFile(String),
    /// The client certificate's file cannot be used.
    #[error("--client-cert-file {0}")]
    ClientCertFile(String),
    /// The token cannot be sent.
    #[error("the token has characters that no token has")]
    Token,
    /// A client for that place cannot be made.
    #[error("{place} cannot be spoken to")]
    Unusable {
        place: Place,
        #[source]
        source: reqwest::Error,
    },
    /// Nobody listens, or it broke off.
    #[error("the daemon at {place} cannot be reached")]
    Unreachable {
        place: Place,
        #[source]
        source: reqwest::Error,
    },
    /// It took too long.
    #[error("the daemon at {0} did not answer in time")]
    Silent(Place),
    /// It is not our daemon.
    #[error("what listens at {0} does not answer as the daemon would")]
    Strange(Place),
    /// It sends elsewhere.
    #[error("{place} sends on to {to}")]
    Moved { place: Place, to: String },
    /// There is more than one machine, and none was named.
    #[error("there is not one machine alone: {0}")]
    WhichHost(String),
    /// It refused.
    #[error("{}", .0.said())]
    Refused(Refusal),
}

/// What a refusing daemon said.
#[derive(Debug, Clone, Default)]
pub(in crate::cli) struct Refusal {
    /// The status of the answer.
    pub(in crate::cli) status: u16,
    /// The end of the problem's `type`.
    pub(super) slug: String,
    /// In general.
    pub(super) title: String,
    /// In particular.
    pub(super) detail: Option<String>,
    /// The path that was asked for.
    pub(super) path: String,
    /// When to come again, in seconds.
    pub(super) retry_after: Option<u64>,
}

impl Refusal {
    fn said(&self) -> String {
        match &self.detail {
            Some(detail) => format!("{}: {detail} ({})", self.title, self.status),
            None => format!("{} ({})", self.title, self.status),
        }
    }

    fn advice(&self) -> Option<String> {
        let advice = match (self.status, self.slug.as_str()) {
            (401, _) => {
                "give a token with --token-file FILE or in RUNNER_COORDINATOR_API_TOKEN (`runner-coordinator token new` makes one); through the daemon's Unix socket none is needed: --server unix:PATH"
            }
            (403, "foreign-host") => "without [[http.tokens]] the daemon is only met as localhost, on its own machine or through a tunnel",
            (403, _) => "use the token of an operator: [[http.tokens]] with role = \"operator\"",
            (404, "not-found") => return Some(self.list()),
            (404 | 405, _) => "this daemon does not know that yet: it is older than this command, or --server names something else",
            (409, "job-ended") => "`runner-coordinator jobs show ID` tells how it ended",
            (422, "unsatisfiable") => {
                "--if-unsatisfiable wait keeps the job until a machine can run it; `runner-coordinator hosts list` shows what there is"
            }
            (422, "idempotency-key-reused") => "use another --idempotency-key for another job",
            (429 | 503, _) => return Some(format!("try again in {} s", self.retry_after.unwrap_or(5))),
            (500, _) => "the daemon's log tells more: journalctl -u runner-coordinator",
            _ => return None,
        };
        Some(advice.to_owned())
    }

    fn list(&self) -> String {
        let kind = ["jobs", "runners", "gpus", "hosts"].into_iter().find(|kind| self.path.starts_with(&format!("/{kind}/"))).unwrap_or("jobs");
        format!("`runner-coordinator {kind} list` shows those that there are")
    }
}

impl ClientError {
    /// Whether the same may go well in a moment: the daemon is being restarted, or a proxy before it has lost it.
    pub(in crate::cli) fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Silent(_) => true,
            Self::Refused(refusal) => matches!(refusal.status, 408 | 502..=504),
            Self::Configuration(_)
            | Self::TokenFile(_)
            | Self::CaFile(_)
            | Self::ClientCertFile(_)
            | Self::Token
            | Self::Unusable { .. }
            | Self::Strange(_)
            | Self::Moved { .. }
            | Self::WhichHost(_) => false,
        }
    }

    /// What to do next, where something can be said.
    pub(in crate::cli) fn advice(&self) -> Option<String> {
        let advice = match self {
            Self::Configuration(_) => {
                "say where it is with --server URL or RUNNER_COORDINATOR_SERVER: http://HOST:PORT, https://HOST or unix:/PATH; then no configuration is read"
            }
            Self::TokenFile(_) => "put the token, and nothing else, into a file with mode 0600",
            Self::CaFile(_) => "ask whoever runs the daemon for the certificate of the authority that its own is from",
            Self::ClientCertFile(_) => "put the certificate and its private key, both in PEM, into a file with mode 0600",
            Self::Token => "a token looks like rca-…; `runner-coordinator token new` makes one",
            Self::Unusable { .. } => "https needs trusted certificates on this machine: package ca-certificates",
            Self::Unreachable { place, source } => return Some(unreachable(place, source)),
            Self::Silent(_) => "look at its log: journalctl -u runner-coordinator",
            Self::Strange(_) => "is that address the daemon's http.listen? --server names another one",
            Self::Moved { to, .. } => return Some(format!("if that is right: --server {}", base_of(to))),
            Self::WhichHost(_) => "name the one that is meant",
            Self::Refused(refusal) => return refusal.advice(),
        };
        Some(advice.to_owned())
    }
}

/// The origin of a URL that a redirect names.
fn base_of(to: &str) -> String {
    reqwest::Url::parse(to).map_or_else(|_| to.to_owned(), |url| url.origin().ascii_serialization())
}

fn unreachable(place: &Place, error: &reqwest::Error) -> String {
    let denied = io_kind(error) == Some(ErrorKind::PermissionDenied);
    match place {
        Place::Socket(path) if denied => {
            format!("you may not open it: be in the group of {} (`ls -l` shows it), or use --server http://HOST:PORT with a token", path.display())
        }
        Place::Url(url) if url.scheme() == "https" && is_about_tls(error) => {
            "both sides must come to terms: --ca-file names an authority of the daemon's certificate, --client-cert-file a certificate that it asks for, and --server must use the name that the certificate is for; if it speaks plain HTTP, --server http://…".to_owned()
        }
        Place::Socket(_) | Place::Url(_) => {
            "is it running? `systemctl start runner-coordinator` or `runner-coordinator serve` starts it; if it is elsewhere, --server URL or RUNNER_COORDINATOR_SERVER says where".to_owned()
        }
    }
}

/// What the kernel said, deep in an error.
fn io_kind(error: &reqwest::Error) -> Option<ErrorKind> {
    causes(error).find_map(|cause| cause.downcast_ref::<std::io::Error>()).map(std::io::Error::kind)
}

/// Whether it was reached, and TLS failed.
fn is_about_tls(error: &reqwest::Error) -> bool {
    causes(error).any(is_of_tls)
}

/// The library wraps its errors into those of the kernel, once or twice, which do not tell them as their causes.
fn is_of_tls(cause: &Cause) -> bool {
    let inner = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    cause.is::<rustls::Error>() || inner.is_some_and(|inner| is_of_tls(inner))
}

fn causes(error: &reqwest::Error) -> impl Iterator<Item = &Cause> {
    let mut next = error.source();
    std::iter::from_fn(move || {
        let cause = next?;
        next = cause.source();
        Some(cause)
    })
}

type Cause = dyn std::error::Error + 'static;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_that_can_be_mended_says_how() {
        let cases = [
            (401, "unauthorized", "/jobs"),
            (403, "forbidden", "/jobs"),
            (403, "foreign-host", "/jobs"),
            (404, "not-found", "/jobs/1/logs"),
            (404, "not-found", "/gpus/a/release"),
            (404, "not-found", "/runners/1"),
            (404, "no-such-path", "/jobs/1/retry"),
            (409, "job-ended", "/jobs/1"),
            (422, "unsatisfiable", "/jobs"),
            (422, "invalid-field", "/jobs"),
            (429, "queue-full", "/jobs"),
            (500, "internal", "/jobs"),
        ];
        let told = cases.map(|(status, slug, path)| {
            let refusal = Refusal {
                status,
                slug: slug.to_owned(),
                title: "No".to_owned(),
                detail: Some("why".to_owned()),
                path: path.to_owned(),
                retry_after: Some(30),
            };
            let error = ClientError::Refused(refusal);
            format!("{slug}: {error}\n    {}", error.advice().unwrap_or_default())
        });
        insta::assert_snapshot!(told.join("\n"));
    }

    #[test]
    fn only_what_passes_is_waited_for() {
        let refused = |status| ClientError::Refused(Refusal { status, ..Refusal::default() }).is_passing();
        assert!(refused(502) && refused(503) && refused(504) && !refused(500) && !refused(401) && !refused(404));
        let place: Place = "unix:/x".parse().expect("a place");
        assert!(ClientError::Silent(place.clone()).is_passing() && !ClientError::Strange(place).is_passing());
    }

    #[test]
    fn a_redirect_is_told_as_the_server_to_use() {
        assert_eq!(base_of("https://ci.example/jobs?x=1"), "https://ci.example");
        assert_eq!(base_of("/elsewhere"), "/elsewhere");
    }
}
