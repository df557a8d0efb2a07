//! The files of the log, and the thread that writes them.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, PoisonError};

use jiff::Timestamp;
use ring::hmac;
use tracing::{error, info, warn};

use super::chain::{self, Place};
use super::{Act, Condition, Message};

/// Size at which a file is put aside.
const MOST_BYTES: u64 = if cfg!(test) { 64 << 10 } else { 16 << 20 };
/// Files that were put aside and are kept.
const KEPT: u32 = 7;
/// Longer than any line: parts of one that come from outside are cut off before.
const LONGEST_LINE: u64 = 64 << 10;
/// Acts that go to the disk together.
const AT_ONCE: usize = 256;

/// Where the log lies.
#[derive(Debug, Clone)]
pub(super) struct Files {
    directory: PathBuf,
}

/// Whether the oldest lines went by their age.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Aged {
    Yes,
    No,
}

/// The file that is written, and the place in the chain behind its last line.
#[derive(Debug)]
pub(super) struct Opened {
    file: File,
    bytes: u64,
    place: Place,
}

impl Files {
    pub(super) fn new(data_dir: &Path) -> Self {
        Self { directory: data_dir.to_owned() }
    }

    /// The file that is written.
    pub(super) fn current(&self) -> PathBuf {
        self.directory.join("audit.log")
    }

    /// What says how far it has got.
    pub(super) fn head(&self) -> PathBuf {
        self.directory.join("audit.head")
    }

    /// Those that were put aside, the oldest first.
    pub(super) fn aside(&self) -> Vec<PathBuf> {
        (1..=KEPT).rev().map(|number| self.put_aside(number)).filter(|path| path.exists()).collect()
    }

    /// Whether so many were put aside that the oldest may have gone.
    pub(super) fn are_all(&self, aside: &[PathBuf]) -> Aged {
        if aside.first() == Some(&self.put_aside(KEPT)) { Aged::Yes } else { Aged::No }
    }

    fn put_aside(&self, number: u32) -> PathBuf {
        self.directory.join(format!("audit.log.{number}"))
    }

    /// Opens the log behind its last whole line: what a crash left of one more goes. `known` is where this process has got.
    pub(super) fn open(&self, key: &hmac::Key, known: &Place) -> io::Result<Opened> {
        let mut file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(self.current())?;
        let about = file.metadata()?;
        if !about.is_file() || about.mode() & 0o077 != 0 {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it is open to others, or no plain file: make it 0600"));
        }
        let (whole, last) = last_line(&mut file, about.len())?;
        if whole < about.len() {
            file.set_len(whole)?;
        }
        // The first line of a new file goes on where the one before ends.
        let last = match (last, self.aside().last()) {
            (None, Some(before)) => last_of(before)?,
            (last, _) => last,
        };
        let link = last.as_deref().and_then(|line| chain::read(key, line));
        if last.is_some() && link.is_none() {
            warn!(file = %self.current().display(), "the last line of the audit log is not as it was written, or by another key");
        }
        // Where lines are missing at the end the next one says so: it follows what was there.
        let head = fs::read_to_string(self.head()).ok().and_then(|text| chain::read_head(key, &text));
        let found = link.map(|link| Place { seq: link.seq, seal: link.seal });
        let place = [found, head, Some(known.clone())].into_iter().flatten().max_by_key(|place| place.seq).unwrap_or_default();
        Ok(Opened { file, bytes: whole, place })
    }

    /// Puts the current file aside; the oldest goes.
    fn turn_over(&self) -> io::Result<()> {
        for number in (1..KEPT).rev() {
            let from = self.put_aside(number);
            if from.exists() {
                fs::rename(from, self.put_aside(number + 1))?;
            }
        }
        fs::rename(self.current(), self.put_aside(1))
    }

