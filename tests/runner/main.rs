//! `stand-in-runner`: takes the place of the official `gitlab-runner` binary, which cannot be had everywhere.
//!
//! It is built on the third-party `gitlab-runner` crate and understands `run-single` as the coordinator starts it.
//! It runs anywhere: read-only root, any user id, no capabilities; it writes below the builds directory only.
//!
//! ```text
//! server <──> bridge <──> crate ──> handler ──> /bin/sh
//! ```
//!
//! Where it differs from the official runner:
//! - scripts run in `/bin/sh -e`, not in a login shell, and nothing is cloned, cached or masked;
//! - an artifact is a zip or gzip archive, never raw, and each of its files is held in memory;
//! - a refused token is asked about again after a second, where the official runner sleeps for five minutes;
//! - updates and trace are sent once; the crate does not repeat them.

mod bridge;
mod handler;
mod options;
mod record;
mod script;
mod trace;

use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use gitlab_runner::{GitlabLayer, Runner, RunnerBuilder};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::Layer as _;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use bridge::Bridge;
use handler::Shell;
use options::Options;
use record::{Facts, Record, say};

/// Pause between two questions for a job.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Pause between two signs of life where the server names none.
const BEAT_INTERVAL: Duration = Duration::from_secs(3);

#[tokio::main]
async fn main() -> ExitCode {
    let (options, dropped) = options::parse(std::env::args_os());
    for flag in dropped {
        say("warning", "Unknown flag ignored", json!({ "flag": flag }));
    }
    match serve(&options).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say("fatal", &error.to_string(), json!({}));
            ExitCode::FAILURE
        }
    }
}

/// Asks for jobs until there were enough, patience is over, or a signal came.
async fn serve(options: &Options) -> Result<(), Box<dyn Error>> {
    // Both TLS providers are compiled in; without a choice the HTTP client would panic.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut tasks = JoinSet::new();
    let abort = CancellationToken::new();
    let (mut terminated, mut interrupted) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let on_signal = abort.clone();
    tasks.spawn(async move {
        tokio::select! {
            _ = terminated.recv() => {}
            _ = interrupted.recv() => {}
        }
        on_signal.cancel();
    });
    let record = Arc::new(Record::default());
    let bridge = Bridge::new(options.url.clone(), record.clone());
    let address = bridge.serve(&mut tasks).await?;
    let (layer, jobs) = GitlabLayer::new();
    let log = tracing_subscriber::fmt::layer().json().with_writer(std::io::stderr).with_filter(EnvFilter::new("warn"));
    tracing_subscriber::registry().with(layer).with(log).init();
    let mut runner = RunnerBuilder::new(address.parse()?, options.token.clone(), &options.builds_dir, jobs)
        .version("19.3.0")
        .platform("linux")
        .architecture(std::env::consts::ARCH)
        .build()
        .await;
    say(
        "info",
        "Starting runner",
        json!({ "name": options.name, "executor": options.executor,
        "shell": options.shell, "cache_dir": options.cache_dir }),
    );
    let mut done = 0;
    while options.jobs().is_none_or(|enough| done < enough) {
        *record.facts() = Facts::default();
        if !next_job(&mut runner, options, &record, &abort).await {
            break;
        }
        run_job(&mut runner, &bridge, &record).await;
        done += 1;
    }
    Ok(())
}

/// Asks until a job came; false when patience is over or a signal came.
async fn next_job(runner: &mut Runner, options: &Options, record: &Arc<Record>, abort: &CancellationToken) -> bool {
    let give_up = options.patience().map(|patience| Instant::now() + patience);
    let mut polls = tokio::time::interval(POLL_INTERVAL);
    loop {
        tokio::select! {
            _ = polls.tick() => {}
            () = abort.cancelled() => return false,
        }
        if give_up.is_some_and(|at| at <= Instant::now()) {
            say("info", "This runner has not received a job in time", json!({}));
            return false;
        }
        let (record, abort) = (record.clone(), abort.clone());
        // Not raced against the signal: a job that was already given must not be dropped on the floor.
        match runner.request_job(move |job| async move { Ok(Shell::new(job, record, abort)) }).await {
            Ok(true) => return true,
            Ok(false) => {}
            Err(error) => say("warning", "Checking for jobs... failed", json!({ "status": error.to_string() })),
        }
    }
}

/// Keeps in touch with the server until the job is over, and says how it ended.
async fn run_job(runner: &mut Runner, bridge: &Bridge, record: &Record) {
    let over = runner.drain();
    tokio::pin!(over);
    loop {
        let pause = record.facts().interval.unwrap_or(BEAT_INTERVAL).max(POLL_INTERVAL);
        match tokio::time::timeout(pause, &mut over).await {
            Ok(()) => break,
            Err(_) => bridge.beat().await,
        }
    }
    let facts = record.facts().clone();
    let about = json!({ "job": facts.job, "exit_code": facts.exit_code });
    match facts.failure_reason {
        Some(reason) => say("warning", &format!("Job failed: {reason}"), about),
        None => say("info", "Job succeeded", about),
    }
}
