//! The command line, as far as it is the official runner's.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};
use reqwest::Url;

/// Takes the place of the official `gitlab-runner` in tests and demonstrations.
#[derive(Debug, Parser)]
#[command(name = "gitlab-runner", version)]
struct Arguments {
    /// What to do.
    #[command(subcommand)]
    command: Command,
}

/// The one subcommand there is.
#[derive(Debug, Subcommand)]
enum Command {
    /// Takes jobs from one server until there were enough.
    RunSingle(Options),
}

/// Options of `run-single`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Server to ask for jobs.
    #[arg(short, long, env = "CI_SERVER_URL")]
    pub(crate) url: Url,
    /// Runner token.
    #[arg(short, long, env = "CI_SERVER_TOKEN", hide_env_values = true)]
    pub(crate) token: String,
    /// Name that appears in the log.
    #[arg(long, alias = "description", env = "RUNNER_NAME", default_value = "stand-in")]
    pub(crate) name: String,
    /// Executor; there is only one kind.
    #[arg(long, env = "RUNNER_EXECUTOR", default_value = "shell")]
    pub(crate) executor: String,
    /// Shell; scripts always run in `/bin/sh`.
    #[arg(long, env = "RUNNER_SHELL")]
    pub(crate) shell: Option<String>,
    /// Directory below which each job gets its own.
    #[arg(long, env = "RUNNER_BUILDS_DIR", default_value = "/builds")]
    pub(crate) builds_dir: PathBuf,
    /// Accepted; nothing is cached.
    #[arg(long, env = "RUNNER_CACHE_DIR")]
    pub(crate) cache_dir: Option<PathBuf>,
    /// Jobs to run before leaving; 0 for no end.
    #[arg(long, default_value_t = 0)]
    max_builds: u32,
    /// Seconds to wait for a job before leaving; 0 for no end.
    #[arg(long, default_value_t = 0)]
    wait_timeout: u64,
}

impl Options {
    /// How many jobs to run, if there is an end.
    pub(crate) fn jobs(&self) -> Option<u32> {
        (self.max_builds > 0).then_some(self.max_builds)
    }

    /// How long to wait for a job, if there is an end.
    pub(crate) fn patience(&self) -> Option<Duration> {
        (self.wait_timeout > 0).then_some(Duration::from_secs(self.wait_timeout))
    }
}

/// Reads a command line; flags that only the official runner knows are dropped and given back by name.
///
/// A dropped flag's value, if it stands apart, is dropped with it.
pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>) -> (Options, Vec<String>) {
    let mut rest: Vec<OsString> = arguments.into_iter().collect();
    let mut dropped = Vec::new();
    loop {
        let error = match Arguments::try_parse_from(&rest) {
            Ok(Arguments { command: Command::RunSingle(options) }) => return (options, dropped),
            Err(error) if error.kind() == clap::error::ErrorKind::UnknownArgument => error,
            Err(error) => error.exit(),
        };
        let unknown = match error.get(clap::error::ContextKind::InvalidArg) {
            Some(clap::error::ContextValue::String(name)) => name.clone(),
            _ => error.exit(),
        };
        let flag = unknown.split(['=', ' ']).next().unwrap_or_default().to_owned();
        let fits = |argument: &OsString| argument.to_str().is_some_and(|text| text.split('=').next() == Some(flag.as_str()));
        let Some(at) = rest.iter().position(fits) else { error.exit() };
        let apart = rest.remove(at).to_str().is_some_and(|text| !text.contains('='));
        if apart && rest.get(at).is_some_and(|next| !next.to_string_lossy().starts_with('-')) {
            rest.remove(at);
        }
        dropped.push(flag);
    }
}
