//! The command line: the daemon, what sets it up, and clients of a running one.

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

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};
use jiff::Timestamp;
use secrecy::ExposeSecret as _;

use crate::app::{self, Outside};
use crate::config::Config;
use crate::domain::{Clock as _, SystemClock};
use crate::lifecycle::{Ended, Lifecycle, Signals};
use crate::listen::Inherited;
use crate::security::SecurityManager;
use crate::telemetry::{self, LogFormat};

/// Takes CI jobs from GitLab and a REST API and runs each in one hardened, throw-away container.
#[derive(Debug, Parser)]
#[command(name = "runner-coordinator", version, about)]
pub struct Cli {
    /// The configuration file [env: `RUNNER_COORDINATOR_CONFIG`] [default: /etc/runner-coordinator/config.toml, where it exists].
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// How log lines on standard error look.
    #[arg(long, global = true, env = "RUNNER_COORDINATOR_LOG_FORMAT", value_enum, default_value = "text")]
    log_format: LogFormat,
    /// Which log lines are written: a level, or a list such as `info,runner_coordinator::jobs=debug`.
    #[arg(long, global = true, env = "RUNNER_COORDINATOR_LOG", default_value = "info", value_name = "FILTER")]
    log: String,
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
    match &cli.command {
        Command::Token { command: TokenCommand::New { name } } => return new_token(name),
        Command::Config(options) => return settings::run(options),
        Command::Completions(options) => return pages::completions(Cli::command(), options),
        Command::Man(options) => return pages::manual(Cli::command(), options),
        _ => {}
    }
    if let Err(error) = telemetry::init(cli.log_format, &cli.log) {
        return fail(&error);
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
    let file = cli.config.as_deref();
    match &cli.command {
        Command::Status(options) => return runtime.block_on(status::run(file, options)),
        Command::Jobs(options) => return runtime.block_on(jobs::run(file, options)),
        Command::Runners(options) => return runtime.block_on(runners::run(file, options)),
        Command::Hosts(options) => return runtime.block_on(hosts::run(file, options)),
        Command::Gpus(options) => return runtime.block_on(gpus::run(file, options)),
        _ => {}
    }
    if let Command::Gitlab { command } = &cli.command {
        // Its business is to write the files of secrets that a configuration may already name.
        return match Config::for_setup(cli.config.as_deref()) {
            Ok(config) => runtime.block_on(gitlab::run(command, &config)),
            Err(faults) => fail(&faults),
        };
    }
    let config = match Config::from_process(cli.config.as_deref()) {
        Ok(config) => config,
        Err(faults) => return fail(&faults),
    };
    match &cli.command {
        Command::Serve => match inherited {
            Ok(inherited) => runtime.block_on(serve(config, inherited)),
            Err(error) => fail(&error),
        },
        Command::Check(options) => runtime.block_on(check::run(&config, options)),
        _ => ExitCode::SUCCESS,
    }
}

async fn serve(config: Config, inherited: Inherited) -> ExitCode {
    let signals = match Signals::catch() {
        Ok(signals) => signals,
        Err(error) => return fail(&error),
    };
    let lifecycle = Lifecycle::default();
    match app::start(config, Outside { inherited, ..Outside::default() }, &lifecycle).await {
        Ok(app) => lifecycle.attend(app.handle, app.store),
        Err(error) => return fail(&error),
    }
    match lifecycle.run(signals).await {
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
    use clap::CommandFactory as _;

    #[test]
    fn the_definition_is_sound() {
        super::Cli::command().debug_assert();
    }
}
