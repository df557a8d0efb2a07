//! Every step in every state, and long random lives: what must never happen does not.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::domain::job::{CancelEffect, CancelRequest, CommandWork, JobSpec, Source, Work};
use crate::domain::requirement::{Placement, Requirement};
use crate::domain::{ClassName, CpuMillis, GitLabRef, HostId, ImageRef, JobId, MemoryBytes, RunnerId};

fn t(millis: i64) -> Timestamp {
    Timestamp::from_millisecond(1_700_000_000_000 + millis).expect("a time")
}

const POLICY: RetryPolicy = RetryPolicy { infrastructure_retries: 2, backoff: Duration::from_secs(10), backoff_max: Duration::from_secs(15) };

fn job(source: Source, retries: u32) -> Job {
    let class = ClassName::from_trusted("default");
    let requirement = Requirement::plain(class, CpuMillis(1000), MemoryBytes(1));
    let work = match source {
        Source::Api => Work::Command(CommandWork { image: ImageRef::from_trusted("debian"), command: vec!["true".to_owned()], env: BTreeMap::new() }),
        Source::GitLab => Work::GitLab(GitLabRef::bare("https://gitlab.example.com", 1)),
    };
    let spec = JobSpec { source, project: None, requirement, timeout: Duration::from_secs(60), priority: 0, retries, work };
    Job::new(JobId::from_trusted("j"), spec, t(0))
}

fn runner(id: &str, origin: RunnerOrigin) -> Runner {
    let placement = Placement { cpus: CpuMillis(1000), memory: MemoryBytes(1), devices: Vec::new(), share: None, opened: None };
    Runner::planned(RunnerId::from_trusted(id), ClassName::from_trusted("default"), HostId::from_trusted("h"), origin, placement, t(0))
}

fn crashed() -> Outcome {
    Outcome::infrastructure(EndReason::ContainerLost, "gone")
}

fn exit(code: i64) -> Outcome {
    Outcome::Failed(crate::domain::Failure { reason: EndReason::ExitCode, exit_code: Some(code), detail: None, disposition: Disposition::Job })
}

fn ended(outcome: Outcome) -> Step {
    Step::JobEnded { outcome, retry: POLICY }
}

fn created() -> Step {
    Step::ContainerCreated { container: "c".to_owned(), image: None, opened: Vec::new() }
}

/// Every step once, with a name.
fn steps() -> Vec<(&'static str, Step)> {
    vec![
        ("created", created()),
        ("start sent", Step::StartSent { engine_epoch: 1 }),
        ("started", Step::Started),
        ("reported", Step::Reported),
        ("handed over", Step::HandedOver),
        ("stop", Step::StopOrdered { reason: EndReason::RunnerTerminated }),
        ("lost", Step::Lost { reason: EndReason::HostLost }),
        ("succeeded", ended(Outcome::Succeeded)),
        ("crashed", ended(crashed())),
        ("exited", Step::Exited),
        ("removed", Step::Removed),
    ]
}

/// Every state of a runner.
fn runner_states() -> Vec<(&'static str, RunnerState)> {
    vec![
        ("planned", RunnerState::Starting { start_sent: None }),
        ("sent", RunnerState::Starting { start_sent: Some(t(1)) }),
        ("idle", RunnerState::Idle),
        ("busy", RunnerState::Busy),
        ("stopping", RunnerState::Stopping { reason: Some(EndReason::TimedOut) }),
        ("lost", RunnerState::Lost { reason: EndReason::HostLost }),
        ("gone", RunnerState::Gone { reason: None }),
    ]
}

/// No job, and every state of one that belongs to the runner.
fn jobs(source: Source) -> Vec<(&'static str, Option<Job>)> {
    let attempt = |ended| {
        let placement = runner("r", RunnerOrigin::Job).placement;
        Attempt { number: 1, runner: RunnerId::from_trusted("r"), host: HostId::from_trusted("h"), placement, started_at: None, ended }
    };
    let with = |state: JobState, ended: Option<Outcome>| {
        let attempt = attempt(ended.map(|outcome| (t(2), outcome)));
        Some(Job { state, attempt: Some(attempt), ..job(source, 0) })
    };
    let cancel = |job: Option<Job>| job.map(|job| Job { cancel: Some(CancelRequest { reason: EndReason::CanceledByUser, at: t(1) }), ..job });
    vec![
        ("none", None),
        ("starting", with(JobState::Starting, None)),
        ("starting, cancel", cancel(with(JobState::Starting, None))),
        ("running", with(JobState::Running, None)),
        ("running, cancel", cancel(with(JobState::Running, None))),
        ("queued again", with(JobState::Queued { not_before: Some(t(9)) }, Some(crashed()))),
        ("ended", with(JobState::Ended { at: t(2), outcome: Outcome::Succeeded }, Some(Outcome::Succeeded))),
    ]
}

