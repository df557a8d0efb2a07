//! `store copy`: takes the embedded store into a database that a fleet shares.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Map, Value, json};

use super::{complain, fail, remark, say};
use crate::config::read_secret_file;
use crate::store::postgres::{ImportError, Imported, ImportedTable, import};
use crate::store::sqlite::{CopyError, ExportError};

/// What to do with a store.
#[derive(Debug, Subcommand)]
pub(super) enum StoreCommand {
    /// Copy an embedded store into an empty database of `PostgreSQL`, while the daemon is stopped, and compare both.
    Copy(CopyOptions),
}

/// What is copied where to.
#[derive(Debug, Args)]
pub(super) struct CopyOptions {
    /// The store that is copied, which is only read: `sqlite:PATH`, for example `sqlite:/var/lib/runner-coordinator/coordinator.db`.
    // Nobody knows what was typed in the wrong place.
    #[arg(long, value_name = "URL")]
    from: SecretString,
    /// The empty database: `postgres://USER:PASSWORD@HOST/DATABASE`. Others on this machine can read it on the command line: prefer --to-file where
    /// it holds a password.
    #[arg(long, value_name = "URL", required_unless_present = "to_file", conflicts_with = "to_file")]
    to: Option<SecretString>,
    /// A file that holds the address of the empty database, with mode 0600.
    #[arg(long, value_name = "FILE")]
    to_file: Option<PathBuf>,
    /// Print what was copied as JSON, on one line.
    #[arg(long)]
    json: bool,
}

/// Does it.
pub(super) async fn run(command: &StoreCommand) -> ExitCode {
    let StoreCommand::Copy(options) = command;
    let (from, to) = match addresses(options) {
        Ok(addresses) => addresses,
        Err(mistake) => return complain(&mistake),
    };
    let done = match import(&from, &to).await {
        Ok(done) => done,
        Err(error) => return tell(&error),
    };
    if options.json {
        let tables: Map<String, Value> = done.tables.iter().map(|table| (table.name.clone(), json!(table.rows))).collect();
        let seconds = done.took.as_secs_f64();
        say(&json!({ "from": from, "to": done.target, "instance": done.instance, "tables": tables, "rows": done.rows(), "seconds": seconds })
            .to_string());
        return ExitCode::SUCCESS;
    }
    let Imported { target, tables, took, .. } = &done;
    for ImportedTable { name, rows } in tables {
        say(&format!("{name:<20} {rows:>10}"));
    }
    let (rows, count, seconds) = (done.rows(), tables.len(), took.as_secs_f64());
    say(&format!("{} is copied to {target}: {rows} rows of {count} tables in {seconds:.1} s; compared", from.display()));
    say("the logs of jobs are no part of the store: they stay where they are, and so does what was copied");
    ExitCode::SUCCESS
}

/// The file that is copied, and the address of the target. What was typed is never shown: it may be a password in the wrong place.
fn addresses(options: &CopyOptions) -> Result<(PathBuf, SecretString), String> {
    let from = options.from.expose_secret().strip_prefix("sqlite:").map(|path| path.strip_prefix("//").unwrap_or(path));
    let from = from.filter(|path| !path.is_empty()).ok_or("--from must be sqlite:PATH")?;
    let (to, option) = match (&options.to_file, &options.to) {
        (Some(file), _) => (read_secret_file(file).map_err(|why| format!("--to-file {why}"))?, "the file of --to-file"),
        (None, to) => (to.clone().unwrap_or_default(), "--to"),
    };
    if !["postgres://", "postgresql://"].iter().any(|scheme| to.expose_secret().starts_with(scheme)) {
        return Err(format!("{option} must be postgres://USER:PASSWORD@HOST/DATABASE"));
    }
    Ok((PathBuf::from(from), to))
}

fn tell(error: &ImportError) -> ExitCode {
    let code = fail(error);
    if let Some(advice) = advice(error) {
        remark(&format!("  next: {advice}"));
    }
    code
}

fn advice(error: &ImportError) -> Option<&'static str> {
    Some(match error {
        ImportError::Source(ExportError::Database(CopyError::Missing(_))) => {
            "name the file of the store, such as --from sqlite:/var/lib/runner-coordinator/coordinator.db, and run this as the daemon's user or as root"
        }
        ImportError::Source(ExportError::Database(CopyError::InUse(_))) => {
            "systemctl stop runner-coordinator.service runner-coordinator.socket; running jobs go on meanwhile"
        }
        ImportError::Source(ExportError::Outdated { .. }) => {
            "start this version of the daemon on it once, which brings it up to date, and stop it again"
        }
        ImportError::Source(ExportError::Restoring(_)) => "start the daemon once, which finishes the restore, and stop it again",
        ImportError::Source(ExportError::Nul { .. }) => {
            "take the NUL byte out of that row of the source, or take out the row; a backup is made before"
        }
        ImportError::NotEmpty { .. } => "make a database for the copy (CREATE DATABASE …) and start no daemon on it before",
        ImportError::InUse { .. } => "stop every daemon whose store.url names that database",
        ImportError::Unconfirmed { .. } => "repeat it: when the copy is there, it is refused because the database is not empty",
        ImportError::Source(_)
        | ImportError::Address(_)
        | ImportError::Target { .. }
        | ImportError::Failed(_)
        | ImportError::Differs { .. }
        | ImportError::Thread(_) => return None,
    })
}
