//! Waits for a job's end: tells on standard error what happens to it, and ends as it did.
//!
//! An interrupt means the job, as with `docker run`: the first one cancels it and its end is awaited, a second one leaves at once.

use std::cell::{Cell, RefCell};
use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::follow::{self, Copied};
use super::history::{Told, told};
use super::show::ending;
use crate::cli::client::{Client, ClientError, Patience};
use crate::cli::render::{list, word};
use crate::cli::{complain, remark, say, tell_error};

/// The exit code where the job has none of its own.
pub(super) const NOT_ITS_OWN: u8 = 125;
/// The exit code after an interrupt.
const INTERRUPTED: u8 = 130;
/// The exit code after a request to end.
const TERMINATED: u8 = 143;
/// How often the job is looked at.
pub(super) const LOOK: Duration = Duration::from_millis(500);
/// How often the sign of life on a terminal moves.
const TICK: Duration = Duration::from_millis(120);

/// What goes to standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Output {
    /// Nothing more.
    Nothing,
    /// What the job writes.
    Log,
    /// The job as it ended.
    Json,
}

/// Waits for the end of a job; the exit code is the job's.
pub(super) async fn run(client: &Client, id: &str, output: Output) -> ExitCode {
    let (Ok(interrupts), Ok(requests)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) else {
        return complain("signals cannot be caught");
    };
    let progress = Progress::new();
    if output == Output::Log {
        progress.line(&format!("job {id}"));
    }
    let first = Cell::new(None);
    let mut signals = Signals { interrupts, requests };
    let cancelled = async {
        first.set(Some(signals.next().await));
        progress.line(&format!("job {id} is cancelled; once more leaves at once"));
        if let Err(error) = client.delete(&super::path(id, "")).await {
            progress.line(&error.to_string());
        }
        signals.next().await
    };
    // Dropping either loses nothing: the job and its log are the daemon's.
    let ended = tokio::select! {
        ended = until_the_end(client, id, output, &progress) => ended,
        code = cancelled => return ExitCode::from(code),
    };
    progress.finish();
    match ended {
        Ok(job) => {
            if output == Output::Json {
                say(&job.to_string());
            }
            let code = code_of(&job);
            if let Some(reason) = reason_of(&job) {
                remark(&format!("job {id} {reason}"));
            }
            ExitCode::from(first.get().filter(|_| code == NOT_ITS_OWN).unwrap_or(code))
        }
        Err(error) => {
            tell_error(&error);
            ExitCode::from(NOT_ITS_OWN)
        }
    }
}

async fn until_the_end(client: &Client, id: &str, output: Output, progress: &Progress) -> Result<Value, ClientError> {
    if output != Output::Log {
        return watch(client, id, progress).await;
    }
    let (job, copied) = tokio::join!(watch(client, id, progress), follow::copy_all(client, id, progress));
    // What becomes of the output is no failure of the job.
    match copied {
        Ok(Copied::All | Copied::NobodyReads | Copied::CannotWrite) => job,
        Err(error) => job.and(Err(error)),
    }
}

