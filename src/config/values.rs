//! How single values are read from text. Each function gets the dotted key and names it in its fault; none repeats the value.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use secrecy::{ExposeSecret as _, SecretSlice, SecretString};

use super::{BrokerListen, DatabaseUrl, StoreUrl};
use crate::domain::{FieldFault, HostId, read_duration};

/// Length of the key that signs webhooks.
const SIGNING_KEY_BYTES: usize = 32;

/// Longest path of a Unix socket.
const MAX_SOCKET_BYTES: usize = 96;

/// A second.
pub(super) const SECOND: Duration = Duration::from_secs(1);
/// An hour.
pub(super) const HOUR: Duration = Duration::from_secs(60 * 60);
/// A day.
pub(super) const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A time such as `15s`, `5m` or `1h 30m`, within `range`.
pub(super) fn duration(range: RangeInclusive<Duration>) -> impl Fn(&str, &str) -> Result<Duration, FieldFault> {
    move |field, text| {
        let (least, most) = (humantime::format_duration(*range.start()), humantime::format_duration(*range.end()));
        let fault = || FieldFault::new(field, format!("must be a time such as 15s, 5m or 1h from {least} to {most}"));
        read_duration(text).filter(|time| range.contains(time)).ok_or_else(fault)
    }
}

/// One of `all`, by its name.
pub(super) fn choice<T: Copy>(all: &[T], name: fn(T) -> &'static str) -> impl Fn(&str, &str) -> Result<T, FieldFault> {
    move |field, text| {
        let names = || all.iter().map(|one| name(*one)).collect::<Vec<_>>().join(", ");
        all.iter().copied().find(|one| name(*one) == text).ok_or_else(|| FieldFault::new(field, format!("must be one of {}", names())))
    }
}

/// A project of GitLab: its full path or its id.
pub(super) fn is_project(text: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/');
    let is_path = text.contains('/') && text.len() <= 1024 && text.chars().all(legal) && text.split('/').all(|part| !part.is_empty());
    is_path || text.parse::<u64>().is_ok_and(|id| id > 0)
}

/// A short printable name.
pub(super) fn name(field: &str, text: &str) -> Result<String, FieldFault> {
    if text.trim().is_empty() || text.len() > 128 || text.chars().any(char::is_control) {
        return Err(FieldFault::new(field, "must be 1 to 128 bytes without control characters"));
    }
    Ok(text.to_owned())
}

/// A directory by its whole path.
pub(super) fn root(field: &str, text: &str) -> Result<PathBuf, FieldFault> {
    let path = PathBuf::from(text);
    let good = path.is_absolute() && !text.contains('\0');
    if good { Ok(path) } else { Err(FieldFault::new(field, "must be a path that begins with /")) }
}

/// A Unix socket by its whole path. The kernel takes 107 bytes, of which some are left for the name under which it is made.
pub(super) fn socket(field: &str, text: &str) -> Result<PathBuf, FieldFault> {
    let fault = FieldFault::new(field, format!("must be a path of at most {MAX_SOCKET_BYTES} bytes that begins with / and names a file"));
    let names_a_file = !matches!(text.rsplit('/').next(), None | Some("" | "." | ".."));
    let good = text.len() <= MAX_SOCKET_BYTES && names_a_file;
    if good { root(field, text).map_err(|_| fault) } else { Err(fault) }
}

/// A library: a whole path, or a plain name that the loader looks up.
pub(super) fn library(field: &str, text: &str) -> Result<PathBuf, FieldFault> {
    let good = !text.is_empty() && !text.contains('\0') && (text.starts_with('/') || !text.contains('/'));
    if good { Ok(PathBuf::from(text)) } else { Err(FieldFault::new(field, "must be a path that begins with /, or a library's plain name")) }
}

/// A program: a whole path, or a plain name that is looked up in `PATH`.
pub(super) fn program(field: &str, text: &str) -> Result<PathBuf, FieldFault> {
    library(field, text).map_err(|_| FieldFault::new(field, "must be a path that begins with /, or a program's plain name"))
}

/// A machine's name as labels and paths of the API can carry it.
pub(super) fn host_name(field: &str, text: &str) -> Result<HostId, FieldFault> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let first = text.chars().next().is_some_and(|c| c.is_ascii_alphanumeric());
    if first && text.len() <= 253 && text.chars().all(legal) {
        return Ok(HostId::from_trusted(text));
    }
    Err(FieldFault::new(field, "must be 1 to 253 letters, digits, '.', '_' or '-', beginning with a letter or digit"))
}

/// The name of an engine's runtime.
pub(super) fn runtime(field: &str, text: &str) -> Result<String, FieldFault> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if !text.starts_with(|c: char| c.is_ascii_alphanumeric()) || text.len() > 128 || !text.chars().all(legal) {
        return Err(FieldFault::new(field, "must be the name of a runtime of the engine, such as runc or runsc"));
    }
    Ok(text.to_owned())
}

/// A base URL without user, query and fragment. Slashes at its end are cut off.
pub(super) fn base_url(field: &str, text: &str) -> Result<String, FieldFault> {
    let fault = || FieldFault::new(field, "must be an http:// or https:// URL without user name, query or fragment");
    let trimmed = text.trim_end_matches('/');
    let rest = trimmed.strip_prefix("https://").or_else(|| trimmed.strip_prefix("http://")).ok_or_else(fault)?;
    let authority = rest.split('/').next().unwrap_or_default();
    let visible = trimmed.chars().all(|c| c.is_ascii_graphic() && !matches!(c, '?' | '#' | '\\' | '"' | '<' | '>'));
    if visible && is_authority(authority) { Ok(trimmed.to_owned()) } else { Err(fault()) }
}

