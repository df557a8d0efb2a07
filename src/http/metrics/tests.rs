//! Scrapes as Prometheus makes them, and everything that strangers can send.

use std::collections::BTreeSet;

use axum::http::StatusCode;

use super::*;
use crate::http::harness::{HOOK_SECRET, Harness, request};
use crate::metrics::WEBHOOK_RESULTS;

async fn text(harness: &Harness) -> String {
    let answer = harness.get("/metrics").await;
    assert_eq!((answer.status, answer.header("content-type")), (StatusCode::OK, PLAIN));
    answer.text
}

fn samples(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.lines().filter(|line| !line.starts_with('#')).map(|line| line.rsplit_once(' ').expect("a series and a value"))
}

fn series(text: &str) -> BTreeSet<String> {
    samples(text).map(|(series, _)| series.to_owned()).collect()
}

fn value(text: &str, series: &str) -> Option<f64> {
    let full = format!("runner_coordinator_{series}");
    samples(text).find(|(one, _)| *one == full).map(|(_, value)| value.parse().expect("a number"))
}

#[tokio::test]
async fn prometheus_gets_openmetrics_and_everybody_else_plain_text() {
    let harness = Harness::start();
    let asked = |accept: &'static str| request("GET", "/metrics", &[("accept", accept)], "");
    let theirs =
        "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
    let answer = harness.send(asked(theirs)).await;
    assert_eq!((answer.status, answer.header("content-type")), (StatusCode::OK, OPEN_METRICS));
    assert!(answer.text.ends_with("# EOF\n") && answer.text.matches("# EOF").count() == 1, "{}", answer.text);
    for everybody in ["*/*", "text/plain", ""] {
        let answer = harness.send(asked(everybody)).await;
        assert_eq!(answer.header("content-type"), PLAIN, "{everybody}");
        assert!(!answer.text.contains("# EOF"));
    }
    assert_eq!(harness.get("/metrics?colour=red").await.problem(), "invalid-parameter");
}

