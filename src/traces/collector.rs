//! The receiver of traces: OTLP over HTTP in its JSON form.
//!
//! The official crates would bring a second HTTP stack or a dozen crates for the sake of six small messages, so the messages are written
//! here ([`super::otlp`]); tests read them with the official crate.

use std::time::Duration;

use reqwest::Client;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use secrecy::ExposeSecret as _;
use serde_json::Value;

use crate::config::Traces;
use crate::domain::chain;

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(5);
/// How long the collector may take to answer.
const ANSWER: Duration = Duration::from_secs(15);
/// Most bytes of an answer that are read.
const MAX_ANSWER_BYTES: usize = 64 * 1024;
/// Longest wait that we let a collector impose.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(300);

/// Why there can be no collector.
#[derive(Debug, thiserror::Error)]
pub enum CollectorError {
    /// The machine lacks what TLS needs.
    #[error("a client for it cannot be made")]
    Client(#[source] reqwest::Error),
    /// A header cannot be sent.
    #[error("the value of traces.headers {0:?} is no header")]
    Header(String),
}

/// What a collector did not take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotTaken {
    /// It may take it later.
    Later {
        /// What went wrong.
        why: String,
        /// How long it wants to be left alone.
        wait: Option<Duration>,
    },
    /// It never will.
    Never {
        /// What it said.
        why: String,
    },
}

/// One collector.
#[derive(Debug)]
pub struct Collector {
    client: Client,
    url: String,
    headers: HeaderMap,
}

impl Collector {
    /// The configured collector.
    ///
    /// # Errors
    /// When a header is none, or there is no trusted certificate on the machine that an `https` address could be checked against.
    pub fn new(traces: &Traces) -> Result<Self, CollectorError> {
        // Another part of the process may have installed it before; either is the same.
        drop(rustls::crypto::ring::default_provider().install_default());
        let mut builder = Client::builder()
            .user_agent(concat!("runner-coordinator/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT)
            .timeout(ANSWER);
        if traces.endpoint.starts_with("http://") {
            // Without this a machine that has no certificates at all could not even speak plain HTTP.
            builder = builder.tls_certs_only(std::iter::empty());
        }
        let mut headers = HeaderMap::new();
        for header in &traces.headers {
            let bad = || CollectorError::Header(header.name.clone());
            let name = HeaderName::from_bytes(header.name.as_bytes()).map_err(|_| bad())?;
            let mut value = HeaderValue::from_str(header.value.expose_secret()).map_err(|_| bad())?;
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let client = builder.build().map_err(CollectorError::Client)?;
        Ok(Self { client, url: format!("{}/v1/traces", traces.endpoint.trim_end_matches('/')), headers })
    }

    /// Gives it a batch; answers how many spans of it the collector rejected, and its words about that.
    ///
    /// # Errors
    /// When the collector did not take it.
    pub async fn take(&self, batch: &Value) -> Result<Option<String>, NotTaken> {
        let body = batch.to_string();
        let sent = self.client.post(&self.url).headers(self.headers.clone()).body(body).send().await;
        let mut response = sent.map_err(|error| NotTaken::Later { why: chain(&error.without_url()), wait: None })?;
        let (status, wait) = (response.status().as_u16(), retry_after(response.headers()));
        let mut answer = Vec::new();
        while let Ok(Some(chunk)) = response.chunk().await {
            if answer.len() + chunk.len() > MAX_ANSWER_BYTES {
                break;
            }
            answer.extend_from_slice(&chunk);
        }
        match judge(status) {
            Verdict::Taken => Ok(rejected(&answer)),
            Verdict::Later => Err(NotTaken::Later { why: format!("it answered with status {status}"), wait }),
            Verdict::Never => Err(NotTaken::Never { why: format!("it answered with status {status}{}", words(&answer)) }),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Taken,
    Later,
    Never,
}

/// The protocol names what may be tried again. What looks like a wrong key or address is tried again as well: somebody will put it right, and
/// the traces are still there then.
fn judge(status: u16) -> Verdict {
    match status {
        200..=299 => Verdict::Taken,
        300..=399 | 401 | 403 | 404 | 407 | 408 | 429 | 500..=599 => Verdict::Later,
        _ => Verdict::Never,
    }
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(MAX_RETRY_AFTER))
}

/// What a collector says that took the batch in part.
fn rejected(answer: &[u8]) -> Option<String> {
    let answer: Value = serde_json::from_slice(answer).ok()?;
    let partial = &answer["partialSuccess"];
    let count = match &partial["rejectedSpans"] {
        Value::String(text) => text.parse().ok()?,
        number => number.as_u64()?,
    };
    (count > 0).then(|| format!("{count} spans were rejected{}", words(partial["errorMessage"].as_str().unwrap_or_default().as_bytes())))
}

/// The beginning of what a collector said, on one line.
fn words(answer: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(answer).chars().filter(|c| !c.is_control()).take(200).collect();
    if text.is_empty() { text } else { format!(": {text}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_no_time_can_mend_is_given_up() {
        for status in [200, 202, 204] {
            assert_eq!(judge(status), Verdict::Taken, "{status}");
        }
        for status in [302, 401, 403, 404, 408, 429, 500, 502, 503, 504] {
            assert_eq!(judge(status), Verdict::Later, "{status}");
        }
        for status in [400, 413, 415, 422] {
            assert_eq!(judge(status), Verdict::Never, "{status}");
        }
    }

    #[test]
    fn what_was_taken_in_part_is_told() {
        let text = br#"{"partialSuccess":{"rejectedSpans":"3","errorMessage":"too\nold"}}"#;
        assert_eq!(rejected(text).as_deref(), Some("3 spans were rejected: tooold"));
        assert_eq!(rejected(br#"{"partialSuccess":{"rejectedSpans":2}}"#).as_deref(), Some("2 spans were rejected"));
        for whole in ["", "{}", r#"{"partialSuccess":{}}"#, r#"{"partialSuccess":{"rejectedSpans":"0","errorMessage":"be careful"}}"#] {
            assert_eq!(rejected(whole.as_bytes()), None, "{whole}");
        }
    }

    #[test]
    fn a_collector_cannot_silence_us_for_ever() {
        let after = |text: &'static str| retry_after(&HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static(text))]));
        assert_eq!((after("7"), after("86400"), after("Wed")), (Some(Duration::from_secs(7)), Some(MAX_RETRY_AFTER), None));
    }
}
