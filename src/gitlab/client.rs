//! The runner protocol over HTTP.
//!
//! Every call has a deadline; a redirect is never followed; a token travels in the header and, where the protocol repeats it, in the body.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, DATE, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Client, Method, RequestBuilder, Response};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

use super::api::{GitLab, GitLabError, JobAnswer, Relay, RelayHeaders, RunnerInfo, StreamingRelay, Upload};
use super::payload;
use super::stall::{Progress, stalling_is_an_error};

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(10);
/// How long GitLab may take to answer a small call.
pub(super) const ANSWER: Duration = Duration::from_secs(30);
/// How long GitLab may take to take a part of a trace, up to some MiB.
const TRACE: Duration = Duration::from_secs(60);
/// How long a transfer of artifacts may stand still, GitLab's own work at its end included.
const STALL: Duration = Duration::from_secs(300);
/// After how long a silent connection is probed.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// Longest job description that is read. Variables of the kind `file` make it large.
const MAX_JOB_BYTES: usize = 16 * 1024 * 1024;
/// Wait after a 429 without `Retry-After`. GitLab itself always says how long (a minute); who does not is a proxy before it.
const DEFAULT_RETRY_AFTER: Duration = Duration::from_secs(15);
/// Longest wait that we let GitLab impose.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// One GitLab, spoken to over HTTP.
#[derive(Debug)]
pub struct HttpGitLab {
    client: Client,
    base_url: String,
    system_id: String,
}

/// The id under which GitLab keeps this coordinator apart from others with the same runner token: `r_` and 12 characters,
/// as `gitlab-runner` makes them. From the end of the instance's id, where it is random.
#[must_use]
pub fn system_id(instance: &str) -> String {
    let mut tail: Vec<char> = instance.chars().rev().filter(char::is_ascii_alphanumeric).take(12).collect();
    tail.resize(12, '0');
    tail.reverse();
    format!("r_{}", tail.into_iter().collect::<String>())
}

impl HttpGitLab {
    /// A client of the GitLab at `base_url`.
    ///
    /// # Errors
    /// When there is no trusted certificate on the machine that an `https` address could be checked against.
    pub fn new(base_url: &str, system_id: impl Into<String>) -> Result<Self, GitLabError> {
        Ok(Self { client: http_client(base_url)?, base_url: base_url.trim_end_matches('/').to_owned(), system_id: system_id.into() })
    }

    /// The time on its clock, to the second, by the header that every answer has; `None` when it gives none.
    pub async fn time(&self) -> Option<Timestamp> {
        let answer = self.call(Method::GET, "version", "").timeout(ANSWER).send().await.ok()?;
        let date = answer.headers().get(DATE)?.to_str().ok()?;
        jiff::fmt::rfc2822::parse(date).ok().map(|time| time.timestamp())
    }

    pub(super) fn call(&self, method: Method, path: &str, query: &str) -> RequestBuilder {
        let mark = if query.is_empty() { "" } else { "?" };
        self.client.request(method, format!("{}/api/v4/{path}{mark}{query}", self.base_url))
    }

    fn for_job(&self, method: Method, job: u64, rest: &str, query: &str, token: &str) -> RequestBuilder {
        self.call(method, &format!("jobs/{job}{rest}"), query).header("JOB-TOKEN", secret_header(token))
    }

    pub(super) fn as_runner(&self, path: &str, token: &SecretString, mut body: Value) -> RequestBuilder {
        body["token"] = token.expose_secret().into();
        body["system_id"] = self.system_id.as_str().into();
        self.call(Method::POST, path, "").header("RUNNER-TOKEN", secret_header(token.expose_secret())).timeout(ANSWER).json(&body)
    }
}

#[async_trait]
impl GitLab for HttpGitLab {
    async fn request_job(&self, runner_token: &SecretString, info: &RunnerInfo) -> Result<JobAnswer, GitLabError> {
        let doing = "give us a job";
        let request = self.as_runner("jobs/request", runner_token, json!({ "info": info.to_json() }));
        let response = request.send().await.map_err(|error| from_reqwest(error, doing, ANSWER))?;
        match response.status().as_u16() {
            204 => Ok(JobAnswer::NoJob),
            201 if is_json(response.headers()) => {
                let bytes = read_body(response, MAX_JOB_BYTES, doing, ANSWER).await?;
                let text = String::from_utf8(bytes).map_err(|_| protocol(doing, "the job is not UTF-8"))?;
                let claimed = payload::parse(&self.base_url, text).map_err(|error| protocol(doing, error))?;
                Ok(JobAnswer::Job(Box::new(claimed)))
            }
            201 => Err(protocol(doing, "the job is not declared as JSON")),
            status => Err(refusal(status, response.headers(), doing)),
        }
    }

    async fn verify_runner(&self, runner_token: &SecretString) -> Result<(), GitLabError> {
        let doing = "verify the runner's token";
        let request = self.as_runner("runners/verify", runner_token, json!({}));
        let response = request.send().await.map_err(|error| from_reqwest(error, doing, ANSWER))?;
        match response.status().as_u16() {
            200..=299 => Ok(()),
            status => Err(refusal(status, response.headers(), doing)),
        }
    }

    async fn update_job(&self, job: u64, job_token: &str, mut body: Value) -> Result<Relay, GitLabError> {
        let doing = "take a job's state";
        if !body.is_object() {
            return Err(protocol(doing, "the update is not an object"));
        }
        body["token"] = job_token.into();
        let request = self.for_job(Method::PUT, job, "", "", job_token).timeout(ANSWER).json(&body);
        relay(request.send().await, doing, ANSWER).await
    }

