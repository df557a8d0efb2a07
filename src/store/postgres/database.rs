//! The way to the database: a bounded pool of connections, and who is told that something changed.

use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{Client, Hook, HookError, Manager, ManagerConfig, Pool, PoolError, RecyclingMethod, Runtime, Timeouts};
use tokio::sync::{Notify, watch};
use tokio_util::task::TaskTracker;

use super::address::Address;
use crate::metrics::Metrics;
use crate::store::ANSWERS_WITHIN;

/// Most connections of one daemon, beside the one that listens.
pub(super) const CONNECTIONS: usize = 10;

/// What holds for every connection: no statement, wait or idle transaction outlasts what anybody waits for.
pub(super) const SETTINGS: &str = "SET statement_timeout = '10s'; SET lock_timeout = '10s'; SET idle_in_transaction_session_timeout = '15s'; \
     SET default_transaction_isolation = 'read committed'; SET synchronous_commit = 'on'; SET jit = off; SET plan_cache_mode = 'force_generic_plan'";

/// Whether others are to hear of what a transaction changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Notice {
    /// They are.
    Changes,
    /// Nobody waits for it.
    Quiet,
}

/// The pool and what hears of changes.
#[derive(Debug)]
pub(super) struct Database {
    pool: Pool,
    metrics: Arc<Metrics>,
    ticks: watch::Sender<u64>,
    elsewhere: watch::Sender<u64>,
    changed: Notify,
    tasks: TaskTracker,
}

impl Database {
    /// Without a connection yet.
    pub(super) fn new(address: &Address, metrics: Arc<Metrics>) -> Result<Self, deadpool_postgres::BuildError> {
        let config = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let manager = Manager::from_config(address.config.clone(), address.tls.clone(), config);
        let within = Some(ANSWERS_WITHIN);
        let pool = Pool::builder(manager)
            .max_size(CONNECTIONS)
            .runtime(Runtime::Tokio1)
            .timeouts(Timeouts { wait: within, create: Some(Duration::from_secs(6)), recycle: within })
            .post_create(Hook::async_fn(|client, _| Box::pin(async move { client.batch_execute(SETTINGS).await.map_err(HookError::Backend) })))
            .build()?;
        Ok(Self { pool, metrics, ticks: watch::channel(0).0, elsewhere: watch::channel(0).0, changed: Notify::new(), tasks: TaskTracker::new() })
    }

    /// A connection, once one is free.
    pub(super) async fn client(&self) -> Result<Client, PoolError> {
        self.pool.get().await
    }

    /// What is counted.
    pub(super) fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Ticks after every commit, here or elsewhere.
    pub(super) fn ticks(&self) -> watch::Receiver<u64> {
        self.ticks.subscribe()
    }

    /// Something was changed here: tells everybody.
    pub(super) fn changed(&self) {
        self.tick();
        self.changed.notify_one();
    }

    /// Where tasks run that go with the store.
    pub(super) fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }

    /// Ticks when another daemon changed something.
    pub(super) fn elsewhere(&self) -> watch::Receiver<u64> {
        self.elsewhere.subscribe()
    }

    /// Another daemon may have changed something.
    pub(super) fn changed_elsewhere(&self) {
        self.tick();
        self.elsewhere.send_modify(|tick| *tick = tick.wrapping_add(1));
    }

    fn tick(&self) {
        self.ticks.send_modify(|tick| *tick = tick.wrapping_add(1));
    }

    /// Waits until something was changed here that the others have not been told.
    pub(super) async fn wait_for_change(&self) {
        self.changed.notified().await;
    }
}
