//! What a test says about a job before it exists ([`JobSpec`]) and what it may see afterwards ([`JobView`]).

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// One CI variable of a job.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Variable {
    /// Name, as the script sees it.
    pub(crate) key: String,
    /// Value, never expanded here.
    pub(crate) value: String,
    /// Whether GitLab asks runners to hide the value in traces.
    #[serde(default)]
    pub(crate) masked: bool,
}

/// A job as a project's `.gitlab-ci.yml` would describe it; build one with [`JobSpec::new`] and the setters.
///
/// The repository is never fetched: every job carries `GIT_STRATEGY=none` unless it sets that variable itself.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct JobSpec {
    /// Job name; free text in GitLab.
    pub(crate) name: String,
    /// Stage of the job.
    pub(crate) stage: String,
    /// Full path of the project, such as `ml-team/trainer`.
    pub(crate) project: String,
    /// Numeric id of the project.
    pub(crate) project_id: i64,
    /// Branch or tag name.
    #[serde(rename = "ref")]
    pub(crate) git_ref: String,
    /// Tags that a runner must carry to be given the job.
    pub(crate) tags: Vec<String>,
    /// Lines of the `script` step.
    pub(crate) script: Vec<String>,
    /// Lines of the `after_script` step; no such step when empty.
    pub(crate) after_script: Vec<String>,
    /// Variables beside the predefined ones.
    pub(crate) variables: Vec<Variable>,
    /// `services:` of the job.
    pub(crate) services: Vec<String>,
    /// `image:` of the job, if any.
    pub(crate) image: Option<String>,
    /// Paths of one zip artifact; none when empty.
    pub(crate) artifacts: Vec<String>,
    /// Ids of earlier jobs whose artifacts the job may download.
    pub(crate) dependencies: Vec<i64>,
    /// Job timeout in seconds.
    pub(crate) timeout_seconds: u64,
    /// `allow_failure:` of the job.
    pub(crate) allow_failure: bool,
    /// Message of the commit the pipeline runs for.
    pub(crate) commit_message: String,
}

impl Default for JobSpec {
    fn default() -> Self {
        Self {
            name: "job".into(),
            stage: "test".into(),
            project: "ml-team/trainer".into(),
            project_id: 282,
            git_ref: "main".into(),
            tags: Vec::new(),
            script: vec!["true".into()],
            after_script: Vec::new(),
            variables: Vec::new(),
            image: None,
            services: Vec::new(),
            artifacts: Vec::new(),
            dependencies: Vec::new(),
            timeout_seconds: 3600,
            allow_failure: false,
            commit_message: "Bump version\n".into(),
        }
    }
}

/// Owned copies of a list of texts.
fn owned<'a>(texts: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    texts.into_iter().map(str::to_owned).collect()
}

impl JobSpec {
    /// A job of that name in the project `ml-team/trainer` whose script is `true`.
    pub(crate) fn new(name: &str) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// Puts the job into the project with this path and id.
    pub(crate) fn project(mut self, path: &str, id: i64) -> Self {
        self.project = path.into();
        self.project_id = id;
        self
    }

