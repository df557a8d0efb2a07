//! `GET /jobs/{id}/logs`: what a job wrote, as text; with `follow=true` also what it will write, until it has ended.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{Uri, header};
use axum::response::{IntoResponse, Redirect, Response};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use tokio::sync::watch;

use super::openapi::fields;
use super::params::Params;
use super::problem::Problem;
use super::rations::Permit;
use super::scope::Watcher;
use super::state::AppState;
use crate::domain::{FieldFault, Job, JobId};
use crate::store::Store;
use crate::store::log::{Follow, LogStore, Times};

/// How soon a log is looked at again that has no writer although its attempt has not ended: it is about to be opened, or was just closed.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// The longest such wait; it doubles while nothing new comes.
const LOOK_AGAIN_MAX: Duration = Duration::from_secs(5);

/// `GET /jobs/{id}/logs`: of the latest attempt, or of the one that is asked for; with `timestamps=true` each line after its time.
#[utoipa::path(
    get,
    path = "/jobs/{id}/logs",
    operation_id = "getJobLog",
    tag = "jobs",
    summary = "What a job wrote",
    description = "Of the latest attempt, or of the one that is asked for; kept after its container is gone.",
    params(
        ("id" = String, Path, description = "The id of a job."),
        ("follow" = inline(Option<fields::Flag>), Query, description = "Whether to go on until the job has ended."),
        ("timestamps" = inline(Option<fields::Flag>), Query, description = "Whether each line begins with the time at which it was written."),
        ("attempt" = inline(Option<fields::AttemptNumber>), Query, description = "Of this attempt instead of the latest."),
    ),
    responses(
        (status = 200, description = "The text, as the job wrote it.", body = String, content_type = "text/plain; charset=utf-8"),
        (status = 307, description = "Another machine of the fleet ran it and keeps it: it is there."),
    ),
    extensions(("x-role" = json!("viewer")), ("x-submitter" = json!(true)), ("x-problems" = json!(["invalid-parameter", "not-found", "too-many-streams", "store-unavailable"]))),
)]
pub(super) async fn of_job(
    Watcher(scope): Watcher,
    State(state): State<AppState>,
    Path(id): Path<String>,
    uri: Uri,
    mut params: Params,
) -> Result<Response, Problem> {
    let follow = params.flag("follow");
    let times = if params.flag("timestamps") { Times::With } else { Times::Without };
    let asked = params.read("attempt", attempt_number);
    params.finish()?;
    let changes = state.store.changes();
    let job = scope.job(&*state.store, &id).await?;
    let latest = latest_attempt(&job);
    if let Some(attempt) = asked.filter(|attempt| *attempt > latest) {
        return Err(Problem::Unknown { what: format!("attempt {attempt} of job {}", job.id) });
    }
    if let Some(to) = elsewhere(&state, &job, asked, &uri).await? {
        return Ok(to.into_response());
    }
    let permit = state.rations.stream()?;
    let attempt = asked.unwrap_or(latest);
    let body = if follow {
        let tail = Tail {
            store: state.store,
            logs: state.logs,
            changes,
            job: job.id,
            attempt: attempt.max(1),
            through: asked.map_or(Through::EndOfJob, |_| Through::EndOfAttempt),
            sent: 0,
            wait: LOOK_AGAIN,
            times,
            open: None,
            _permit: permit,
        };
        Body::from_stream(stream::unfold(tail, |mut tail| async move { tail.next().await.map(|chunk| (chunk, tail)) }))
    } else {
        let text = state.logs.read(&job.id, attempt, Follow::No, times);
        // The permit goes with the stream.
        Body::from_stream(text.map(move |chunk| {
            let _held = &permit;
            chunk
        }))
    };
    // Proxies that know the last header pass the text on as it comes.
    let headers = [(header::CONTENT_TYPE.as_str(), "text/plain; charset=utf-8"), ("x-accel-buffering", "no")];
    Ok((headers, body).into_response())
}

/// Where the log of an attempt is that another machine of the fleet ran, which keeps it: the daemon there asks anew who wants it.
async fn elsewhere(state: &AppState, job: &Job, asked: Option<u32>, uri: &Uri) -> Result<Option<Redirect>, Problem> {
    let Some(fleet) = state.store.fleet() else { return Ok(None) };
    let attempts = if asked.is_some() { state.store.attempts(&job.id).await? } else { job.attempt.iter().cloned().collect() };
    let attempt = attempts.into_iter().find(|attempt| asked.is_none_or(|number| number == attempt.number));
    let Some(host) = attempt.map(|attempt| attempt.host).filter(|host| *host != state.config.current().host.name) else { return Ok(None) };
    let url = fleet.hosts().await?.into_iter().find(|other| other.host == host).and_then(|other| other.report?.url);
    match url {
        Some(url) => Ok(Some(Redirect::temporary(&format!("{url}{uri}")))),
        None => Err(Problem::Unknown {
            what: format!("log of job {} on this machine: it is on {host}, whose daemon does not tell its fleet.url", job.id),
        }),
    }
}

