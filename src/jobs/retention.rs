//! Takes away what ended long ago: rows first, and then the logs of the jobs that went. What a crash leaves between the two, the next start
//! finds: a log whose job is not there belongs to nobody.
//!
//! A task of its own, because the words to GitLab in [`super::upkeep`] must not wait for it, and because it rests between batches, so that
//! whoever wants to write is not kept waiting.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tracing::{info, warn};

use super::deps::{OpError, Shared};
use crate::config::Retention;
use crate::domain::chain;
use crate::store::log::LogStore;
use crate::store::{Keep, Store};

/// Time between two rounds, and before the first: a clock that was wrong at the start has been set right by then.
const EVERY: Duration = Duration::from_secs(10 * 60);
/// Rounds between two looks at all logs.
const LOGS_EVERY: u32 = 6;
/// Rest after a batch.
const REST: Duration = Duration::from_millis(100);
/// A job that ended no longer ago is kept however many there are: somebody waits for its end.
const SPARED: Duration = Duration::from_secs(10 * 60);
/// Jobs about whose logs the store is asked at once.
const LOGS_AT_ONCE: usize = 500;

/// Goes its rounds until told to stop.
pub(super) async fn run(shared: &Arc<Shared>) {
    let deps = &shared.deps;
    let rounds = async {
        // Without a time: only those whose job is not there.
        told(sweep_logs(deps.store.as_ref(), &deps.logs, Timestamp::MIN).await);
        for round in 1_u32.. {
            tokio::time::sleep(EVERY).await;
            let (config, now) = (deps.config.current(), deps.clock.now());
            told(forget(deps.store.as_ref(), &deps.logs, &keep(&config.retention, now)).await);
            if round.is_multiple_of(LOGS_EVERY) {
                told(sweep_logs(deps.store.as_ref(), &deps.logs, before(now, config.retention.logs)).await);
            }
        }
    };
    let _ = deps.stop.run_until_cancelled(rounds).await;
}

fn told(round: Result<(), OpError>) {
    if let Err(error) = round {
        warn!(error = chain(&error), "what ended long ago could not be taken away; the next round goes on");
    }
}

/// What is kept now.
fn keep(retention: &Retention, now: Timestamp) -> Keep {
    Keep {
        since: before(now, retention.jobs),
        most_jobs: retention.max_jobs,
        spare_since: before(now, SPARED),
        usage_since: before(now, retention.usage),
    }
}

fn before(now: Timestamp, age: Duration) -> Timestamp {
    now.checked_sub(age).unwrap_or(Timestamp::MIN)
}

/// Takes away all that is not to be kept.
async fn forget(store: &dyn Store, logs: &LogStore, keep: &Keep) -> Result<(), OpError> {
    let (mut jobs, mut rows) = (0, 0);
    loop {
        let forgotten = store.forget_ended(keep).await?;
        for job in &forgotten.jobs {
            logs.remove(job).await?;
        }
        jobs += forgotten.jobs.len();
        rows += forgotten.rows;
        if forgotten.is_all {
            break;
        }
        tokio::time::sleep(REST).await;
    }
    if jobs > 0 {
        info!(jobs, rows, "jobs that ended long ago were taken away");
    }
    Ok(())
}

/// Takes away the logs of jobs that are not there or ended before.
async fn sweep_logs(store: &dyn Store, logs: &LogStore, ended_before: Timestamp) -> Result<(), OpError> {
    let mut swept = 0;
    for shelf in logs.shelves().await? {
        // A job is stored before it has a log: one that is not there now was not there when its log was found.
        let found = logs.on_shelf(&shelf).await?;
        for some in found.chunks(LOGS_AT_ONCE) {
            for job in store.without_logs(some, ended_before).await? {
                logs.remove(&job).await?;
                swept += 1;
            }
        }
    }
    if swept > 0 {
        info!(jobs = swept, "logs past their time were taken away");
    }
    Ok(())
}

#[cfg(test)]
#[path = "retention_tests.rs"]
mod tests;
