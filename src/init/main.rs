//! The first process of a job's container. It runs the job's command as its child, reaps what the job leaves behind, passes signals on,
//! and writes a receipt of how the command really ended, because engines misreport it. Before, when it is told to end, it writes that it was:
//! an engine that has lost sight of a container believes to have told processes that are no more.
//!
//! ```text
//! runner-coordinator-init RECEIPT PROGRAM [ARGUMENT...]      RUNNER_COORDINATOR_RECEIPT="JOB ATTEMPT NONCE KEY"
//! ```
//!
//! The job has the same user and could write the receipt's file too, so the receipt is signed with a key that only this process has: it
//! comes by the environment, and this process is closed to others of its user before the command begins. Since not every kernel closes the
//! environment with it (gVisor's does not), this process executes itself once more without the key there: it comes by the standard input then.
//!
//! Exit codes: the command's own; 128 and the signal that ended it; 127 for a command that is not there and 126 for one that cannot be
//! executed, with a receipt as for any end; 125 without a receipt, when this process cannot do its part.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Seek as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use rustix::process::{DumpableBehavior, Pid, Signal, WaitOptions, WaitStatus};
use signal_hook::consts::{SIGALRM, SIGCHLD, SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH};
use signal_hook::iterator::Signals;

/// What the receipt is of, and the key to sign it with.
const VARIABLE: &str = "RUNNER_COORDINATOR_RECEIPT";
/// What that says when the rest is at the standard input.
const AT_INPUT: &str = "-";
/// What the command is told when this process is.
const PASSED_ON: [i32; 9] = [SIGALRM, SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH];
/// Exit code when this process cannot do its part.
const CANNOT: u8 = 125;
/// Exit code of a command that cannot be executed.
const NOT_EXECUTABLE: u8 = 126;
/// Exit code of a command that is not there.
const NOT_FOUND: u8 = 127;

fn main() -> ExitCode {
    match run() {
        Ok(code) => ExitCode::from(code),
        Err(fault) => {
            complain(&fault);
            ExitCode::from(CANNOT)
        }
    }
}

fn run() -> Result<u8, String> {
    // Before anything of the job exists: from here on nobody of this user may read this process's environment, memory or files.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(|error| format!("it cannot close itself to the job: {error}"))?;
    let mut arguments = std::env::args_os().skip(1);
    let (Some(path), Some(program)) = (arguments.next(), arguments.next()) else {
        return Err("usage: runner-coordinator-init RECEIPT PROGRAM [ARGUMENT...]".to_owned());
    };
    let ticket = match std::env::var_os(VARIABLE).and_then(|text| text.into_string().ok()) {
        Some(text) if text == AT_INPUT => {
            io::read_to_string(io::stdin()).map_err(|error| format!("it cannot read what the receipt is of: {error}"))?
        }
        Some(text) => return Err(format!("it cannot execute itself: {}", once_more(&text))),
        None => String::new(),
    };
    let ticket = Ticket::parse(&ticket).ok_or_else(|| format!("{VARIABLE} does not say what the receipt is of"))?;
    let unwritten = |error: io::Error| format!("the receipt {} cannot be written: {error}", path.display());
    let mut receipt = open(Path::new(&path)).map_err(unwritten)?;
    // Best effort: the end is written with it again.
    let note_told = || drop(ticket.write(&mut receipt, None));
    let end = see_through(&program, arguments.collect(), note_told)?;
    ticket.write(&mut receipt, Some(end)).and_then(|()| receipt.sync_all()).map_err(unwritten)?;
    Ok(end.exit_code())
}

/// Executes this program anew, with the key no longer in its environment. Returns only what hindered it.
fn once_more(ticket: &str) -> io::Error {
    let handed_over = io::pipe().and_then(|(reader, mut writer)| writer.write_all(ticket.as_bytes()).map(|()| reader));
    let mut arguments = std::env::args_os();
    let program = arguments.next().unwrap_or_default();
    match handed_over {
        Ok(reader) => Command::new(program).args(arguments).env(VARIABLE, AT_INPUT).stdin(reader).exec(),
        Err(error) => error,
    }
}

/// Early, so that no job begins whose end could not be proved.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).open(path)
}

/// How the command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct End {
    how: How,
    /// Whether this process was told to end before, which the coordinator or an engine that restarts does.
    told: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    Exit(u8),
    Signal(u8),
}

impl End {
    fn exit_code(self) -> u8 {
        match self.how {
            How::Exit(code) => code,
            How::Signal(signal) => 128_u8.saturating_add(signal),
        }
    }
}

