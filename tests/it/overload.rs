//! Many clients at once: what is too much is refused at once and clearly, what was accepted is done, and whoever watches is answered.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use reqwest::{Client, Response};
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::harness::{BUSYBOX, Daemon, Setup, client};

const CLIENTS: usize = 64;
const ROUNDS: usize = 4;
/// Requests of one client at once, of each kind.
const AT_ONCE: usize = 4;
/// Most jobs that may wait for one project.
const PER_PROJECT: usize = 12;
/// The same in all.
const IN_ALL: usize = 30;
const SECRET: &str = "hook-secret-of-the-flood";
/// How long whoever watches the daemon waits meanwhile, on a machine that is shared.
const WATCH: Duration = Duration::from_secs(10);
/// Most memory that the flood may cost.
const MOST_MEMORY_KIB: u64 = 300 << 10;
/// A body that is as large as GitLab's may be.
const LARGE: usize = 24 << 20;

/// A number of `/proc/PID/status` in KiB.
fn memory(daemon: &Daemon, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).expect("a process");
    let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a line");
    line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().expect("a number")
}

/// Refusals are of two statuses, and all say when to come again and why.
async fn refusal(response: Response) -> String {
    let status = response.status().as_u16();
    assert!([429, 503].contains(&status), "{status}");
    let again = response.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse::<u32>().ok());
    assert!(again.is_some_and(|seconds| seconds > 0), "{status} without Retry-After");
    let problem: Value = response.json().await.expect("a problem");
    let kind = problem["type"].as_str().expect("a type").trim_start_matches("/problems/").to_owned();
    let whose = if status == 429 { "queue-full" } else { "whole-queue-full overloaded" };
    assert!(whose.split(' ').any(|one| one == kind) && problem["detail"].is_string(), "{problem}");
    kind
}

/// What became of a client's requests.
#[derive(Default)]
struct Tally {
    /// Ids of accepted jobs by their keys.
    accepted: BTreeMap<String, String>,
    refused: BTreeMap<String, u32>,
    rung: u32,
}

fn body(project: usize) -> Value {
    json!({ "image": BUSYBOX, "command": ["true"], "project": format!("team/{project}") })
}

async fn submit(http: &Client, url: &str, key: &str, project: usize) -> Result<String, String> {
    let sent = http.post(format!("{url}/jobs")).header("idempotency-key", key).json(&body(project)).send().await.expect("an answer");
    if sent.status().as_u16() != 202 {
        return Err(refusal(sent).await);
    }
    let job: Value = sent.json().await.expect("a job");
    Ok(job["id"].as_str().expect("an id").to_owned())
}

async fn ring(http: &Client, url: &str, number: usize) -> Result<(), String> {
    let event = json!({ "object_kind": "build", "build_id": number, "build_status": "pending" });
    let request = http.post(format!("{url}/webhook/job")).header("x-gitlab-token", SECRET).header("x-gitlab-event", "Job Hook");
    let sent = request.header("idempotency-key", number.to_string()).json(&event).send().await.expect("an answer");
    if sent.status().as_u16() == 200 { Ok(()) } else { Err(refusal(sent).await) }
}

async fn flood(url: String, number: usize) -> Tally {
    let (http, mut tally) = (client(), Tally::default());
    for round in 0..ROUNDS {
        let key = |one: usize| format!("{number}-{round}-{one}");
        let submitted = join_all((0..AT_ONCE).map(|one| {
            let (http, url, key) = (&http, &url, key(one));
            async move { (submit(http, url, &key, number % 4).await, key) }
        }));
        let rung = join_all((0..AT_ONCE).map(|one| ring(&http, &url, (number * ROUNDS + round) * AT_ONCE + one)));
        let (submitted, rung) = tokio::join!(submitted, rung);
        for (answer, key) in submitted {
            match answer {
                Ok(id) => drop(tally.accepted.insert(key, id)),
                Err(kind) => *tally.refused.entry(kind).or_default() += 1,
            }
        }
        for answer in rung {
            match answer {
                Ok(()) => tally.rung += 1,
                Err(kind) => *tally.refused.entry(format!("bell: {kind}")).or_default() += 1,
            }
        }
    }
    tally
}

/// Whether this is the health of a daemon that is well but for a store that writes more slowly than its check waits.
fn is_only_slow(text: &str) -> bool {
    let health: Value = serde_json::from_str(text).unwrap_or_default();
    let checks = health["checks"].as_object().into_iter().flatten();
    let mut failing = checks.filter(|(_, check)| check["status"] == "failing").peekable();
    failing.peek().is_some() && failing.all(|(name, check)| name == "store" && check.to_string().contains("did not answer within"))
}

