//! The logs of jobs as files: one per attempt, framed so that a reader and a restarted coordinator know exactly where they are.
//!
//! ```text
//!  root/<last two characters of the job>/<job>/<attempt>.log  =  record*         (`log/frame.rs`)
//!  LogWriter ──buffer──▶ one thread for all logs ──▶ file ──tick──▶ readers that follow
//! ```
//!
//! The thread takes whatever has gathered since its last turn, so a quiet log is on disk at once and a loud one in large writes.
//! What was written survives the coordinator's death; a record that was not written whole is cut away when the log is opened again.

mod frame;
mod open;
mod read;
mod times;
mod write;

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;
use futures_util::Stream;
use tokio::sync::mpsc;

pub use self::frame::LogStream;
pub use self::write::LogWriter;

use self::open::OpenLog;
use crate::domain::JobId;

/// What a reader does at the end of what is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Follow {
    /// It ends.
    No,
    /// While a writer is open it waits for more; without one it ends.
    UntilClosed,
}

/// What stands before each line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Times {
    /// Nothing.
    #[default]
    Without,
    /// When its first piece was written, as RFC 3339 to the nanosecond, and a space.
    With,
}

/// All logs of this machine.
#[derive(Debug, Clone)]
pub struct LogStore {
    inner: Arc<Inner>,
}

/// Tells how long a log may become that is opened now.
struct MaxBytes(Box<dyn Fn() -> u64 + Send + Sync>);

impl std::fmt::Debug for MaxBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0().fmt(f)
    }
}

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    max_bytes: MaxBytes,
    /// Held while a log is opened, which may take a while; `open` is only ever held for a moment.
    opening: Mutex<()>,
    open: Mutex<HashMap<(JobId, u32), Weak<OpenLog>>>,
    /// `None` when whoever writes does the work. Each log that is open waits there at most once.
    thread: Option<mpsc::UnboundedSender<Arc<OpenLog>>>,
}

