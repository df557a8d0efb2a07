//! The command line: `serve`, `check`, `gitlab setup`, `gitlab teardown`, `gpus`, `jobs` and `token new`.

mod check;
mod client;
mod gitlab;
mod gpus;
mod jobs;
mod settings;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Parser, Subcommand};
use secrecy::ExposeSecret as _;

use crate::app::{self, Outside, Reloader};
use crate::config::{Config, Log, LogFormat};
use crate::lifecycle::{Ended, Lifecycle, Signals};
use crate::security::SecurityManager;
use crate::telemetry::{self, LevelSource, LogLevel, TelemetryError};

/// Takes CI jobs from GitLab and a REST API and runs each in one hardened, throw-away container.
#[derive(Debug, Parser)]
#[command(name = "runner-coordinator", version, about)]
pub struct Cli {
    /// The configuration file [env: `RUNNER_COORDINATOR_CONFIG`] [default: /etc/runner-coordinator/config.toml, where it exists].
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// How log lines look, and where they go: to standard error, or to systemd's journal. Wins over `log.format` [default: text].
    #[arg(long, global = true, env = "RUNNER_COORDINATOR_LOG_FORMAT", value_parser = log_formats())]
    log_format: Option<LogFormat>,
    /// Which log lines are written: a level, or a list such as `info,runner_coordinator::jobs=debug`. Wins over `log.level` [default: info].
    #[arg(long, global = true, env = "RUNNER_COORDINATOR_LOG", value_name = "FILTER")]
    log: Option<String>,
    /// What to do.
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon.
    Serve,
    /// Validate the configuration and examine the machine: one line each, non-zero exit on a problem.
    Check(check::Options),
    /// Explain the keys of the configuration.
    Config(settings::Options),
    /// Set a group or project of GitLab up for this machine, or undo that.
    Gitlab {
        #[command(subcommand)]
        command: gitlab::GitLabCommand,
    },
    /// See the GPUs of the running daemon, take one from jobs or give it back.
    Gpus(gpus::Options),
    /// Ask the running daemon about jobs.
    Jobs(jobs::Options),
    /// Make bearer tokens of the API.
    Token {
        #[command(subcommand)]
        command: TokenCommand,
    },
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Make one: prints the token, to be given away, and its digest, to be configured.
    New {
        /// Who will hold it.
        #[arg(long, default_value = "operator")]
        name: String,
    },
}

/// Does what was asked.
#[must_use]
pub fn run(cli: &Cli) -> ExitCode {
    if let Command::Token { command: TokenCommand::New { name } } = &cli.command {
        return new_token(name);
    }
    if let Command::Config(options) = &cli.command {
        return settings::run(options);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error),
    };
    if let Command::Gitlab { command } = &cli.command {
        // Its business is to write the files of secrets that a configuration may already name.
        return match Config::for_setup(cli.config.as_deref()) {
            Ok(config) => match begin_logging(cli, &Log { format: LogFormat::Text, ..config.config.log.clone() }) {
                Ok(_) => runtime.block_on(gitlab::run(command, &config)),
                Err(error) => fail(&error),
            },
            Err(faults) => fail(&faults),
        };
    }
    let config = match Config::from_process(cli.config.as_deref()) {
        Ok(config) => config,
        Err(faults) => return fail(&faults),
    };
    // Where the daemon logs to is no place for what an operator asks for at a terminal.
    let log = if matches!(cli.command, Command::Serve) { config.log.clone() } else { Log { format: LogFormat::Text, ..config.log.clone() } };
    let level = match begin_logging(cli, &log) {
        Ok(level) => level,
        Err(error) => return fail(&error),
    };
    match &cli.command {
        Command::Serve => runtime.block_on(serve(config, cli.config.as_deref(), level)),
        Command::Check(options) => runtime.block_on(check::run(&config, options)),
        Command::Jobs(options) => runtime.block_on(jobs::run(&config, options)),
        Command::Gpus(options) => runtime.block_on(gpus::run(&config, options)),
        Command::Token { .. } | Command::Config(_) | Command::Gitlab { .. } => ExitCode::SUCCESS,
    }
}

/// What the command line says wins over the configuration.
fn begin_logging(cli: &Cli, log: &Log) -> Result<LogLevel, TelemetryError> {
    // An empty variable counts as not set.
    let given = cli.log.as_deref().filter(|filter| !filter.is_empty());
    let source = if given.is_some() { LevelSource::CommandLine } else { LevelSource::Configuration };
    telemetry::init(cli.log_format.unwrap_or(log.format), given.unwrap_or(&log.level), source)
}

fn log_formats() -> impl TypedValueParser<Value = LogFormat> {
    PossibleValuesParser::new(LogFormat::ALL.map(LogFormat::as_str))
        .map(|name| LogFormat::ALL.into_iter().find(|format| format.as_str() == name).unwrap_or(LogFormat::Text))
}

async fn serve(config: Config, file: Option<&Path>, level: LogLevel) -> ExitCode {
    let signals = match Signals::catch() {
        Ok(signals) => signals,
        Err(error) => return fail(&error),
    };
    let lifecycle = Lifecycle::default();
    let outside = Outside::default();
    let clock = Arc::clone(&outside.clock);
    let app = match app::start(config, outside, &lifecycle).await {
        Ok(app) => app,
        Err(error) => return fail(&error),
    };
    let reloader = Reloader::new(&app, file, clock, level);
    match lifecycle.run(signals, async || reloader.reload().await).await {
        Ended::Cleanly => ExitCode::SUCCESS,
        Ended::CutOff => ExitCode::FAILURE,
    }
}

fn new_token(name: &str) -> ExitCode {
    match SecurityManager::generate_api_token() {
        Ok((token, digest)) => {
            say(&format!(
                "token: {}\n\n[[http.tokens]]\nname = {}\nrole = \"operator\"\nsha256 = \"{digest}\"",
                token.expose_secret(),
                serde_json::Value::from(name)
            ));
            ExitCode::SUCCESS
        }
        Err(error) => fail(&error),
    }
}

/// Prints an error with its causes, each once.
fn fail(error: &dyn std::error::Error) -> ExitCode {
    let mut text = format!("error: {error}");
    let mut source = error.source();
    while let Some(cause) = source {
        let _ = write!(text, "\n  because: {cause}");
        source = cause.source();
    }
    #[expect(clippy::print_stderr, reason = "the command line speaks to a person")]
    {
        eprintln!("{text}");
    }
    ExitCode::FAILURE
}

/// Prints to a person.
fn say(text: &str) {
    #[expect(clippy::print_stdout, reason = "the command line speaks to a person")]
    {
        println!("{text}");
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_definition_is_sound() {
        super::Cli::command().debug_assert();
    }
}
