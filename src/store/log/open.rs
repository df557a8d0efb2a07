//! A log that is being written: its file, what has gathered for it, and how far readers may read.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::frame::{HEADER, Header, Kind, Position};

/// Bytes of positions after the cut; then they are begun anew, so that a job that talks for ever does not fill the disk.
const POSITIONS: u64 = 32 << 10;

/// How far a log is on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Progress {
    /// Bytes of whole records.
    pub bytes: u64,
    /// Turns of the thread, so that whoever waits for room or for a flush hears of each.
    pub turns: u64,
    /// No more will come.
    pub closed: bool,
}

/// What has gathered since the thread's last turn.
#[derive(Debug, Default)]
pub(super) struct Pending {
    /// Records.
    pub bytes: Vec<u8>,
    /// Where the writer stands, when it discards.
    pub position: Option<Position>,
    /// The thread has been told.
    pub queued: bool,
    /// A write failed: nothing more is taken.
    pub failed: Option<(io::ErrorKind, String)>,
    pub owner: Owner,
}

/// Whether somebody may still append.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    #[default]
    There,
    /// What has gathered is the last.
    Gone,
}

/// The file and what is known of it.
#[derive(Debug)]
struct Disk {
    file: File,
    len: u64,
    /// Where the positions begin, once output is discarded.
    cut_end: Option<u64>,
}

/// A log that is being written.
#[derive(Debug)]
pub(super) struct OpenLog {
    pub(super) max_bytes: u64,
    pending: Mutex<Pending>,
    disk: Mutex<Disk>,
    progress: watch::Sender<Progress>,
}

impl OpenLog {
    /// Opens the file, cuts a torn end away, and finds out where its writer stood.
    pub(super) fn open(path: &Path, max_bytes: u64) -> io::Result<(Self, Start)> {
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        let (position, len, cut_end) = settle(&mut file)?;
        let (progress, _) = watch::channel(Progress { bytes: len, turns: 0, closed: false });
        let disk = Mutex::new(Disk { file, len, cut_end });
        Ok((Self { max_bytes, pending: Mutex::default(), disk, progress }, Start { position, len }))
    }

    /// What has gathered.
    pub(super) fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How far it is on disk, and its ticks.
    pub(super) fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.progress.borrow().closed
    }

    /// Writes what has gathered and, once the writer is gone, lets readers end. Blocks on the disk.
    pub(super) fn drain(&self) {
        let mut disk = self.disk.lock().unwrap_or_else(PoisonError::into_inner);
        let (bytes, position, failed, owner) = {
            let mut pending = self.pending();
            pending.queued = false;
            (std::mem::take(&mut pending.bytes), pending.position.take(), pending.failed.is_some(), pending.owner)
        };
        // What gathered while a write failed must not stand where that is missing.
        if !failed && let Err(error) = disk.write(&bytes, position) {
            self.pending().failed = Some((error.kind(), error.to_string()));
        }
        let len = disk.len;
        self.progress.send_modify(|progress| {
            progress.bytes = len;
            progress.turns += 1;
            progress.closed |= owner == Owner::Gone;
        });
    }

    /// Whether its writer is gone. What that left to the thread is written first. Blocks on the disk.
    pub(super) fn has_ended(&self) -> bool {
        if self.pending().owner == Owner::Gone && !self.is_closed() {
            self.drain();
        }
        self.is_closed()
    }

    /// Gives up what could not be written, and finds out where the file really ends. Blocks on the disk.
    pub(super) fn recover(&self) -> io::Result<Start> {
        let mut disk = self.disk.lock().unwrap_or_else(PoisonError::into_inner);
        let (position, len, cut_end) = settle(&mut disk.file)?;
        (disk.len, disk.cut_end) = (len, cut_end);
        let mut pending = self.pending();
        (pending.bytes, pending.position, pending.failed) = (Vec::new(), None, None);
        Ok(Start { position, len })
    }

    /// Whether these bytes are the last that were written. Blocks on the disk.
    pub(super) fn ends_with(&self, bytes: &[u8]) -> io::Result<bool> {
        let disk = self.disk.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(from) = disk.len.checked_sub(bytes.len() as u64) else { return Ok(false) };
        let mut last = vec![0; bytes.len()];
        disk.file.read_exact_at(&mut last, from)?;
        Ok(last == bytes)
    }
}

/// Where a writer begins.
#[derive(Debug, Clone, Copy)]
pub(super) struct Start {
    /// Where it stood.
    pub position: Position,
    /// Bytes of the file.
    pub len: u64,
}

