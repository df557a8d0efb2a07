//! Histories of every shape, written by the rules of the domain itself, and the spans that come out of them.

use std::collections::BTreeSet;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use proptest::prelude::*;

use super::*;
use crate::domain::*;
use crate::traces::otlp;

#[path = "spans_fixture.rs"]
mod fixture;
use fixture::{Life, failed, t};

/// `name start+length`, children further in, a `!` behind what failed.
fn drawn(trace: &Trace) -> Vec<String> {
    let depth = |span: &Span| match span.parent {
        None => 0,
        Some(parent) if parent == trace.spans[0].id => 1,
        Some(_) => 2,
    };
    let line = |span: &Span| {
        let since = span.start.as_millisecond() - t(0).as_millisecond();
        let length = span.end.as_millisecond() - span.start.as_millisecond();
        let mark = if matches!(span.status, Status::Error(_)) { " !" } else { "" };
        format!("{}{} {since}+{length}{mark}", "  ".repeat(depth(span)), span.name)
    };
    trace.spans.iter().map(line).collect()
}

fn attribute<'t>(span: &'t Span, key: &str) -> Option<&'t Content> {
    span.attributes.iter().find(|(name, _)| *name == key).map(|(_, content)| content)
}

#[test]
fn a_command_that_is_tried_again_shows_both_attempts_and_the_wait() {
    let mut life = Life::new(Source::Api);
    life.later(10).claim(RunnerOrigin::Job);
    life.later(5).note(EventKind::ImagePull { progress: "half".to_owned() });
    life.later(15).note(EventKind::ImageReady { digest: "d".to_owned() });
    life.later(4).created();
    life.later(6).started();
    life.later(100).end(failed(Disposition::Infrastructure, EndReason::ContainerLost));
    life.later(20).removed();
    assert!(!life.is_complete(), "there will be another attempt");
    life.later(1480).claim(RunnerOrigin::Job);
    life.later(3).created();
    life.later(3).started();
    life.later(50).end(Outcome::Succeeded);
    assert!(!life.is_complete(), "its container is still there");
    life.later(7).removed();
    assert!(life.is_complete());
    let trace = life.trace();
    let expected = [
        "job 0+1703",
        "  queue 0+10",
        "  retry wait 140+1000",
        "  queue 1140+500",
        "  attempt 10+150 !",
        "    image pull 10+20",
        "    create 30+4",
        "    start 34+6",
        "    run 40+100 !",
        "    remove 140+20",
        "  attempt 1640+63",
        "    create 1640+3",
        "    start 1643+3",
        "    run 1646+50",
        "    remove 1696+7",
    ];
    assert_eq!(drawn(&trace), expected);
    assert_eq!(trace.id.to_string(), life.job.id.as_str());
    let [root, .., attempt, _, _, _, _] = trace.spans.as_slice() else { panic!("spans") };
    assert_eq!(attribute(root, "cicd.pipeline.task.run.result"), Some(&text("success")));
    assert_eq!(attribute(root, "process.exit.code"), Some(&Content::Number(0)));
    assert_eq!(attribute(root, "host.name"), Some(&text("box1")));
    assert_eq!(attribute(attempt, "runner_coordinator.devices"), Some(&Content::Texts(vec!["GPU-1".to_owned()])));
    assert_eq!(attribute(attempt, "runner_coordinator.attempt"), Some(&Content::Number(2)));
}

#[test]
fn a_job_of_gitlab_begins_with_its_webhook_and_is_named_as_the_conventions_say() {
    let mut life = Life::new(Source::GitLab);
    life.later(10).claim(RunnerOrigin::Job);
    life.later(1).created();
    life.later(1).step(&Step::StartSent { engine_epoch: 0 });
    life.later(9).step(&Step::HandedOver);
    // Written after the runner was faster.
    life.later(1).note(EventKind::ContainerStarted);
    life.later(99).end(failed(Disposition::Job, EndReason::ExitCode));
    life.later(2).removed();
    assert!(life.is_complete());
    let trace = life.trace();
    let expected = [
        "job -40+163 !",
        "  webhook -40+40",
        "  queue 0+10",
        "  attempt 10+113 !",
        "    create 10+1",
        "    hand over 11+10",
        "    run 21+100 !",
        "    remove 121+2",
    ];
    assert_eq!(drawn(&trace), expected);
    let root = &trace.spans[0];
    for (key, value) in [
        ("cicd.pipeline.task.run.id", "77"),
        ("cicd.pipeline.task.run.url.full", "https://gitlab.test/team/app/-/jobs/77"),
        ("cicd.pipeline.run.id", "5"),
        ("cicd.pipeline.task.run.result", "failure"),
        ("error.type", "exit_code"),
        ("runner_coordinator.job.source", "gitlab"),
    ] {
        assert_eq!(attribute(root, key), Some(&text(value)), "{key}");
    }
    assert_eq!(root.status, Status::Error("exit_code: as it was told".to_owned()));
}

