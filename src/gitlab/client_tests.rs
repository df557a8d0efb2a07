use futures_util::stream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::domain::{Arch, Disposition};

fn info() -> RunnerInfo {
    RunnerInfo { name: "box1".into(), version: "0.1.0".into(), arch: Arch::Arm64 }
}

fn secret() -> SecretString {
    SecretString::from("glrt-secret")
}

/// Answers one request with these bytes; tells what was asked.
async fn serve_one(listener: TcpListener, answer: String) -> String {
    let (mut stream, _) = listener.accept().await.expect("a connection");
    let mut asked = Vec::new();
    let mut part = [0; 4096];
    while !is_whole(&asked) {
        let read = stream.read(&mut part).await.expect("readable");
        assert!(read > 0, "the request ended early");
        asked.extend_from_slice(&part[..read]);
    }
    // A client that has read enough may hang up.
    drop(stream.write_all(answer.as_bytes()).await);
    drop(stream.shutdown().await);
    String::from_utf8(asked).expect("text")
}

fn is_whole(asked: &[u8]) -> bool {
    let text = String::from_utf8_lossy(asked).to_lowercase();
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.split_once("content-length: ").map(|(_, rest)| rest.lines().next().expect("a line").parse::<usize>().expect("a number"));
    length.map_or(!head.contains("chunked") || body.ends_with("0\r\n\r\n"), |length| body.len() >= length)
}

/// A client and the GitLab that it speaks to once.
async fn against<T>(answer: impl Into<String>, call: impl AsyncFnOnce(HttpGitLab) -> T) -> (T, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let client = HttpGitLab::new(&format!("http://{}/", listener.local_addr().expect("an address")), "r_test").expect("a client");
    tokio::join!(call(client), serve_one(listener, answer.into()))
}

async fn ask(answer: &str) -> (Result<JobAnswer, GitLabError>, String) {
    against(answer, async |client| client.request_job(&secret(), &info()).await).await
}

const CLOSE: &str = "Content-Length: 0\r\nConnection: close\r\n\r\n";

#[tokio::test]
async fn a_request_for_work_says_what_a_runner_says_and_does_not_ask_to_be_held() {
    let (answer, asked) = ask(&format!("HTTP/1.1 204 No Content\r\n{CLOSE}")).await;
    assert!(matches!(answer, Ok(JobAnswer::NoJob)));
    let (head, body) = asked.split_once("\r\n\r\n").expect("a body");
    assert!(head.starts_with("POST /api/v4/jobs/request HTTP/1.1\r\n"), "{head}");
    assert!(head.to_lowercase().contains("runner-token: glrt-secret"), "{head}");
    assert!(head.to_lowercase().contains(concat!("user-agent: runner-coordinator/", env!("CARGO_PKG_VERSION"))), "{head}");
    let mut body: Value = serde_json::from_str(body).expect("json");
    assert_eq!(body["info"]["features"]["return_exit_code"], true);
    body["info"]["features"] = json!("…");
    assert_eq!(
        body,
        json!({ "token": "glrt-secret", "system_id": "r_test", "info": { "name": "box1", "version": "0.1.0", "platform": "linux",
            "architecture": "arm64", "executor": "shell", "shell": "bash", "features": "…" } })
    );
    assert_eq!(info().to_json()["features"]["two_phase_job_commit"], true);
    for left_out in ["session", "terminal"] {
        assert!(info().to_json()["features"].get(left_out).is_none(), "{left_out}");
    }
}

#[tokio::test]
async fn a_job_is_taken_only_as_json() {
    let job = r#"{"id":9007199254740993,"token":"t"}"#;
    let with = |kind: &str| format!("HTTP/1.1 201 Created\r\n{kind}Content-Length: {}\r\nConnection: close\r\n\r\n{job}", job.len());
    let (answer, _) = ask(&with("Content-Type: application/json; charset=utf-8\r\n")).await;
    let Ok(JobAnswer::Job(claimed)) = answer else { panic!("{answer:?}") };
    assert_eq!((claimed.job.reference.job_id, claimed.job.payload.as_str()), (9_007_199_254_740_993, job));
    for kind in ["", "Content-Type: text/html\r\n"] {
        assert!(matches!(ask(&with(kind)).await.0, Err(GitLabError::Protocol { .. })), "{kind:?}");
    }
}

