//! The lease of this daemon's machine: who drives its engine and writes of its runners.
//!
//! A lease has a number, which grows when another daemon takes the machine for lost or a daemon starts there. Whatever is written of a runner is
//! written in a transaction that finds the number as it knows it, so what comes too late is refused. All times are the database's.

use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use rustix::fs::OFlags;
use tokio::sync::watch;
use tokio_postgres::Row;

use super::PostgresStore;
use super::fault::Outcome;
use super::transaction::{Tx, at_one_moment, in_transaction};
use crate::domain::HostId;
use crate::store::StoreError;
use crate::store::fleet::{Fleet, FleetHost, HostReport, LEASE_LASTS, Renewal};
use crate::store::rows::{self, Row as _, corrupt};

/// How long the daemon that ends a lost machine's jobs is given before another does so.
const ENDS_WITHIN: Duration = Duration::from_secs(60);

/// What tells a machine from all others, whatever it is called: a random name in its `data_dir`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine(String);

impl Machine {
    /// Reads the name, or gives one where there is none yet.
    ///
    /// # Errors
    /// When the file cannot be read or made.
    pub fn of(data_dir: &Path) -> std::io::Result<Self> {
        let path = data_dir.join("machine-id");
        std::fs::create_dir_all(data_dir)?;
        let file = rustix::fs::open(&path, OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC, rustix::fs::Mode::from_raw_mode(0o600))?;
        rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive)?;
        let known = std::fs::read_to_string(&path)?;
        if !known.trim().is_empty() {
            return Ok(Self(known.trim().to_owned()));
        }
        let name = uuid::Uuid::now_v7().to_string();
        std::fs::write(&path, format!("{name}\n"))?;
        Ok(Self(name))
    }

    #[cfg(test)]
    pub(crate) fn named(name: &str) -> Self {
        Self(name.to_owned())
    }
}

/// A lease that was taken.
#[derive(Debug)]
pub(super) struct Lease {
    host: HostId,
    machine: Machine,
    number: AtomicI64,
}

impl Lease {
    /// Takes the lease of a machine, in place of the one that its daemon had before; answers also the id that its containers carry. `None` while a
    /// daemon of another machine has it.
    pub(super) async fn take(tx: &Tx<'_>, host: &HostId, machine: &Machine) -> Outcome<Option<(Self, String)>> {
        let sql = format!(
            "INSERT INTO hosts AS h (host, instance, machine, lease, renewed_at) VALUES ($1, $2, $3, 1, clock_timestamp()) ON CONFLICT (host) DO UPDATE \
             SET lease = h.lease + 1, machine = excluded.machine, renewed_at = excluded.renewed_at, unbroken_since = excluded.renewed_at \
             WHERE h.machine IN ('', excluded.machine) OR h.renewed_at < clock_timestamp() - interval '{} seconds' RETURNING lease, instance",
            LEASE_LASTS.as_secs()
        );
        let instance = uuid::Uuid::now_v7().to_string();
        let Some(row) = tx.write_one(&sql, &[&host.as_str(), &instance, &machine.0]).await? else { return Ok(None) };
        let lease = Self { host: host.clone(), machine: machine.clone(), number: AtomicI64::new(row.integer("lease")?) };
        Ok(Some((lease, row.text("instance")?)))
    }

    /// Refuses the transaction when the lease is void. To be called after what is to be written was locked: who voids a lease ends its runners
    /// afterwards, and waits for those locks.
    pub(super) async fn check(&self, tx: &Tx<'_>) -> Outcome<()> {
        let sql = "SELECT 1 AS one FROM hosts WHERE host = $1 AND lease = $2";
        match tx.one(sql, &[&self.host.as_str(), &self.number.load(Ordering::Acquire)]).await? {
            Some(_) => Ok(()),
            None => Err(StoreError::Fenced(self.host.clone()).into()),
        }
    }

