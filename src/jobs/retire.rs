//! Ends runners that wait for work as the configuration no longer has them. What runs keeps what it was given.

use jiff::Timestamp;
use tracing::info;

use super::deps::{Shared, class_named};
use crate::config::Config;
use crate::domain::{Aggregate, EndReason, Runner, RunnerOrigin, RunnerState, Step};
use crate::store::StoreError;

/// Why a runner that waits for work is of no more use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Useless {
    /// Its class is gone, or takes no work of GitLab any more.
    NoClass,
    /// Its class would make it otherwise now.
    OldClass,
    /// Fewer are to be kept ready.
    Surplus,
}

impl Useless {
    fn words(self) -> &'static str {
        match self {
            Self::NoClass => "its class takes no work of GitLab any more",
            Self::OldClass => "its class was changed",
            Self::Surplus => "fewer are to be kept ready",
        }
    }
}

/// Orders the end of runners without a job that are of no more use. `before` are the settings of the pass before.
pub(super) async fn retire(shared: &Shared, (before, config): (&Config, &Config), open: &[Aggregate], now: Timestamp) -> Result<(), StoreError> {
    for (runner, useless) in useless(before, config, open.iter().map(|aggregate| &aggregate.runner)) {
        info!(runner.id = %runner.id, class = %runner.class, "a runner that waits for work is ended: {}", useless.words());
        match shared.deps.store.apply(&runner.id, Step::StopOrdered { reason: EndReason::RunnerTerminated }, now).await {
            // It ended by itself meanwhile.
            Ok(_) | Err(StoreError::Refused(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn useless<'r>(before: &Config, config: &Config, open: impl Iterator<Item = &'r Runner>) -> Vec<(&'r Runner, Useless)> {
    let waits = |runner: &Runner| runner.job.is_none() && matches!(runner.state, RunnerState::Starting { .. } | RunnerState::Idle);
    let mut kept: Vec<&Runner> = Vec::new();
    let mut found = Vec::new();
    for runner in open.filter(|runner| waits(runner)) {
        let Some(class) = class_named(config, &runner.class).filter(|class| class.gitlab_token.is_some()) else {
            found.push((runner, Useless::NoClass));
            continue;
        };
        let of_class = kept.iter().filter(|other| other.class == runner.class).count();
        if class_named(before, &runner.class).is_some_and(|before| !class.makes_the_same_runners(before)) {
            found.push((runner, Useless::OldClass));
        } else if runner.origin == RunnerOrigin::Pool && u32::try_from(of_class).is_ok_and(|kept| kept >= class.warm) {
            found.push((runner, Useless::Surplus));
        } else if runner.origin == RunnerOrigin::Pool {
            kept.push(runner);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Class;
    use crate::domain::{ClassName, CpuMillis, HostId, MemoryBytes, Placement, RunnerId};

    fn config(classes: &[Class]) -> Config {
        let config = Config::load(Some(std::path::Path::new("/dev/null")), std::iter::empty()).expect("the defaults serve");
        Config { classes: classes.to_vec(), ..config }
    }

    fn class(name: &str, warm: u32) -> Class {
        Class { warm, gitlab_token: Some("glrt".to_owned().into()), ..Class::named(ClassName::from_trusted(name)) }
    }

    fn idle(name: &str, origin: RunnerOrigin) -> Runner {
        let placement = Placement { cpus: CpuMillis(1), memory: MemoryBytes(1), devices: Vec::new(), share: None, opened: None };
        let (class, host) = (ClassName::from_trusted(name), HostId::from_trusted("box1"));
        Runner { state: RunnerState::Idle, ..Runner::planned(RunnerId::generate(), class, host, origin, placement, Timestamp::UNIX_EPOCH) }
    }

    fn reasons(before: &[Class], after: &[Class], open: &[Runner]) -> Vec<Useless> {
        useless(&config(before), &config(after), open.iter()).into_iter().map(|(_, why)| why).collect()
    }

    #[test]
    fn what_the_configuration_still_has_is_left_alone() {
        let classes = [class("a", 2), class("b", 0)];
        let open = [idle("a", RunnerOrigin::Pool), idle("a", RunnerOrigin::Pool), idle("b", RunnerOrigin::Request)];
        assert_eq!(reasons(&classes, &classes, &open), []);
        let renamed = [Class { priority: 7, tags: vec!["t".to_owned()], ..class("a", 2) }, class("b", 0)];
        assert_eq!(reasons(&classes, &renamed, &open), [], "what is not built into containers does not matter");
    }

    #[test]
    fn a_class_that_went_or_changed_takes_its_waiting_runners_along() {
        let open = [idle("a", RunnerOrigin::Pool), idle("b", RunnerOrigin::Request)];
        let before = [class("a", 1), class("b", 0)];
        assert_eq!(reasons(&before, &[class("a", 1)], &open), [Useless::NoClass]);
        let without_token = Class { gitlab_token: None, ..class("b", 0) };
        assert_eq!(reasons(&before, &[class("a", 1), without_token], &open), [Useless::NoClass]);
        let changed = [Class { memory: MemoryBytes(1 << 20), ..class("a", 1) }, class("b", 0)];
        assert_eq!(reasons(&before, &changed, &open), [Useless::OldClass]);
    }

    #[test]
    fn fewer_warm_runners_are_kept_and_those_that_were_asked_for_stay() {
        let open = [idle("a", RunnerOrigin::Request), idle("a", RunnerOrigin::Pool), idle("a", RunnerOrigin::Pool)];
        assert_eq!(reasons(&[class("a", 2)], &[class("a", 1)], &open), [Useless::Surplus]);
        let busy = Runner { state: RunnerState::Busy, ..idle("a", RunnerOrigin::Pool) };
        assert_eq!(reasons(&[class("a", 1)], &[class("a", 0)], &[busy]), []);
    }
}
