//! `gitlab teardown`: takes away what carries this machine's mark in GitLab, and the files of the secrets that are dead with it.

use super::ask::{Agreed, agreed};
use super::desk::Desk;
use super::{SetupError, Teardown, say};
use crate::config::SetupConfig;
use crate::gitlab::admin::{AdminError, HookRecord, RunnerRecord};
use crate::gitlab::setup::{SecretKind, TokenState, is_marked, is_same_url};
use crate::security::{Removed, SecretFile};

/// What is to go.
struct Doomed {
    runners: Vec<RunnerRecord>,
    hooks: Vec<HookRecord>,
    files: Vec<SecretFile>,
}

pub(super) async fn run(options: &Teardown, config: &SetupConfig) -> Result<(), SetupError> {
    let desk = Desk::open(&options.target, config).await?;
    let doomed = look(&desk, options.target.hook_url.as_deref()).await?;
    if doomed.runners.is_empty() && doomed.hooks.is_empty() && doomed.files.is_empty() {
        say("nothing to take away");
        return Ok(());
    }
    say(&format!("{} {} at {}", desk.owner.kind.as_str(), desk.owner.path, desk.url));
    for line in lines(&doomed) {
        say(&format!("would delete {line}"));
    }
    if options.target.dry_run {
        return Ok(());
    }
    if !options.yes && agreed("Delete all of this?")? == Agreed::No {
        return Err(SetupError::Words("nothing was deleted; --yes deletes without asking".to_owned()));
    }
    delete(&desk, &doomed).await?;
    say("\nTake the keys that name these files out of the configuration before the daemon starts again.");
    Ok(())
}

fn lines(doomed: &Doomed) -> Vec<String> {
    let runner = |runner: &RunnerRecord| format!("runner {} ({})", runner.id, runner.description.as_deref().unwrap_or_default());
    let runners = doomed.runners.iter().map(runner);
    let hooks = doomed.hooks.iter().map(|hook| format!("webhook {} ({})", hook.id, hook.url));
    let files = doomed.files.iter().map(|file| format!("file {}", file.path().display()));
    runners.chain(hooks).chain(files).collect()
}

async fn look(desk: &Desk<'_>, hook_url: Option<&str>) -> Result<Doomed, SetupError> {
    let runners = desk.runners().await?;
    let mark = desk.mark();
    let is_ours = |hook: &HookRecord| is_marked(hook, &mark) || hook_url.is_some_and(|url| is_same_url(&hook.url, url));
    let hooks: Vec<_> = match desk.admin.hooks(&desk.owner).await {
        Ok(hooks) => hooks.into_iter().filter(is_ours).collect(),
        Err(AdminError::Forbidden { .. } | AdminError::NotFound { .. }) => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    let mut files = Vec::new();
    for class in &desk.config.config.classes {
        // A token that opens something else is not of our making, or of another group's set-up.
        let dead = match desk.token_state(class).await? {
            TokenState::Opens(id) => runners.iter().any(|runner| runner.id == id),
            TokenState::Refused => true,
            TokenState::Missing => false,
        };
        files.extend(dead.then(|| desk.files.token(class)));
    }
    if !hooks.is_empty() {
        files.extend([SecretKind::Signing, SecretKind::Secret].map(|kind| desk.files.hook(kind)));
    }
    files.retain(|file| file.path().exists() || file.staged_path().exists());
    Ok(Doomed { runners, hooks, files })
}

/// The webhook last: as long as it is there, a run that was cut off finds its files again; those of tokens are found by being refused.
async fn delete(desk: &Desk<'_>, doomed: &Doomed) -> Result<(), SetupError> {
    for runner in &doomed.runners {
        desk.admin.delete_runner(runner.id).await?;
        say(&format!("done  runner {} is deleted", runner.id));
    }
    for file in &doomed.files {
        if file.remove().map_err(|source| SetupError::file(file, source))? == Removed::Something {
            say(&format!("done  file {} is deleted", file.path().display()));
        }
    }
    for hook in &doomed.hooks {
        desk.admin.delete_hook(&desk.owner, hook.id).await?;
        say(&format!("done  webhook {} is deleted", hook.id));
    }
    Ok(())
}
