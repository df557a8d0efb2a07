//! Backups and restores by the command line, of a daemon with jobs, and what a restored store makes of the world as it has become.

use std::fs;
use std::path::Path;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::engine::{self, UNTIL_TOLD};
use crate::harness::{Daemon, Setup};

/// What the command line says and how it ends.
fn run(daemon: &Daemon, arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = daemon.command(arguments).output().expect("it runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[tokio::test]
async fn a_restored_store_adopts_what_it_knows_removes_what_it_does_not_and_runs_no_job_in_two_containers_at_once() {
    let place = TempDir::new().expect("a directory");
    let file = place.path().join("backup").display().to_string();
    let mut daemon = Setup::new("backup-rewind").host("cpus = 2").with("[limits]\nretry_backoff = \"100ms\"").start().await;
    let script = format!("echo begun; {UNTIL_TOLD}; echo told");
    let [stays, ends, waits] = [daemon.sh(&script).await, daemon.sh(&script).await, daemon.sh(&script).await];
    for id in [&stays, &ends] {
        daemon.reaches(id, &["running"]).await;
    }
    let made: Value = serde_json::from_str(&daemon.cli(&["backup", "--json", &file])).expect("JSON");
    assert_eq!((&made["jobs"], &made["file"]), (&json!(3), &json!(file)), "{made}");

    // Time goes on: one ends, the one that waited runs, and a new one comes.
    engine::tell(&ends);
    assert_eq!(daemon.ended(&ends).await["state"], "succeeded");
    daemon.reaches(&waits, &["running"]).await;
    daemon.until("it has written", async |daemon| daemon.logs(&waits).await.contains("begun")).await;
    let came = daemon.sh("echo came").await;

    let (code, _, err) = run(&daemon, &["restore", &file]);
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains("is in use by a running runner-coordinator; stop it first") && err.contains("systemctl stop"), "{err}");
    assert!(daemon.terminate().await.success());
    assert_eq!(engine::containers("backup-rewind").len(), 2, "both go on");
    let restored: Value = serde_json::from_str(&daemon.cli(&["restore", "--json", &file])).expect("JSON");
    assert!(Path::new(restored["replaced"].as_str().expect("a path")).exists(), "{restored}");

    let since = engine::docker(&["info", "--format", "{{.SystemTime}}"]);
    daemon.start().await;
    assert_eq!(daemon.request(Method::GET, &format!("/jobs/{came}"), None).await.0, StatusCode::NOT_FOUND, "it came after the backup");
    let job = daemon.job(&stays).await;
    assert_eq!((&job["state"], &job["attempt"]), (&json!("running"), &json!(1)), "it is adopted: {job}");
    // Known as waiting: it begins anew, and its log with it. Known as running, and its container is gone: tried again, when there is room.
    for (id, attempt) in [(&stays, 1), (&ends, 2), (&waits, 1)] {
        daemon.runs(id, attempt).await;
        daemon.until("it has written", async |daemon| daemon.logs(id).await.contains("begun")).await;
        engine::tell(id);
        assert_eq!(daemon.ended(id).await["state"], "succeeded");
        assert_eq!(daemon.logs(id).await, "begun\ntold\n", "{attempt}");
    }
    never_two_at_once(since.trim(), &waits);
    daemon.finish().await;
}

/// The engine's own history: a container of the job starts only when the one before it is gone.
fn never_two_at_once(since: &str, job: &str) {
    let now = engine::docker(&["info", "--format", "{{.SystemTime}}"]);
    let filter = format!("label=runner-coordinator.job={job}");
    let format = "{{.Action}} {{.ID}}";
    let told = engine::docker(&["events", "--since", since, "--until", now.trim(), "--filter", &filter, "--format", format]);
    let events: Vec<(&str, &str)> = told.lines().filter_map(|line| line.split_once(' ')).collect();
    let start = events.iter().position(|(action, _)| *action == "start").expect("it started");
    let gone = events[..start].iter().filter(|(action, name)| *action == "destroy" && *name != events[start].1).count();
    assert_eq!(gone, 1, "it started beside the one that was there before:\n{told}");
    let starts = events.iter().filter(|(action, _)| *action == "start").count();
    assert_eq!(starts, 1, "{told}");
}

#[tokio::test]
async fn a_store_of_the_version_before_goes_on_where_it_was() {
    for version in [6, 7] {
        let place = TempDir::new().expect("a directory");
        let data = place.path().join("data");
        fs::create_dir(&data).expect("a directory");
        let dump = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/store/schema-{version}.sql"))).expect("a dump");
        let connection = rusqlite::Connection::open(data.join("coordinator.db")).expect("a database");
        connection.execute_batch(&format!("PRAGMA foreign_keys = OFF; PRAGMA page_size = 8192; BEGIN;\n{dump}\nCOMMIT;")).expect("loaded");
        drop(connection);
        let daemon = Setup::new("box1").data(&data).with("[limits]\nretry_backoff = \"100ms\"").start().await;
        // Those of GitLab wait: no such class is configured.
        daemon
            .until("all of the API have ended", async |daemon| {
                let jobs = daemon.get("/jobs?limit=100").await;
                let open =
                    |job: &&Value| job["source"] == "api" && ["queued", "starting", "running"].contains(&job["state"].as_str().unwrap_or_default());
                jobs["jobs"].as_array().expect("jobs").iter().filter(open).count() == 0
            })
            .await;
        let jobs = daemon.get("/jobs?limit=100").await;
        let count = |state: &str| jobs["jobs"].as_array().expect("jobs").iter().filter(|job| job["state"] == state).count();
        assert_eq!((count("succeeded"), count("failed"), count("canceled")), (7, 1, 1), "schema {version}: {jobs}");
        // The runner for GitLab's job is left: no GitLab is configured that could be told that there is no such class.
        daemon.until("no container is left", async |_| engine::containers("box1").is_empty()).await;
        daemon.finish_with_pool().await;
    }
}

#[tokio::test]
async fn the_daemon_refuses_a_damaged_store_with_the_way_back_and_the_way_back_works() {
    let place = TempDir::new().expect("a directory");
    let file = place.path().join("backup").display().to_string();
    let mut daemon = Setup::new("backup-damage").start().await;
    let id = daemon.sh("echo kept").await;
    daemon.ended(&id).await;
    daemon.cli(&["backup", &file]);
    let (code, _, err) = run(&daemon, &["backup", &file]);
    assert!(code == Some(1) && err.contains("exists already") && err.contains("--force"), "{err}");
    daemon.cli(&["backup", "--force", &file]);
    assert!(daemon.terminate().await.success());
    let database = daemon.data().join("coordinator.db");
    let whole = fs::read(&database).expect("a file");
    fs::write(&database, &whole[..whole.len() / 2]).expect("cut");
    let (code, _, err) = run(&daemon, &["serve"]);
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains("coordinator.db cannot be used") && err.contains("runner-coordinator restore FILE"), "{err}");
    let (code, _, err) = run(&daemon, &["backup", &place.path().join("other").display().to_string()]);
    assert!(code == Some(1) && err.contains("coordinator.db cannot be used"), "{err}");
    let (code, out, err) = run(&daemon, &["restore", &file]);
    assert!(code == Some(0) && out.contains("is restored from") && out.contains("is kept"), "{out}{err}");
    daemon.start().await;
    let job = daemon.job(&id).await;
    assert_eq!((&job["state"], daemon.logs(&id).await.as_str()), (&json!("succeeded"), "kept\n"), "{job}");
    daemon.finish().await;
}

