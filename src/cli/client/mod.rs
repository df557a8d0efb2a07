//! Speaks to a running daemon over TCP, TLS or its Unix socket.

mod error;
mod patience;
mod place;
mod trust;

pub(super) use error::{ClientError, Refusal};
pub(super) use patience::Patience;
pub(super) use place::Place;
use trust::Trust;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION, RETRY_AFTER};
use reqwest::{Method, Response};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};

use super::{remark, say, tell_error};
use crate::config::{Config, read_secret_file};

/// How long the daemon may take to answer; it gives up itself after 30 s.
const PATIENCE: Duration = Duration::from_secs(35);
/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(10);
/// After how long a silent connection is probed.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// Longest answer that is read at once, in bytes: a page of jobs with commands and environments as long as they may be.
const MAX_ANSWER: usize = 128 << 20;
/// Most elements that one page of a list has.
const MAX_PAGE: usize = 100;

/// Where the daemon is, who asks, and how the answer is printed.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Daemon")]
pub(super) struct Target {
    /// Where the daemon is: `http://HOST:PORT`, `https://HOST` or `unix:/PATH`. Without it, as the configuration says: `http.socket` if it is there, else `http.listen`.
    #[arg(long, global = true, env = "RUNNER_COORDINATOR_SERVER", hide_env_values = true, value_name = "URL")]
    server: Option<Place>,
    /// A bearer token of the API, where the daemon asks for one. Others on this machine can read it on the command line: prefer the variable or --token-file.
    #[arg(long, global = true, env = "RUNNER_COORDINATOR_API_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    token: Option<SecretString>,
    /// A file that holds the token, with mode 0600. Goes before --token.
    #[arg(long, global = true, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// A file of authorities in PEM, to which the certificate of an https daemon must lead, beside this machine's.
    #[arg(long, global = true, env = "RUNNER_COORDINATOR_CA_FILE", hide_env_values = true, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// A file with a client certificate and its private key in PEM, mode 0600, for a daemon that asks for one (`http.tls.client_ca_file`).
    #[arg(long, global = true, env = "RUNNER_COORDINATOR_CLIENT_CERT_FILE", hide_env_values = true, value_name = "FILE")]
    client_cert_file: Option<PathBuf>,
    /// Print the daemon's answer as JSON.
    #[arg(long, global = true)]
    pub(super) json: bool,
}

impl Target {
    /// A client of the daemon that is meant. The configuration is read only where nothing else says where that is.
    pub(super) fn client(&self, config: Option<&Path>) -> Result<Client, ClientError> {
        // Another part of the process may have installed it before; either is the same. Certificates are read with it, too.
        drop(rustls::crypto::ring::default_provider().install_default());
        let place = match &self.server {
            Some(place) => place.clone(),
            // Secrets that only the daemon can read are not missed here.
            None => Place::of(&Config::for_setup(config).map_err(ClientError::Configuration)?.config.http),
        };
        let token = match &self.token_file {
            Some(path) => Some(read_secret_file(path).map_err(ClientError::TokenFile)?),
            None => self.token.clone().filter(|token| !token.expose_secret().is_empty()),
        };
        Client::new(place, token.as_ref(), &self.trust()?)
    }

    fn trust(&self) -> Result<Trust, ClientError> {
        let authorities = self.ca_file.as_deref().map(trust::authorities).transpose().map_err(ClientError::CaFile)?;
        let identity = self.client_cert_file.as_deref().map(trust::identity).transpose().map_err(ClientError::ClientCertFile)?;
        Ok(Trust { authorities: authorities.unwrap_or_default(), identity })
    }

    /// Prints an answer: as it is where that was asked for, else as `lines`.
    pub(super) fn tell(&self, answer: Result<Value, ClientError>, lines: impl FnOnce(&Value) -> Vec<String>) -> ExitCode {
        match answer {
            Ok(answer) if self.json => say(&answer.to_string()),
            Ok(answer) => say(&lines(&answer).join("\n")),
            Err(error) => return tell_error(&error),
        }
        ExitCode::SUCCESS
    }

