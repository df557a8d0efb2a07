//! Operations on containers: tasks of their own, one at a time per runner, tried again with back-off when they fail.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::conclude::conclude;
use super::deps::{OpError, Shared};
use super::handle::{OpResult, Wake};
use super::reconcile::{Action, InFlight};
use super::stopping::until_stopped;
use super::{finish, launch};
use crate::domain::retry::doubled;
use crate::domain::{Aggregate, EndReason, Outcome, RunnerId, RunnerState, chain};

/// First wait after an operation failed; it doubles up to [`BACKOFF_MAX`].
const BACKOFF: Duration = Duration::from_millis(200);
/// Longest wait after an operation failed.
const BACKOFF_MAX: Duration = Duration::from_secs(15);

/// What is under way, or was, on each runner.
#[derive(Debug, Default)]
pub(super) struct Operations(HashMap<RunnerId, Operation>);

#[derive(Debug)]
struct Operation {
    kind: InFlight,
    cancel: CancellationToken,
    /// Views of the engine with an older stamp prove nothing about this runner.
    after: u64,
    /// What the latest operation was.
    last: Option<InFlight>,
    /// Stops that the engine called done, one after another.
    stops: u32,
    /// When the container may be stopped once more.
    stop_again: Option<Instant>,
    failures: u32,
    failing_since: Option<Instant>,
    not_before: Option<Instant>,
}

impl Operations {
    /// What is under way on a runner.
    pub(super) fn on(&self, runner: &RunnerId) -> InFlight {
        self.0.get(runner).map_or(InFlight::Nothing, |operation| operation.kind)
    }

    /// The stamp that a view of the engine must have to prove anything about a runner.
    pub(super) fn proven_after(&self, runner: &RunnerId) -> u64 {
        self.0.get(runner).map_or(0, |operation| operation.after)
    }

    /// Since when everything that was to end a runner has failed.
    pub(super) fn end_failing_since(&self, runner: &RunnerId, now: Timestamp) -> Option<Timestamp> {
        let since = self.0.get(runner).filter(|operation| operation.last == Some(InFlight::End)).and_then(|operation| operation.failing_since)?;
        now.checked_sub(since.elapsed()).ok()
    }

    /// How many are under way.
    pub(super) fn under_way(&self) -> usize {
        self.0.values().filter(|operation| operation.kind != InFlight::Nothing).count()
    }

    /// Ends a launch early; what it made already is taken away by the passes that follow.
    pub(super) fn cancel_launch(&self, runner: &RunnerId) {
        if let Some(operation) = self.0.get(runner).filter(|operation| operation.kind == InFlight::Launch) {
            operation.cancel.cancel();
        }
    }

    /// Forgets runners that are gone, so that nothing grows; one whose end is newer than the view is still needed to read that view.
    pub(super) fn retain(&mut self, open: &HashSet<RunnerId>, view_stamp: u64) {
        self.0.retain(|runner, operation| operation.kind != InFlight::Nothing || open.contains(runner) || operation.after > view_stamp);
    }

    /// Starts an operation on a runner, unless it has to wait after a failure.
    pub(super) fn begin(&mut self, shared: &Arc<Shared>, aggregate: Aggregate, action: Action) {
        let now = Instant::now();
        let id = aggregate.runner.id.clone();
        let operation = self.0.entry(id.clone()).or_insert_with(Operation::idle);
        if operation.kind != InFlight::Nothing || operation.not_before.is_some_and(|not_before| not_before > now) {
            return;
        }
        if action == Action::Stop {
            // One that the engine stopped and that runs all the same is not stopped at every pass.
            if operation.stop_again.is_some_and(|stop_again| stop_again > now) {
                return;
            }
            operation.stops = operation.stops.saturating_add(1);
            let grace = shared.deps.config.current().limits.stop_grace;
            operation.stop_again = Some(now + grace + doubled(BACKOFF, operation.stops, BACKOFF_MAX));
        }
        operation.kind = if action == Action::Launch { InFlight::Launch } else { InFlight::End };
        operation.cancel = shared.deps.stop.child_token();
        operation.last = Some(operation.kind);
        operation.not_before = None;
        let hopeless = operation.failing_since.is_some_and(|since| since.elapsed() >= shared.deps.config.current().limits.start_timeout);
        let (shared, cancel) = (Arc::clone(shared), operation.cancel.clone());
        shared.deps.tracker.clone().spawn(async move {
            let mut done = Done { shared: &shared, runner: Some(id), result: OpResult::Failure };
            let operation = Box::pin(async {
                match carry_out(&shared, aggregate.clone(), action, &cancel).await {
                    Err(error) if action == Action::Launch && hopeless => give_up(&shared, &aggregate, error).await,
                    result => result,
                }
            });
            let result = until_stopped(&shared.deps.stop, operation).await.unwrap_or(Err(OpError::NotYet("the coordinator stops")));
            match (&result, &done.runner) {
                (Ok(()), _) => done.result = OpResult::Success,
                (Err(error), Some(runner)) => {
                    warn!(runner.id = %runner, ?action, error = chain(error), "an operation failed and will be tried again");
                }
                (Err(_), None) => {}
            }
            done.tell().await;
        });
    }

