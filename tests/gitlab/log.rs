//! The record of requests to the runner API, and failures injected into it.

use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use ring::digest::{SHA256, digest};

use super::state::{Shared, hex};

/// Largest JSON body whose token is looked at.
const MAX_JSON_BYTES: usize = 4 << 20;

/// One request to `/api/v4`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RequestRecord {
    /// HTTP method.
    pub(crate) method: String,
    /// Path without the query.
    pub(crate) path: String,
    /// Status of the answer.
    pub(crate) status: u16,
    /// [`fingerprint`] of the token the request carried.
    pub(crate) token: Option<String>,
}

/// Answers that are to be given instead of real ones.
#[derive(Debug, Clone)]
pub(super) struct Fault {
    /// Method of the requests to hit.
    pub(super) method: Method,
    /// Text that their path ends with.
    pub(super) path_end: String,
    /// Status to answer with.
    pub(super) status: StatusCode,
    /// How many more requests to hit.
    pub(super) times: u32,
}

/// A short name for a token, so that a log or a failed assertion never shows the token itself.
pub(crate) fn fingerprint(token: &str) -> String {
    let hash = digest(&SHA256, token.as_bytes());
    hex(&hash.as_ref()[..6])
}

/// Middleware: injects failures, and writes down what was asked and answered.
pub(super) async fn record(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let (request, token) = match with_token(request).await {
        Ok(found) => found,
        Err(refusal) => return *refusal,
    };
    let fault = shared.write(|inner| {
        let hit = |fault: &&mut Fault| fault.times > 0 && fault.method == method && path.ends_with(&fault.path_end);
        inner.faults.iter_mut().find(hit).map(|fault| {
            fault.times -= 1;
            fault.status
        })
    });
    let response = match fault {
        Some(status) => status.into_response(),
        None => next.run(request).await,
    };
    let record = RequestRecord { method: method.to_string(), path, status: response.status().as_u16(), token: token.as_deref().map(fingerprint) };
    shared.write(|inner| inner.requests.push(record));
    response
}

/// The token that a request's headers carry.
pub(super) fn header_token(headers: &HeaderMap) -> Option<String> {
    ["job-token", "runner-token", "private-token"].iter().find_map(|name| headers.get(*name)?.to_str().ok()).map(str::to_owned)
}

/// Finds the token in the headers or in a JSON body, and gives the request back whole.
async fn with_token(request: Request) -> Result<(Request, Option<String>), Box<Response>> {
    let json = request.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
    let token = header_token(request.headers());
    if token.is_some() || !json {
        return Ok((request, token));
    }
    let (parts, body) = request.into_parts();
    let bytes = to_bytes(body, MAX_JSON_BYTES).await.map_err(|_| Box::new(StatusCode::PAYLOAD_TOO_LARGE.into_response()))?;
    let token = serde_json::from_slice::<serde_json::Value>(&bytes).ok().and_then(|value| value.get("token")?.as_str().map(str::to_owned));
    Ok((Request::from_parts(parts, Body::from(bytes)), token))
}