#[tokio::test]
async fn every_refusal_has_its_kind_and_none_has_the_token() {
    let kinds = [
        ("403 Forbidden", "", "Denied"),
        ("409 Conflict", "", "Conflict"),
        ("429 Too Many", "Retry-After: 7\r\n", "TooMany { doing: \"give us a job\", retry_after: 7s"),
        ("429 Too Many", "", "TooMany { doing: \"give us a job\", retry_after: 15s"),
        ("429 Too Many", "Retry-After: 999999999\r\n", "TooMany { doing: \"give us a job\", retry_after: 3600s"),
        ("503 Away", "", "Server"),
        ("302 Found", "Location: http://127.0.0.1:1/x\r\n", "Protocol"),
        ("418 Teapot", "", "Protocol"),
    ];
    for (status, header, kind) in kinds {
        let (answer, _) = ask(&format!("HTTP/1.1 {status}\r\n{header}{CLOSE}")).await;
        let error = answer.expect_err("a refusal");
        assert!(format!("{error:?}").starts_with(kind), "{error:?} for {status}");
        assert!(!format!("{error} {error:?}").contains("secret"));
        assert_eq!(error.disposition() == Disposition::Final, kind == "Denied");
    }
}

#[tokio::test]
async fn a_gitlab_that_is_away_is_unreachable_and_the_error_names_no_token() {
    let client = HttpGitLab::new("http://127.0.0.1:1", "r_test").expect("a client");
    let error = client.update_job(1, "glcbt-secret", json!({ "state": "running" })).await.expect_err("away");
    assert!(matches!(error, GitLabError::Unreachable { .. }), "{error:?}");
    assert!(!format!("{error:?}").contains("secret"));
}

#[tokio::test]
async fn the_answer_to_a_trace_is_handed_back_as_far_as_a_runner_needs_it() {
    let answer = format!("HTTP/1.1 416 No\r\nRange: 0-9\r\nJob-Status: canceling\r\nX-GitLab-Trace-Update-Interval: 3\r\nSet-Cookie: x\r\n{CLOSE}");
    let (relay, asked) =
        against(answer, async |client| client.patch_trace(7, "glcbt-x", "0-1", "debug_trace=false", Bytes::from_static(b"ab")).await).await;
    let relay = relay.expect("an answer");
    assert_eq!((relay.status, relay.headers.get("range"), relay.job_status()), (416, Some("0-9"), Some("canceling")));
    assert_eq!(relay.headers.get("x-gitlab-trace-update-interval"), Some("3"));
    assert_eq!((relay.headers.get("set-cookie"), relay.headers.get("content-length")), (None, None));
    assert!(asked.starts_with("PATCH /api/v4/jobs/7/trace?debug_trace=false HTTP/1.1\r\n"), "{asked}");
    assert!(asked.to_lowercase().contains("content-range: 0-1\r\n") && asked.to_lowercase().contains("job-token: glcbt-x"), "{asked}");
    assert!(asked.ends_with("\r\n\r\nab"));
}

#[tokio::test]
async fn an_upload_keeps_its_length_where_it_is_known() {
    for (length, expected) in [(Some(6), "content-length: 6\r\n"), (None, "transfer-encoding: chunked\r\n")] {
        let body = stream::iter([Ok(Bytes::from_static(b"abc")), Ok(Bytes::from_static(b"def"))]).boxed();
        let upload = Upload { query: "a=b".into(), content_type: "multipart/form-data; boundary=x".into(), content_length: length, body };
        let answer = format!("HTTP/1.1 307 Elsewhere\r\nLocation: http://store.test/x\r\n{CLOSE}");
        let (relay, asked) = against(answer, async |client| client.upload_artifacts(7, "t", upload).await).await;
        let relay = relay.expect("an answer");
        assert_eq!((relay.status, relay.headers.get("location")), (307, Some("http://store.test/x")));
        assert!(asked.to_lowercase().contains(expected), "{asked}");
        assert_eq!(asked.to_lowercase().matches("content-length").count(), usize::from(length.is_some()));
    }
}

#[tokio::test]
async fn a_redirected_download_is_handed_back_and_a_body_is_passed_on() {
    let answer = format!("HTTP/1.1 302 Found\r\nLocation: http://store.test/x\r\n{CLOSE}");
    let (relay, _) = against(answer, async |client| client.download_artifacts(7, "t", "").await).await;
    assert_eq!(relay.expect("an answer").headers.get("location"), Some("http://store.test/x"));
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nzip";
    let (body, _) = against(answer, async |client| {
        let relay = client.download_artifacts(7, "t", "direct_download=false").await.expect("an answer");
        relay.body.try_collect::<Vec<Bytes>>().await.expect("whole")
    })
    .await;
    assert_eq!(body.concat(), b"zip");
}

#[tokio::test]
async fn an_answer_that_is_too_long_is_not_read() {
    let limit = Relay::MAX_BODY_BYTES;
    for (length, taken) in [(limit, true), (limit + 1, false)] {
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{}", "x".repeat(length));
        let (relay, _) = against(answer, async |client| client.update_job(1, "t", json!({ "state": "running" })).await).await;
        assert_eq!(relay.is_ok(), taken);
    }
}

#[test]
fn a_system_id_is_what_gitlab_takes() {
    assert_eq!(system_id("0192f0c1-aaaa-7bbb-8ccc-1234567890ab"), "r_1234567890ab");
    assert_eq!(system_id("ab"), "r_0000000000ab");
}
