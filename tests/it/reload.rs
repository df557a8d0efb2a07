//! A configuration that is read again while the daemon runs: all of it is taken over, or nothing.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::gitlab::{GitLab, Status};
use crate::harness::road::{Road, find_record, job};
use crate::harness::{BUSYBOX, Daemon, PATIENCE, RUNNER, Setup, client};

/// A job of a class that runs until it is cancelled.
fn forever(class: &str) -> Value {
    json!({ "image": BUSYBOX, "command": ["sh", "-c", "while true; do sleep 0.1; done"], "cpus": 0.1, "memory": "64MiB", "class": class })
}

/// What `/status` says of the configuration.
async fn told(daemon: &Daemon) -> Value {
    daemon.get("/status").await["configuration"].clone()
}

/// Reloads and waits until the log tells what came of it.
async fn reload(daemon: &Daemon, toml: &str, says: &str) {
    let before = daemon.log().matches(says).count();
    daemon.reload(toml);
    daemon.until(says, async |daemon| daemon.log().matches(says).count() > before).await;
}

/// Ends a job that would run for ever.
async fn cancel(daemon: &Daemon, id: &str) {
    daemon.request(Method::DELETE, &format!("/jobs/{id}"), None).await;
    daemon.ended(id).await;
}

#[tokio::test]
async fn what_can_be_taken_over_is_and_the_rest_is_told() {
    let daemon = Setup::new("reload-all").host("cpus = 2").with("[[classes]]\nname = \"default\"").start().await;
    let long = daemon.submit(forever("default")).await;
    daemon.reaches(&long, &["running"]).await;
    let first = told(&daemon).await;
    assert_eq!((&first["changed"], &first["needs_restart"], &first["error"]), (&json!([]), &json!([]), &Value::Null), "{first}");
    let toml = daemon.configuration();
    let changed = format!(
        "{}\n[[classes]]\nname = \"new\"\n[limits]\ncommand_bytes = \"1KiB\"",
        toml.replace("listen = \"127.0.0.1:", "listen = \"127.0.0.2:")
    );
    reload(&daemon, &changed, "configuration reloaded: changed classes[new], limits.command_bytes; needs a restart: http.listen").await;
    let second = told(&daemon).await;
    assert_eq!(second["changed"], json!(["classes[new]", "limits.command_bytes"]), "{second}");
    assert_eq!((&second["needs_restart"], &second["error"]), (&json!(["http.listen"]), &Value::Null), "{second}");
    assert!(second["loaded_at"].as_str() > first["loaded_at"].as_str(), "{first} {second}");

    let of_new = daemon.submit(forever("new")).await;
    daemon.reaches(&of_new, &["running"]).await;
    let mut body = forever("new");
    body["command"] = json!(["sh", "-c", "x".repeat(2000)]);
    assert_eq!(daemon.request(Method::POST, "/jobs", Some(body.clone())).await.0, StatusCode::UNPROCESSABLE_ENTITY);

    // A broken file changes nothing, and both the log and the status tell every fault.
    let broken = format!("{}\n[[classes]]\nname = \"newer\"\nmemory = \"lots\"\n[limits]\ncommand_bytes = 7", toml.replace("cpus = 2", "cpus = -2"));
    reload(&daemon, &broken, "the configuration was not reloaded, everything is as before").await;
    daemon.until("it is told", async |daemon| told(daemon).await["error"].is_string()).await;
    let third = told(&daemon).await;
    let error = third["error"].as_str().expect("faults");
    for key in ["classes[1].memory", "limits.command_bytes", "host.cpus"] {
        assert!(error.contains(key) && daemon.log().contains(key), "{key}: {error}");
    }
    assert_eq!((&third["changed"], &third["loaded_at"]), (&second["changed"], &second["loaded_at"]), "{third}");
    assert_eq!(daemon.request(Method::POST, "/jobs", Some(forever("newer"))).await.0, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(daemon.request(Method::POST, "/jobs", Some(body)).await.0, StatusCode::UNPROCESSABLE_ENTITY, "the limit is as before");
    for id in [&long, &of_new] {
        assert_eq!(daemon.job(id).await["state"], "running");
    }
    reload(&daemon, &changed, "configuration reloaded: nothing changed; needs a restart: http.listen").await;
    let fourth = told(&daemon).await;
    assert_eq!((&fourth["error"], &fourth["changed"]), (&Value::Null, &json!([])), "{fourth}");
    cancel(&daemon, &long).await;
    cancel(&daemon, &of_new).await;
    daemon.finish().await;
}

#[tokio::test]
async fn jobs_of_a_class_that_was_removed_end_when_it_is_their_turn_and_what_runs_goes_on() {
    let class = "[[classes]]\nname = \"going\"\nmax_runners = 1";
    let daemon = Setup::new("reload-removed").host("cpus = 2").with("[[classes]]\nname = \"default\"").with(class).start().await;
    let runs = daemon.submit(forever("going")).await;
    daemon.reaches(&runs, &["running"]).await;
    let waits = daemon.submit(forever("going")).await;
    assert_eq!(daemon.job(&waits).await["state"], "queued");
    reload(&daemon, &daemon.configuration().replace(class, ""), "configuration reloaded: changed classes[going]").await;
    let ended = daemon.ended(&waits).await;
    assert_eq!((&ended["state"], &ended["reason"]), (&json!("failed"), &json!("class_removed")), "{ended}");
    assert_eq!(daemon.job(&runs).await["state"], "running");
    assert_eq!(daemon.request(Method::POST, "/jobs", Some(forever("going"))).await.0, StatusCode::UNPROCESSABLE_ENTITY);
    cancel(&daemon, &runs).await;
    daemon.finish().await;
}

#[tokio::test]
async fn a_record_keeps_what_its_class_had_opened_when_the_container_was_made() {
    let opens = ["network = \"open\"", "network_allow = [\"10.9.0.0/16\", \"10.8.0.1:443\"]"];
    let words =
        ["network = \"open\": jobs reach the machine itself and every private network", "network_allow: jobs reach 10.9.0.0/16, 10.8.0.1/32:443"];
    let classes = format!("[[classes]]\nname = \"open\"\n{}\n[[classes]]\nname = \"allowing\"\n{}\n", opens[0], opens[1]);
    let mut daemon = Setup::new("reload-opened").host("cpus = 2").with("[[classes]]\nname = \"default\"").with(&classes).start().await;
    let runs = async |daemon: &Daemon, class: &str| {
        let id = daemon.submit(forever(class)).await;
        daemon.reaches(&id, &["running"]).await;
        id
    };
    let opened = async |daemon: &Daemon, id: &str| daemon.job(id).await["opened"].clone();
    let all = [("default", json!([])), ("open", json!([words[0]])), ("allowing", json!([words[1]]))];
    let mut before = Vec::new();
    for (class, expected) in &all {
        let id = runs(&daemon, class).await;
        assert_eq!(opened(&daemon, &id).await, *expected, "{class}");
        let history = daemon.get(&format!("/jobs/{id}/events")).await;
        let made = history["events"].as_array().and_then(|events| events.iter().find(|event| event["kind"] == "container_created"));
        assert_eq!(made.expect("it is told")["opened"], *expected, "{history}");
        before.push(id);
    }
    // The same words everywhere.
    let check = String::from_utf8(daemon.command(&["check", "--canary", "off"]).output().expect("it runs").stdout).expect("text");
    let told: Vec<&str> = check.lines().filter(|line| line.contains("opened:")).collect();
    assert_eq!(told, [format!("note  opened: class open: {}", words[0]), format!("note  opened: class allowing: {}", words[1])], "{check}");
    for (id, expected) in before.iter().zip(["nothing", words[0], words[1]]) {
        let shown = daemon.cli(&["jobs", "show", id]);
        let line = shown.lines().find(|line| line.starts_with("opened ")).expect("it is shown");
        assert_eq!(line.trim_start_matches("opened").trim(), expected, "{shown}");
    }

    // Closed again: a job that comes gets nothing of it, and the records of those that run stay, also after their end and a restart.
    let closed = opens.iter().fold(daemon.configuration(), |toml, key| toml.replace(key, ""));
    reload(&daemon, &closed, "configuration reloaded: changed classes[open].network, classes[allowing].network_allow").await;
    for class in ["open", "allowing"] {
        let id = runs(&daemon, class).await;
        assert_eq!(opened(&daemon, &id).await, json!([]), "{class}");
        cancel(&daemon, &id).await;
    }
    for id in &before {
        cancel(&daemon, id).await;
    }
    daemon.kill();
    daemon.start().await;
    for (id, (class, expected)) in before.iter().zip(&all) {
        assert_eq!(opened(&daemon, id).await, *expected, "{class}");
    }
    daemon.finish().await;
}

#[tokio::test]
async fn a_job_that_a_waiting_runner_takes_tells_what_was_opened_when_that_one_was_made() {
    let road = Road::start("reload-opened-warm", "1h", "warm = 1\nnetwork = \"open\"").await;
    let idle = async |daemon: &Daemon| {
        let runners = daemon.get("/runners").await;
        runners["runners"].as_array().and_then(|all| all.iter().find(|runner| runner["state"] == "idle").map(|runner| runner["id"].clone()))
    };
    let runs = async |road: &Road, name: &str| {
        road.daemon.until("a runner waits", async |daemon| idle(daemon).await.is_some()).await;
        let waits = idle(&road.daemon).await.expect("a runner");
        let id = road.gitlab.enqueue(job(name).script(["echo ran"]));
        road.gitlab.send_job_event(id).await;
        road.reaches(id, PATIENCE, |job| job.status == Status::Success).await;
        let record = road.ended(id).await;
        assert_eq!(record["runner_id"], waits, "{record}");
        record
    };
    let open = runs(&road, "open").await;
    assert_eq!(open["opened"], json!(["network = \"open\": jobs reach the machine itself and every private network"]), "{open}");
    let toml = road.daemon.configuration();
    road.daemon.until("another runner waits", async |daemon| idle(daemon).await.is_some()).await;
    let before = idle(&road.daemon).await;
    reload(&road.daemon, &toml.replace("network = \"open\"", ""), "configuration reloaded: changed classes[gitlab].network").await;
    road.daemon.until("a runner of the closed class waits", async |daemon| idle(daemon).await.is_some_and(|now| Some(now) != before)).await;
    let closed = runs(&road, "closed").await;
    let again = road.daemon.job(open["id"].as_str().expect("an id")).await;
    assert_eq!((&closed["opened"], &again["opened"]), (&json!([]), &open["opened"]), "{closed} {again}");
    road.daemon.finish_with_pool().await;
}

/// A new token with its table for the configuration.
fn token(daemon: &Daemon, name: &str) -> (String, String) {
    let said = daemon.cli(&["token", "new", "--name", name]);
    let (first, table) = said.split_once("\n\n").expect("a token and a table");
    (first.trim_start_matches("token: ").to_owned(), table.to_owned())
}

async fn status_with(daemon: &Daemon, token: &str) -> StatusCode {
    client().get(format!("{}/status", daemon.url)).bearer_auth(token).send().await.expect("an answer").status()
}

#[tokio::test]
async fn tokens_change_and_a_daemon_that_others_reach_is_never_left_without() {
    let daemon = Setup::new("reload-tokens").start().await;
    let ((old, old_table), (new, new_table)) = (token(&daemon, "old"), token(&daemon, "new"));
    let toml = daemon.configuration();
    reload(&daemon, &format!("{toml}\n{old_table}"), "changed http.tokens[old]").await;
    assert_eq!(daemon.request(Method::GET, "/status", None).await.0, StatusCode::UNAUTHORIZED);
    assert_eq!((status_with(&daemon, &old).await, status_with(&daemon, &new).await), (StatusCode::OK, StatusCode::UNAUTHORIZED));
    reload(&daemon, &format!("{toml}\n{new_table}"), "changed http.tokens[old], http.tokens[new]").await;
    assert_eq!((status_with(&daemon, &old).await, status_with(&daemon, &new).await), (StatusCode::UNAUTHORIZED, StatusCode::OK));
    assert!(!daemon.log().contains(&old) && !daemon.log().contains(&new));
    reload(&daemon, &toml, "changed http.tokens[new]").await;
    daemon.finish().await;
}

#[tokio::test]
async fn classes_of_gitlab_come_change_and_go() {
    let gitlab = GitLab::start(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))).await.expect("a GitLab");
    gitlab.add_runner("glrt-first", &["docker"]);
    let url = gitlab.url().to_owned();
    let daemon = Setup::new("reload-gitlab")
        .host("cpus = 2")
        .with(&format!("[gitlab]\nurl = {url:?}\npoll_interval = \"1s\"\n[[classes]]\nname = \"default\""))
        .start()
        .await;
    let toml = daemon.configuration();
    let class = |token: &str, more: &str| {
        format!(
            "{toml}\n[[classes]]\nname = \"gitlab\"\nimage = {RUNNER:?}\npull = \"never\"\ncpus = 0.05\nmemory = \"192MiB\"\ngitlab_token = {token:?}\n{more}"
        )
    };
    let asked = |gitlab: &GitLab| gitlab.count_requests("POST", "/jobs/request");
    assert_eq!(asked(&gitlab), 0);

    reload(&daemon, &class("glrt-first", "warm = 1"), "configuration reloaded: changed classes[gitlab]").await;
    let first = gitlab.enqueue(job("first").script(["echo first"]));
    gitlab.wait_for(first, PATIENCE, |job| job.status == Status::Success).await.unwrap_or_else(|error| panic!("{error}\n{}", daemon.log()));
    let idle = async |daemon: &Daemon| {
        let runners = daemon.get("/runners").await;
        runners["runners"].as_array().and_then(|all| all.iter().find(|runner| runner["state"] == "idle").map(|runner| runner["id"].clone()))
    };
    daemon.until("a runner waits", async |daemon| idle(daemon).await.is_some()).await;
    let before = idle(&daemon).await;

    // A runner that waits is made anew where its class was changed; work goes on with the new token, and with no other.
    gitlab.add_runner("glrt-second", &["docker"]);
    reload(
        &daemon,
        &class("glrt-second", "warm = 1\nuser = \"1234:1234\""),
        "configuration reloaded: changed classes[gitlab].user, classes[gitlab].gitlab_token",
    )
    .await;
    daemon.until("another runner waits", async |daemon| idle(daemon).await.is_some_and(|now| Some(now) != before)).await;
    let second = gitlab.enqueue(job("second").script(["echo second"]));
    gitlab.wait_for(second, PATIENCE, |job| job.status == Status::Success).await.unwrap_or_else(|error| panic!("{error}\n{}", daemon.log()));

    // Without the class nobody asks, and nobody waits for work.
    reload(&daemon, &toml, "configuration reloaded: changed classes[gitlab]").await;
    daemon.until("no runner is left", async |daemon| daemon.get("/runners").await["runners"] == json!([])).await;
    daemon.until("nobody asks", async |daemon| daemon.get("/status").await["gitlab"] == json!([])).await;
    let third = gitlab.enqueue(job("third").script(["echo third"]));
    let questions = asked(&gitlab);
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!((asked(&gitlab), find_record(&daemon, third).await), (questions, None), "three polls later nobody has asked");
    reload(&daemon, &class("glrt-second", ""), "configuration reloaded: changed classes[gitlab]").await;
    gitlab.wait_for(third, PATIENCE, |job| job.status == Status::Success).await.unwrap_or_else(|error| panic!("{error}\n{}", daemon.log()));
    daemon.finish().await;
}

