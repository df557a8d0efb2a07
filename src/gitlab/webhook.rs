//! Reads GitLab's Job event, tolerantly: what decides anything must make sense, everything else may be missing, null or new.
//!
//! The event is a doorbell: it tells when to ask GitLab for work and when to look at a job again, never what a job is.

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

/// `X-Gitlab-Event` of a Job event.
const JOB_HOOK: &str = "Job Hook";
/// `object_kind` of a Job event.
const JOB_KIND: &str = "build";
/// Longest text that is kept, in bytes as sent; a longer one reads as absent. GitLab's own names are at most 255 characters.
const MAX_TEXT: usize = 4096;

/// The status of a job in GitLab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BuildStatus {
    /// `created`: it may not run yet.
    Created,
    /// `pending`: it waits for a runner.
    Pending,
    /// `running`.
    Running,
    /// `success`.
    Success,
    /// `failed`.
    Failed,
    /// `canceled`.
    Canceled,
    /// Any other: GitLab knows more, and may learn new ones.
    Other(String),
}

impl BuildStatus {
    fn from_name(name: &str) -> Self {
        match name {
            "created" => Self::Created,
            "pending" => Self::Pending,
            "running" => Self::Running,
            "success" => Self::Success,
            "failed" => Self::Failed,
            "canceled" => Self::Canceled,
            other => Self::Other(other.to_owned()),
        }
    }

    /// GitLab's name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Created => "created",
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Success => "success",
            Self::Failed => "failed",
            Self::Canceled => "canceled",
            Self::Other(name) => name,
        }
    }
}

/// A Job event. Times stay texts, because GitLab writes them in two forms and we decide nothing by them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobEvent {
    /// The job's id; a retry of a job in GitLab has a new one.
    pub build_id: u64,
    /// Its status when the event was made, which may be long ago.
    pub status: BuildStatus,
    /// The project's id.
    pub project_id: Option<u64>,
    /// The project's path with its groups; GitLab's older versions do not send it.
    pub project_path: Option<String>,
    /// The job's name.
    pub name: Option<String>,
    /// Its stage.
    pub stage: Option<String>,
    /// Branch or tag.
    pub ref_name: Option<String>,
    /// Commit.
    pub sha: Option<String>,
    /// The pipeline's id.
    pub pipeline_id: Option<u64>,
    /// The runner that has the job; `None` until one took it.
    pub runner_id: Option<u64>,
    /// Why it failed; `None` also where GitLab says `unknown_failure`, which it does of jobs that did not fail.
    pub failure_reason: Option<String>,
    /// How often a job of this name was retried in the pipeline.
    pub retries_count: Option<u64>,
    /// The job's tags. GitLab does not send them yet; `None` when it does not.
    pub tags: Option<Vec<String>>,
    /// When it was created.
    pub created_at: Option<String>,
    /// When it started.
    pub started_at: Option<String>,
    /// When it ended.
    pub finished_at: Option<String>,
}

/// What a webhook's body is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reading {
    /// A Job event.
    Job(Box<JobEvent>),
    /// Nothing that concerns us.
    Ignored(String),
}

/// The body is not JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the body is not JSON (line {line}, column {column})")]
pub struct NotJson {
    /// Where, counted from 1.
    pub line: usize,
    /// Where in the line.
    pub column: usize,
}

/// The event as it is sent, each value unread: of a body of megabytes only these pieces are looked at.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Wire<'a> {
    #[serde(borrow)]
    object_kind: Option<&'a RawValue>,
    build_id: Option<&'a RawValue>,
    build_status: Option<&'a RawValue>,
    build_name: Option<&'a RawValue>,
    build_stage: Option<&'a RawValue>,
    build_failure_reason: Option<&'a RawValue>,
    build_created_at: Option<&'a RawValue>,
    build_started_at: Option<&'a RawValue>,
    build_finished_at: Option<&'a RawValue>,
    #[serde(rename = "ref")]
    ref_name: Option<&'a RawValue>,
    sha: Option<&'a RawValue>,
    pipeline_id: Option<&'a RawValue>,
    project_id: Option<&'a RawValue>,
    retries_count: Option<&'a RawValue>,
    tag_list: Option<&'a RawValue>,
    tags: Option<&'a RawValue>,
    runner: Option<&'a RawValue>,
    project: Option<&'a RawValue>,
}

