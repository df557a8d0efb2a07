//! `backup` and `restore`: a copy of the store in one file, and the way back.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use super::render::bytes;
use super::{complain, fail, now, remark, say, without_secrets};
use crate::config::StoreUrl;
use crate::store::sqlite::{self, Backup, Contents, CopyError, Overwrite, Restored};

/// What to back up.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
pub(super) struct BackupOptions {
    /// The file to make; readable by its owner only.
    file: PathBuf,
    /// Replace the file if it is there, once the new backup is whole.
    #[arg(long)]
    force: bool,
    /// Print what was made as JSON, on one line.
    #[arg(long)]
    json: bool,
}

/// What to restore.
#[derive(Debug, Args)]
pub(super) struct RestoreOptions {
    /// A file that `backup` made.
    file: PathBuf,
    /// Print what was done as JSON, on one line.
    #[arg(long)]
    json: bool,
}

/// Makes a backup, whether the daemon runs or not.
pub(super) fn backup(config: Option<&Path>, options: &BackupOptions) -> ExitCode {
    let database = match database(config) {
        Ok(database) => database,
        Err(code) => return code,
    };
    let overwrite = if options.force { Overwrite::WhenWhole } else { Overwrite::Never };
    let file = &options.file;
    match sqlite::backup(&database, file, overwrite) {
        Ok(made) if options.json => say(&made_json(file, &database, &made).to_string()),
        Ok(Backup { contents, bytes: size }) => {
            let Contents { schema, jobs, .. } = contents;
            say(&format!("{} holds {jobs} jobs, schema {schema}, {}; checked", file.display(), bytes(size)));
        }
        Err(error) => return tell(&error, &database),
    }
    ExitCode::SUCCESS
}

/// Puts a backup in the store's place, while no daemon runs.
pub(super) fn restore(config: Option<&Path>, options: &RestoreOptions) -> ExitCode {
    let database = match database(config) {
        Ok(database) => database,
        Err(code) => return code,
    };
    let file = &options.file;
    match sqlite::restore(&database, file, now()) {
        Ok(done) if options.json => say(&done_json(file, &database, &done).to_string()),
        Ok(Restored { contents: Contents { schema, jobs, .. }, replaced }) => {
            say(&format!("{} is restored from {}: {jobs} jobs, schema {schema}", database.display(), file.display()));
            match replaced {
                Some(replaced) => say(&format!("what it replaces is kept: {}", replaced.display())),
                None => say("there was no database before"),
            }
            say("what happened after the backup is not known to it: jobs that were waiting or running then may run once more");
        }
        Err(error) => return tell(&error, &database),
    }
    ExitCode::SUCCESS
}

fn made_json(file: &Path, database: &Path, Backup { contents, bytes }: &Backup) -> Value {
    let Contents { schema, instance, jobs } = contents;
    json!({ "file": file, "database": database, "bytes": bytes, "schema": schema, "instance": instance, "jobs": jobs })
}

fn done_json(file: &Path, database: &Path, Restored { contents, replaced }: &Restored) -> Value {
    let Contents { schema, instance, jobs } = contents;
    json!({ "database": database, "file": file, "replaced": replaced, "schema": schema, "instance": instance, "jobs": jobs })
}

/// Where the configuration says that the database is.
fn database(config: Option<&Path>) -> Result<PathBuf, ExitCode> {
    let config = without_secrets(config)?;
    let StoreUrl::Sqlite(database) = config.store else {
        return Err(complain("store.url names a PostgreSQL database, which is kept safe by its own programs, such as pg_dump and pg_restore"));
    };
    if database.to_str().is_none() {
        return Err(complain("store.url must be a path in UTF-8"));
    }
    Ok(database)
}

fn tell(error: &CopyError, database: &Path) -> ExitCode {
    let code = fail(error);
    if let Some(advice) = advice(error, database) {
        remark(&format!("  next: {advice}"));
    }
    code
}

fn advice(error: &CopyError, database: &Path) -> Option<String> {
    match error {
        CopyError::Missing(path) if path == database => {
            Some("name the daemon's configuration with --config FILE, and run this as the daemon's user or as root".to_owned())
        }
        CopyError::Exists(_) => Some("--force replaces a file of an earlier backup".to_owned()),
        CopyError::InUse(_) => Some("systemctl stop runner-coordinator.service runner-coordinator.socket; running jobs go on meanwhile".to_owned()),
        CopyError::Unusable { path, .. } if path == database => {
            Some("runner-coordinator restore FILE puts an earlier backup in its place".to_owned())
        }
        CopyError::Missing(_)
        | CopyError::Same(_)
        | CopyError::Busy(_)
        | CopyError::Unusable { .. }
        | CopyError::TooNew { .. }
        | CopyError::Files { .. }
        | CopyError::Sqlite { .. } => None,
    }
}
