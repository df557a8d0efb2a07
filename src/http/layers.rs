//! What surrounds every handler: request ids, spans, limits, and answers that are problems even where the framework answers itself.

use std::any::Any;
use std::time::Duration;

use axum::Router;
use axum::body::HttpBody as _;
use axum::extract::{DefaultBodyLimit, MatchedPath, Request};
use axum::http::{HeaderName, HeaderValue, Response as HttpResponse, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::request_id::{MakeRequestUuid, PropagateRequestIdLayer, RequestId, SetRequestIdLayer};
use tower_http::sensitive_headers::SetSensitiveRequestHeadersLayer;
use tower_http::timeout::TimeoutLayer;
use tower_http::trace::TraceLayer;
use tracing::{Span, field};

use super::problem::{PROBLEM_JSON, Problem};
use super::rations::{Hurried, Rations, Room, Traffic};
use crate::domain::MemoryBytes;

/// Longest time from a request's head to its answer's head. An answer that streams may take as long as it likes after that.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// Longest request id that we take over from a client.
const MAX_REQUEST_ID_BYTES: usize = 128;
/// Identifies a request in logs, ours and theirs.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// GitLab's shared secret.
const GITLAB_TOKEN: HeaderName = HeaderName::from_static("x-gitlab-token");

/// Refuses requests beyond those of their kind that may be answered at once, before anything is read of them.
pub fn rationed(routes: Router, rations: Rations) -> Router {
    routes.layer(middleware::from_fn(move |mut request: Request, next: Next| {
        let traffic = Traffic::of(request.method(), request.extensions().get::<MatchedPath>().map(MatchedPath::as_str));
        let room = rations.request(traffic);
        async move {
            let _held = match room {
                Ok(Room::Whole(permit)) => permit,
                Ok(Room::Hurried(permit)) => {
                    request.extensions_mut().insert(Hurried);
                    permit
                }
                Err(problem) => return problem.into_response(),
            };
            next.run(request).await
        }
    }))
}

/// Bounds the bodies of a group of routes, each by what a client announces and by what it sends, and all together by the memory that is for
/// them; `most` is asked for each request.
pub fn limited<S, F>(routes: Router<S>, rations: &Rations, most: F) -> Router<S>
where
    S: Clone + Send + Sync + 'static,
    F: Fn() -> MemoryBytes + Clone + Send + Sync + 'static,
{
    let rations = rations.clone();
    routes.layer(middleware::from_fn(move |mut request: Request, next: Next| {
        let (most, rations) = (most().0, rations.clone());
        async move {
            let announced = request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
            if announced.is_some_and(|bytes| bytes > most) {
                return Problem::from_status(StatusCode::PAYLOAD_TOO_LARGE).into_response();
            }
            // Of a body that is not announced nobody knows more than how long it may be.
            let _held = match rations.body(request.body().size_hint().upper().unwrap_or(most)) {
                Ok(held) => held,
                Err(problem) => return problem.into_response(),
            };
            // What is sent without being announced is cut off by whoever reads it.
            DefaultBodyLimit::max(usize::try_from(most).unwrap_or(usize::MAX)).apply(&mut request);
            next.run(request).await
        }
    }))
}

/// Surrounds all routes.
pub fn surround(routes: Router) -> Router {
    let trace = TraceLayer::new_for_http().make_span_with(span).on_request(()).on_response(answered).on_failure(());
    // Inside out: each wraps those above it.
    routes
        .layer(TimeoutLayer::with_status_code(StatusCode::REQUEST_TIMEOUT, ANSWER_WITHIN))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(middleware::map_response(finish))
        .layer(PropagateRequestIdLayer::new(REQUEST_ID))
        .layer(trace)
        .layer(SetRequestIdLayer::new(REQUEST_ID, MakeRequestUuid))
        .layer(middleware::map_request(drop_odd_request_id))
        .layer(SetSensitiveRequestHeadersLayer::new([header::AUTHORIZATION, GITLAB_TOKEN]))
}

/// An id that could not stand in a log line is replaced by one of ours.
async fn drop_odd_request_id(mut request: Request) -> Request {
    let fit = |id: &HeaderValue| (1..=MAX_REQUEST_ID_BYTES).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic);
    if !request.headers().get(REQUEST_ID).is_none_or(fit) {
        request.headers_mut().remove(REQUEST_ID);
    }
    request
}

/// Named by the route, not by the path that was asked for: that one is anybody's text.
fn span(request: &Request) -> Span {
    let route = request.extensions().get::<MatchedPath>().map_or("unmatched", MatchedPath::as_str);
    let id = request.extensions().get::<RequestId>().and_then(|id| id.header_value().to_str().ok()).unwrap_or_default();
    tracing::info_span!("request", http.method = %request.method(), http.route = route, request.id = id, http.status = field::Empty)
}

