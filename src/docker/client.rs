//! The connection to the engine: made when needed, pinned to one version of the interface, each call under its own deadline.
//!
//! Three things that the client crate does not do are done here, all through its hook that may change a request before it is sent:
//! it never puts the version into the path, so every engine would answer in its newest shape; it has no way to read an answer without
//! its own types, some of which fail on values that are new to them; and it writes registry logins in the wrong base64 alphabet.

use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bollard::{API_DEFAULT_VERSION, BollardRequest, Docker};
use futures_util::TryStreamExt;
use serde::de::DeserializeOwned;

use super::error::DriverError;
use super::wire::Version;

/// The newest version of the interface that this code was tried with. With an older engine we speak the engine's.
const NEWEST_API: (u32, u32) = (1, 51);
/// The crate's own limit on an answer's beginning. Ours are shorter, per call; its resolution is whole seconds.
const CRATE_TIMEOUT_SECONDS: u64 = 24 * 60 * 60;
/// Longest answer that is read into memory: a list of some ten thousand containers.
const MAX_ANSWER_BYTES: usize = 32 << 20;
/// Longest wait for the version of an engine.
const VERSION_DEADLINE: Duration = Duration::from_secs(10);

/// Where the engine listens.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Address {
    /// A socket file.
    Unix(String),
    /// Host and port, without encryption.
    Tcp(String),
}

/// A connection whose version is known.
#[derive(Debug, Clone)]
pub(super) struct Connection {
    /// For calls through the crate.
    pub(super) docker: Docker,
    /// The version that we speak, for example `1.41`.
    pub(super) api: String,
}

/// The engine's address and, once it has answered, the connection.
#[derive(Debug)]
pub(super) struct Client {
    address: Address,
    connection: Mutex<Option<Connection>>,
    /// No call takes longer, whatever its own deadline is.
    most: Duration,
}

impl Client {
    /// Only reads the address: the engine may come later.
    pub(super) fn new(host: &str) -> Result<Self, DriverError> {
        Ok(Self { address: parse(host)?, connection: Mutex::new(None), most: Duration::MAX })
    }

    /// The same, of which no call takes longer than `most`.
    pub(super) fn at_most(self, most: Duration) -> Self {
        Self { most, ..self }
    }

    /// Runs one call under its deadline, on a connection that is made first if there is none.
    pub(super) async fn call<T, F>(&self, call: &'static str, deadline: Duration, work: impl FnOnce(Connection) -> F + Send) -> Result<T, DriverError>
    where
        F: Future<Output = Result<T, DriverError>> + Send,
    {
        let deadline = deadline.min(self.most);
        let whole = async { work(self.connect(call).await?).await };
        let result = tokio::time::timeout(deadline, whole).await.unwrap_or(Err(DriverError::Deadline { call, after: deadline }));
        self.forget_after(result)
    }

    /// Reads a JSON answer in our own shape.
    pub(super) async fn read<T: DeserializeOwned + Send>(&self, call: &'static str, deadline: Duration, path: String) -> Result<T, DriverError> {
        self.call(call, deadline, |connection| async move { read_json(&connection.docker, Some(&connection.api), call, &path).await }).await
    }

    /// The connection, made and pinned if there is none.
    pub(super) async fn connect(&self, call: &'static str) -> Result<Connection, DriverError> {
        if let Some(connection) = self.slot().clone() {
            return Ok(connection);
        }
        let deadline = VERSION_DEADLINE.min(self.most);
        let plain = self.dial().map_err(|error| DriverError::from_engine(call, error))?;
        let version = read_json::<Version>(&plain, None, call, "/version");
        let version = tokio::time::timeout(deadline, version).await.unwrap_or(Err(DriverError::Deadline { call, after: deadline }))?;
        let api = spoken(&version.api_version)
            .ok_or_else(|| DriverError::Garbled { call, message: format!("{:?} is not a version of the interface", version.api_version) })?;
        let prefix = format!("/v{api}");
        let docker = plain.with_request_modifier(move |request| with_url_safe_login(with_prefix(request, &prefix)));
        let connection = Connection { docker, api };
        *self.slot() = Some(connection.clone());
        Ok(connection)
    }

    /// Makes the next call ask for the version again when the engine may be another one.
    pub(super) fn forget_after<T>(&self, result: Result<T, DriverError>) -> Result<T, DriverError> {
        if result.as_ref().is_err_and(DriverError::ends_connection) {
            *self.slot() = None;
        }
        result
    }

    fn slot(&self) -> std::sync::MutexGuard<'_, Option<Connection>> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn dial(&self) -> Result<Docker, bollard::errors::Error> {
        match &self.address {
            Address::Unix(path) => Docker::connect_with_unix(path, CRATE_TIMEOUT_SECONDS, API_DEFAULT_VERSION),
            Address::Tcp(host) => Docker::connect_with_http(host, CRATE_TIMEOUT_SECONDS, API_DEFAULT_VERSION),
        }
    }
}

/// Percent-encodes what goes into a query or a path segment.
pub(super) fn encode(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            const HEX: [char; 16] = ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F'];
            out.extend(['%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        }
        out
    })
}

