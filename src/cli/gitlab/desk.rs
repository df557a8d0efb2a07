//! Everything that a set-up works with: the configuration, the files, GitLab in an administrator's hands; and the looking at them.

use super::files::Files;
use super::{SetupError, Target, ask};
use crate::config::{Class, Network, SetupConfig};
use crate::gitlab::admin::{AdminError, GitLabAdmin, HookRecord, Owner, OwnerKind, RunnerRecord};
use crate::gitlab::setup::{HookGoal, RunnerGoal, SecretKind, TokenState, is_marked, mark, runner_mark};

/// One set-up at work.
pub(super) struct Desk<'a> {
    pub(super) config: &'a SetupConfig,
    pub(super) files: Files<'a>,
    pub(super) admin: GitLabAdmin,
    pub(super) owner: Owner,
    /// GitLab's base address.
    pub(super) url: String,
}

/// What is known of the webhook.
pub(super) enum Hooks {
    /// `--no-hook`.
    Unwanted,
    /// What should be, and what is.
    Known { goal: HookGoal, listed: Vec<HookRecord> },
    /// A group's webhooks, which this GitLab does not have; and why we think so.
    Unlicensed(String),
    /// GitLab does not let the token see webhooks.
    Refused(AdminError),
}

impl Hooks {
    /// What the plan needs.
    pub(super) fn known(&self) -> Option<(&HookGoal, &[HookRecord])> {
        match self {
            Self::Known { goal, listed } => Some((goal, listed)),
            Self::Unwanted | Self::Unlicensed(_) | Self::Refused(_) => None,
        }
    }

    /// What should be.
    pub(super) fn goal(&self) -> Option<&HookGoal> {
        self.known().map(|(goal, _)| goal)
    }

    /// What a person should know.
    pub(super) fn note(&self) -> Option<&String> {
        match self {
            Self::Unlicensed(note) => Some(note),
            Self::Known { .. } | Self::Unwanted | Self::Refused(_) => None,
        }
    }
}

impl<'a> Desk<'a> {
    /// Asks for the administrator's token and finds the group or project.
    pub(super) async fn open(target: &Target, config: &'a SetupConfig) -> Result<Self, SetupError> {
        let configured = config.config.gitlab.as_ref().map(|gitlab| gitlab.url.as_str());
        let url = match (target.url.as_deref().map(|url| url.trim_end_matches('/')), configured) {
            (Some(given), Some(configured)) if given != configured => {
                return Err(SetupError::Words(format!("--url is not gitlab.url of the configuration, which is {configured}")));
            }
            (Some(url), _) | (None, Some(url)) => url.to_owned(),
            (None, None) => return Err(SetupError::Words("give --url, because no gitlab.url is configured".to_owned())),
        };
        if !is_http(&url) {
            return Err(SetupError::Words("--url must begin with https:// or http://".to_owned()));
        }
        let files = Files::new(config, target.secrets_dir.as_deref())?;
        let admin = GitLabAdmin::new(&url, ask::administrators_token(target.token_file.as_deref())?)?;
        let (kind, path) = target.owner();
        let owner = admin.owner(kind, path).await?;
        Ok(Self { config, files, admin, owner, url })
    }

    /// Our mark.
    pub(super) fn mark(&self) -> String {
        mark(&self.config.config.host.name)
    }

