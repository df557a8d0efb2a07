//! What the processes of containers really do, and the receipts that their first processes write.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use ring::hmac;
use runner_coordinator::domain::HowEnded;

use crate::engine::code;

/// Longer than any simulation.
const FOR_EVER: u64 = 1 << 50;

/// What a job's command will do: `job HOW MILLIS LINES TERM`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Script {
    pub(crate) how: HowEnded,
    pub(crate) millis: u64,
    pub(crate) lines: u64,
    /// Whether it ends when it is told to.
    pub(crate) obeys: bool,
}

impl Script {
    /// A GitLab runner, which ends when it has nothing more to do.
    fn runner() -> Self {
        Self { how: HowEnded::Exit(0), millis: FOR_EVER, lines: 0, obeys: true }
    }

    pub(crate) fn command(self) -> Vec<String> {
        let how = match self.how {
            HowEnded::Exit(code) => format!("exit:{code}"),
            HowEnded::Signal(signal) => format!("signal:{signal}"),
        };
        let term = if self.obeys { "obeys" } else { "ignores" };
        vec!["job".to_owned(), how, self.millis.to_string(), self.lines.to_string(), term.to_owned()]
    }

    pub(crate) fn read(command: &[String]) -> Self {
        let [_, how, millis, lines, term] = command else { return Self::runner() };
        let (kind, number) = how.split_once(':').expect("a kind and a number");
        let number = number.parse().expect("a number");
        Self {
            how: if kind == "exit" { HowEnded::Exit(number) } else { HowEnded::Signal(number) },
            millis: millis.parse().expect("a number"),
            lines: lines.parse().expect("a number"),
            obeys: term == "obeys",
        }
    }
}

/// One process that a job had.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "they are about different things, and several may be so")]
pub(crate) struct Run {
    pub(crate) began: u64,
    pub(crate) ended: Option<u64>,
    /// How it ends, or ended.
    pub(crate) how: HowEnded,
    pub(crate) told: bool,
    /// Whether its receipt stands where it belongs.
    pub(crate) proved: bool,
    killed: bool,
    ends_at: u64,
    script: Script,
}

impl Run {
    pub(crate) fn begin(script: Script, now: u64) -> Self {
        Self { began: now, ended: None, how: script.how, told: false, proved: false, killed: false, ends_at: now + script.millis, script }
    }

    pub(crate) fn is_alive(&self, now: u64) -> bool {
        self.ended.is_none_or(|ended| ended > now)
    }

    /// When it ends, if it has not.
    pub(crate) fn due(&self) -> Option<u64> {
        self.ended.is_none().then_some(self.ends_at)
    }

    pub(crate) fn end(&mut self, at: u64) {
        self.ended = Some(at);
    }

    /// Told to end; answers when it will have.
    pub(crate) fn tell(&mut self, now: u64, linger: u64, grace: u64) -> u64 {
        let (by, how, killed) = if self.script.obeys { (now + linger, HowEnded::Exit(143), false) } else { (now + grace, HowEnded::Signal(9), true) };
        self.told = true;
        if by < self.ends_at {
            (self.ends_at, self.how, self.killed) = (by, how, killed);
        }
        self.ends_at
    }

    /// Ends by itself, now.
    pub(crate) fn leave(&mut self, how: HowEnded, now: u64) {
        (self.ends_at, self.how) = (now, how);
    }

    pub(crate) fn kill(&mut self, now: u64) {
        (self.ends_at, self.how, self.killed) = (now, HowEnded::Signal(9), true);
    }

    /// Whether its first process lived long enough to write one: what kills a container kills it too.
    pub(crate) fn writes_receipt(&self) -> bool {
        !self.killed
    }

    /// Whether it ended by itself, so that its end is the job's own.
    pub(crate) fn is_own_end(&self) -> bool {
        self.ended.is_some() && !self.killed && !self.told
    }

    pub(crate) fn exit_code(&self) -> i64 {
        code(self.how)
    }

    /// The lines that it wrote until now.
    pub(crate) fn lines(&self, now: u64) -> Vec<(u64, String)> {
        let until = self.ended.unwrap_or(now).min(now);
        let at = |line: u64| self.began + (line + 1) * (self.script.millis / (self.script.lines + 1));
        (0..self.script.lines).map(|line| (at(line), format!("line {line}\n"))).filter(|(at, _)| *at <= until).collect()
    }
}

/// What a container's first process was given to sign with.
#[derive(Debug, Clone)]
pub(crate) struct Ticket {
    of: String,
    key: String,
}

impl Ticket {
    pub(crate) fn read(text: &str) -> Self {
        let words: Vec<&str> = text.split(' ').collect();
        let [job, attempt, nonce, key] = words.as_slice() else { panic!("no ticket: {text}") };
        Self { of: format!("receipt 1\njob {job}\nattempt {attempt}\nnonce {nonce}\n"), key: (*key).to_owned() }
    }

    /// Writes the receipt of an end, if its file is still there; answers whether it was.
    pub(crate) fn write(&self, path: &Path, run: &Run, at: Timestamp) -> bool {
        let how = match run.how {
            HowEnded::Exit(code) => format!("exit {code}"),
            HowEnded::Signal(signal) => format!("signal {signal}"),
        };
        let told = if run.told { "yes" } else { "no" };
        self.lay_down(path, &format!("end {how}\ntold {told}\n")).is_some_and(|file| {
            stamp(&file, at);
            true
        })
    }

    /// Writes that it was told to end, as the first process does as soon as it hears it.
    pub(crate) fn note_told(&self, path: &Path, at: Timestamp) {
        if let Some(file) = self.lay_down(path, "end none\ntold yes\n") {
            stamp(&file, at);
        }
    }

    fn lay_down(&self, path: &Path, end: &str) -> Option<File> {
        let mut text = format!("{}{end}", self.of);
        let proof = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, self.key.as_bytes()), text.as_bytes());
        text.push_str("proof ");
        for byte in proof.as_ref() {
            write!(text, "{byte:02x}").expect("a text takes it");
        }
        text.push('\n');
        let mut file = OpenOptions::new().write(true).truncate(true).open(path).ok()?;
        file.write_all(text.as_bytes()).expect("a receipt is written");
        Some(file)
    }
}

fn stamp(file: &File, at: Timestamp) {
    let since = Duration::from_millis(u64::try_from(at.as_millisecond()).expect("a time after 1970"));
    file.set_modified(SystemTime::UNIX_EPOCH + since).expect("a file takes a time");
}
