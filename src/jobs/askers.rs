//! Keeps one task that asks GitLab for work per class that takes its work from there, also when the classes change.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use super::deps::{Shared, class_named};
use crate::config::Config;
use crate::domain::ClassName;

/// The classes for which somebody asks.
#[derive(Debug, Default)]
pub(super) struct Askers(Mutex<HashSet<ClassName>>);

impl Askers {
    /// Whether the caller is to ask for the class from now on: nobody does.
    fn enter(&self, class: &ClassName) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(class.clone())
    }

    /// Whether the caller may stop asking for the class: it takes no work of GitLab any more. Looked at under the lock, so that a class that
    /// comes back just now is either kept by the caller or entered anew.
    pub(super) fn leave(&self, shared: &Shared, class: &ClassName) -> bool {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if asks(&shared.deps.config.current(), class) {
            return false;
        }
        all.remove(class);
        shared.intake.forget(class);
        true
    }
}

/// Whether GitLab is to be asked for the class.
fn asks(config: &Config, class: &ClassName) -> bool {
    config.gitlab.is_some() && class_named(config, class).is_some_and(|class| class.gitlab_token.is_some())
}

/// Starts an asker for every class that needs one, until told to stop. They end by themselves.
pub(super) async fn run(shared: &Arc<Shared>) {
    let deps = &shared.deps;
    let Some(gitlab) = &deps.gitlab else { return };
    let mut reloads = deps.config.subscribe();
    loop {
        let config = Arc::clone(&reloads.borrow_and_update());
        for class in config.classes.iter().filter(|class| asks(&config, &class.name)) {
            if shared.askers.enter(&class.name) {
                let (shared, name, gitlab) = (Arc::clone(shared), class.name.clone(), Arc::clone(gitlab));
                deps.handle.tasks.keep_until_done((&deps.tracker, &deps.stop), "asker", move || {
                    let (shared, name, gitlab) = (Arc::clone(&shared), name.clone(), Arc::clone(&gitlab));
                    async move { super::intake::run(&shared, &name, &gitlab).await }
                });
            }
        }
        // Both arms only wait.
        tokio::select! {
            biased;
            () = deps.stop.cancelled() => return,
            changed = reloads.changed() => if changed.is_err() { return },
        }
    }
}