/// What we read of the event's `runner`.
#[derive(Deserialize)]
struct WireRunner<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
}

/// What we read of the event's `project`.
#[derive(Deserialize)]
struct WireProject<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    path_with_namespace: Option<&'a RawValue>,
}

/// Reads a webhook's body. `header_event` is `X-Gitlab-Event`; without that header the body alone decides.
///
/// # Errors
/// When the body is not JSON.
pub fn read_event(header_event: Option<&str>, body: &[u8]) -> Result<Reading, NotJson> {
    let ignored = |reason: String| Ok(Reading::Ignored(reason));
    if body.trim_ascii_start().first() != Some(&b'{') {
        // An array would be taken for the fields in their order.
        serde_json::from_slice::<IgnoredAny>(body).map_err(|error| NotJson::from(&error))?;
        return ignored("not a JSON object".to_owned());
    }
    let wire: Wire<'_> = match serde_json::from_slice(body) {
        Ok(wire) => wire,
        Err(error) if error.is_data() => {
            serde_json::from_slice::<IgnoredAny>(body).map_err(|error| NotJson::from(&error))?;
            return ignored("a field stands in it twice".to_owned());
        }
        Err(error) => return Err(NotJson::from(&error)),
    };
    if let Some(event) = header_event.filter(|event| *event != JOB_HOOK) {
        return ignored(format!("not a Job event but {}", shown(event)));
    }
    match text(wire.object_kind).as_deref() {
        Some(JOB_KIND) => {}
        Some(kind) => return ignored(format!("not a Job event but of kind {}", shown(kind))),
        None => return ignored("an event without object_kind".to_owned()),
    }
    match (number(wire.build_id), text(wire.build_status)) {
        (None, _) => ignored("a Job event without a build_id that is a whole number".to_owned()),
        (_, None) => ignored("a Job event without build_status".to_owned()),
        (Some(build_id), Some(status)) => Ok(Reading::Job(Box::new(event_of(&wire, build_id, &status)))),
    }
}

fn event_of(wire: &Wire<'_>, build_id: u64, status: &str) -> JobEvent {
    let runner: Option<WireRunner<'_>> = wire.runner.and_then(read);
    let project: Option<WireProject<'_>> = wire.project.and_then(read);
    let inner_id = project.as_ref().and_then(|project| number(project.id));
    JobEvent {
        build_id,
        status: BuildStatus::from_name(status),
        project_id: number(wire.project_id).or(inner_id),
        project_path: project.and_then(|project| text(project.path_with_namespace)),
        name: text(wire.build_name),
        stage: text(wire.build_stage),
        ref_name: text(wire.ref_name),
        sha: text(wire.sha),
        pipeline_id: number(wire.pipeline_id),
        runner_id: runner.and_then(|runner| number(runner.id)),
        failure_reason: text(wire.build_failure_reason).filter(|reason| reason != "unknown_failure"),
        retries_count: number(wire.retries_count),
        tags: wire.tag_list.or(wire.tags).and_then(read),
        created_at: text(wire.build_created_at),
        started_at: text(wire.build_started_at),
        finished_at: text(wire.build_finished_at),
    }
}

impl From<&serde_json::Error> for NotJson {
    fn from(error: &serde_json::Error) -> Self {
        Self { line: error.line(), column: error.column() }
    }
}

/// A value of the type that we expect; any other reads as absent.
fn read<'a, T: Deserialize<'a>>(raw: &'a RawValue) -> Option<T> {
    serde_json::from_str(raw.get()).ok()
}

fn number(raw: Option<&RawValue>) -> Option<u64> {
    raw.and_then(read)
}

/// A text of bearable length.
fn text(raw: Option<&RawValue>) -> Option<String> {
    raw.filter(|raw| raw.get().len() <= MAX_TEXT).and_then(read)
}

/// What a stranger named, fit for a line of a log.
fn shown(name: &str) -> String {
    name.chars().take(64).collect::<String>().escape_debug().to_string()
}

#[cfg(test)]
#[path = "webhook_tests.rs"]
mod tests;