    /// Sets the tags a runner must carry.
    pub(crate) fn tags<'a>(mut self, tags: impl IntoIterator<Item = &'a str>) -> Self {
        self.tags = owned(tags);
        self
    }

    /// Sets the lines of the script.
    pub(crate) fn script<'a>(mut self, lines: impl IntoIterator<Item = &'a str>) -> Self {
        self.script = owned(lines);
        self
    }

    /// Sets the lines that run after the script, however it ended.
    pub(crate) fn after_script<'a>(mut self, lines: impl IntoIterator<Item = &'a str>) -> Self {
        self.after_script = owned(lines);
        self
    }

    /// Adds a visible variable.
    pub(crate) fn variable(mut self, key: &str, value: &str) -> Self {
        self.variables.push(Variable { key: key.into(), value: value.into(), masked: false });
        self
    }

    /// Adds a variable whose value runners hide in traces.
    pub(crate) fn masked_variable(mut self, key: &str, value: &str) -> Self {
        self.variables.push(Variable { key: key.into(), value: value.into(), masked: true });
        self
    }

    /// Sets `services:`.
    pub(crate) fn services<S: Into<String>>(mut self, services: impl IntoIterator<Item = S>) -> Self {
        self.services = services.into_iter().map(Into::into).collect();
        self
    }

    /// Sets `image:`.
    pub(crate) fn image(mut self, image: &str) -> Self {
        self.image = Some(image.into());
        self
    }

    /// Asks for one zip artifact with these paths.
    pub(crate) fn artifacts<'a>(mut self, paths: impl IntoIterator<Item = &'a str>) -> Self {
        self.artifacts = owned(paths);
        self
    }

    /// Lets the job download the artifacts of an earlier job.
    pub(crate) fn needs(mut self, job: i64) -> Self {
        self.dependencies.push(job);
        self
    }

    /// Sets the job timeout; whole seconds count.
    pub(crate) fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout_seconds = timeout.as_secs();
        self
    }

    /// Lets the pipeline pass even when this job fails.
    pub(crate) fn allow_failure(mut self) -> Self {
        self.allow_failure = true;
        self
    }

    /// Sets the commit message, which GitLab repeats in every Job event.
    pub(crate) fn commit_message(mut self, message: &str) -> Self {
        self.commit_message = message.into();
        self
    }
}

/// The part of GitLab's job states that this stand-in walks through.
///
/// ```text
/// pending ──> running ──> success | failed | canceled
///    │           └──> canceling ──> canceled      (runner with `cancel_gracefully`)
///    └──> canceled
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Status {
    /// Waits for a runner, or for the runner's confirmation in a two-phase commit.
    Pending,
    /// A runner works on it.
    Running,
    /// Ended well.
    Success,
    /// Ended badly.
    Failed,
    /// Cancelled while running; the runner has been told and may still finish gracefully.
    Canceling,
    /// Cancelled.
    Canceled,
}

impl Status {
    /// GitLab's own spelling.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Success => "success",
            Self::Failed => "failed",
            Self::Canceling => "canceling",
            Self::Canceled => "canceled",
        }
    }

    /// Whether nothing can happen to the job any more.
    pub(crate) const fn is_final(self) -> bool {
        match self {
            Self::Success | Self::Failed | Self::Canceled => true,
            Self::Pending | Self::Running | Self::Canceling => false,
        }
    }
}

/// One uploaded artifact archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct ArtifactView {
    /// File name from the multipart form.
    pub(crate) name: String,
    /// Number of bytes.
    pub(crate) size: u64,
    /// Their SHA-256.
    pub(crate) sha256: String,
    /// The archive itself, unless it is too big to be kept; left out of the control API's JSON.
    #[serde(skip)]
    pub(crate) bytes: Vec<u8>,
}

/// One accepted or refused `PUT /jobs/:id`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct UpdateView {
    /// The `state` the runner sent.
    pub(crate) state: String,
    /// The reason it gave for a failure.
    pub(crate) failure_reason: Option<String>,
    /// The exit code it gave.
    pub(crate) exit_code: Option<i64>,
    /// HTTP status of the answer.
    pub(crate) answer: u16,
}

/// Everything GitLab knows about one job, copied out at one moment.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct JobView {
    /// Job id.
    pub(crate) id: i64,
    /// Job name.
    pub(crate) name: String,
    /// Project path.
    pub(crate) project: String,
    /// Project id.
    pub(crate) project_id: i64,
    /// Where it stands.
    pub(crate) status: Status,
    /// Runner entity that was given the job last.
    pub(crate) runner_id: Option<i64>,
    /// The trace so far, as text.
    pub(crate) trace: String,
    /// Reason of a failure.
    pub(crate) failure_reason: Option<String>,
    /// Exit code the runner reported.
    pub(crate) exit_code: Option<i64>,
    /// Uploaded archives, oldest first.
    pub(crate) artifacts: Vec<ArtifactView>,
    /// How often the job was handed to a runner; more than one means that somebody may have run it twice.
    pub(crate) n_assigned: u32,
    /// Status updates received from runners, oldest first.
    pub(crate) updates: Vec<UpdateView>,
    /// How long it waited until it ran; nothing before that.
    #[serde(skip)]
    pub(crate) waited: Option<Duration>,
    /// The token that is good for this job's calls.
    #[serde(skip)]
    pub(crate) job_token: String,
}
