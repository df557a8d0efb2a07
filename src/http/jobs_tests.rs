//! Jobs from their submission to their log, as a client meets them.

use std::time::Duration;

use axum::http::StatusCode;
use futures_util::StreamExt as _;
use serde_json::json;

use crate::domain::{EndReason, Outcome};
use crate::http::harness::{Harness, request};
use crate::store::log::LogStream;

const SIMPLE: &str = r#"{"image":"debian:bookworm","command":["true"]}"#;

#[tokio::test]
async fn a_job_is_stored_before_it_is_answered() {
    let harness = Harness::start();
    let answer = harness.post("/jobs", SIMPLE).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.text);
    let job = answer.json();
    let id = job["id"].as_str().expect("an id");
    assert_eq!(answer.header("location"), format!("/jobs/{id}"));
    assert_eq!((&job["state"], &job["source"], &job["attempt"]), (&json!("queued"), &json!("api"), &json!(0)));
    assert_eq!(harness.stored().await.len(), 1);
    assert_eq!(harness.get(&format!("/jobs/{id}")).await.json(), job);
    let events = harness.get(&format!("/jobs/{id}/events")).await.json();
    assert_eq!((&events["events"][0]["kind"], &events["next_after"]), (&json!("submitted"), &json!(null)));
}

/// A body that would be good but for one field.
fn with(field: &str, value: &str) -> String {
    format!(r#"{{"image":"debian","command":["true"],"{field}":{value}}}"#)
}

#[tokio::test]
async fn a_bad_wish_for_gpus_names_the_field_and_stores_nothing() {
    let harness = Harness::start();
    for (body, fields) in [
        (with("gpus", "{}"), vec!["gpus.count"]),
        (
            with("gpus", r#"{"count":-1,"vendor":"voodoo","min_memory":"much","mig_profile":"; rm"}"#),
            vec!["gpus.count", "gpus.vendor", "gpus.min_memory", "gpus.mig_profile"],
        ),
        (with("gpus", r#"{"count":1,"size":2}"#), vec!["gpus.size"]),
        (with("gpus", r#"{"memory":"10GiB","count":2}"#), vec!["gpus.count"]),
        (
            with("gpus", r#"{"memory":"10GiB","vendor":"nvidia","mig_profile":"1g.10gb","min_memory":"1GiB","exclusive":true}"#),
            vec!["gpus.mig_profile", "gpus.min_memory", "gpus.exclusive"],
        ),
        (with("gpus", r#"{"memory":"lots"}"#), vec!["gpus.memory"]),
        (with("gpus", r#"{"memory":"0B"}"#), vec!["gpus.memory"]),
        (with("gpus", r#"{"count":1,"exclusive":false}"#), vec!["gpus.memory"]),
    ] {
        let answer = harness.post("/jobs", &body).await;
        assert_eq!((answer.status, answer.problem().as_str()), (StatusCode::UNPROCESSABLE_ENTITY, "invalid-field"), "{body}");
        assert_eq!(answer.fields(), fields, "{body}\n{}", answer.text);
    }
    assert_eq!(harness.stored().await.len(), 0);
}

#[tokio::test]
async fn bad_input_names_the_field_and_stores_nothing() {
    let harness = Harness::start();
    let cases: Vec<(String, Vec<&str>)> = vec![
        ("{}".into(), vec!["image", "command"]),
        (r#"{"image":"debian","command":[]}"#.into(), vec!["command"]),
        (r#"{"image":"debian","command":[""]}"#.into(), vec!["command"]),
        (r#"{"image":"debian","command":["a\u0000b"]}"#.into(), vec!["command"]),
        (r#"{"image":"debian","command":"true"}"#.into(), vec!["command"]),
        (r#"{"image":"debian","command":["sh",7]}"#.into(), vec!["command[1]"]),
        (r#"{"image":"Not An Image","command":["true"]}"#.into(), vec!["image"]),
        (r#"{"image":7,"command":["true"]}"#.into(), vec!["image"]),
        (with("colour", "1"), vec!["colour"]),
        (with("class", "\"none\""), vec!["class"]),
        (with("class", "\"../x\""), vec!["class"]),
        (with("project", "\"\""), vec!["project"]),
        (with("arch", "\"sparc\""), vec!["arch"]),
        (with("emulation", "\"yes\""), vec!["emulation"]),
        (with("cpus", "-1"), vec!["cpus"]),
        (with("cpus", "1e300"), vec!["cpus"]),
        (with("memory", "\"-4GiB\""), vec!["memory"]),
        (with("memory", "4096"), vec!["memory"]),
        (with("timeout", "\"0s\""), vec!["timeout"]),
        (with("timeout", "\"900years\""), vec!["timeout"]),
        (with("timeout", "\"18446744073709551615s 1000ms\""), vec!["timeout"]),
        (with("priority", "1001"), vec!["priority"]),
        (with("priority", "99999999999"), vec!["priority"]),
        (with("priority", "1.5"), vec!["priority"]),
        (with("priority", "1e300"), vec!["priority"]),
        (with("priority", "18446744073709551615"), vec!["priority"]),
        (with("priority", "\"1\""), vec!["priority"]),
        (with("retries", "-1"), vec!["retries"]),
        (with("retries", "11"), vec!["retries"]),
        (with("env", r#"{"LD_PRELOAD":"x"}"#), vec!["env.LD_PRELOAD"]),
        (with("env", r#"{"NVIDIA_VISIBLE_DEVICES":"all"}"#), vec!["env.NVIDIA_VISIBLE_DEVICES"]),
        (with("env", r#"{"A":1}"#), vec!["env.A"]),
        (with("if_unsatisfiable", "\"maybe\""), vec!["if_unsatisfiable"]),
        (r#"{"image":"debian","command":["true"],"class":"arm","arch":"amd64"}"#.into(), vec!["arch"]),
        (
            r#"{"command":[],"priority":5000,"retries":50,"cpus":0,"timeout":"soon"}"#.into(),
            vec!["image", "command", "cpus", "timeout", "priority", "retries"],
        ),
        ("[]".into(), vec!["body"]),
        (r#"["debian:bookworm",["true"],null,null,null,null,null,null,null,null,null,null,null]"#.into(), vec!["body"]),
        (r#"{"command":["true"],"command":["false"]}"#.into(), vec!["command"]),
    ];
    for (body, fields) in cases {
        let answer = harness.post("/jobs", &body).await;
        assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY, "{body}: {}", answer.text);
        assert_eq!(
            (answer.problem().as_str(), answer.fields()),
            ("invalid-field", fields.into_iter().map(str::to_owned).collect()),
            "{body}: {}",
            answer.text
        );
    }
    for body in ["", "{", "image=debian", "{\"image\":\"debian\",}"] {
        let answer = harness.post("/jobs", body).await;
        assert_eq!((answer.status, answer.problem().as_str()), (StatusCode::BAD_REQUEST, "not-json"), "{body:?}");
    }
    for kind in [&[][..], &[("content-type", "text/plain")], &[("content-type", "application/x-www-form-urlencoded")]] {
        let answer = harness.send(request("POST", "/jobs", kind, SIMPLE)).await;
        assert_eq!((answer.status, answer.problem().as_str()), (StatusCode::UNSUPPORTED_MEDIA_TYPE, "wrong-content-type"), "{kind:?}");
    }
    assert_eq!(harness.stored().await.len(), 0);
}

#[tokio::test]
async fn a_whole_number_may_be_written_with_a_point() {
    let harness = Harness::start();
    let body = r#"{"image":"debian","command":["true"],"priority":-5.0,"retries":1e0,"gpus":{"count":2.0},"if_unsatisfiable":"wait"}"#;
    let job = harness.submit(body).await;
    let answer = harness.get(&format!("/jobs/{job}")).await.json();
    assert_eq!((&answer["priority"], &answer["request"]["retries"], &answer["request"]["gpus"]["count"]), (&(-5).into(), &1.into(), &2.into()));
}

#[tokio::test]
async fn a_job_that_no_host_can_run_is_refused_unless_it_may_wait() {
    let harness = Harness::start();
    for (field, value) in [("arch", "\"riscv64\""), ("cpus", "64"), ("memory", "\"1TiB\""), ("gpus", "{\"count\":1}")] {
        let body = format!(r#"{{"image":"debian","command":["true"],"{field}":{value}}}"#);
        let answer = harness.post("/jobs", &body).await;
        assert_eq!((answer.status, answer.problem().as_str()), (StatusCode::UNPROCESSABLE_ENTITY, "unsatisfiable"), "{body}");
        assert_eq!(answer.fields(), [field], "{}", answer.text);
    }
    assert_eq!(harness.stored().await.len(), 0);
    harness.submit(r#"{"image":"debian","command":["true"],"arch":"riscv64","if_unsatisfiable":"wait"}"#).await;
}

#[tokio::test]
async fn the_class_fills_in_what_a_job_leaves_open() {
    let harness = Harness::start();
    let body = r#"{"command":["true"],"class":"arm","cpus":0.5,"if_unsatisfiable":"wait"}"#;
    let answer = harness.post("/jobs", body).await.json();
    let wanted = json!({ "image": "debian:bookworm", "command": ["true"], "env": {}, "class": "arm", "project": null, "arch": "arm64", "emulation": "deny", "gpus": null,
        "cpus": 0.5, "memory": "2GiB", "timeout": "1h", "priority": 0, "retries": 0 });
    assert_eq!(answer["request"], wanted);
}

#[tokio::test]
async fn an_idempotency_key_makes_one_job() {
    let harness = Harness::start();
    let post = async |key: &str, body: &'static str| {
        harness.send(request("POST", "/jobs", &[("content-type", "application/json"), ("idempotency-key", key)], body)).await
    };
    let first = post("k1", SIMPLE).await;
    let second = post("k1", SIMPLE).await;
    assert_eq!((second.status, second.json()["id"].clone()), (StatusCode::ACCEPTED, first.json()["id"].clone()));
    let reused = post("k1", r#"{"image":"debian","command":["false"]}"#).await;
    assert_eq!((reused.status, reused.problem().as_str()), (StatusCode::UNPROCESSABLE_ENTITY, "idempotency-key-reused"));
    assert_eq!(harness.stored().await.len(), 1);
    for bad in ["", "two words", &"x".repeat(256)] {
        let answer = post(bad, SIMPLE).await;
        assert_eq!((answer.status, answer.fields()), (StatusCode::BAD_REQUEST, vec!["Idempotency-Key".to_owned()]), "{bad:?}");
    }
    post("k2", SIMPLE).await;
    assert_eq!(harness.stored().await.len(), 2);
}

#[tokio::test]
async fn a_full_queue_asks_to_come_later() {
    let harness = Harness::start();
    let of = |project: &str| format!(r#"{{"image":"debian","command":["true"],"project":"{project}"}}"#);
    for _ in 0..3 {
        harness.submit(&of("a")).await;
    }
    let answer = harness.post("/jobs", &of("a")).await;
    assert_eq!((answer.status, answer.problem().as_str()), (StatusCode::TOO_MANY_REQUESTS, "queue-full"));
    assert!(answer.header("retry-after").parse::<u32>().is_ok_and(|seconds| seconds > 0));
    harness.submit(&of("b")).await;
}

#[tokio::test]
async fn pages_hold_every_job_once_newest_first() {
    let harness = Harness::start();
    let mut ids = Vec::new();
    for number in 0..7 {
        ids.push(harness.submit(&format!(r#"{{"image":"debian","command":["true"],"project":"p{}"}}"#, number % 3)).await);
    }
    ids.reverse();
    let (mut seen, mut path) = (Vec::new(), "/jobs?limit=3".to_owned());
    let mut pages = 0;
    loop {
        let page = harness.get(&path).await.json();
        let jobs = page["jobs"].as_array().expect("jobs");
        seen.extend(jobs.iter().map(|job| job["id"].as_str().expect("an id").to_owned()));
        pages += 1;
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        path = format!("/jobs?limit=3&cursor={cursor}");
    }
    assert_eq!((seen, pages), (ids, 3));
    let of_project = harness.get("/jobs?project=p0&state=queued,running").await.json();
    assert_eq!(of_project["jobs"].as_array().map(Vec::len), Some(3));
    assert_eq!(harness.get("/jobs?state=running").await.json(), json!({ "jobs": [], "next_cursor": null }));
}

#[tokio::test]
async fn a_waiting_job_is_cancelled_at_once_and_again() {
    let harness = Harness::start();
    let path = format!("/jobs/{}", harness.submit(SIMPLE).await);
    for _ in 0..2 {
        let answer = harness.delete(&path).await;
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.text);
        assert_eq!((&answer.json()["state"], &answer.json()["reason"]), (&json!("canceled"), &json!("canceled_by_user")));
    }
    let unknown = harness.delete("/jobs/0").await;
    assert_eq!((unknown.status, unknown.problem().as_str()), (StatusCode::NOT_FOUND, "not-found"));
}

#[tokio::test]
async fn a_running_job_is_asked_to_end_and_an_ended_one_cannot_be() {
    let harness = Harness::start();
    let path = format!("/jobs/{}", harness.submit(SIMPLE).await);
    let (runner, _) = harness.claim().await;
    harness.run(&runner).await;
    for _ in 0..2 {
        let answer = harness.delete(&path).await;
        assert_eq!((answer.status, &answer.json()["state"]), (StatusCode::ACCEPTED, &json!("running")));
        assert!(answer.json()["cancel_requested_at"].is_string());
    }
    harness.end(&runner, Outcome::final_failure(EndReason::ImageUnavailable, "gone")).await;
    let answer = harness.delete(&path).await;
    assert_eq!((answer.status, answer.problem().as_str()), (StatusCode::CONFLICT, "job-ended"));
}

#[tokio::test]
async fn runners_are_shown_and_ended() {
    let harness = Harness::start();
    let job = harness.submit(SIMPLE).await;
    let (runner, _) = harness.claim().await;
    let list = harness.get("/runners").await.json();
    assert_eq!((&list["runners"][0]["id"], &list["runners"][0]["job_id"]), (&json!(runner.as_str()), &json!(job)));
    let path = format!("/runners/{runner}");
    assert_eq!(harness.get(&path).await.json(), list["runners"][0]);
    for _ in 0..2 {
        let answer = harness.delete(&path).await;
        assert_eq!(
            (answer.status, &answer.json()["state"], &answer.json()["reason"]),
            (StatusCode::ACCEPTED, &json!("stopping"), &json!("runner_terminated"))
        );
    }
    assert_eq!(harness.delete("/runners/0").await.status, StatusCode::NOT_FOUND);
    for (body, field) in [("{}", "class"), (r#"{"class":"/"}"#, "class"), (r#"{"class":"default","count":2}"#, "count")] {
        assert_eq!(harness.post("/runners", body).await.fields(), [field], "{body}");
    }
}

/// Reads a body until it ends, or until it holds `enough`.
async fn read(body: &mut axum::body::BodyDataStream, enough: &str) -> String {
    let mut text = String::new();
    while enough.is_empty() || !text.contains(enough) {
        let next = tokio::time::timeout(Duration::from_secs(20), body.next()).await.expect("more in time");
        let Some(chunk) = next else { break };
        text.push_str(std::str::from_utf8(&chunk.expect("a chunk")).expect("utf-8"));
    }
    text
}

#[tokio::test]
async fn a_log_is_followed_from_before_the_start_to_the_end() {
    let harness = Harness::start();
    let id = harness.submit(SIMPLE).await;
    let response = harness.open(request("GET", &format!("/jobs/{id}/logs?follow=true"), &[], "")).await;
    assert_eq!(response.status(), StatusCode::OK);
    let mut body = response.into_body().into_data_stream();
    let follower = tokio::time::timeout(Duration::from_millis(50), body.next()).await;
    assert!(follower.is_err(), "there is nothing to read while the job waits");
    let (runner, job) = harness.claim().await;
    harness.run(&runner).await;
    let mut writer = harness.logs.writer(&job, 1).await.expect("a log");
    writer.append(1, LogStream::Stdout, b"one\n").await.expect("written");
    writer.flush().await.expect("flushed");
    let mut text = read(&mut body, "one\n").await;
    writer.append(2, LogStream::Stdout, b"two\n").await.expect("written");
    writer.close().await.expect("closed");
    text.push_str(&read(&mut body, "two\n").await);
    harness.end(&runner, Outcome::Succeeded).await;
    text.push_str(&read(&mut body, "").await);
    assert_eq!(text, "one\ntwo\n");
    let kept = harness.get(&format!("/jobs/{id}/logs?attempt=1")).await;
    assert_eq!((kept.text.as_str(), kept.header("content-type")), ("one\ntwo\n", "text/plain; charset=utf-8"));
    assert_eq!(harness.get(&format!("/jobs/{id}/logs?attempt=2")).await.status, StatusCode::NOT_FOUND);
    assert_eq!(harness.get(&format!("/jobs/{id}/logs?follow=true")).await.text, "one\ntwo\n");
}

#[tokio::test]
async fn a_follower_of_a_job_that_never_starts_is_let_go() {
    let harness = Harness::start();
    let id = harness.submit(SIMPLE).await;
    let response = harness.open(request("GET", &format!("/jobs/{id}/logs?follow=true"), &[], "")).await;
    let mut body = response.into_body().into_data_stream();
    harness.delete(&format!("/jobs/{id}")).await;
    assert_eq!(read(&mut body, "").await, "");
    assert_eq!(harness.get(&format!("/jobs/{id}/logs")).await.text, "");
}

#[tokio::test]
async fn the_stream_of_events_goes_on_where_a_client_left_it() {
    let harness = Harness::start();
    let first = harness.submit(SIMPLE).await;
    let mut body = harness.open(request("GET", "/events", &[], "")).await.into_body().into_data_stream();
    let text = read(&mut body, &first).await;
    assert!(text.contains("id: 1\n") || text.contains("id:1\n"), "{text}");
    let second = harness.submit(SIMPLE).await;
    assert!(read(&mut body, &second).await.contains("submitted"), "a new event comes by itself");
    drop(body);
    let seq = harness.get(&format!("/jobs/{first}/events")).await.json()["events"][0]["seq"].to_string();
    let resumed = harness.open(request("GET", "/events", &[("last-event-id", &seq)], "")).await;
    assert_eq!(resumed.headers()["content-type"], "text/event-stream");
    let text = read(&mut resumed.into_body().into_data_stream(), &second).await;
    assert!(!text.contains(&first), "{text}");
    let bad = harness.send(request("GET", "/events", &[("last-event-id", "x")], "")).await;
    assert_eq!((bad.status, bad.fields()), (StatusCode::BAD_REQUEST, vec!["Last-Event-ID".to_owned()]));
}
