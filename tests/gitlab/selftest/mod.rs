//! The stand-in's own tests: it must be as strict as GitLab, or what passes against it proves nothing.

mod events;
mod handing_out;
mod reports;

use std::net::SocketAddr;
use std::time::Duration;

use axum::http::{Method, StatusCode};
use reqwest::Response;
use serde_json::{Value, json};

use super::{GitLab, JobView};

/// Token of the runner entity in these tests.
const TOKEN: &str = "glrt-selftest";
/// Longer than anything here takes.
const SOON: Duration = Duration::from_secs(10);

/// A stand-in on a free local port.
async fn start() -> GitLab {
    GitLab::start(SocketAddr::from(([127, 0, 0, 1], 0))).await.expect("a free port")
}

/// A runner as plain as can be.
struct Client<'a> {
    /// Whom it talks to.
    gitlab: &'a GitLab,
    /// How.
    http: reqwest::Client,
}

impl<'a> Client<'a> {
    /// A runner of `gitlab`.
    fn new(gitlab: &'a GitLab) -> Self {
        Self { gitlab, http: reqwest::Client::new() }
    }

    /// Sends JSON.
    async fn send(&self, method: Method, path: &str, body: Value) -> Response {
        let url = format!("{}/api/v4{path}", self.gitlab.url());
        self.http.request(method, url).json(&body).send().await.expect("an answer")
    }

    /// Asks for a job with these features.
    async fn ask(&self, token: &str, features: Value) -> Response {
        let body = json!({ "token": token, "info": { "features": features } });
        self.send(Method::POST, "/jobs/request", body).await
    }

    /// Asks for a job that must be there.
    async fn take(&self, features: Value) -> Value {
        let answer = self.ask(TOKEN, features).await;
        assert_eq!(answer.status(), StatusCode::CREATED);
        answer.json().await.expect("a job")
    }

    /// Reports a state.
    async fn update(&self, job: &JobView, more: Value) -> Response {
        let mut body = json!({ "token": job.job_token });
        for (key, value) in more.as_object().expect("an object") {
            body[key] = value.clone();
        }
        self.send(Method::PUT, &format!("/jobs/{}", job.id), body).await
    }

    /// Sends a range of the trace.
    async fn trace(&self, job: &JobView, start: usize, text: &'static str) -> Response {
        let url = format!("{}/api/v4/jobs/{}/trace", self.gitlab.url(), job.id);
        let range = format!("{start}-{}", start + text.len() - 1);
        let request = self.http.patch(url).header("JOB-TOKEN", &job.job_token);
        request.header("Content-Range", range).body(text).send().await.expect("an answer")
    }
}

/// A header of an answer.
fn header<'a>(answer: &'a Response, name: &str) -> &'a str {
    answer.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}
