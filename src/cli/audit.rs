//! `audit verify`: whether the audit log is as it was written.

use std::path::Path;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::{fail, remark, say, without_secrets};
use crate::security::audit::{self, Verdict};

/// What is asked about the audit log.
#[derive(Debug, Args)]
pub(super) struct Options {
    #[command(subcommand)]
    command: AuditCommand,
}

#[derive(Debug, Subcommand)]
enum AuditCommand {
    /// Read the whole log: non-zero exit when a line was changed, put in or taken out. Also while the daemon runs, as its user or root.
    Verify {
        /// Print what was found as JSON, on one line.
        #[arg(long)]
        json: bool,
    },
}

/// Does what was asked.
pub(super) fn run(config: Option<&Path>, Options { command: AuditCommand::Verify { json } }: &Options) -> ExitCode {
    let config = match without_secrets(config) {
        Ok(config) => config,
        Err(code) => return code,
    };
    let verdict = match audit::verify(&config.data_dir) {
        Ok(verdict) => verdict,
        Err(error) => return fail(&error),
    };
    if *json {
        // Numbers, times and texts can always be written.
        say(&serde_json::to_string(&verdict).unwrap_or_default());
    } else {
        tell(&verdict);
    }
    if verdict.is_whole() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn tell(verdict: &Verdict) {
    for fault in &verdict.faults {
        remark(&format!("FAULT {fault}"));
    }
    let Verdict { lines, first, last, .. } = verdict;
    let found = match (first, last) {
        (Some((first, since)), Some((last, until))) => format!("{lines} lines, {first} of {since} to {last} of {until}"),
        _ => format!("{lines} lines"),
    };
    say(&format!("{found}: {}", if verdict.is_whole() { "whole" } else { "not whole" }));
}