/// Tells of a job's events until it has ended; the job as it then is.
async fn watch(client: &Client, id: &str, progress: &Progress) -> Result<Value, ClientError> {
    let mut patience = Patience::met();
    let mut after = 0;
    loop {
        let looked = async {
            // The job first: what happened until it ended is then in its history.
            let job = client.get(&super::path(id, "")).await?;
            let page = client.get(&super::path(id, &format!("/events?limit=500&after={after}"))).await?;
            Ok((job, page))
        };
        let (job, page) = match looked.await {
            Ok(looked) => looked,
            Err(error) => {
                patience.endure(error, |text| progress.line(text)).await?;
                continue;
            }
        };
        patience.rest();
        for event in list(&page, "events") {
            after = event["seq"].as_i64().unwrap_or(after).max(after);
            progress.event(event);
        }
        let more = !page["next_after"].is_null();
        if !job["finished_at"].is_null() && !more {
            return Ok(job);
        }
        if !more {
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// The job's own exit code, where it has one that a process can end with.
fn code_of(job: &Value) -> u8 {
    let own = || u8::try_from(job["exit_code"].as_i64()?).ok();
    match (job["state"].as_str(), job["reason"].as_str()) {
        (Some("succeeded"), _) => 0,
        (Some("failed"), Some("exit_code")) => own().filter(|code| *code > 0).unwrap_or(NOT_ITS_OWN),
        _ => NOT_ITS_OWN,
    }
}

/// Why a job ended that did not end well.
fn reason_of(job: &Value) -> Option<String> {
    if job["state"] == "succeeded" {
        return None;
    }
    let detail = Some(word(job, "detail")).filter(|detail| !detail.is_empty()).map_or(String::new(), |detail| format!(": {detail}"));
    Some(format!("{} with {}{detail}", if job["state"] == "canceled" { "was cancelled" } else { "failed" }, ending(job)))
}

struct Signals {
    interrupts: Signal,
    requests: Signal,
}

impl Signals {
    /// The exit code that the next signal asks for.
    async fn next(&mut self) -> u8 {
        // Both arms only wait.
        tokio::select! {
            _ = self.interrupts.recv() => INTERRUPTED,
            _ = self.requests.recv() => TERMINATED,
        }
    }
}

/// Tells what happens: on a terminal with one line that moves, else in plain lines.
#[derive(Debug)]
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    last: RefCell<Option<String>>,
}

impl Progress {
    fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            bar.set_style(ProgressStyle::with_template("{spinner} {elapsed:>3}  {wide_msg}").unwrap_or_else(|_| ProgressStyle::default_spinner()));
            bar.enable_steady_tick(TICK);
            bar
        });
        Self { bar, last: RefCell::default() }
    }

    /// A line that stays.
    pub(super) fn line(&self, text: &str) {
        match self.bar.as_ref().filter(|bar| !bar.is_finished()) {
            Some(bar) => bar.println(text),
            // Nobody to tell is no failure.
            None => drop(writeln!(std::io::stderr(), "{text}")),
        }
    }

    fn event(&self, event: &Value) {
        match (told(event), self.bar.as_ref().filter(|bar| !bar.is_finished())) {
            (Told::Passing(text), Some(bar)) => bar.set_message(text),
            (Told::Line(text), Some(bar)) => {
                bar.set_message(text.clone());
                bar.println(text);
            }
            (Told::Passing(text) | Told::Line(text), None) => {
                // A part of an image that is told twice is one line.
                if self.last.replace(Some(text.clone())).as_ref() != Some(&text) {
                    self.line(&text);
                }
            }
        }
    }

    /// From now on what the job writes has the terminal: nothing moves any more.
    pub(super) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_exit_code_is_the_jobs_or_one_of_its_own() {
        let code = |state: &str, reason: Option<&str>, code: Option<i64>| code_of(&json!({ "state": state, "reason": reason, "exit_code": code }));
        assert_eq!(code("succeeded", None, Some(0)), 0);
        assert_eq!(code("failed", Some("exit_code"), Some(3)), 3);
        assert_eq!(code("failed", Some("exit_code"), Some(255)), 255);
        // A job whose code no process can end with, or that failed with a code of success, must not look well.
        for strange in [Some(0), Some(256), Some(-1), None] {
            assert_eq!(code("failed", Some("exit_code"), strange), 125, "{strange:?}");
        }
        assert_eq!(code("failed", Some("out_of_memory"), Some(137)), 125);
        assert_eq!(code("canceled", Some("canceled_by_user"), None), 125);
        assert_eq!(code("running", None, None), 125);
    }

    #[test]
    fn the_reason_is_told_unless_all_is_well() {
        let job = |state: &str, reason: &str, detail: &str| json!({ "state": state, "reason": reason, "exit_code": 3, "detail": detail });
        assert_eq!(reason_of(&json!({ "state": "succeeded" })), None);
        assert_eq!(reason_of(&job("failed", "exit_code", "")).as_deref(), Some("failed with exit code 3"));
        assert_eq!(reason_of(&job("failed", "image_unavailable", "no such image")).as_deref(), Some("failed with image_unavailable: no such image"));
        assert_eq!(reason_of(&job("canceled", "canceled_by_user", "")).as_deref(), Some("was cancelled with canceled_by_user"));
    }
}
