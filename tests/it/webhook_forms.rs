//! GitLab's Job event in every form that it is known to take, and in some that nobody has seen yet. Made-up events are changed at random;
//! what decides must be read right, and nothing else may disturb it.

#![expect(clippy::print_stdout, reason = "how long it took is what `--nocapture` shows")]

use proptest::prelude::*;
use reqwest::StatusCode;
use runner_coordinator::gitlab::webhook::{BuildStatus, JobEvent, Reading, read_event};
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use crate::harness::{Setup, client};

const SECRET: &str = "hook-secret-of-the-forms";
/// Every status that GitLab's own documentation names, and one that it does not.
const STATUSES: [&str; 14] = [
    "created",
    "waiting_for_resource",
    "preparing",
    "waiting_for_callback",
    "pending",
    "running",
    "success",
    "failed",
    "canceling",
    "canceled",
    "skipped",
    "manual",
    "scheduled",
    "a_status_of_tomorrow",
];
/// Objects that an event may bring, or null, or nothing in its place.
const OBJECTS: [&str; 7] = ["user", "runner", "commit", "repository", "project", "environment", "source_pipeline"];
/// Fields of an event that nothing here depends on.
const NEEDLESS: [&str; 12] = [
    "ref",
    "tag",
    "before_sha",
    "sha",
    "retries_count",
    "build_name",
    "build_stage",
    "build_created_at",
    "build_duration",
    "build_queued_duration",
    "build_allow_failure",
    "pipeline_id",
];

/// Every payload that lies in `tests/payloads`, whatever its name.
fn payloads() -> Vec<(String, Value)> {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/payloads");
    let files = std::fs::read_dir(directory).expect("the payloads").map(|entry| entry.expect("an entry").path());
    files.map(|path| (path.display().to_string(), serde_json::from_slice(&std::fs::read(&path).expect("a file")).expect("JSON"))).collect()
}

fn read(event: &Value) -> JobEvent {
    match read_event(Some("Job Hook"), event.to_string().as_bytes()) {
        Ok(Reading::Job(job)) => *job,
        other => panic!("not read as a job: {other:?}\n{event}"),
    }
}

#[test]
fn every_payload_is_read_and_what_it_says_is_kept() {
    let all = payloads();
    assert!(all.len() >= 5, "the payloads are there");
    for (name, event) in all {
        let job = read(&event);
        assert_eq!(Some(job.build_id), event["build_id"].as_u64(), "{name}");
        assert_eq!(Some(job.status.as_str()), event["build_status"].as_str(), "{name}");
        assert_eq!(job.project_id, event["project_id"].as_u64(), "{name}");
        assert_eq!(job.runner_id, event["runner"]["id"].as_u64(), "{name}");
        assert_eq!(job.created_at.as_deref(), event["build_created_at"].as_str(), "{name}");
    }
}

/// A value of any type.
fn anything() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,40}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((".{0,8}", inner), 0..4).prop_map(|pairs| Value::Object(pairs.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

/// The times of an event as Ruby writes them, as ISO 8601, or not there.
fn time() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!("2026-11-20 09:14:03 UTC")),
        Just(json!("2021-02-23T02:41:37.886Z")),
        Just(json!("2021-02-23T02:41:37Z")),
        Just(Value::Null),
    ]
}

proptest! {
    #[test]
    fn what_decides_is_read_right_whatever_else_is_odd(
        which in any::<prop::sample::Index>(),
        id in prop_oneof![0..=u64::MAX, Just((1 << 53) + 1), Just(u64::MAX)],
        status in prop::sample::select(&STATUSES[..]),
        times in prop::collection::vec(time(), 3),
        objects in prop::collection::vec((prop::sample::select(&OBJECTS[..]), prop::option::of(anything())), 0..4),
        needless in prop::collection::vec((prop::sample::select(&NEEDLESS[..]), anything()), 0..6),
        unknown in prop::collection::vec(("x_[a-z]{1,12}", anything()), 0..6),
    ) {
        let all = payloads();
        let mut event = all[which.index(all.len())].1.clone();
        let fields = event.as_object_mut().expect("an object");
        for (object, value) in objects {
            match value {
                Some(value) => drop(fields.insert(object.to_owned(), value)),
                None => drop(fields.remove(object)),
            }
        }
        let named = needless.into_iter().map(|(name, value)| (name.to_owned(), value));
        fields.extend(named.chain(unknown));
        for (name, time) in ["build_created_at", "build_started_at", "build_finished_at"].into_iter().zip(&times) {
            fields.insert(name.to_owned(), time.clone());
        }
        fields.extend([("build_id".to_owned(), json!(id)), ("build_status".to_owned(), json!(status))]);
        let job = read(&event);
        prop_assert_eq!((job.build_id, job.status.as_str()), (id, status));
        prop_assert_eq!(job.status == BuildStatus::Pending, status == "pending");
        prop_assert_eq!(job.status == BuildStatus::Canceled, status == "canceled");
        let read_times = [job.created_at, job.started_at, job.finished_at].map(Value::from);
        prop_assert_eq!(read_times.as_slice(), times.as_slice());
    }

    #[test]
    fn an_event_without_what_decides_is_ignored_and_never_a_fault(
        which in any::<prop::sample::Index>(),
        field in prop::sample::select(&["object_kind", "build_id", "build_status"][..]),
        odd in prop::option::of(anything().prop_filter("of the right type", |value| !value.is_string() && !value.is_u64())),
    ) {
        let all = payloads();
        let mut event = all[which.index(all.len())].1.clone();
        match odd {
            Some(odd) => event[field] = odd,
            None => drop(event.as_object_mut().expect("an object").remove(field)),
        }
        let reading = read_event(Some("Job Hook"), event.to_string().as_bytes());
        prop_assert!(matches!(reading, Ok(Reading::Ignored(_))), "{:?}", reading);
    }
}

