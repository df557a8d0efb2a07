//! Speaks to the running daemon: one request on a connection of its own, in HTTP/1.0, which needs no more than this file. For anything but
//! the daemon's own plain listener on this machine a real client has to be used.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{fail, say};
use crate::config::Config;

/// How long the daemon may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// Longest answer that is read, in bytes.
const MAX_ANSWER: u64 = 16 << 20;

/// Where the daemon is, who asks, and how the answer is printed.
#[derive(Debug, Args)]
pub(super) struct Target {
    /// A bearer token of the API, where the daemon asks for one.
    #[arg(long, env = "RUNNER_COORDINATOR_API_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    token: Option<SecretString>,
    /// Print the daemon's answer as JSON.
    #[arg(long, global = true)]
    json: bool,
}

impl Target {
    /// Prints an answer: as it is where that was asked for, else as `lines`.
    pub(super) fn tell(&self, answer: Result<Value, ClientError>, lines: fn(&Value) -> Vec<String>) -> ExitCode {
        match answer {
            Ok(answer) if self.json => say(&answer.to_string()),
            Ok(answer) => say(&lines(&answer).join("\n")),
            Err(error) => return fail(&error),
        }
        ExitCode::SUCCESS
    }
}

/// Why there is no good answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    /// Nobody listens, or it broke off.
    #[error("the daemon at {address} cannot be reached; is it running with this configuration?")]
    Unreachable {
        address: SocketAddr,
        #[source]
        source: std::io::Error,
    },
    /// It took too long.
    #[error("the daemon at {0} did not answer in time")]
    Silent(SocketAddr),
    /// It is not our daemon.
    #[error("what listens at {0} does not answer as the daemon would")]
    Strange(SocketAddr),
    /// The token cannot be sent.
    #[error("the token has characters that no token has")]
    Token,
    /// It refused.
    #[error("{status}: {detail}")]
    Refused { status: u16, detail: String },
}

/// Sends a request and answers with the body of a good answer.
pub(super) async fn call(config: &Config, target: &Target, method: &str, path: &str, body: Option<&Value>) -> Result<Value, ClientError> {
    let address = reachable(config.http.listen);
    let request = request(method, path, target.token.as_ref().map(SecretString::expose_secret), body)?;
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(MAX_ANSWER).read_to_end(&mut answer).await?;
        Ok(answer)
    };
    let answer = tokio::time::timeout(PATIENCE, exchange).await.map_err(|_| ClientError::Silent(address))?;
    let answer = answer.map_err(|source| ClientError::Unreachable { address, source })?;
    let (status, body) = parts(&answer).ok_or(ClientError::Strange(address))?;
    if (200..300).contains(&status) {
        return Ok(body);
    }
    let detail = body["detail"].as_str().or(body["title"].as_str()).unwrap_or("no reason was given").to_owned();
    Err(ClientError::Refused { status, detail })
}

/// A daemon that listens everywhere is met on this machine.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

fn request(method: &str, path: &str, token: Option<&str>, body: Option<&Value>) -> Result<String, ClientError> {
    let mut head = format!("{method} {path} HTTP/1.0\r\nhost: localhost\r\naccept: application/json\r\n");
    if let Some(token) = token {
        if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(ClientError::Token);
        }
        head.extend(["authorization: Bearer ", token, "\r\n"]);
    }
    let body = body.map(ToString::to_string).unwrap_or_default();
    if !body.is_empty() {
        head.push_str("content-type: application/json\r\n");
    }
    Ok(format!("{head}content-length: {}\r\n\r\n{body}", body.len()))
}

/// Status and body; a body that is no JSON is `null`.
fn parts(answer: &[u8]) -> Option<(u16, Value)> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let (head, body) = answer.split_at(end);
    let line = std::str::from_utf8(head).ok()?.lines().next()?;
    let mut words = line.split(' ');
    words.next().filter(|version| version.starts_with("HTTP/1."))?;
    let status = words.next()?.parse().ok()?;
    Some((status, serde_json::from_slice(body).unwrap_or(Value::Null)))
}

/// A text as one segment of a path.
pub(super) fn segment(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~');
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_request_is_whole_and_no_token_breaks_out_of_it() {
        let text = request("POST", "/gpus/a/quarantine", Some("rca-x"), Some(&json!({"reason": "é"}))).expect("a request");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        assert!(head.starts_with("POST /gpus/a/quarantine HTTP/1.0\r\n") && head.contains("\r\nauthorization: Bearer rca-x\r\n"), "{head}");
        assert!(head.ends_with(&format!("content-length: {}", body.len())) && head.contains("content-type: application/json"), "{head}");
        assert!(request("GET", "/", None, None).expect("a request").ends_with("content-length: 0\r\n\r\n"));
        assert!(matches!(request("GET", "/", Some("a\r\nb: c"), None), Err(ClientError::Token)));
    }

    #[test]
    fn answers_are_taken_apart_and_others_are_strange() {
        assert_eq!(parts(b"HTTP/1.0 404 Not Found\r\na: b\r\n\r\n{\"detail\":\"x\"}"), Some((404, json!({"detail": "x"}))));
        assert_eq!(parts(b"HTTP/1.1 200 OK\r\n\r\n"), Some((200, Value::Null)));
        for strange in [&b""[..], b"SSH-2.0-x\r\n\r\n", b"HTTP/1.0\r\n\r\n", b"HTTP/1.0 200 OK\r\n"] {
            assert_eq!(parts(strange), None, "{strange:?}");
        }
        let at = |text: &str| reachable(text.parse().expect("an address")).to_string();
        assert_eq!([at("0.0.0.0:80"), at("[::]:80"), at("10.0.0.1:8")], ["127.0.0.1:80", "[::1]:80", "10.0.0.1:8"]);
    }

    proptest! {
        #[test]
        fn a_segment_is_one_and_reads_back(text in ".{0,40}") {
            let segment = segment(&text);
            prop_assert!(segment.bytes().all(|byte| byte.is_ascii_graphic() && !b"/?# ".contains(&byte)));
            let mut bytes = segment.bytes();
            let mut back = Vec::new();
            while let Some(byte) = bytes.next() {
                let hex = |bytes: &mut std::str::Bytes<'_>| char::from(bytes.next().expect("a digit")).to_digit(16).expect("hexadecimal");
                back.push(if byte == b'%' { u8::try_from(hex(&mut bytes) * 16 + hex(&mut bytes)).expect("a byte") } else { byte });
            }
            prop_assert_eq!(back, text.into_bytes());
        }

        #[test]
        fn no_answer_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parts(&bytes);
        }
    }
}
