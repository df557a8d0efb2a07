//! The files of the log, and the thread that writes them.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

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
/// How long what was written may wait for the disk: others write there too.
const SETTLES: Duration = Duration::from_millis(100);
/// How long until it is tried again where it could not be written.
const AGAIN: Duration = Duration::from_secs(5);
/// Acts that are written together.
const AT_ONCE: usize = 256;

/// Where the log lies.
#[derive(Debug, Clone)]
pub(super) struct Files {
    directory: PathBuf,
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

    /// All files, opened, the oldest first. Opened the newest first, and each once, so that none is missed when the daemon puts one aside meanwhile.
    pub(super) fn all(&self) -> io::Result<Vec<(PathBuf, File)>> {
        let (mut found, mut seen) = (Vec::new(), HashSet::new());
        for path in std::iter::once(self.current()).chain((1..=KEPT).map(|number| self.put_aside(number))) {
            let file = match File::open(&path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let about = file.metadata()?;
            if seen.insert((about.dev(), about.ino())) {
                found.push((path, file));
            }
        }
        found.reverse();
        Ok(found)
    }

    /// Those that were put aside, the oldest first.
    fn aside(&self) -> Vec<PathBuf> {
        (1..=KEPT).rev().map(|number| self.put_aside(number)).filter(|path| path.exists()).collect()
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
        let first = head.as_ref().map_or(0, |head| head.first).max(known.first);
        let found = link.map(|link| Place { first, seq: link.seq, seal: link.seal });
        let place = [found, head, Some(known.clone())].into_iter().flatten().max_by_key(|place| place.seq).unwrap_or_default();
        let place = Place { first, ..place };
        Ok(Opened { file, bytes: whole, place })
    }

    /// Puts the current file aside; the oldest goes, which the head says before.
    fn turn_over(&self, key: &hmac::Key, place: &mut Place) -> io::Result<()> {
        let oldest = self.aside();
        if let [gone, next, ..] = &oldest[..]
            && *gone == self.put_aside(KEPT)
        {
            place.first = first_of(next)?.and_then(|line| chain::read(key, &line)).map_or(place.first, |link| link.seq);
            self.note_head(&place.head(key))?;
        }
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
        file.sync_data()?;
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

fn first_of(path: &Path) -> io::Result<Option<String>> {
    let mut line = String::new();
    BufReader::new(File::open(path)?.take(LONGEST_LINE)).read_line(&mut line)?;
    Ok(line.strip_suffix('\n').map(str::to_owned))
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
    let Some(end) = tail.iter().rposition(|byte| *byte == b'\n') else {
        // So much without an end is not ours to take away.
        return Ok((if from == 0 { 0 } else { bytes }, None));
    };
    let begin = tail[..end].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let line = String::from_utf8_lossy(&tail[begin..end]).into_owned();
    Ok((from + u64::try_from(end).unwrap_or(u64::MAX) + 1, Some(line)))
}

/// Writes what it is told: at once, so that it outlives this process, and now and then waits until the disk has it.
pub(super) struct Writer {
    files: Files,
    key: hmac::Key,
    opened: Option<Opened>,
    /// Behind the last line that was written.
    place: Place,
    /// When what was written is to be on the disk.
    due: Option<Instant>,
    /// The time of the last act, by the wall clock and by the steady one.
    last: Option<(Timestamp, Instant)>,
    condition: Arc<Condition>,
}

impl Writer {
    pub(super) fn new(files: Files, key: hmac::Key, opened: Opened, condition: Arc<Condition>) -> Self {
        Self { files, key, place: opened.place.clone(), opened: Some(opened), due: None, last: None, condition }
    }

    /// Until nobody is left to tell it anything.
    pub(super) fn run(mut self, receiver: &Receiver<Message>) {
        loop {
            let first = match self.due {
                Some(due) => receiver.recv_timeout(due.saturating_duration_since(Instant::now())),
                None => receiver.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            let (mut acts, mut waiting) = (Vec::new(), Vec::new());
            let ends = first.as_ref().is_err_and(|error| *error == RecvTimeoutError::Disconnected);
            for message in first.into_iter().chain(receiver.try_iter().take(AT_ONCE)) {
                match message {
                    Message::Note(act, at) => acts.push((act, at)),
                    Message::Flush(done) => waiting.push(done),
                }
            }
            self.keep(&acts);
            if ends || !waiting.is_empty() || self.due.is_some_and(|due| due <= Instant::now()) {
                self.settle();
            }
            for done in waiting {
                let _ = done.try_send(());
            }
            if ends {
                return;
            }
        }
    }

    fn keep(&mut self, acts: &[(Box<Act>, Timestamp)]) {
        let Some((_, until)) = acts.last() else { return };
        self.last = Some((*until, Instant::now()));
        match self.write(acts) {
            Ok(()) => {
                self.due.get_or_insert_with(|| Instant::now() + SETTLES);
            }
            Err(error) => {
                self.condition.lost.fetch_add(u64::try_from(acts.len()).unwrap_or(u64::MAX), Ordering::Relaxed);
                self.fail(&error);
            }
        }
    }

    /// Waits until the disk has what was written. Where that cannot be written it is tried again, with a line that says so.
    fn settle(&mut self) {
        if self.due.take().is_none() {
            return;
        }
        let mut written = Ok(());
        if self.opened.is_none() {
            let at = self.last.map_or(Timestamp::UNIX_EPOCH, |(at, since)| at.checked_add(since.elapsed()).unwrap_or(at));
            written = self.write(&[(Box::new(Act::of_daemon("audit.resume", "the audit log is written again")), at)]);
        }
        let synced = written.and_then(|()| self.opened.as_ref().map_or(Ok(()), |opened| opened.file.sync_data()));
        match synced.and_then(|()| self.files.note_head(&self.place.head(&self.key))) {
            Ok(()) => {
                let failed = self.condition.failing.lock().unwrap_or_else(PoisonError::into_inner).take();
                if failed.is_some() {
                    info!("the audit log is written again");
                }
            }
            Err(error) => self.fail(&error),
        }
    }

    fn fail(&mut self, error: &io::Error) {
        // What of it got into the file is not known: it is read again.
        self.opened = None;
        self.due = Some(Instant::now() + AGAIN);
        let mut failing = self.condition.failing.lock().unwrap_or_else(PoisonError::into_inner);
        if failing.is_none() {
            error!(%error, "the audit log cannot be written");
            *failing = self.last.map(|(at, _)| (format!("the audit log cannot be written: {error}"), at));
        }
    }

    fn write(&mut self, acts: &[(Box<Act>, Timestamp)]) -> io::Result<()> {
        let current = self.files.current();
        self.opened.take_if(|opened| !opened.is_at(&current));
        if let Some(full) = self.opened.take_if(|opened| opened.bytes > MOST_BYTES) {
            full.file.sync_data()?;
            if let Err(error) = self.files.turn_over(&self.key, &mut self.place) {
                warn!(%error, "the audit log cannot be put aside, and goes on where it is");
            }
        }
        let opened = match &mut self.opened {
            Some(opened) => opened,
            closed => closed.insert(self.files.open(&self.key, &self.place)?),
        };
        let lost = self.condition.lost.load(Ordering::Relaxed);
        let mut text = String::new();
        for (number, (act, at)) in acts.iter().enumerate() {
            text.push_str(&opened.place.seal(&self.key, (act, *at), if number == 0 { lost } else { 0 }));
        }
        opened.file.write_all(text.as_bytes())?;
        self.condition.lost.fetch_sub(lost, Ordering::Relaxed);
        opened.bytes += u64::try_from(text.len()).unwrap_or(u64::MAX);
        self.place = opened.place.clone();
        Ok(())
    }
}