    async fn patch_trace(&self, job: u64, job_token: &str, content_range: &str, query: &str, body: Bytes) -> Result<Relay, GitLabError> {
        let request = self
            .for_job(Method::PATCH, job, "/trace", query, job_token)
            .header(CONTENT_RANGE, content_range)
            .header(CONTENT_TYPE, "text/plain")
            .timeout(TRACE)
            .body(body);
        relay(request.send().await, "take a part of a trace", TRACE).await
    }

    async fn upload_artifacts(&self, job: u64, job_token: &str, upload: Upload) -> Result<Relay, GitLabError> {
        let doing = "take artifacts";
        let progress = Arc::new(Progress::default());
        let seen = Arc::clone(&progress);
        let body = upload.body.inspect(move |_| seen.mark());
        let mut request = self
            .for_job(Method::POST, job, "/artifacts", &upload.query, job_token)
            .header(CONTENT_TYPE, upload.content_type)
            .body(reqwest::Body::wrap_stream(body));
        if let Some(length) = upload.content_length {
            request = request.header(CONTENT_LENGTH, length);
        }
        // Not a deadline for the whole: artifacts may be large and lines slow.
        tokio::select! {
            sent = request.send() => relay(sent, doing, STALL).await,
            () = progress.stalled(STALL) => Err(GitLabError::Deadline { doing, after: STALL }),
        }
    }

    async fn download_artifacts(&self, job: u64, job_token: &str, query: &str) -> Result<StreamingRelay, GitLabError> {
        let doing = "give artifacts";
        let request = self.for_job(Method::GET, job, "/artifacts", query, job_token).send();
        let response = tokio::time::timeout(TRACE, request)
            .await
            .map_err(|_| GitLabError::Deadline { doing, after: TRACE })?
            .map_err(|error| from_reqwest(error, doing, TRACE))?;
        let (status, headers) = (response.status().as_u16(), relayed(response.headers()));
        let body = response.bytes_stream().map_err(|error| std::io::Error::other(error.without_url()));
        Ok(StreamingRelay { status, headers, body: stalling_is_an_error(body.boxed(), STALL) })
    }
}

/// The client that every call to this GitLab goes through.
pub(super) fn http_client(base_url: &str) -> Result<Client, GitLabError> {
    let doing = "make a client for it";
    // Another part of the process may have installed it before; either is the same.
    drop(rustls::crypto::ring::default_provider().install_default());
    let mut builder = Client::builder()
        .user_agent(concat!("runner-coordinator/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT)
        .tcp_keepalive(KEEPALIVE);
    if base_url.starts_with("http://") {
        // Without this a machine that has no certificates at all could not even speak plain HTTP.
        builder = builder.tls_certs_only(std::iter::empty());
    }
    builder.build().map_err(|error| from_reqwest(error, doing, CONNECT))
}

async fn relay(sent: reqwest::Result<Response>, doing: &'static str, after: Duration) -> Result<Relay, GitLabError> {
    let response = sent.map_err(|error| from_reqwest(error, doing, after))?;
    let (status, mut headers) = (response.status().as_u16(), relayed(response.headers()));
    // The length is that of what we send on.
    headers.remove("content-length");
    let body = read_body(response, Relay::MAX_BODY_BYTES, doing, after).await?;
    Ok(Relay { status, headers, body: body.into() })
}

pub(super) async fn read_body(mut response: Response, limit: usize, doing: &'static str, after: Duration) -> Result<Vec<u8>, GitLabError> {
    let read = async {
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| from_reqwest(error, doing, after))? {
            if body.len() + chunk.len() > limit {
                return Err(protocol(doing, format_args!("more than {limit} bytes")));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    };
    tokio::time::timeout(after, read).await.map_err(|_| GitLabError::Deadline { doing, after })?
}

fn relayed(headers: &HeaderMap) -> RelayHeaders {
    RelayHeaders::from_pairs(headers.iter().filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?))))
}

pub(super) fn is_json(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).is_some_and(|value| value.trim().starts_with("application/json"))
}

pub(super) fn refusal(status: u16, headers: &HeaderMap, doing: &'static str) -> GitLabError {
    match status {
        403 => GitLabError::Denied { doing },
        409 => GitLabError::Conflict,
        429 => GitLabError::TooMany { doing, retry_after: retry_after(headers) },
        500..=599 => GitLabError::Server { doing, status },
        other => protocol(doing, format_args!("status {other}")),
    }
}

fn retry_after(headers: &HeaderMap) -> Duration {
    let seconds = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
    seconds.map_or(DEFAULT_RETRY_AFTER, Duration::from_secs).min(MAX_RETRY_AFTER)
}

pub(super) fn protocol(doing: &'static str, detail: impl std::fmt::Display) -> GitLabError {
    GitLabError::Protocol { doing, detail: detail.to_string() }
}

pub(super) fn from_reqwest(error: reqwest::Error, doing: &'static str, after: Duration) -> GitLabError {
    if error.is_timeout() && !error.is_connect() {
        return GitLabError::Deadline { doing, after };
    }
    GitLabError::Unreachable { doing, source: Box::new(error.without_url()) }
}

/// A token as a header that no log of the client shows. One that cannot be a header is sent as an empty one, which no GitLab takes.
pub(super) fn secret_header(token: &str) -> HeaderValue {
    let mut value = HeaderValue::from_str(token).unwrap_or_else(|_| HeaderValue::from_static(""));
    value.set_sensitive(true);
    value
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
