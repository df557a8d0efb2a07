//! What waits in GitLab's own queue, project by project: read with an access token now and then, shown in `/status`.
//!
//! Only for people. What is run is decided by asking GitLab for work, never by these lists.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tracing::warn;

use super::deps::Shared;
use crate::config::{Class, Config};
use crate::domain::{ClassName, JobId, chain};
use crate::gitlab::{GitLabError, ListedJob, ListedJobs, Listing, More};

/// What GitLab says of jobs, as it was looked at last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GitLabQueue {
    /// The configured projects, in their order.
    pub projects: Vec<ProjectQueue>,
    /// Jobs that GitLab believes to be running here and that do not.
    pub stranded: Vec<Stranded>,
    /// What went wrong when GitLab was last asked what runs here.
    pub error: Option<String>,
}

/// What waits in one project.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProjectQueue {
    /// As configured: full path or id.
    pub project: String,
    /// When GitLab last said; `None` before that.
    pub as_of: Option<Timestamp>,
    /// Jobs that wait for a runner.
    pub pending: u64,
    /// Whether more wait than were counted.
    pub more: bool,
    /// Since when the one that waits longest does.
    pub oldest_at: Option<Timestamp>,
    /// How many of them ask for each tag.
    pub tags: BTreeMap<String, u64>,
    /// How many ask for none.
    pub untagged: u64,
    /// Those of the tags that no class here has. Empty when a class for GitLab does not tell its tags.
    pub tags_of_no_class: Vec<String>,
    /// What went wrong last time.
    pub error: Option<String>,
}

/// A job that GitLab believes to be running here, and which does not: it got lost between GitLab's answer and our store, or its end was
/// never told. Nobody has its token any more, so only GitLab or a person there can end it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stranded {
    /// GitLab's id of it.
    pub gitlab_id: u64,
    /// The class through whose runner GitLab gave it away.
    pub class: ClassName,
    /// Its page in GitLab, where it can be cancelled.
    pub url: Option<String>,
    /// Our record of it, which has ended; `None` when we never got it.
    pub job: Option<JobId>,
}

/// Where the latest look is kept.
#[derive(Debug, Default)]
pub(super) struct QueueBoard(Mutex<Option<Arc<GitLabQueue>>>);

impl QueueBoard {
    /// The latest look.
    pub(super) fn read(&self) -> Option<Arc<GitLabQueue>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn post(&self, change: impl FnOnce(&mut GitLabQueue)) {
        let mut latest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        change(Arc::make_mut(latest.get_or_insert_default()));
    }
}

/// Looks at every project. `Err` is how long GitLab wants to be left alone.
pub(super) async fn look(shared: &Shared, listing: &dyn Listing, config: &Config) -> Result<(), Duration> {
    let projects = config.gitlab.as_ref().map_or(&[][..], |gitlab| &gitlab.projects);
    let served = served_tags(&config.classes);
    let mut seen: Vec<ProjectQueue> = projects.iter().map(|project| known(shared, project)).collect();
    let mut wait = Ok(());
    for queue in &mut seen {
        match listing.pending(&queue.project).await {
            Ok(listed) => *queue = depth(&queue.project, &listed, served.as_ref(), shared.deps.clock.now()),
            Err(error) => {
                let text = chain(&error);
                if queue.error.as_ref() != Some(&text) {
                    warn!(project = queue.project, error = text, "the jobs that wait in a project of GitLab cannot be listed");
                }
                queue.error = Some(text);
                if is_everybodys(&error) {
                    wait = Err(error.retry_after().unwrap_or_default());
                    break;
                }
            }
        }
    }
    shared.queue_there.post(|all| all.projects = seen);
    wait
}

/// What was known of a project before.
fn known(shared: &Shared, project: &str) -> ProjectQueue {
    let before = shared.queue_there.read();
    let found = before.as_ref().and_then(|all| all.projects.iter().find(|queue| queue.project == project));
    found.cloned().unwrap_or_else(|| ProjectQueue { project: project.to_owned(), ..ProjectQueue::default() })
}

/// Whether the next question would meet with the same.
pub(super) fn is_everybodys(error: &GitLabError) -> bool {
    match error {
        GitLabError::Unreachable { .. } | GitLabError::Deadline { .. } | GitLabError::TooMany { .. } => true,
        GitLabError::Denied { .. } | GitLabError::Conflict | GitLabError::Server { .. } | GitLabError::Protocol { .. } => false,
    }
}

/// The tags that classes for GitLab have; `None` when one of them does not tell its own.
fn served_tags(classes: &[Class]) -> Option<BTreeSet<String>> {
    let mut serving = classes.iter().filter(|class| class.gitlab_token.is_some()).peekable();
    serving.peek()?;
    let tags: Vec<&Class> = serving.collect();
    tags.iter().all(|class| !class.tags.is_empty()).then(|| tags.iter().flat_map(|class| class.tags.iter().cloned()).collect())
}

/// How much waits in a project.
fn depth(project: &str, listed: &ListedJobs, served: Option<&BTreeSet<String>>, now: Timestamp) -> ProjectQueue {
    let mut queue = ProjectQueue { project: project.to_owned(), as_of: Some(now), more: listed.more == More::Yes, ..ProjectQueue::default() };
    for job in listed.jobs.iter().filter(|job| job.runner.is_none()) {
        queue.pending += 1;
        queue.untagged += u64::from(job.tag_list.is_empty());
        for tag in job.tag_list.iter().collect::<BTreeSet<_>>() {
            *queue.tags.entry(tag.clone()).or_default() += 1;
        }
        if let Some(since) = waits_since(job, now) {
            queue.oldest_at = Some(queue.oldest_at.map_or(since, |oldest| oldest.min(since)));
        }
    }
    queue.tags_of_no_class = served.map_or_else(Vec::new, |served| queue.tags.keys().filter(|tag| !served.contains(*tag)).cloned().collect());
    queue
}

fn waits_since(job: &ListedJob, now: Timestamp) -> Option<Timestamp> {
    let waited = job.queued_duration.and_then(|seconds| SignedDuration::try_from_secs_f64(seconds).ok());
    waited.and_then(|waited| now.checked_sub(waited).ok()).or(job.created_at)
}

#[cfg(test)]
#[path = "queue_there_tests.rs"]
mod tests;
