//! Whether a log is whole.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader};
use std::path::Path;

use jiff::Timestamp;
use ring::hmac;
use serde::Serialize;

use super::chain::{self, Link};
use super::file::Files;
use crate::security::{SecurityError, key};

/// Most faults that are told; a log that was forged has as many as lines.
const MOST_FAULTS: usize = 20;

/// What was found of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Lines that were read.
    pub lines: u64,
    /// Number and time of the first line.
    pub first: Option<(u64, Timestamp)>,
    /// Number and time of the last line.
    pub last: Option<(u64, Timestamp)>,
    /// What is wrong, each with its file and line; the first of them.
    pub faults: Vec<String>,
}

impl Verdict {
    /// Whether nothing was changed, put in or taken out. Files that the daemon itself took away are no fault.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.faults.is_empty()
    }
}

/// Reads the whole log in `data_dir`.
///
/// # Errors
/// When key or log cannot be read. That there is no log is no error: it has no line.
pub fn verify(data_dir: &Path) -> Result<Verdict, SecurityError> {
    let key = key::MasterKey::existing(data_dir)?.derive(crate::security::AUDIT_PURPOSE);
    let files = Files::new(data_dir);
    let failed = |path: &Path| {
        let path = path.to_owned();
        |source| SecurityError::Audit { path, source }
    };
    // First: a daemon that runs goes on with the log, and then with this.
    let read_head = || text_of(&files.head()).map_err(failed(&files.head()));
    let head = read_head()?;
    let mut reading = Reading::new(key);
    for (path, file) in files.all().map_err(failed(&files.current()))? {
        reading.file(&path, file).map_err(failed(&path))?;
    }
    // As it is by now: what went by its age meanwhile is not missing.
    reading.begin(read_head()?.as_deref());
    Ok(reading.end(head.as_deref(), &files.head()))
}

/// `None` for a file that is not there.
fn text_of(path: &Path) -> io::Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

struct Reading {
    key: hmac::Key,
    verdict: Verdict,
    before: Option<Link>,
}

impl Reading {
    fn new(key: hmac::Key) -> Self {
        Self { key, verdict: Verdict { lines: 0, first: None, last: None, faults: Vec::new() }, before: None }
    }

    fn file(&mut self, path: &Path, file: File) -> io::Result<()> {
        let mut file = BufReader::new(file);
        for number in 1.. {
            let mut line = Vec::new();
            file.read_until(b'\n', &mut line)?;
            // What has no end is being written, or a crash left it: the next start takes it away.
            if line.pop() != Some(b'\n') {
                break;
            }
            self.verdict.lines += 1;
            self.line(&String::from_utf8_lossy(&line), || format!("{}:{number}", path.display()));
        }
        Ok(())
    }

    fn line(&mut self, text: &str, place: impl Fn() -> String) {
        let Some(link) = chain::read(&self.key, text) else {
            self.fault(format!("{}: it is not as it was written, or by another key", place()));
            return;
        };
        match &self.before {
            None => self.verdict.first = Some((link.seq, link.at)),
            Some(before) if before.seal == link.previous && before.seq + 1 == link.seq => {}
            Some(before) => self.fault(format!("{}: line {} does not follow line {}", place(), link.seq, before.seq)),
        }
        self.verdict.last = Some((link.seq, link.at));
        self.before = Some(link);
    }

    /// The head knows which lines went by their age.
    fn begin(&mut self, head: Option<&str>) {
        let kept = head.and_then(|text| chain::read_head(&self.key, text)).map_or(1, |head| head.first.max(1));
        if let Some((first, _)) = self.verdict.first.filter(|(first, _)| *first > kept) {
            self.fault(format!("the beginning is missing: the first line is {first}, and {kept} is kept"));
        }
    }

    fn fault(&mut self, fault: String) {
        if self.verdict.faults.len() < MOST_FAULTS {
            self.verdict.faults.push(fault);
        }
    }

    fn end(mut self, head: Option<&str>, place: &Path) -> Verdict {
        let last = self.before.as_ref().map_or(0, |last| last.seq);
        match head.map(|text| chain::read_head(&self.key, text)) {
            // A crash may have come between the first line and this.
            None if self.verdict.lines < 2 => {}
            None => self.fault(format!("{}: it is not there, so an end that was cut off would not show", place.display())),
            Some(None) => self.fault(format!("{}: it is not as it was written, or by another key", place.display())),
            Some(Some(head)) if head.seq > last => self.fault(format!("the end is missing: the last line is {last}, and {} was written", head.seq)),
            Some(Some(_)) => {}
        }
        self.verdict
    }
}