fn attempt_number(name: &str, text: &str) -> Result<u32, FieldFault> {
    text.parse().ok().filter(|number| *number > 0).ok_or_else(|| FieldFault::new(name, "must be the number of an attempt, 1 or higher"))
}

fn latest_attempt(job: &Job) -> u32 {
    job.attempt.as_ref().map_or(0, |attempt| attempt.number)
}

/// How far a log is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Through {
    /// One attempt only.
    EndOfAttempt,
    /// Attempt after attempt, until the job has ended.
    EndOfJob,
}

/// A log that is being read, and whether its attempt had ended before the reading began, so that nothing comes after it.
struct OpenLog {
    chunks: Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>,
    complete: bool,
    /// Bytes that the client has already from an earlier reading.
    to_skip: u64,
}

/// Where one client stands in a job's log.
struct Tail {
    store: Arc<dyn Store>,
    logs: Arc<LogStore>,
    changes: watch::Receiver<u64>,
    job: JobId,
    attempt: u32,
    through: Through,
    /// Bytes of this attempt that the client has.
    sent: u64,
    /// How long to wait for more when nobody writes.
    wait: Duration,
    times: Times,
    open: Option<OpenLog>,
    _permit: Permit,
}

/// What a look at the store told.
enum Look {
    /// The attempt has begun; it may have ended.
    Read { ended: bool },
    /// The attempt has not begun.
    NotYet,
    /// The job ended without it.
    Never,
}

impl Tail {
    /// The next part of the text, waited for if need be; `None` at the end.
    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        loop {
            if let Some(open) = &mut self.open {
                match open.chunks.next().await {
                    Some(Ok(chunk)) => match open.unseen(chunk) {
                        Some(chunk) => {
                            self.sent += chunk.len() as u64;
                            self.wait = LOOK_AGAIN;
                            return Some(Ok(chunk));
                        }
                        None => continue,
                    },
                    Some(Err(error)) => return Some(Err(error)),
                    None => self.finish_reading().await?,
                }
            }
            self.begin_reading().await?;
        }
    }

    /// After the end of what is written: goes on to the next attempt, or waits a moment for more. `None` when nothing more is wanted.
    async fn finish_reading(&mut self) -> Option<()> {
        let complete = self.open.take().is_some_and(|open| open.complete);
        match (complete, self.through) {
            (true, Through::EndOfAttempt) => return None,
            (true, Through::EndOfJob) => {
                self.attempt += 1;
                self.sent = 0;
            }
            (false, Through::EndOfAttempt | Through::EndOfJob) => {
                tokio::time::sleep(self.wait).await;
                self.wait = (self.wait * 2).min(LOOK_AGAIN_MAX);
            }
        }
        Some(())
    }

    /// Waits until the attempt has begun and opens its log. `None` when it never will.
    async fn begin_reading(&mut self) -> Option<()> {
        loop {
            // Seen before the store is read, so that a change between the reading and the waiting is not missed.
            self.changes.borrow_and_update();
            match self.look().await? {
                Look::Read { ended } => {
                    let chunks = Box::pin(self.logs.read(&self.job, self.attempt, Follow::UntilClosed, self.times));
                    self.open = Some(OpenLog { chunks, complete: ended, to_skip: self.sent });
                    return Some(());
                }
                Look::NotYet => self.changes.changed().await.ok()?,
                Look::Never => return None,
            }
        }
    }

    async fn look(&mut self) -> Option<Look> {
        let job =
            self.store.job(&self.job).await.inspect_err(|error| tracing::warn!(%error, "a log that was followed broke off: {error}")).ok()??;
        let latest = latest_attempt(&job);
        let latest_ended = job.has_ended() || job.attempt.as_ref().is_some_and(|attempt| attempt.ended.is_some());
        Some(if latest < self.attempt {
            if job.has_ended() { Look::Never } else { Look::NotYet }
        } else {
            Look::Read { ended: latest > self.attempt || latest_ended }
        })
    }
}

impl OpenLog {
    /// What of a chunk the client does not have yet.
    fn unseen(&mut self, mut chunk: Bytes) -> Option<Bytes> {
        let skipped = usize::try_from(self.to_skip).unwrap_or(usize::MAX).min(chunk.len());
        self.to_skip -= skipped as u64;
        let rest = chunk.split_off(skipped);
        (!rest.is_empty()).then_some(rest)
    }
}
