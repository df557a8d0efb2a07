//! What a runner sends: one or more requests with a line `%%` between them, by the router that runners reach.
//!
//! A request is `METHOD PATH`, headers, an empty line and the body. `@runner` stands for the runner's own token. A header `gitlab:` is what
//! GitLab answers to it: `STATUS NAME=VALUE …`; without one GitLab thinks for itself.
//!
//! What must hold: no request is answered by an error of ours; without a token nothing reaches GitLab, and with one only the runner's own
//! job does; and where GitLab was its own master, the job's log here is byte for byte the trace that GitLab holds.

use axum::body::Body;
use axum::http::{Request, StatusCode};
use futures_util::TryStreamExt as _;
use http_body_util::BodyExt as _;
use runner_coordinator::gitlab::{Relay, RelayHeaders};
use runner_coordinator::store::log::{Follow, Times};
use tower::ServiceExt as _;

use super::broker_rig::{GITLAB_ID, Ground, JOB_TOKEN, NEEDED_TOKEN, Rig};
use super::message::{Message, with_headers};

/// Most requests of one input.
const MOST: usize = 16;
/// Longest body of one input: what is longer tells nothing new.
const MOST_BYTES: usize = 1 << 16;

thread_local! {
    static GROUND: Ground = Ground::new();
}

pub(crate) fn run(data: &[u8]) {
    if data.len() > MOST_BYTES {
        return;
    }
    GROUND.with(|ground| {
        ground.runtime.block_on(async {
            let rig = Rig::new(ground).await;
            let text = replaced(data, b"@runner", rig.token.as_bytes());
            let mut scripted = false;
            for part in split(&text, b"\n%%\n").take(MOST) {
                scripted |= sent(&rig, part).await;
            }
            let taken = end(&rig).await;
            if !scripted {
                the_log_is_the_trace(&rig, taken).await;
            }
        });
    });
}

/// Sends one request; tells whether GitLab's answer was the input's.
async fn sent(rig: &Rig, part: &[u8]) -> bool {
    let Some((request, answer)) = request(part) else { return false };
    let scripted = answer.is_some();
    rig.gitlab.script.lock().expect("lock").extend(answer);
    let before = *rig.gitlab.calls.lock().expect("lock");
    let answer = rig.router.clone().oneshot(request).await.expect("infallible");
    let status = answer.status();
    let body = answer.into_body().collect().await.expect("a body").to_bytes();
    let ours = status.is_server_error() && !scripted;
    assert!(!ours, "{status}: {}", String::from_utf8_lossy(&body));
    let shown = [rig.token.as_str(), JOB_TOKEN, NEEDED_TOKEN].iter().any(|token| find(part, token.as_bytes()).is_some());
    // A token can be written otherwise within JSON: `\u0067lcbt-job`.
    if !shown && find(part, b"\\").is_none() {
        assert_eq!(*rig.gitlab.calls.lock().expect("lock"), before, "a stranger reached GitLab");
        assert!(status.is_client_error(), "a stranger is answered {status}");
    }
    rig.gitlab.script.lock().expect("lock").clear();
    scripted
}

/// The request, and what GitLab is to answer.
fn request(part: &[u8]) -> Option<(Request<Body>, Option<Relay>)> {
    let message = Message::read(part);
    let line = std::str::from_utf8(message.head.first()?).ok()?;
    let (method, path) = line.split_once(' ')?;
    let answer = message.headers().find(|(name, _)| name == "gitlab").and_then(|(_, value)| relay(value.to_str().ok()?));
    let builder = Request::builder().method(method).uri(path);
    let request = with_headers(builder, message.headers().filter(|(name, _)| name != "gitlab")).body(Body::from(message.body.to_vec())).ok()?;
    Some((request, answer))
}

/// `STATUS NAME=VALUE …`.
fn relay(text: &str) -> Option<Relay> {
    let mut words = text.split(' ');
    let status = words.next()?.parse().ok().filter(|status| (200..600).contains(status))?;
    let headers = RelayHeaders::from_pairs(words.filter_map(|word| word.split_once('=')));
    Some(Relay { headers, ..Relay::empty(status) })
}

/// Takes the job if nobody has, and ends it, so that its log is closed and nothing of it is left for the next input; tells what the
/// runner is answered to its last word.
async fn end(rig: &Rig) -> StatusCode {
    let ask = Request::post("/api/v4/jobs/request").header("RUNNER-TOKEN", &rig.token).body(Body::empty());
    let last = Request::put(format!("/api/v4/jobs/{GITLAB_ID}")).header("JOB-TOKEN", &rig.token).body(Body::from("{\"state\":\"success\"}"));
    let mut status = StatusCode::OK;
    for request in [ask, last] {
        status = rig.router.clone().oneshot(request.expect("a request")).await.expect("infallible").status();
    }
    status
}

async fn the_log_is_the_trace(rig: &Rig, taken: StatusCode) {
    assert_eq!(taken, StatusCode::OK, "the runner's last word is not taken");
    let kept: Vec<_> = rig.logs.read(&rig.job, 1, Follow::No, Times::Without).try_collect().await.unwrap_or_default();
    let trace = rig.gitlab.trace.lock().expect("lock");
    assert_eq!(String::from_utf8_lossy(&kept.concat()), String::from_utf8_lossy(&trace), "the log is not the trace");
}

fn find(text: &[u8], word: &[u8]) -> Option<usize> {
    text.windows(word.len()).position(|part| part == word)
}

/// The parts of a text between its separators.
fn split<'a>(text: &'a [u8], separator: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let at = find(text, separator);
        rest = at.and_then(|at| text.get(at + separator.len()..));
        text.get(..at.unwrap_or(text.len()))
    })
}

fn replaced(text: &[u8], word: &[u8], by: &[u8]) -> Vec<u8> {
    split(text, word).collect::<Vec<_>>().join(by)
}
