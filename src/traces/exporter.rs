//! Reads the history from the cursor on and sends the trace of each job whose last entry comes by.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::collector::{Collector, NotTaken};
use super::cursor::Cursor;
use super::ids::TraceId;
use super::otlp;
use super::spans::{Attribute, Trace, completes, trace_of};
use crate::domain::clock::{jittered, roll};
use crate::domain::{Event, EventKind, JobId, chain};
use crate::store::{EventQuery, Store, StoreError};

/// Entries of the history that are read at once.
const PAGE: u32 = 500;
/// A batch is sent once it has so many spans; the last job may make it larger.
const BATCH_SPANS: usize = 512;
/// How far sending may be behind, in entries of the history; what is older is dropped, so that a collector that comes back after weeks is not
/// flooded.
pub const MAX_BACKLOG: i64 = 100_000;
/// Least time between two looks at the history, so that jobs that end together go together.
const GATHER: Duration = Duration::from_secs(1);
/// First wait for a collector that did not take a batch; doubled for each further one.
const BACKOFF: Duration = Duration::from_secs(1);
/// Longest such wait.
const BACKOFF_MAX: Duration = Duration::from_secs(60);

/// What an exporter works with.
#[derive(Debug)]
pub struct Parts {
    /// The history.
    pub store: Arc<dyn Store>,
    /// The receiver.
    pub collector: Collector,
    /// How far it came.
    pub cursor: Cursor,
    /// The part of the jobs that is sent, from 0 to 1.
    pub sample: f64,
    /// What tells this service from others.
    pub service: Vec<Attribute>,
    /// See [`MAX_BACKLOG`].
    pub max_backlog: i64,
}

/// Sends traces until told to stop.
#[derive(Debug)]
pub struct Exporter {
    parts: Parts,
    after: i64,
    /// Tries since the collector last took a batch.
    failures: u32,
    cursor_fails: bool,
    dropped: u64,
}

/// What a turn came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// There may be more at once.
    Moved,
    /// The history has been read to its end.
    AtEnd,
}

#[derive(Debug, thiserror::Error)]
enum TurnError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{why}")]
    Collector { why: String, wait: Option<Duration> },
}

/// What the next entries of the history hold for the collector.
struct Batch {
    traces: Vec<Trace>,
    upto: i64,
    turn: Turn,
}

