//! What the `JobManager` has to tell GitLab by itself of a job that ended without its runner's word.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use serde_json::json;

use crate::domain::{GitLabJob, Job, JobState, Outcome};
use crate::gitlab::{GitLab, Relay};
use crate::store::log::LogStream;

use super::session::Session;
use super::trace::held_by_gitlab;
use super::verdict::{failure_reason, words};
use super::{Broker, Claim, warn_gitlab, warn_store};

/// How often a line is offered to GitLab when the trace's end is not where we thought.
const TRACE_TRIES: u32 = 3;

/// Whether GitLab knows of a job's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReportResult {
    /// We told it.
    Told,
    /// The job had ended in GitLab, or GitLab has nothing to do with it.
    GitLabAlreadyKnew(KnownEnd),
    /// GitLab did not answer, or the store could not tell what GitLab needs to hear; try again later.
    NotReachable,
}

/// How a job had ended in GitLab before we told it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KnownEnd {
    /// `success`: the runner's own word had come through.
    Succeeded,
    /// `canceled`.
    Canceled,
    /// `failed`, or nothing that we are told.
    Failed,
}

impl Broker {
    /// Tells GitLab that a job has ended without its runner's verdict: why, in a line of the trace, and that it failed.
    ///
    /// Call it before the end is stored, because the store then forgets the token for GitLab. May be repeated until it is not
    /// [`ReportResult::NotReachable`]; the line is written once.
    pub async fn report_end(&self, job: &Job, outcome: &Outcome) -> ReportResult {
        let attempt = job.attempt.as_ref().map(|attempt| (&attempt.runner, attempt.number));
        let session = match attempt.and_then(|(runner, number)| self.sessions.session_of(runner, &job.id, number)) {
            Some(session) => session,
            None => match self.parts.store.gitlab_job(&job.id).await {
                Ok(None) => return ReportResult::GitLabAlreadyKnew(KnownEnd::Failed),
                Ok(Some(gitlab)) => {
                    let Some((runner, number)) = attempt else { return self.report_unstarted(job, gitlab, outcome).await };
                    let opened = self.sessions.open(&self.parts, runner, &job.id, number).await;
                    opened.unwrap_or_else(|_| Arc::new(Session::new(gitlab, job.id.clone(), number)))
                }
                Err(error) => {
                    warn_store(&error, "look up what GitLab must be told");
                    return ReportResult::NotReachable;
                }
            },
        };
        // A job that GitLab keeps for us has no trace and no end before we accepted it.
        if matches!(job.state, JobState::Starting) && self.accept(&session.gitlab).await == Claim::NotReachable {
            return ReportResult::NotReachable;
        }
        self.report(&session, outcome).await
    }

    /// The same for a job that waits and whose end is about to be stored, or was: with the token that the store has forgotten since.
    pub async fn report_unstarted(&self, job: &Job, gitlab: GitLabJob, outcome: &Outcome) -> ReportResult {
        let session = Session::new(gitlab, job.id.clone(), 0);
        session.end_told.store(true, Ordering::Relaxed);
        let Some(client) = self.parts.gitlab.as_deref() else { return ReportResult::GitLabAlreadyKnew(KnownEnd::Failed) };
        if self.accept(&session.gitlab).await == Claim::NotReachable {
            return ReportResult::NotReachable;
        }
        self.write_line(client, &session, 0, &words(outcome)).await;
        tell_failed(client, &session, outcome).await
    }

    async fn report(&self, session: &Session, outcome: &Outcome) -> ReportResult {
        let Some(client) = self.parts.gitlab.as_deref() else { return ReportResult::GitLabAlreadyKnew(KnownEnd::Failed) };
        if !session.end_told.swap(true, Ordering::Relaxed) {
            let line = words(outcome);
            let start = {
                let mut trace = session.trace.lock().await;
                let start = self.trace_len(session, &mut trace).await.unwrap_or(0);
                self.append(session, &mut trace, LogStream::Note, line.as_bytes()).await;
                start
            };
            self.write_line(client, session, start, &line).await;
        }
        tell_failed(client, session, outcome).await
    }

    /// Appends a line to the trace in GitLab, wherever that ends. Without success the end is told without it.
    async fn write_line(&self, client: &dyn GitLab, session: &Session, mut start: u64, line: &str) {
        let body = Bytes::copy_from_slice(line.as_bytes());
        for _ in 0..TRACE_TRIES {
            let range = format!("{start}-{}", start + body.len() as u64 - 1);
            let sent = client.patch_trace(session.gitlab.reference.job_id, &session.gitlab.token, &range, "", body.clone()).await;
            match sent {
                Ok(answer) if answer.status == 416 => match held_by_gitlab(&answer) {
                    Some(held) => start = held,
                    None => return,
                },
                Ok(_) => return,
                Err(error) => {
                    warn_gitlab(&error);
                    return;
                }
            }
        }
    }
}

async fn tell_failed(client: &dyn GitLab, session: &Session, outcome: &Outcome) -> ReportResult {
    let body = json!({ "state": "failed", "failure_reason": failure_reason(outcome) });
    match client.update_job(session.gitlab.reference.job_id, &session.gitlab.token, body).await {
        Ok(Relay { status: 200, .. }) => ReportResult::Told,
        // 202: GitLab still writes the trace down and wants to be asked again.
        Ok(Relay { status: 202 | 429 | 500.., .. }) => ReportResult::NotReachable,
        Ok(answer) => ReportResult::GitLabAlreadyKnew(match answer.job_status() {
            Some("success") => KnownEnd::Succeeded,
            Some("canceled") => KnownEnd::Canceled,
            Some(_) | None => KnownEnd::Failed,
        }),
        Err(error) => {
            warn_gitlab(&error);
            ReportResult::NotReachable
        }
    }
}