    /// Prints the elements of a list in the same way, and whether there are more.
    pub(super) fn tell_list(
        &self,
        name: &str,
        answer: Result<(Vec<Value>, Value), ClientError>,
        lines: impl FnOnce(&[Value]) -> Vec<String>,
    ) -> ExitCode {
        let (elements, next) = match answer {
            Ok(found) => found,
            Err(error) => return tell_error(&error),
        };
        if self.json {
            say(&json!({ name: elements, "next_cursor": next }).to_string());
        } else {
            say(&lines(&elements).join("\n"));
            if !next.is_null() {
                remark(&format!("there are more than these {}: --limit shows them", elements.len()));
            }
        }
        ExitCode::SUCCESS
    }
}

/// Speaks to one daemon.
#[derive(Debug)]
pub(super) struct Client {
    place: Place,
    http: reqwest::Client,
}

impl Client {
    fn new(place: Place, token: Option<&SecretString>, trust: &Trust) -> Result<Self, ClientError> {
        let mut headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static("application/json"))]);
        if let Some(token) = token {
            headers.insert(AUTHORIZATION, bearer(token)?);
        }
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("runner-coordinator/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers)
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT)
            .tcp_keepalive(KEEPALIVE);
        if !place.is_encrypted() {
            // Without this a machine that has no certificates at all could not even speak plain HTTP.
            builder = builder.tls_certs_only(std::iter::empty());
        }
        builder = builder.tls_certs_merge(trust.authorities.iter().cloned());
        if let Some(identity) = &trust.identity {
            builder = builder.identity(identity.clone());
        }
        if place.is_here() {
            builder = builder.no_proxy();
        }
        if let Place::Socket(path) = &place {
            builder = builder.unix_socket(path.as_path());
        }
        match builder.build() {
            Ok(http) => Ok(Self { place, http }),
            Err(source) => Err(ClientError::Unusable { place, source }),
        }
    }

    /// The answer to a GET.
    pub(super) async fn get(&self, path: &str) -> Result<Value, ClientError> {
        self.call(Method::GET, path, None, &[]).await
    }

    /// The answer to a POST.
    pub(super) async fn post(&self, path: &str, body: Option<&Value>) -> Result<Value, ClientError> {
        self.call(Method::POST, path, body, &[]).await
    }

    /// The answer to a DELETE.
    pub(super) async fn delete(&self, path: &str) -> Result<Value, ClientError> {
        self.call(Method::DELETE, path, None, &[]).await
    }

    /// Sends a request and answers with the body of a good answer.
    pub(super) async fn call(&self, method: Method, path: &str, body: Option<&Value>, headers: &[(&str, &str)]) -> Result<Value, ClientError> {
        let mut request = self.http.request(method, self.place.url(path)).timeout(PATIENCE);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = self.good(request.send().await, path).await?;
        let body = self.body(answer).await?;
        serde_json::from_slice(&body).map_err(|_| ClientError::Strange(self.place.clone()))
    }

    /// A good answer, whose body is read as it comes, for as long as it takes.
    pub(super) async fn stream(&self, path: &str) -> Result<Response, ClientError> {
        let request = self.http.get(self.place.url(path)).header(ACCEPT, "text/plain");
        let sent = tokio::time::timeout(PATIENCE, request.send()).await.map_err(|_| ClientError::Silent(self.place.clone()))?;
        self.good(sent, path).await
    }

    /// What is the matter with a connection that broke off.
    pub(super) fn broken(&self, source: reqwest::Error) -> ClientError {
        if source.is_timeout() { ClientError::Silent(self.place.clone()) } else { ClientError::Unreachable { place: self.place.clone(), source } }
    }

    /// The elements of a list that match the filters which are given, page after page, up to `most`, and where it goes on.
    pub(super) async fn list(&self, path: &str, filters: &[(&str, Option<&str>)], most: u32) -> Result<(Vec<Value>, Value), ClientError> {
        let key = path.trim_start_matches('/');
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        let query: String = filters.iter().filter_map(|(name, value)| Some(format!("&{name}={}", segment((*value)?)))).collect();
        let (mut elements, mut cursor) = (Vec::new(), String::new());
        loop {
            let limit = (most - elements.len()).min(MAX_PAGE);
            let mut page = self.get(&format!("{path}?limit={limit}{query}{cursor}")).await?;
            let Value::Array(found) = page[key].take() else { return Err(ClientError::Strange(self.place.clone())) };
            elements.extend(found);
            let next = page["next_cursor"].take();
            match &next {
                Value::String(text) if elements.len() < most => cursor = format!("&cursor={}", segment(text)),
                _ => return Ok((elements, next)),
            }
        }
    }

    async fn good(&self, sent: reqwest::Result<Response>, path: &str) -> Result<Response, ClientError> {
        let answer = sent.map_err(|error| self.broken(error))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let headers = answer.headers().clone();
        if let Some(to) = headers.get(LOCATION).filter(|_| status.is_redirection()) {
            return Err(ClientError::Moved { place: self.place.clone(), to: String::from_utf8_lossy(to.as_bytes()).into_owned() });
        }
        let problem = headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().ends_with(b"json"));
        let body = self.body(answer).await?;
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let text = |field: &str| body[field].as_str().filter(|_| problem).map(str::to_owned);
        Err(ClientError::Refused(Refusal {
            status: status.as_u16(),
            slug: text("type").and_then(|kind| Some(kind.rsplit_once('/')?.1.to_owned())).unwrap_or_default(),
            title: text("title").unwrap_or_else(|| status.canonical_reason().unwrap_or("refused").to_owned()),
            detail: text("detail"),
            path: path.to_owned(),
            retry_after: headers.get(RETRY_AFTER).and_then(|seconds| seconds.to_str().ok()?.parse().ok()),
        }))
    }

    async fn body(&self, mut answer: Response) -> Result<Vec<u8>, ClientError> {
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|error| self.broken(error))? {
            if body.len() + chunk.len() > MAX_ANSWER {
                return Err(ClientError::Strange(self.place.clone()));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }
}