/// `host`, `host:port`, `[address]` or `[address]:port`, with no user before it.
fn is_authority(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, after)) if address.parse::<std::net::Ipv6Addr>().is_ok() => ("v6", after),
            _ => return false,
        },
        None => text.split_at(text.find(':').unwrap_or(text.len())),
    };
    let label = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let port_ok = port.is_empty() || port.strip_prefix(':').is_some_and(|p| p.parse::<u16>().is_ok_and(|p| p > 0));
    !host.is_empty() && host.chars().all(label) && port_ok
}

/// A registry as image references name it: host and perhaps port.
pub(super) fn registry(field: &str, text: &str) -> Result<String, FieldFault> {
    if is_authority(text) {
        return Ok(text.to_owned());
    }
    Err(FieldFault::new(field, "must be the registry's host and perhaps port, such as registry.example.com:5000, without https://"))
}

/// The engine's address.
pub(super) fn docker_host(field: &str, text: &str) -> Result<String, FieldFault> {
    let remote = text.strip_prefix("tcp://").or_else(|| text.strip_prefix("http://")).map(|rest| rest.trim_end_matches('/'));
    let local = text.strip_prefix("unix://");
    if remote.is_some_and(is_authority) || local.is_some_and(|path| path.starts_with('/') && !path.contains('\0')) {
        return Ok(text.to_owned());
    }
    Err(FieldFault::new(field, "must be unix:///path, tcp://host:port or http://host:port"))
}

/// The queue's place. A relative path counts from `data_dir`.
pub(super) fn store_url(data_dir: &std::path::Path) -> impl Fn(&str, &str) -> Result<StoreUrl, FieldFault> {
    move |field, text| {
        if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            return match text.split_once('@') {
                Some((before, rest)) if !before.ends_with('/') && !rest.is_empty() && !text.contains(['\0', ' ']) => {
                    Ok(StoreUrl::Postgres(DatabaseUrl::new(SecretString::from(text))))
                }
                _ => Err(FieldFault::new(field, "must be postgres://USER:PASSWORD@HOST:PORT/DATABASE")),
            };
        }
        let path = text.strip_prefix("sqlite:").map(|path| path.strip_prefix("//").unwrap_or(path));
        match path {
            Some(path) if !path.is_empty() && !path.starts_with(':') && !path.contains(['\0', '?']) => {
                Ok(StoreUrl::Sqlite(data_dir.join(PathBuf::from(path))))
            }
            _ => Err(FieldFault::new(field, "must be sqlite:PATH or postgres://USER:PASSWORD@HOST:PORT/DATABASE")),
        }
    }
}

/// Where the broker listens.
pub(super) fn broker_listen(field: &str, text: &str) -> Result<BrokerListen, FieldFault> {
    let fault = || FieldFault::new(field, "must be gateway, gateway:PORT or ADDRESS:PORT, with a port above 0");
    let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0);
    if text == "gateway" {
        return Ok(BrokerListen::Gateway { port: BrokerListen::DEFAULT_PORT });
    }
    if let Some(text) = text.strip_prefix("gateway:") {
        return port(text).map(|port| BrokerListen::Gateway { port }).ok_or_else(fault);
    }
    text.parse().map(BrokerListen::Address).map_err(|_| fault())
}

/// An address and port.
pub(super) fn address(field: &str, text: &str) -> Result<SocketAddr, FieldFault> {
    text.parse().map_err(|_| FieldFault::new(field, "must be ADDRESS:PORT such as 127.0.0.1:8080 or [::1]:8080"))
}

/// A SHA-256 in 64 hexadecimal digits.
pub(super) fn sha256(field: &str, text: &str) -> Result<[u8; 32], FieldFault> {
    let fault = || FieldFault::new(field, "must be a SHA-256 in 64 hexadecimal digits, as `token new` prints it");
    let mut digest = [0; 32];
    if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(fault());
    }
    for (byte, digits) in digest.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let digits = std::str::from_utf8(digits).map_err(|_| fault())?;
        *byte = u8::from_str_radix(digits, 16).map_err(|_| fault())?;
    }
    Ok(digest)
}

/// The key in a signing token of GitLab's webhooks: `whsec_` and the base64 of 32 bytes, the only form that GitLab takes.
pub(super) fn signing_key(field: &str, token: &SecretString) -> Result<SecretSlice<u8>, FieldFault> {
    let fault = || FieldFault::new(field, "must be a signing token as GitLab makes it: whsec_ and the base64 of 32 bytes");
    let encoded = token.expose_secret().strip_prefix("whsec_").ok_or_else(fault)?;
    let key = SecretSlice::from(BASE64.decode(encoded).map_err(|_| fault())?);
    if key.expose_secret().len() == SIGNING_KEY_BYTES { Ok(key) } else { Err(fault()) }
}

/// `UID:GID`, both numbers above 0. A name would be looked up in the image, which may call root by any name.
pub(super) fn user(field: &str, text: &str) -> Result<String, FieldFault> {
    let id = |text: &str| text.bytes().all(|b| b.is_ascii_digit()) && text.parse::<u32>().is_ok_and(|id| (1..=i32::MAX.unsigned_abs()).contains(&id));
    match text.split_once(':') {
        Some((user, group)) if id(user) && id(group) => Ok(text.to_owned()),
        _ => Err(FieldFault::new(field, "must be UID:GID in numbers such as 65532:65532, neither of them 0 (root)")),
    }
}

#[cfg(test)]
#[path = "values_tests.rs"]
mod tests;
