//! A database for one test, on the server that `tests/with-postgres` runs.

use secrecy::{ExposeSecret as _, SecretString};
use tokio_postgres::{Client, NoTls};

/// A database that goes with this.
#[derive(Debug)]
pub(crate) struct TestDatabase {
    server: String,
    name: String,
}

impl TestDatabase {
    /// Makes an empty one.
    pub(crate) async fn make() -> Self {
        let server = crate::config::secret_of_env("RC_TEST_POSTGRES");
        let server = server.expect("this test needs a PostgreSQL server: tests/with-postgres cargo test …");
        let name = format!("t{}", uuid::Uuid::now_v7().simple());
        let made = Self { server: server.expose_secret().to_owned(), name };
        // From the empty one, which nobody connects to.
        connect(&made.server).await.batch_execute(&format!("CREATE DATABASE {} TEMPLATE template0", made.name)).await.expect("a database");
        made
    }

    /// Its address.
    pub(crate) fn url(&self) -> SecretString {
        SecretString::from(self.plain_url())
    }

    /// A connection beside the store's.
    pub(crate) async fn connect(&self) -> Client {
        connect(&self.plain_url()).await
    }

    fn plain_url(&self) -> String {
        self.server.replacen("/postgres?", &format!("/{}?", self.name), 1)
    }
}

impl Drop for TestDatabase {
    /// Takes it away, whoever is connected still. On a thread of its own: the test's runtime is ending.
    fn drop(&mut self) {
        let (server, name) = (self.server.clone(), self.name.clone());
        let gone = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime
                .block_on(async { connect(&server).await.batch_execute(&format!("DROP DATABASE {name} WITH (FORCE)")).await })
                .map_err(std::io::Error::other)
        });
        // The server goes soon after anyway.
        drop(gone.join());
    }
}

async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.expect("a connection to the test server");
    tokio_util::task::TaskTracker::new().spawn(connection);
    client
}
