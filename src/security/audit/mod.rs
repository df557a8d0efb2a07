//! The audit log: who did what to this daemon, from where, and what came of it. One JSON line per act in `<data_dir>/audit.log`, each sealed with an
//! HMAC over itself and the seal of the line before, so that a line that was changed, put in or taken out shows ([`verify()`]).
//!
//! The key is derived from `secret.key`. Who can read that can write a log of their own: the chain is for those who can reach the log, a copy or a
//! backup of it, and not the key. A line is in its file at once and on the disk a moment after the act; nobody waits for it, and a disk that hangs holds nobody up.

mod chain;
mod file;
mod verify;

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, SyncSender, TrySendError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

use super::{SecurityError, SecurityManager};
use chain::Place;
use file::Files;
pub use verify::{Verdict, verify};

/// Acts that may wait to be written; beyond that they are counted and not kept.
const MOST_WAITING: usize = 4096;

/// Most characters of what the daemon says of its own acts.
const MOST_DETAIL: usize = 4096;

/// Something that somebody did, or tried to do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Act {
    /// What: the method and route of a request, or the daemon's own, such as `daemon.start`.
    pub act: String,
    /// Who: `token:NAME`, `socket`, `loopback`, `nobody` or `daemon`.
    pub who: String,
    /// The address that it came from.
    pub from: Option<String>,
    /// What it was done to: a path of the API.
    pub target: Option<String>,
    /// The status that it was answered with.
    pub status: Option<u16>,
    /// More in words.
    pub detail: Option<String>,
    /// The request's id, as in the log of the daemon.
    pub request: Option<String>,
}

impl Act {
    /// One of the daemon itself.
    #[must_use]
    pub fn of_daemon(act: &str, detail: &str) -> Self {
        Self { act: act.to_owned(), who: "daemon".to_owned(), detail: Some(detail.chars().take(MOST_DETAIL).collect()), ..Self::default() }
    }
}

enum Message {
    Note(Box<Act>, Timestamp),
    /// Everything before it is to be on the disk.
    Flush(SyncSender<()>),
}

/// How the log does, for those who do not write it.
#[derive(Debug, Default)]
struct Condition {
    /// Acts that were not kept and not told of yet.
    lost: AtomicU64,
    failing: Mutex<Option<(String, Timestamp)>>,
}

/// Takes acts in. Cheap to clone; one that is off keeps nothing.
#[derive(Debug, Clone, Default)]
pub struct AuditLog {
    sender: Option<SyncSender<Message>>,
    condition: Arc<Condition>,
}

impl AuditLog {
    /// Goes on with the log in `data_dir`, or begins it, on a thread of its own.
    ///
    /// # Errors
    /// When the log cannot be opened, is open to others, or the system has no thread.
    pub fn open(data_dir: &Path, security: &SecurityManager) -> Result<Self, SecurityError> {
        let files = Files::new(data_dir);
        let failed = |source| SecurityError::Audit { path: files.current(), source };
        // What cannot work is told at the start.
        let opened = files.open(&security.audit_key, &Place::default()).map_err(failed)?;
        let (sender, receiver) = mpsc::sync_channel(MOST_WAITING);
        let condition = Arc::new(Condition::default());
        let writer = file::Writer::new(files.clone(), security.audit_key.clone(), opened, Arc::clone(&condition));
        std::thread::Builder::new().name("audit".to_owned()).spawn(move || writer.run(&receiver)).map_err(failed)?;
        Ok(Self { sender: Some(sender), condition })
    }

    /// Writes an act down; at once, and without waiting for the disk.
    pub fn note(&self, act: Act, at: Timestamp) {
        let Some(sender) = &self.sender else { return };
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = sender.try_send(Message::Note(Box::new(act), at)) {
            self.condition.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Why acts cannot be written down at present, and since when, if that is known.
    #[must_use]
    pub fn failing(&self) -> Option<(String, Option<Timestamp>)> {
        let told = self.condition.failing.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let lost = self.condition.lost.load(Ordering::Relaxed);
        told.map(|(error, since)| (error, Some(since)))
            .or_else(|| (lost > 0).then(|| (format!("{lost} acts were lost: the disk does not keep up"), None)))
    }

    /// Waits until everything is written down, at most so long; tells whether it was.
    #[must_use]
    pub fn flush(&self, patience: Duration) -> bool {
        let Some(sender) = &self.sender else { return true };
        let (done, written) = mpsc::sync_channel(1);
        sender.try_send(Message::Flush(done)).is_ok() && written.recv_timeout(patience).is_ok()
    }
}

#[cfg(test)]
mod tests;
