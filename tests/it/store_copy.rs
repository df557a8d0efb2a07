//! `store copy` by the command line: the store of a daemon that has run jobs goes over to `PostgreSQL`.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::Value;
use tokio_postgres::Client;

use crate::fleet::shared::{connect, server};
use crate::harness::engine::{self, UNTIL_TOLD};
use crate::harness::{Daemon, Setup};

/// A password that nothing checks, and that nothing may show.
const PASSWORD: &str = "hunter2";

/// An empty database of the tests' server, and its address.
async fn empty_database(name: &str) -> (Client, String) {
    let server = server();
    let client = connect(&server).await;
    client.batch_execute(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await.expect("none is there");
    client.batch_execute(&format!("CREATE DATABASE {name} TEMPLATE template0")).await.expect("a database");
    let url = server.replacen("/postgres?", &format!("/{name}?"), 1).replacen("rc@", &format!("rc:{PASSWORD}@"), 1);
    (connect(&url).await, url)
}

/// What the command line says and how it ends.
fn run(daemon: &Daemon, arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = daemon.command(arguments).output().expect("it runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(!out.contains(PASSWORD) && !err.contains(PASSWORD), "the password is shown: {out}{err}");
    (output.status.code(), out, err)
}

#[tokio::test]
async fn a_store_goes_over_to_postgres_once_and_only_while_no_daemon_has_it() {
    let (client, url) = empty_database("store_copy").await;
    let mut daemon = Setup::new("store-copy").start().await;
    for script in ["echo kept", "exit 3"] {
        let id = daemon.sh(script).await;
        daemon.ended(&id).await;
    }
    let from = format!("sqlite:{}", daemon.data().join("coordinator.db").display());
    let (code, _, err) = run(&daemon, &["store", "copy", "--from", &from, "--to", &url]);
    assert!(code == Some(1) && err.contains("is in use by a running runner-coordinator; stop it first") && err.contains("systemctl stop"), "{err}");
    assert!(daemon.terminate().await.success());

    let file = daemon.data().join("database-url");
    fs::write(&file, format!("{url}\n")).expect("written");
    let with_file = ["store", "copy", "--json", "--from", &from, "--to-file", file.to_str().expect("a path")];
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("a mode");
    let (code, _, err) = run(&daemon, &with_file);
    assert!(code == Some(1) && err.contains("--to-file"), "{err}");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("a mode");
    let (code, out, err) = run(&daemon, &with_file);
    assert_eq!(code, Some(0), "{err}");
    let done: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((done["tables"]["jobs"].as_u64(), done["seconds"].is_f64()), (Some(2), true), "{done}");
    let jobs = client.query("SELECT state FROM jobs ORDER BY id", &[]).await.expect("jobs");
    assert_eq!(jobs.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>(), ["succeeded", "failed"]);
    let instance = client.query_one("SELECT instance FROM hosts WHERE host = 'store-copy'", &[]).await.expect("an id").get::<_, String>(0);
    assert_eq!(done["instance"], instance.as_str());

    let (code, _, err) = run(&daemon, &["store", "copy", "--from", &from, "--to", &url]);
    assert!(code == Some(1) && err.contains("is not empty") && err.contains("CREATE DATABASE"), "{err}");
    let (client, url) = empty_database("store_copy").await;
    let (code, out, err) = run(&daemon, &["store", "copy", "--from", &from, "--to", &url]);
    assert!(code == Some(0) && out.contains("is copied to database \"store_copy\"") && out.contains("; compared"), "{out}{err}");
    for wrong in [["--from", &url, "--to", &url], ["--from", &from, "--to", &from], ["--from", "sqlite:none", "--to", &url]] {
        let (code, _, err) = run(&daemon, &[["store", "copy"].as_slice(), &wrong].concat());
        assert_eq!(code, Some(1), "{err}");
    }
    drop(client);
    // The source is as it was: the daemon goes on with it.
    daemon.start().await;
    daemon.finish().await;
}

#[tokio::test]
async fn what_runs_while_the_store_is_moved_is_adopted_from_the_new_one() {
    let (client, url) = empty_database("store_move").await;
    let mut daemon = Setup::new("store-move").with("[store]").start().await;
    let id = daemon.sh(UNTIL_TOLD).await;
    daemon.reaches(&id, &["running"]).await;
    assert!(daemon.terminate().await.success());
    let from = format!("sqlite:{}", daemon.data().join("coordinator.db").display());
    let (code, _, err) = run(&daemon, &["store", "copy", "--from", &from, "--to", &url]);
    assert_eq!(code, Some(0), "{err}");
    let moved = daemon.configuration().replace("[store]", &format!("[store]\nurl = {url:?}"));
    fs::write(daemon.config(), moved).expect("a configuration");
    daemon.start().await;
    engine::tell(&id);
    let job = daemon.ended(&id).await;
    assert_eq!((job["state"].as_str(), job["attempt"].as_u64()), (Some("succeeded"), Some(1)), "{job}");
    let events = daemon.get(&format!("/jobs/{id}/events")).await.to_string();
    assert!(events.contains("adopted"), "{events}");
    daemon.finish().await;
    drop(client);
}
