//! How daemons wake each other: `LISTEN` on a connection of its own, and one `NOTIFY` for all that was committed within some milliseconds.
//!
//! A notification inside every transaction would put all commits into one row, so it is sent after them by this one task. One that is lost
//! does no harm: now and then the newest position in the history is looked at as well.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use tokio::sync::mpsc;
use tokio_postgres::{AsyncMessage, Client};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::address::Address;
use super::database::{Database, SETTINGS};

/// The channel's name.
const CHANNEL: &str = "runner_coordinator";
/// What is committed within so long is told at once.
const TOLD_TOGETHER: Duration = Duration::from_millis(3);
/// How often it is looked whether a notification was lost.
const LOOKS_EVERY: Duration = Duration::from_secs(2);
/// The pause before a lost connection is made anew, at first and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Listens and tells until it is stopped.
pub(super) async fn run(database: Arc<Database>, address: Address, stop: CancellationToken) {
    let mut pause = PAUSES.0;
    let mut seen = 0;
    while !stop.is_cancelled() {
        let lasted = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            ended = session(&database, &address, &mut seen) => ended,
        };
        match lasted {
            Ended::AtOnce(error) => {
                debug!(error = crate::domain::chain(&error), "the database cannot be listened to");
                pause = (pause * 2).min(PAUSES.1);
            }
            Ended::Later(error) => {
                warn!(error = error.as_ref().map(|error| crate::domain::chain(error)), "the connection that listens to the database was lost");
                pause = PAUSES.0;
            }
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// How a connection ended.
enum Ended {
    /// It did not come to be.
    AtOnce(tokio_postgres::Error),
    /// It had been of use.
    Later(Option<tokio_postgres::Error>),
}

async fn session(database: &Database, address: &Address, seen: &mut i64) -> Ended {
    let (client, mut connection) = match address.config.connect(address.tls.clone()).await {
        Ok(made) => made,
        Err(error) => return Ended::AtOnce(error),
    };
    let (heard, mut notices) = mpsc::channel(16);
    // Set before anything can be heard.
    let own = AtomicI32::new(0);
    let mut messages = stream::poll_fn(move |context| connection.poll_message(context));
    let pumping = async {
        while let Some(message) = messages.next().await {
            match message {
                // Any number of notices is one reason to look; what was told from here is known here.
                Ok(AsyncMessage::Notification(notice)) if notice.process_id() != own.load(Ordering::Relaxed) => drop(heard.try_send(())),
                Ok(_) => {}
                Err(error) => return Some(error),
            }
        }
        None
    };
    let working = async {
        match begin(&client).await {
            Ok(process) => own.store(process, Ordering::Relaxed),
            Err(error) => return Ended::AtOnce(error),
        }
        loop {
            let done = tokio::select! {
                biased;
                Some(()) = notices.recv() => {
                    database.changed_elsewhere();
                    Ok(())
                }
                () = database.wait_for_change() => tell(&client).await,
                () = tokio::time::sleep(LOOKS_EVERY) => look(database, &client, seen).await,
            };
            if let Err(error) = done {
                return Ended::Later(Some(error));
            }
        }
    };
    tokio::select! {
        biased;
        ended = working => ended,
        error = pumping => Ended::Later(error),
    }
}

/// Begins to listen; answers the server's process for this connection.
async fn begin(client: &Client) -> Result<i32, tokio_postgres::Error> {
    let process = client.query_one("SELECT pg_backend_pid()", &[]).await?.get(0);
    client.batch_execute(&format!("{SETTINGS}; LISTEN {CHANNEL}")).await?;
    Ok(process)
}

async fn tell(client: &Client) -> Result<(), tokio_postgres::Error> {
    tokio::time::sleep(TOLD_TOGETHER).await;
    client.batch_execute(&format!("NOTIFY {CHANNEL}")).await
}

/// Whether the history went on without a word.
async fn look(database: &Database, client: &Client, seen: &mut i64) -> Result<(), tokio_postgres::Error> {
    let newest: i64 =
        client.query_one("SELECT coalesce(pg_sequence_last_value(pg_get_serial_sequence('events', 'seq')::regclass), 0)", &[]).await?.get(0);
    if newest != *seen {
        *seen = newest;
        database.changed_elsewhere();
    }
    Ok(())
}