#[test]
fn a_runner_that_waited_begins_with_the_hand_over() {
    let mut life = Life::new(Source::GitLab);
    life.later(8).claim(RunnerOrigin::Pool);
    life.later(2).step(&Step::HandedOver);
    life.later(1).end(Outcome::Succeeded);
    life.later(5).removed();
    let expected = ["job -40+56", "  webhook -40+40", "  queue 0+8", "  attempt 8+8", "    hand over 8+2", "    run 10+1", "    remove 11+5"];
    assert_eq!(drawn(&life.trace()), expected);
}

#[test]
fn an_attempt_that_ends_early_says_at_what() {
    type Course = fn(&mut Life);
    let courses: [(Source, Course, &str); 6] = [
        (Source::Api, |life| life.note(EventKind::ImagePull { progress: String::new() }), "image pull"),
        (Source::Api, |_| {}, "create"),
        (Source::Api, Life::created, "start"),
        (
            Source::Api,
            |life| {
                life.created();
                life.started();
            },
            "run",
        ),
        (
            Source::GitLab,
            |life| {
                life.created();
                life.started();
            },
            "hand over",
        ),
        (Source::GitLab, Life::created, "start"),
    ];
    for (source, course, name) in courses {
        let mut life = Life::new(source);
        life.claim(RunnerOrigin::Job);
        course(&mut life);
        life.end(failed(Disposition::Final, EndReason::StartFailed));
        let trace = life.trace();
        let failed: Vec<&str> = trace.spans.iter().filter(|span| matches!(span.status, Status::Error(_))).map(|span| span.name).collect();
        assert_eq!(failed, ["job", "attempt", name]);
        assert_eq!(attribute(&trace.spans[0], "cicd.pipeline.task.run.result"), Some(&text("error")));
    }
}

#[test]
fn a_job_that_is_cancelled_while_it_waits_is_complete_at_once() {
    let mut life = Life::new(Source::Api);
    life.later(30).cancel();
    assert!(life.is_complete());
    assert_eq!(drawn(&life.trace()), ["job 0+30", "  queue 0+30"]);
    let mut tried = Life::new(Source::Api);
    tried.claim(RunnerOrigin::Job);
    tried.end(failed(Disposition::Infrastructure, EndReason::ContainerLost));
    tried.later(5).cancel();
    assert!(!tried.is_complete(), "its first container is still there");
    tried.later(5).removed();
    assert!(tried.is_complete());
    assert_eq!(attribute(&tried.trace().spans[0], "cicd.pipeline.task.run.result"), Some(&text("cancellation")));
}

#[test]
fn every_end_has_its_result() {
    let of = |disposition, reason| result(&failed(disposition, reason));
    assert_eq!(of(Disposition::Job, EndReason::TimedOut), "timeout");
    assert_eq!(of(Disposition::Job, EndReason::OutOfMemory), "failure");
    assert_eq!(of(Disposition::Infrastructure, EndReason::HostLost), "error");
    assert_eq!(of(Disposition::Final, EndReason::ImageUnavailable), "error");
}

/// One thing that may happen; what the domain refuses does not.
#[derive(Debug, Clone)]
enum Act {
    Claim(RunnerOrigin),
    Pull,
    Ready,
    Created,
    Started,
    Handed,
    Stop,
    End(Outcome),
    Cancel,
    Removed,
}

fn acts() -> impl Strategy<Value = Vec<(i64, Act)>> {
    let dispositions = prop::sample::select(vec![Disposition::Job, Disposition::Infrastructure, Disposition::Final]);
    let reasons = prop::sample::select(EndReason::ALL.to_vec());
    let outcome = prop_oneof![
        2 => Just(Outcome::Succeeded),
        4 => (dispositions, reasons.clone()).prop_map(|(disposition, reason)| failed(disposition, reason)),
        1 => reasons.prop_map(|reason| Outcome::Canceled { reason, detail: None }),
    ];
    let act = prop_oneof![
        4 => prop::sample::select(vec![RunnerOrigin::Job, RunnerOrigin::Pool]).prop_map(Act::Claim),
        1 => Just(Act::Pull),
        1 => Just(Act::Ready),
        4 => Just(Act::Created),
        4 => Just(Act::Started),
        2 => Just(Act::Handed),
        1 => Just(Act::Stop),
        4 => outcome.prop_map(Act::End),
        1 => Just(Act::Cancel),
        4 => Just(Act::Removed),
    ];
    // A clock may be set back.
    prop::collection::vec((-50..2000_i64, act), 0..40)
}

