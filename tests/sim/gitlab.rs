//! The simulated GitLab: its jobs, to whom it gave them, what it was told of them. It keeps to the protocol that `facts` of the real one tell.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use runner_coordinator::domain::{GitLabJob, GitLabRef, HowEnded};
use runner_coordinator::gitlab::{ClaimedJob, GitLab, GitLabError, JobAnswer, Relay, RelayHeaders, RunnerInfo, StreamingRelay, Upload};
use secrecy::SecretString;
use serde_json::Value;

use crate::process::Script;
use crate::world::World;

/// Its base URL.
pub(crate) const URL: &str = "http://gitlab.example.com";
/// How long it keeps a job for who took it and says nothing.
const RESERVED: u64 = 120_000;
/// After so long without a word it fails a job that runs.
const SILENT: u64 = 10 * 60 * 1000;

/// A job of GitLab's.
#[derive(Debug, Clone)]
pub(crate) struct Theirs {
    pub(crate) script: Script,
    /// `pending`, `running`, `canceling`, `success`, `failed` or `canceled`.
    pub(crate) status: &'static str,
    /// To whom it was given, by its token, and when there was a word of it last.
    given: Option<(String, u64)>,
    hands: u32,
    trace: Vec<u8>,
    /// Runs of its script: from when to when.
    pub(crate) executions: Vec<(u64, Option<u64>)>,
}

/// What becomes of a job's token when the job is given to somebody again; nobody promises either.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tokens {
    #[default]
    Change,
    Stay,
}

/// What it keeps.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    pub(crate) jobs: Vec<Theirs>,
    /// Whether it waits for a runner's word before a job runs.
    pub(crate) two_phase: bool,
    pub(crate) tokens: Tokens,
    /// It does not answer before this moment.
    pub(crate) down_until: u64,
}

impl Queue {
    pub(crate) fn push(&mut self, script: Script) {
        let job = Theirs { script, status: "pending", given: None, hands: 0, trace: Vec::new(), executions: Vec::new() };
        self.jobs.push(job);
    }

    /// Somebody cancels a job there.
    pub(crate) fn cancel(&mut self, place: usize) {
        let Some(job) = self.jobs.get_mut(place) else { return };
        job.status = match job.status {
            "pending" => "canceled",
            "running" => "canceling",
            other => other,
        };
    }

    /// Whether every job has ended.
    pub(crate) fn are_done(&self) -> bool {
        self.jobs.iter().all(|job| matches!(job.status, "success" | "failed" | "canceled"))
    }

    /// How many jobs have scripts that exit with 0, and how many of them succeeded.
    pub(crate) fn good(&self) -> (u64, u64) {
        let good = self.jobs.iter().filter(|job| job.script.how == HowEnded::Exit(0));
        good.fold((0, 0), |(all, succeeded), job| (all + 1, succeeded + u64::from(job.status == "success")))
    }

    /// Gives its first job that nobody has.
    fn give(&mut self, now: u64) -> Option<(u64, String)> {
        let free = |job: &Theirs| job.status == "pending" && job.given.as_ref().is_none_or(|(_, heard)| heard + RESERVED < now);
        let place = self.jobs.iter().position(free)?;
        let (two_phase, tokens) = (self.two_phase, self.tokens);
        let job = &mut self.jobs[place];
        job.hands += 1;
        let token = format!("token-{place}-{}", if tokens == Tokens::Stay { 1 } else { job.hands });
        job.given = Some((token.clone(), now));
        if !two_phase {
            job.status = "running";
        }
        Some((place as u64 + 1, token))
    }

    /// What becomes of jobs that nobody speaks of any more.
    pub(crate) fn sweep(&mut self, now: u64) {
        for job in &mut self.jobs {
            let silent = job.given.as_ref().is_some_and(|(_, heard)| heard + SILENT < now);
            if silent && matches!(job.status, "running" | "canceling") {
                job.status = if job.status == "running" { "failed" } else { "canceled" };
            }
        }
    }

    fn update(&mut self, id: u64, token: &str, state: &str, now: u64) -> Relay {
        let two_phase = self.two_phase;
        let Some(job) = usize::try_from(id).ok().and_then(|id| self.jobs.get_mut(id.wrapping_sub(1))) else { return Relay::empty(404) };
        let ours = job.given.as_ref().is_some_and(|(given, _)| given == token);
        if !ours {
            return told(403, job.status, None);
        }
        let ended = matches!(job.status, "success" | "failed" | "canceled");
        if ended {
            return told(403, job.status, None);
        }
        job.given = Some((token.to_owned(), now));
        match (state, job.status) {
            ("pending", _) if !two_phase => return told(400, job.status, None),
            ("pending", _) | ("running", "running" | "canceling") => {}
            ("running", _) => job.status = "running",
            ("success" | "failed", "canceling") => job.status = "canceled",
            ("success", _) => job.status = "success",
            (_, _) => job.status = "failed",
        }
        told(200, job.status, None)
    }

