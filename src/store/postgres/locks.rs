//! What is done by one at a time, in all daemons together: advisory locks that end with their transaction.

use super::fault::Outcome;
use super::open::LOCKS;
use super::transaction::Tx;

/// What one has at a time. Only who forgets needs two: his own first, and then that of submitting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lock {
    /// Taking jobs in, and changing what is promised to projects or which requirements there are.
    Submitting = 2,
    /// Taking away what ended.
    Forgetting = 3,
    /// Putting sums together.
    Summing = 4,
}

/// Waits for its turn.
pub(super) async fn take(tx: &Tx<'_>, lock: Lock) -> Outcome<()> {
    tx.one("SELECT 1 AS one FROM pg_advisory_xact_lock($1, $2)", &[&LOCKS, &(lock as i32)]).await?;
    Ok(())
}

/// Takes it if nobody else has it.
pub(super) async fn try_take(tx: &Tx<'_>, lock: Lock) -> Outcome<bool> {
    let row = tx.one("SELECT pg_try_advisory_xact_lock($1, $2) AS taken", &[&LOCKS, &(lock as i32)]).await?;
    Ok(row.is_some_and(|row| row.get("taken")))
}

/// Waits until nobody else counts what these projects have, in an order in which nobody waits in a circle.
pub(super) async fn take_projects(tx: &Tx<'_>, mut projects: Vec<String>) -> Outcome<()> {
    projects.sort_unstable();
    projects.dedup();
    for project in projects {
        tx.one("SELECT 1 AS one FROM pg_advisory_xact_lock($1, hashtext($2))", &[&(LOCKS + 1), &project]).await?;
    }
    Ok(())
}
