//! Opens the database: shows that it can be used, and brings it to the present schema.

use deadpool_postgres::Client;
use tokio_postgres::SimpleQueryMessage;
use tokio_postgres::error::SqlState;

use super::database::Database;
use super::fault::Fault;

/// The migrations in order. One that was released is never edited; a change is a new file.
pub(super) const MIGRATIONS: &[&str] = &[include_str!("migrations/0001.sql")];

/// The oldest schema whose programs may go on working once the present one is there: what a rolling upgrade relies on.
pub(super) const WORKS_WITH: i64 = 1;

/// The oldest `PostgreSQL` that we know to have everything that is used (`pg_current_xact_id`).
const OLDEST_SERVER: i32 = 13;

/// The key of our advisory locks: "runner" in ASCII; the second key tells what for.
pub(super) const LOCKS: i32 = 0x7275_6e72;
/// The lock of whoever migrates, or fills an empty database: a daemon that starts meanwhile waits for it.
pub(super) const MIGRATING: i32 = 1;

/// Why a database could not be opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    /// The server is too old.
    #[error("it is PostgreSQL {0}, and the oldest that will do is {OLDEST_SERVER}")]
    OldServer(i32),
    /// The database does not take every text.
    #[error("its encoding is {0}, and only UTF8 will do: CREATE DATABASE … ENCODING 'UTF8'")]
    Encoding(String),
    /// A pooler gives each transaction another connection.
    #[error(
        "it is reached through a pooler in transaction mode, which loses notifications and settings: use the pooler's session mode (PgBouncer: pool_mode = session) or the server itself"
    )]
    TransactionPooling,
    /// The database was written by a newer program that older ones cannot work beside.
    #[error(
        "its schema is version {found}, which works with programs of version {needs} and above, and this one is of version {known}: install the newer runner-coordinator"
    )]
    TooNew {
        /// The database's version.
        found: i64,
        /// The oldest version that it works with.
        needs: i64,
        /// The newest that we know.
        known: i64,
    },
    /// There is something in it that is not ours.
    #[error("it holds tables of something else, such as {0}: give the coordinator a database of its own")]
    NotOurs(String),
    /// The role may not make tables.
    #[error("its user may not make tables in it: GRANT CREATE ON SCHEMA public TO …, or make it the database's owner")]
    NotAllowed,
    /// A migration failed; the database is as it was before.
    #[error("migration {number} failed")]
    Migration {
        /// Counted from 1.
        number: i64,
        /// What the server said.
        #[source]
        source: tokio_postgres::Error,
    },
    /// It did not answer as it should.
    #[error("it did not answer")]
    Failed(#[source] tokio_postgres::Error),
    /// It cannot be reached.
    #[error("it cannot be reached")]
    Unreachable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl From<tokio_postgres::Error> for OpenError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Failed(error)
    }
}

/// Opens it.
pub(super) async fn open(database: &Database) -> Result<(), OpenError> {
    let mut client = connect(database).await?;
    // First of all: whatever else is asked is prepared, and such a pooler mixes up what was prepared where.
    refuse_transaction_pooling(database, &client).await?;
    look_at_server(&client).await?;
    migrate(&mut client, MIGRATIONS, WORKS_WITH).await
}

async fn connect(database: &Database) -> Result<Client, OpenError> {
    database.client().await.map_err(|error| match Fault::from(error) {
        Fault::NoConnection(source) => OpenError::Unreachable(source),
        Fault::Postgres(error) => OpenError::Failed(error),
        Fault::Store(error) => OpenError::Unreachable(Box::new(error)),
        Fault::Overdue => OpenError::Unreachable("no answer in time".into()),
    })
}

async fn look_at_server(client: &Client) -> Result<(), OpenError> {
    let row = client.query_one("SELECT current_setting('server_version_num')::int / 10000, current_setting('server_encoding')", &[]).await?;
    let (version, encoding): (i32, String) = (row.get(0), row.get(1));
    if version < OLDEST_SERVER {
        return Err(OpenError::OldServer(version));
    }
    if encoding != "UTF8" {
        return Err(OpenError::Encoding(encoding));
    }
    Ok(())
}

