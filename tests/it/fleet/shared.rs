//! The database that daemons share, and a way to it that can be cut.

use std::path::PathBuf;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, UnixStream};
use tokio::sync::watch;
use tokio_postgres::{Client, NoTls};
use tokio_util::task::TaskTracker;

use crate::harness::{Daemon, engine};

/// A database on the server of `tests/with-postgres`.
#[derive(Debug)]
pub(super) struct SharedDatabase {
    server: String,
    name: String,
    url: String,
}

impl SharedDatabase {
    /// Makes an empty one.
    pub(super) async fn make() -> Self {
        let server = server();
        let name = format!("f{}", uuid::Uuid::new_v4().simple());
        connect(&server).await.batch_execute(&format!("CREATE DATABASE {name} TEMPLATE template0")).await.expect("a database");
        let url = server.replacen("/postgres?", &format!("/{name}?"), 1);
        Self { server, name, url }
    }

    /// Its address.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// A connection to it.
    pub(super) async fn connect(&self) -> Client {
        connect(&self.url).await
    }

    /// Stops the daemons in order, and takes their networks and the database away.
    pub(super) async fn finish<const N: usize>(self, daemons: [Daemon; N]) {
        for daemon in daemons {
            daemon.finish().await;
        }
        let instances = self.connect().await.query("SELECT instance FROM hosts", &[]).await.expect("the machines");
        for row in instances {
            engine::remove_networks_of(row.get(0));
        }
        connect(&self.server).await.batch_execute(&format!("DROP DATABASE {} WITH (FORCE)", self.name)).await.expect("dropped");
    }

    /// The server's socket.
    fn socket(&self) -> PathBuf {
        let (_, directory) = self.url.split_once("host=").expect("a directory");
        PathBuf::from(directory).join(".s.PGSQL.5432")
    }
}

/// Where the tests' own server is. `make test` starts it and says so in the environment.
pub(crate) fn server() -> String {
    let known = std::env::vars().find(|(name, _)| name == "RC_TEST_POSTGRES").map(|(_, value)| value);
    known.unwrap_or_else(|| panic!("these tests need their own PostgreSQL: run them with `make test`"))
}

/// A connection there.
pub(crate) async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.expect("a connection to the test server");
    TaskTracker::new().spawn(connection);
    client
}

/// A network between a daemon and the database.
#[derive(Debug)]
pub(super) struct Link {
    url: String,
    is_whole: watch::Sender<bool>,
}

impl Link {
    /// A whole one.
    pub(super) async fn to(shared: &SharedDatabase) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("postgres://rc@127.0.0.1:{}/{}", listener.local_addr().expect("an address").port(), shared.name);
        let (is_whole, seen) = watch::channel(true);
        TaskTracker::new().spawn(carry(listener, shared.socket(), seen));
        Self { url, is_whole }
    }

    /// The database's address through it.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Ends every connection and takes no more.
    pub(super) fn cut(&self) {
        self.is_whole.send_replace(false);
    }

    /// Carries connections again.
    pub(super) fn mend(&self) {
        self.is_whole.send_replace(true);
    }
}

async fn carry(listener: TcpListener, socket: PathBuf, is_whole: watch::Receiver<bool>) {
    while let Ok((mut near, _)) = listener.accept().await {
        if !*is_whole.borrow() {
            continue;
        }
        let (mut seen, socket) = (is_whole.clone(), socket.clone());
        TaskTracker::new().spawn(async move {
            let mut far = UnixStream::connect(socket).await.expect("the server");
            tokio::select! {
                _ = copy_bidirectional(&mut near, &mut far) => {}
                _ = seen.wait_for(|is_whole| !is_whole) => {}
            }
        });
    }
}
