//! Counts requests, by the route's template: the path that was asked for is anybody's text.

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::Method;
use axum::middleware::{self, Next};
use axum::response::Response;

use crate::http::problem::Refused;
use crate::metrics::{Label, Metrics};

/// The route of everything that no route takes.
const UNMATCHED: &str = "unmatched";

/// Counts all requests to these routes.
pub fn metered(routes: Router, metrics: Arc<Metrics>) -> Router {
    routes.layer(middleware::from_fn_with_state(metrics, count))
}

async fn count(State(metrics): State<Arc<Metrics>>, request: Request, next: Next) -> Response {
    let asked = Instant::now();
    let route = request.extensions().get::<MatchedPath>().map_or(Label::from(UNMATCHED), |path| Label::of_bounded_set(path.as_str()));
    let method = Label::from(method(request.method()));
    let response = next.run(request).await;
    metrics.http_durations.observe([route.clone(), method.clone()], asked.elapsed());
    if let Some(Refused(reason)) = response.extensions().get() {
        metrics.http_refused.count([(*reason).into()]);
    }
    metrics.http_requests.count([route, method, status(response.status().as_u16()).into()]);
    response
}

/// A method may be any word that a client likes.
fn method(method: &Method) -> &'static str {
    let known = [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS];
    let names = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
    known.iter().zip(names).find(|(one, _)| *one == method).map_or("other", |(_, name)| name)
}

fn status(code: u16) -> &'static str {
    match code {
        0..=199 => "1xx",
        200..=299 => "2xx",
        300..=399 => "3xx",
        400..=499 => "4xx",
        500.. => "5xx",
    }
}