    fn append(&mut self, id: u64, token: &str, range: &str, body: &[u8], now: u64) -> Relay {
        let Some(job) = usize::try_from(id).ok().and_then(|id| self.jobs.get_mut(id.wrapping_sub(1))) else { return Relay::empty(404) };
        let ours = job.given.as_ref().is_some_and(|(given, _)| given == token) && matches!(job.status, "running" | "canceling");
        if !ours {
            return told(403, job.status, None);
        }
        job.given = Some((token.to_owned(), now));
        let start: usize = range.split('-').next().and_then(|start| start.parse().ok()).unwrap_or(usize::MAX);
        if start != job.trace.len() {
            return told(416, job.status, Some(job.trace.len()));
        }
        job.trace.extend_from_slice(body);
        told(202, job.status, Some(job.trace.len()))
    }
}

fn told(status: u16, job: &str, range: Option<usize>) -> Relay {
    let mut headers = RelayHeaders::from_pairs([("job-status", job)]);
    if let Some(range) = range {
        headers.set("range", &format!("0-{range}"));
    }
    Relay { status, headers, body: Bytes::new() }
}

/// One daemon's way to GitLab.
#[derive(Debug)]
pub(crate) struct SimGitLab(pub(crate) Arc<World>);

impl SimGitLab {
    /// One call, with what may go wrong with it.
    async fn call<T>(&self, doing: &'static str, effect: impl FnOnce(&mut Queue, u64) -> T + Send) -> Result<T, GitLabError> {
        let world = &self.0;
        world.point().await;
        let (wait, fails, lost) = {
            let mut engine = world.engine();
            (engine.rng.u64(1..60), engine.chance(|dials| dials.gitlab_fails), engine.chance(|dials| dials.gitlab_lost))
        };
        tokio::time::sleep(Duration::from_millis(wait)).await;
        let now = world.now();
        let unreachable = || GitLabError::Unreachable { doing, source: "the simulated GitLab is away".into() };
        if world.gitlab().down_until > now || fails {
            return Err(if wait % 2 == 0 { unreachable() } else { GitLabError::Server { doing, status: 502 } });
        }
        let answer = effect(&mut world.gitlab(), now);
        world.point().await;
        if lost { Err(unreachable()) } else { Ok(answer) }
    }
}

#[async_trait]
impl GitLab for SimGitLab {
    async fn request_job(&self, _token: &SecretString, _info: &RunnerInfo) -> Result<JobAnswer, GitLabError> {
        let given = self.call("ask for work", Queue::give).await?;
        let Some((id, token)) = given else { return Ok(JobAnswer::NoJob) };
        let now = self.0.now();
        self.0.engine().story.tell(now, &format!("GitLab gives job {id} with {token}"));
        let payload = format!("{{\"id\":{id},\"token\":\"{token}\"}}");
        let job = GitLabJob { reference: GitLabRef::bare(URL, id), token, payload };
        Ok(JobAnswer::Job(Box::new(ClaimedJob { job, timeout: Some(Duration::from_secs(60)), project: None })))
    }

    async fn verify_runner(&self, _token: &SecretString) -> Result<(), GitLabError> {
        self.call("verify a runner", |_, _| ()).await
    }

    async fn update_job(&self, job: u64, job_token: &str, body: Value) -> Result<Relay, GitLabError> {
        let (token, state) = (job_token.to_owned(), body["state"].as_str().unwrap_or_default().to_owned());
        let answer = self.call("tell a job's state", |queue, now| queue.update(job, &token, &state, now)).await?;
        let now = self.0.now();
        let words = format!("GitLab hears that job {job} ({token}) is {state}: {} {:?}", answer.status, answer.job_status());
        self.0.engine().story.tell(now, &words);
        Ok(answer)
    }

    async fn patch_trace(&self, job: u64, job_token: &str, content_range: &str, _query: &str, body: Bytes) -> Result<Relay, GitLabError> {
        self.call("append to a trace", |queue, now| queue.append(job, job_token, content_range, &body, now)).await
    }

    async fn upload_artifacts(&self, _job: u64, _job_token: &str, _upload: Upload) -> Result<Relay, GitLabError> {
        Ok(Relay::empty(404))
    }

    async fn download_artifacts(&self, _job: u64, _job_token: &str, _query: &str) -> Result<StreamingRelay, GitLabError> {
        Err(GitLabError::Unreachable { doing: "download", source: "not simulated".into() })
    }
}
