//! A GitLab and a store that record, follow a script, and fail when told to.

use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use secrecy::SecretString;
use serde_json::Value;
use tokio::sync::watch;

use crate::domain::job::CancelEffect;
use crate::domain::step::{Aggregate, Step};
use crate::domain::{Attempt, EndReason, Event, EventKind, GitLabJob, GpuId, GpuRecord, HostId, Job, JobId, RequirementId, Runner, RunnerId};
use crate::gitlab::{GitLab, GitLabError, JobAnswer, Relay, RelayHeaders, RunnerInfo, StreamingRelay, Upload};
use crate::store::{
    Candidate, Counts, Delivery, EventQuery, JobFilter, NewJob, QueueGroup, Recorded, RunnerFilter, Store, StoreError, Submission, Waiting,
};

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

/// As much of a store as the broker uses, with the real rules of change.
#[derive(Debug)]
pub(crate) struct MemoryStore {
    runners: Mutex<HashMap<RunnerId, Aggregate>>,
    gitlab: Mutex<HashMap<JobId, GitLabJob>>,
    pub(crate) notes: Mutex<Vec<EventKind>>,
    pub(crate) fails: AtomicBool,
    changes: watch::Sender<u64>,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self {
            runners: Mutex::default(),
            gitlab: Mutex::default(),
            notes: Mutex::default(),
            fails: AtomicBool::new(false),
            changes: watch::Sender::new(0),
        }
    }
}

impl MemoryStore {
    pub(crate) fn put(&self, aggregate: Aggregate, gitlab: Option<GitLabJob>) {
        if let (Some(job), Some(gitlab)) = (&aggregate.job, gitlab) {
            self.gitlab.lock().expect("lock").insert(job.id.clone(), gitlab);
        }
        self.runners.lock().expect("lock").insert(aggregate.runner.id.clone(), aggregate);
        self.changes.send_modify(|n| *n += 1);
    }

    pub(crate) fn of(&self, runner: &RunnerId) -> Aggregate {
        self.runners.lock().expect("lock")[runner].clone()
    }

    fn check(&self) -> Result<(), StoreError> {
        if self.fails.load(Ordering::Relaxed) {
            return Err(StoreError::Unavailable { doing: "test", source: "disk full".into() });
        }
        Ok(())
    }
}

#[async_trait]
impl Store for MemoryStore {
    fn instance(&self) -> &'static str {
        "test"
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    async fn cancel_job(&self, job: &JobId, reason: EndReason, at: Timestamp) -> Result<Option<(Job, CancelEffect)>, StoreError> {
        self.check()?;
        let mut runners = self.runners.lock().expect("lock");
        let found = runners.values_mut().filter_map(|aggregate| aggregate.job.as_mut()).find(|found| found.id == *job);
        Ok(found.map(|job| {
            let effect = job.cancel(reason, at);
            (job.clone(), effect)
        }))
    }

    async fn apply(&self, runner: &RunnerId, step: Step, at: Timestamp) -> Result<Aggregate, StoreError> {
        self.check()?;
        let mut runners = self.runners.lock().expect("lock");
        let aggregate = runners.get_mut(runner).ok_or_else(|| StoreError::UnknownRunner(runner.clone()))?;
        aggregate.apply(&step, at)?;
        if let Some(job) = aggregate.job.as_ref().filter(|job| job.has_ended()) {
            self.gitlab.lock().expect("lock").remove(&job.id);
        }
        self.changes.send_modify(|n| *n += 1);
        Ok(aggregate.clone())
    }

    async fn write_gpu_usage(&self, _: &[(JobId, u32, crate::domain::GpuUsage)]) -> Result<(), StoreError> {
        unimplemented!()
    }

    async fn gpu_usage(&self, _: &JobId) -> Result<std::collections::BTreeMap<u32, crate::domain::GpuUsage>, StoreError> {
        unimplemented!()
    }

    async fn project_usage(&self, _: Timestamp, _: u32) -> Result<Vec<crate::domain::ProjectUsage>, StoreError> {
        unimplemented!()
    }

    async fn set_caps(&self, _: &[crate::domain::ProjectCap]) -> Result<(), StoreError> {
        unimplemented!()
    }

