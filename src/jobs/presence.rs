//! Keeps a class's runner online in GitLab while nobody asks for it, because the machine is full.
//!
//! GitLab takes a runner for online that was heard of within 2 hours, and fails a job that waits for an hour when no runner that could
//! take it is online (`stuck_pending_no_matching_runners`). Asking for work counts as contact, and so does showing the token.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use secrecy::SecretString;
use tracing::warn;

use super::board::Board;
use super::deps::Shared;
use crate::domain::clock::has_passed;
use crate::domain::{ClassName, chain};
use crate::gitlab::GitLab;

/// How often it is looked whether a contact is due.
const LOOK: Duration = Duration::from_secs(60);
/// Silence after which GitLab hears of a class: a quarter of what it bears, so that a few lost calls do no harm.
const SILENCE: Duration = Duration::from_secs(30 * 60);
/// Least time between two tries.
const RETRY: Duration = Duration::from_secs(5 * 60);

/// Goes its rounds until told to stop.
pub(super) async fn run(shared: &Arc<Shared>) {
    let deps = &shared.deps;
    let Some(gitlab) = &deps.gitlab else { return };
    let token_of = |class: &crate::config::Class| Some((class.name.clone(), class.gitlab_token.clone()?));
    let mut keeper = Keeper { classes: deps.config.classes.iter().filter_map(token_of).collect(), not_before: HashMap::new() };
    if keeper.classes.is_empty() {
        return;
    }
    loop {
        let round = async {
            tokio::time::sleep(LOOK).await;
            keeper.round(&shared.intake, gitlab.as_ref(), deps.clock.now()).await;
        };
        if deps.stop.run_until_cancelled(round).await.is_none() {
            return;
        }
    }
}

/// Who is kept online.
struct Keeper {
    classes: Vec<(ClassName, SecretString)>,
    /// After a try that failed.
    not_before: HashMap<ClassName, Timestamp>,
}

impl Keeper {
    async fn round(&mut self, board: &Board, gitlab: &dyn GitLab, now: Timestamp) {
        let states = board.read();
        for (class, token) in &self.classes {
            let Some(state) = states.iter().find(|state| state.class == *class) else { continue };
            let waits = self.not_before.get(class).is_some_and(|not_before| now < *not_before);
            if waits || !due(state.state, state.last_answer_at, now) {
                continue;
            }
            match gitlab.verify_runner(token).await {
                Ok(()) => {
                    self.not_before.remove(class);
                    board.post(class, |state| (state.last_answer_at, state.error) = (Some(now), None));
                }
                Err(error) => {
                    let wait = error.retry_after().unwrap_or_default().max(RETRY);
                    let text = chain(&error);
                    warn!(%class, error = text, retry_in_seconds = wait.as_secs(), "GitLab could not be shown that the runner of a full class is there");
                    self.not_before.insert(class.clone(), now.checked_add(wait).unwrap_or(now));
                    board.post(class, |state| state.error = Some(text));
                }
            }
        }
    }
}

/// Whether GitLab must hear of a class that it last answered at `last`. Only for one that is not asked for: whoever asks is heard, and whoever
/// waits because GitLab said so shall wait.
fn due(state: &str, last: Option<Timestamp>, now: Timestamp) -> bool {
    matches!(state, "full" | "waiting") && last.is_none_or(|last| has_passed(last, SILENCE, now))
}

#[cfg(test)]
#[path = "presence_tests.rs"]
mod tests;