    /// The class of this name.
    pub(super) fn class(&self, name: &str) -> Result<&'a Class, SetupError> {
        let found = self.config.config.classes.iter().find(|class| class.name.as_str() == name);
        found.ok_or_else(|| SetupError::Words(format!("class {name}: there is none in the configuration")))
    }

    /// The classes to set up: the named ones, else all that can take work from GitLab.
    pub(super) fn classes(&self, named: &[String]) -> Result<Vec<&'a Class>, SetupError> {
        let can = |class: &&Class| class.image.is_some() && class.network != Network::None;
        let classes: Vec<&Class> = if named.is_empty() {
            self.config.config.classes.iter().filter(can).collect()
        } else {
            named.iter().map(|name| self.class(name)).collect::<Result<_, _>>()?
        };
        let told = "must have an image that holds gitlab-runner, and a network";
        if let Some(class) = classes.iter().find(|class| !can(class)) {
            return Err(SetupError::Words(format!("class {}: {told}", class.name)));
        }
        if classes.is_empty() {
            return Err(SetupError::Words(format!("the configuration has no class for GitLab: one {told}; see docs/gitlab.md")));
        }
        Ok(classes)
    }

    /// The runners that these classes should have, and what we hold of their tokens.
    pub(super) async fn goals(&self, classes: &[&Class]) -> Result<Vec<RunnerGoal>, SetupError> {
        let config = &self.config.config;
        let mut goals = Vec::new();
        for class in classes {
            goals.push(RunnerGoal::of(&config.host.name, class, &config.limits, self.token_state(class).await?));
        }
        Ok(goals)
    }

    /// What our token of a class opens.
    pub(super) async fn token_state(&self, class: &Class) -> Result<TokenState, SetupError> {
        let Some(token) = self.files.read_token(class) else { return Ok(TokenState::Missing) };
        Ok(self.admin.runner_of(&token).await?.map_or(TokenState::Refused, TokenState::Opens))
    }

    /// The runners that this machine's set-up made.
    pub(super) async fn runners(&self) -> Result<Vec<RunnerRecord>, SetupError> {
        Ok(self.admin.runners(&self.owner, &runner_mark(&self.config.config.host.name)).await?)
    }

    /// The webhooks, and the one that should be among them.
    pub(super) async fn hooks(&self, url: Option<&str>) -> Result<Hooks, SetupError> {
        let listed = match self.admin.hooks(&self.owner).await {
            Ok(listed) => listed,
            Err(error @ (AdminError::Forbidden { .. } | AdminError::NotFound { .. })) => return Ok(self.no_hooks(error)),
            Err(error) => return Err(error.into()),
        };
        let mark = self.mark();
        let marked = || listed.iter().find(|hook| is_marked(hook, &mark)).map(|hook| hook.url.as_str());
        let Some(url) = url.or_else(marked) else {
            let what = "give --hook-url, the address at which GitLab reaches this daemon, such as https://ci.example.com/webhook/job; or --no-hook";
            return Err(SetupError::Words(what.to_owned()));
        };
        if !is_http(url) {
            return Err(SetupError::Words("--hook-url must begin with https:// or http://".to_owned()));
        }
        let goal = HookGoal {
            url: url.to_owned(),
            mark: mark.clone(),
            kind: self.secret_kind(),
            signing: self.files.hook_state(SecretKind::Signing),
            secret: self.files.hook_state(SecretKind::Secret),
        };
        Ok(Hooks::Known { goal, listed })
    }

    /// A signature, unless the daemon knows secret tokens only: it would refuse what is signed until it is configured anew.
    fn secret_kind(&self) -> SecretKind {
        let names = |kind| self.files.is_named(Files::hook_key(kind));
        let has_secret = self.config.config.gitlab.as_ref().is_some_and(|gitlab| !gitlab.webhook_secret_tokens.is_empty());
        let has_signing = self.config.config.gitlab.as_ref().is_some_and(|gitlab| !gitlab.webhook_signing_keys.is_empty());
        let only_secret = (has_secret || names(SecretKind::Secret)) && !has_signing && !names(SecretKind::Signing);
        if only_secret { SecretKind::Secret } else { SecretKind::Signing }
    }

    fn no_hooks(&self, error: AdminError) -> Hooks {
        match self.owner.kind {
            OwnerKind::Project => Hooks::Refused(error),
            OwnerKind::Group => Hooks::Unlicensed(format!(
                "no webhook: {error}. Webhooks of groups need a paid tier of GitLab and the Owner role: make one per project \
                 (--project), or none (--no-hook); without one jobs are found by polling"
            )),
        }
    }
}

fn is_http(url: &str) -> bool {
    url.starts_with("https://") || url.starts_with("http://")
}