    async fn note(&self, _: &RunnerId, kind: EventKind, _: Timestamp) -> Result<(), StoreError> {
        self.check()?;
        self.notes.lock().expect("lock").push(kind);
        Ok(())
    }

    async fn gitlab_job(&self, job: &JobId) -> Result<Option<GitLabJob>, StoreError> {
        self.check()?;
        Ok(self.gitlab.lock().expect("lock").get(job).cloned())
    }

    async fn jobs_of_gitlab(&self, _: &str, _: u64) -> Result<Vec<JobId>, StoreError> {
        unimplemented!()
    }

    async fn runner(&self, id: &RunnerId) -> Result<Option<Aggregate>, StoreError> {
        self.check()?;
        Ok(self.runners.lock().expect("lock").get(id).cloned())
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.check()
    }

    async fn submit(&self, _: NewJob) -> Result<Submission, StoreError> {
        unimplemented!()
    }

    async fn record_delivery(&self, _: Delivery, _: Timestamp) -> Result<Recorded, StoreError> {
        unimplemented!()
    }

    async fn waiting(&self) -> Result<Vec<Waiting>, StoreError> {
        unimplemented!()
    }

    async fn ahead(&self, _: &JobId, _: &[RequirementId], _: u32) -> Result<u32, StoreError> {
        unimplemented!()
    }

    async fn latest_event(&self, _: &JobId) -> Result<Option<Event>, StoreError> {
        unimplemented!()
    }

    async fn promote_due(&self, _: Timestamp) -> Result<Option<Timestamp>, StoreError> {
        unimplemented!()
    }

    async fn claim(&self, _: &[Candidate], _: Timestamp) -> Result<Option<Aggregate>, StoreError> {
        unimplemented!()
    }

    async fn assign(&self, _: &RunnerId, _: Timestamp) -> Result<Option<Aggregate>, StoreError> {
        unimplemented!()
    }

    async fn plan_runner(&self, _: &Runner) -> Result<(), StoreError> {
        unimplemented!()
    }

    async fn job(&self, _: &JobId) -> Result<Option<Job>, StoreError> {
        unimplemented!()
    }

    async fn jobs(&self, _: JobFilter) -> Result<Vec<Job>, StoreError> {
        unimplemented!()
    }

    async fn latest_retry(&self, _: &JobId) -> Result<Option<JobId>, StoreError> {
        unimplemented!()
    }

    async fn attempts(&self, _: &JobId) -> Result<Vec<Attempt>, StoreError> {
        unimplemented!()
    }

    async fn events(&self, _: EventQuery) -> Result<Vec<Event>, StoreError> {
        unimplemented!()
    }

    async fn runners(&self, _: RunnerFilter) -> Result<Vec<Runner>, StoreError> {
        unimplemented!()
    }

    async fn open_runners(&self, host: &HostId) -> Result<Vec<Aggregate>, StoreError> {
        self.check()?;
        let all = self.runners.lock().expect("lock");
        Ok(all.values().filter(|aggregate| aggregate.runner.is_open() && aggregate.runner.host == *host).cloned().collect())
    }

    async fn gpu_records(&self, _: &HostId) -> Result<Vec<GpuRecord>, StoreError> {
        unimplemented!()
    }

    async fn write_gpu_records(&self, _: &HostId, _: &[GpuRecord], _: &[GpuId]) -> Result<(), StoreError> {
        unimplemented!()
    }

    async fn queue_groups(&self, _: u32) -> Result<Vec<QueueGroup>, StoreError> {
        unimplemented!()
    }

    async fn newest_event(&self) -> Result<i64, StoreError> {
        unimplemented!()
    }

    async fn drain(&self, _: &HostId) -> Result<Option<crate::domain::Drain>, StoreError> {
        unimplemented!()
    }

    async fn set_drain(&self, _: &HostId, _: Option<&crate::domain::Drain>) -> Result<(), StoreError> {
        unimplemented!()
    }

    async fn counts(&self) -> Result<Counts, StoreError> {
        unimplemented!()
    }

    async fn forget_keys(&self, _: Timestamp) -> Result<u64, StoreError> {
        unimplemented!()
    }
}
