//! The part of `check` that looks at GitLab: each class's token, and with an administrator's token what GitLab makes of us.

use super::{Finding, Options};
use crate::config::{Config, GitLab as GitLabSettings, secret_of_env};
use crate::domain::ClassName;
use crate::gitlab::admin::{AdminError, GitLabAdmin, OwnerKind};
use crate::gitlab::diagnosis::{self, Proof, RunnerPicture};
use crate::gitlab::setup::{RunnerGoal, TokenState, mark};
use crate::gitlab::{GitLab, GitLabError, HttpGitLab};

/// Where the administrator's token is looked for.
pub(in crate::cli) const TOKEN_VARIABLE: &str = "GITLAB_TOKEN";

/// Examines GitLab, if the daemon works for one.
pub(super) async fn examine(config: &Config, options: &Options, findings: &mut Vec<Finding>) {
    let Some(settings) = &config.gitlab else { return };
    let client = match HttpGitLab::new(&settings.url, "r_check") {
        Ok(client) => client,
        Err(error) => {
            findings.push(Finding::Bad(format!("gitlab.url: {error}")));
            return;
        }
    };
    for class in &config.classes {
        let Some(token) = &class.gitlab_token else { continue };
        findings.push(token_finding(&class.name, client.verify_runner(token).await));
    }
    findings.extend(webhook_finding(settings));
    examine_as_administrator(config, settings, options, findings).await;
}

async fn examine_as_administrator(config: &Config, settings: &GitLabSettings, options: &Options, findings: &mut Vec<Finding>) {
    let owner = match (&options.gitlab_project, &options.gitlab_group) {
        (Some(project), _) => Some((OwnerKind::Project, project)),
        (None, Some(group)) => Some((OwnerKind::Group, group)),
        (None, None) => None,
    };
    let Some(token) = secret_of_env(TOKEN_VARIABLE) else {
        if owner.is_some() {
            findings.push(Finding::Bad(format!("{TOKEN_VARIABLE}: must hold an administrator's token to examine a project or group")));
        }
        return;
    };
    let looked = async {
        let admin = GitLabAdmin::new(&settings.url, token)?;
        let runners = pictures(&admin, config).await?;
        findings.extend(diagnosis::of_runners(&runners));
        match owner {
            Some((kind, path)) => examine_owner(&admin, config, settings, (kind, path), &runners, findings).await,
            None => Ok(()),
        }
    };
    if let Err(error) = looked.await {
        findings.push(Finding::Bad(format!("GitLab, as administrator: {error}")));
    }
}

async fn pictures(admin: &GitLabAdmin, config: &Config) -> Result<Vec<RunnerPicture>, AdminError> {
    let mut pictures = Vec::new();
    for class in &config.classes {
        let Some(token) = &class.gitlab_token else { continue };
        let Some(id) = admin.runner_of(token).await? else { continue };
        let Some(runner) = admin.runner(id).await? else { continue };
        let wanted = RunnerGoal::of(&config.host.name, class, &config.limits, TokenState::Opens(id)).body;
        pictures.push(RunnerPicture { class: class.name.clone(), wanted, runner });
    }
    Ok(pictures)
}

async fn examine_owner(
    admin: &GitLabAdmin,
    config: &Config,
    settings: &GitLabSettings,
    (kind, path): (OwnerKind, &str),
    runners: &[RunnerPicture],
    findings: &mut Vec<Finding>,
) -> Result<(), AdminError> {
    let owner = admin.owner(kind, path).await?;
    let mark = mark(&config.host.name);
    let mut hooks = Vec::new();
    for hook in admin.hooks(&owner).await?.into_iter().filter(|hook| diagnosis::is_candidate(hook, &mark)) {
        let events = admin.hook_events(&owner, hook.id).await?;
        hooks.push((hook, events));
    }
    findings.extend(diagnosis::of_hooks(&hooks, proof(settings)));
    findings.extend(diagnosis::of_pending(&admin.pending_jobs(&owner).await?, runners));
    Ok(())
}

fn proof(settings: &GitLabSettings) -> Proof {
    match (settings.webhook_signing_keys.is_empty(), settings.webhook_secret_tokens.is_empty()) {
        (false, _) => Proof::Signature,
        (true, false) => Proof::Secret,
        (true, true) => Proof::None,
    }
}

/// Nothing when webhooks can be verified, by either kind of token.
fn webhook_finding(settings: &GitLabSettings) -> Option<Finding> {
    (proof(settings) == Proof::None).then(|| {
        let keys = "gitlab.webhook.signing_token, gitlab.webhook.secret_token";
        Finding::Bad(format!("{keys}: neither is set, so every webhook is refused; work is found by polling only"))
    })
}

fn token_finding(class: &ClassName, verified: Result<(), GitLabError>) -> Finding {
    match verified {
        Ok(()) => Finding::Good(format!("class {class}: GitLab knows its gitlab_token")),
        Err(error) => Finding::Bad(format!("class {class}: gitlab_token: {error}")),
    }
}
