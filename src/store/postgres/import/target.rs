//! The database that is filled: nobody else's meanwhile, empty before, and its own afterwards.

use deadpool_postgres::{GenericClient, Transaction};

use super::error::{Failed, ImportError};
use crate::store::postgres::open::{LOCKS, MIGRATING};

/// Tables that a database has rows in before anything happened: what it is, and machines that look for it.
const NOT_COUNTED: [&str; 2] = ["meta", "hosts"];

/// Refuses a database in which any table has rows, whosever it is. Changes nothing.
pub(super) async fn refuse_filled(client: &impl GenericClient, shown: &str) -> Result<(), ImportError> {
    let sql = "SELECT tablename::text FROM pg_tables WHERE schemaname = current_schema() AND tablename <> ALL ($1) ORDER BY tablename";
    for row in client.query(sql, &[&NOT_COUNTED.as_slice()]).await.map_err(Failed::doing("list its tables"))? {
        let table: String = row.get(0);
        let any = format!("SELECT EXISTS (SELECT 1 FROM \"{table}\")");
        if client.query_one(&any, &[]).await.map_err(Failed::doing(format!("look into table {table}")))?.get(0) {
            return Err(ImportError::NotEmpty { shown: shown.to_owned(), table });
        }
    }
    Ok(())
}

/// Keeps daemons from starting on it, and refuses one that has anything or anybody.
pub(super) async fn take(tx: &Transaction<'_>, shown: &str, daemons: &str) -> Result<(), ImportError> {
    let settings = "SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0; \
                    SET LOCAL plan_cache_mode = auto";
    tx.batch_execute(settings).await.map_err(Failed::doing("set how long it may take"))?;
    // Who starts looks for migrations first, and reads after that whose database it is.
    tx.execute("SELECT pg_advisory_xact_lock($1, $2)", &[&LOCKS, &MIGRATING]).await.map_err(Failed::doing("be locked"))?;
    refuse_filled(tx, shown).await?;
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = $1";
    if tx.query_one(sql, &[&daemons]).await.map_err(Failed::doing("tell who is connected"))?.get::<_, i64>(0) > 0 {
        return Err(ImportError::InUse { shown: shown.to_owned() });
    }
    Ok(())
}

/// Gives the machine whose store was copied its id, which its running containers carry, and a while to come before the others take it for lost.
pub(super) async fn name(tx: &Transaction<'_>, instance: &str) -> Result<(), ImportError> {
    let sql = "INSERT INTO hosts (host, instance, machine, lease, renewed_at) SELECT host, $1, '', 0, clock_timestamp() FROM runners \
               ORDER BY (state <> 'gone') DESC, id DESC LIMIT 1 ON CONFLICT (host) DO UPDATE SET instance = excluded.instance";
    tx.execute(sql, &[&instance]).await.map_err(Failed::doing("take the coordinator's id"))?;
    Ok(())
}

/// The columns of a table's primary key, in their order.
pub(super) async fn primary_key(tx: &Transaction<'_>, table: &str) -> Result<Vec<String>, ImportError> {
    let sql = "SELECT a.attname::text FROM pg_index i CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY AS k (number, n) \
               JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number \
               WHERE i.indrelid = to_regclass(quote_ident($1)) AND i.indisprimary ORDER BY k.n";
    let rows = tx.query(sql, &[&table]).await.map_err(Failed::doing(format!("tell the key of table {table}")))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Tables and columns in which the database gives out numbers.
pub(super) async fn numbered(tx: &Transaction<'_>) -> Result<Vec<(String, String)>, ImportError> {
    let sql = "SELECT table_name::text, column_name::text FROM information_schema.columns WHERE table_schema = current_schema() \
               AND is_identity = 'YES' ORDER BY table_name, column_name";
    let rows = tx.query(sql, &[]).await.map_err(Failed::doing("tell where it gives out numbers"))?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// The next number will be above this one. Not undone with the transaction, and no harm then.
pub(super) async fn go_on_after(tx: &Transaction<'_>, table: &str, column: &str, highest: i64) -> Result<(), ImportError> {
    if highest > 0 {
        let sql = "SELECT setval(pg_get_serial_sequence(quote_ident($1), $2)::regclass, $3)";
        tx.execute(sql, &[&table, &column, &highest]).await.map_err(Failed::doing(format!("go on counting in table {table}")))?;
    }
    Ok(())
}

/// Lets the database know what is in it, for its plans.
pub(super) async fn analyze(tx: &Transaction<'_>, tables: impl Iterator<Item = &str>) -> Result<(), ImportError> {
    let tables: Vec<String> = tables.chain(["tallies"]).map(|table| format!("\"{table}\"")).collect();
    tx.batch_execute(&format!("ANALYZE {}", tables.join(", "))).await.map_err(Failed::doing("look at what it holds"))?;
    Ok(())
}