fn answered<B>(response: &HttpResponse<B>, latency: Duration, span: &Span) {
    let status = response.status();
    span.record("http.status", status.as_u16());
    let duration_ms = u64::try_from(latency.as_millis()).unwrap_or(u64::MAX);
    if status.is_server_error() {
        tracing::warn!(duration_ms, "answered with {status} after {duration_ms} ms");
    } else {
        tracing::debug!(duration_ms, "answered with {status} after {duration_ms} ms");
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the layer asks for this signature")]
fn panicked(cause: Box<dyn Any + Send + 'static>) -> Response {
    let words = cause.downcast_ref::<String>().map(String::as_str).or_else(|| cause.downcast_ref::<&str>().copied());
    tracing::error!(panic = words.unwrap_or("without words"), "a handler panicked: {}", words.unwrap_or("without words"));
    Problem::Internal.into_response()
}

/// Makes a problem of every error that has no body of ours, and adds what every answer says to browsers.
async fn finish(response: Response) -> Response {
    let status = response.status();
    let is_error = status.is_client_error() || status.is_server_error();
    let content_type = response.headers().get(header::CONTENT_TYPE);
    let ours = content_type.is_some_and(|kind| kind == PROBLEM_JSON || kind == "application/json");
    let mut response = if is_error && !ours { as_problem(&response) } else { response };
    let fixed = [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
    ];
    for (name, value) in fixed {
        response.headers_mut().entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}

fn as_problem(response: &Response) -> Response {
    let mut problem = Problem::from_status(response.status()).into_response();
    if let Some(allow) = response.headers().get(header::ALLOW) {
        problem.headers_mut().insert(header::ALLOW, allow.clone());
    }
    problem
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::routing::get;
    use tower::ServiceExt as _;

    use super::*;

    async fn answer(routes: Router) -> Response {
        let request = Request::builder().uri("/").body(Body::empty()).expect("a request");
        surround(routes).oneshot(request).await.expect("an answer")
    }

    #[tokio::test]
    async fn a_panic_is_a_problem_and_tells_nothing() {
        async fn broken() -> &'static str {
            panic!("the secret is 7")
        }
        let answer = answer(Router::new().route("/", get(broken))).await;
        assert_eq!(
            (answer.status(), &answer.headers()[header::CONTENT_TYPE]),
            (StatusCode::INTERNAL_SERVER_ERROR, &HeaderValue::from_static(PROBLEM_JSON))
        );
        let body = axum::body::to_bytes(answer.into_body(), 1 << 16).await.expect("a body");
        assert!(!String::from_utf8_lossy(&body).contains("secret"));
    }

    #[tokio::test]
    async fn bodies_are_bounded_by_the_limit_in_force_whether_announced_or_not() {
        use std::sync::Arc;
        use std::sync::atomic::{AtomicU64, Ordering};

        let limit = Arc::new(AtomicU64::new(4));
        let most = {
            let limit = Arc::clone(&limit);
            move || MemoryBytes(limit.load(Ordering::Relaxed))
        };
        let routes = surround(limited(Router::new().route("/", axum::routing::post(async |body: bytes::Bytes| body)), &Rations::default(), most));
        let send = async |text: &'static str, announced: bool| {
            let request = Request::builder().method("POST").uri("/");
            let request = if announced { request.header(header::CONTENT_LENGTH, text.len()) } else { request };
            let body = Body::from_stream(futures_util::stream::iter([Ok::<_, std::io::Error>(text)]));
            routes.clone().oneshot(request.body(body).expect("a request")).await.expect("an answer").status()
        };
        for announced in [true, false] {
            limit.store(4, Ordering::Relaxed);
            assert_eq!((send("1234", announced).await, send("12345", announced).await), (StatusCode::OK, StatusCode::PAYLOAD_TOO_LARGE));
            limit.store(5, Ordering::Relaxed);
            assert_eq!(send("12345", announced).await, StatusCode::OK, "announced: {announced}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_answered_in_time_is_a_problem() {
        let answer = answer(Router::new().route("/", get(std::future::pending::<()>))).await;
        assert_eq!(
            (answer.status(), &answer.headers()[header::CONTENT_TYPE]),
            (StatusCode::REQUEST_TIMEOUT, &HeaderValue::from_static(PROBLEM_JSON))
        );
        assert!(answer.headers().contains_key(&REQUEST_ID));
    }
}
