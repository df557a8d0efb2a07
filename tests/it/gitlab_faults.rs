//! GitLab goes away for a while, in every way it can, under jobs that run, wait and end: nothing is lost, nothing is done twice, and
//! work goes on with the first good answer.
//!
//! `RC_OUTAGE_SECONDS` says how long it is away; a few seconds unless told.

#![expect(clippy::print_stdout, reason = "how long it took is what `--nocapture` shows")]

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use crate::gitlab::{JobView, Outage, Status};
use crate::harness::road::{Road, job};
use crate::harness::{Daemon, pause};

/// Longest wait of ours between two questions to a GitLab that fails, spread included.
const BACKOFF_MAX: Duration = Duration::from_secs(18);
/// Longest wait for an answer to the question for a job.
const ANSWER: Duration = Duration::from_secs(30);
/// Longest wait for GitLab to take a part of a trace.
const TRACE: Duration = Duration::from_secs(60);
/// What a machine that is shared may add to anything.
const SLACK: Duration = Duration::from_secs(30);
/// Lines that a job writes in a second.
const LINES: u64 = 5;

fn outage_seconds() -> u64 {
    let named = std::env::vars().find(|(name, _)| name == "RC_OUTAGE_SECONDS");
    named.map_or(6, |(_, seconds)| seconds.parse().expect("RC_OUTAGE_SECONDS is a number"))
}

/// A script that writes that many lines, evenly, and the last one at its end.
fn lines(count: u64) -> String {
    format!("i=0; while [ $i -lt {count} ]; do i=$((i+1)); echo line $i; sleep 0.2; done; echo over")
}

/// All that the script writes, each line once and in its order.
fn assert_whole(job: &JobView, count: u64) {
    let expected = (1..=count).fold(String::new(), |text, line| format!("{text}line {line}\n")) + "over\n";
    let after_command = job.trace.split_once("echo over\n").map(|(_, written)| written).unwrap_or_default();
    assert!(after_command.starts_with(&expected), "the trace is not what the job wrote:\n{}", job.trace);
}

/// Whether each kind of call that a running daemon makes has met the outage.
fn everything_met(calls: &[String]) -> bool {
    let met = |method: &str, end: &str| calls.iter().any(|call| call.starts_with(method) && call.ends_with(end));
    met("POST", "/jobs/request") && met("PATCH", "/trace") && calls.iter().any(|call| call.starts_with("PUT"))
}

/// Lets GitLab be away as told; `hangs` is how long one call may outlive the outage.
async fn survives(name: &str, outage: Outage, hangs: Duration) {
    let length = Duration::from_secs(outage_seconds());
    let road = Road::start(name, "1s", "").await;
    let through_lines = LINES * (outage_seconds() + 6);
    let ends_lines = LINES * (2 + outage_seconds() / 3);
    let through = road.gitlab.enqueue(job("through").script([lines(through_lines).as_str()]));
    // A transfer may stand still for 5 minutes, because GitLab works on large ones: that is not waited for here.
    let files = (hangs == Duration::ZERO).then_some("out.txt");
    let ends = road.gitlab.enqueue(job("ends").script([lines(ends_lines).as_str(), "echo made > out.txt"]).artifacts(files));
    let fails = road.gitlab.enqueue(job("fails").script([lines(ends_lines).as_str(), "exit 9"]));
    for id in [through, ends, fails] {
        road.reaches(id, SLACK, |job| job.trace.contains("line 1\n")).await;
    }
    let mut before = road.containers();

    let began = Instant::now();
    road.gitlab.begin_outage(outage);
    let waits = road.gitlab.enqueue(job("waits").script(["echo waited"]));
    while began.elapsed() < length || !everything_met(&road.gitlab.met_outage()) {
        let met = road.gitlab.met_outage();
        assert!(began.elapsed() < length + SLACK, "not everything met the outage: {met:?}\n{}", road.daemon.log());
        pause().await;
    }
    let mut meanwhile = road.containers();
    before.sort();
    meanwhile.sort();
    // A job whose end could not be told keeps its container: that is where the word will come from.
    assert_eq!(meanwhile, before, "a container was lost in the outage\n{}", road.daemon.log());
    assert_eq!(road.gitlab.job(waits).n_assigned, 0);
    let met = road.gitlab.end_outage().len();

    let over = Instant::now();
    road.reaches(waits, hangs.min(ANSWER) + BACKOFF_MAX + SLACK, |job| job.status != Status::Pending).await;
    let resumed = over.elapsed();
    assert!(resumed <= hangs.min(ANSWER) + BACKOFF_MAX, "asked again only {resumed:?} after the outage\n{}", road.daemon.log());
    for (id, status, count) in [(through, Status::Success, through_lines), (ends, Status::Success, ends_lines), (fails, Status::Failed, ends_lines)] {
        // One call may hang where the outage began and one after it, each with its own patience.
        let done = road.reaches(id, hangs * 2 + length + SLACK, |job| job.status.is_final()).await;
        assert_eq!((done.status, done.n_assigned), (status, 1), "{done:?}\n{}", road.daemon.log());
        assert_whole(&done, count);
        same_on_both_sides(&road, &done).await;
    }
    let told = over.elapsed();
    let failed = road.gitlab.job(fails);
    assert_eq!((failed.failure_reason.as_deref(), failed.exit_code), (Some("script_failure"), Some(9)));
    assert_eq!(road.gitlab.job(ends).artifacts.is_empty(), files.is_none(), "the artifact did not get through");
    let waited = road.reaches(waits, SLACK, |job| job.status.is_final()).await;
    assert_eq!((waited.status, waited.n_assigned), (Status::Success, 1), "{waited:?}");
    same_on_both_sides(&road, &waited).await;
    println!("{name}: {met} calls met it; asked for work {resumed:.1?} after it, everything told {told:.1?} after it");
    road.daemon.finish().await;
}

