//! What a person has to add to the configuration so that the daemon uses what was set up: names of files, never a secret.

use super::desk::{Desk, Hooks};
use super::files::Files;
use crate::config::Class;
use crate::gitlab::setup::SecretKind;

/// The TOML to add; `None` when the configuration says it all.
pub(super) fn to_add(desk: &Desk<'_>, classes: &[&Class], hooks: &Hooks) -> Option<String> {
    let mut parts = Vec::new();
    if desk.config.config.gitlab.is_none() {
        parts.push(format!("[gitlab]\nurl = {}\n", quoted(&desk.url)));
    }
    parts.extend(hooks.goal().and_then(|_| webhook(desk)));
    for class in classes {
        let file = desk.files.token(class);
        if !desk.files.is_named(&desk.files.token_key(class)) && file.path().exists() {
            let instead = if class.gitlab_token.is_some() { " in place of its gitlab_token" } else { "" };
            let head = format!("# To the class that is there already{instead}:\n[[classes]]\nname = {}\n", quoted(class.name.as_str()));
            parts.push(format!("{head}gitlab_token_file = {}\n", quoted(&desk.files.name(&file))));
        }
    }
    (!parts.is_empty()).then(|| parts.join("\n"))
}

/// The webhook's secret, if one lies in a file of ours that the configuration does not name.
fn webhook(desk: &Desk<'_>) -> Option<String> {
    let unnamed = |kind: &SecretKind| !desk.files.is_named(Files::hook_key(*kind)) && desk.files.hook(*kind).path().exists();
    let kind = [SecretKind::Signing, SecretKind::Secret].into_iter().find(unnamed)?;
    let key = Files::hook_key(kind).trim_start_matches("gitlab.webhook.");
    Some(format!("[gitlab.webhook]\n{key} = {}\n", quoted(&desk.files.name(&desk.files.hook(kind)))))
}

/// A TOML text. JSON's is one too.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
