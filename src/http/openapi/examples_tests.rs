//! The document's examples are what this daemon was asked and what it answered: a small story is played, and its requests and answers are kept.
//! Only ids are replaced, because they are new each time.

use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use futures_util::StreamExt as _;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::tests::compare;
use crate::domain::{
    CpuMillis, Drain, EndReason, Gpu, GpuHealth, GpuId, HostId, MemoryBytes, Outcome, Placement, Quarantine, QuarantinedBy, Runner, RunnerId,
    RunnerOrigin,
};
use crate::http::gpus::{Holding, MarkedDto};
use crate::http::harness::{Answer, HOOK_SECRET, Harness, NOW, request};
use crate::http::health::{Check, answer_of};
use crate::http::hosts::HostDto;
use crate::http::params::cursor_after;
use crate::http::problem::tests::every_problem;
use crate::http::runners::RunnerDto;
use crate::jobs::{Status, Vital};
use crate::platform::devices::fixture::card;
use crate::store::log::LogStream;

/// The example GPU.
const GPU: &str = "GPU-6b1f0c5e-9d3a-4c27-8e51-0f2a7b9c4d1e";
/// Digits of an id of ours.
const ID_DIGITS: usize = 32;

/// Collects examples by operation.
#[derive(Default)]
struct Book(Map<String, Value>);

impl Book {
    fn keep(&mut self, operation: &str, part: &str, example: Value) {
        let parts = self.0.entry(operation.to_owned()).or_insert_with(|| json!({}));
        parts[part] = example;
    }

    fn answer(&mut self, operation: &str, answer: &Answer) -> Value {
        let is_json = answer.header("content-type") == "application/json";
        let body = if is_json { answer.json() } else { answer.text.clone().into() };
        self.keep(operation, answer.status.as_str(), body.clone());
        body
    }

    async fn get(&mut self, harness: &Harness, operation: &str, path: &str) -> Value {
        let answer = harness.get(path).await;
        self.answer(operation, &answer)
    }

    async fn post(&mut self, harness: &Harness, operation: &str, path: &str, body: Value) -> Value {
        let answer = harness.post(path, &body.to_string()).await;
        self.keep(operation, "request", body);
        self.answer(operation, &answer)
    }
}

async fn body_of(response: Response) -> Value {
    let body = axum::body::to_bytes(response.into_body(), 1 << 16).await.expect("a body");
    serde_json::from_slice(&body).expect("JSON")
}

fn now() -> Timestamp {
    Timestamp::from_second(NOW).expect("a time")
}

fn gpu() -> Gpu {
    Gpu { id: GpuId::from_trusted(GPU), ..card(GPU) }
}

