//! `gitlab setup` and `gitlab teardown`: make and unmake in GitLab what this machine's coordinator needs there.
//!
//! ```text
//! options, token ──> desk ──> look ──> plan (gitlab::setup, pure) ──> apply ──> advice
//! ```

mod advice;
mod apply;
mod ask;
mod desk;
mod files;
mod teardown;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::{fail, say};
use crate::config::SetupConfig;
use crate::gitlab::GitLabError;
use crate::gitlab::admin::{AdminError, OwnerKind};
use crate::gitlab::setup::{Plan, plan};
use crate::security::{SecretFile, SecurityError};
use desk::{Desk, Hooks};

/// What can be done in GitLab.
#[derive(Debug, Subcommand)]
pub(super) enum GitLabCommand {
    /// Make one runner for each class and the webhook; write their secrets to files. Repeated, it changes only what differs.
    Setup(Setup),
    /// Delete the runners and the webhook that setup made, and the files of their secrets.
    Teardown(Teardown),
}

/// Whose runners and webhook.
#[derive(Debug, Args)]
struct Target {
    /// The base address of GitLab [default: gitlab.url of the configuration].
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// The project, by path or id.
    #[arg(long, value_name = "PROJECT", conflicts_with = "group", required_unless_present = "group")]
    project: Option<String>,
    /// The group, by path or id. Webhooks of groups are not part of GitLab's free tier.
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,
    /// A file, mode 0600, with an access token of somebody who may do this (scopes `create_runner`, `manage_runner` and `api`) [default: the
    /// variable `GITLAB_TOKEN`, else a question]. It is not kept.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Where the files of secrets go [default: beside the configuration file].
    #[arg(long, value_name = "DIRECTORY")]
    secrets_dir: Option<PathBuf>,
    /// The address of the webhook: where GitLab reaches this daemon, for example `https://ci.example.com/webhook/job`.
    #[arg(long, value_name = "URL")]
    hook_url: Option<String>,
    /// Say what would be done, and do nothing.
    #[arg(long)]
    dry_run: bool,
}

impl Target {
    fn owner(&self) -> (OwnerKind, &str) {
        match (&self.project, &self.group) {
            (Some(project), _) => (OwnerKind::Project, project),
            (None, group) => (OwnerKind::Group, group.as_deref().unwrap_or_default()),
        }
    }
}

/// Options of `gitlab setup`.
#[derive(Debug, Args)]
pub(super) struct Setup {
    #[command(flatten)]
    target: Target,
    /// Make no webhook: jobs are found by polling.
    #[arg(long, conflicts_with = "hook_url")]
    no_hook: bool,
    /// Only this class; may be repeated [default: every class with an image].
    #[arg(long = "class", value_name = "NAME")]
    classes: Vec<String>,
}

/// Options of `gitlab teardown`.
#[derive(Debug, Args)]
pub(super) struct Teardown {
    #[command(flatten)]
    target: Target,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
}

/// Why a set-up stops.
#[derive(Debug, thiserror::Error)]
enum SetupError {
    #[error(transparent)]
    Admin(#[from] AdminError),
    #[error(transparent)]
    Call(#[from] GitLabError),
    #[error(transparent)]
    Security(#[from] SecurityError),
    #[error("the secret's file {path} cannot be written", path = path.display())]
    File {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{0}")]
    Words(String),
}

impl SetupError {
    fn file(file: &SecretFile, source: std::io::Error) -> Self {
        Self::File { path: file.path().to_path_buf(), source }
    }
}

/// Does what was asked.
pub(super) async fn run(command: &GitLabCommand, config: &SetupConfig) -> ExitCode {
    let done = match command {
        GitLabCommand::Setup(options) => setup(options, config).await,
        GitLabCommand::Teardown(options) => teardown::run(options, config).await,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

async fn setup(options: &Setup, config: &SetupConfig) -> Result<(), SetupError> {
    let desk = Desk::open(&options.target, config).await?;
    let classes = desk.classes(&options.classes)?;
    let goals = desk.goals(&classes).await?;
    let runners = desk.runners().await?;
    let hooks = if options.no_hook { Hooks::Unwanted } else { desk.hooks(options.target.hook_url.as_deref()).await? };
    let plan = plan(&goals, &runners, hooks.known());
    say(&format!("{} {} at {}", desk.owner.kind.as_str(), desk.owner.path, desk.url));
    for note in plan.notes.iter().chain(hooks.note()) {
        say(&format!("note  {note}"));
    }
    carry_out(options, &desk, &plan, &hooks).await?;
    if !options.target.dry_run {
        advise(&desk, &classes, &hooks);
    }
    match hooks {
        Hooks::Refused(error) => Err(error.into()),
        Hooks::Known { .. } | Hooks::Unwanted | Hooks::Unlicensed(_) => Ok(()),
    }
}

async fn carry_out(options: &Setup, desk: &Desk<'_>, plan: &Plan, hooks: &Hooks) -> Result<(), SetupError> {
    if plan.changes.is_empty() {
        say("nothing to change");
    }
    for change in &plan.changes {
        if options.target.dry_run {
            say(&format!("would {change}"));
        } else {
            apply::apply(desk, change, hooks.goal()).await?;
            say(&format!("done  {change}"));
        }
    }
    if !plan.changes.is_empty() && !options.target.dry_run {
        say("\nRestart the daemon: it reads tokens at its start.");
    }
    Ok(())
}

fn advise(desk: &Desk<'_>, classes: &[&crate::config::Class], hooks: &Hooks) {
    if let Some(toml) = advice::to_add(desk, classes, hooks) {
        let place = desk.config.file.as_deref().map_or_else(|| "the configuration".to_owned(), |file| file.display().to_string());
        say(&format!("\nAdd to {place}:\n\n{toml}"));
    }
}
