//! Keeps a container's output, exactly once, over broken streams and restarts of the daemon.
//!
//! The log file itself knows how far it is: the time stamp of its last record and how many records carry it. A new stream begins at
//! that second and what is already there is passed over.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use tracing::warn;

use super::deps::{Follower, Shared};
use crate::docker::{ContainerState, DriverError, LogRecord, LogStream};
use crate::domain::{Aggregate, Runner, chain};
use crate::store::log::{self, LogWriter};

/// Wait before a broken stream is opened again.
const REOPEN: Duration = Duration::from_millis(500);
/// Wait before a log that cannot be written is tried again.
const REWRITE: Duration = Duration::from_secs(10);

/// Starts following a runner's output into its job's log.
pub(super) fn follow(shared: &Arc<Shared>, aggregate: &Aggregate, container: String) -> Follower {
    let (shared, runner) = (Arc::clone(shared), aggregate.runner.clone());
    shared.deps.tracker.clone().spawn(async move {
        // The daemon leaves, the container stays: the next start goes on from what the file holds.
        shared.deps.stop.run_until_cancelled(keep(&shared, &runner, &container)).await.flatten()
    })
}

/// Copies until the container's output has ended; the writer, where the log holds all of it.
async fn keep(shared: &Shared, runner: &Runner, container: &str) -> Option<LogWriter> {
    let mut writer = open(shared, runner, container).await?;
    let mut gap = Gap::new(shared.observer.epoch());
    // Seen only from the first look at the engine on, and before it nothing is followed.
    if shared.observer.may_have_broken(runner, writer.last().map(|(at, _)| at)) {
        gap.is_to_be_noted();
    }
    loop {
        if gap.is_new(shared.observer.epoch(), writer.last())
            && let Err(error) = note_gap(shared, &mut writer).await
        {
            warn!(%error, container, "a gap in a job's log could not be noted");
            gap.is_to_be_noted();
        }
        match copy(shared, &mut writer, container).await {
            Ok(()) if !still_runs(shared, container).await => {
                // Engine 20.10 sometimes ends the stream before the last piece; what it holds is complete only after the end was seen.
                if let Err(Broken::Log(error)) = copy(shared, &mut writer, container).await {
                    warn!(%error, container, "the end of a job's log cannot be written");
                    return None;
                }
                return Some(writer);
            }
            Ok(()) => {}
            Err(Broken::Log(error)) => {
                warn!(%error, container, "the job's log cannot be written; it is tried again");
                recover(shared, &mut writer, container).await?;
                continue;
            }
            Err(Broken::Stream(DriverError::NotFound { .. })) => return Some(writer),
            Err(Broken::Stream(error)) => warn!(error = chain(&error), container, "the stream of a log broke; it is opened again"),
        }
        tokio::time::sleep(REOPEN).await;
    }
}

/// Opens the log; `None` when it cannot be opened until the container has ended, and whoever ends the runner tries once more.
async fn open(shared: &Shared, runner: &Runner, container: &str) -> Option<LogWriter> {
    let (job, attempt) = runner.job.as_ref()?;
    loop {
        match shared.deps.logs.writer(job, *attempt).await {
            Ok(writer) => return Some(writer),
            Err(error) => warn!(job.id = %job, attempt, %error, "the job's log cannot be opened; it is tried again"),
        }
        rest(shared, container).await?;
    }
}

/// Waits until a log can be written again that could not; `None` as in [`open`].
async fn recover(shared: &Shared, writer: &mut LogWriter, container: &str) -> Option<()> {
    loop {
        rest(shared, container).await?;
        match writer.recover().await {
            Ok(()) => return Some(()),
            Err(error) => warn!(%error, container, "the job's log cannot be written yet; it is tried again"),
        }
    }
}

/// Waits before a log is tried again; `None` once its container has ended.
async fn rest(shared: &Shared, container: &str) -> Option<()> {
    if !still_runs(shared, container).await {
        return None;
    }
    tokio::time::sleep(REWRITE).await;
    Some(())
}

/// An engine that breaks off loses lines that it had taken and not kept; what a job writes meanwhile may be lost too.
async fn note_gap(shared: &Shared, writer: &mut LogWriter) -> std::io::Result<()> {
    let now = u64::try_from(shared.deps.clock.now().as_nanosecond()).unwrap_or(0);
    writer.append(now, log::LogStream::Note, b"runner-coordinator: lines may be missing here: the engine broke off\n").await?;
    writer.flush().await
}

/// Tells each break of the engine once, however often it is counted before the output goes on.
struct Gap {
    /// `None` when a break is still to be told.
    epoch: Option<u64>,
    noted: Noted,
}

/// Where a break was noted last.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Noted {
    Nowhere,
    /// After the output that ended so, or before any.
    After(Option<(u64, u32)>),
}

impl Gap {
    fn new(epoch: u64) -> Self {
        Self { epoch: Some(epoch), noted: Noted::Nowhere }
    }

    fn is_to_be_noted(&mut self) {
        *self = Self { epoch: None, noted: Noted::Nowhere };
    }

    fn is_new(&mut self, epoch: u64, last: Option<(u64, u32)>) -> bool {
        let broke = self.epoch.replace(epoch) != Some(epoch);
        let new = broke && self.noted != Noted::After(last);
        if new {
            self.noted = Noted::After(last);
        }
        new
    }
}

