//! What `/status` shows of GitLab's own queue.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use super::health::seconds_between;
use crate::jobs::{GitLabQueue, ProjectQueue, Stranded};

/// What GitLab says of jobs, as it was looked at last.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = GitLabQueue)]
pub(super) struct GitLabQueueDto {
    projects: Vec<ProjectDto>,
    /// Jobs that GitLab believes to be running here, and which are not.
    stranded: Vec<StrandedDto>,
    error: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = GitLabProjectQueue)]
struct ProjectDto {
    project: String,
    #[schema(value_type = Option<String>, format = DateTime)]
    as_of: Option<Timestamp>,
    pending: u64,
    /// More wait than were counted.
    more: bool,
    oldest_wait_seconds: Option<u64>,
    /// How many ask for each tag.
    tags: BTreeMap<String, u64>,
    untagged: u64,
    tags_of_no_class: Vec<String>,
    error: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = StrandedJob)]
struct StrandedDto {
    gitlab_job_id: u64,
    class: String,
    url: Option<String>,
    /// Our record of it.
    job: Option<String>,
}

impl GitLabQueueDto {
    pub(super) fn new(queue: &GitLabQueue, now: Timestamp) -> Self {
        Self {
            projects: queue.projects.iter().map(|project| ProjectDto::new(project, now)).collect(),
            stranded: queue.stranded.iter().map(StrandedDto::from).collect(),
            error: queue.error.clone(),
        }
    }
}

impl ProjectDto {
    fn new(queue: &ProjectQueue, now: Timestamp) -> Self {
        Self {
            project: queue.project.clone(),
            as_of: queue.as_of,
            pending: queue.pending,
            more: queue.more,
            oldest_wait_seconds: queue.oldest_at.map(|oldest| seconds_between(oldest, now)),
            tags: queue.tags.clone(),
            untagged: queue.untagged,
            tags_of_no_class: queue.tags_of_no_class.clone(),
            error: queue.error.clone(),
        }
    }
}

impl From<&Stranded> for StrandedDto {
    fn from(stranded: &Stranded) -> Self {
        Self {
            gitlab_job_id: stranded.gitlab_id,
            class: stranded.class.to_string(),
            url: stranded.url.clone(),
            job: stranded.job.as_ref().map(ToString::to_string),
        }
    }
}
