//! What a handler takes from a request: a body that is checked JSON, and the right of the caller.

use std::net::IpAddr;
use std::time::Instant;

use axum::extract::{FromRef, FromRequest, FromRequestParts, OptionalFromRequest, Request};
use axum::http::request::Parts;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, Uri, header};
use bytes::Bytes;
use serde::de::{DeserializeOwned, IgnoredAny};

use super::audit::{From, found};
use super::pace::Caller;
use super::problem::{Problem, quoted};
use super::state::AppState;
use crate::config::Role;
use crate::domain::FieldFault;
use crate::security::{Access, Principal};

/// A JSON body, with its bytes for those who must tell one from another.
#[derive(Debug)]
pub struct JsonBody<T> {
    /// What it says.
    pub value: T,
    /// As it was sent.
    pub bytes: Bytes,
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for JsonBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        if !is_json(request.headers()) {
            return Err(Problem::WrongContentType);
        }
        let bytes = body_bytes(request, state).await?;
        let value = from_json(&bytes)?;
        Ok(Self { value, bytes })
    }
}

/// A body that may be left out: then there is no content type either, or nothing of that type.
impl<S: Send + Sync, T: DeserializeOwned> OptionalFromRequest<S> for JsonBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Option<Self>, Problem> {
        let json = is_json(request.headers());
        let bytes = body_bytes(request, state).await?;
        // JSON's word for nothing is as good as nothing.
        match (bytes.is_empty() || bytes.trim_ascii() == b"null" && json, json) {
            (true, _) => Ok(None),
            (false, true) => Ok(Some(Self { value: from_json(&bytes)?, bytes })),
            (false, false) => Err(Problem::WrongContentType),
        }
    }
}

/// The whole body; how long it may be is the business of the layers.
///
/// # Errors
/// When it is too long, or breaks off.
pub async fn body_bytes<S: Send + Sync>(request: Request, state: &S) -> Result<Bytes, Problem> {
    Bytes::from_request(request, state).await.map_err(|rejection| Problem::from_status(rejection.status()))
}

/// `application/json`, with whatever parameters, or a type that is JSON by its suffix.
fn is_json(headers: &HeaderMap) -> bool {
    let Some(given) = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()) else { return false };
    let essence = given.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
}

/// Reads JSON and names the field at fault by its dotted path.
fn from_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        // An array would be taken for the fields in their order.
        serde_json::from_slice::<IgnoredAny>(bytes).map_err(|error| Problem::not_json(&error))?;
        return Err(Problem::field("body", "must be a JSON object"));
    }
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        let inner = error.into_inner();
        if inner.is_data() { Problem::InvalidFields(vec![fault_at(&path, &inner)]) } else { Problem::not_json(&inner) }
    })?;
    reader.end().map_err(|error| Problem::not_json(&error))?;
    Ok(value)
}

fn fault_at(path: &str, error: &serde_json::Error) -> FieldFault {
    let message = error.to_string();
    // Of these two the path names only what the field is in.
    let inside = ["missing field `", "duplicate field `"].iter().find_map(|start| message.strip_prefix(start)?.split('`').next());
    let field = match (path, inside) {
        (".", None) => "body".to_owned(),
        (".", Some(field)) => field.to_owned(),
        (path, None) => path.to_owned(),
        (path, Some(field)) => format!("{path}.{field}"),
    };
    let without_position = message.rsplit_once(" at line ").map_or(message.as_str(), |(text, _)| text);
    FieldFault::new(quoted(&field), format!("is not what is needed: {}", quoted(without_position)))
}

/// A caller who may look.
#[derive(Debug, Clone, Copy)]
pub struct Viewer;

/// Marks requests that came through the Unix socket: the mode of its file let their sender in, and no browser gets there. Only whoever
/// serves the socket can put it on a request; nothing that a client sends does.
#[derive(Debug, Clone, Copy)]
pub(super) struct ThroughSocket;

/// A caller who may change things.
#[derive(Debug, Clone)]
pub struct Operator {
    /// The name of the caller's token; `None` where no tokens are configured, and through the Unix socket.
    pub name: Option<String>,
}

impl<S: Send + Sync> FromRequestParts<S> for Viewer
where
    AppState: FromRef<S>,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        require(Role::Viewer, parts, &AppState::from_ref(state)).map(|_| Self)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Operator
where
    AppState: FromRef<S>,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        require(Role::Operator, parts, &AppState::from_ref(state)).map(|name| Self { name })
    }
}

/// The name of the caller's token, if it may do what is asked.
fn require(needs: Role, parts: &Parts, state: &AppState) -> Result<Option<String>, Problem> {
    match who(parts, state)? {
        Some(known) if known.role < needs => Err(Problem::Forbidden { needs }),
        known => Ok(known.map(|known| known.name)),
    }
}

