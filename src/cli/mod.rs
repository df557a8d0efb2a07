//! The command line: the daemon, what sets it up, and clients of a running one.

mod audit;
mod backup;
mod check;
mod client;
mod gitlab;
mod gpus;
mod hosts;
mod jobs;
mod pages;
mod render;
mod runners;
mod settings;
mod status;
mod store;

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{CommandFactory as _, Parser, Subcommand};
use jiff::Timestamp;
use secrecy::ExposeSecret as _;
use tokio::runtime::Runtime;

use crate::app::{self, Outside, Reloader};
use crate::config::{Config, Log, LogFormat};
use crate::domain::{Clock as _, SystemClock};
use crate::lifecycle::{Ended, Lifecycle, Signals, Starting, Stir};
use crate::listen::Inherited;
use crate::platform::process::forbid_core_dumps;
use crate::security::SecurityManager;
use crate::security::audit::Act;
use crate::telemetry::{self, LevelSource, LogLevel, TelemetryError};

/// Above the options that every command has, in its help.
const GENERAL: &str = "General";
/// How long threads may take to end after the daemon has. systemd waits for this and for what comes before it (`TimeoutStopSec`).
const LAST: Duration = Duration::from_secs(5);

/// Takes CI jobs from GitLab and a REST API and runs each in one hardened, throw-away container.
#[derive(Debug, Parser)]
#[command(name = "runner-coordinator", version, about)]
pub struct Cli {
    /// The configuration file [env: `RUNNER_COORDINATOR_CONFIG`] [default: /etc/runner-coordinator/config.toml, where it exists].
    #[arg(long, global = true, value_name = "FILE", help_heading = GENERAL, display_order = 900)]
    config: Option<PathBuf>,
    /// How log lines look, and where they go: to standard error, or to systemd's journal. Wins over `log.format` [default: text].
    #[arg(long, global = true, env = "RUNNER_COORDINATOR_LOG_FORMAT", value_parser = log_formats(), help_heading = GENERAL, display_order = 900)]
    log_format: Option<LogFormat>,
    /// Which log lines are written: a level, or a list such as `info,runner_coordinator::jobs=debug`. Wins over `log.level` [default: info].
    #[arg(long, global = true, env = "RUNNER_COORDINATOR_LOG", value_name = "FILTER", help_heading = GENERAL, display_order = 900)]
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
    /// Copy the store into one file, also while the daemon runs.
    Backup(backup::BackupOptions),
    /// Put a backup in the place of the store, while the daemon is stopped.
    Restore(backup::RestoreOptions),
    /// Move the store to another database.
    Store {
        #[command(subcommand)]
        command: store::StoreCommand,
    },
    /// Tell whether the audit log is as it was written.
    Audit(audit::Options),
    /// Set a group or project of GitLab up for this machine, or undo that.
    Gitlab {
        #[command(subcommand)]
        command: gitlab::GitLabCommand,
    },
    /// Show how a running daemon is: machine, GPUs, queue.
    Status(status::Options),
    /// Submit jobs to a running daemon, watch, read, cancel and explain them.
    Jobs(jobs::Options),
    /// List the runners of a running daemon, start or end one.
    Runners(runners::Options),
    /// List machines, take one out of work or let it work again.
    Hosts(hosts::Options),
    /// List the GPUs of a running daemon, take one from jobs or give it back.
    Gpus(gpus::Options),
    /// Make bearer tokens of the API.
    Token {
        #[command(subcommand)]
        command: TokenCommand,
    },
    /// Print completions for a shell.
    #[command(display_order = 1000)]
    Completions(pages::Completions),
    /// Print the manual page, or write those of all commands.
    #[command(display_order = 1000)]
    Man(pages::Manual),
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
    if let Some(code) = without_configuration(cli) {
        return code;
    }
    // Before there are threads.
    let inherited = match &cli.command {
        Command::Serve => Inherited::take(),
        _ => Ok(Inherited::default()),
    };
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
    match (&cli.command, inherited) {
        (Command::Check(options), _) => runtime.block_on(check::run(&config, options)),
        (_, Ok(inherited)) => to_the_end(runtime, serve(config, inherited, cli.config.as_deref(), level), LAST),
        (_, Err(error)) => fail(&error),
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

/// Everything but the daemon and what sets it up: these write no log, and read of the configuration at most where the daemon is.
fn without_configuration(cli: &Cli) -> Option<ExitCode> {
    let file = cli.config.as_deref();
    Some(match &cli.command {
        Command::Serve | Command::Check(_) | Command::Gitlab { .. } => return None,
        Command::Config(options) => settings::run(options),
        Command::Backup(options) => backup::backup(file, options),
        Command::Restore(options) => backup::restore(file, options),
        Command::Store { command } => wait_for(store::run(command)),
        Command::Audit(options) => audit::run(file, options),
        Command::Token { command: TokenCommand::New { name } } => new_token(name),
        Command::Completions(options) => pages::completions(Cli::command(), options),
        Command::Man(options) => pages::manual(Cli::command(), options),
        Command::Status(options) => wait_for(status::run(file, options)),
        Command::Jobs(options) => wait_for(jobs::run(file, options)),
        Command::Runners(options) => wait_for(runners::run(file, options)),
        Command::Hosts(options) => wait_for(hosts::run(file, options)),
        Command::Gpus(options) => wait_for(gpus::run(file, options)),
    })
}

/// Runs a client of a daemon: one thread is enough.
fn wait_for(client: impl Future<Output = ExitCode>) -> ExitCode {
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(client),
        Err(error) => fail(&error),
    }
}

/// Runs the daemon, and waits no longer than that for threads that work for it: one that hangs on a dead disk hangs for ever.
fn to_the_end(runtime: Runtime, daemon: impl Future<Output = ExitCode>, last: Duration) -> ExitCode {
    let stir = Stir::begin(runtime.handle().clone());
    let code = runtime.block_on(daemon);
    drop(stir);
    runtime.shutdown_timeout(last);
    code
}

/// How long the end of the daemon waits until it is written down.
const AUDIT_PATIENCE: Duration = Duration::from_secs(2);

async fn serve(config: Config, inherited: Inherited, file: Option<&Path>, level: LogLevel) -> ExitCode {
    let signals = match Signals::catch() {
        Ok(signals) => signals,
        Err(error) => return fail(&error),
    };
    if let Err(error) = forbid_core_dumps() {
        tracing::warn!(%error, "the kernel may write this process's memory down when it dies");
    }
    let lifecycle = Lifecycle::default();
    let outside = Outside { inherited, ..Outside::default() };
    let (clock, at_end) = (Arc::clone(&outside.clock), Arc::clone(&outside.clock));
    let starting = Starting::begin();
    let app = match app::start(config, outside, &lifecycle).await {
        Ok(app) => app,
        Err(error) => return fail(&error),
    };
    drop(starting);
    lifecycle.attend(app.handle.clone(), Arc::clone(&app.store));
    let reloader = Reloader::new(&app, file, clock, level);
    let code = match lifecycle.run(signals, async || reloader.reload().await).await {
        // The service manager starts it again.
        _ if app.handle.tasks().is_beyond_help() => ExitCode::FAILURE,
        Ended::Cleanly => ExitCode::SUCCESS,
        Ended::CutOff => ExitCode::FAILURE,
    };
    app.audit.note(Act::of_daemon("daemon.stop", if code == ExitCode::SUCCESS { "in order" } else { "not in order" }), at_end.now());
    let _ = app.audit.flush(AUDIT_PATIENCE);
    // With its last handle the store waits for the thread that writes: where whoever ends the runtime waits for that, and not for ever.
    tokio::task::spawn_blocking(move || drop((app, reloader)));
    code
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

/// The configuration for those who need no secret of it, whether or not they can be read.
fn without_secrets(file: Option<&Path>) -> Result<Config, ExitCode> {
    Config::for_setup(file).map(|setup| setup.config).map_err(|faults| fail(&faults))
}

/// Prints an error with its causes, each once.
fn fail(error: &dyn std::error::Error) -> ExitCode {
    let mut text = format!("error: {error}");
    let mut source = error.source();
    while let Some(cause) = source {
        let _ = write!(text, "\n  because: {cause}");
        source = cause.source();
    }
    remark(&text);
    ExitCode::FAILURE
}

/// The same with what to do next.
fn tell_error(error: &client::ClientError) -> ExitCode {
    let code = fail(error);
    if let Some(advice) = error.advice() {
        remark(&format!("  next: {advice}"));
    }
    code
}

/// Prints a mistake that has no cause further down.
fn complain(text: &str) -> ExitCode {
    remark(&format!("error: {text}"));
    ExitCode::FAILURE
}

/// Prints to a person, with colours where a terminal shows them. A reader that went away is no failure.
fn say(text: &str) {
    let _ = writeln!(anstream::stdout(), "{text}");
}

/// Prints to a person who may read the output of the program elsewhere.
fn remark(text: &str) {
    let _ = writeln!(anstream::stderr(), "{text}");
}

/// The time, to tell how long ago something was.
fn now() -> Timestamp {
    SystemClock.now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_thread_that_hangs_does_not_keep_the_process() {
        let (ours, never) = std::sync::mpsc::channel::<()>();
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().expect("a runtime");
            let daemon = async {
                let (tell, hangs) = tokio::sync::oneshot::channel();
                tokio::task::spawn_blocking(move || {
                    let _ = tell.send(());
                    let _ = never.recv();
                });
                hangs.await.expect("it hangs");
                ExitCode::SUCCESS
            };
            tell.send(to_the_end(runtime, daemon, Duration::from_millis(10))).expect("heard");
        });
        assert_eq!(told.recv_timeout(Duration::from_secs(20)), Ok(ExitCode::SUCCESS));
        drop(ours);
    }
}
