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

/// Refusals in an hour that are written down one by one; more are counted, so that nobody can fill the log by being refused.
const REFUSALS: u32 = 120;
const HOUR: Duration = Duration::from_secs(60 * 60);
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

/// Refusals of the hour that began then.
#[derive(Debug)]
struct Refusals {
    since: Instant,
    count: u32,
}

impl Refusals {
    fn begin() -> Mutex<Self> {
        Mutex::new(Self { since: Instant::now(), count: 0 })
    }

    /// Whether one more is written down, and how many of the hour before were not.
    fn one_more(&mut self) -> Option<u32> {
        let over = self.since.elapsed() >= HOUR;
        let unwritten = if over { self.count.saturating_sub(REFUSALS) } else { 0 };
        if over {
            (self.since, self.count) = (Instant::now(), 0);
        }
        self.count = self.count.saturating_add(1);
        (self.count <= REFUSALS).then_some(unwritten)
    }
}

/// What all requests share.
#[derive(Debug)]
struct Desk {
    log: AuditLog,
    clock: Arc<dyn Clock>,
    /// Of those who show no token that is known, and of those who do: the former shall not hide the latter.
    refusals: [Mutex<Refusals>; 2],
}

impl Desk {
    fn refused(&self, status: StatusCode) -> Option<u32> {
        let [strangers, known] = &self.refusals;
        let refusals = if status == StatusCode::UNAUTHORIZED { strangers } else { known };
        refusals.lock().unwrap_or_else(PoisonError::into_inner).one_more()
    }
}

/// A request that is being answered. One that is left in the middle, because its sender has gone or it took too long, may have been carried out.
struct UnderWay {
    desk: Arc<Desk>,
    found: Found,
    aim: Aim,
    act: Option<Act>,
}

impl UnderWay {
    fn note(&mut self, more: impl FnOnce(Act) -> Option<Act>) {
        let Some(mut act) = self.act.take() else { return };
        act.who = self.found.0.get().cloned().unwrap_or_else(|| "nobody".to_owned());
        if let Some(act) = more(act) {
            self.desk.log.note(act, self.desk.clock.now());
        }
    }

    fn answered(mut self, response: &Response) {
        let status = response.status();
        let unwritten = match kept(self.aim, status) {
            Kept::Not => None,
            Kept::Refusal => self.desk.refused(status),
            Kept::Act => Some(0),
        };
        let detail = unwritten.filter(|unwritten| *unwritten > 0).map(|unwritten| format!("{unwritten} more were refused in the hour before"));
        let target = target(response);
        self.note(|act| unwritten.map(|_| Act { status: Some(status.as_u16()), target: target.or(act.target), detail, ..act }));
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        // Whoever was not known, or had not the right, changed nothing.
        if self.aim == Aim::Changes && self.found.0.get().is_some() {
            self.note(|act| Some(Act { detail: Some("it was broken off, and may have been done".to_owned()), ..act }));
        }
    }
}

/// Surrounds all routes.
pub(super) fn audited(routes: Router, log: AuditLog, clock: Arc<dyn Clock>) -> Router {
    let desk = Arc::new(Desk { log, clock, refusals: [Refusals::begin(), Refusals::begin()] });
    routes.layer(middleware::from_fn(move |mut request: Request, next: Next| {
        let (desk, found, act) = (Arc::clone(&desk), Found::default(), act_of(&request));
        let under_way = UnderWay { desk, found: found.clone(), aim: aim_of(request.method(), &act.act), act: Some(act) };
        request.extensions_mut().insert(found);
        async move {
            let response = next.run(request).await;
            under_way.answered(&response);
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
    async fn refusals_of_an_hour_are_bounded_and_the_rest_is_counted() {
        let mut refusals = Refusals::begin().into_inner().expect("nobody holds it");
        let written = (0..REFUSALS + 40).filter_map(|_| refusals.one_more()).collect::<Vec<_>>();
        assert_eq!(written, vec![0; REFUSALS as usize]);
        tokio::time::advance(HOUR).await;
        assert_eq!((refusals.one_more(), refusals.one_more()), (Some(40), Some(0)));
    }
}
