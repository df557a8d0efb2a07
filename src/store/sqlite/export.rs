//! All rows of a database that nobody has open, of one moment, for whoever takes them elsewhere. The database is read and never changed.

use std::fs::File;
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use rusqlite::types::ValueRef;

use super::copy::{Contents, CopyError, Look, examine};
use super::files::{beside, lock};
use super::migrations::MIGRATIONS;
use super::open::{Role, connect};
use super::restore;
use crate::domain::Requirement;
use crate::store::cells::{Cell, Sum, Summing};

/// What this database keeps for itself, and others reckon anew.
const OWN: &str = "'meta', 'job_counts', 'queue_lengths'";

/// Why rows could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The database cannot be used, or somebody has it.
    #[error(transparent)]
    Database(#[from] CopyError),
    /// It is of an earlier version.
    #[error("{}: its schema is version {found}, and only version {known} is copied", path.display())]
    Outdated {
        /// The database.
        path: PathBuf,
        /// Its version.
        found: usize,
        /// The present one.
        known: usize,
    },
    /// A restore was cut off.
    #[error("{}: a restore of it was interrupted and is not finished", .0.display())]
    Restoring(PathBuf),
    /// A text has a NUL byte, which other databases do not take.
    #[error("table {table} has a NUL byte in the column {column} of the row with {row}, which PostgreSQL cannot store")]
    Nul {
        /// The table.
        table: String,
        /// The column.
        column: String,
        /// Its key.
        row: String,
    },
    /// A row makes no sense.
    #[error("table {table}, column {column} of the row with {row}: {why}")]
    Corrupt {
        /// The table.
        table: String,
        /// The column.
        column: String,
        /// Its key.
        row: String,
        /// What is wrong.
        why: String,
    },
}

/// A table and those of its columns that are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::store) struct Table {
    /// Its name.
    pub(in crate::store) name: String,
    /// Their names.
    pub(in crate::store) columns: Vec<String>,
}

/// A database to read from; nobody else opens it meanwhile.
pub(in crate::store) struct Export {
    connection: Connection,
    path: PathBuf,
    contents: Contents,
    _lock: Option<File>,
}

impl Export {
    /// Takes a database that no daemon has, is whole, and is of the present schema.
    pub(in crate::store) fn open(path: &Path) -> Result<Self, ExportError> {
        if !path.is_file() {
            return Err(CopyError::Missing(path.to_owned()).into());
        }
        // Where there is no lock's file no daemon ever had it, such as a backup; and none is made beside it.
        let lock = if beside(path, ".lock").exists() { Some(lock(path).map_err(CopyError::from)?) } else { None };
        if restore::pending(path).exists() {
            return Err(ExportError::Restoring(path.to_owned()));
        }
        let contents = examine(path, Look::Whole)?;
        if contents.schema != MIGRATIONS.len() {
            return Err(ExportError::Outdated { path: path.to_owned(), found: contents.schema, known: MIGRATIONS.len() });
        }
        let connection = connect(path, Role::Reader).map_err(CopyError::from)?;
        connection.execute_batch("BEGIN").map_err(CopyError::sqlite("read", path))?;
        Ok(Self { connection, path: path.to_owned(), contents, _lock: lock })
    }

    /// The coordinator's id.
    pub(in crate::store) fn instance(&self) -> &str {
        &self.contents.instance
    }

    /// Every table with rows of ours, in an order in which what is referred to comes first.
    pub(in crate::store) fn tables(&self) -> Result<Vec<Table>, ExportError> {
        let names = format!(
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' AND name NOT IN ({OWN}) \
             ORDER BY name <> 'requirements', name <> 'jobs', name"
        );
        let names = self.texts(&names)?;
        names.into_iter().map(|name| Ok(Table { columns: self.columns(&name)?, name })).collect()
    }

    fn columns(&self, table: &str) -> Result<Vec<String>, ExportError> {
        let mut columns = self.texts(&format!("SELECT name FROM pragma_table_info('{table}') ORDER BY cid"))?;
        if table == "requirements" {
            // How many jobs are ready is reckoned anew; how many GPUs they ask for is in their text only (`row`).
            columns.retain(|column| column != "ready");
            columns.push("gpus".to_owned());
        }
        Ok(columns)
    }

    /// Reads a whole table by its key, until `take` wants no more.
    pub(in crate::store) fn read(&self, table: &Table, key: &[String], take: impl FnMut(Vec<Cell>) -> bool) -> Result<Sum, ExportError> {
        let stored = |column: &String| if column == "gpus" { "NULL".to_owned() } else { format!("\"{column}\"") };
        let columns: Vec<String> = table.columns.iter().map(stored).collect();
        let order: Vec<String> = key.iter().map(|column| format!("\"{column}\"")).collect();
        self.rows(table, key, &format!("SELECT {} FROM \"{}\" ORDER BY {}", columns.join(", "), table.name, order.join(", ")), take)
    }

