//! A GitLab whose calls are timed and whose failures are counted.

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use bytes::Bytes;
use secrecy::SecretString;
use serde_json::Value;

use super::api::{GitLab, GitLabError, JobAnswer, Relay, RunnerInfo, StreamingRelay, Upload};
use super::listing::{ListedJob, ListedJobs, Listing};
use crate::metrics::Metrics;

/// A [`GitLab`] or a [`Listing`], measured from outside. A call that is given up by its caller is not counted.
#[derive(Debug)]
pub struct Metered<T> {
    inner: T,
    metrics: Arc<Metrics>,
}

impl<T> Metered<T> {
    /// Measures this one.
    #[must_use]
    pub fn new(inner: T, metrics: Arc<Metrics>) -> Self {
        Self { inner, metrics }
    }

    async fn timed<A>(
        &self,
        operation: &'static str,
        refused: impl Fn(&A) -> Option<&'static str>,
        call: impl Future<Output = Result<A, GitLabError>>,
    ) -> Result<A, GitLabError> {
        let asked = Instant::now();
        let result = call.await;
        let error = match &result {
            Ok(answer) => refused(answer),
            Err(error) => Some(error.kind()),
        };
        self.metrics.gitlab.record(operation, asked.elapsed(), error);
        result
    }
}

/// No answer of this kind is a refusal.
fn never<A>(_: &A) -> Option<&'static str> {
    None
}

/// What an answer that is handed on to a runner says of GitLab, in the words of [`GitLabError::kind`] where there is one.
fn refusal(status: u16) -> Option<&'static str> {
    match status {
        403 => Some("denied"),
        409 => Some("conflict"),
        429 => Some("too_many"),
        400..=499 => Some("status_4xx"),
        500.. => Some("server"),
        0..=399 => None,
    }
}

#[async_trait]
impl<T: GitLab> GitLab for Metered<T> {
    async fn request_job(&self, runner_token: &SecretString, info: &RunnerInfo) -> Result<JobAnswer, GitLabError> {
        self.timed("request_job", never, self.inner.request_job(runner_token, info)).await
    }

    async fn verify_runner(&self, runner_token: &SecretString) -> Result<(), GitLabError> {
        self.timed("verify_runner", never, self.inner.verify_runner(runner_token)).await
    }

    async fn update_job(&self, job: u64, job_token: &str, body: Value) -> Result<Relay, GitLabError> {
        self.timed("update_job", |relay| refusal(relay.status), self.inner.update_job(job, job_token, body)).await
    }

    async fn patch_trace(&self, job: u64, job_token: &str, content_range: &str, query: &str, body: Bytes) -> Result<Relay, GitLabError> {
        self.timed("patch_trace", |relay| refusal(relay.status), self.inner.patch_trace(job, job_token, content_range, query, body)).await
    }

    async fn upload_artifacts(&self, job: u64, job_token: &str, upload: Upload) -> Result<Relay, GitLabError> {
        self.timed("upload_artifacts", |relay| refusal(relay.status), self.inner.upload_artifacts(job, job_token, upload)).await
    }

    async fn download_artifacts(&self, job: u64, job_token: &str, query: &str) -> Result<StreamingRelay, GitLabError> {
        self.timed("download_artifacts", |relay| refusal(relay.status), self.inner.download_artifacts(job, job_token, query)).await
    }
}

#[async_trait]
impl<T: Listing> Listing for Metered<T> {
    async fn pending(&self, project: &str) -> Result<ListedJobs, GitLabError> {
        self.timed("list_pending", never, self.inner.pending(project)).await
    }

    async fn running(&self, runner_token: &SecretString) -> Result<ListedJobs, GitLabError> {
        self.timed("list_running", never, self.inner.running(runner_token)).await
    }

    async fn job(&self, project: u64, job: u64) -> Result<Option<ListedJob>, GitLabError> {
        self.timed("show_job", never, self.inner.job(project, job)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gitlab::HttpGitLab;
    use crate::metrics::Format;

    #[tokio::test]
    async fn calls_are_timed_and_failures_counted_by_kind() {
        let metrics = Arc::new(Metrics::default());
        // Nobody listens on port 1.
        let nobody = HttpGitLab::new("http://127.0.0.1:1", "r_test").expect("a client");
        let gitlab = Metered::new(nobody, Arc::clone(&metrics));
        assert_eq!(gitlab.verify_runner(&SecretString::from("glrt-x")).await.expect_err("nobody").kind(), "unreachable");
        assert_eq!(gitlab.update_job(1, "t", Value::Null).await.expect_err("no object").kind(), "protocol");
        let mut text = String::new();
        metrics.write(Format::Prometheus, &mut text).expect("text");
        for line in [
            "runner_coordinator_gitlab_call_seconds_count{operation=\"verify_runner\"} 1",
            "runner_coordinator_gitlab_call_errors_total{operation=\"verify_runner\",kind=\"unreachable\"} 1",
            "runner_coordinator_gitlab_call_errors_total{operation=\"update_job\",kind=\"protocol\"} 1",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line} is not in:\n{text}");
        }
    }

    #[test]
    fn an_answer_that_is_handed_on_counts_as_an_error_from_400_on() {
        let all = [200, 202, 302, 400, 403, 404, 409, 416, 429, 500, 599].map(|status| refusal(status).unwrap_or("-"));
        assert_eq!(all, ["-", "-", "-", "status_4xx", "denied", "status_4xx", "conflict", "status_4xx", "too_many", "server", "server"]);
    }
}
