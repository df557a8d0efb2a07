//! The daemon and its command line: parses and hands over.

use std::process::ExitCode;

use clap::Parser as _;
use runner_coordinator::cli::Cli;

fn main() -> ExitCode {
    runner_coordinator::cli::run(&Cli::parse())
}
