//! What GitLab's REST API says of jobs, for whoever has an access token with the scope `read_api`: who waits in a project, what is
//! running on one of our runners, how one job stands. The runner protocol has no such questions.
//!
//! A seam, so that tests can put a scripted list in its place. Nothing here is needed to run jobs.

use std::fmt;

use async_trait::async_trait;
use jiff::Timestamp;
use reqwest::{Method, Response};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::api::GitLabError;
use super::client::{ANSWER, HttpGitLab, from_reqwest, is_json, protocol, read_body, refusal, secret_header};

/// Jobs on one page: GitLab's own most.
const PER_PAGE: usize = 100;
/// Most pages that are read of one list; who has more waiting has no use for the exact number.
const MAX_PAGES: usize = 10;
/// Longest page that is read. A job has a few KiB, but its commit's message may be long.
const MAX_PAGE_BYTES: usize = 16 << 20;

/// A job as the REST API shows it, as far as we read it. A field that is missing or null is `None` or empty.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
pub struct ListedJob {
    /// GitLab's id of it.
    pub id: u64,
    /// `pending`, `running`, `canceling`, `canceled`, `failed`, `success` and others; an open set.
    #[serde(default)]
    pub status: String,
    /// The tags that a runner must have to get it.
    #[serde(default, deserialize_with = "or_default")]
    pub tag_list: Vec<String>,
    /// When it was made, which may be long before it began to wait.
    #[serde(default)]
    pub created_at: Option<Timestamp>,
    /// How long it has waited for a runner, in seconds. Missing before GitLab 13.9.
    #[serde(default)]
    pub queued_duration: Option<f64>,
    /// The runner that has it. A job that is `pending` and has one waits for nobody: its runner has yet to confirm it.
    #[serde(default)]
    pub runner: Option<ListedRunner>,
    /// Which of the machines that share the runner's token has it.
    #[serde(default)]
    pub runner_manager: Option<ListedManager>,
    /// Its project; only lists across projects name its id.
    #[serde(default)]
    pub project: Option<ListedProject>,
    /// Its pipeline.
    #[serde(default)]
    pub pipeline: Option<ListedPipeline>,
    /// Its page.
    #[serde(default)]
    pub web_url: Option<String>,
}

/// See [`ListedJob::runner`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
pub struct ListedRunner {
    /// GitLab's id of it.
    pub id: u64,
}

/// See [`ListedJob::runner_manager`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
pub struct ListedManager {
    /// The `system_id` that it shows with every request.
    #[serde(default)]
    pub system_id: Option<String>,
}

/// See [`ListedJob::project`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
pub struct ListedProject {
    /// GitLab's id of it.
    #[serde(default)]
    pub id: Option<u64>,
}

/// The part of a job's pipeline that is read.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
pub struct ListedPipeline {
    /// GitLab's id of the project.
    #[serde(default)]
    pub project_id: Option<u64>,
}

fn or_default<'de, D: serde::Deserializer<'de>, T: Default + Deserialize<'de>>(value: D) -> Result<T, D::Error> {
    Option::deserialize(value).map(Option::unwrap_or_default)
}

/// Whether a list goes on beyond what was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum More {
    /// It is whole.
    No,
    /// Only the first [`ListedJobs::MAX`] were read.
    Yes,
}

/// A list of jobs, each once.
#[derive(Debug, Clone, PartialEq)]
pub struct ListedJobs {
    /// The jobs, newest first.
    pub jobs: Vec<ListedJob>,
    /// Whether there are more.
    pub more: More,
}

impl ListedJobs {
    /// Most jobs in a list.
    pub const MAX: usize = PER_PAGE * MAX_PAGES;
}

/// What GitLab says of jobs. An error concerns the one question only: a project that is not there or not ours to see says nothing of others.
#[async_trait]
pub trait Listing: Send + Sync + fmt::Debug {
    /// The jobs of a project that are `pending`, those that a runner has and did not confirm yet included. `project` is a full path or an id.
    async fn pending(&self, project: &str) -> Result<ListedJobs, GitLabError>;

    /// The jobs that GitLab believes to be running on this coordinator through the runner with this token.
    async fn running(&self, runner_token: &SecretString) -> Result<ListedJobs, GitLabError>;

    /// One job of a project; `None` when there is none, or none that the token may see.
    async fn job(&self, project: u64, job: u64) -> Result<Option<ListedJob>, GitLabError>;
}

/// The REST API over HTTP.
#[derive(Debug)]
pub struct HttpListing {
    http: HttpGitLab,
    system_id: String,
    token: SecretString,
}

