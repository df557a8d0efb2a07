use axum::http::{Method, Request};
use http_body_util::BodyExt as _;
use tower::ServiceExt as _;

use super::*;
use crate::jobs::broker::tests::fake::Scripted;
use crate::jobs::broker::tests::{GITLAB_ID, PAYLOAD, Rig};

struct Answer {
    status: u16,
    headers: HeaderMap,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

async fn call(rig: &Rig, method: Method, path: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> Answer {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(body.into()).expect("a request");
    let answer = broker_router(Arc::clone(&rig.broker)).oneshot(request).await.expect("infallible");
    let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
    let bytes = answer.into_body().collect().await.expect("a body").to_bytes();
    Answer { status, headers, body: String::from_utf8(bytes.to_vec()).expect("text") }
}

fn job_path(rest: &str) -> String {
    format!("/api/v4/jobs/{GITLAB_ID}{rest}")
}

#[tokio::test(start_paused = true)]
async fn a_job_is_answered_as_the_official_runner_wants_it() {
    let rig = Rig::new();
    let answer = call(&rig, Method::POST, "/api/v4/jobs/request", &[], json!({ "token": rig.token, "info": {} }).to_string()).await;
    assert_eq!((answer.status, answer.header("content-type")), (201, Some("application/json")));
    assert_eq!(answer.body, PAYLOAD);

    let idle = Rig::idle();
    let answer = call(&idle, Method::POST, "/api/v4/jobs/request", &[("RUNNER-TOKEN", &idle.token)], Body::empty()).await;
    assert_eq!((answer.status, answer.header("x-gitlab-last-update").is_some(), answer.body.as_str()), (204, true, ""));
}

#[tokio::test]
async fn without_a_good_token_nothing_is_done() {
    let rig = Rig::at_work().await;
    let (trace, artifacts) = (job_path("/trace"), job_path("/artifacts"));
    let update = job_path("");
    let calls = [
        (Method::POST, "/api/v4/jobs/request", "{\"token\":\"x\"}"),
        (Method::POST, "/api/v4/runners/verify", "{\"token\":\"x\"}"),
        (Method::PUT, &update, "{\"token\":\"x\",\"state\":\"success\"}"),
        (Method::PATCH, &trace, "x"),
        (Method::POST, &artifacts, "x"),
        (Method::GET, &artifacts, ""),
        (Method::POST, "/progress", "{\"message\":\"x\"}"),
        (Method::GET, "/job", ""),
    ];
    for (method, path, body) in calls {
        let stranger = rig.strangers_token();
        for token in ["x", &stranger, "glcbt-other"] {
            let bearer = format!("Bearer {token}");
            let headers =
                [("RUNNER-TOKEN", token), ("JOB-TOKEN", token), ("authorization", &bearer), ("content-range", "0-0"), ("content-type", "x")];
            let answer = call(&rig, method.clone(), path, &headers, body).await;
            assert_eq!((answer.status, answer.body.as_str()), (403, r#"{"message":"403 this token does not open that"}"#), "{method} {path}");
        }
        assert_eq!(call(&rig, method.clone(), path, &[], Body::empty()).await.status, 403, "{method} {path} without a token");
    }
    assert_eq!(rig.gitlab.calls().len(), 1, "only what the hand-over told");
}

#[tokio::test]
async fn nothing_else_is_served() {
    let rig = Rig::new();
    for path in ["/", "/health", "/jobs", "/runners", "/metrics", "/api/v4/jobs", "/api/v4/projects/1/jobs/1", "/webhook/job"] {
        assert_eq!(call(&rig, Method::GET, path, &[], Body::empty()).await.status, 404, "{path}");
    }
    assert_eq!(call(&rig, Method::PUT, "/api/v4/jobs/x", &[("JOB-TOKEN", &rig.token)], "{\"state\":\"running\"}").await.status, 403);
}

#[tokio::test]
async fn a_trace_and_its_end_pass_through() {
    let rig = Rig::at_work().await;
    let shown = ("JOB-TOKEN", rig.token.as_str());
    let path = job_path("/trace?debug_trace=false");
    let answer = call(&rig, Method::PATCH, &path, &[shown, ("content-range", "0-4")], "hello").await;
    assert_eq!((answer.status, answer.header("range"), answer.header("job-status")), (202, Some("0-5"), Some("running")));
    assert_eq!(call(&rig, Method::PATCH, &path, &[shown], "x").await.status, 400);

    rig.gitlab.next(Scripted::Unreachable);
    let body = json!({ "token": rig.token, "state": "success" }).to_string();
    let away = call(&rig, Method::PUT, &job_path(""), &[], body.clone()).await;
    assert_eq!((away.status, away.header("retry-after")), (503, Some("5")));
    let second = call(&rig, Method::PUT, &job_path(""), &[], body).await;
    assert_eq!((second.status, second.header("job-status")), (200, Some("success")));
    assert_eq!(rig.job().state.name(), "succeeded");
}

#[tokio::test]
async fn every_body_but_artifacts_has_a_limit() {
    let rig = Rig::at_work().await;
    let shown = ("JOB-TOKEN", rig.token.as_str());
    let range = format!("0-{}", MAX_TRACE_BYTES - 1);
    assert_eq!(call(&rig, Method::PATCH, &job_path("/trace"), &[shown, ("content-range", &range)], vec![b'x'; MAX_TRACE_BYTES]).await.status, 202);
    assert_eq!(call(&rig, Method::PATCH, &job_path("/trace"), &[shown], vec![b'x'; MAX_TRACE_BYTES + 1]).await.status, 413);
    assert_eq!(call(&rig, Method::PUT, &job_path(""), &[shown], vec![b' '; MAX_JSON_BYTES + 1]).await.status, 413);
    assert_eq!(call(&rig, Method::POST, "/api/v4/jobs/request", &[], vec![b' '; MAX_JSON_BYTES + 1]).await.status, 413);
    let large = vec![b'x'; 2 * MAX_TRACE_BYTES];
    let answer =
        call(&rig, Method::POST, &job_path("/artifacts?expire_in=1d"), &[shown, ("content-type", "multipart/form-data; boundary=x")], large).await;
    assert_eq!(answer.status, 201);
    assert_eq!(rig.gitlab.artifact.lock().expect("lock").len(), 2 * MAX_TRACE_BYTES);
    let down = call(&rig, Method::GET, &job_path("/artifacts"), &[shown], Body::empty()).await;
    assert_eq!((down.status, down.body.len()), (200, 2 * MAX_TRACE_BYTES));
}

#[tokio::test]
async fn what_is_no_json_is_refused() {
    let rig = Rig::at_work().await;
    let shown = ("JOB-TOKEN", rig.token.as_str());
    for body in ["x", "[]", "3", "{\"state\":3}", "{}"] {
        assert_eq!(call(&rig, Method::PUT, &job_path(""), &[shown], body).await.status, 400, "{body}");
    }
}

#[tokio::test]
async fn a_job_may_tell_how_far_it_is_and_read_its_own_record() {
    let rig = Rig::at_work().await;
    let bearer = format!("Bearer {}", rig.token);
    let auth = ("authorization", bearer.as_str());
    for body in ["{}", "{\"message\":\"x\",\"percent\":101}", "{\"message\":\"x\",\"percent\":-1}", "{\"message\":\"x\",\"percent\":\"1\"}"] {
        assert_eq!(call(&rig, Method::POST, "/progress", &[auth], body).await.status, 400, "{body}");
    }
    assert_eq!(call(&rig, Method::POST, "/progress", &[auth], "{\"message\":\"half\",\"percent\":50}").await.status, 204);
    let again = call(&rig, Method::POST, "/progress", &[auth], "{\"message\":\"more\"}").await;
    assert_eq!((again.status, again.header("retry-after")), (429, Some("1")));
    let record: Value = serde_json::from_str(&call(&rig, Method::GET, "/job", &[auth], Body::empty()).await.body).expect("json");
    assert_eq!(record, json!({ "id": rig.job().id, "state": "running", "attempt": 1, "devices": ["GPU-1"] }));
    let verified = call(&rig, Method::POST, "/api/v4/runners/verify", &[], json!({ "token": rig.token }).to_string()).await;
    assert_eq!(verified.status, 200);
}