fn lived(source: Source, acts: Vec<(i64, Act)>) -> Life {
    let mut life = Life::new(source);
    for (millis, act) in acts {
        life.later(millis);
        match act {
            // As in the store: the job's old runner may outlive the claim of a new one, but here one is looked after at a time.
            Act::Claim(origin) => life.claim(origin),
            Act::Pull => life.note(EventKind::ImagePull { progress: "some".to_owned() }),
            Act::Ready => life.note(EventKind::ImageReady { digest: "d".to_owned() }),
            Act::Created => life.created(),
            Act::Started => life.started(),
            Act::Handed => life.step(&Step::HandedOver),
            Act::Stop => life.step(&Step::StopOrdered { reason: EndReason::RunnerTerminated }),
            Act::End(outcome) => life.end(outcome),
            Act::Cancel => life.cancel(),
            Act::Removed => life.removed(),
        }
    }
    life
}

/// What must hold of every trace.
fn check(life: &Life, trace: &Trace) -> Result<(), TestCaseError> {
    let ids: BTreeSet<String> = trace.spans.iter().map(|span| span.id.to_string()).collect();
    prop_assert_eq!(ids.len(), trace.spans.len(), "ids are unique");
    prop_assert!(trace.spans[0].parent.is_none() && trace.spans[0].name == "job");
    for span in &trace.spans {
        prop_assert!(span.start <= span.end, "{:?}", span);
        let Some(parent) = span.parent else { continue };
        let around = trace.spans.iter().find(|other| other.id == parent).expect("the parent is in the trace");
        prop_assert!(around.start <= span.start && span.end <= around.end, "{} in {}: {:?}", span.name, around.name, drawn(trace));
    }
    let attempts = trace.spans.iter().filter(|span| span.name == "attempt").count();
    prop_assert_eq!(attempts, life.attempts.len());
    let failed = matches!(&life.job.state, JobState::Ended { outcome: Outcome::Failed(_), .. });
    prop_assert_eq!(matches!(trace.spans[0].status, Status::Error(_)), failed);
    prop_assert_eq!(trace, &life.trace(), "the same history gives the same trace");
    Ok(())
}

proptest! {
    #[test]
    fn whatever_happens_the_spans_nest(is_gitlab: bool, acts in acts()) {
        let life = lived(if is_gitlab { Source::GitLab } else { Source::Api }, acts);
        check(&life, &life.trace())?;
    }

    #[test]
    fn at_most_one_entry_completes_a_trace(is_gitlab: bool, acts in acts()) {
        let life = lived(if is_gitlab { Source::GitLab } else { Source::Api }, acts);
        let completing = life.events.iter().filter(|event| completes(event.seq, &life.events)).count();
        let gone = life.events.iter().filter(|event| event.kind == EventKind::RunnerRemoved).count() == life.attempts.len();
        prop_assert_eq!(completing, usize::from(life.job.has_ended() && gone));
    }

    #[test]
    fn the_official_crate_reads_what_is_sent(is_gitlab: bool, acts in acts()) {
        let life = lived(if is_gitlab { Source::GitLab } else { Source::Api }, acts);
        let trace = life.trace();
        let request = otlp::request(&[("service.name", text("x"))], std::slice::from_ref(&trace));
        let read: ExportTraceServiceRequest = serde_json::from_str(&request.to_string()).expect("OTLP");
        let spans = &read.resource_spans[0].scope_spans[0].spans;
        prop_assert_eq!(spans.len(), trace.spans.len());
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        for (read, sent) in spans.iter().zip(&trace.spans) {
            prop_assert_eq!((hex(&read.trace_id), hex(&read.span_id)), (trace.id.to_string(), sent.id.to_string()));
            prop_assert_eq!(hex(&read.parent_span_id), sent.parent.map(|id| id.to_string()).unwrap_or_default());
            prop_assert_eq!((read.name.as_str(), i128::from(read.start_time_unix_nano)), (sent.name, sent.start.as_nanosecond()));
            prop_assert_eq!(i128::from(read.end_time_unix_nano), sent.end.as_nanosecond());
            prop_assert_eq!((read.attributes.len(), read.kind), (sent.attributes.len(), 1));
            let code = read.status.as_ref().map_or(0, |status| status.code);
            prop_assert_eq!(code, if matches!(sent.status, Status::Error(_)) { 2 } else { 0 });
        }
    }
}
