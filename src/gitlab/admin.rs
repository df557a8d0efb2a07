//! GitLab's REST API as an administrator uses it, once, to make runners and webhooks, and to look what is wrong with them.
//!
//! The token is a person's and opens much more than ours: it is held for the length of one command, sent in one header, and written nowhere.

mod records;

use std::fmt;

use reqwest::{Client, Method, RequestBuilder, Response};
use secrecy::{ExposeSecret as _, SecretString};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::api::GitLabError;
use super::client::{ANSWER, from_reqwest, http_client, protocol, read_body, refusal, secret_header};

pub use records::{HookBody, HookEvent, HookRecord, NewRunner, Owner, OwnerKind, PendingJob, RunnerBody, RunnerRecord};
use records::{Message, OwnerRecord, ResetToken, RunnerId};

/// Longest answer that is read: a list of a hundred webhooks, or events with their bodies.
const MAX_BYTES: usize = 8 << 20;
/// Most pages of one list, of a hundred entries each: GitLab lets a project have a thousand runners.
const MAX_PAGES: u32 = 20;
/// Longest part of GitLab's own words that we repeat.
const MAX_MESSAGE_CHARS: usize = 300;
/// Under which name the runners' tokens are tried out. Shows in GitLab as a manager of the runner.
const SYSTEM_ID: &str = "r_check";

/// Why GitLab did not do what an administrator wants. Never contains a token.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// 401.
    #[error("GitLab does not take the administrator's token (wrong, expired or revoked), asked to {doing}")]
    Token {
        /// What was being done, as a verb phrase.
        doing: &'static str,
    },
    /// 403.
    #[error("the administrator's token may not {doing}{}", said(message))]
    Forbidden {
        /// What was being done.
        doing: &'static str,
        /// GitLab's words, cut and cleaned.
        message: String,
    },
    /// 404: it is not there, or the token may not know that it is.
    #[error("GitLab knows nothing of what it was to {doing}")]
    NotFound {
        /// What was being done.
        doing: &'static str,
    },
    /// 400 or 422: GitLab's rules are against it.
    #[error("GitLab refuses to {doing}{}", said(message))]
    Refused {
        /// What was being done.
        doing: &'static str,
        /// GitLab's words, cut and cleaned.
        message: String,
    },
    /// Everything that can also go wrong for a runner.
    #[error(transparent)]
    Call(#[from] GitLabError),
}

fn said(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(": {message}") }
}

impl AdminError {
    /// Whether GitLab refused the address of a webhook because it is one of a private network.
    #[must_use]
    pub fn is_private_address(&self) -> bool {
        matches!(self, Self::Refused { message, .. } if is_private_address(message))
    }
}

/// Whether GitLab's words say that it does not send to this address.
#[must_use]
pub fn is_private_address(message: &str) -> bool {
    let message = message.to_lowercase();
    ["is blocked", "local network", "localhost", "invalid url given"].iter().any(|sign| message.contains(sign))
}

/// One GitLab in an administrator's hands.
pub struct GitLabAdmin {
    client: Client,
    base_url: String,
    token: SecretString,
}

impl fmt::Debug for GitLabAdmin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GitLabAdmin").field("base_url", &self.base_url).finish_non_exhaustive()
    }
}

impl GitLabAdmin {
    /// The GitLab at `base_url`.
    ///
    /// # Errors
    /// As [`super::HttpGitLab::new`].
    pub fn new(base_url: &str, token: SecretString) -> Result<Self, GitLabError> {
        Ok(Self { client: http_client(base_url)?, base_url: base_url.trim_end_matches('/').to_owned(), token })
    }

    /// The group or project, by path or id.
    ///
    /// # Errors
    /// [`AdminError::NotFound`] when there is none that this token may see.
    pub async fn owner(&self, kind: OwnerKind, path: &str) -> Result<Owner, AdminError> {
        let doing = kind.pick("show the project", "show the group");
        let record: OwnerRecord = self.get(&format!("{}/{}", kind.collection(), escaped(path)), doing).await?;
        Ok(Owner { kind, id: record.id, path: record.path_with_namespace.or(record.full_path).unwrap_or_else(|| path.to_owned()) })
    }

    /// The runners that belong to it, itself and not through what is above it, and whose description begins with `mark`.
    ///
    /// # Errors
    /// Why there is no list.
    pub async fn runners(&self, owner: &Owner, mark: &str) -> Result<Vec<RunnerRecord>, AdminError> {
        let path = format!("{}/runners?type={}", owner.api(), owner.kind.runner_type());
        let listed: Vec<RunnerRecord> = self.list(&path, "list its runners (scope api, or manage_runner)").await?;
        let mut runners = Vec::new();
        // The list tells no tags.
        for listed in listed.into_iter().filter(|runner| runner.description.as_deref().is_some_and(|text| text.starts_with(mark))) {
            runners.extend(self.runner(listed.id).await?);
        }
        Ok(runners)
    }

