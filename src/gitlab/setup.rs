//! What the set-up has to change in GitLab: what is wanted and what is there go in, a list of changes comes out. Pure.
//!
//! ```text
//! configuration, files ──> goals ─┐
//!                                 ├─> plan ──> changes, notes
//! GitLab ──> runners, webhooks ───┘
//! ```
//!
//! When the changes are made and the plan is made again, it is empty. What does not carry our mark is never touched.

use std::fmt;

use super::admin::{HookRecord, RunnerBody, RunnerRecord};
use crate::config::{Class, Limits};
use crate::domain::{ClassName, HostId};

/// GitLab's own lower bound of a runner's longest job, in seconds.
const LEAST_TIMEOUT_SECONDS: u64 = 600;

/// The mark of everything that this machine's coordinator made: how the descriptions begin.
#[must_use]
pub fn mark(host: &HostId) -> String {
    format!("runner-coordinator {host}")
}

/// The beginning of the description of every runner of this machine.
#[must_use]
pub fn runner_mark(host: &HostId) -> String {
    format!("{}/", mark(host))
}

/// What the token that we hold for a class opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenState {
    /// We hold none.
    Missing,
    /// GitLab does not know it.
    Refused,
    /// This runner.
    Opens(i64),
}

/// The runner that a class should have.
#[derive(Debug, Clone)]
pub struct RunnerGoal {
    /// The class.
    pub class: ClassName,
    /// How the runner should be.
    pub body: RunnerBody,
    /// What we hold.
    pub token: TokenState,
}

impl RunnerGoal {
    /// The runner of a class of this machine. A class without tags takes the jobs without tags.
    #[must_use]
    pub fn of(host: &HostId, class: &Class, limits: &Limits, token: TokenState) -> Self {
        let body = RunnerBody {
            description: format!("{}{}", runner_mark(host), class.name),
            tags: class.tags.iter().map(|tag| tag.trim().to_owned()).collect(),
            run_untagged: class.tags.is_empty(),
            maximum_timeout: limits.max_timeout.as_secs().max(LEAST_TIMEOUT_SECONDS),
        };
        Self { class: class.name.clone(), body, token }
    }
}

/// How a webhook proves where it comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecretKind {
    /// By a signature: GitLab 19.0 and later.
    Signing,
    /// By a secret that is sent along.
    Secret,
}

impl SecretKind {
    /// In words, as in GitLab's page.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Signing => "signing token",
            Self::Secret => "secret token",
        }
    }
}

/// What we hold of a webhook's secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecretState {
    /// Nothing.
    Missing,
    /// One that GitLab may not have been told: an earlier run was cut off.
    Staged,
    /// One that GitLab was told.
    Ready,
}

/// The webhook that should be there.
#[derive(Debug, Clone)]
pub struct HookGoal {
    /// Where GitLab reaches us.
    pub url: String,
    /// Our mark, in its description.
    pub mark: String,
    /// How it should prove itself where GitLab can do both.
    pub kind: SecretKind,
    /// Our signing token.
    pub signing: SecretState,
    /// Our secret token.
    pub secret: SecretState,
}

impl HookGoal {
    /// What we hold of this kind.
    #[must_use]
    pub fn state(&self, kind: SecretKind) -> SecretState {
        match kind {
            SecretKind::Signing => self.signing,
            SecretKind::Secret => self.secret,
        }
    }

    /// The webhook that is, or should become, ours: by its address, else by our mark.
    #[must_use]
    pub fn find<'a>(&self, hooks: &'a [HookRecord]) -> Option<&'a HookRecord> {
        hooks.iter().find(|hook| is_same_url(&hook.url, &self.url)).or_else(|| hooks.iter().find(|hook| is_marked(hook, &self.mark)))
    }
}

/// Whether a webhook carries our mark.
#[must_use]
pub fn is_marked(hook: &HookRecord, mark: &str) -> bool {
    hook.description.as_deref() == Some(mark)
}

/// Whether two addresses are the same but for slashes at the end.
#[must_use]
pub fn is_same_url(one: &str, other: &str) -> bool {
    one.trim_end_matches('/') == other.trim_end_matches('/')
}

/// One change in GitLab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A class has no runner.
    CreateRunner {
        /// The class.
        class: ClassName,
        /// Its runner.
        body: RunnerBody,
    },
    /// A runner is not as it should be.
    UpdateRunner {
        /// GitLab's id.
        id: i64,
        /// The class.
        class: ClassName,
        /// How it should be.
        body: RunnerBody,
        /// What is different, in words.
        differs: Vec<&'static str>,
    },
    /// Nobody has a runner's token.
    ResetToken {
        /// GitLab's id.
        id: i64,
        /// The class.
        class: ClassName,
        /// Why, in words.
        why: &'static str,
    },
    /// There is no webhook.
    CreateHook {
        /// How it is to prove itself.
        kind: SecretKind,
    },
    /// The webhook is not as it should be.
    UpdateHook {
        /// GitLab's id.
        id: i64,
        /// How it proves itself.
        kind: SecretKind,
        /// What is different, in words.
        differs: Vec<&'static str>,
    },
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateRunner { class, body } => write!(f, "class {class}: make a runner {}", tags(body)),
            Self::UpdateRunner { id, class, differs, body } => {
                write!(f, "class {class}: mend runner {id} ({}); it is to be {}", differs.join(", "), tags(body))
            }
            Self::ResetToken { id, class, why } => write!(f, "class {class}: give runner {id} a new token, because {why}"),
            Self::CreateHook { kind } => write!(f, "webhook: make one for Job events, with a {}", kind.as_str()),
            Self::UpdateHook { id, differs, .. } => write!(f, "webhook: mend webhook {id} ({})", differs.join(", ")),
        }
    }
}