    fn note_head(&self, head: &str) -> io::Result<()> {
        let beside = self.directory.join("audit.head.new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        file.write_all(head.as_bytes())?;
        fs::rename(beside, self.head())
    }
}

impl Opened {
    /// Whether it is still what its name leads to: somebody may have moved or removed it.
    fn is_at(&self, path: &Path) -> bool {
        let of = |about: fs::Metadata| (about.dev(), about.ino());
        fs::metadata(path).map(of).ok() == self.file.metadata().map(of).ok()
    }
}

fn last_of(path: &Path) -> io::Result<Option<String>> {
    let mut file = File::open(path)?;
    let bytes = file.metadata()?.len();
    last_line(&mut file, bytes).map(|(_, line)| line)
}

/// Where the last whole line ends, and that line.
fn last_line(file: &mut File, bytes: u64) -> io::Result<(u64, Option<String>)> {
    let from = bytes.saturating_sub(2 * LONGEST_LINE);
    file.seek(SeekFrom::Start(from))?;
    let mut tail = Vec::new();
    file.take(2 * LONGEST_LINE).read_to_end(&mut tail)?;
    let Some(end) = tail.iter().rposition(|byte| *byte == b'\n') else { return Ok((from, None)) };
    let begin = tail[..end].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let line = String::from_utf8_lossy(&tail[begin..end]).into_owned();
    Ok((from + u64::try_from(end).unwrap_or(u64::MAX) + 1, Some(line)))
}

/// Writes what it is told.
pub(super) struct Writer {
    files: Files,
    key: hmac::Key,
    opened: Option<Opened>,
    /// Behind the last line that is surely on the disk.
    place: Place,
    condition: Arc<Condition>,
}

impl Writer {
    pub(super) fn new(files: Files, key: hmac::Key, opened: Opened, condition: Arc<Condition>) -> Self {
        Self { files, key, place: opened.place.clone(), opened: Some(opened), condition }
    }

    /// Until nobody is left to tell it anything.
    pub(super) fn run(mut self, receiver: &Receiver<Message>) {
        while let Ok(first) = receiver.recv() {
            let (mut acts, mut waiting) = (Vec::new(), Vec::new());
            for message in std::iter::once(first).chain(receiver.try_iter().take(AT_ONCE)) {
                match message {
                    Message::Note(act, at) => acts.push((act, at)),
                    Message::Flush(done) => waiting.push(done),
                }
            }
            self.keep(&acts);
            for done in waiting {
                let _ = done.try_send(());
            }
        }
    }

    fn keep(&mut self, acts: &[(Box<Act>, Timestamp)]) {
        let Some((_, until)) = acts.last() else { return };
        let lost = self.condition.lost.swap(0, Ordering::Relaxed);
        let written = self.write(acts, lost);
        if written.is_err() {
            // What of it got to the disk is not known: it is read again.
            self.opened = None;
            self.condition.lost.fetch_add(lost + u64::try_from(acts.len()).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
        let noted = written.and_then(|()| self.files.note_head(&self.place.head(&self.key)));
        let mut failing = self.condition.failing.lock().unwrap_or_else(PoisonError::into_inner);
        match (noted, failing.is_some()) {
            (Ok(()), true) => {
                info!("the audit log is written again");
                *failing = None;
            }
            (Err(error), false) => {
                error!(%error, "the audit log cannot be written");
                *failing = Some((format!("the audit log cannot be written: {error}"), *until));
            }
            (Ok(()), false) | (Err(_), true) => {}
        }
    }

    fn write(&mut self, acts: &[(Box<Act>, Timestamp)], lost: u64) -> io::Result<()> {
        let current = self.files.current();
        self.opened.take_if(|opened| !opened.is_at(&current));
        if self.opened.take_if(|opened| opened.bytes > MOST_BYTES).is_some() {
            self.files.turn_over()?;
        }
        let opened = match &mut self.opened {
            Some(opened) => opened,
            closed => closed.insert(self.files.open(&self.key, &self.place)?),
        };
        let mut text = String::new();
        for (number, (act, at)) in acts.iter().enumerate() {
            text.push_str(&opened.place.seal(&self.key, (act, *at), if number == 0 { lost } else { 0 }));
        }
        opened.file.write_all(text.as_bytes())?;
        opened.file.sync_data()?;
        opened.bytes += u64::try_from(text.len()).unwrap_or(u64::MAX);
        self.place = opened.place.clone();
        Ok(())
    }
}
