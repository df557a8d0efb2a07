//! Reads back what was written and compares it with what was read.

use std::pin::pin;

use deadpool_postgres::Transaction;
use futures_util::TryStreamExt as _;
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::error::{Failed, ImportError};
use crate::store::cells::{Cell, Sum, Summing};
use crate::store::sqlite::Table;

/// Shows that a table has the same rows.
pub(super) async fn table(tx: &Transaction<'_>, table: &Table, key: &[String], read: &Sum) -> Result<(), ImportError> {
    let names = |columns: &[String]| columns.iter().map(|column| format!("\"{column}\"")).collect::<Vec<_>>().join(", ");
    let sql = format!("SELECT {} FROM \"{}\" ORDER BY {}", names(&table.columns), table.name, names(key));
    compare(tx, &table.name, &sql, read).await
}

/// Shows that the database's triggers came to the same counts.
pub(super) async fn counters(tx: &Transaction<'_>, read: &Sum) -> Result<(), ImportError> {
    let sql = "SELECT kind, key, sum(n)::bigint FROM tallies GROUP BY kind, key HAVING sum(n) <> 0 ORDER BY kind, key";
    compare(tx, "tallies", sql, read).await
}

async fn compare(tx: &Transaction<'_>, table: &str, sql: &str, read: &Sum) -> Result<(), ImportError> {
    let failed = || Failed::doing(format!("read table {table} back"));
    let none: [&(dyn tokio_postgres::types::ToSql + Sync); 0] = [];
    let mut rows = pin!(tx.query_raw(sql, none).await.map_err(failed())?);
    let mut sum = Summing::begin();
    while let Some(row) = rows.try_next().await.map_err(failed())? {
        sum.add(&cells(&row).map_err(failed())?);
    }
    let found = sum.end();
    if found == *read { Ok(()) } else { Err(ImportError::Differs { table: table.to_owned(), read: read.rows, found: found.rows }) }
}

/// What is in a row.
fn cells(row: &Row) -> Result<Vec<Cell>, tokio_postgres::Error> {
    let cell = |(index, column): (usize, &tokio_postgres::Column)| {
        let cell = match *column.type_() {
            Type::INT8 => row.try_get::<_, Option<i64>>(index)?.map(Cell::Integer),
            Type::BYTEA => row.try_get::<_, Option<Vec<u8>>>(index)?.map(Cell::Bytes),
            _ => row.try_get::<_, Option<String>>(index)?.map(Cell::Text),
        };
        Ok(cell.unwrap_or(Cell::Null))
    };
    row.columns().iter().enumerate().map(cell).collect()
}