fn tags(body: &RunnerBody) -> String {
    if body.tags.is_empty() {
        return "for jobs without tags".to_owned();
    }
    format!("with the tags {}", body.tags.iter().map(String::as_str).collect::<Vec<_>>().join(", "))
}

/// What is to be done, and what a person should know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// In the order in which they are to be made.
    pub changes: Vec<Change>,
    /// What is left as it is, and why.
    pub notes: Vec<String>,
}

/// Compares. `runners` are those that carry this machine's mark; `hook` is left out where no webhook is wanted or can be had.
#[must_use]
pub fn plan(goals: &[RunnerGoal], runners: &[RunnerRecord], hook: Option<(&HookGoal, &[HookRecord])>) -> Plan {
    let mut plan = Plan::default();
    for goal in goals {
        plan_runner(goal, runners, &mut plan);
    }
    for runner in runners.iter().filter(|runner| !goals.iter().any(|goal| is_for(goal, runner))) {
        let description = runner.description.as_deref().unwrap_or_default();
        plan.notes.push(format!("runner {} ({description}) is of no class that was asked for: left as it is", runner.id));
    }
    if let Some((goal, hooks)) = hook {
        plan_hook(goal, hooks, &mut plan);
    }
    plan
}

fn is_for(goal: &RunnerGoal, runner: &RunnerRecord) -> bool {
    runner.description.as_deref() == Some(goal.body.description.as_str())
}

fn plan_runner(goal: &RunnerGoal, runners: &[RunnerRecord], plan: &mut Plan) {
    let class = &goal.class;
    let mut ours: Vec<&RunnerRecord> = runners.iter().filter(|runner| is_for(goal, runner)).collect();
    ours.sort_by_key(|runner| (goal.token != TokenState::Opens(runner.id), runner.id));
    let why = match goal.token {
        TokenState::Opens(id) if !ours.iter().any(|runner| runner.id == id) => {
            plan.notes.push(format!("class {class}: its token opens runner {id}, which this command did not make for it: left as it is"));
            return;
        }
        TokenState::Opens(_) => None,
        TokenState::Missing => Some("its token is lost"),
        TokenState::Refused => Some("GitLab refuses the token that we hold"),
    };
    let Some((runner, doubles)) = ours.split_first() else {
        plan.changes.push(Change::CreateRunner { class: class.clone(), body: goal.body.clone() });
        return;
    };
    for double in doubles {
        plan.notes.push(format!("class {class}: runner {} is a double of runner {} that nobody uses: delete it", double.id, runner.id));
    }
    let differs = differences(&goal.body, runner);
    if !differs.is_empty() {
        plan.changes.push(Change::UpdateRunner { id: runner.id, class: class.clone(), body: goal.body.clone(), differs });
    }
    if let Some(why) = why {
        plan.changes.push(Change::ResetToken { id: runner.id, class: class.clone(), why });
    }
}

/// How a runner is not what it should be, in words.
#[must_use]
pub fn differences(wanted: &RunnerBody, runner: &RunnerRecord) -> Vec<&'static str> {
    let compared = [
        (wanted.tags != runner.tag_list, "its tags differ"),
        (wanted.run_untagged != runner.run_untagged, "it should take jobs without tags exactly when its class has none"),
        (Some(wanted.maximum_timeout) != runner.maximum_timeout, "its longest time differs"),
        (runner.paused, "it is paused"),
    ];
    compared.into_iter().filter(|(differs, _)| *differs).map(|(_, words)| words).collect()
}

fn plan_hook(goal: &HookGoal, hooks: &[HookRecord], plan: &mut Plan) {
    let Some(hook) = goal.find(hooks) else {
        plan.changes.push(Change::CreateHook { kind: goal.kind });
        return;
    };
    let (kind, has_secret) = match (goal.kind, hook.signing_token_present) {
        (SecretKind::Signing, Some(present)) => (SecretKind::Signing, present),
        // A GitLab that does not tell whether there is one is believed to have what it was given.
        (SecretKind::Signing | SecretKind::Secret, _) => (SecretKind::Secret, hook.token_present.unwrap_or(true)),
    };
    let compared = [
        (!is_same_url(&hook.url, &goal.url), "its address differs"),
        (!hook.job_events, "Job events are off"),
        (!has_secret, "it has no token to prove itself with"),
        (goal.state(kind) == SecretState::Missing, "its token is lost"),
        (goal.state(kind) == SecretState::Staged, "its token was being changed"),
    ];
    let differs: Vec<_> = compared.into_iter().filter(|(differs, _)| *differs).map(|(_, words)| words).collect();
    if !differs.is_empty() {
        plan.changes.push(Change::UpdateHook { id: hook.id, kind, differs });
    }
    if hook.alert_status.as_deref().is_some_and(|status| status != "executable") {
        plan.notes.push(format!("webhook {}: GitLab has disabled it after failures; Test -> Job events in its page enables it again", hook.id));
    }
}

#[cfg(test)]
#[path = "setup_tests.rs"]
mod tests;