#[tokio::test]
async fn every_family_is_told_once_and_is_in_the_catalogue_with_its_labels() {
    let harness = Harness::start();
    harness.submit(r#"{"image":"a","command":["b"]}"#).await;
    let text = text(&harness).await;
    let known: Vec<(String, Vec<&str>)> = catalogue().iter().flat_map(Description::series).collect();
    for one in series(&text) {
        let (name, labels) = one.split_once('{').unwrap_or((&one, ""));
        let labels: BTreeSet<&str> = labels.split("\",").filter_map(|pair| Some(pair.split_once('=')?.0)).collect();
        let found = known.iter().find(|(known, _)| known == name).unwrap_or_else(|| panic!("{name} is in no catalogue"));
        assert_eq!(labels, found.1.iter().copied().collect(), "{one}");
    }
    let families: Vec<&str> = text.lines().filter(|line| line.starts_with("# TYPE ")).collect();
    assert_eq!(families.len(), families.iter().collect::<BTreeSet<_>>().len(), "{families:?}");
}

#[tokio::test]
async fn the_queue_is_told_by_class_and_by_state() {
    let harness = Harness::start();
    for _ in 0..2 {
        harness.submit(r#"{"image":"a","command":["b"]}"#).await;
    }
    harness.claim().await;
    harness.clock.advance(90);
    let text = text(&harness).await;
    let seen = |series: &str| value(&text, series).unwrap_or_else(|| panic!("{series} is not in:\n{text}"));
    assert_eq!((seen("jobs{state=\"queued\"}"), seen("jobs{state=\"starting\"}"), seen("jobs{state=\"failed\"}")), (1.0, 1.0, 0.0));
    assert_eq!((seen("queue_ready_jobs{class=\"default\"}"), seen("queue_ready_jobs{class=\"arm\"}")), (1.0, 0.0));
    let oldest = |class: &str| seen(&format!("queue_oldest_wait_seconds{{class=\"{class}\"}}"));
    assert_eq!((oldest("default"), oldest("arm")), (90.0, 0.0));
    assert_eq!((seen("runners{state=\"starting\"}"), seen("store_up"), seen("engine_up")), (1.0, 1.0, 0.0));
    assert_eq!((seen("host_cpus"), seen("host_memory_bytes")), (8.0, 17_179_869_184.0));
    assert!(seen("data_disk_bytes") >= seen("data_disk_free_bytes"));
    assert_eq!(value(&text, "open_streams"), Some(0.0));
    assert!(seen("last_tick_age_seconds") < 90.0, "a clock that is turned is no lag");
    let stream = harness.open(request("GET", "/events?after=now", &[], "")).await;
    assert_eq!(value(&self::text(&harness).await, "open_streams"), Some(1.0));
    drop(stream);
}

#[tokio::test]
async fn strangers_make_no_series() {
    let harness = Harness::start();
    let send = async |round: &str| {
        for number in 0..10_000 {
            let (path, method) = match number % 8 {
                0 => (format!("/{round}-{number}/x{number}"), "GET".to_owned()),
                1 => (format!("/jobs/{round}-{number}"), "GET".to_owned()),
                2 => (format!("/jobs?project={round}-{number}&class={number}"), "GET".to_owned()),
                3 => ("/jobs".to_owned(), format!("M{round}{number}")),
                4 => (format!("/{round}{number}"), format!("BREW{number}")),
                5 => (format!("/metrics?{round}={number}"), "GET".to_owned()),
                _ => ("/jobs".to_owned(), "POST".to_owned()),
            };
            let body = format!(r#"{{"image":"a","command":["b"],"class":"{round}-{number}","project":"{round}/{number}"}}"#);
            let name = format!("{round}-{number}");
            let headers = [("content-type", "application/json"), ("x-request-id", name.as_str()), ("user-agent", name.as_str())];
            harness.send(request(&method, &path, &headers, body)).await;
            if number % 100 == 7 {
                // What is taken: a class that there is, and projects that there are not.
                let taken = format!(r#"{{"image":"a","command":["b"],"project":"{round}/{number}"}}"#);
                assert_eq!(harness.post("/jobs", &taken).await.status, StatusCode::ACCEPTED);
                let headers = [("x-gitlab-token", HOOK_SECRET), ("x-gitlab-event", name.as_str()), ("idempotency-key", name.as_str())];
                let event = format!(r#"{{"object_kind":"build","build_id":{number},"build_status":"{round}{number}"}}"#);
                harness.send(request("POST", "/webhook/job", &headers, event)).await;
                harness.send(request("POST", "/webhook/job", &[("x-gitlab-token", name.as_str())], "{}")).await;
            }
        }
    };
    send("a").await;
    // The second scrape shows the first.
    text(&harness).await;
    let before = series(&text(&harness).await);
    send("b").await;
    let after = series(&text(&harness).await);
    let new: Vec<&String> = after.difference(&before).collect();
    assert!(new.is_empty(), "{new:?}");
    // As many as a small daemon has, whatever happens: 1,000 is what one class more adds ten times over.
    assert!(after.len() < 1_500, "{} series", after.len());
    let strange: Vec<&String> = after.iter().filter(|one| one.contains("a-") || one.contains("BREW") || one.contains("a/")).collect();
    assert!(strange.is_empty(), "{strange:?}");
}

#[tokio::test]
async fn deliveries_are_counted_by_how_they_were_answered() {
    let harness = Harness::start();
    let send = async |headers: &[(&str, &str)], body: &str| harness.send(request("POST", "/webhook/job", headers, body.to_owned())).await.status;
    let event = |status: &str, id: u64| format!(r#"{{"object_kind":"build","build_id":{id},"build_status":"{status}"}}"#);
    let job = |key: &'static str| [("x-gitlab-token", HOOK_SECRET), ("x-gitlab-event", "Job Hook"), ("idempotency-key", key)];
    assert_eq!(send(&job("1"), &event("pending", 1)).await, StatusCode::OK);
    assert_eq!(send(&job("1"), &event("pending", 1)).await, StatusCode::OK);
    assert_eq!(send(&job("2"), &event("pending", 2)).await, StatusCode::OK);
    assert_eq!(send(&job("3"), &event("running", 1)).await, StatusCode::OK);
    assert_eq!(send(&job("4"), &event("canceled", 1)).await, StatusCode::OK);
    let push = [("x-gitlab-token", HOOK_SECRET), ("x-gitlab-event", "Push Hook"), ("idempotency-key", "5")];
    assert_eq!(send(&push, r#"{"object_kind":"push"}"#).await, StatusCode::OK);
    for _ in 0..3 {
        assert_eq!(send(&[("x-gitlab-token", "wrong")], &event("pending", 1)).await, StatusCode::UNAUTHORIZED);
    }
    assert_eq!(send(&job("6"), "{").await, StatusCode::BAD_REQUEST);
    let text = text(&harness).await;
    let counted = WEBHOOK_RESULTS.map(|result| value(&text, &format!("webhook_deliveries_total{{result=\"{result}\"}}")).expect(result).to_string());
    // accepted, unrecorded, duplicate, status, canceled, event, unauthorized, malformed, failed
    assert_eq!(counted, ["2", "0", "1", "1", "1", "1", "3", "1", "0"]);
    let requests = |status: &str| value(&text, &format!("http_requests_total{{route=\"/webhook/job\",method=\"POST\",status=\"{status}\"}}"));
    assert_eq!((requests("2xx"), requests("4xx"), requests("5xx")), (Some(6.0), Some(4.0), None));
}