    /// One runner; `None` when it is gone.
    ///
    /// # Errors
    /// Why it is not shown.
    pub async fn runner(&self, id: i64) -> Result<Option<RunnerRecord>, AdminError> {
        match self.get(&format!("runners/{id}"), "show a runner").await {
            Err(AdminError::NotFound { .. }) => Ok(None),
            other => other.map(Some),
        }
    }

    /// Makes a runner. Its token is in this answer and in no later one.
    ///
    /// # Errors
    /// Why it was not made.
    pub async fn create_runner(&self, owner: &Owner, runner: &RunnerBody) -> Result<NewRunner, AdminError> {
        let mut body = runner.to_json();
        body["runner_type"] = owner.kind.runner_type().into();
        body[owner.kind.id_field()] = owner.id.into();
        if owner.kind == OwnerKind::Project {
            body["locked"] = true.into();
        }
        self.send(Method::POST, "user/runners", &body, "make a runner (scope create_runner)").await
    }

    /// Makes a runner what it should be.
    ///
    /// # Errors
    /// Why it was not changed.
    pub async fn update_runner(&self, id: i64, runner: &RunnerBody) -> Result<(), AdminError> {
        self.send::<Value>(Method::PUT, &format!("runners/{id}"), &runner.to_json(), "change a runner (scope manage_runner)").await.map(drop)
    }

    /// Deletes a runner; one that is gone already is deleted.
    ///
    /// # Errors
    /// Why it was not deleted.
    pub async fn delete_runner(&self, id: i64) -> Result<(), AdminError> {
        self.delete(&format!("runners/{id}"), "delete a runner (scope manage_runner)").await
    }

    /// Gives a runner a new token; the old one is dead from then on.
    ///
    /// # Errors
    /// Why it has none.
    pub async fn reset_runner_token(&self, id: i64) -> Result<SecretString, AdminError> {
        let path = format!("runners/{id}/reset_authentication_token");
        let reset: ResetToken = self.send(Method::POST, &path, &json!({}), "give a runner a new token (scope manage_runner)").await?;
        Ok(reset.token)
    }

    /// The runner that a token belongs to; `None` when GitLab does not know the token. A sign of life of that runner.
    ///
    /// # Errors
    /// Why GitLab says neither.
    pub async fn runner_of(&self, runner_token: &SecretString) -> Result<Option<i64>, AdminError> {
        let doing = "verify a runner's token";
        let body = json!({ "token": runner_token.expose_secret(), "system_id": SYSTEM_ID });
        let request = self.client.post(format!("{}/api/v4/runners/verify", self.base_url)).timeout(ANSWER).json(&body);
        let response = request.send().await.map_err(|error| from_reqwest(error, doing, ANSWER))?;
        match response.status().as_u16() {
            200..=299 => Ok(Some(parsed::<RunnerId>(response, doing).await?.id)),
            403 | 422 => Ok(None),
            status => Err(refusal(status, response.headers(), doing).into()),
        }
    }

    /// Every webhook.
    ///
    /// # Errors
    /// [`AdminError::Forbidden`] or [`AdminError::NotFound`] also where webhooks of groups are not part of the licence.
    pub async fn hooks(&self, owner: &Owner) -> Result<Vec<HookRecord>, AdminError> {
        self.list(&format!("{}/hooks", owner.api()), "list its webhooks (scope api)").await
    }

    /// Makes a webhook.
    ///
    /// # Errors
    /// Why it was not made.
    pub async fn create_hook(&self, owner: &Owner, hook: &HookBody) -> Result<HookRecord, AdminError> {
        let mut body = hook.to_json();
        // The only event that is on unless it is switched off.
        body["push_events"] = false.into();
        self.send(Method::POST, &format!("{}/hooks", owner.api()), &body, "make a webhook (scope api)").await
    }

    /// Makes a webhook what it should be.
    ///
    /// # Errors
    /// Why it was not changed.
    pub async fn update_hook(&self, owner: &Owner, id: i64, hook: &HookBody) -> Result<HookRecord, AdminError> {
        self.send(Method::PUT, &format!("{}/hooks/{id}", owner.api()), &hook.to_json(), "change a webhook (scope api)").await
    }

    /// Deletes a webhook; one that is gone already is deleted.
    ///
    /// # Errors
    /// Why it was not deleted.
    pub async fn delete_hook(&self, owner: &Owner, id: i64) -> Result<(), AdminError> {
        self.delete(&format!("{}/hooks/{id}", owner.api()), "delete a webhook (scope api)").await
    }