/// A token as a header that no log shows.
fn bearer(token: &SecretString) -> Result<HeaderValue, ClientError> {
    let token = token.expose_secret().trim();
    let good = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
    let mut header = HeaderValue::from_str(&format!("Bearer {token}")).ok().filter(|_| good).ok_or(ClientError::Token)?;
    header.set_sensitive(true);
    Ok(header)
}

/// A text as one segment of a path, or as one value of a query.
pub(super) fn segment(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~');
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn no_token_breaks_out_of_its_header() {
        assert_eq!(bearer(&"rca-x\n".to_owned().into()).expect("a header").to_str().expect("text"), "Bearer rca-x");
        for bad in ["", " ", "a\r\nb: c", "a b", "é"] {
            assert!(matches!(bearer(&bad.to_owned().into()), Err(ClientError::Token)), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn a_segment_is_one_and_reads_back(text in ".{0,40}") {
            let segment = segment(&text);
            prop_assert!(segment.bytes().all(|byte| byte.is_ascii_graphic() && !b"/?#& ".contains(&byte)));
            let mut bytes = segment.bytes();
            let mut back = Vec::new();
            while let Some(byte) = bytes.next() {
                let hex = |bytes: &mut std::str::Bytes<'_>| char::from(bytes.next().expect("a digit")).to_digit(16).expect("hexadecimal");
                back.push(if byte == b'%' { u8::try_from(hex(&mut bytes) * 16 + hex(&mut bytes)).expect("a byte") } else { byte });
            }
            prop_assert_eq!(back, text.into_bytes());
        }
    }
}