#[tokio::test]
async fn damage_that_a_request_meets_fails_the_health_and_is_told_with_the_way_back() {
    let daemon = Setup::new("backup-met").start().await;
    daemon.until("it is healthy", Daemon::is_healthy).await;
    let id = daemon.sh("true").await;
    daemon.ended(&id).await;
    daemon.until("its runner is gone", async |daemon| daemon.get("/runners").await["runners"].as_array().is_some_and(Vec::is_empty)).await;
    let other = rusqlite::Connection::open(daemon.data().join("coordinator.db")).expect("a database");
    other.execute_batch("UPDATE jobs SET spec = '{'").expect("damaged");
    drop(other);
    assert_eq!(daemon.request(Method::GET, &format!("/jobs/{id}"), None).await.0, StatusCode::INTERNAL_SERVER_ERROR);
    let (status, health) = daemon.request(Method::GET, "/health", None).await;
    assert_eq!((status, &health["checks"]["store"]["status"]), (StatusCode::SERVICE_UNAVAILABLE, &json!("failing")), "{health}");
    assert!(health["checks"]["store"]["detail"].as_str().is_some_and(|detail| detail.contains("runner-coordinator restore")), "{health}");
    assert_eq!(daemon.log().matches("put a backup in its place: runner-coordinator restore FILE").count(), 1, "{}", daemon.log());
    daemon.finish().await;
}
