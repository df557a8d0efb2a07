//! `[gitlab]`: the GitLab to work for, and what it may be looked at with.

use std::time::Duration;

use secrecy::{SecretSlice, SecretString};

use super::section::Section;
use super::values::{self, DAY, HOUR, SECOND, duration};

/// The GitLab to work for.
#[derive(Debug, Clone)]
pub struct GitLab {
    /// `gitlab.url`: its base URL, `http` or `https`, without a slash at the end.
    pub url: String,
    /// `gitlab.webhook.signing_token` (one or a list) or `gitlab.webhook.signing_token_file`: the keys that may sign webhooks, 32 bytes each.
    /// More than one lets the token be changed without a lost event.
    pub webhook_signing_keys: Vec<SecretSlice<u8>>,
    /// `gitlab.webhook.secret_token` (one or a list) or `gitlab.webhook.secret_token_file`: what `X-Gitlab-Token` may be.
    /// More than one lets the secret be changed without a lost event. Without this and a signing token webhooks are refused.
    pub webhook_secret_tokens: Vec<SecretString>,
    /// `gitlab.poll_interval`, default `15s`: how often GitLab is asked for work without an event.
    pub poll_interval: Duration,
    /// `gitlab.read_token` or `gitlab.read_token_file`, default none: access token with the scope `read_api`, to see GitLab's queue.
    pub read_token: Option<SecretString>,
    /// `gitlab.projects`, default none: the projects whose queue is looked at, each a full path or an id. Needs `read_token`.
    pub projects: Vec<String>,
    /// `gitlab.repair_interval`, default `10m`: how often what is here is compared with what GitLab says.
    pub repair_interval: Duration,
}

impl GitLab {
    /// The GitLab at this base URL with nothing but defaults.
    #[must_use]
    pub fn at(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            webhook_signing_keys: Vec::new(),
            webhook_secret_tokens: Vec::new(),
            poll_interval: Duration::from_secs(15),
            read_token: None,
            projects: Vec::new(),
            repair_interval: Duration::from_secs(10 * 60),
        }
    }
}

/// Reads `[gitlab]`.
pub(super) fn read(section: &mut Section<'_>) -> Option<GitLab> {
    let url = section.required("url", values::base_url);
    let (webhook_signing_keys, webhook_secret_tokens) = section.within("webhook", |webhook| {
        let keys = webhook.secrets_read_by("signing_token", |field, token| values::signing_key(field, &token));
        (keys, webhook.secrets("secret_token"))
    });
    let base = GitLab::at(url.clone().unwrap_or_default());
    let poll_interval = section.parsed("poll_interval", duration(SECOND..=HOUR)).unwrap_or(base.poll_interval);
    let read_token = section.secret("read_token");
    let projects = projects(section);
    if section.has("projects") && !section.has("read_token") && !section.has("read_token_file") {
        section.fault("projects", "needs gitlab.read_token: without one nobody's queue can be seen");
    }
    // A second is for tests; in production minutes do, because events and the runners' own words come long before.
    let repair_interval = section.parsed("repair_interval", duration(SECOND..=DAY)).unwrap_or(base.repair_interval);
    Some(GitLab { url: url?, webhook_signing_keys, webhook_secret_tokens, poll_interval, read_token, projects, repair_interval })
}

/// The projects whose queue is looked at.
fn projects(section: &mut Section<'_>) -> Vec<String> {
    const MOST: usize = 100;
    let projects = section.texts_or_numbers("projects");
    if projects.len() > MOST || !projects.iter().all(|project| values::is_project(project)) {
        section.fault("projects", format!("must be at most {MOST} projects, each a full path such as \"team/app\" or an id such as 42"));
    }
    projects
}
