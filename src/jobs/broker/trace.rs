//! `PATCH /jobs/{id}/trace`: the trace goes to GitLab as the runner sends it, and what GitLab took goes into the job's own log, once.

use bytes::Bytes;

use crate::gitlab::Relay;
use crate::store::log::{LogStream, LogWriter};

use super::session::Session;
use super::{Broker, BrokerError, settled};

/// The trace in the job's own log.
#[derive(Debug, Default)]
pub(super) struct TraceLog {
    writer: Option<LogWriter>,
    /// Where we last asked the runner to send the trace again from, so that we ask only once.
    asked: Option<u64>,
}

/// A part of a trace as the runner names it: `first-last`, both counted from 0 and inclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) start: u64,
    pub(super) end: u64,
}

impl Span {
    /// Reads `Content-Range`, which must be as long as the body.
    pub(super) fn read(content_range: &str, body_len: usize) -> Option<Self> {
        let (first, last) = content_range.trim().split_once('-')?;
        let (start, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
        let end = last.checked_add(1)?;
        (end.checked_sub(start)? == u64::try_from(body_len).ok()? && body_len > 0).then_some(Self { start, end })
    }
}

/// What of a part that GitLab holds up to `held` is new to a log of `have` bytes: the range within the part.
/// `None` when nothing is, or when something before it is missing.
pub(super) fn new_in(span: Span, held: u64, have: u64) -> Option<std::ops::Range<usize>> {
    let end = span.end.min(held);
    if have < span.start || have >= end {
        return None;
    }
    Some(usize::try_from(have - span.start).ok()?..usize::try_from(end - span.start).ok()?)
}

/// How much of the trace GitLab holds: the end of its `Range: 0-<size>`.
pub(super) fn held_by_gitlab(answer: &Relay) -> Option<u64> {
    answer.headers.get("range")?.trim().strip_prefix("0-")?.parse().ok()
}

impl Broker {
    /// Passes a part of a trace on.
    ///
    /// # Errors
    /// When the token does not open this job, the range does not match the body, or GitLab gives no answer.
    pub async fn trace(&self, token: &str, gitlab_id: u64, content_range: &str, query: &str, body: Bytes) -> Result<Relay, BrokerError> {
        let present = self.at_job(token, gitlab_id).await?;
        let span = Span::read(content_range, body.len()).ok_or(BrokerError::Malformed("Content-Range does not match the body"))?;
        let session = self.session(&present).await?;
        if let Some(resume) = self.resume_from(&session, span).await {
            return Ok(resume);
        }
        let sent = self.gitlab()?.patch_trace(gitlab_id, &session.gitlab.token, content_range, query, body.clone()).await;
        let mut answer = settled(sent)?;
        let held = match answer.status {
            200..=299 => Some(span.end),
            // It was taken before and the answer got lost: GitLab says how far it has come.
            416 => held_by_gitlab(&answer),
            _ => None,
        };
        if let Some(held) = held {
            self.keep_trace(&session, span, held, &body).await;
        }
        self.heed(&present, &answer).await;
        if answer.is_success() && present.is_cancelled_here() {
            answer.headers.set("job-status", "canceled");
        }
        Ok(answer)
    }

    /// When something before this part is missing in our log (a full disk, for example), the runner is asked once to go back,
    /// with the same answer by which GitLab does it. GitLab will then say that it has that part, and only we take it.
    async fn resume_from(&self, session: &Session, span: Span) -> Option<Relay> {
        let mut trace = session.trace.lock().await;
        let have = self.trace_len(session, &mut trace).await?;
        if have >= span.start || trace.asked == Some(have) {
            return None;
        }
        trace.asked = Some(have);
        let mut answer = Relay::empty(416);
        answer.headers.set("range", &format!("0-{have}"));
        Some(answer)
    }

    async fn keep_trace(&self, session: &Session, span: Span, held: u64, body: &Bytes) {
        let mut trace = session.trace.lock().await;
        let Some(have) = self.trace_len(session, &mut trace).await else { return };
        if let Some(part) = new_in(span, held, have).and_then(|range| body.get(range)) {
            self.append(session, &mut trace, LogStream::Trace, part).await;
        }
    }

    /// How many bytes of the trace our log has; `None` when it cannot be written.
    pub(super) async fn trace_len(&self, session: &Session, trace: &mut TraceLog) -> Option<u64> {
        Some(self.writer(session, trace).await?.trace_len())
    }

    /// Appends to our log. A failure is only logged: GitLab has the trace.
    pub(super) async fn append(&self, session: &Session, trace: &mut TraceLog, stream: LogStream, bytes: &[u8]) {
        let at = u64::try_from(self.parts.clock.now().as_nanosecond()).unwrap_or(0);
        let Some(writer) = self.writer(session, trace).await else { return };
        if let Err(error) = writer.append(at, stream, bytes).await {
            tracing::warn!(job.id = %session.job, %error, "a part of the log of job {} could not be kept here", session.job);
            // A writer that failed takes no more; the next one goes on where the file really ends.
            trace.writer = None;
        }
    }

    async fn writer<'t>(&self, session: &Session, trace: &'t mut TraceLog) -> Option<&'t mut LogWriter> {
        if trace.writer.is_none() {
            match self.parts.logs.writer(&session.job, session.attempt).await {
                Ok(writer) => trace.writer = Some(writer),
                Err(error) => tracing::warn!(job.id = %session.job, %error, "the log of job {} cannot be opened", session.job),
            }
        }
        trace.writer.as_mut()
    }
}

impl Session {
    /// Writes what is left of the trace and lets those who follow it end.
    pub(super) async fn close_log(&self) {
        let writer = self.trace.lock().await.writer.take();
        if let Some(writer) = writer
            && let Err(error) = writer.close().await
        {
            tracing::warn!(job.id = %self.job, %error, "the end of the log of job {} could not be kept here", self.job);
        }
    }
}