/// A process's own memory at its highest, in bytes.
fn peak(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
}

#[tokio::test]
async fn the_largest_event_is_taken_quickly_and_without_holding_it_twice_and_a_larger_one_is_refused() {
    // Nobody listens there: the bell is heard all the same.
    let daemon = Setup::new("forms-large")
        .with(&format!("[gitlab]\nurl = \"http://127.0.0.1:9\"\npoll_interval = \"1h\"\nwebhook.secret_token = {SECRET:?}"))
        .with("[[classes]]\nname = \"default\"\ncpus = 0.25\nmemory = \"64MiB\"\nimage = \"rc-test/runner:1\"\npull = \"never\"\ngitlab_token = \"glrt-forms\"")
        .start()
        .await;
    let hook = format!("{}/webhook/job", daemon.url);
    let send = async |event: String| {
        let request = client().post(&hook).header("x-gitlab-token", SECRET).header("x-gitlab-event", "Job Hook");
        request.header("content-type", "application/json").body(event).send().await
    };
    let post = async |event: String| {
        let answer = send(event).await.expect("an answer");
        (answer.status(), answer.text().await.unwrap_or_default())
    };
    let pending = payloads().into_iter().find(|(_, event)| event["build_status"] == "pending").expect("a pending job").1;
    let padded = |bytes: usize| {
        let mut event = pending.clone();
        event["commit"]["message"] = json!("");
        let rest = bytes - event.to_string().len();
        // Two bytes of text as JSON has it, so that reading it as text would need another buffer.
        event["commit"]["message"] = json!("\"".repeat(rest / 2) + &"x".repeat(rest % 2));
        assert_eq!(event.to_string().len(), bytes);
        event.to_string()
    };
    assert_eq!(post(pending.to_string()).await.0, StatusCode::OK);
    let (largest, before) = (25 << 20, peak(daemon.pid()));
    let event = padded(largest);
    let began = Instant::now();
    let (status, answer) = post(event).await;
    let took = began.elapsed();
    assert_eq!((status, answer.as_str()), (StatusCode::OK, r#"{"status":"accepted"}"#));
    let growth = peak(daemon.pid()).saturating_sub(before);
    println!("a Job event of 25 MiB: answered in {took:.1?}, memory grew by {} MiB", growth >> 20);
    assert!(took.as_secs() < 10, "GitLab would have hung up after 10 s: {took:?}");
    assert!(growth < 60 << 20, "memory grew by {} MiB for 25 MiB", growth >> 20);
    // The refusal comes before the body is read, so that a client may meet a closed connection before it looks for an answer.
    match send(padded(largest + 1)).await {
        Ok(answer) => assert_eq!(answer.status(), StatusCode::PAYLOAD_TOO_LARGE),
        Err(error) => assert!(error.is_request(), "{error}"),
    }
    assert_eq!(post(pending.to_string()).await.1, r#"{"status":"ignored","reason":"duplicate"}"#, "it serves on");
    daemon.finish().await;
}

#[tokio::test]
async fn whatever_is_not_ours_to_complain_about_is_answered_with_200() {
    let daemon = Setup::new("forms-200")
        .with(&format!("[gitlab]\nurl = \"http://127.0.0.1:9\"\npoll_interval = \"1h\"\nwebhook.secret_token = {SECRET:?}"))
        .with("[[classes]]\nname = \"default\"\ncpus = 0.25\nmemory = \"64MiB\"\nimage = \"rc-test/runner:1\"\npull = \"never\"\ngitlab_token = \"glrt-forms\"")
        .start()
        .await;
    let hook = format!("{}/webhook/job", daemon.url);
    let mut events: Vec<(&str, String)> = payloads().into_iter().map(|(_, event)| ("Job Hook", event.to_string())).collect();
    for status in STATUSES {
        events.push(("Job Hook", json!({ "object_kind": "build", "build_id": u64::MAX, "build_status": status }).to_string()));
    }
    let others = ["Push Hook", "Pipeline Hook", "System Hook", "Tag Push Hook", "An Event Of Tomorrow"];
    events.extend(others.map(|name| (name, json!({ "object_kind": "whatever", "builds": [{ "id": 1 }] }).to_string())));
    let odd =
        ["[]", "null", "7", "\"text\"", "{}", r#"{"object_kind":"build"}"#, r#"{"object_kind":"build","build_id":-1,"build_status":"pending"}"#];
    events.extend(odd.map(|body| ("Job Hook", body.to_owned())));
    for (name, body) in events {
        let request = client().post(&hook).header("x-gitlab-token", SECRET).header("x-gitlab-event", name).header("content-type", "application/json");
        let began = Instant::now();
        let status = request.body(body.clone()).send().await.expect("an answer").status();
        assert_eq!(status, StatusCode::OK, "{name}: {body}");
        assert!(began.elapsed().as_secs() < 5, "{name}: answered after {:?}", began.elapsed());
    }
    daemon.finish().await;
}