/// The caller, by their token; `None` of one who needs none.
pub(super) fn who(parts: &Parts, state: &AppState) -> Result<Option<Principal>, Problem> {
    if parts.extensions.get::<ThroughSocket>().is_some() {
        found(parts, || "socket".to_owned());
        return Ok(None);
    }
    let access = state.security.access(bearer(&parts.headers));
    if access == Access::Open {
        // The configuration serves loopback only then. A page in a browser of this machine could still reach us through a name of its
        // own that resolves here, and would say so in `Host`.
        return match (names_this_machine(&parts.headers, &parts.uri), is_of_another_site(&parts.headers)) {
            (true, false) => {
                found(parts, || "loopback".to_owned());
                Ok(None)
            }
            (false, _) | (true, true) => Err(Problem::ForeignHost),
        };
    }
    if let Access::Known(known) = &access {
        found(parts, || format!("token:{}", known.name));
    }
    let count = |caller| state.pace.count(caller, &state.config.current().limits, Instant::now()).map_err(Problem::TooFast);
    match access {
        Access::Known(known) => {
            count(Caller::Token(known.name.clone()))?;
            Ok(Some(known))
        }
        Access::Open | Access::Unknown => {
            if let Some(From(ip)) = parts.extensions.get() {
                count(Caller::stranger(*ip))?;
            }
            Err(Problem::Unauthorized)
        }
    }
}

/// The bearer token that a request brings.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let given = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = given.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Whether a browser says that a page of another site sends the request: that page's reader did not mean to.
fn is_of_another_site(headers: &HeaderMap) -> bool {
    let told = |name| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    if let Some(site) = told("sec-fetch-site") {
        return !matches!(site, "same-origin" | "none");
    }
    // An older browser; others than browsers send no such header.
    let origin = told("origin").map(|origin| origin.split_once("://").map(|(_, authority)| authority));
    origin.is_some_and(|authority| authority.is_none() || authority != told("host"))
}

/// Whether the request names its server as `localhost` or a loopback address, or not at all.
fn names_this_machine(headers: &HeaderMap, uri: &Uri) -> bool {
    let Some(host) = headers.get(header::HOST).map(|value| value.to_str().unwrap_or_default()).or_else(|| uri.host()) else { return true };
    let Ok(authority) = host.parse::<Authority>() else { return false };
    let name = authority.host().trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only read into")]
    struct Body {
        count: Option<u32>,
        env: Option<BTreeMap<String, String>>,
        inner: Option<Inner>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only read into")]
    struct Inner {
        size: Vec<u8>,
    }

    #[test]
    fn the_field_at_fault_is_named() {
        let fault = |text: &str| match from_json::<Body>(text.as_bytes()) {
            Err(Problem::InvalidFields(faults)) => faults[0].to_string(),
            other => format!("{other:?}"),
        };
        let bodies = [
            r#"{"count":-1}"#,
            r#"{"count":1.5}"#,
            r#"{"env":{"A":7}}"#,
            r#"{"inner":{"size":[1,"x"]}}"#,
            r#"{"inner":{"colour":1}}"#,
            r#"{"inner":{}}"#,
            r#"{"colour":1}"#,
            r#"{"count":1,"count":2}"#,
            "[]",
            "7",
        ];
        insta::assert_snapshot!(bodies.map(|body| format!("{body}\n    {}", fault(body))).join("\n"));
    }

    #[test]
    fn what_is_not_json_is_not_a_faulty_field() {
        for text in ["", "{", "{\"count\":1}}", "count=1", "{\"count\":1e999}", "\u{feff}{}", "{\"count\":01}"] {
            assert!(matches!(from_json::<Body>(text.as_bytes()), Err(Problem::NotJson { .. })), "{text:?}");
        }
        assert!(matches!(from_json::<Body>(b"{\"\xff\":1}"), Err(Problem::NotJson { .. } | Problem::InvalidFields(_))));
    }

    #[test]
    fn only_names_of_this_machine_are_served_without_tokens() {
        let named = |host: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, host.parse().expect("a header"));
            names_this_machine(&headers, &Uri::from_static("/jobs"))
        };
        for good in ["localhost", "LOCALHOST:8080", "127.0.0.1:8080", "127.8.8.8", "[::1]:8080", "[::1]"] {
            assert!(named(good), "{good}");
        }
        for bad in [
            "evil.example",
            "localhost.evil.example:8080",
            "127.0.0.1.evil.example",
            "192.168.1.7:8080",
            "[::2]",
            "",
            "[::1",
            "x:localhost",
            "localhost@evil.example",
        ] {
            assert!(!named(bad), "{bad}");
        }
        assert!(names_this_machine(&HeaderMap::new(), &Uri::from_static("/jobs")));
    }

    proptest! {
        #[test]
        fn no_body_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = from_json::<Body>(&bytes);
        }
    }
}
