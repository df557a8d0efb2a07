//! Jobs and events as clients see them.

use std::time::Duration;

use super::*;
use crate::domain::{ClassName, CommandWork, Failure, GpuId, HostId, ImageRef, MemoryBytes, Placement, ProjectName, Requirement, RunnerId, Source};
use crate::domain::{Disposition, job::CancelRequest};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_795_000_000 + second).expect("a time")
}

fn job(state: JobState) -> Job {
    let gpus = GpuRequest { vendor: Some(GpuVendor::Nvidia), min_memory: Some(MemoryBytes(16 << 30)), ..GpuRequest::any(1) };
    let requirement = Requirement {
        arch: Some(Arch::Amd64),
        gpus: Some(gpus),
        ..Requirement::plain(ClassName::from_trusted("default"), CpuMillis(2000), MemoryBytes(4 << 30))
    };
    let work = Work::Command(CommandWork {
        image: ImageRef::from_trusted("debian:bookworm"),
        command: vec!["sh".into(), "-c".into(), "make test".into()],
        env: [("CI".to_owned(), "1".to_owned())].into(),
    });
    let spec = JobSpec {
        source: Source::Api,
        project: Some(ProjectName::from_trusted("team/app")),
        requirement,
        timeout: Duration::from_secs(3600),
        priority: 0,
        retries: 0,
        work,
    };
    let placement =
        Placement { cpus: CpuMillis(2000), memory: MemoryBytes(4 << 30), devices: vec![GpuId::from_trusted("GPU-1")], share: None, opened: None };
    let runner = RunnerId::from_trusted("r1");
    let attempt = Attempt { number: 1, runner, host: HostId::from_trusted("box1"), placement, started_at: Some(at(2)), ended: None };
    Job { attempt: Some(attempt), state, ..Job::new(JobId::from_trusted("j1"), spec, at(0)) }
}

#[test]
fn a_running_job_is_shown_as_the_contract_says() {
    insta::assert_json_snapshot!(JobDto::from(job(JobState::Running)));
}

#[test]
fn a_failed_job_says_why() {
    let failure = Failure { reason: EndReason::ExitCode, exit_code: Some(3), detail: None, disposition: Disposition::Job };
    let ended = job(JobState::Ended { at: at(9), outcome: Outcome::Failed(failure) });
    let shown = serde_json::to_value(JobDto::from(ended)).expect("json");
    assert_eq!((&shown["state"], &shown["reason"], &shown["exit_code"]), (&"failed".into(), &"exit_code".into(), &3.into()));
    assert_eq!(shown["finished_at"], at(9).to_string());
}

#[test]
fn a_job_that_waits_again_is_nowhere() {
    let mut waiting = job(JobState::Queued { not_before: Some(at(60)) });
    waiting.cancel = Some(CancelRequest { reason: EndReason::CanceledByUser, at: at(5) });
    let shown = serde_json::to_value(JobDto::from(waiting)).expect("json");
    for field in ["host", "runner_id", "started_at", "finished_at", "reason", "exit_code"] {
        assert!(shown[field].is_null(), "{field} is {}", shown[field]);
    }
    assert_eq!((&shown["attempt"], shown["devices"].as_array().map(Vec::len)), (&1.into(), Some(0)));
    assert_eq!((&shown["not_before"], &shown["cancel_requested_at"]), (&at(60).to_string().into(), &at(5).to_string().into()));
}

#[test]
fn what_a_class_opened_is_shown_and_nothing_is_not_unknown() {
    let of = |state: JobState, opened: Option<Vec<String>>| {
        let mut job = job(state);
        job.attempt.as_mut().expect("an attempt").placement.opened = opened;
        serde_json::to_value(JobDto::from(job)).expect("json")["opened"].clone()
    };
    let open = || Some(vec!["runtime = \"runsc\"".to_owned()]);
    assert_eq!(of(JobState::Running, open()), serde_json::json!(["runtime = \"runsc\""]));
    assert_eq!(of(JobState::Ended { at: at(9), outcome: Outcome::Succeeded }, open()), serde_json::json!(["runtime = \"runsc\""]));
    assert_eq!(of(JobState::Running, Some(Vec::new())), serde_json::json!([]));
    assert_eq!(of(JobState::Running, None), Value::Null);
    assert_eq!(of(JobState::Queued { not_before: None }, open()), Value::Null, "its container is gone");
}

#[test]
fn fractions_of_a_cpu_stay_fractions() {
    assert_eq!([cpus(CpuMillis(2000)), cpus(CpuMillis(250))].map(|number| number.to_string()), ["2", "0.25"]);
}

#[test]
fn every_kind_of_event_is_shown() {
    let failure = Failure { reason: EndReason::ExitCode, exit_code: Some(3), detail: Some("why".into()), disposition: Disposition::Job };
    let kinds = [
        EventKind::Webhook { status: "pending".into() },
        EventKind::Submitted,
        EventKind::ImagePull { progress: "Downloading 1MB of 2MB".into() },
        EventKind::ImageReady { digest: "sha256:1".into() },
        EventKind::ContainerCreated { container: "c1".into(), digest: None, opened: None },
        EventKind::ContainerCreated { container: "c1".into(), digest: None, opened: Some(vec!["runtime = \"runsc\"".into()]) },
        EventKind::CancelRequested { reason: EndReason::CanceledByUser },
        EventKind::StopOrdered { reason: EndReason::TimedOut },
        EventKind::Progress { message: "half".into(), percent: Some(50) },
        EventKind::AttemptEnded { outcome: Outcome::Failed(failure) },
        EventKind::RetryScheduled { not_before: at(60) },
        EventKind::Ended,
    ];
    let shown: Vec<String> = kinds
        .into_iter()
        .zip(1..)
        .map(|(kind, seq)| Event { seq, at: at(seq), job: Some(JobId::from_trusted("j1")), runner: None, attempt: Some(1), kind })
        .map(|event| serde_json::to_string(&EventDto::from(event)).expect("json"))
        .collect();
    insta::assert_snapshot!(shown.join("\n"));
}