fn aggregate(state: RunnerState, job: Option<Job>) -> Aggregate {
    let mut runner = runner("r", RunnerOrigin::Job);
    runner.state = state;
    runner.container = matches!(state, RunnerState::Starting { start_sent: Some(_) } | RunnerState::Idle | RunnerState::Busy).then(|| "c".into());
    runner.job = job.as_ref().map(|job| (job.id.clone(), 1));
    Aggregate::new(runner, job)
}

#[test]
fn every_step_in_every_state() {
    let mut table = String::new();
    for source in [Source::Api, Source::GitLab] {
        for (runner, state) in runner_states() {
            for (job, held) in jobs(source) {
                let _ = writeln!(table, "{} job {job}, runner {runner}:", source.as_str());
                for (name, step) in steps() {
                    let before = aggregate(state, held.clone());
                    let mut after = before.clone();
                    let line = match after.apply(&step, t(5)) {
                        Err(_) => {
                            assert_eq!(after, before, "{name} was refused and yet changed something");
                            "refused".to_owned()
                        }
                        Ok(events) if after == before && events.is_empty() => "-".to_owned(),
                        Ok(events) => {
                            let reason = after.runner.state.reason().map_or(String::new(), |reason| format!("({reason})"));
                            let job = after.job.as_ref().map_or("none", |job| job.state.name());
                            let events: Vec<_> = events.iter().map(EventKind::name).collect();
                            format!("runner {}{reason}, job {job}, events [{}]", after.runner.state.name(), events.join(" "))
                        }
                    };
                    let _ = writeln!(table, "  {name:<12} {line}");
                }
            }
        }
    }
    insta::assert_snapshot!(table);
}

#[test]
fn binding_needs_a_free_runner_and_a_waiting_job() {
    for (name, state) in runner_states() {
        let mut free = runner("r", RunnerOrigin::Pool);
        free.state = state;
        let bound = Aggregate::bind(free, job(Source::GitLab, 0), t(3));
        assert_eq!(bound.is_ok(), ["planned", "sent", "idle"].contains(&name), "{name}");
        let Ok((bound, event)) = bound else { continue };
        assert_eq!(event, EventKind::Assigned);
        assert_eq!(bound.runner.state == RunnerState::Busy, name == "idle");
        assert!(Aggregate::bind(bound.runner, job(Source::GitLab, 0), t(4)).is_err(), "it has a job");
    }
    for (name, held) in jobs(Source::Api) {
        let Some(held) = held else { continue };
        let bound = Aggregate::bind(runner("other", RunnerOrigin::Job), held, t(3));
        assert_eq!(bound.is_ok(), name == "queued again", "{name}");
        let Ok((bound, event)) = bound else { continue };
        assert_eq!((event, bound.runner.job), (EventKind::Claimed, Some((JobId::from_trusted("j"), 2))));
    }
}

#[test]
fn a_job_that_moved_on_is_out_of_its_old_runners_reach() {
    let mut old = Aggregate::bind(runner("r", RunnerOrigin::Job), job(Source::Api, 0), t(1)).expect("bound").0;
    old.apply(&ended(crashed()), t(2)).expect("taken");
    let held = old.job.clone().expect("a job");
    let new = Aggregate::bind(runner("new", RunnerOrigin::Job), held, t(3)).expect("bound").0;
    let mut late = Aggregate::new(old.runner, new.job);
    assert_eq!(late.job, None);
    assert_eq!(late.apply(&ended(crashed()), t(4)), Ok(Vec::new()), "told once more after a crash");
    late.apply(&Step::Exited, t(4)).expect("taken");
    late.apply(&Step::Removed, t(4)).expect("taken");
}

#[test]
fn what_a_class_opened_is_told_of_the_container_that_was_made() {
    let created = |container: &str, opened: &[&str]| {
        let opened = opened.iter().map(|text| (*text).to_owned()).collect();
        Step::ContainerCreated { container: container.to_owned(), image: None, opened }
    };
    let open = || Some(vec!["runtime".to_owned()]);
    let of = |aggregate: &Aggregate| aggregate.job.as_ref().and_then(|job| job.attempt.as_ref()).expect("an attempt").placement.opened.clone();
    let mut own = Aggregate::bind(runner("r", RunnerOrigin::Job), job(Source::Api, 0), t(1)).expect("bound").0;
    assert_eq!(of(&own), None);
    let events = own.apply(&created("c", &["runtime"]), t(2)).expect("taken");
    assert_eq!(events, [EventKind::ContainerCreated { container: "c".to_owned(), digest: None, opened: open() }]);
    assert_eq!((of(&own), &own.runner.placement.opened), (open(), &open()));
    own.apply(&created("c", &[]), t(3)).expect("told once more");
    assert_eq!(of(&own), open(), "it was made before");
    own.apply(&created("another", &[]), t(3)).expect("the first one went before it was started");
    assert_eq!(of(&own), Some(Vec::new()));

    // Made before the job came.
    let mut warm = Aggregate::new(runner("w", RunnerOrigin::Pool), None);
    for step in [created("c", &["runtime"]), Step::StartSent { engine_epoch: 1 }, Step::Reported] {
        warm.apply(&step, t(4)).expect("taken");
    }
    assert_eq!(of(&Aggregate::bind(warm.runner, job(Source::GitLab, 0), t(5)).expect("bound").0), open());
}