fn parse(host: &str) -> Result<Address, DriverError> {
    let fault = |problem| DriverError::BadHost { host: host.to_owned(), problem };
    let (scheme, rest) = host.split_once("://").ok_or_else(|| fault("must be unix:///path, tcp://host:port or http://host:port"))?;
    match scheme {
        "unix" if rest.starts_with('/') => Ok(Address::Unix(rest.to_owned())),
        "unix" => Err(fault("must name the socket by an absolute path")),
        "tcp" | "http" => {
            let authority = rest.trim_end_matches('/');
            let port_ok = authority.rsplit_once(':').is_some_and(|(name, port)| !name.is_empty() && port.parse::<u16>().is_ok());
            if port_ok && !authority.contains(['/', '@', '?', '#', ' ']) {
                Ok(Address::Tcp(authority.to_owned()))
            } else {
                Err(fault("must be of the form tcp://host:port"))
            }
        }
        "https" | "ssh" | "npipe" | "fd" => Err(fault("is of a kind that is not supported yet: use unix:///path or tcp://host:port")),
        _ => Err(fault("must be unix:///path, tcp://host:port or http://host:port")),
    }
}

/// The version to speak with an engine that speaks at most `engine`.
fn spoken(engine: &str) -> Option<String> {
    let (major, minor) = engine.split_once('.')?;
    let (major, minor) = (major.parse::<u32>().ok()?, minor.parse::<u32>().ok()?).min(NEWEST_API);
    Some(format!("{major}.{minor}"))
}

/// Sends a request that the crate made elsewhere, and reads its answer as bytes: `export_image` is the crate's call that answers the
/// body as it comes, and the hook sends it to `path` instead.
async fn read_json<T: DeserializeOwned>(docker: &Docker, api: Option<&str>, call: &'static str, path: &str) -> Result<T, DriverError> {
    let target = api.map_or_else(|| path.to_owned(), |api| format!("/v{api}{path}"));
    let docker = docker.clone().with_request_modifier(move |request| with_target(request, &target));
    let chunks = docker.export_image("redirected");
    let read = chunks.map_err(|error| DriverError::from_engine(call, error)).try_fold(Vec::new(), |mut body, chunk| async move {
        if body.len() + chunk.len() > MAX_ANSWER_BYTES {
            return Err(DriverError::Garbled { call, message: format!("it is longer than {MAX_ANSWER_BYTES} bytes") });
        }
        body.extend_from_slice(&chunk);
        Ok(body)
    });
    let body = read.await?;
    serde_json::from_slice(&body).map_err(|error| DriverError::Garbled { call, message: error.to_string() })
}

fn with_prefix(request: BollardRequest, prefix: &str) -> BollardRequest {
    let target = request.uri().path_and_query().map(|target| format!("{prefix}{target}"));
    match target {
        Some(target) => with_target(request, &target),
        None => request,
    }
}

/// Changes path and query. What is not a path is left out: the request then goes where no engine answers with success.
fn with_target(mut request: BollardRequest, target: &str) -> BollardRequest {
    let mut parts = request.uri().clone().into_parts();
    parts.path_and_query = target.parse().ok();
    if let Ok(uri) = parts.try_into() {
        *request.uri_mut() = uri;
    }
    request
}

/// Engines read the login in the URL-safe alphabet and ignore, without a word, what is written in the other one.
fn with_url_safe_login(mut request: BollardRequest) -> BollardRequest {
    if let Some(header) = request.headers_mut().get_mut("x-registry-auth") {
        let safe = header.to_str().map(|text| text.replace('+', "-").replace('/', "_"));
        if let Some(mut value) = safe.ok().and_then(|text| text.parse().ok()) {
            std::mem::swap(header, &mut value);
        }
        header.set_sensitive(true);
    }
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_the_rest_is_named() {
        assert_eq!(parse("unix:///run/docker.sock").ok(), Some(Address::Unix("/run/docker.sock".to_owned())));
        assert_eq!(parse("tcp://10.0.0.1:2375").ok(), Some(Address::Tcp("10.0.0.1:2375".to_owned())));
        assert_eq!(parse("http://[::1]:2375/").ok(), Some(Address::Tcp("[::1]:2375".to_owned())));
        for bad in ["", "/run/docker.sock", "unix://run", "tcp://host", "tcp://:1", "tcp://h:99999", "tcp://u@h:1", "ftp://h:1"] {
            assert!(parse(bad).is_err_and(|error| error.to_string().contains(&format!("{bad:?}"))), "{bad}");
        }
        let tls = parse("https://box:2376").expect_err("TLS").to_string();
        assert!(tls.contains("https://box:2376") && tls.contains("not supported yet"), "{tls}");
    }

    #[test]
    fn the_older_version_is_spoken() {
        assert_eq!(spoken("1.41").as_deref(), Some("1.41"));
        assert_eq!(spoken("1.99").as_deref(), Some("1.51"));
        assert_eq!(spoken("2.0").as_deref(), Some("1.51"));
        assert_eq!(spoken("one"), None);
    }

    #[test]
    fn everything_that_means_something_in_an_address_is_encoded() {
        assert_eq!(encode("a-Z.9_~"), "a-Z.9_~");
        assert_eq!(encode("{\"x\": [é/?&]}"), "%7B%22x%22%3A%20%5B%C3%A9%2F%3F%26%5D%7D");
    }
}
