//! What GitLab's REST API tells and takes about groups, projects, runners and webhooks: only the fields that we use.

use std::collections::BTreeSet;

use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

/// What runners and webhooks belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnerKind {
    /// A project.
    Project,
    /// A group with everything below it.
    Group,
}

impl OwnerKind {
    pub(super) fn pick<T>(self, project: T, group: T) -> T {
        match self {
            Self::Project => project,
            Self::Group => group,
        }
    }

    pub(super) fn collection(self) -> &'static str {
        self.pick("projects", "groups")
    }

    pub(super) fn runner_type(self) -> &'static str {
        self.pick("project_type", "group_type")
    }

    pub(super) fn id_field(self) -> &'static str {
        self.pick("project_id", "group_id")
    }

    /// In words.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.pick("project", "group")
    }
}

/// A group or a project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// Which of the two.
    pub kind: OwnerKind,
    /// GitLab's id.
    pub id: i64,
    /// Its full path.
    pub path: String,
}

impl Owner {
    pub(super) fn api(&self) -> String {
        format!("{}/{}", self.kind.collection(), self.id)
    }
}

#[derive(Deserialize)]
pub(super) struct OwnerRecord {
    pub(super) id: i64,
    pub(super) path_with_namespace: Option<String>,
    pub(super) full_path: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct RunnerId {
    pub(super) id: i64,
}

#[derive(Deserialize)]
pub(super) struct ResetToken {
    #[serde(deserialize_with = "secret")]
    pub(super) token: SecretString,
}

fn secret<'de, D: Deserializer<'de>>(from: D) -> Result<SecretString, D::Error> {
    String::deserialize(from).map(SecretString::from)
}

#[derive(Default, Deserialize)]
pub(super) struct Message {
    pub(super) message: Option<Value>,
    pub(super) error: Option<Value>,
}

/// A runner as it stands in GitLab.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "the record as GitLab tells it")]
pub struct RunnerRecord {
    /// GitLab's id.
    pub id: i64,
    /// What people read, and where our mark stands.
    pub description: Option<String>,
    /// Whether GitLab withholds jobs from it.
    #[serde(default)]
    pub paused: bool,
    /// Jobs whose tags are all among these may come.
    #[serde(default)]
    pub tag_list: BTreeSet<String>,
    /// Whether jobs without tags may come.
    #[serde(default)]
    pub run_untagged: bool,
    /// Longest time of a job, in seconds.
    pub maximum_timeout: Option<u64>,
}

/// A runner as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunnerBody {
    /// Our mark.
    pub description: String,
    /// See [`RunnerRecord`].
    pub tags: BTreeSet<String>,
    /// See [`RunnerRecord`].
    pub run_untagged: bool,
    /// In seconds.
    pub maximum_timeout: u64,
}

impl RunnerBody {
    pub(super) fn to_json(&self) -> Value {
        json!({
            "description": self.description,
            "tag_list": self.tags,
            "run_untagged": self.run_untagged,
            "maximum_timeout": self.maximum_timeout,
            "paused": false,
        })
    }
}

/// A runner that was just made.
#[derive(Debug, Deserialize)]
pub struct NewRunner {
    /// GitLab's id.
    pub id: i64,
    /// Its token, told this once.
    #[serde(deserialize_with = "secret")]
    pub token: SecretString,
}

/// A webhook as it stands in GitLab, which never tells its secrets.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct HookRecord {
    /// GitLab's id.
    pub id: i64,
    /// Where events go.
    pub url: String,
    /// What people read, and where our mark stands; GitLab 17.1 and later.
    pub description: Option<String>,
    /// Whether Job events are sent.
    #[serde(default)]
    pub job_events: bool,
    /// Whether there is a signing token; absent where GitLab cannot sign.
    pub signing_token_present: Option<bool>,
    /// Whether there is a secret token; absent where GitLab does not tell.
    pub token_present: Option<bool>,
    /// `executable`, `temporarily_disabled` or `disabled`.
    pub alert_status: Option<String>,
    /// Until when it is disabled.
    pub disabled_until: Option<String>,
}

/// A webhook as it should be. A secret that is not given stays as it is.
#[derive(Debug)]
pub struct HookBody {
    /// Where events go.
    pub url: String,
    /// Our mark.
    pub description: String,
    /// What signs.
    pub signing_token: Option<SecretString>,
    /// What is sent along.
    pub secret_token: Option<SecretString>,
}

impl HookBody {
    pub(super) fn to_json(&self) -> Value {
        let mut body = json!({
            "url": self.url,
            "name": "Runner Coordinator",
            "description": self.description,
            "job_events": true,
        });
        if let Some(token) = &self.signing_token {
            body["signing_token"] = token.expose_secret().into();
        }
        if let Some(token) = &self.secret_token {
            body["token"] = token.expose_secret().into();
        }
        body
    }
}

/// What became of one event of a webhook.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct HookEvent {
    /// GitLab's id; a later event has a higher one.
    pub id: i64,
    /// The HTTP status that we answered, or `internal error` when there was no answer.
    #[serde(default)]
    pub response_status: Value,
    /// What went wrong when there was no answer; not every version of GitLab tells.
    pub internal_error_message: Option<String>,
}

/// A job that waits for a runner.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct PendingJob {
    /// GitLab's id.
    pub id: i64,
    /// Its name.
    pub name: String,
    /// Its tags.
    #[serde(default)]
    pub tag_list: BTreeSet<String>,
}