#[test]
fn back_off_doubles_up_to_its_limit_and_never_overflows() {
    let wait = |failures: u32, policy: &RetryPolicy| {
        let mut job = job(Source::Api, 0);
        job.infrastructure_failures = failures;
        policy.next(&job, &crashed(), t(0))
    };
    assert_eq!(wait(0, &POLICY), Next::RetryAt(t(10_000)));
    assert_eq!(wait(1, &POLICY), Next::RetryAt(t(15_000)), "doubled, but at most so much");
    assert_eq!(wait(2, &POLICY), Next::End);
    let endless = RetryPolicy { infrastructure_retries: u32::MAX, backoff: Duration::MAX, backoff_max: Duration::MAX };
    assert_eq!(wait(u32::MAX - 1, &endless), Next::RetryAt(t(0)), "what no clock can hold is no wait");
}

#[test]
fn whose_failure_it_is_decides_about_another_attempt() {
    let next = |job: &Job, outcome: &Outcome| matches!(POLICY.next(job, outcome, t(0)), Next::RetryAt(_));
    let final_one = Outcome::final_failure(EndReason::ImageUnavailable, "no");
    let canceled = Outcome::Canceled { reason: EndReason::CanceledByUser, detail: None };
    for (source, state, retries, expected) in [
        (Source::Api, JobState::Running, 0, [true, false, false]),
        (Source::Api, JobState::Running, 1, [true, true, false]),
        (Source::GitLab, JobState::Starting, 1, [true, true, false]),
        // GitLab saw it run.
        (Source::GitLab, JobState::Running, 1, [false, false, false]),
    ] {
        let mut job = Job { state, ..job(source, retries) };
        assert_eq!([next(&job, &crashed()), next(&job, &exit(1)), next(&job, &final_one)], expected, "{source:?} {:?}", job.state);
        assert!(!next(&job, &Outcome::Succeeded) && !next(&job, &canceled));
        job.cancel = Some(CancelRequest { reason: EndReason::CanceledByUser, at: t(0) });
        assert!(!next(&job, &crashed()) && !next(&job, &exit(1)), "a cancel wins");
    }
}

#[test]
fn cancelling_in_every_state() {
    let reason = EndReason::CanceledByUser;
    let mut waits = job(Source::Api, 0);
    assert_eq!(waits.cancel(reason, t(1)), CancelEffect::Ended);
    assert_eq!(waits.state, JobState::Ended { at: t(1), outcome: Outcome::Canceled { reason, detail: None } });
    for (name, held) in jobs(Source::Api) {
        let Some(mut held) = held else { continue };
        let before = held.clone();
        let effect = held.cancel(reason, t(7));
        let expected = match name {
            "starting" | "running" => CancelEffect::Requested,
            "starting, cancel" | "running, cancel" => CancelEffect::AlreadyRequested,
            "queued again" => CancelEffect::Ended,
            _ => CancelEffect::AlreadyEnded,
        };
        assert_eq!(effect, expected, "{name}");
        if matches!(effect, CancelEffect::AlreadyEnded | CancelEffect::AlreadyRequested) {
            assert_eq!(held, before, "{name}");
        }
        let again = held.clone();
        held.cancel(EndReason::CanceledInGitlab, t(8));
        assert_eq!(held, again, "the first wish stands: {name}");
    }
}

/// One thing that happens in a random life.
#[derive(Debug, Clone)]
enum Deed {
    Step(Step),
    Cancel,
    /// The job, if it waits, gets a new runner; the old one is kept as long as it is not gone.
    Bind,
    /// The step goes to the runner before the present one.
    Late(Step),
}

fn any_step() -> impl Strategy<Value = Step> {
    let outcome = prop_oneof![Just(Outcome::Succeeded), Just(crashed()), Just(exit(1)), Just(crashed())];
    prop_oneof![6 => proptest::sample::select(steps()).prop_map(|(_, step)| step), 2 => outcome.prop_map(ended)]
}

