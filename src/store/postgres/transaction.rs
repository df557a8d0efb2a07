//! One operation on the database: a transaction, tried again where the server undid it, within the time that a store may take.
//!
//! A transaction that was not committed left nothing, so it may be tried again whatever broke it. Once `COMMIT` was sent only the server's
//! own word that it undid everything allows that; else the caller hears that it failed, and it may still have been done.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use deadpool_postgres::Client;
use tokio_postgres::types::ToSql;
use tokio_postgres::{IsolationLevel, Row};

use super::database::{Database, Notice};
use super::fault::{After, Fault, Outcome};
use crate::metrics::Waiting;
use crate::store::rows;
use crate::store::{ANSWERS_WITHIN, StoreError};

/// Most tries of one operation.
const TRIES: u32 = 6;
/// The first pause between two tries; each is twice as long as the one before.
const PAUSE: Duration = Duration::from_millis(5);

/// Values for the places in a statement.
pub(super) type Values<'v> = &'v [&'v (dyn ToSql + Sync)];

/// A transaction.
#[derive(Debug)]
pub(super) struct Tx<'c> {
    inner: deadpool_postgres::Transaction<'c>,
    wrote: AtomicBool,
}

impl<'c> Tx<'c> {
    /// Begins one that writes. Statements see what was committed before each of them.
    pub(super) async fn begin(client: &'c mut Client) -> Outcome<Self> {
        Ok(Self { inner: client.transaction().await?, wrote: AtomicBool::new(false) })
    }

    /// Begins one that reads; everything that it reads is of one moment.
    pub(super) async fn begin_reading(client: &'c mut Client) -> Outcome<Self> {
        let begun = client.build_transaction().isolation_level(IsolationLevel::RepeatableRead).read_only(true).start().await?;
        Ok(Self { inner: begun, wrote: AtomicBool::new(false) })
    }

    /// All rows of an answer.
    pub(super) async fn all(&self, sql: &str, values: Values<'_>) -> Outcome<Vec<Row>> {
        let statement = self.inner.prepare_cached(sql).await?;
        Ok(self.inner.query(&statement, values).await?)
    }

    /// The only row of an answer, if there is one.
    pub(super) async fn one(&self, sql: &str, values: Values<'_>) -> Outcome<Option<Row>> {
        let statement = self.inner.prepare_cached(sql).await?;
        Ok(self.inner.query_opt(&statement, values).await?)
    }

    /// Carries a statement out; tells how many rows it touched.
    pub(super) async fn execute(&self, sql: &str, values: Values<'_>) -> Outcome<u64> {
        let statement = self.inner.prepare_cached(sql).await?;
        let touched = self.inner.execute(&statement, values).await?;
        if touched > 0 {
            self.wrote();
        }
        Ok(touched)
    }

    /// Carries out what writes and answers one row.
    pub(super) async fn write_one(&self, sql: &str, values: Values<'_>) -> Outcome<Option<Row>> {
        let row = self.one(sql, values).await?;
        if row.is_some() {
            self.wrote();
        }
        Ok(row)
    }

    /// Notes that something was written.
    pub(super) fn wrote(&self) {
        self.wrote.store(true, Ordering::Relaxed);
    }

    /// Commits, and tells others if anything was written that they want to know.
    pub(super) async fn commit(self, database: &Database, notice: Notice) -> Outcome<()> {
        let wrote = self.wrote.into_inner();
        self.inner.commit().await?;
        database.metrics().store_commits.count([]);
        if wrote && notice == Notice::Changes {
            database.changed();
        }
        Ok(())
    }
}

impl rows::Row for Row {
    type Fault = Fault;

    fn maybe_text(&self, column: &str) -> Outcome<Option<String>> {
        self.try_get(column).map_err(|error| rows::corrupt(format!("{column}: {error}")).into())
    }

    fn maybe_integer(&self, column: &str) -> Outcome<Option<i64>> {
        self.try_get(column).map_err(|error| rows::corrupt(format!("{column}: {error}")).into())
    }
}

/// One operation with all its tries.
#[derive(Debug)]
pub(super) struct Call<'d> {
    database: &'d Database,
    doing: &'static str,
    asked: Instant,
    tries: u32,
    is_committing: AtomicBool,
    _waiting: Waiting,
}

impl<'d> Call<'d> {
    /// Begins to count and to measure.
    pub(super) fn begin(database: &'d Database, doing: &'static str) -> Self {
        let waiting = database.metrics().store_waits.begin();
        Self { database, doing, asked: Instant::now(), tries: 0, is_committing: AtomicBool::new(false), _waiting: waiting }
    }