    /// An operation ended.
    pub(super) fn on_done(&mut self, runner: &RunnerId, stamp: u64, result: OpResult) {
        let now = Instant::now();
        let Some(operation) = self.0.get_mut(runner) else { return };
        operation.kind = InFlight::Nothing;
        operation.after = stamp;
        (operation.failures, operation.failing_since) = match result {
            OpResult::Success => (0, None),
            OpResult::Failure => (operation.failures.saturating_add(1), operation.failing_since.or(Some(now))),
        };
        let wait = doubled(BACKOFF, operation.failures, BACKOFF_MAX);
        operation.not_before = (result == OpResult::Failure).then(|| now + wait);
    }
}

impl Operation {
    fn idle() -> Self {
        Self {
            kind: InFlight::Nothing,
            cancel: CancellationToken::new(),
            after: 0,
            last: None,
            stops: 0,
            stop_again: None,
            failures: 0,
            failing_since: None,
            not_before: None,
        }
    }
}

/// Ends an attempt whose launch has failed for as long as a start may take: what it was waiting for may help another attempt. One whose start was
/// sent may run, and is judged by what the engine shows.
async fn give_up(shared: &Arc<Shared>, aggregate: &Aggregate, error: OpError) -> Result<(), OpError> {
    let now = shared.deps.store.runner(&aggregate.runner.id).await?;
    if now.is_none_or(|now| now.runner.state != (RunnerState::Starting { start_sent: None })) {
        return Err(error);
    }
    conclude(shared, aggregate, Outcome::infrastructure(EndReason::StartFailed, chain(&error))).await
}

async fn carry_out(shared: &Arc<Shared>, aggregate: Aggregate, action: Action, cancel: &CancellationToken) -> Result<(), OpError> {
    match action {
        Action::Launch => launch::launch(shared, aggregate, cancel).await,
        Action::Stop => finish::stop(shared, &aggregate).await,
        Action::Finish => finish::finish(shared, &aggregate).await,
        Action::Remove => finish::remove(shared, &aggregate).await,
        Action::NoteStarted | Action::OrderStop(_) | Action::DeclareLost(_) => Ok(()),
    }
}

/// Tells the manager that an operation ended, also when it panicked.
struct Done<'s> {
    shared: &'s Shared,
    runner: Option<RunnerId>,
    result: OpResult,
}

impl Done<'_> {
    async fn tell(mut self) {
        if let Some(runner) = self.runner.take() {
            let wake = Wake::Done { runner, stamp: self.shared.observer.stamp(), result: self.result };
            // Closed only when the manager has stopped.
            let _ = self.shared.deps.handle.wake.send(wake).await;
        }
    }
}

impl Drop for Done<'_> {
    fn drop(&mut self) {
        let Some(runner) = self.runner.take() else { return };
        error!(runner.id = %runner, "an operation died");
        let (wake, message) =
            (self.shared.deps.handle.wake.clone(), Wake::Done { runner, stamp: self.shared.observer.stamp(), result: OpResult::Failure });
        self.shared.deps.tracker.spawn(async move {
            let _ = wake.send(message).await;
        });
    }
}
