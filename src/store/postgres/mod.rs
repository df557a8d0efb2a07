//! The queue in a `PostgreSQL` database, which any number of daemons share.
//!
//! ```text
//!  Store methods ──▶ transaction.rs (one transaction, tried again) ──▶ queue.rs, claim.rs, steps.rs, history.rs ──▶ jobs.rs, runners.rs
//!        database.rs (the pool)         listen.rs (daemons wake each other)        feed.rs (the whole history in order)
//! ```
//!
//! Whoever changes a runner or a job locks it first: the runner, then its job. Claims pass over what others hold. What must be exact among
//! all (limits, turns between projects, keys against doubles) is done by one at a time (`locks.rs`). How many jobs wait, and how many there are, is
//! kept in sums to which triggers add rows (`migrations/0001.sql`), so no answer depends on the queue's length and no two changes wait for each
//! other over a number.

mod address;
mod caps;
mod claim;
mod database;
mod deliveries;
mod fault;
mod feed;
mod history;
mod hosts;
mod import;
mod jobs;
mod lease;
mod listen;
mod locks;
mod open;
mod queue;
mod retention;
mod runners;
mod share;
mod steps;
mod store;
#[cfg(test)]
mod test_database;
mod transaction;
mod usage;

use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use tokio_util::sync::{CancellationToken, DropGuard};

use self::address::Address;
use self::database::Database;
use self::lease::Lease;
use self::locks::Lock;
use self::transaction::in_transaction;
use super::StoreError;
use crate::domain::HostId;
use crate::metrics::Metrics;

pub use self::address::AddressError;
pub use self::import::{ImportError, Imported, ImportedTable, import};
pub use self::lease::Machine;

/// How often sums are put together.
const SUMS_EVERY: Duration = Duration::from_secs(1);

/// The durable queue in a `PostgreSQL` database.
#[derive(Debug)]
pub struct PostgresStore {
    database: Arc<Database>,
    instance: String,
    lease: Arc<Lease>,
    // Ends the tasks that go with the store.
    _tasks: DropGuard,
}

impl PostgresStore {
    /// Connects to the database, brings it to the present schema, takes the lease of this machine and begins to hear of what others change there.
    /// Needs a runtime.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] naming the database when the address makes no sense, when it cannot be reached, is not ours, is of a newer program
    /// that this one cannot work beside, or is reached through a pooler that gives each transaction another connection; also while the daemon of
    /// another machine has the lease of this name.
    pub async fn open(url: &SecretString, host: &HostId, machine: &Machine, metrics: Arc<Metrics>) -> Result<Self, StoreError> {
        let failed = |source| StoreError::Unavailable { doing: "open the database", source };
        let address = Address::read(url).map_err(|error| failed(Box::new(error)))?;
        let shown = address.shown();
        let database = Arc::new(Database::new(&address, metrics).map_err(|error| failed(Box::new(error)))?);
        open::open(&database).await.map_err(|source| failed(Box::new(Named { shown, source })))?;
        let taken = in_transaction!(quietly database, "take the lease of a machine", tx => Lease::take(&tx, host, machine))?;
        let (lease, instance) = taken.ok_or_else(|| failed(Box::new(NameInUse(host.clone()))))?;
        let stop = CancellationToken::new();
        database.tasks().spawn(listen::run(Arc::clone(&database), address, stop.clone()));
        database.tasks().spawn(sum(Arc::clone(&database), stop.clone()));
        Ok(Self { database, instance, lease: Arc::new(lease), _tasks: stop.drop_guard() })
    }
}

/// Two machines have one name.
#[derive(Debug, thiserror::Error)]
#[error("a daemon on another machine is called {0:?} and works: set host.name to a name that no other machine has")]
struct NameInUse(HostId);

/// What is wrong, and with which database.
#[derive(Debug, thiserror::Error)]
#[error("{shown}")]
struct Named {
    shown: String,
    source: open::OpenError,
}

/// Puts sums together, until the store is closed.
async fn sum(database: Arc<Database>, stop: CancellationToken) {
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(SUMS_EVERY) => {}
        }
        // One that fails is made up for by the next.
        let _: Result<u64, StoreError> = in_transaction!(quietly database, "put sums together", tx => async {
            if locks::try_take(&tx, Lock::Summing).await? { history::put_together(&tx).await } else { Ok(0) }
        });
    }
}

#[cfg(test)]
mod tests;
