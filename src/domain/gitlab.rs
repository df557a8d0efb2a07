//! What we keep of a job that came from GitLab.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Which job of which GitLab: what the API shows of a job's origin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GitLabRef {
    /// Base URL of the GitLab instance.
    pub url: String,
    /// GitLab's id of the job.
    pub job_id: u64,
    /// GitLab's id of the project.
    pub project_id: Option<u64>,
    /// GitLab's id of the pipeline.
    pub pipeline_id: Option<u64>,
    /// The job's name in `.gitlab-ci.yml`.
    pub name: Option<String>,
    /// Its stage.
    pub stage: Option<String>,
    /// Branch or tag.
    pub ref_name: Option<String>,
    /// Commit.
    pub sha: Option<String>,
    /// What the job asks of its container; nothing in rows of versions that did not read it.
    #[serde(default)]
    pub keywords: Keywords,
    /// When the event came that told of the job; `None` when it was found without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook_at: Option<Timestamp>,
}

impl GitLabRef {
    /// A job of which nothing but its id is known.
    #[must_use]
    pub fn bare(url: impl Into<String>, job_id: u64) -> Self {
        Self {
            url: url.into(),
            job_id,
            project_id: None,
            pipeline_id: None,
            name: None,
            stage: None,
            ref_name: None,
            sha: None,
            keywords: Keywords::default(),
            webhook_at: None,
        }
    }
}

/// What a job's `.gitlab-ci.yml` asks of its container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Keywords {
    /// `image:`, if there is one.
    pub image: Option<NamedImage>,
    /// Whether there are any `services:`.
    pub has_services: bool,
}

/// The image that a job names. It comes from outside and may be no image reference at all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedImage {
    /// Its name, with the job's variables put in.
    pub name: String,
    /// The same for people to read: as it was written, when a variable in it is masked.
    pub shown: String,
}

/// The part of a GitLab job that the broker needs and nobody else may see. Forgotten when the job has ended.
#[derive(Clone, PartialEq, Eq)]
pub struct GitLabJob {
    /// Which job it is.
    pub reference: GitLabRef,
    /// GitLab's token of this one job.
    pub token: String,
    /// The answer to `POST /jobs/request`, byte for byte, as the runner gets it.
    pub payload: String,
}

impl std::fmt::Debug for GitLabJob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GitLabJob").field("reference", &self.reference).finish_non_exhaustive()
    }
}