/// A job that runs, fails with exit code 3, and is asked about all the while.
async fn a_job(book: &mut Book, harness: &Harness) {
    let body = json!({ "image": "debian:bookworm", "command": ["sh", "-c", "echo hello; exit 3"], "project": "team/app", "timeout": "1h" });
    let job = book.post(harness, "submitJob", "/jobs", body).await;
    let path = format!("/jobs/{}", job["id"].as_str().expect("an id"));
    let (runner, id) = harness.claim().await;
    harness.run(&runner).await;
    book.get(harness, "listRunners", "/runners").await;
    book.get(harness, "getRunner", &format!("/runners/{runner}")).await;
    let large = harness.submit(r#"{"image":"debian:bookworm","command":["make","test"],"project":"team/app","cpus":8}"#).await;
    book.get(harness, "explainJob", &format!("/jobs/{large}/explain")).await;
    book.get(harness, "getQueue", "/queue").await;
    book.get(harness, "getStatus", "/status").await;
    book.get(harness, "listHosts", "/hosts").await;
    let mut writer = harness.logs.writer(&id, 1).await.expect("a log");
    writer.append(1, LogStream::Stdout, b"hello\n").await.expect("written");
    writer.close().await.expect("closed");
    book.get(harness, "getJobLog", &format!("{path}/logs")).await;
    let failed =
        crate::domain::Failure { reason: EndReason::ExitCode, exit_code: Some(3), detail: None, disposition: crate::domain::Disposition::Job };
    harness.end(&runner, Outcome::Failed(failed)).await;
    book.get(harness, "getJob", &path).await;
    book.get(harness, "listJobEvents", &format!("{path}/events")).await;
    book.get(harness, "listJobs", "/jobs?limit=1").await;
    let again = harness.post(&format!("{path}/retry"), "").await;
    book.answer("retryJob", &again);
    let cancelled = harness.delete(&format!("/jobs/{large}")).await;
    book.answer("cancelJob", &cancelled);
}

/// What the machine is asked.
async fn the_rest(book: &mut Book, harness: &Harness) {
    harness.submit(r#"{"image":"debian:bookworm","command":["make"]}"#).await;
    let (runner, _) = harness.claim().await;
    let ended = harness.delete(&format!("/runners/{runner}")).await;
    book.answer("terminateRunner", &ended);
    book.get(harness, "getHealth", "/health").await;
    book.get(harness, "getHistory", "/history").await;
    let mut events = harness.open(request("GET", "/events", &[], "")).await.into_body().into_data_stream();
    let first = events.next().await.expect("an event").expect("a chunk");
    book.keep("streamEvents", "200", String::from_utf8_lossy(&first).into());
    let event = json!({ "object_kind": "build", "build_id": 473_579, "build_status": "pending", "project_id": 282 });
    let headers = [("content-type", "application/json"), ("x-gitlab-event", "Job Hook"), ("x-gitlab-token", HOOK_SECRET)];
    let answer = harness.send(request("POST", "/webhook/job", &headers, event.to_string())).await;
    book.keep("receiveJobEvent", "request", event);
    book.answer("receiveJobEvent", &answer);
}

/// What a manager would have answered; this harness has none. The answers are made by the code that makes them in the daemon.
async fn of_the_manager(book: &mut Book, harness: &Harness) {
    let drain = Drain { since: now(), by: Some("ops".to_owned()), reason: Some("new kernel".to_owned()) };
    let resumed = harness.manager.status();
    let drained = Status { drain: Some(drain), ..(*resumed).clone() };
    book.keep("drainHost", "request", json!({ "reason": "new kernel" }));
    book.keep("drainHost", "200", json!(HostDto::from(&drained)));
    book.keep("resumeHost", "200", json!(HostDto::from(&*resumed)));
    let quarantine = Quarantine { reason: "fan is loud".to_owned(), since: now(), by: QuarantinedBy::Operator, next_check: None };
    let held = Gpu { health: GpuHealth::Quarantined("in quarantine: fan is loud".to_owned()), ..gpu() };
    let id = GpuId::from_trusted(GPU);
    let shown = |gpu: &Gpu, quarantine: Option<&Quarantine>| json!(MarkedDto::new(&id, Some((gpu, Holding::Free)), quarantine));
    book.keep("quarantineGpu", "request", json!({ "reason": "fan is loud" }));
    book.keep("quarantineGpu", "200", shown(&held, Some(&quarantine)));
    book.keep("releaseGpu", "200", shown(&gpu(), None));
    let checks = [("store", Check::ok(None)), ("engine", Check::ok(Some("28.5.1".to_owned()))), ("manager", Check::ok(None))];
    book.keep("getHealth", "200", body_of(answer_of(checks.into())).await);
    let placement = Placement { cpus: CpuMillis(2000), memory: MemoryBytes(4 << 30), devices: Vec::new(), share: None, opened: None };
    let class = crate::domain::ClassName::from_trusted("gitlab");
    let runner = Runner::planned(RunnerId::generate(), class, HostId::from_trusted("box1"), RunnerOrigin::Request, placement, now());
    book.keep("spawnRunner", "request", json!({ "class": "gitlab" }));
    book.keep("spawnRunner", "202", json!(RunnerDto::new(runner, &Vital::default())));
}

/// Puts ids of the example in the place of those of this run, the same for the same.
fn steady(text: &str) -> String {
    let mut steady = text.to_owned();
    let is_digit = |next: char| next.is_ascii_digit() || ('a'..='f').contains(&next);
    let ids = text.split(|next: char| !is_digit(next)).filter(|word| word.len() == ID_DIGITS);
    let mut seen: Vec<&str> = Vec::new();
    for id in ids {
        if !seen.contains(&id) {
            seen.push(id);
            steady = steady.replace(id, &format!("01a20bb4f8e3747ea9465fb97630{:04x}", 0x51b + seen.len()));
        }
    }
    steady
}

#[tokio::test]
async fn the_examples_are_answers() {
    let harness = Harness::on(vec![gpu()], &format!("gitlab.webhook.secret_token = \"{HOOK_SECRET}\""), "");
    let mut book = Book::default();
    a_job(&mut book, &harness).await;
    the_rest(&mut book, &harness).await;
    of_the_manager(&mut book, &harness).await;
    let mut problems = Map::new();
    for problem in every_problem() {
        let slug = problem.face().slug;
        problems.insert(slug.to_owned(), body_of(problem.into_response()).await);
    }
    let mut kept = json!({ "operations": book.0, "problems": problems });
    // The version stands in the document's head; here it would only make a difference at each release.
    kept["operations"]["getStatus"]["200"]["version"] = json!("0.1.0");
    let mut kept: Value = serde_json::from_str(&steady(&kept.to_string())).expect("JSON");
    let page = &mut kept["operations"]["listJobs"]["200"];
    page["next_cursor"] = json!(cursor_after(page["jobs"][0]["id"].as_str().expect("an id")));
    compare("src/http/openapi/examples.json", &kept);
    assert_eq!(harness.get("/jobs/0").await.status, StatusCode::NOT_FOUND);
}

#[test]
fn ids_become_the_same_each_time() {
    let (one, two) = ("a".repeat(ID_DIGITS), "b".repeat(ID_DIGITS));
    let first = steady(&format!("{one} {two} {one}"));
    assert_eq!(first, steady(&format!("{two} {one} {two}")));
    assert_ne!(first.split(' ').next(), first.split(' ').nth(1));
    assert_eq!(steady("GPU-6b1f0c5e abc"), "GPU-6b1f0c5e abc");
}