async fn still_runs(shared: &Shared, container: &str) -> bool {
    match shared.deps.driver.inspect(container).await {
        Ok(Some(facts)) => facts.state.is_up() || matches!(facts.state, ContainerState::Unknown(_)),
        Ok(None) => false,
        Err(_) => true,
    }
}

enum Broken {
    Log(std::io::Error),
    Stream(DriverError),
}

async fn copy(shared: &Shared, writer: &mut LogWriter, container: &str) -> Result<(), Broken> {
    let mut known = Known::new(writer.last());
    let mut stream = shared.deps.driver.logs(container, known.since_seconds());
    while let Some(record) = stream.next().await {
        let record = record.map_err(Broken::Stream)?;
        if known.is_new(&record) {
            writer.append(record.ts_ns, kept_as(record.stream), &record.bytes).await.map_err(Broken::Log)?;
        }
    }
    writer.flush().await.map_err(Broken::Log)
}

fn kept_as(stream: LogStream) -> log::LogStream {
    match stream {
        LogStream::Stdout => log::LogStream::Stdout,
        LogStream::Stderr => log::LogStream::Stderr,
    }
}

/// What a log holds already.
struct Known {
    last: u64,
    to_skip: u32,
}

impl Known {
    fn new(last: Option<(u64, u32)>) -> Self {
        let (last, to_skip) = last.unwrap_or((0, 0));
        Self { last, to_skip }
    }

    fn since_seconds(&self) -> i64 {
        i64::try_from(self.last / 1_000_000_000).unwrap_or(0)
    }

    fn is_new(&mut self, record: &LogRecord) -> bool {
        if self.to_skip > 0 && record.ts_ns == self.last {
            self.to_skip -= 1;
            return false;
        }
        if record.ts_ns < self.last && self.since_seconds() > 0 && !self.passed() {
            return false;
        }
        true
    }

    /// Records older than the last known one are repeats only until all known ones of its moment were seen again.
    fn passed(&self) -> bool {
        self.to_skip == 0
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::domain::{ClassName, CpuMillis, HostId, JobId, MemoryBytes, Placement, RunnerId, RunnerOrigin};
    use crate::jobs::deps::fixture::{self, FakeEngine};

    fn record(ts_ns: u64) -> LogRecord {
        LogRecord { ts_ns, stream: LogStream::Stdout, bytes: Bytes::new() }
    }

    #[test]
    fn each_break_is_noted_once_until_output_goes_on() {
        let mut gap = Gap::new(7);
        let (before, after) = (Some((5, 1)), Some((6, 1)));
        assert!(!gap.is_new(7, before), "a stream that ended while the engine was well");
        assert!(gap.is_new(8, before));
        assert!(!gap.is_new(8, before) && !gap.is_new(9, before), "the same break, counted twice");
        assert!(gap.is_new(10, after), "another one");
        assert!(Gap::new(1).is_new(2, None), "before any output");
        gap.is_to_be_noted();
        assert!(gap.is_new(10, after) && !gap.is_new(10, after), "its note could not be written");
    }

    /// A runner of the only container, with its log in `directory`.
    fn runner() -> Runner {
        let placement = Placement { cpus: CpuMillis(1), memory: MemoryBytes(1), devices: Vec::new(), share: None, opened: None };
        let (class, host) = (ClassName::from_trusted("default"), HostId::from_trusted("box1"));
        let planned = Runner::planned(RunnerId::from_trusted("r1"), class, host, RunnerOrigin::Pool, placement, jiff::Timestamp::UNIX_EPOCH);
        Runner { job: Some((JobId::from_trusted("0190abcdef"), 1)), ..planned }
    }

    #[tokio::test(start_paused = true)]
    async fn a_log_that_cannot_be_written_for_a_while_is_tried_again_while_its_container_runs() {
        let dir = tempfile::tempdir().expect("a directory");
        let engine = Arc::new(FakeEngine::default());
        let shared = fixture::shared(dir.path(), Arc::clone(&engine));
        let logs = dir.path().join("logs");
        std::fs::write(&logs, "in the way").expect("written");
        let runner = runner();
        assert!(keep(&shared, &runner, "c").await.is_none(), "it has ended, and its log is not whole");
        engine.runs.store(true, Ordering::SeqCst);
        let mut kept = std::pin::pin!(keep(&shared, &runner, "c"));
        assert!(tokio::time::timeout(REWRITE * 3, kept.as_mut()).await.is_err(), "it waits");
        std::fs::remove_file(&logs).expect("removed");
        let writer = kept.await.expect("the whole log");
        assert_eq!(writer.last(), Some((5, 1)));
        writer.close().await.expect("closed");
    }

    proptest! {
        /// Cut a log anywhere, stream it again from the second of its last record: what is added completes it.
        #[test]
        fn a_resumed_stream_adds_exactly_what_is_missing(gaps in prop::collection::vec(0_u64..1_500_000_000, 1..60), cut in 0_usize..60) {
            let mut at = 5_000_000_000_u64;
            let all: Vec<u64> = gaps.iter().map(|gap| { at += gap / 500_000_000 * 500_000_000; at }).collect();
            let cut = cut.min(all.len());
            let last = all[..cut].last().map(|ts| (*ts, u32::try_from(all[..cut].iter().filter(|other| *other == ts).count()).unwrap()));
            let mut known = Known::new(last);
            let since = u64::try_from(known.since_seconds()).unwrap() * 1_000_000_000;
            let added = all.iter().filter(|ts| **ts >= since).filter(|ts| known.is_new(&record(**ts))).count();
            prop_assert_eq!(added, all.len() - cut);
        }
    }
}
