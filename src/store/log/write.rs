//! The writing end of a log.

use std::io;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::frame::{self, HEADER, Kind, LogStream, MAX_PAYLOAD, Position};
use super::open::{OpenLog, Owner, Pending, Start};

/// Bytes that may gather for the disk before the writer waits for it.
const GATHERED: usize = 256 << 10;

/// Writes the log of one attempt; the only one who does.
///
/// After an error it takes no more until it [recovers](Self::recover). Dropping it has the rest written, too, but waits for no disk and
/// tells nobody of an error.
#[derive(Debug)]
pub struct LogWriter {
    log: Arc<OpenLog>,
    position: Position,
    len: u64,
    thread: Option<mpsc::UnboundedSender<Arc<OpenLog>>>,
}

impl LogWriter {
    pub(super) fn new(log: Arc<OpenLog>, start: Start, thread: Option<mpsc::UnboundedSender<Arc<OpenLog>>>) -> Self {
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

    /// After an error: gives up what could not be written, and stands again where the file really ends. Ask the engine from
    /// [`Self::last`] on.
    ///
    /// # Errors
    /// What the file system says; then it still takes no more.
    pub async fn recover(&mut self) -> io::Result<()> {
        let log = Arc::clone(&self.log);
        let start = super::beside(self.thread.as_ref(), move || log.recover()).await?;
        (self.position, self.len) = (start.position, start.len);
        Ok(())
    }

    /// Whether the latest piece that was taken ends with these bytes, or is they; once everything is in the file.
    ///
    /// # Errors
    /// What the file system said.
    pub async fn ends_with(&mut self, bytes: &[u8]) -> io::Result<bool> {
        self.flush().await?;
        let (log, bytes) = (Arc::clone(&self.log), bytes.to_vec());
        super::beside(self.thread.as_ref(), move || log.ends_with(&bytes)).await
    }

    /// Writes the rest and lets readers that follow end.
    ///
    /// # Errors
    /// What the file system said.
    pub async fn close(self) -> io::Result<()> {
        let log = Arc::clone(&self.log);
        super::beside(self.thread.as_ref(), move || {
            log.pending().owner = Owner::Gone;
            log.drain();
            check(&log.pending())
        })
        .await
    }

    async fn record(&mut self, ts: u64, kind: Kind, bytes: &[u8]) -> io::Result<()> {
        self.room().await?;
        {
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
        }
        self.tell()
    }

    /// Tells the thread that something has gathered, unless it knows; without one does its work.
    fn tell(&self) -> io::Result<()> {
        let Some(thread) = &self.thread else {
            self.log.drain();
            return Ok(());
        };
        if std::mem::replace(&mut self.log.pending().queued, true) {
            return Ok(());
        }
        thread.send(Arc::clone(&self.log)).map_err(|_gone| io::Error::other("the thread that writes logs is gone"))
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
        if !self.log.is_closed() {
            self.log.pending().owner = Owner::Gone;
            let _ = self.tell();
        }
    }
}

fn check(pending: &Pending) -> io::Result<()> {
    match &pending.failed {
        Some((kind, words)) => Err(io::Error::new(*kind, words.clone())),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_writer_that_is_dropped_leaves_the_disk_to_the_thread() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("1.log");
        let written = || std::fs::read(&path).expect("a file").len() as u64;
        let (log, start) = OpenLog::open(&path, 1 << 20).expect("a log");
        let log = Arc::new(log);
        let (thread, mut told) = mpsc::unbounded_channel();
        let mut writer = LogWriter::new(Arc::clone(&log), start, Some(thread));
        writer.append(5, LogStream::Stdout, b"x").await.expect("taken");
        drop(writer);
        assert_eq!((written(), log.is_closed()), (0, false), "whoever drops it waits for no disk");
        told.try_recv().expect("the thread was told").drain();
        assert_eq!((written(), log.is_closed()), (HEADER as u64 + 1, true));
        assert!(told.try_recv().is_err(), "a log waits at most once");
    }

    #[tokio::test]
    async fn a_writer_that_is_dropped_with_nothing_left_ends_its_log_too() {
        let dir = tempfile::tempdir().expect("a directory");
        let (log, start) = OpenLog::open(&dir.path().join("1.log"), 1 << 20).expect("a log");
        let log = Arc::new(log);
        let (thread, mut told) = mpsc::unbounded_channel();
        drop(LogWriter::new(Arc::clone(&log), start, Some(thread)));
        told.try_recv().expect("the thread was told").drain();
        assert!(log.is_closed());
        drop(LogWriter::new(log, start, None));
    }
}
