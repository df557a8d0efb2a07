//! Writes a table: a thread reads the source ahead by a few batches, and each goes over as one `COPY`.

use std::pin::pin;

use bytes::BytesMut;
use deadpool_postgres::Transaction;
use tokio::sync::mpsc;
use tokio_postgres::binary_copy::BinaryCopyInWriter;
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};

use super::blocking;
use super::error::{Failed, ImportError};
use crate::store::cells::{Cell, Sum};
use crate::store::sqlite::{Export, Table};

/// When a batch goes over: so many rows, or about so many bytes.
const BATCH: (usize, usize) = (2_000, 1 << 20);
/// How many batches are read ahead.
const AHEAD: usize = 2;

type Row = Vec<Cell>;

/// Copies a table; gives the source back with the sum of what was read.
pub(super) async fn table(tx: &Transaction<'_>, export: Export, table: &Table, key: &[String]) -> Result<(Export, Sum), ImportError> {
    let (sender, mut receiver) = mpsc::channel(AHEAD);
    let (from, by) = (table.clone(), key.to_vec());
    let reading = blocking(move || read(&export, &from, &by, &sender).map(|sum| (export, sum)));
    // The receiver goes at the first failure, and with it the reader ends.
    let writing = async move { write(tx, table, &mut receiver).await };
    let (read, written) = tokio::join!(reading, writing);
    // Why it could not be read is what comes first.
    let read = read?;
    written?;
    Ok(read)
}

/// Reads a table into batches, until nobody takes them.
fn read(export: &Export, table: &Table, key: &[String], to: &mpsc::Sender<Vec<Row>>) -> Result<Sum, crate::store::sqlite::ExportError> {
    let (mut batch, mut size) = (Vec::new(), 0);
    let sum = export.read(table, key, |row| {
        size += row.iter().map(Cell::size).sum::<usize>();
        batch.push(row);
        if batch.len() < BATCH.0 && size < BATCH.1 {
            return true;
        }
        size = 0;
        to.blocking_send(std::mem::take(&mut batch)).is_ok()
    })?;
    if !batch.is_empty() {
        // Nobody takes it where writing failed, and that is told.
        let _ = to.blocking_send(batch);
    }
    Ok(sum)
}

async fn write(tx: &Transaction<'_>, table: &Table, batches: &mut mpsc::Receiver<Vec<Row>>) -> Result<(), ImportError> {
    let columns = table.columns.iter().map(|column| format!("\"{column}\"")).collect::<Vec<_>>().join(", ");
    let failed = |doing: &str| Failed::doing(format!("{doing} table {}", table.name));
    let looked = tx.prepare(&format!("SELECT {columns} FROM \"{}\"", table.name)).await.map_err(failed("show"))?;
    let types: Vec<Type> = looked.columns().iter().map(|column| column.type_().clone()).collect();
    let copy = format!("COPY \"{}\" ({columns}) FROM STDIN BINARY", table.name);
    while let Some(batch) = batches.recv().await {
        let sink = tx.copy_in(&copy).await.map_err(failed("write"))?;
        let mut writer = pin!(BinaryCopyInWriter::new(sink, &types));
        for row in &batch {
            writer.as_mut().write_raw(row).await.map_err(failed("write"))?;
        }
        writer.finish().await.map_err(failed("write"))?;
    }
    Ok(())
}

impl ToSql for Cell {
    fn to_sql(&self, ty: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        match self {
            Self::Null => Ok(IsNull::Yes),
            Self::Integer(number) => number.to_sql_checked(ty, out),
            Self::Text(text) => text.to_sql_checked(ty, out),
            Self::Bytes(bytes) => bytes.to_sql_checked(ty, out),
        }
    }

    fn accepts(_: &Type) -> bool {
        // Each kind looks for itself.
        true
    }

    to_sql_checked!();
}
