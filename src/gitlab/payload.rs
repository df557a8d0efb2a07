//! GitLab's description of a job: the few fields that we read.
//!
//! The text is kept and handed on byte for byte, because the runner is written against GitLab and not against us: fields that we do not
//! know, numbers beyond 2^53 and the order of everything must arrive as they were sent.

use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::domain::{GitLabJob, GitLabRef};

use super::api::ClaimedJob;
use super::keywords;

/// A job description that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the job description is not usable at line {line}, column {column}")]
pub struct BadPayload {
    line: usize,
    column: usize,
}

impl From<serde_json::Error> for BadPayload {
    /// Keeps the place only: the parser's own words may quote the content, and with it a secret.
    fn from(error: serde_json::Error) -> Self {
        Self { line: error.line(), column: error.column() }
    }
}

/// All but `id` and `token` may be missing or of another kind.
#[derive(Deserialize)]
struct Answer {
    #[serde(deserialize_with = "storable")]
    id: u64,
    token: String,
    #[serde(default)]
    job_info: Value,
    #[serde(default)]
    git_info: Value,
    #[serde(default)]
    runner_info: Value,
    #[serde(default)]
    image: Value,
    #[serde(default)]
    services: Value,
    #[serde(default)]
    variables: Value,
}

/// GitLab's ids are signed, and so are those that stores hold.
fn storable<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let id = u64::deserialize(deserializer)?;
    i64::try_from(id).map(|_| id).map_err(D::Error::custom)
}

/// Reads GitLab's answer to a request for work.
///
/// # Errors
/// When it has no usable id or token.
pub fn parse(base_url: &str, payload: String) -> Result<ClaimedJob, BadPayload> {
    if !payload.trim_start().starts_with('{') {
        // An array would be taken for the fields in their order.
        return Err(serde_json::Error::custom("not an object").into());
    }
    let answer: Answer = serde_json::from_str(&payload)?;
    let job_text = |field: &str| answer.job_info[field].as_str().map(str::to_owned);
    let git_text = |field: &str| answer.git_info[field].as_str().map(str::to_owned);
    let reference = GitLabRef {
        url: base_url.to_owned(),
        job_id: answer.id,
        project_id: answer.job_info["project_id"].as_u64(),
        pipeline_id: answer.job_info["pipeline_id"].as_u64(),
        name: job_text("name"),
        stage: job_text("stage"),
        ref_name: git_text("ref"),
        sha: git_text("sha"),
        keywords: keywords::read(&answer.image, &answer.services, &answer.variables),
    };
    Ok(ClaimedJob {
        timeout: answer.runner_info["timeout"].as_u64().filter(|seconds| *seconds > 0).map(Duration::from_secs),
        project: job_text("project_full_path").or_else(|| path_of(git_text("repo_url").as_deref())),
        job: GitLabJob { reference, token: answer.token, payload },
    })
}

/// Older servers do not name the project's path; the address of its repository ends in it.
fn path_of(repo_url: Option<&str>) -> Option<String> {
    let (_, rest) = repo_url?.split_once("://")?;
    let (_, path) = rest.split_once('/')?;
    let path = path.trim_end_matches(".git");
    (!path.is_empty()).then(|| path.to_owned())
}

/// A job whose artifacts the job needs.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Dependency {
    /// GitLab's id of that job.
    pub id: u64,
    /// The token that GitLab takes for the download.
    #[serde(default)]
    pub token: Option<String>,
}

/// The jobs whose artifacts the job may fetch; a list that is missing or makes no sense is empty.
#[must_use]
pub fn dependencies(payload: &str) -> Vec<Dependency> {
    #[derive(Deserialize)]
    struct Answer {
        #[serde(default)]
        dependencies: Value,
    }
    let Ok(answer) = serde_json::from_str::<Answer>(payload) else { return Vec::new() };
    let Value::Array(list) = answer.dependencies else { return Vec::new() };
    list.into_iter().filter_map(|entry| serde_json::from_value(entry).ok()).collect()
}

#[cfg(test)]
#[path = "payload_tests.rs"]
mod tests;