impl Disk {
    fn write(&mut self, records: &[u8], position: Option<Position>) -> io::Result<()> {
        self.append(records)?;
        let Some(position) = position else { return Ok(()) };
        let cut_end = *self.cut_end.get_or_insert(self.len);
        if self.len - cut_end > POSITIONS {
            // Dying between the two leaves the position at the cut: earlier, but true.
            self.file.set_len(cut_end)?;
            self.file.seek(SeekFrom::Start(cut_end))?;
            self.len = cut_end;
        }
        let mut record = Vec::new();
        position.push(&mut record)?;
        self.append(&record)
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Err(error) = self.file.write_all(bytes) {
            // Half a record must not stand before later ones.
            self.file.set_len(self.len)?;
            self.file.seek(SeekFrom::Start(self.len))?;
            return Err(error);
        }
        self.len += bytes.len() as u64;
        Ok(())
    }
}

/// Cuts a torn end away and stands behind what is left: where the writer stood, its length, and where positions begin.
fn settle(file: &mut File) -> io::Result<(Position, u64, Option<u64>)> {
    file.rewind()?;
    let (position, len, cut_end) = scan(file)?;
    file.set_len(len)?;
    file.seek(SeekFrom::Start(len))?;
    Ok((position, len, cut_end))
}

/// Reads the records up to the first that is not whole: where the writer stood, the length of the whole ones, and where positions begin.
fn scan(file: &File) -> io::Result<(Position, u64, Option<u64>)> {
    let size = file.metadata()?.len();
    let mut reader = BufReader::with_capacity(64 << 10, file);
    let (mut position, mut len, mut cut_end) = (Position::default(), 0, None);
    while size - len >= HEADER as u64 {
        let mut header = [0; HEADER];
        reader.read_exact(&mut header)?;
        let Some(header) = Header::read(header) else { break };
        let end = len + (HEADER + header.len) as u64;
        if end > size {
            break;
        }
        if header.kind == Kind::Position {
            let mut payload = [0; 12];
            reader.read_exact(&mut payload)?;
            position.restore(header.ts, payload);
        } else {
            reader.seek_relative(i64::try_from(header.len).map_err(io::Error::other)?)?;
            position.pass(header.ts, header.kind, header.len);
        }
        len = end;
        if header.kind == Kind::Cut {
            cut_end = Some(len);
        }
    }
    Ok((position, len, cut_end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::log::frame::{self, LogStream};

    /// Records of one byte each, written at these times.
    fn records(times: &[u64]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for ts in times {
            frame::push(&mut bytes, *ts, Kind::Output(LogStream::Stdout), b"x").expect("short");
        }
        bytes
    }

    fn gather(log: &OpenLog, times: &[u64]) {
        log.pending().bytes.extend(records(times));
    }

    /// Lets every write fail, or none; gives what did the other.
    fn exchange(log: &OpenLog, other: File) -> File {
        std::mem::replace(&mut log.disk.lock().expect("nobody panicked").file, other)
    }

    #[test]
    fn nothing_is_written_behind_what_is_missing_and_after_a_failure_the_log_goes_on_where_it_ends() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("1.log");
        let (log, _) = OpenLog::open(&path, 1 << 20).expect("a log");
        gather(&log, &[5, 7]);
        log.drain();
        let sound = exchange(&log, File::open(&path).expect("only to read"));
        gather(&log, &[8]);
        log.drain();
        assert!(log.pending().failed.is_some(), "nobody may write");
        // There is room again, and what gathered meanwhile waits.
        exchange(&log, sound);
        gather(&log, &[9]);
        log.drain();
        assert_eq!(std::fs::read(&path).expect("a file"), records(&[5, 7]), "the last of it would stand where the first is missing");
        let start = log.recover().expect("it recovers");
        assert_eq!((start.position.last, start.len), (Some((7, 1)), records(&[5, 7]).len() as u64));
        gather(&log, &[8, 9]);
        log.drain();
        assert!(log.pending().failed.is_none());
        assert_eq!(std::fs::read(&path).expect("a file"), records(&[5, 7, 8, 9]));
        assert!(log.ends_with(b"x").expect("read") && !log.ends_with(b"y").expect("read"));
        assert!(!log.ends_with(&[0; 1000]).expect("read"), "longer than all that there is");
    }

    #[test]
    fn a_log_ends_for_its_readers_only_when_its_rest_is_written() {
        let dir = tempfile::tempdir().expect("a directory");
        let (log, _) = OpenLog::open(&dir.path().join("1.log"), 1 << 20).expect("a log");
        gather(&log, &[5]);
        log.pending().owner = Owner::Gone;
        assert!(!log.is_closed());
        log.drain();
        assert_eq!((log.is_closed(), log.progress().borrow().bytes), (true, records(&[5]).len() as u64));
    }
}