/// Runs the command to its end; `note_told` is called once this process has been told to end and has told the command.
fn see_through(program: &OsStr, arguments: Vec<std::ffi::OsString>, mut note_told: impl FnMut()) -> Result<End, String> {
    let failed = |error: io::Error| format!("it cannot look after the job: {error}");
    // Handlers before the child, so that no signal is lost; an executed program begins without them.
    let mut signals = Signals::new(PASSED_ON.iter().chain(&[SIGCHLD])).map_err(failed)?;
    // Also where it is not the first process: what the job leaves behind comes to it.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).map_err(|error| failed(error.into()))?;
    // A group of its own, so that a job that signals its group does not signal this process.
    let child = match Command::new(program).args(arguments).env_remove(VARIABLE).stdin(Stdio::null()).process_group(0).spawn() {
        Ok(child) => child,
        Err(error) => return not_executed(program, &error),
    };
    let child = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or("the system gave the command no process id")?;
    let mut told = false;
    loop {
        let mut told_now = false;
        for signal in signals.wait() {
            told_now |= signal == SIGTERM;
            if let Some(signal) = Signal::from_named_raw(signal).filter(|signal| *signal != Signal::CHILD) {
                // It may have ended already; then there is nobody to tell.
                let _ = rustix::process::kill_process(child, signal);
            }
        }
        if let Some(how) = reap(child).map_err(failed)? {
            // One that came together with the command's end.
            let told = told || told_now || signals.pending().any(|signal| signal == SIGTERM);
            return Ok(End { how, told });
        }
        if told_now {
            // Each time, so that it is seen when it was told last.
            told = true;
            note_told();
        }
    }
}

/// Takes everybody who has ended; how the command did, if it was among them.
fn reap(child: Pid) -> io::Result<Option<How>> {
    loop {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) if pid == child => return Ok(how(status)),
            Ok(Some(_)) | Err(rustix::io::Errno::INTR) => {}
            Ok(None) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    }
}

fn how(status: WaitStatus) -> Option<How> {
    let byte = |number: i32| u8::try_from(number).ok();
    let exit = status.exit_status().and_then(byte).map(How::Exit);
    exit.or_else(|| status.terminating_signal().and_then(byte).map(How::Signal))
}

/// A command that is not there or is no program is the job's own end; want of processes or memory is not.
fn not_executed(program: &OsStr, error: &io::Error) -> Result<End, String> {
    let sentence = format!("{} cannot be executed: {error}", program.display());
    let code = match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::OutOfMemory => return Err(sentence),
        ErrorKind::NotFound => NOT_FOUND,
        _ => NOT_EXECUTABLE,
    };
    complain(&sentence);
    Ok(End { how: How::Exit(code), told: false })
}

/// What a receipt is of.
struct Ticket {
    job: String,
    attempt: String,
    nonce: String,
    key: String,
}

impl Ticket {
    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ').filter(|word| !word.is_empty()).map(str::to_owned);
        let ticket = Self { job: words.next()?, attempt: words.next()?, nonce: words.next()?, key: words.next()? };
        words.next().is_none().then_some(ticket)
    }

    /// Writes the receipt of an end, or without one that this process was told to end.
    fn write(&self, file: &mut File, end: Option<End>) -> io::Result<()> {
        let text = self.text(end);
        // Written before it is cut, since cutting would give away the room that is kept for it.
        file.rewind()?;
        file.write_all(text.as_bytes())?;
        file.set_len(u64::try_from(text.len()).map_err(io::Error::other)?)
    }

    fn text(&self, end: Option<End>) -> String {
        let Self { job, attempt, nonce, key } = self;
        let how = match end.map(|end| end.how) {
            None => "none".to_owned(),
            Some(How::Exit(code)) => format!("exit {code}"),
            Some(How::Signal(signal)) => format!("signal {signal}"),
        };
        let told = if end.is_none_or(|end| end.told) { "yes" } else { "no" };
        let mut text = format!("receipt 1\njob {job}\nattempt {attempt}\nnonce {nonce}\nend {how}\ntold {told}\n");
        let proof = hmac_sha256::HMAC::mac(text.as_bytes(), key.as_bytes());
        text.push_str("proof ");
        for byte in proof {
            // Writing into a text does not fail.
            let _ = write!(text, "{byte:02x}");
        }
        text.push('\n');
        text
    }
}

fn complain(sentence: &str) {
    // Nobody is left to tell of a failure here.
    let _ = writeln!(io::stderr(), "runner-coordinator: {sentence}");
}
