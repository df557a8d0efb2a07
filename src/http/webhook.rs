//! `POST /webhook/job`: GitLab's bell. What it says is not believed about the queue, only taken as a reason to ask GitLab now.
//!
//! GitLab disables a hook that is answered with errors again and again, so everything that is genuine is answered 200, whether it is ours or not,
//! and also when too many ring at once or the store does not answer: a bell that rang is worth as much as ten. Only word of a cancelled job needs
//! the store; GitLab tells it once more at the job's next trace.

use std::time::Duration;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue};
use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use super::extract::body_bytes;
use super::openapi::fields;
use super::problem::{Problem, quoted};
use super::rations::{Bound, Hurried};
use super::state::AppState;
use crate::domain::job::CancelEffect;
use crate::domain::{EndReason, JobId, chain};
use crate::gitlab::webhook::{self, BuildStatus, Reading};
use crate::security::{WebhookHeaders, sha256};
use crate::store::{DeliveredJob, Delivery, Recorded};

/// Headers that name a delivery, the newer first. Both stay the same when GitLab sends it again.
const DELIVERY_IDS: [&str; 2] = ["webhook-id", "idempotency-key"];
/// Longest name of a delivery that is taken over from a header.
const MAX_DELIVERY_ID_BYTES: usize = 255;

/// Longest wait for the store to remember a delivery. GitLab itself waits for 10 s.
const RECORD_WITHIN: Duration = Duration::from_secs(3);

/// What was done with an event, in a word.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = WebhookResult)]
enum Done {
    /// It was a reason to look for work, or cancelled a job.
    Accepted,
    /// It was genuine, and there was nothing to do.
    Ignored,
}

/// What was done with an event.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = WebhookAnswer)]
pub struct Answer {
    status: Done,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

impl Answer {
    fn accepted() -> Self {
        Self { status: Done::Accepted, reason: None }
    }

    fn ignored(reason: impl Into<String>) -> Self {
        Self { status: Done::Ignored, reason: Some(reason.into()) }
    }
}

/// What an event asks of us.
enum Meaning {
    /// GitLab may have work.
    Ring,
    /// This job of ours was cancelled.
    Cancel(JobId),
    /// A job may have been cancelled that is about to be ours: look again.
    LookAgain(String),
    /// Nothing: the job is in a state that needs nobody.
    NothingToDo(String),
    /// Nothing: it is another event than a job's.
    NotForUs(String),
}

/// `POST /webhook/job`.
#[utoipa::path(
    post,
    path = "/webhook/job",
    operation_id = "receiveJobEvent",
    tag = "gitlab",
    summary = "Take a Job event of GitLab",
    description = "A doorbell: the daemon asks GitLab for work. No bearer token; GitLab shows its secret token or signs what it sends. Every genuine event is answered 200, because GitLab disables hooks that fail.",
    params(
        ("X-Gitlab-Event" = Option<String>, Header, description = "What kind of event it is; others than `Job Hook` are ignored."),
        ("webhook-id" = Option<String>, Header, description = "Names the delivery; signed. A delivery that is known is ignored."),
        ("webhook-timestamp" = Option<String>, Header, description = "When it was sent, in seconds since 1970; signed."),
        ("Idempotency-Key" = Option<String>, Header, description = "Names the delivery where there is no `webhook-id`."),
    ),
    request_body(content = fields::JobEvent, description = "The event, as GitLab sends it; up to `limits.webhook_body`, 25 MiB at first."),
    responses(
        (status = 200, description = "It was genuine, and taken or ignored.", body = Answer),
    ),
    extensions(("x-role" = json!("webhook")), ("x-problems" = json!(["not-json", "store-unavailable", "conflict"]))),
)]
pub(super) async fn receive(State(state): State<AppState>, request: Request) -> Result<Json<Answer>, Problem> {
    let answer = take(&state, request).await;
    state.metrics.webhooks.count([result_of(&answer).into()]);
    answer.map(|(answer, _)| Json(answer))
}