/// Our record and log of a job are GitLab's.
async fn same_on_both_sides(road: &Road, theirs: &JobView) {
    let ours = road.ended(theirs.id).await;
    let state = if theirs.status == Status::Success { "succeeded" } else { "failed" };
    assert_eq!((&ours["state"], &ours["attempt"]), (&json!(state), &json!(1)), "{ours}\n{}", road.daemon.log());
    assert_eq!(log_of(&road.daemon, &ours["id"]).await, theirs.trace, "our log is GitLab's trace");
}

async fn log_of(daemon: &Daemon, id: &serde_json::Value) -> String {
    daemon.logs(id.as_str().expect("an id")).await
}

#[tokio::test]
async fn gitlab_fails() {
    survives("fault-fails", Outage::Fails, Duration::ZERO).await;
}

#[tokio::test]
async fn gitlab_has_too_much_to_do() {
    survives("fault-429", Outage::TooMany(None), Duration::ZERO).await;
}

#[tokio::test]
async fn gitlab_has_too_much_to_do_and_says_for_how_long() {
    survives("fault-429-for", Outage::TooMany(Some(Duration::from_secs(3))), Duration::ZERO).await;
}

#[tokio::test]
async fn gitlab_does_not_answer() {
    survives("fault-silent", Outage::Silent, TRACE).await;
}

#[tokio::test]
async fn gitlab_breaks_off_in_the_head_of_its_answers() {
    survives("fault-head", Outage::HalfHead, Duration::ZERO).await;
}

#[tokio::test]
async fn gitlab_breaks_off_in_the_body_of_its_answers() {
    survives("fault-body", Outage::HalfBody, Duration::ZERO).await;
}

#[tokio::test]
async fn gitlab_does_what_it_is_told_and_its_answers_are_lost() {
    survives("fault-lost", Outage::LostAnswer, Duration::ZERO).await;
}

#[tokio::test]
async fn a_bell_after_an_outage_is_answered_at_once() {
    let road = Road::start("fault-bell", "1h", "").await;
    road.gitlab.begin_outage(Outage::Fails);
    let id = road.gitlab.enqueue(job("rings").script(["echo rang"]));
    assert_eq!(road.gitlab.send_job_event(id).await.status, Some(200));
    // After four failures the next question is due in 12 s at the earliest.
    road.daemon.until("GitLab failed four times", async |_| road.gitlab.met_outage().len() >= 4).await;
    road.gitlab.end_outage();
    let rung = Instant::now();
    assert_eq!(road.gitlab.send_job_event(id).await.status, Some(200));
    road.reaches(id, SLACK, |job| job.n_assigned > 0).await;
    assert!(rung.elapsed() < Duration::from_secs(8), "asked again only after {:?}", rung.elapsed());
    let done = road.reaches(id, SLACK, |job| job.status.is_final()).await;
    assert_eq!((done.status, done.n_assigned), (Status::Success, 1), "{done:?}");
    road.daemon.finish().await;
}