    /// A connection, once one is free.
    pub(super) async fn client(&self) -> Outcome<Client> {
        self.within(async { Ok(self.database.client().await?) }).await
    }

    /// Waits no longer than a store may take in all.
    pub(super) async fn within<T>(&self, work: impl Future<Output = Outcome<T>>) -> Outcome<T> {
        let left = ANSWERS_WITHIN.saturating_sub(self.asked.elapsed());
        tokio::time::timeout(left, work).await.unwrap_or(Err(Fault::Overdue))
    }

    /// From here on only the server's own word tells that nothing was done.
    pub(super) fn committing(&self) {
        self.is_committing.store(true, Ordering::Relaxed);
    }

    /// Whether the operation is to be tried again after this fault: waits for the time to do so. Else the fault comes back.
    pub(super) async fn again(&mut self, fault: Fault, client: Option<Client>) -> Result<(), Fault> {
        let after = fault.after();
        if let Some(client) = client.filter(|_| after == After::Disconnected) {
            // Its transaction ends with it, and nobody else gets it.
            drop(Client::take(client));
        }
        let was_committing = self.is_committing.swap(false, Ordering::Relaxed);
        let may = match after {
            After::TryAgain => true,
            // Without a connection nothing was begun, and why there is none is not over in a moment.
            After::Disconnected => !was_committing && matches!(fault, Fault::Postgres(_)),
            After::Failed => false,
        };
        self.tries += 1;
        if !may || self.tries >= TRIES || self.asked.elapsed() >= ANSWERS_WITHIN {
            return Err(fault);
        }
        let pause = PAUSE * 2_u32.pow(self.tries - 1);
        tokio::time::sleep(pause.mul_f64(0.5 + f64::from(uuid::Uuid::now_v7().as_bytes()[15]) / 255.0)).await;
        Ok(())
    }

    /// Measures the operation's end and tells it in the store's words.
    pub(super) fn end<T>(self, result: Outcome<T>) -> Result<T, StoreError> {
        let result = result.map_err(|fault| fault.into_store_error(self.doing));
        self.database.metrics().store.record(self.doing, self.asked.elapsed(), result.as_ref().err().map(StoreError::kind));
        result
    }
}

/// Does something with a connection, `$try` times over while that may help; `$try` answers what [`Call::within`] waits for.
macro_rules! with_connection {
    ($database:expr, $doing:literal, $call:ident, $client:ident => $try:expr) => {{
        let mut $call = crate::store::postgres::transaction::Call::begin(&$database, $doing);
        loop {
            let (fault, client) = match $call.client().await {
                Err(fault) => (fault, None),
                Ok(mut $client) => match $call.within($try).await {
                    Ok(done) => break $call.end(Ok(done)),
                    Err(fault) => (fault, Some($client)),
                },
            };
            if let Err(fault) = $call.again(fault, client).await {
                break $call.end(Err(fault));
            }
        }
    }};
}
pub(super) use with_connection;

/// Writes in one transaction and answers after its commit: `in_transaction!(database, "do something", tx => work(&tx))`. With `quietly` before the
/// database nobody is told that something changed.
macro_rules! in_transaction {
    (quietly $database:expr, $doing:literal, $tx:ident => $work:expr) => {
        crate::store::postgres::transaction::in_transaction!(@ $database, $doing, Quiet, $tx => $work)
    };
    ($database:expr, $doing:literal, $tx:ident => $work:expr) => {
        crate::store::postgres::transaction::in_transaction!(@ $database, $doing, Changes, $tx => $work)
    };
    (@ $database:expr, $doing:literal, $notice:ident, $tx:ident => $work:expr) => {
        crate::store::postgres::transaction::with_connection!($database, $doing, call, client => async {
            let $tx = crate::store::postgres::transaction::Tx::begin(&mut client).await?;
            let done = $work.await?;
            call.committing();
            $tx.commit(&$database, crate::store::postgres::database::Notice::$notice).await?;
            Ok::<_, crate::store::postgres::fault::Fault>(done)
        })
    };
}
pub(super) use in_transaction;

/// Reads in one transaction: `at_one_moment!(database, "look", tx => work(&tx))`.
macro_rules! at_one_moment {
    ($database:expr, $doing:literal, $tx:ident => $work:expr) => {
        crate::store::postgres::transaction::with_connection!($database, $doing, call, client => async {
            let $tx = crate::store::postgres::transaction::Tx::begin_reading(&mut client).await?;
            // Its end is not waited for: there is nothing to lose.
            $work.await
        })
    };
}
pub(super) use at_one_moment;