impl LogStore {
    /// Logs under `root`, each cut at `max_bytes_per_log` bytes of file. Starts the thread that writes; it ends with the last handle.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn new(root: PathBuf, max_bytes_per_log: u64) -> io::Result<Self> {
        Self::cut_at(root, move || max_bytes_per_log)
    }

    /// The same for a limit that may change: it is asked for when a log is opened for writing.
    ///
    /// # Errors
    /// As [`LogStore::new`].
    pub fn cut_at(root: PathBuf, max_bytes_per_log: impl Fn() -> u64 + Send + Sync + 'static) -> io::Result<Self> {
        let (thread, mut waiting) = mpsc::unbounded_channel::<Arc<OpenLog>>();
        std::thread::Builder::new().name("log-writer".to_owned()).spawn(move || {
            while let Some(log) = waiting.blocking_recv() {
                log.drain();
            }
        })?;
        Ok(Self::written_by(root, MaxBytes(Box::new(max_bytes_per_log)), Some(thread)))
    }

    /// The same without threads: whoever writes does the work. For simulations, which replay only what no thread's pace decides.
    #[must_use]
    pub fn in_caller(root: PathBuf, max_bytes_per_log: u64) -> Self {
        Self::written_by(root, MaxBytes(Box::new(move || max_bytes_per_log)), None)
    }

    fn written_by(root: PathBuf, max_bytes: MaxBytes, thread: Option<mpsc::UnboundedSender<Arc<OpenLog>>>) -> Self {
        Self { inner: Arc::new(Inner { root, max_bytes, opening: Mutex::default(), open: Mutex::default(), thread }) }
    }

    /// Carries out work with files where that of the logs is: off the runtime, unless whoever writes does it.
    ///
    /// # Errors
    /// Those of the work.
    pub async fn work<T: Send + 'static>(&self, work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
        beside(self.inner.thread.as_ref(), work).await
    }

    /// Opens the log of an attempt for writing, after what it already holds.
    ///
    /// # Errors
    /// [`io::ErrorKind::ResourceBusy`] while another writer of the same log is open; else what the file system says.
    pub async fn writer(&self, job: &JobId, attempt: u32) -> io::Result<LogWriter> {
        let (inner, key) = (Arc::clone(&self.inner), (job.clone(), attempt));
        beside(self.inner.thread.as_ref(), move || {
            let directory = inner.directory(&key.0)?;
            let _opening = inner.opening.lock().unwrap_or_else(PoisonError::into_inner);
            let open = || inner.open.lock().unwrap_or_else(PoisonError::into_inner);
            let before = open().get(&key).and_then(Weak::upgrade);
            if let Some(before) = before
                && !before.has_ended()
            {
                return Err(io::Error::new(io::ErrorKind::ResourceBusy, format!("the log of job {} attempt {attempt} is being written", key.0)));
            }
            open().retain(|_, log| log.upgrade().is_some_and(|log| !log.is_closed()));
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
            let (log, position) = OpenLog::open(&directory.join(format!("{attempt}.log")), inner.max_bytes.0())?;
            let log = Arc::new(log);
            open().insert(key, Arc::downgrade(&log));
            Ok(LogWriter::new(log, position, inner.thread.clone()))
        })
        .await
    }

    /// Forgets what there is of an attempt that is about to begin: it is of another life of the store, which was since restored from a backup.
    ///
    /// # Errors
    /// What the file system says; that there is no such log is no error.
    pub async fn begin(&self, job: &JobId, attempt: u32) -> io::Result<()> {
        let path = self.inner.directory(job)?.join(format!("{attempt}.log"));
        beside(self.inner.thread.as_ref(), move || match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        })
        .await
    }

    /// What the log of an attempt holds for people, in chunks of some 64 KiB at most. The stream is empty when there is no such log.
    pub fn read(&self, job: &JobId, attempt: u32, follow: Follow, times: Times) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static + use<> {
        let open = self.inner.open.lock().unwrap_or_else(PoisonError::into_inner).get(&(job.clone(), attempt)).and_then(Weak::upgrade);
        let path = self.inner.directory(job).map(|directory| directory.join(format!("{attempt}.log")));
        // One that is closed may linger in the thread for a moment; its file tells all.
        read::stream(path, open.filter(|log| !log.is_closed()).map(|log| log.progress()), follow, times)
    }

    /// The attempts of a job that have a log, first to latest.
    ///
    /// # Errors
    /// What the file system says; a job without logs is no error.
    pub async fn attempts(&self, job: &JobId) -> io::Result<Vec<u32>> {
        let Ok(directory) = self.inner.directory(job) else { return Ok(Vec::new()) };
        beside(self.inner.thread.as_ref(), move || {
            let entries = match std::fs::read_dir(directory) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
                entries => entries?,
            };
            let names: Vec<_> = entries.map(|entry| entry.map(|entry| entry.file_name())).collect::<io::Result<_>>()?;
            let number = |name: &std::ffi::OsString| name.to_str()?.strip_suffix(".log")?.parse().ok();
            let mut attempts: Vec<u32> = names.iter().filter_map(number).collect();
            attempts.sort_unstable();
            Ok(attempts)
        })
        .await
    }

    /// The shelves on which logs lie: directories, as many as two characters make.
    ///
    /// # Errors
    /// What the file system says; that there is none yet is no error.
    pub async fn shelves(&self) -> io::Result<Vec<OsString>> {
        let root = self.inner.root.clone();
        beside(self.inner.thread.as_ref(), move || names_in(&root)).await
    }

    /// The jobs whose logs lie on a shelf.
    ///
    /// # Errors
    /// What the file system says.
    pub async fn on_shelf(&self, name: &OsStr) -> io::Result<Vec<JobId>> {
        let (inner, directory) = (Arc::clone(&self.inner), self.inner.root.join(name));
        beside(self.inner.thread.as_ref(), move || {
            let jobs = names_in(&directory)?.into_iter().filter_map(|name| name.into_string().ok()).map(JobId::from_trusted);
            // What somebody else put there is not ours to take away.
            Ok(jobs.filter(|job| inner.directory(job).is_ok_and(|own| own.parent() == Some(&directory))).collect())
        })
        .await
    }

    /// Removes every log of a job.
    ///
    /// # Errors
    /// What the file system says; a job without logs is no error.
    pub async fn remove(&self, job: &JobId) -> io::Result<()> {
        let Ok(directory) = self.inner.directory(job) else { return Ok(()) };
        beside(self.inner.thread.as_ref(), move || match std::fs::remove_dir_all(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        })
        .await
    }
}

impl Inner {
    /// Where a job's logs are. The id may come from a request's path, so it must not be able to leave `root`.
    fn directory(&self, job: &JobId) -> io::Result<PathBuf> {
        let id = job.as_str();
        let legal = (2..=64).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if !legal {
            return Err(io::Error::new(io::ErrorKind::NotFound, "no such job"));
        }
        // Ids begin with the time, so only their end spreads over the directories.
        Ok(self.root.join(&id[id.len() - 2..]).join(id))
    }
}

/// Works where a log with this thread does: off the runtime, or without one in its caller.
async fn beside<T: Send + 'static>(
    thread: Option<&mpsc::UnboundedSender<Arc<OpenLog>>>,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    match thread {
        Some(_) => off_the_runtime(work).await,
        None => work(),
    }
}

/// The directories in a directory; none where it is not there.
fn names_in(directory: &Path) -> io::Result<Vec<OsString>> {
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let entries: Vec<_> = entries.collect::<io::Result<_>>()?;
    Ok(entries.into_iter().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.file_name()).collect())
}

async fn off_the_runtime<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

#[cfg(test)]
#[path = "log_tests.rs"]
mod tests;
