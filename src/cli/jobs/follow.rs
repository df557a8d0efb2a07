//! `jobs logs`: what a job wrote, byte for byte, also when the connection breaks meanwhile: the log of an attempt is then read again, and
//! what was printed already is passed over.

use std::io::{ErrorKind, Write as _};
use std::process::ExitCode;

use clap::Args;
use serde_json::Value;

use super::wait::{LOOK, Progress};
use crate::cli::client::{Client, ClientError, Patience};
use crate::cli::{complain, remark, tell_error};

/// What is read.
#[derive(Debug, Clone, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
pub(super) struct Options {
    /// Its id.
    id: String,
    /// Go on until the job has ended; a daemon that is restarted meanwhile is waited for.
    #[arg(short, long)]
    follow: bool,
    /// Of this attempt only; without it of the latest, and with --follow of those that come.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    attempt: Option<u64>,
    /// Print before each line when it was written.
    #[arg(long)]
    timestamps: bool,
}

/// How the copying ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Copied {
    /// All of it is printed.
    All,
    /// Whoever reads our output went away.
    NobodyReads,
    /// It cannot be printed; why was told.
    CannotWrite,
}

/// Prints a log.
pub(super) async fn run(client: &Client, options: &Options) -> ExitCode {
    match copy(client, options, Patience::default(), (|| {}, remark)).await {
        Ok(Copied::All | Copied::NobodyReads) => ExitCode::SUCCESS,
        Ok(Copied::CannotWrite) => ExitCode::FAILURE,
        Err(error) => tell_error(&error),
    }
}

/// Prints all that a job writes, while somebody else tells of its progress.
pub(super) async fn copy_all(client: &Client, id: &str, progress: &Progress) -> Result<Copied, ClientError> {
    let options = Options { id: id.to_owned(), follow: true, attempt: None, timestamps: false };
    // The one that watches the job tells of a daemon that is away.
    copy(client, &options, Patience::met(), (|| progress.finish(), |_: &str| {})).await
}

/// What a look at the job tells of the attempt that is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// It has not begun.
    NotYet,
    /// It writes.
    Writes,
    /// It is over, and another one follows or may.
    Over,
    /// It is over, or never was, and so is the job.
    Last,
    /// It is over, and the next one has begun.
    Next,
}

fn standing(job: &Value, attempt: u64) -> Standing {
    let latest = job["attempt"].as_u64().unwrap_or(0);
    let ended = !job["finished_at"].is_null();
    match (latest.cmp(&attempt), ended) {
        (std::cmp::Ordering::Greater, _) => Standing::Next,
        (_, true) => Standing::Last,
        (std::cmp::Ordering::Less, false) => Standing::NotYet,
        // It waits to be tried again.
        (std::cmp::Ordering::Equal, false) if job["state"] == "queued" => Standing::Over,
        (std::cmp::Ordering::Equal, false) => Standing::Writes,
    }
}

/// Copies to standard output; `begun` is called before its first byte, `say` when the daemon is away.
async fn copy(client: &Client, options: &Options, mut patience: Patience, (begun, say): (impl Fn(), impl Fn(&str))) -> Result<Copied, ClientError> {
    let mut place: Option<Place> = None;
    loop {
        let job = match client.get(&super::path(&options.id, "")).await {
            Ok(job) => job,
            Err(error) => {
                patience.endure(error, &say).await?;
                continue;
            }
        };
        patience.meet();
        let latest = || job["attempt"].as_u64().unwrap_or(0).max(1);
        let place = place.get_or_insert_with(|| Place { attempt: options.attempt.unwrap_or_else(latest), printed: 0 });
        let standing = standing(&job, place.attempt);
        let is_there = job["attempt"].as_u64() >= Some(place.attempt) || options.attempt.is_some() && !options.follow;
        if is_there {
            let before = place.printed;
            match read(client, options, place, standing, &begun).await {
                Ok(Copied::All) => patience.rest(),
                Ok(unread) => return Ok(unread),
                Err(error) => {
                    // What came was a sign of life.
                    if place.printed > before {
                        patience.rest();
                    }
                    patience.endure(error, &say).await?;
                    continue;
                }
            }
        }
        match standing {
            Standing::Next if options.attempt.is_none() && options.follow => *place = Place { attempt: place.attempt + 1, printed: 0 },
            Standing::Last => return Ok(Copied::All),
            Standing::Next | Standing::Over if options.attempt.is_some() => return Ok(Copied::All),
            _ if !options.follow => return Ok(Copied::All),
            Standing::NotYet | Standing::Writes | Standing::Over | Standing::Next => tokio::time::sleep(LOOK).await,
        }
    }
}

/// How much of which attempt is printed.
#[derive(Debug)]
struct Place {
    attempt: u64,
    printed: u64,
}

/// Reads the log of an attempt once, while it writes to its end, and prints what is not printed yet.
async fn read(client: &Client, options: &Options, place: &mut Place, standing: Standing, begun: &impl Fn()) -> Result<Copied, ClientError> {
    let follow = if options.follow && standing == Standing::Writes { "&follow=true" } else { "" };
    let times = if options.timestamps { "&timestamps=true" } else { "" };
    let mut answer = client.stream(&super::path(&options.id, &format!("/logs?attempt={}{follow}{times}", place.attempt))).await?;
    let mut passed = 0;
    while let Some(chunk) = answer.chunk().await.map_err(|error| client.broken(error))? {
        let known = place.printed.saturating_sub(passed);
        passed += chunk.len() as u64;
        let new = chunk.get(usize::try_from(known).unwrap_or(usize::MAX)..).unwrap_or_default();
        if new.is_empty() {
            continue;
        }
        begun();
        if let Err(error) = print(new) {
            if error.kind() == ErrorKind::BrokenPipe {
                return Ok(Copied::NobodyReads);
            }
            complain(&format!("standard output cannot be written: {error}"));
            return Ok(Copied::CannotWrite);
        }
        place.printed += new.len() as u64;
    }
    Ok(Copied::All)
}

fn print(bytes: &[u8]) -> std::io::Result<()> {
    let mut output = std::io::stdout().lock();
    output.write_all(bytes)?;
    output.flush()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_look_at_the_job_tells_where_its_log_stands() {
        let at = |state: &str, attempt: u64, ended: bool| {
            let finished = ended.then_some("2026-11-18T11:00:00Z");
            standing(&json!({ "state": state, "attempt": attempt, "finished_at": finished }), 2)
        };
        assert_eq!(at("queued", 0, false), Standing::NotYet);
        assert_eq!(at("running", 1, false), Standing::NotYet);
        assert_eq!(at("starting", 2, false), Standing::Writes);
        assert_eq!(at("running", 2, false), Standing::Writes);
        assert_eq!(at("queued", 2, false), Standing::Over, "it waits to be tried again");
        assert_eq!(at("running", 3, false), Standing::Next);
        assert_eq!(at("succeeded", 3, true), Standing::Next, "the third is read too");
        assert_eq!(at("failed", 2, true), Standing::Last);
        assert_eq!(at("canceled", 1, true), Standing::Last, "the second never came");
    }
}
