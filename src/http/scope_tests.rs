//! A token that is bound to projects opens their jobs and nothing else.

use axum::http::StatusCode;
use serde_json::{Value, json};

use crate::http::harness::{Harness, OPERATOR, SUBMITTER, request};

async fn send(harness: &Harness, token: &str, method: &str, path: &str, body: &Value, key: Option<&str>) -> (u16, Value) {
    let bearer = format!("Bearer {token}");
    let mut headers = vec![("authorization", bearer.as_str())];
    let text = if body.is_null() { String::new() } else { body.to_string() };
    if !body.is_null() {
        headers.push(("content-type", "application/json"));
    }
    headers.extend(key.map(|key| ("idempotency-key", key)));
    let answer = harness.send(request(method, path, &headers, text)).await;
    (answer.status.as_u16(), serde_json::from_str(&answer.text).unwrap_or_default())
}

fn job(project: Option<&str>) -> Value {
    json!({ "image": "busybox", "command": ["true"], "project": project, "if_unsatisfiable": "wait" })
}

#[tokio::test]
async fn it_submits_and_sees_jobs_of_its_projects_only() {
    let harness = Harness::guarded();
    let submit = async |token, project, key| send(&harness, token, "POST", "/jobs", &job(project), key).await;
    let (status, own) = submit(SUBMITTER, Some("team/app"), None).await;
    assert_eq!((status, own["project"].as_str()), (202, Some("team/app")), "{own}");
    for other in [Some("team/other"), Some("team"), Some("team/app/x"), None] {
        let (status, told) = submit(SUBMITTER, other, None).await;
        assert_eq!((status, told["errors"][0]["field"].as_str()), (422, Some("project")), "{other:?}: {told}");
        let message = told["errors"][0]["message"].as_str().expect("a message");
        assert!(message.ends_with("team/app, team/lib"), "{message}");
    }
    let (_, of_other) = submit(OPERATOR, Some("team/other"), None).await;
    let (_, of_none) = submit(OPERATOR, None, None).await;
    for (job, seen) in [(&own, true), (&of_other, false), (&of_none, false)] {
        let id = job["id"].as_str().expect("an id");
        for path in [format!("/jobs/{id}"), format!("/jobs/{id}/logs"), format!("/jobs/{id}/events"), format!("/jobs/{id}/explain")] {
            let (status, told) = send(&harness, SUBMITTER, "GET", &path, &Value::Null, None).await;
            assert_eq!(status, if seen { 200 } else { 404 }, "{path}: {told}");
        }
        for (method, path) in [("DELETE", format!("/jobs/{id}")), ("POST", format!("/jobs/{id}/retry"))] {
            let (status, told) = send(&harness, SUBMITTER, method, &path, &Value::Null, None).await;
            assert_eq!(status, 403, "{method} {path}: {told}");
        }
    }
    let (status, told) = send(&harness, SUBMITTER, "GET", "/jobs", &Value::Null, None).await;
    assert_eq!(status, 403, "{told}");
}

#[tokio::test]
async fn a_job_of_another_is_not_shown_by_its_key() {
    let harness = Harness::guarded();
    let submit = async |token, body: &Value| send(&harness, token, "POST", "/jobs", body, Some("a-key")).await;
    let (status, first) = submit(SUBMITTER, &job(Some("team/lib"))).await;
    assert_eq!(status, 202, "{first}");
    let (status, again) = submit(SUBMITTER, &job(Some("team/lib"))).await;
    assert_eq!((status, &again["id"]), (202, &first["id"]));
    let (status, told) = submit(OPERATOR, &job(None)).await;
    assert_eq!(status, 422, "{told}");
}

#[tokio::test]
async fn one_that_is_bound_to_one_project_need_not_name_it() {
    let token = "rca-of-one";
    let sha256 = crate::http::webhook::hex(&crate::security::sha256(token.as_bytes()));
    let table = format!("[[http.tokens]]\nname = \"one\"\nrole = \"submitter\"\nprojects = [\"a/b\"]\nsha256 = \"{sha256}\"\n");
    let harness = Harness::with(&table);
    let submit = async |body: Value| send(&harness, token, "POST", "/jobs", &body, Some("a-key")).await;
    let (status, made) = submit(job(None)).await;
    assert_eq!((status, made["project"].as_str()), (StatusCode::ACCEPTED.as_u16(), Some("a/b")), "{made}");
}