/// Two connections of ours at once never have one process of the server, unless somebody lends the server's connections by the transaction: then
/// the process that served the first serves the second as soon as the first has nothing under way. A pooler gives back the connection that it
/// got last, so the second meets the same process at once; a few more are asked in case it takes turns.
async fn refuse_transaction_pooling(database: &Database, first: &Client) -> Result<(), OpenError> {
    const OTHERS: usize = 3;
    let of_first = process(first.simple_query(PROCESS).await?);
    let mut others = Vec::with_capacity(OTHERS);
    for _ in 0..OTHERS {
        let mut other = connect(database).await?;
        let held = other.transaction().await?;
        let of_other = process(held.simple_query(PROCESS).await?);
        if of_other == of_first {
            return Err(OpenError::TransactionPooling);
        }
        drop(held);
        others.push(other);
    }
    Ok(())
}

const PROCESS: &str = "SELECT pg_backend_pid()";

/// The number in the answer to [`PROCESS`].
fn process(answer: Vec<SimpleQueryMessage>) -> Option<String> {
    let row = answer.into_iter().find_map(|message| if let SimpleQueryMessage::Row(row) = message { Some(row) } else { None });
    row.and_then(|row| row.get(0).map(str::to_owned))
}

/// Takes every migration that the database has not seen yet, in one transaction: all of them or none. Daemons that start at once take turns.
pub(super) async fn migrate(client: &mut Client, migrations: &[&str], works_with: i64) -> Result<(), OpenError> {
    let known = i64::try_from(migrations.len()).unwrap_or(i64::MAX);
    let transaction = client.transaction().await?;
    // A large queue may take its time.
    transaction.batch_execute("SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0").await?;
    transaction.execute("SELECT pg_advisory_xact_lock($1, $2)", &[&LOCKS, &MIGRATING]).await?;
    let (taken, needs) = version(&transaction).await?;
    if needs > known {
        return Err(OpenError::TooNew { found: taken, needs, known });
    }
    if taken >= known {
        return Ok(());
    }
    for (number, sql) in (1_i64..).zip(migrations).filter(|(number, _)| *number > taken) {
        transaction.batch_execute(sql).await.map_err(|source| match source.code() {
            Some(&SqlState::INSUFFICIENT_PRIVILEGE) => OpenError::NotAllowed,
            _ => OpenError::Migration { number, source },
        })?;
    }
    let write = "INSERT INTO meta (key, value) VALUES ('schema', $1), ('works_with', $2), ('ping', '0') \
                 ON CONFLICT (key) DO UPDATE SET value = excluded.value WHERE meta.key <> 'ping'";
    transaction.execute(write, &[&known.to_string(), &works_with.to_string()]).await?;
    transaction.commit().await?;
    Ok(())
}

/// The schema's version, and the oldest that its programs may have; zeros in an empty database.
async fn version(transaction: &deadpool_postgres::Transaction<'_>) -> Result<(i64, i64), OpenError> {
    let tables = "SELECT count(*) FILTER (WHERE tablename = 'meta'), min(tablename::text) FROM pg_tables WHERE schemaname = current_schema()";
    let row = transaction.query_one(tables, &[]).await?;
    match (row.get::<_, i64>(0), row.get::<_, Option<String>>(1)) {
        (0, None) => return Ok((0, 0)),
        (0, Some(table)) => return Err(OpenError::NotOurs(table)),
        _ => {}
    }
    let read = "SELECT coalesce(max(value) FILTER (WHERE key = 'schema'), ''), coalesce(max(value) FILTER (WHERE key = 'works_with'), '') FROM meta";
    let row = transaction.query_one(read, &[]).await.map_err(|_| OpenError::NotOurs("meta".to_owned()))?;
    let number = |text: String| text.parse().map_err(|_| OpenError::NotOurs("meta".to_owned()));
    Ok((number(row.get(0))?, number(row.get(1))?))
}
