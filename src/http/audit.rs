//! Writes down in the audit log what was changed through the API and who was refused: every request that changes something and was not at fault
//! itself, and every one that was told to show a token or lacked the right. By method and route, so that no new route can be forgotten.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::{MatchedPath, Request};
use axum::http::request::Parts;
use axum::http::{Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::Response;
use tokio::time::Instant;
use tower_http::request_id::RequestId;

use super::extract::ThroughSocket;
use crate::domain::Clock;
use crate::security::audit::{Act, AuditLog};

/// Refusals in a minute that are written down one by one; more are counted, so that nobody can fill the log by being refused.
const REFUSALS: u32 = 60;
const MINUTE: Duration = Duration::from_secs(60);
/// Longest path that is written down.
const MOST_PATH: usize = 256;

/// The address that a request came from; the server puts it on the request.
#[derive(Debug, Clone, Copy)]
pub(super) struct From(pub(super) IpAddr);

/// Who sends the request, as far as the handler found out.
#[derive(Debug, Clone, Default)]
struct Found(Arc<OnceLock<String>>);

/// Says who sends a request.
pub(super) fn found(parts: &Parts, who: impl FnOnce() -> String) {
    if let Some(Found(cell)) = parts.extensions.get::<Found>() {
        cell.get_or_init(who);
    }
}

/// Refusals of the minute that began then.
#[derive(Debug)]
struct Refusals {
    since: Instant,
    count: u32,
}

impl Refusals {
    /// Whether one more is written down, and how many of the minute before were not.
    fn one_more(&mut self) -> Option<u32> {
        let over = self.since.elapsed() >= MINUTE;
        let unwritten = if over { self.count.saturating_sub(REFUSALS) } else { 0 };
        if over {
            (self.since, self.count) = (Instant::now(), 0);
        }
        self.count = self.count.saturating_add(1);
        (self.count <= REFUSALS).then_some(unwritten)
    }
}

/// Surrounds all routes.
pub(super) fn audited(routes: Router, log: AuditLog, clock: Arc<dyn Clock>) -> Router {
    let refusals = Arc::new(Mutex::new(Refusals { since: Instant::now(), count: 0 }));
    routes.layer(middleware::from_fn(move |mut request: Request, next: Next| {
        let (log, clock, refusals) = (log.clone(), Arc::clone(&clock), Arc::clone(&refusals));
        async move {
            let found = Found::default();
            let mut act = act_of(&request);
            let aim = aim_of(request.method(), &act.act);
            request.extensions_mut().insert(found.clone());
            let response = next.run(request).await;
            let unwritten = match kept(aim, response.status()) {
                Kept::Not => return response,
                Kept::Refusal => match refusals.lock().unwrap_or_else(PoisonError::into_inner).one_more() {
                    Some(unwritten) => unwritten,
                    None => return response,
                },
                Kept::Act => 0,
            };
            act.who = found.0.get().cloned().unwrap_or_else(|| "nobody".to_owned());
            act.status = Some(response.status().as_u16());
            act.target = target(&response).or(act.target);
            act.detail = (unwritten > 0).then(|| format!("{unwritten} more were refused in the minute before"));
            log.note(act, clock.now());
            response
        }
    }))
}

/// GitLab's bell: what it changes is told in the history of jobs, and it rings all day. Who rings without the secret is told.
const BELL: &str = "POST /webhook/job";

/// What a request is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Aim {
    Changes,
    Looks,
}

fn aim_of(method: &Method, act: &str) -> Aim {
    if [Method::GET, Method::HEAD, Method::OPTIONS].contains(method) || act == BELL { Aim::Looks } else { Aim::Changes }
}

#[derive(Debug, PartialEq, Eq)]
enum Kept {
    Not,
    Act,
    Refusal,
}

/// A request at fault changes nothing; one whose answer is an error of ours may have.
fn kept(aim: Aim, status: StatusCode) -> Kept {
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Kept::Refusal,
        status if aim == Aim::Changes && !status.is_client_error() => Kept::Act,
        _ => Kept::Not,
    }
}

fn act_of(request: &Request) -> Act {
    let route = request.extensions().get::<MatchedPath>().map_or("unmatched", MatchedPath::as_str);
    let from = match request.extensions().get::<From>() {
        Some(From(ip)) => Some(ip.to_string()),
        None => request.extensions().get::<ThroughSocket>().map(|_| "socket".to_owned()),
    };
    let id = request.extensions().get::<RequestId>().and_then(|id| id.header_value().to_str().ok()).map(str::to_owned);
    let path = request.uri().path();
    Act { act: format!("{} {route}", request.method()), from, target: Some(path.chars().take(MOST_PATH).collect()), request: id, ..Act::default() }
}

/// What was made by a request: its answer says where it is.
fn target(response: &Response) -> Option<String> {
    response.headers().get(header::LOCATION)?.to_str().ok().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changed_something_or_was_refused_is_kept() {
        use StatusCode as S;
        for status in [S::OK, S::ACCEPTED, S::INTERNAL_SERVER_ERROR, S::SERVICE_UNAVAILABLE] {
            assert_eq!((kept(Aim::Changes, status), kept(Aim::Looks, status)), (Kept::Act, Kept::Not), "{status}");
        }
        for status in [S::BAD_REQUEST, S::NOT_FOUND, S::CONFLICT, S::UNPROCESSABLE_ENTITY, S::TOO_MANY_REQUESTS] {
            assert_eq!((kept(Aim::Changes, status), kept(Aim::Looks, status)), (Kept::Not, Kept::Not), "{status}");
        }
        for status in [S::UNAUTHORIZED, S::FORBIDDEN] {
            assert_eq!((kept(Aim::Changes, status), kept(Aim::Looks, status)), (Kept::Refusal, Kept::Refusal), "{status}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn refusals_of_a_minute_are_bounded_and_the_rest_is_counted() {
        let mut refusals = Refusals { since: Instant::now(), count: 0 };
        let written = (0..REFUSALS + 40).filter_map(|_| refusals.one_more()).collect::<Vec<_>>();
        assert_eq!(written, vec![0; REFUSALS as usize]);
        tokio::time::advance(MINUTE).await;
        assert_eq!((refusals.one_more(), refusals.one_more()), (Some(40), Some(0)));
    }
}
