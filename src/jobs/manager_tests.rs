//! Whose log is followed, how long a pass waits for who wakes it, and what is done without a manager.

use super::*;
use crate::domain::job::CancelEffect;
use crate::domain::{Arch, ClassName, CpuMillis, EndReason, HostId, MemoryBytes, Placement, Runner, RunnerOrigin, SystemClock};
use crate::jobs::deps::fixture;
use crate::metrics::Metrics;
use crate::store::SqliteStore;
use crate::store::contract_tests::{command, created, gitlab, requirement};

#[tokio::test]
async fn a_runner_that_is_being_ended_gets_no_follower_that_nobody_takes() {
    let dir = tempfile::tempdir().expect("a directory");
    let (deps, seat) = fixture::deps(dir.path(), Arc::default());
    let mut manager = JobManager::new(deps, seat, 1 << 32);
    let job = command(requirement("default", 1000), 0).job;
    let placement = Placement { cpus: CpuMillis(1), memory: MemoryBytes(1), devices: Vec::new(), share: None, opened: None };
    let (id, class, host) = (RunnerId::from_trusted("r1"), ClassName::from_trusted("default"), HostId::from_trusted("box1"));
    let planned = Runner::planned(id.clone(), class, host, RunnerOrigin::Pool, placement, Timestamp::UNIX_EPOCH);
    let aggregate = Aggregate { runner: Runner { state: RunnerState::Busy, job: Some((job.id.clone(), 1)), ..planned }, job: Some(job) };
    manager.ensure_follower(&aggregate);
    manager.shared.followers.take(&id).expect("it runs").abort();
    manager.operations.begin(&manager.shared, aggregate.clone(), Action::Finish);
    manager.ensure_follower(&aggregate);
    assert!(manager.shared.followers.take(&id).is_none());
}

#[test]
fn what_is_sent_on_and_on_does_not_put_the_next_pass_off() {
    let (wake, mut woken) = mpsc::channel(2 * WAKE_QUEUE);
    for _ in 0..=WAKE_QUEUE {
        wake.try_send(Wake::Look).expect("there is room");
    }
    assert_eq!(gathered(&mut woken).len(), WAKE_QUEUE);
    assert_eq!(gathered(&mut woken).len(), 1, "and the rest comes after the pass");
}

#[tokio::test(start_paused = true)]
async fn a_waiting_job_of_gitlab_is_cancelled_without_a_manager_too() {
    let store: Arc<dyn Store> = Arc::new(SqliteStore::in_memory(Arc::new(Metrics::default())).expect("a store"));
    let facts = HostFacts {
        id: HostId::from_trusted("box1"),
        arch: Some(Arch::Amd64),
        cpus: CpuMillis(1000),
        memory: MemoryBytes(1 << 30),
        emulated: Vec::new(),
        gpus: Vec::new(),
        notes: Vec::new(),
        runtimes: Vec::new(),
    };
    let (handle, seat) = channel(Arc::clone(&store), Arc::new(SystemClock), Arc::new(Vitals::default()), facts);
    drop(seat);
    let job = created(store.as_ref(), gitlab(requirement("default", 1000), 0, 7)).await;
    let cancel = handle.cancel(&job.id, EndReason::CanceledInGitlab);
    let cancelled = tokio::time::timeout(Duration::from_secs(60), cancel).await.expect("an answer").expect("a store");
    assert!(matches!(cancelled, Some((job, CancelEffect::Ended)) if job.has_ended()));
}