/// Asks how the daemon does until told to stop; answers how often it was asked.
async fn watch(url: String, stop: Arc<AtomicBool>) -> u32 {
    let (http, mut asked) = (client(), 0);
    while !stop.load(Ordering::SeqCst) {
        for path in ["/health", "/metrics"] {
            let begun = Instant::now();
            let answer = tokio::time::timeout(WATCH, http.get(format!("{url}{path}")).send()).await;
            let answer = answer.unwrap_or_else(|_| panic!("{path} is not answered within {WATCH:?}")).expect("an answer");
            let (status, text) = (answer.status().as_u16(), answer.text().await.unwrap_or_default());
            assert!(status == 200 || status == 503 && is_only_slow(&text), "{path} is answered {status} after {:?}: {text}", begun.elapsed());
            asked += 1;
        }
    }
    asked
}

async fn daemon() -> Daemon {
    let rest = format!(
        "[gitlab]\nurl = \"http://127.0.0.1:9\"\n[gitlab.webhook]\nsecret_token = {SECRET:?}\n[limits]\nqueue_per_project = {PER_PROJECT}\nqueue = {IN_ALL}\n\
         [[classes]]\nname = \"default\"\ncpus = 0.5\nmemory = \"32MiB\"\nnetwork = \"none\""
    );
    let daemon = Setup::new("overload").host("cpus = 1").log_filter("warn").with(&rest).start().await;
    daemon.until("it is healthy", Daemon::is_healthy).await;
    daemon
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_is_refused_clearly_loses_nothing_and_hides_the_daemon_from_nobody() {
    let daemon = daemon().await;
    let before = memory(&daemon, "VmRSS");
    let stop = Arc::new(AtomicBool::new(false));
    let tasks = TaskTracker::new();
    let watching = tasks.spawn(watch(daemon.url.clone(), Arc::clone(&stop)));
    let flooding = (0..CLIENTS).map(|number| tasks.spawn(flood(daemon.url.clone(), number)));
    let tallies = try_join_all(flooding).await.expect("every client comes through");
    let (mut accepted, mut refused) = (BTreeMap::new(), BTreeMap::<String, u32>::new());
    for tally in tallies {
        accepted.extend(tally.accepted);
        tally.refused.into_iter().for_each(|(kind, count)| *refused.entry(kind).or_default() += count);
    }
    let asked = CLIENTS * ROUNDS * AT_ONCE;
    assert_eq!(accepted.len() + refused.iter().filter(|(kind, _)| !kind.starts_with("bell")).map(|(_, count)| *count as usize).sum::<usize>(), asked);
    assert!(accepted.len() >= IN_ALL.min(4 * PER_PROJECT) && refused.contains_key("whole-queue-full"), "{} accepted, {refused:?}", accepted.len());
    // A submission that was answered is answered again, however full it is by now.
    for (key, id) in &accepted {
        let project = key.split('-').next().and_then(|number| number.parse::<usize>().ok()).expect("a number") % 4;
        assert_eq!(submit(&client(), &daemon.url, key, project).await.as_ref(), Ok(id));
    }
    large_webhooks(&daemon).await;
    stop.store(true, Ordering::SeqCst);
    assert!(watching.await.expect("it was answered all the time") > 0);
    let cost = memory(&daemon, "VmHWM").saturating_sub(before);
    assert!(cost < MOST_MEMORY_KIB, "the flood cost {cost} KiB beside {before} KiB");
    for id in accepted.values() {
        assert_eq!(daemon.ended(id).await["state"], "succeeded");
    }
    let text = daemon.get("/metrics").await;
    let text = text.as_str().expect("text");
    let told = text.lines().find(|line| line.starts_with("runner_coordinator_http_requests_refused_total{bound=\"whole_queue\"}")).expect("a series");
    assert!(!told.ends_with(" 0"), "{told}");
    daemon.finish().await;
}

/// As many large webhooks at once as there are clients. Those that are refused may see their connection close while they still send.
async fn large_webhooks(daemon: &Daemon) {
    let padding = "x".repeat(LARGE);
    let event = bytes::Bytes::from(json!({ "object_kind": "push", "padding": padding }).to_string());
    let send = |number: usize| {
        let (event, url) = (event.clone(), format!("{}/webhook/job", daemon.url));
        async move {
            let request = client().post(url).header("x-gitlab-token", SECRET).header("idempotency-key", format!("large-{number}"));
            match request.header("content-type", "application/json").body(event).send().await {
                Ok(answer) if answer.status().as_u16() == 200 => "taken",
                Ok(answer) => {
                    assert_eq!(refusal(answer).await, "overloaded");
                    "refused"
                }
                Err(_) => "refused",
            }
        }
    };
    let answers = join_all((0..CLIENTS).map(send)).await;
    assert!(answers.contains(&"taken") && answers.contains(&"refused"), "{answers:?}");
}
