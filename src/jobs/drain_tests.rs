//! What a drained machine keeps, ends and gives back, over every state.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use super::*;
use crate::domain::{
    Attempt, ClassName, CommandWork, CpuMillis, GitLabRef, HostId, ImageRef, JobSpec, MemoryBytes, Outcome, Placement, Requirement, RunnerId,
    RunnerOrigin, Work,
};

fn placement() -> Placement {
    Placement { cpus: CpuMillis(1000), memory: MemoryBytes(1 << 30), devices: Vec::new(), share: None, opened: None }
}

fn runner(id: &str, state: RunnerState, job: Option<&str>) -> Aggregate {
    let class = ClassName::from_trusted("gitlab");
    let host = HostId::from_trusted("box1");
    let runner = Runner::planned(RunnerId::from_trusted(id), class, host, RunnerOrigin::Pool, placement(), Timestamp::UNIX_EPOCH);
    Aggregate::new(Runner { state, job: job.map(|job| (JobId::from_trusted(job), 1)), ..runner }, None)
}

#[test]
fn only_runners_without_work_end_and_none_twice() {
    let states = [
        ("starting", RunnerState::Starting { start_sent: None }),
        ("started", RunnerState::Starting { start_sent: Some(Timestamp::UNIX_EPOCH) }),
        ("idle", RunnerState::Idle),
        ("busy", RunnerState::Busy),
        ("stopping", RunnerState::Stopping { reason: None }),
        ("lost", RunnerState::Lost { reason: EndReason::HostLost }),
        ("gone", RunnerState::Gone { reason: None }),
    ];
    let open: Vec<Aggregate> =
        states.iter().flat_map(|(name, state)| [runner(name, *state, None), runner(&format!("{name} with a job"), *state, Some("j1"))]).collect();
    let ended: Vec<&str> = superfluous(&open).map(|runner| runner.id.as_str()).collect();
    assert_eq!(ended, ["starting", "started", "idle"]);
}

fn job(source: Source) -> Job {
    let work = match source {
        Source::GitLab => Work::GitLab(GitLabRef::bare("https://gitlab.example.com", 7)),
        Source::Api => Work::Command(CommandWork { image: ImageRef::from_trusted("debian"), command: vec!["true".to_owned()], env: BTreeMap::new() }),
    };
    let requirement = Requirement::plain(ClassName::from_trusted("gitlab"), CpuMillis(1000), MemoryBytes(1 << 30));
    let spec = JobSpec { source, project: None, requirement, timeout: Duration::from_secs(60), priority: 0, retries: 0, work };
    Job::new(JobId::from_trusted("j1"), spec, Timestamp::UNIX_EPOCH)
}

#[test]
fn only_what_waits_untouched_and_gitlab_still_asks_about_goes_back() {
    let waiting = job(Source::GitLab);
    assert!(goes_back(&waiting, Claim::Reserved));
    for claim in [Claim::Taken, Claim::NotReachable, Claim::Gone(EndReason::CanceledInGitlab)] {
        assert!(!goes_back(&waiting, claim), "{claim:?}");
    }
    assert!(!goes_back(&job(Source::Api), Claim::Reserved));
    let ended = JobState::Ended { at: Timestamp::UNIX_EPOCH, outcome: Outcome::Succeeded };
    for state in [JobState::Starting, JobState::Running, ended] {
        assert!(!goes_back(&Job { state: state.clone(), ..waiting.clone() }, Claim::Reserved), "{state:?}");
    }
    let attempt = Attempt {
        number: 1,
        runner: RunnerId::from_trusted("r1"),
        host: HostId::from_trusted("box1"),
        placement: placement(),
        started_at: None,
        ended: Some((Timestamp::UNIX_EPOCH, Outcome::infrastructure(EndReason::StartFailed, "no"))),
    };
    assert!(!goes_back(&Job { attempt: Some(attempt), ..waiting }, Claim::Reserved), "it has begun here before");
}