impl Exporter {
    /// One that goes on where the last run was. The first run begins with what happens from now on.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn new(parts: Parts) -> Result<Self, StoreError> {
        let newest = parts.store.newest_event().await?;
        let known = parts.cursor.read().await.filter(|after| *after <= newest);
        let mut exporter = Self { parts, after: known.unwrap_or(newest), failures: 0, cursor_fails: false, dropped: 0 };
        if known.is_none() {
            exporter.keep_place().await;
        }
        Ok(exporter)
    }

    /// Runs until told to stop. A batch that is cut off then is sent again by the next run.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut changes = self.parts.store.changes();
        loop {
            changes.mark_unchanged();
            let Some(turn) = stop.run_until_cancelled(self.turn()).await else { return };
            let rest = async {
                match turn {
                    Ok(Turn::Moved) => {}
                    Ok(Turn::AtEnd) => {
                        let _ = changes.changed().await;
                        tokio::time::sleep(GATHER).await;
                    }
                    Err(error) => tokio::time::sleep(self.stumbled(&error)).await,
                }
            };
            if stop.run_until_cancelled(rest).await.is_none() {
                return;
            }
        }
    }

    async fn turn(&mut self) -> Result<Turn, TurnError> {
        self.drop_backlog().await?;
        let batch = self.gather().await?;
        if !batch.traces.is_empty() {
            self.send(&batch.traces).await?;
        }
        if batch.upto > self.after {
            self.after = batch.upto;
            self.keep_place().await;
        }
        Ok(batch.turn)
    }

    async fn gather(&self) -> Result<Batch, StoreError> {
        let store = &self.parts.store;
        let page = store.events(EventQuery { job: None, after: self.after, limit: PAGE }).await?;
        let is_last = u32::try_from(page.len()).is_ok_and(|read| read < PAGE);
        let mut batch = Batch { traces: Vec::new(), upto: self.after, turn: if is_last { Turn::AtEnd } else { Turn::Moved } };
        let mut spans = 0;
        for event in page {
            batch.upto = event.seq;
            if let Some(trace) = self.trace_at(&event).await? {
                spans += trace.spans.len();
                batch.traces.push(trace);
            }
            if spans >= BATCH_SPANS {
                batch.turn = Turn::Moved;
                break;
            }
        }
        Ok(batch)
    }

    /// The trace that this entry of the history completes, if it does, and if it is to be sent.
    async fn trace_at(&self, event: &Event) -> Result<Option<Trace>, StoreError> {
        let is_late = matches!(event.kind, EventKind::Ended | EventKind::RunnerRemoved);
        let Some(id) = event.job.as_ref().filter(|id| is_late && TraceId::of(id).is_sampled(self.parts.sample)) else { return Ok(None) };
        let events = self.history_of(id).await?;
        if !completes(event.seq, &events) {
            return Ok(None);
        }
        let Some(job) = self.parts.store.job(id).await? else { return Ok(None) };
        let attempts = self.parts.store.attempts(id).await?;
        Ok(Some(trace_of(&job, &attempts, &events)))
    }

    /// What a trace is made of: few entries for each attempt, whatever else a job reported in its life.
    async fn history_of(&self, job: &JobId) -> Result<Vec<Event>, StoreError> {
        let mut events: Vec<Event> = Vec::new();
        let mut after = 0;
        loop {
            let page = self.parts.store.events(EventQuery { job: Some(job.clone()), after, limit: PAGE }).await?;
            let Some(last) = page.last() else { return Ok(events) };
            after = last.seq;
            for event in page {
                let is_pull = |event: &Event| matches!(event.kind, EventKind::ImagePull { .. });
                let repeats = is_pull(&event) && events.last().is_some_and(is_pull);
                if !repeats && !matches!(event.kind, EventKind::Progress { .. }) {
                    events.push(event);
                }
            }
        }
    }

    async fn send(&mut self, traces: &[Trace]) -> Result<(), TurnError> {
        match self.parts.collector.take(&otlp::request(&self.parts.service, traces)).await {
            Ok(rejected) => {
                if let Some(words) = rejected {
                    warn!("the collector of traces did not take all: {words}");
                }
                if self.failures > 0 {
                    info!(tries = self.failures, "the collector takes traces again");
                }
                self.failures = 0;
                Ok(())
            }
            Err(NotTaken::Later { why, wait }) => Err(TurnError::Collector { why, wait }),
            Err(NotTaken::Never { why }) => {
                self.drop_jobs(u64::try_from(traces.len()).unwrap_or(u64::MAX), &why);
                Ok(())
            }
        }
    }

    /// Passes over what is too far behind.
    async fn drop_backlog(&mut self) -> Result<(), StoreError> {
        let least = self.parts.store.newest_event().await? - self.parts.max_backlog;
        let mut jobs = 0;
        while self.after < least {
            let page = self.parts.store.events(EventQuery { job: None, after: self.after, limit: PAGE }).await?;
            let over: Vec<&Event> = page.iter().filter(|event| event.seq <= least).collect();
            jobs += over.iter().filter(|event| event.kind == EventKind::Ended).count();
            self.after = over.last().map_or(least, |event| event.seq);
        }
        if jobs > 0 {
            self.drop_jobs(u64::try_from(jobs).unwrap_or(u64::MAX), "sending is too far behind");
            self.keep_place().await;
        }
        Ok(())
    }

    fn drop_jobs(&mut self, jobs: u64, why: &str) {
        self.dropped = self.dropped.saturating_add(jobs);
        warn!(jobs, dropped_since_start = self.dropped, why, "traces of jobs were dropped");
    }

    /// Notes a failed turn and tells how long to wait. An outage is told at its beginning, not at every try.
    fn stumbled(&mut self, error: &TurnError) -> Duration {
        let asked = match error {
            TurnError::Collector { wait, .. } => *wait,
            TurnError::Store(_) => None,
        };
        let wait = asked.unwrap_or_else(|| jittered(BACKOFF.saturating_mul(1 << self.failures.min(6)).min(BACKOFF_MAX), 200, roll()));
        if self.failures == 0 {
            warn!(error = chain(error), "traces could not be sent; this is tried again and holds nothing up");
        }
        self.failures = self.failures.saturating_add(1);
        wait
    }

    async fn keep_place(&mut self) {
        let written = self.parts.cursor.write(self.after).await;
        if let Err(error) = &written
            && !self.cursor_fails
        {
            warn!(%error, "how far traces were sent could not be written down; after a restart some are sent again");
        }
        self.cursor_fails = written.is_err();
    }
}
