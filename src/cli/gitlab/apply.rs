//! Makes one change of the plan, in GitLab and in the files of secrets, so that a run that is cut off anywhere can be repeated.

use super::desk::Desk;
use super::{SetupError, say};
use crate::gitlab::admin::{AdminError, HookBody, HookRecord, RunnerBody};
use crate::gitlab::setup::{Change, HookGoal, SecretKind, SecretState};

/// Makes it.
pub(super) async fn apply(desk: &Desk<'_>, change: &Change, hook: Option<&HookGoal>) -> Result<(), SetupError> {
    match change {
        Change::CreateRunner { class, body } => create_runner(desk, class.as_str(), body).await,
        Change::UpdateRunner { id, body, .. } => Ok(desk.admin.update_runner(*id, body).await?),
        Change::ResetToken { id, class, .. } => {
            let file = desk.files.token(desk.class(class.as_str())?);
            let token = desk.admin.reset_runner_token(*id).await?;
            // A token that cannot be written is lost; the next run resets it again.
            file.write(&token).map_err(|source| SetupError::file(&file, source))
        }
        Change::CreateHook { kind } => set_hook(desk, hook, None, *kind).await,
        Change::UpdateHook { id, kind, .. } => set_hook(desk, hook, Some(*id), *kind).await,
    }
}

/// The token is told once: a runner whose token cannot be written is deleted again.
async fn create_runner(desk: &Desk<'_>, class: &str, body: &RunnerBody) -> Result<(), SetupError> {
    let file = desk.files.token(desk.class(class)?);
    let runner = desk.admin.create_runner(&desk.owner, body).await?;
    let Err(source) = file.write(&runner.token) else { return Ok(()) };
    match desk.admin.delete_runner(runner.id).await {
        Ok(()) => say(&format!("undone: runner {} is deleted again, because its token cannot be written", runner.id)),
        Err(error) => say(&format!("note  runner {} is left in GitLab: {error}; nobody has its token", runner.id)),
    }
    Err(SetupError::file(&file, source))
}

/// Makes the webhook, or makes it what it should be. Its secret goes to its place after GitLab has taken it.
async fn set_hook(desk: &Desk<'_>, goal: Option<&HookGoal>, id: Option<i64>, kind: SecretKind) -> Result<(), SetupError> {
    let Some(goal) = goal else { return Ok(()) };
    let record = send_hook(desk, goal, id, kind).await?;
    if kind == SecretKind::Signing && record.signing_token_present.is_none() {
        say("note  this GitLab cannot sign webhooks (that needs 19.0): the webhook gets a secret token in its place");
        let file = desk.files.hook(kind);
        file.staged().discard().map_err(|source| SetupError::file(&file, source))?;
        send_hook(desk, goal, Some(record.id), SecretKind::Secret).await?;
        return settle(desk, SecretKind::Secret);
    }
    settle(desk, kind)
}

async fn send_hook(desk: &Desk<'_>, goal: &HookGoal, id: Option<i64>, kind: SecretKind) -> Result<HookRecord, SetupError> {
    let (secret, _) = desk.files.hook_secret(kind)?;
    let (signing_token, secret_token) = match kind {
        SecretKind::Signing => (Some(secret), None),
        SecretKind::Secret => (None, Some(secret)),
    };
    let body = HookBody { url: goal.url.clone(), description: goal.mark.clone(), signing_token, secret_token };
    let sent = match id {
        Some(id) => desk.admin.update_hook(&desk.owner, id, &body).await,
        None => desk.admin.create_hook(&desk.owner, &body).await,
    };
    sent.map_err(|error| explained(error, &goal.url))
}

fn settle(desk: &Desk<'_>, kind: SecretKind) -> Result<(), SetupError> {
    let file = desk.files.hook(kind);
    match desk.files.hook_state(kind) {
        SecretState::Staged => file.staged().commit().map_err(|source| SetupError::file(&file, source)),
        SecretState::Ready | SecretState::Missing => Ok(()),
    }
}

fn explained(error: AdminError, url: &str) -> SetupError {
    if error.is_private_address() {
        let what = "an administrator of GitLab allows it in Admin -> Settings -> Network -> Outbound requests; or use --no-hook, and jobs are \
                    found by polling";
        return SetupError::Words(format!("GitLab does not send to the private address {url}: {what} ({error})"));
    }
    error.into()
}
