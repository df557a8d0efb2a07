//! A GitLab that records, follows a script, and fails when told to.

use std::collections::VecDeque;
use std::sync::Mutex;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use secrecy::SecretString;
use serde_json::Value;

use crate::gitlab::{GitLab, GitLabError, JobAnswer, Relay, RelayHeaders, RunnerInfo, StreamingRelay, Upload};

/// What GitLab does with its next call.
#[derive(Debug)]
pub(crate) enum Scripted {
    /// It answers this and does nothing.
    Answers(Relay),
    /// Nothing reaches it.
    Unreachable,
    /// It takes the call, but its answer is lost.
    LosesItsAnswer,
}

/// One job of a GitLab that keeps to `facts` of the protocol: exact trace offsets, one verdict.
#[derive(Debug)]
pub(crate) struct FakeGitLab {
    pub(crate) script: Mutex<VecDeque<Scripted>>,
    pub(crate) calls: Mutex<Vec<String>>,
    pub(crate) trace: Mutex<Vec<u8>>,
    pub(crate) status: Mutex<String>,
    pub(crate) artifact: Mutex<Vec<u8>>,
    pub(crate) bodies: Mutex<Vec<Value>>,
}

impl Default for FakeGitLab {
    fn default() -> Self {
        Self {
            script: Mutex::default(),
            calls: Mutex::default(),
            trace: Mutex::default(),
            status: Mutex::new("running".into()),
            artifact: Mutex::default(),
            bodies: Mutex::default(),
        }
    }
}

impl FakeGitLab {
    pub(crate) fn next(&self, scripted: Scripted) {
        self.script.lock().expect("lock").push_back(scripted);
    }

    pub(crate) fn calls(&self) -> Vec<String> {
        self.calls.lock().expect("lock").clone()
    }

    pub(crate) fn trace(&self) -> String {
        String::from_utf8(self.trace.lock().expect("lock").clone()).expect("text")
    }

    pub(crate) fn set_status(&self, status: &str) {
        status.clone_into(&mut self.status.lock().expect("lock"));
    }

    fn status(&self) -> String {
        self.status.lock().expect("lock").clone()
    }

    fn answer(&self, status: u16, range: Option<usize>) -> Relay {
        let mut headers = RelayHeaders::from_pairs([("Job-Status", self.status().as_str()), ("X-Secret", "dropped")]);
        if let Some(size) = range {
            headers.set("range", &format!("0-{size}"));
        }
        Relay { status, headers, body: Bytes::new() }
    }

    fn scripted(&self, call: String, real: impl FnOnce() -> Relay) -> Result<Relay, GitLabError> {
        self.calls.lock().expect("lock").push(call);
        let unreachable = || GitLabError::Unreachable { doing: "test", source: "no route".into() };
        let next = self.script.lock().expect("lock").pop_front();
        match next {
            None => Ok(real()),
            Some(Scripted::Answers(relay)) => Ok(relay),
            Some(Scripted::Unreachable) => Err(unreachable()),
            Some(Scripted::LosesItsAnswer) => {
                real();
                Err(unreachable())
            }
        }
    }

    fn take_state(&self, body: &Value) -> Relay {
        self.bodies.lock().expect("lock").push(body.clone());
        let state = body["state"].as_str().expect("a state");
        match (self.status().as_str(), state) {
            // Only a GitLab that keeps the job for us knows the word.
            ("pending", "pending") | ("running" | "canceling", "running") => self.answer(200, None),
            (_, "pending") => self.answer(400, None),
            ("pending", "running") => {
                self.set_status("running");
                self.answer(200, None)
            }
            ("running", last) => {
                self.set_status(last);
                self.answer(200, None)
            }
            ("canceling", _) => {
                self.set_status("canceled");
                self.answer(200, None)
            }
            _ => self.answer(403, None),
        }
    }
}

#[async_trait]
impl GitLab for FakeGitLab {
    async fn request_job(&self, _: &SecretString, _: &RunnerInfo) -> Result<JobAnswer, GitLabError> {
        Ok(JobAnswer::NoJob)
    }

    async fn verify_runner(&self, _: &SecretString) -> Result<(), GitLabError> {
        self.calls.lock().expect("lock").push("VERIFY".to_owned());
        Ok(())
    }

    async fn update_job(&self, job: u64, job_token: &str, body: Value) -> Result<Relay, GitLabError> {
        self.scripted(format!("PUT {job} {job_token} {}", body["state"].as_str().unwrap_or("?")), || self.take_state(&body))
    }

    async fn patch_trace(&self, job: u64, job_token: &str, content_range: &str, query: &str, body: Bytes) -> Result<Relay, GitLabError> {
        self.scripted(format!("PATCH {job} {job_token} {content_range} {query}"), || {
            let mut trace = self.trace.lock().expect("lock");
            let start: usize = content_range.split_once('-').expect("a range").0.parse().expect("a number");
            if trace.len() != start {
                return self.answer(416, Some(trace.len()));
            }
            trace.extend_from_slice(&body);
            self.answer(202, Some(trace.len()))
        })
    }

    async fn upload_artifacts(&self, job: u64, job_token: &str, upload: Upload) -> Result<Relay, GitLabError> {
        let call = format!("POST {job} {job_token} {} {} {:?}", upload.query, upload.content_type, upload.content_length);
        let parts: Vec<Bytes> = upload.body.try_collect().await.map_err(|error| GitLabError::Unreachable { doing: "test", source: error.into() })?;
        self.scripted(call, || {
            *self.artifact.lock().expect("lock") = parts.concat();
            Relay { body: Bytes::from_static(b"{\"message\":\"201 Created\"}"), ..Relay::empty(201) }
        })
    }

    async fn download_artifacts(&self, job: u64, job_token: &str, query: &str) -> Result<StreamingRelay, GitLabError> {
        let relay = self.scripted(format!("GET {job} {job_token} {query}"), || self.answer(200, None))?;
        let parts: Vec<_> = self.artifact.lock().expect("lock").chunks(3).map(|part| Ok(Bytes::copy_from_slice(part))).collect();
        Ok(StreamingRelay { status: relay.status, headers: relay.headers, body: stream::iter(parts).boxed() })
    }
}