impl HttpListing {
    /// A reader of the GitLab at `base_url` with an access token that has the scope `read_api`. `system_id` is the one that
    /// [`HttpGitLab`] shows, so that GitLab can keep our jobs apart from those of others with the same runner.
    ///
    /// # Errors
    /// As [`HttpGitLab::new`].
    pub fn new(base_url: &str, system_id: impl Into<String>, token: SecretString) -> Result<Self, GitLabError> {
        let system_id = system_id.into();
        Ok(Self { http: HttpGitLab::new(base_url, system_id.clone())?, system_id, token })
    }

    async fn ask(&self, path: &str, query: &str, doing: &'static str) -> Result<Response, GitLabError> {
        let request = self.http.call(Method::GET, path, query).header("PRIVATE-TOKEN", secret_header(self.token.expose_secret())).timeout(ANSWER);
        request.send().await.map_err(|error| from_reqwest(error, doing, ANSWER))
    }

    /// Reads a list page by page. Jobs move between pages while we read, so each counts once.
    async fn list(&self, path: &str, query: &str, doing: &'static str) -> Result<ListedJobs, GitLabError> {
        let mut jobs: Vec<ListedJob> = Vec::new();
        let mut page = 1_u64;
        for _ in 0..MAX_PAGES {
            let response = self.ask(path, &format!("{query}&per_page={PER_PAGE}&page={page}"), doing).await?;
            let next = response.headers().get("x-next-page").and_then(|next| next.to_str().ok()?.trim().parse::<u64>().ok());
            let read: Vec<ListedJob> = answer(response, doing).await?;
            for job in read {
                if !jobs.iter().any(|known| known.id == job.id) {
                    jobs.push(job);
                }
            }
            match next {
                Some(next) if next > page => page = next,
                Some(_) | None => return Ok(ListedJobs { jobs, more: More::No }),
            }
        }
        Ok(ListedJobs { jobs, more: More::Yes })
    }

    async fn runner_id(&self, token: &SecretString) -> Result<u64, GitLabError> {
        #[derive(Deserialize)]
        struct Verified {
            id: u64,
        }
        let doing = "tell the id of a class's runner";
        let request = self.http.as_runner("runners/verify", token, json!({}));
        let response = request.send().await.map_err(|error| from_reqwest(error, doing, ANSWER))?;
        Ok(answer::<Verified>(response, doing).await?.id)
    }
}

#[async_trait]
impl Listing for HttpListing {
    async fn pending(&self, project: &str) -> Result<ListedJobs, GitLabError> {
        // A path is one part of the address. All other characters of paths may stand as they are.
        let project = project.replace('/', "%2F");
        self.list(&format!("projects/{project}/jobs"), "scope[]=pending", "list the jobs that wait in a project").await
    }

    async fn running(&self, runner_token: &SecretString) -> Result<ListedJobs, GitLabError> {
        let id = self.runner_id(runner_token).await?;
        // Servers that do not know `system_id` leave it aside, so what they say is looked through once more.
        let query = format!("status=running&system_id={}", self.system_id);
        let mut listed = self.list(&format!("runners/{id}/jobs"), &query, "list what runs on a class's runner").await?;
        listed.jobs.retain(|job| job.is_of(&self.system_id));
        Ok(listed)
    }

    async fn job(&self, project: u64, job: u64) -> Result<Option<ListedJob>, GitLabError> {
        let doing = "show a job";
        let response = self.ask(&format!("projects/{project}/jobs/{job}"), "", doing).await?;
        if response.status().as_u16() == 404 {
            return Ok(None);
        }
        let job: ListedJob = answer(response, doing).await?;
        Ok(job.is_of(&self.system_id).then_some(job))
    }
}

impl ListedJob {
    /// GitLab's id of its project, where the list tells it.
    #[must_use]
    pub fn project_id(&self) -> Option<u64> {
        self.project.as_ref().and_then(|project| project.id).or(self.pipeline.as_ref()?.project_id)
    }

    /// Whether GitLab does not say that another machine has it.
    fn is_of(&self, system_id: &str) -> bool {
        self.runner_manager.as_ref().and_then(|manager| manager.system_id.as_deref()).is_none_or(|other| other == system_id)
    }
}

async fn answer<T: DeserializeOwned>(response: Response, doing: &'static str) -> Result<T, GitLabError> {
    match response.status().as_u16() {
        200..=299 if is_json(response.headers()) => {
            let body = read_body(response, MAX_PAGE_BYTES, doing, ANSWER).await?;
            // The parser's own words may quote the content.
            serde_json::from_slice(&body)
                .map_err(|error| protocol(doing, format_args!("not usable at line {}, column {}", error.line(), error.column())))
        }
        200..=299 => Err(protocol(doing, "the answer is not declared as JSON")),
        // The REST API, unlike the runner protocol, says so to a token that it does not know.
        401 => Err(GitLabError::Denied { doing }),
        404 => Err(protocol(doing, "there is none, or none that the token may see (404)")),
        status => Err(refusal(status, response.headers(), doing)),
    }
}

#[cfg(test)]
#[path = "listing_tests.rs"]
mod tests;
