//! What is wrong with a set-up, from what GitLab tells an administrator. Pure: one finding a line, with what to do.

use std::collections::BTreeSet;

use super::admin::{HookEvent, HookRecord, PendingJob, RunnerBody, RunnerRecord, is_private_address};
use super::setup::{differences, is_marked};
use crate::domain::ClassName;

/// How a finding is to be taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// It is as it should be.
    Good(String),
    /// It may be meant so.
    Odd(String),
    /// Work is late or does not come.
    Bad(String),
}

/// A class's runner as GitLab shows it.
#[derive(Debug)]
pub struct RunnerPicture {
    /// The class.
    pub class: ClassName,
    /// How the set-up would make it.
    pub wanted: RunnerBody,
    /// How it is.
    pub runner: RunnerRecord,
}

/// How the daemon can tell that a webhook is real.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// By neither kind of token.
    None,
    /// By signatures, perhaps by secret tokens too.
    Signature,
    /// By secret tokens only.
    Secret,
}

/// Runners that do not get the jobs that they should.
#[must_use]
pub fn of_runners(runners: &[RunnerPicture]) -> Vec<Finding> {
    runners.iter().map(of_runner).collect()
}

fn of_runner(picture: &RunnerPicture) -> Finding {
    let RunnerPicture { class, wanted, runner } = picture;
    let id = runner.id;
    if runner.paused {
        return Finding::Bad(format!("class {class}: runner {id} is paused in GitLab, so no job comes; resume it there, or run `gitlab setup`"));
    }
    let is_ours = runner.description.as_deref() == Some(wanted.description.as_str());
    let differs = differences(wanted, runner);
    if is_ours && !differs.is_empty() {
        return Finding::Bad(format!("class {class}: runner {id}: {}; `gitlab setup` mends it", differs.join("; ")));
    }
    if !is_ours && wanted.tags != runner.tag_list {
        let text = format!("class {class}: runner {id} has the tags {} in GitLab, the class {}", listed(&runner.tag_list), listed(&wanted.tags));
        return Finding::Odd(text);
    }
    Finding::Good(format!("class {class}: runner {id} takes jobs in GitLab"))
}

/// Whether this is a webhook of a coordinator: by our mark, or by the usual path.
#[must_use]
pub fn is_candidate(hook: &HookRecord, mark: &str) -> bool {
    is_marked(hook, mark) || hook.url.trim_end_matches('/').ends_with("/webhook/job")
}

/// Webhooks that do not ring our bell. Each comes with its latest events, newest first.
#[must_use]
pub fn of_hooks(hooks: &[(HookRecord, Vec<HookEvent>)], proof: Proof) -> Vec<Finding> {
    if hooks.is_empty() {
        let text = "webhook: GitLab has none whose address ends in /webhook/job, so jobs are found by polling only; run `gitlab setup`";
        return vec![Finding::Bad(text.to_owned())];
    }
    hooks.iter().map(|(hook, events)| of_hook(hook, events, proof)).collect()
}

fn of_hook(hook: &HookRecord, events: &[HookEvent], proof: Proof) -> Finding {
    let id = hook.id;
    if !hook.job_events {
        return Finding::Bad(format!("webhook {id}: Job events are off, so it never rings; switch them on, or run `gitlab setup`"));
    }
    let has_none = hook.signing_token_present == Some(false) && hook.token_present == Some(false);
    if has_none {
        return Finding::Bad(format!("webhook {id}: it has neither signing nor secret token, so every event is refused; run `gitlab setup`"));
    }
    if hook.signing_token_present == Some(true) && proof != Proof::Signature {
        return Finding::Bad(format!("webhook {id}: it signs, and no gitlab.webhook.signing_token is configured here, so every event is refused"));
    }
    // Why it fails says more than that it was switched off for failing.
    if let Some(trouble) = events.first().and_then(|event| trouble(id, event)) {
        return Finding::Bad(format!("{trouble}{}", disabled(hook).map(|words| format!(" ({words})")).unwrap_or_default()));
    }
    if let Some(words) = disabled(hook) {
        return Finding::Bad(format!("webhook {id}: {words}; mend the cause, then Edit -> Test -> Job events in GitLab enables it again"));
    }
    Finding::Good(format!("webhook {id}: sends Job events to {}", hook.url))
}

fn disabled(hook: &HookRecord) -> Option<String> {
    match hook.alert_status.as_deref() {
        None | Some("executable") => None,
        Some("disabled") => Some("GitLab has disabled it for good after too many failures".to_owned()),
        Some(_) => {
            let until = hook.disabled_until.as_deref().map(|until| format!(" until {until}")).unwrap_or_default();
            Some(format!("GitLab has disabled it{until} after failures"))
        }
    }
}

/// What the latest event says, when it failed.
fn trouble(id: i64, event: &HookEvent) -> Option<String> {
    let status = event.response_status.as_str().map_or_else(|| event.response_status.to_string(), str::to_owned);
    let code: Option<u16> = status.parse().ok();
    let message = event.internal_error_message.as_deref().unwrap_or_default();
    match code {
        Some(200..=399) => None,
        Some(401) => {
            let what = "the daemon answered 401 to its latest event: the tokens differ. Remove the token's file here and run `gitlab setup` again";
            Some(format!("webhook {id}: {what}, then restart the daemon"))
        }
        Some(code) => Some(format!("webhook {id}: its latest event was answered {code}; is it our address, and is a proxy between?")),
        None if status.is_empty() || status == "null" => None,
        None if is_private_address(message) => Some(format!(
            "webhook {id}: GitLab does not send to this private address; an administrator allows it in Admin -> Settings -> Network -> Outbound requests"
        )),
        None if message.is_empty() => Some(format!(
            "webhook {id}: its latest event did not arrive (private address that GitLab blocks, name, certificate or firewall): Edit -> Recent events tells"
        )),
        None => Some(format!("webhook {id}: its latest event did not arrive: {}", plain(message))),
    }
}

/// GitLab's words, fit for a terminal.
fn plain(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}

/// Jobs that wait, and that none of our runners may take. They may be meant for others.
#[must_use]
pub fn of_pending(jobs: &[PendingJob], runners: &[RunnerPicture]) -> Vec<Finding> {
    let takes = |runner: &RunnerRecord, tags: &BTreeSet<String>| {
        if tags.is_empty() { runner.run_untagged } else { tags.is_subset(&runner.tag_list) }
    };
    let unserved: BTreeSet<&BTreeSet<String>> =
        jobs.iter().map(|job| &job.tag_list).filter(|tags| !runners.iter().any(|picture| takes(&picture.runner, tags))).collect();
    let finding = |tags: &BTreeSet<String>| {
        let jobs: Vec<_> = jobs.iter().filter(|job| job.tag_list == *tags).collect();
        let example = jobs.first().map(|job| plain(&job.name)).unwrap_or_default();
        Finding::Odd(format!(
            "tags: {} job(s) wait, such as {example:?}, with the tags {}, which no class here has together; if they are meant for this machine, add them to a class and run `gitlab setup`",
            jobs.len(),
            listed(tags)
        ))
    };
    unserved.into_iter().map(finding).collect()
}

fn listed(tags: &BTreeSet<String>) -> String {
    if tags.is_empty() { "(none)".to_owned() } else { plain(&tags.iter().map(String::as_str).collect::<Vec<_>>().join(", ")) }
}

#[cfg(test)]
#[path = "diagnosis_tests.rs"]
mod tests;