    /// How many jobs there are by state, how many wait by project, and how many are ready by requirement, as the database keeps count.
    pub(in crate::store) fn counters(&self) -> Result<Sum, ExportError> {
        let sql = "SELECT 'state' AS kind, state AS key, jobs AS n FROM job_counts WHERE jobs <> 0 \
                   UNION ALL SELECT 'queue', project, jobs FROM queue_lengths WHERE jobs <> 0 \
                   UNION ALL SELECT 'ready', CAST(id AS TEXT), ready FROM requirements WHERE ready <> 0 ORDER BY kind, key";
        let [kind, key, n] = ["kind", "key", "n"].map(str::to_owned);
        let table = Table { name: "counters".to_owned(), columns: vec![kind.clone(), key.clone(), n] };
        self.rows(&table, &[kind, key], sql, |_| true)
    }

    /// The highest number that was ever given out in a column.
    pub(in crate::store) fn highest(&self, table: &str, column: &str) -> Result<i64, ExportError> {
        let sql = format!(
            "SELECT max(ifnull((SELECT max(\"{column}\") FROM \"{table}\"), 0), ifnull((SELECT seq FROM sqlite_sequence WHERE name = '{table}'), 0))"
        );
        Ok(self.connection.query_row(&sql, [], |row| row.get(0)).map_err(CopyError::sqlite("read", &self.path))?)
    }

    fn texts(&self, sql: &str) -> Result<Vec<String>, ExportError> {
        let read = || self.connection.prepare(sql)?.query_map([], |row| row.get(0))?.collect::<Result<_, _>>();
        Ok(read().map_err(CopyError::sqlite("read", &self.path))?)
    }

    fn rows(&self, table: &Table, key: &[String], sql: &str, mut take: impl FnMut(Vec<Cell>) -> bool) -> Result<Sum, ExportError> {
        let sqlite = || CopyError::sqlite("read", &self.path);
        let mut statement = self.connection.prepare(sql).map_err(sqlite())?;
        let mut rows = statement.query([]).map_err(sqlite())?;
        let mut sum = Summing::begin();
        while let Some(row) = rows.next().map_err(sqlite())? {
            let cells = cells(table, key, row, &self.path)?;
            sum.add(&cells);
            if !take(cells) {
                break;
            }
        }
        Ok(sum.end())
    }
}

/// What is in a row.
fn cells(table: &Table, key: &[String], row: &rusqlite::Row<'_>, path: &Path) -> Result<Vec<Cell>, ExportError> {
    let mut cells = Vec::with_capacity(table.columns.len());
    for (index, column) in table.columns.iter().enumerate() {
        let corrupt = |why: String| ExportError::Corrupt { table: table.name.clone(), column: column.clone(), row: named(table, key, row), why };
        let value = row.get_ref(index).map_err(CopyError::sqlite("read", path))?;
        cells.push(match value {
            ValueRef::Null => Cell::Null,
            ValueRef::Integer(number) => Cell::Integer(number),
            ValueRef::Text(text) if text.contains(&0) => {
                return Err(ExportError::Nul { table: table.name.clone(), column: column.clone(), row: named(table, key, row) });
            }
            ValueRef::Text(text) => Cell::Text(std::str::from_utf8(text).map_err(|error| corrupt(format!("it is not UTF-8: {error}")))?.to_owned()),
            ValueRef::Blob(bytes) => Cell::Bytes(bytes.to_vec()),
            ValueRef::Real(_) => return Err(corrupt("it is a number with a point".to_owned())),
        });
        if table.name == "requirements" && column == "gpus" {
            let spec = table.columns.iter().position(|column| column == "spec").and_then(|index| cells.get(index));
            let Some(Cell::Text(spec)) = spec else { return Err(corrupt("there is no requirement".to_owned())) };
            let requirement: Requirement = serde_json::from_str(spec).map_err(|error| corrupt(format!("the requirement makes no sense: {error}")))?;
            cells[index] = Cell::Integer(i64::from(requirement.gpu_count()));
        }
    }
    Ok(cells)
}

/// A row by its key, for people.
fn named(table: &Table, key: &[String], row: &rusqlite::Row<'_>) -> String {
    let part = |column: &String| {
        let value = table.columns.iter().position(|known| known == column).and_then(|index| row.get_ref(index).ok());
        let cell = match value {
            Some(ValueRef::Integer(number)) => Cell::Integer(number),
            Some(ValueRef::Text(text)) => Cell::Text(String::from_utf8_lossy(text).into_owned()),
            Some(ValueRef::Blob(bytes)) => Cell::Bytes(bytes.to_vec()),
            Some(ValueRef::Null | ValueRef::Real(_)) | None => Cell::Null,
        };
        format!("{column} = {}", cell.shown())
    };
    key.iter().map(part).collect::<Vec<_>>().join(", ")
}
