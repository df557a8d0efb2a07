//! Sends Job events with the headers of a real delivery.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use ring::hmac;
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use super::state::Shared;

/// GitLab's own limit for one delivery.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(10);

/// Where Job events go and how they prove themselves.
#[derive(Debug, Clone)]
pub(super) struct Hook {
    /// Address of the receiver.
    pub(super) url: String,
    /// Sent as `X-Gitlab-Token` when set.
    pub(super) secret_token: Option<String>,
    /// Signs the delivery when set: `whsec_` and a base64 key.
    pub(super) signing_token: Option<String>,
}

/// What became of one delivery.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Delivery {
    /// The job the event is about.
    pub(crate) job: i64,
    /// The job's status in the event.
    pub(crate) build_status: String,
    /// `Idempotency-Key` of the delivery.
    pub(crate) idempotency_key: String,
    /// HTTP status of the answer; nothing when there was no answer.
    pub(crate) status: Option<u16>,
    /// Body of the answer, or what went wrong.
    pub(crate) body: String,
}

/// Sends one event to the hook that is set, and records the outcome.
pub(super) async fn deliver(shared: &Shared, client: &reqwest::Client, event: &Value, key: Uuid) -> Delivery {
    let hook = shared.read(|inner| inner.hook.clone());
    let (status, body) = match hook {
        Some(hook) => post(client, &hook, &shared.url, event, key).await,
        None => (None, "no hook is set".to_owned()),
    };
    let delivery = Delivery {
        job: event["build_id"].as_i64().unwrap_or_default(),
        build_status: event["build_status"].as_str().unwrap_or_default().to_owned(),
        idempotency_key: key.to_string(),
        status,
        body,
    };
    shared.write(|inner| inner.deliveries.push(delivery.clone()));
    delivery
}

/// Sends whatever lies in the outbox, in order, until the stand-in goes away.
pub(super) async fn run_outbox(shared: Arc<Shared>, client: reqwest::Client) {
    let mut changes = shared.watch();
    loop {
        changes.mark_unchanged();
        while shared.read(|inner| !inner.outbox.is_empty()) {
            if let Some(event) = shared.write(|inner| inner.outbox.pop_front()) {
                deliver(&shared, &client, &event, Uuid::new_v4()).await;
            }
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// One HTTP request, and its answer in words.
async fn post(client: &reqwest::Client, hook: &Hook, instance: &str, event: &Value, key: Uuid) -> (Option<u16>, String) {
    let body = event.to_string();
    let request = client.post(&hook.url).headers(headers(hook, instance, &body, key)).timeout(DELIVERY_TIMEOUT).body(body);
    match request.send().await {
        Ok(answer) => {
            let status = answer.status().as_u16();
            (Some(status), answer.text().await.unwrap_or_default())
        }
        Err(error) => (None, error.to_string()),
    }
}

/// The header set of GitLab 19.
fn headers(hook: &Hook, instance: &str, body: &str, key: Uuid) -> HeaderMap {
    let key = key.to_string();
    let timestamp = jiff::Timestamp::now().as_second().to_string();
    let mut all = vec![
        ("content-type", "application/json".to_owned()),
        ("user-agent", "GitLab/19.3.0".to_owned()),
        ("x-gitlab-event", "Job Hook".to_owned()),
        ("x-gitlab-instance", instance.to_owned()),
        ("x-gitlab-webhook-uuid", Uuid::new_v4().to_string()),
        ("x-gitlab-event-uuid", Uuid::new_v4().to_string()),
        ("idempotency-key", key.clone()),
        ("webhook-id", key.clone()),
        ("webhook-timestamp", timestamp.clone()),
    ];
    if let Some(secret) = &hook.secret_token {
        all.push(("x-gitlab-token", secret.clone()));
    }
    if let Some(signature) = hook.signing_token.as_deref().and_then(|token| sign(token, &key, &timestamp, body)) {
        all.push(("webhook-signature", signature));
    }
    all.into_iter().filter_map(|(name, value)| Some((HeaderName::from_static(name), HeaderValue::try_from(value).ok()?))).collect()
}

/// `v1,` and the HMAC of id, timestamp and body, as Standard Webhooks has it; nothing if the token is malformed.
fn sign(token: &str, id: &str, timestamp: &str, body: &str) -> Option<String> {
    let key = BASE64.decode(token.strip_prefix("whsec_")?).ok()?;
    let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
    let tag = hmac::sign(&key, format!("{id}.{timestamp}.{body}").as_bytes());
    Some(format!("v1,{}", BASE64.encode(tag)))
}
