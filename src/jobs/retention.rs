//! Takes away what ended long ago: rows first, and then the logs of the jobs that went. What a crash leaves between the two goes when it is old
//! enough for any log to go: a store that was restored from the wrong backup may yet be replaced by one that knows the job.
//!
//! A task of its own, because the words to GitLab in [`super::upkeep`] must not wait for it, and because it rests between batches, so that
//! whoever wants to write is not kept waiting.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;
use tracing::{info, warn};

use super::deps::{OpError, Shared};
use crate::config::Retention;
use crate::domain::chain;
use crate::store::log::LogStore;
use crate::store::{Keep, Store};

/// Time before the first round: a clock that was wrong at the start has been set right by then.
const FIRST: Duration = Duration::from_secs(10 * 60);
/// Time between two rounds; short, so that little goes at a time and what is kept stays even.
const EVERY: Duration = Duration::from_secs(60);
/// Rounds between two looks at all logs.
const LOGS_EVERY: u32 = 60;
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
        let (began, since) = (deps.clock.now(), Instant::now());
        for round in 1_u32.. {
            tokio::time::sleep(if round == 1 { FIRST } else { EVERY }).await;
            let (config, now) = (deps.config.current(), certain(began, since.elapsed(), deps.clock.now()));
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

/// The time by which things are old: never later than the wall clock, and never later than the time that has surely passed since `began`. A
/// clock that jumps ahead, or was behind at the start and is set right, makes nothing old before its time.
fn certain(began: Timestamp, passed: Duration, now: Timestamp) -> Timestamp {
    began.checked_add(passed).map_or(now, |certain| certain.min(now))
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
    let (mut jobs, mut rows, mut failed) = (0, 0, Ok(()));
    loop {
        let forgotten = store.forget_ended(keep).await?;
        for job in &forgotten.jobs {
            failed = failed.and(logs.remove(job).await);
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
    Ok(failed?)
}

/// Takes away the logs of jobs that were made before, and ended before or are not there.
async fn sweep_logs(store: &dyn Store, logs: &LogStore, before: Timestamp) -> Result<(), OpError> {
    let (mut swept, mut failed) = (0, Ok(()));
    for shelf in logs.shelves().await? {
        // A job is stored before it has a log: one that is not there now was not there when its log was found.
        let mut found = logs.on_shelf(&shelf).await?;
        found.retain(|job| job.made_at().is_none_or(|made| made < before));
        for some in found.chunks(LOGS_AT_ONCE) {
            for job in store.without_logs(some, before).await? {
                // One that cannot be removed does not keep the others.
                match logs.remove(&job).await {
                    Ok(()) => swept += 1,
                    Err(error) => failed = failed.and(Err(error)),
                }
            }
        }
    }
    if swept > 0 {
        info!(jobs = swept, "logs past their time were taken away");
    }
    Ok(failed?)
}

#[cfg(test)]
#[path = "retention_tests.rs"]
mod tests;