    /// What became of the latest events of a webhook, newest first; nothing where GitLab is older than 17.3.
    ///
    /// # Errors
    /// Why there is no list.
    pub async fn hook_events(&self, owner: &Owner, id: i64) -> Result<Vec<HookEvent>, AdminError> {
        // Few, because each brings the whole event along.
        let path = format!("{}/hooks/{id}/events?per_page=3", owner.api());
        let mut events: Vec<HookEvent> = match self.get(&path, "list the events of a webhook").await {
            Err(AdminError::NotFound { .. }) => Vec::new(),
            other => other?,
        };
        events.sort_by_key(|event| std::cmp::Reverse(event.id));
        Ok(events)
    }

    /// Jobs of a project that wait for a runner; of a group nothing, because GitLab has no such list.
    ///
    /// # Errors
    /// Why there is no list.
    pub async fn pending_jobs(&self, owner: &Owner) -> Result<Vec<PendingJob>, AdminError> {
        match owner.kind {
            OwnerKind::Group => Ok(Vec::new()),
            OwnerKind::Project => self.get(&format!("{}/jobs?scope[]=pending&per_page=100", owner.api()), "list waiting jobs").await,
        }
    }

    fn call(&self, method: Method, path: &str) -> RequestBuilder {
        let url = format!("{}/api/v4/{path}", self.base_url);
        self.client.request(method, url).header("PRIVATE-TOKEN", secret_header(self.token.expose_secret())).timeout(ANSWER)
    }

    async fn get<T: DeserializeOwned>(&self, path: &str, doing: &'static str) -> Result<T, AdminError> {
        parsed(answered(self.call(Method::GET, path), doing).await?, doing).await
    }

    async fn list<T: DeserializeOwned>(&self, path: &str, doing: &'static str) -> Result<Vec<T>, AdminError> {
        let mark = if path.contains('?') { '&' } else { '?' };
        let mut found = Vec::new();
        for page in 1..=MAX_PAGES {
            let response = answered(self.call(Method::GET, &format!("{path}{mark}per_page=100&page={page}")), doing).await?;
            let more = response.headers().get("x-next-page").is_some_and(|next| !next.is_empty());
            found.extend(parsed::<Vec<T>>(response, doing).await?);
            if !more {
                break;
            }
        }
        Ok(found)
    }

    async fn send<T: DeserializeOwned>(&self, method: Method, path: &str, body: &Value, doing: &'static str) -> Result<T, AdminError> {
        parsed(answered(self.call(method, path).json(body), doing).await?, doing).await
    }

    async fn delete(&self, path: &str, doing: &'static str) -> Result<(), AdminError> {
        match answered(self.call(Method::DELETE, path), doing).await {
            Ok(_) | Err(AdminError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

async fn answered(request: RequestBuilder, doing: &'static str) -> Result<Response, AdminError> {
    let response = request.send().await.map_err(|error| from_reqwest(error, doing, ANSWER))?;
    Err(match response.status().as_u16() {
        200..=299 => return Ok(response),
        401 => AdminError::Token { doing },
        403 => AdminError::Forbidden { doing, message: words(response, doing).await },
        404 => AdminError::NotFound { doing },
        400 | 422 => AdminError::Refused { doing, message: words(response, doing).await },
        status => refusal(status, response.headers(), doing).into(),
    })
}

async fn parsed<T: DeserializeOwned>(response: Response, doing: &'static str) -> Result<T, AdminError> {
    let bytes = read_body(response, MAX_BYTES, doing, ANSWER).await?;
    // Without the parser's words: they may quote a token.
    serde_json::from_slice(&bytes).map_err(|error| protocol(doing, format_args!("not what we know, line {}", error.line())).into())
}

/// What GitLab says about a refusal: `{"message": …}` or `{"error": …}`.
async fn words(response: Response, doing: &'static str) -> String {
    let bytes = read_body(response, MAX_BYTES, doing, ANSWER).await.unwrap_or_default();
    let told = serde_json::from_slice::<Message>(&bytes).unwrap_or_default();
    let text = told.message.or(told.error).map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned)).unwrap_or_default();
    text.chars().filter(|c| !c.is_control()).take(MAX_MESSAGE_CHARS).collect()
}

/// A path as one segment of a URL.
fn escaped(text: &str) -> String {
    let keep = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'~') || (byte == b'.' && text != "." && text != "..");
    text.bytes().map(|byte| if keep(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_one_segment() {
        assert_eq!(escaped("team/sub/app"), "team%2Fsub%2Fapp");
        assert_eq!(escaped("ä?#"), "%C3%A4%3F%23");
    }

    #[test]
    fn a_refused_address_is_known_by_gitlabs_words() {
        for words in [
            r#"{"url":["is blocked: Requests to the local network are not allowed"]}"#,
            "Invalid url given",
            "URL is blocked: Requests to localhost are not allowed",
        ] {
            assert!(AdminError::Refused { doing: "x", message: words.to_owned() }.is_private_address(), "{words}");
        }
        assert!(!AdminError::Refused { doing: "x", message: "is too long".to_owned() }.is_private_address());
    }
}