#[tokio::test]
async fn the_level_of_the_log_changes_and_the_command_line_wins() {
    let daemon = Setup::new("reload-level").log_filter("").with("[log]\nlevel = \"info\"").start().await;
    let debugs = |daemon: &Daemon| daemon.log().matches("DEBUG").count();
    assert_eq!(debugs(&daemon), 0);
    let toml = daemon.configuration();
    reload(&daemon, &toml.replace("\"info\"", "\"trace,bollard::docker=trace,[request]=trace\""), "configuration reloaded: changed log.level").await;
    let id = daemon.sh("true").await;
    daemon.ended(&id).await;
    assert!(debugs(&daemon) > 0 && daemon.log().contains("TRACE"));
    assert!(!daemon.log().contains("bollard::"), "the engine's client stays quiet, because it would tell secrets");
    reload(&daemon, &toml.replace("\"info\"", "\"no=such=level\""), "the configuration was not reloaded, everything is as before: log.level").await;
    reload(&daemon, &toml, "configuration reloaded: changed log.level").await;
    let before = debugs(&daemon);
    daemon.get("/status").await;
    assert_eq!(debugs(&daemon), before);
    daemon.finish().await;

    let daemon = Setup::new("reload-fixed").log_filter("warn,runner_coordinator::app=info").start().await;
    reload(&daemon, &format!("{}\n[log]\nlevel = \"trace\"", daemon.configuration()), "log.level has no effect").await;
    assert_eq!(debugs(&daemon), 0);
    daemon.finish().await;
}

#[tokio::test]
async fn systemd_hears_of_a_reload() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("notify");
    let socket = UnixDatagram::bind(&path).expect("a socket");
    socket.set_read_timeout(Some(PATIENCE)).expect("a deadline");
    let heard = || {
        let mut buffer = [0; 4096];
        let length = socket.recv(&mut buffer).expect("a word");
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };
    let daemon = Setup::new("reload-systemd").env("NOTIFY_SOCKET", path.to_str().expect("text")).start().await;
    assert_eq!(heard().trim(), "READY=1");
    let toml = daemon.configuration();
    daemon.reload(&format!("{toml}\n[limits]\nenv_vars = 3"));
    let reloading = heard();
    assert!(reloading.contains("RELOADING=1\n") && reloading.contains("MONOTONIC_USEC="), "{reloading}");
    assert_eq!(heard().trim(), "READY=1\nSTATUS=configuration reloaded: changed limits.env_vars");
    daemon.reload("nonsense = ");
    assert!(heard().contains("RELOADING=1"));
    let said = heard();
    assert!(said.starts_with("READY=1\nSTATUS=the configuration was not reloaded: ") && said.trim().lines().count() == 2, "{said}");
    daemon.finish().await;
}