fn deeds() -> impl Strategy<Value = Vec<Deed>> {
    let deed = prop_oneof![
        12 => any_step().prop_map(Deed::Step), 1 => Just(Deed::Cancel), 6 => Just(Deed::Bind), 2 => any_step().prop_map(Deed::Late),
    ];
    proptest::collection::vec(deed, 0..120)
}

fn number(job: &Job) -> u32 {
    job.attempt.as_ref().map_or(0, |attempt| attempt.number)
}

/// What holds between any state and the next.
fn assert_sound(before: &Aggregate, after: &Aggregate, step: &Step, result: &Result<Vec<EventKind>, Refused>) {
    if result.is_err() {
        assert_eq!(after, before, "a refused step changed something");
    }
    if matches!(before.runner.state, RunnerState::Gone { .. }) {
        assert_eq!(after, before, "gone is final");
    }
    if matches!(after.runner.state, RunnerState::Gone { .. }) {
        assert!(after.job.as_ref().is_none_or(|job| job.attempt.as_ref().is_none_or(|attempt| attempt.ended.is_some())), "gone before its job");
    }
    if let (Some(before), Some(after)) = (&before.job, &after.job) {
        assert!(!before.has_ended() || after == before, "a job that had ended changed");
        assert_eq!(number(after), number(before), "a step began an attempt");
        assert!(before.cancel.is_none() || !matches!(after.state, JobState::Queued { .. }), "a cancelled job went back into the queue");
        let runs = matches!(after.state, JobState::Starting | JobState::Running);
        let open = after.attempt.as_ref().is_some_and(|attempt| attempt.ended.is_none());
        assert_eq!(runs, open, "the job is {} and its attempt is open: {open}", after.state.name());
    }
    if let Some(attempt) = after.job.as_ref().and_then(|job| job.attempt.as_ref()) {
        assert_eq!(attempt.placement, after.runner.placement, "the attempt tells other things of its container than the runner");
    }
    // Starting is refused when it was done, because starting twice would run the job twice; that a container runs is no state of
    // a runner for GitLab, so only its history can show it twice.
    let repeatable = result.is_ok() && !matches!(step, Step::StartSent { .. } | Step::Started);
    if repeatable {
        let mut again = after.clone();
        let repeated = again.apply(step, t(5));
        assert_eq!((repeated, &again), (Ok(Vec::new()), after), "taking {step:?} twice differs");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn random_lives_keep_the_rules(
        deeds in deeds(), source in prop_oneof![Just(Source::Api), Just(Source::GitLab)],
        origin in prop_oneof![Just(RunnerOrigin::Job), Just(RunnerOrigin::Pool)], retries in 0_u32..3,
    ) {
        let mut runners = 0;
        let mut next = move || { runners += 1; runner(&format!("r{runners}"), origin) };
        let mut job = job(source, retries);
        let (mut now, mut before_it) = (Aggregate::new(next(), None), None);
        for deed in deeds {
            let earlier = job.clone();
            match deed {
                Deed::Step(step) => {
                    let before = now.clone();
                    let result = now.apply(&step, t(5));
                    assert_sound(&before, &now, &step, &result);
                    if let Some(changed) = &now.job {
                        job = changed.clone();
                    }
                }
                Deed::Late(step) => {
                    let Some(late) = before_it.as_mut() else { continue };
                    let before: Aggregate = Clone::clone(late);
                    let result = late.apply(&step, t(5));
                    assert_sound(&before, late, &step, &result);
                    prop_assert_eq!(&late.job, &None, "a late step touched the job");
                }
                Deed::Cancel => {
                    job.cancel(EndReason::CanceledByUser, t(5));
                    now = Aggregate::new(now.runner, Some(job.clone()));
                }
                Deed::Bind => {
                    let runner = if now.runner.job.is_none() { now.runner.clone() } else { next() };
                    if let Ok((bound, _)) = Aggregate::bind(runner, job.clone(), t(5)) {
                        job = bound.job.clone().expect("a job");
                        prop_assert_eq!(number(&job), number(&earlier) + 1);
                        if bound.runner.id != now.runner.id {
                            before_it = Some(Aggregate::new(now.runner.clone(), Some(job.clone())));
                        }
                        now = bound;
                    }
                }
            }
            prop_assert!(number(&job) >= number(&earlier), "attempts only grow");
            prop_assert!(!earlier.has_ended() || job == earlier, "an end is final");
            prop_assert!(number(&job) <= 1 + POLICY.infrastructure_retries + retries, "{} attempts", number(&job));
            prop_assert!(job.infrastructure_failures <= POLICY.infrastructure_retries + 1 && job.own_failures <= retries + 1);
        }
    }
}