    async fn renew(&self, tx: &Tx<'_>, report: &str) -> Outcome<bool> {
        let sql = format!(
            "UPDATE hosts SET renewed_at = clock_timestamp(), report = $3, unbroken_since = CASE WHEN renewed_at < clock_timestamp() - interval '{} seconds' \
             THEN clock_timestamp() ELSE unbroken_since END WHERE host = $1 AND lease = $2",
            LEASE_LASTS.as_secs()
        );
        Ok(tx.execute(&sql, &[&self.host.as_str(), &self.number.load(Ordering::Acquire), &report]).await? == 1)
    }
}

/// Voids leases of machines that were silent for longer and have open runners; answers those whose runners are ours to end. Nothing, until the own
/// lease was renewed in time for as long as one lasts: after an outage of the database all have been silent, and each is to have its time to speak.
async fn fence(tx: &Tx<'_>, own: &HostId, silent_for: Duration) -> Outcome<Vec<HostId>> {
    let sql = format!(
        "UPDATE hosts AS h SET fenced_by = $1, fenced_at = clock_timestamp(), \
         lease = lease + CASE WHEN fenced_at IS NULL OR fenced_at < renewed_at THEN 1 ELSE 0 END \
         WHERE host <> $1 AND EXISTS (SELECT 1 FROM hosts own WHERE own.host = $1 AND own.unbroken_since < clock_timestamp() - interval '{} seconds') \
         AND renewed_at < clock_timestamp() - make_interval(secs => $2) \
         AND (fenced_at IS NULL OR fenced_at < renewed_at OR fenced_by = $1 OR fenced_at < clock_timestamp() - interval '{} seconds') \
         AND EXISTS (SELECT 1 FROM runners r WHERE r.host = h.host AND r.state <> 'gone') RETURNING host",
        LEASE_LASTS.as_secs(),
        ENDS_WITHIN.as_secs()
    );
    tx.wrote();
    tx.all(&sql, &[&own.as_str(), &silent_for.as_secs_f64()]).await?.iter().map(|row| Ok(HostId::from_trusted(row.text("host")?))).collect()
}

fn read(row: &Row) -> Outcome<FleetHost> {
    // What a newer program tells in words that are not known here is as if it had told nothing.
    let report = row.maybe_text("report")?.and_then(|text| serde_json::from_str(&text).ok());
    let silent = Duration::from_millis(u64::try_from(row.integer("silent")?.max(0)).map_err(|_| corrupt("a time"))?);
    Ok(FleetHost { host: HostId::from_trusted(row.text("host")?), report, silent })
}

#[async_trait]
impl Fleet for PostgresStore {
    async fn renew(&self, report: &HostReport) -> Result<Renewal, StoreError> {
        let report = rows::json(report)?;
        let renewed = in_transaction!(quietly self.database, "renew the lease of a machine", tx => self.lease.renew(&tx, &report))?;
        if renewed {
            return Ok(Renewal::Renewed);
        }
        let (host, machine) = (&self.lease.host, &self.lease.machine);
        match in_transaction!(quietly self.database, "take the lease of a machine", tx => Lease::take(&tx, host, machine))? {
            Some((anew, _)) => {
                self.lease.number.store(anew.number.into_inner(), Ordering::Release);
                Ok(Renewal::TakenAnew)
            }
            None => Err(StoreError::Fenced(host.clone())),
        }
    }

    async fn hosts(&self) -> Result<Vec<FleetHost>, StoreError> {
        at_one_moment!(self.database, "list machines", tx => async {
            let sql = "SELECT host, report, CAST(extract(epoch FROM clock_timestamp() - renewed_at) * 1000 AS BIGINT) AS silent FROM hosts ORDER BY host";
            tx.all(sql, &[]).await?.iter().map(read).collect()
        })
    }

    async fn fence_lost(&self, silent_for: Duration) -> Result<Vec<HostId>, StoreError> {
        in_transaction!(quietly self.database, "look for lost machines", tx => fence(&tx, &self.lease.host, silent_for))
    }

    fn elsewhere(&self) -> watch::Receiver<u64> {
        self.database.elsewhere()
    }
}