/// How a delivery was answered, as one of [`crate::metrics::WEBHOOK_RESULTS`].
fn result_of(answer: &Result<(Answer, &'static str), Problem>) -> &'static str {
    match answer {
        Ok((_, result)) => result,
        Err(Problem::WebhookUnverified) => "unauthorized",
        Err(problem) if problem.status().is_client_error() => "malformed",
        Err(_) => "failed",
    }
}

async fn take(state: &AppState, request: Request) -> Result<(Answer, &'static str), Problem> {
    let headers = request.headers().clone();
    let hurried = request.extensions().get::<Hurried>().copied();
    let body = body_bytes(request, &()).await?;
    let now = state.clock.now();
    state.security.verify_webhook(proof_of(&headers), &body, now).map_err(|denied| {
        tracing::info!(error = %denied, "a webhook was refused");
        Problem::WebhookUnverified
    })?;
    let event = headers.get("x-gitlab-event").and_then(|name| name.to_str().ok());
    let reading = webhook::read_event(event, &body).map_err(|error| Problem::not_json(&error))?;
    let job = job_of(state, &reading);
    let meaning = match (&reading, hurried) {
        (Reading::Job(job), Some(Hurried)) if job.status == BuildStatus::Canceled => return Err(Problem::Overloaded(Bound::Bells)),
        _ => meaning_of(state, reading).await?,
    };
    if let Meaning::Cancel(job) = &meaning {
        // Before the delivery is remembered: when this fails, it is not a double that is sent again.
        cancel(state, job).await?;
    }
    let about = job.filter(|_| matches!(meaning, Meaning::Ring | Meaning::Cancel(_)));
    let delivery = Delivery { key: delivery_key(&headers, &body), event: event_name(&headers), outcome: outcome_of(&meaning), about };
    let recorded = match hurried {
        Some(Hurried) => None,
        None => record(state, delivery, now).await,
    };
    if recorded == Some(Recorded::Duplicate) {
        return Ok((Answer::ignored("duplicate"), "ignored_duplicate"));
    }
    Ok(match meaning {
        Meaning::Ring => {
            state.manager.ring();
            (Answer::accepted(), if recorded.is_some() { "accepted" } else { "accepted_unrecorded" })
        }
        Meaning::Cancel(_) => (Answer::accepted(), "accepted"),
        Meaning::LookAgain(reason) => {
            state.manager.nudge();
            (Answer::ignored(reason), "ignored_canceled")
        }
        Meaning::NothingToDo(reason) => (Answer::ignored(reason), "ignored_status"),
        Meaning::NotForUs(reason) => (Answer::ignored(reason), "ignored_event"),
    })
}

/// Remembers a delivery. One that cannot be remembered in time is taken for new: ringing twice does no harm, and a hook that fails is switched off.
async fn record(state: &AppState, delivery: Delivery, now: Timestamp) -> Option<Recorded> {
    let recorded = tokio::time::timeout(RECORD_WITHIN, state.store.record_delivery(delivery, now)).await;
    let why = match recorded {
        Ok(Ok(recorded)) => return Some(recorded),
        Ok(Err(error)) => chain(&error),
        Err(_) => format!("the store did not answer within {} s", RECORD_WITHIN.as_secs()),
    };
    tracing::warn!(error = why, "a webhook could not be remembered; it counts all the same");
    None
}

/// The headers that say who sent it.
fn proof_of(headers: &HeaderMap) -> WebhookHeaders<'_> {
    let header = |name| headers.get(name).map(HeaderValue::as_bytes);
    WebhookHeaders {
        id: header("webhook-id"),
        timestamp: header("webhook-timestamp"),
        signature: header("webhook-signature"),
        token: header("x-gitlab-token"),
    }
}

/// The job of GitLab that an event tells of.
fn job_of(state: &AppState, reading: &Reading) -> Option<DeliveredJob> {
    let Reading::Job(job) = reading else { return None };
    let url = state.config.current().gitlab.as_ref()?.url.clone();
    Some(DeliveredJob { url, gitlab_id: job.build_id, status: job.status.as_str().to_owned() })
}

async fn meaning_of(state: &AppState, reading: Reading) -> Result<Meaning, Problem> {
    let job = match reading {
        Reading::Job(job) => job,
        Reading::Ignored(reason) => return Ok(Meaning::NotForUs(reason)),
    };
    Ok(match job.status {
        BuildStatus::Pending => Meaning::Ring,
        BuildStatus::Canceled => match held(state, job.build_id).await? {
            Some(job) => Meaning::Cancel(job),
            None => Meaning::LookAgain("the job was canceled".to_owned()),
        },
        BuildStatus::Created | BuildStatus::Running | BuildStatus::Success | BuildStatus::Failed | BuildStatus::Other(_) => {
            Meaning::NothingToDo(format!("nothing to do for status {}", quoted(job.status.as_str())))
        }
    })
}

/// Our job that was made of this job of GitLab, unless it has ended.
async fn held(state: &AppState, build_id: u64) -> Result<Option<JobId>, Problem> {
    let config = state.config.current();
    let Some(gitlab) = &config.gitlab else { return Ok(None) };
    let Some(id) = state.store.jobs_of_gitlab(&gitlab.url, build_id).await?.into_iter().next() else { return Ok(None) };
    Ok(state.store.job(&id).await?.filter(|job| !job.has_ended()).map(|job| job.id))
}

async fn cancel(state: &AppState, job: &JobId) -> Result<(), Problem> {
    match state.manager.cancel(job, EndReason::CanceledInGitlab).await? {
        Some((_, CancelEffect::Ended | CancelEffect::Requested)) => tracing::info!(job.id = %job, "job {job} was cancelled in GitLab"),
        // It ended, or its end was asked for, in between.
        Some((_, CancelEffect::AlreadyRequested | CancelEffect::AlreadyEnded)) | None => {}
    }
    Ok(())
}

fn outcome_of(meaning: &Meaning) -> String {
    match meaning {
        Meaning::Ring | Meaning::Cancel(_) => "accepted".to_owned(),
        Meaning::LookAgain(reason) | Meaning::NothingToDo(reason) | Meaning::NotForUs(reason) => quoted(reason),
    }
}

/// The name under which a delivery is remembered: GitLab's own, else a digest of the body.
fn delivery_key(headers: &HeaderMap, body: &[u8]) -> String {
    let named = DELIVERY_IDS.iter().find_map(|name| {
        let id = headers.get(*name)?.to_str().ok()?;
        (1..=MAX_DELIVERY_ID_BYTES).contains(&id.len()).then(|| format!("id:{id}"))
    });
    named.unwrap_or_else(|| format!("sha256:{}", hex(&sha256(body))))
}

/// Bytes as hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn event_name(headers: &HeaderMap) -> String {
    let name = headers.get("x-gitlab-event").and_then(|name| name.to_str().ok()).unwrap_or("unnamed");
    quoted(name)
}
