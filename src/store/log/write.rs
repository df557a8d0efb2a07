//! The writing end of a log.

use std::io;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::frame::{self, HEADER, Kind, LogStream, MAX_PAYLOAD, Position};
use super::open::{OpenLog, Pending, Start};

/// Bytes that may gather for the disk before the writer waits for it.
const GATHERED: usize = 256 << 10;

/// Writes the log of one attempt; the only one who does.
///
/// After an error it takes no more: open the log again, and go on where the new writer stands. Dropping it writes the rest, too,
/// but tells nobody of an error.
#[derive(Debug)]
pub struct LogWriter {
    log: Arc<OpenLog>,
    position: Position,
    len: u64,
    thread: Option<mpsc::Sender<Arc<OpenLog>>>,
}

impl LogWriter {
    pub(super) fn new(log: Arc<OpenLog>, start: Start, thread: Option<mpsc::Sender<Arc<OpenLog>>>) -> Self {
        Self { log, position: start.position, len: start.len, thread }
    }

    /// The latest timestamp (ns) of the container's output that was taken, and how many records have it: ask the engine for everything
    /// since then and pass over as many.
    #[must_use]
    pub fn last(&self) -> Option<(u64, u32)> {
        self.position.last
    }

    /// Bytes of the present trace that were taken, whether or not they were kept.
    #[must_use]
    pub fn trace_len(&self) -> u64 {
        self.position.trace_len
    }

    /// Takes one piece of output; it is on disk soon after, without a further call. Nothing happens with an empty one.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] above 16 MiB; else what the file system said to this or an earlier write.
    pub async fn append(&mut self, ts_ns: u64, stream: LogStream, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        if bytes.len() > MAX_PAYLOAD {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a piece of log is longer than 16 MiB"));
        }
        self.record(ts_ns, Kind::Output(stream), bytes).await
    }

    /// Notes that the runner begins its trace anew: [`Self::trace_len`] is zero again.
    ///
    /// # Errors
    /// What the file system said to this or an earlier write.
    pub async fn reset_trace(&mut self) -> io::Result<()> {
        self.record(0, Kind::TraceReset, &[]).await
    }

    /// Waits until everything that was taken is in the file.
    ///
    /// # Errors
    /// What the file system said.
    pub async fn flush(&mut self) -> io::Result<()> {
        let log = Arc::clone(&self.log);
        super::beside(self.thread.as_ref(), move || {
            log.drain();
            check(&log.pending())
        })
        .await
    }

    /// Writes the rest and lets readers that follow end.
    ///
    /// # Errors
    /// What the file system said.
    pub async fn close(mut self) -> io::Result<()> {
        self.flush().await
    }

    async fn record(&mut self, ts: u64, kind: Kind, bytes: &[u8]) -> io::Result<()> {
        self.room().await?;
        // Before anything changes, so that a caller who stops waiting here leaves nothing half done.
        let permit = match &self.thread {
            Some(thread) => Some(thread.reserve().await.map_err(io::Error::other)?),
            None => None,
        };
        let tell = {
            let mut pending = self.log.pending();
            check(&pending)?;
            let size = (HEADER + bytes.len()) as u64;
            if !self.position.cut && self.len.saturating_add(size) > self.log.max_bytes {
                let note = format!("[log cut: limit of {} bytes reached]\n", self.log.max_bytes);
                frame::push(&mut pending.bytes, ts, Kind::Cut, note.as_bytes())?;
                self.position.cut = true;
            }
            self.position.pass(ts, kind, bytes.len());
            if self.position.cut {
                pending.position = Some(self.position);
            } else {
                frame::push(&mut pending.bytes, ts, kind, bytes)?;
                self.len += size;
            }
            !std::mem::replace(&mut pending.queued, true)
        };
        match permit {
            Some(permit) if tell => permit.send(Arc::clone(&self.log)),
            Some(_) => {}
            None => self.log.drain(),
        }
        Ok(())
    }

    /// Waits while too much has gathered.
    async fn room(&self) -> io::Result<()> {
        let mut progress = self.log.progress();
        while self.log.pending().bytes.len() >= GATHERED {
            progress.changed().await.map_err(io::Error::other)?;
        }
        Ok(())
    }
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        self.log.close();
    }
}

fn check(pending: &Pending) -> io::Result<()> {
    match &pending.failed {
        Some((kind, words)) => Err(io::Error::new(*kind, words.clone())),
        None => Ok(()),
    }
}
