//! What happens to runners and their jobs.

use super::*;
use crate::domain::job::CancelEffect;
use crate::store::{EventQuery, StoreError};

pub(in crate::store) async fn a_whole_life_is_written(store: &dyn Store) {
    let job = created(store, command(requirement("default", 1000), 0)).await.id;
    let runner = claim(store, 1).await.expect("a job").runner.id;
    let life = up().into_iter().chain([ended(Outcome::Succeeded), Step::Exited, Step::Removed]);
    for (at, step) in (10..).zip(life) {
        let after = take(store, &runner, [step], at).await;
        assert_eq!(store.runner(&runner).await.expect("read"), Some(after.clone()));
        assert_eq!(store.job(&job).await.expect("read"), after.job);
    }
    let stored = store.job(&job).await.expect("read").expect("a job");
    assert_eq!(stored.state, JobState::Ended { at: t(13), outcome: Outcome::Succeeded });
    let attempt = stored.attempt.expect("an attempt");
    assert_eq!((attempt.started_at, attempt.ended.clone()), (Some(t(12)), Some((t(13), Outcome::Succeeded))));
    assert_eq!(store.attempts(&job).await.expect("read"), [attempt]);
    let expected = ["submitted", "claimed", "container_created", "container_started", "attempt_ended", "ended", "runner_removed"];
    assert_eq!(history(store, &job).await, expected);
}

pub(in crate::store) async fn a_refused_step_changes_nothing(store: &dyn Store) {
    let job = created(store, command(requirement("default", 1000), 0)).await.id;
    let runner = claim(store, 1).await.expect("a job").runner.id;
    let before = (store.runner(&runner).await.expect("read"), store.job(&job).await.expect("read"), history(store, &job).await);
    for step in [Step::Started, Step::StartSent { engine_epoch: 1 }, Step::Exited, Step::Removed] {
        assert!(matches!(store.apply(&runner, step.clone(), t(9)).await, Err(StoreError::Refused(_))), "{step:?}");
        let after = (store.runner(&runner).await.expect("read"), store.job(&job).await.expect("read"), history(store, &job).await);
        assert_eq!(after, before, "after {step:?}");
    }
}

pub(in crate::store) async fn an_unknown_runner_is_told(store: &dyn Store) {
    let nobody = RunnerId::generate();
    assert!(matches!(store.apply(&nobody, Step::Started, t(0)).await, Err(StoreError::UnknownRunner(id)) if id == nobody));
    assert!(matches!(store.note(&nobody, EventKind::Adopted, t(0)).await, Err(StoreError::UnknownRunner(id)) if id == nobody));
    assert_eq!(store.runner(&nobody).await.expect("read"), None);
}

pub(in crate::store) async fn a_retry_keeps_its_place(store: &dyn Store) {
    let first = created(store, command(requirement("default", 1000), 0)).await.id;
    let second = created(store, command(requirement("default", 1000), 0)).await.id;
    assert_eq!(store.promote_due(t(0)).await.expect("promoted"), None);
    let runner = claim(store, 1).await.expect("a job").runner.id;
    let after = take(store, &runner, [ended(Outcome::infrastructure(EndReason::StartFailed, "no"))], 100).await;
    assert_eq!(after.job.expect("a job").state, JobState::Queued { not_before: Some(t(1100)) });
    assert_eq!(store.waiting().await.expect("the queue")[0].jobs, 1, "one is backing off");
    assert_eq!(store.promote_due(t(1099)).await.expect("promoted"), Some(t(1100)));
    assert_eq!(store.waiting().await.expect("the queue")[0].jobs, 1, "still");
    assert_eq!(store.promote_due(t(1100)).await.expect("promoted"), None);
    let again = claim(store, 1200).await.expect("a job");
    assert_eq!(again.runner.job, Some((first.clone(), 2)), "ahead of {second}");
    assert_eq!(store.runner(&runner).await.expect("read").expect("a runner").job, None, "the old runner has lost it");
    let numbers: Vec<_> = store.attempts(&first).await.expect("read").iter().map(|a| (a.number, a.ended.is_some())).collect();
    assert_eq!(numbers, [(1, true), (2, false)]);
    // A late word of the old runner cannot touch the new attempt.
    take(store, &runner, [Step::Exited, Step::Removed], 1300).await;
    assert_eq!(store.job(&first).await.expect("read"), again.job);
}

pub(in crate::store) async fn cancelling_depends_on_the_state(store: &dyn Store) {
    let by_user = EndReason::CanceledByUser;
    assert!(store.cancel_job(&JobId::generate(), by_user, t(0)).await.expect("an answer").is_none());
    let waits = created(store, command(requirement("default", 1000), 0)).await.id;
    let cancel = async |id: &JobId, at| store.cancel_job(id, by_user, t(at)).await.expect("an answer").expect("a job");
    let (job, effect) = cancel(&waits, 1).await;
    assert_eq!((job.state.name(), effect), ("canceled", CancelEffect::Ended));
    assert_eq!(cancel(&waits, 2).await, (job.clone(), CancelEffect::AlreadyEnded));
    assert_eq!(store.job(&waits).await.expect("read"), Some(job));
    assert_eq!(history(store, &waits).await, ["submitted", "cancel_requested", "ended"]);
    assert!(claim(store, 3).await.is_none(), "nothing can start it any more");

    let runs = created(store, command(requirement("default", 1000), 0)).await.id;
    let runner = claim(store, 3).await.expect("a job").runner.id;
    assert_eq!(cancel(&runs, 4).await.1, CancelEffect::Requested);
    let (job, effect) = cancel(&runs, 5).await;
    assert_eq!((job.cancel.map(|cancel| cancel.at), effect), (Some(t(4)), CancelEffect::AlreadyRequested));
    let after = take(store, &runner, [ended(Outcome::infrastructure(EndReason::HostLost, "gone"))], 6).await.job.expect("a job");
    assert_eq!((after.state.name(), after.infrastructure_failures), ("canceled", 0));
    assert_eq!(history(store, &runs).await, ["submitted", "claimed", "cancel_requested", "attempt_ended", "ended"]);

    let backs_off = created(store, command(requirement("default", 1000), 0)).await.id;
    let runner = claim(store, 7).await.expect("a job").runner.id;
    take(store, &runner, [ended(Outcome::infrastructure(EndReason::StartFailed, "no"))], 8).await;
    assert_eq!(cancel(&backs_off, 9).await.1, CancelEffect::Ended);
    assert_eq!(store.promote_due(t(99_999)).await.expect("promoted"), None);
    assert!(claim(store, 99_999).await.is_none());
}

pub(in crate::store) async fn what_only_the_broker_needs_is_forgotten_at_the_end(store: &dyn Store) {
    let new = gitlab(requirement("default", 1000), 0, 1);
    let job = created(store, new.clone()).await.id;
    assert_eq!(store.gitlab_job(&job).await.expect("read"), new.gitlab);
    let runner = claim(store, 1).await.expect("a job").runner.id;
    take(store, &runner, [ended(Outcome::infrastructure(EndReason::StartFailed, "no"))], 2).await;
    assert_eq!(store.gitlab_job(&job).await.expect("read"), new.gitlab, "it is tried again");
    store.promote_due(t(9000)).await.expect("promoted");
    let runner = claim(store, 9000).await.expect("a job").runner.id;
    take(store, &runner, [ended(Outcome::final_failure(EndReason::ImageUnavailable, "no"))], 9001).await;
    assert_eq!(store.gitlab_job(&job).await.expect("read"), None);
    let canceled = created(store, gitlab(requirement("default", 1000), 0, 2)).await.id;
    store.cancel_job(&canceled, EndReason::CanceledInGitlab, t(1)).await.expect("canceled");
    assert_eq!(store.gitlab_job(&canceled).await.expect("read"), None);
    assert_eq!(store.gitlab_job(&JobId::generate()).await.expect("read"), None);
}

pub(in crate::store) async fn notes_go_into_the_history(store: &dyn Store) {
    let job = created(store, command(requirement("default", 1000), 0)).await.id;
    let runner = claim(store, 1).await.expect("a job").runner.id;
    let kind = EventKind::Progress { message: "half".to_owned(), percent: Some(50) };
    store.note(&runner, kind.clone(), t(5)).await.expect("noted");
    let events = store.events(EventQuery { job: Some(job.clone()), after: 0, limit: 10 }).await.expect("events");
    let last = events.last().expect("an event");
    assert_eq!((&last.kind, &last.job, &last.runner, last.attempt, last.at), (&kind, &Some(job), &Some(runner), Some(1), t(5)));
}

pub(in crate::store) async fn changes_tick_after_a_change_and_only_then(store: &dyn Store) {
    let mut changes = store.changes();
    changes.mark_unchanged();
    store.ping().await.expect("a ping");
    store.promote_due(t(0)).await.expect("promoted");
    assert!(claim(store, 0).await.is_none());
    assert!(!changes.has_changed().expect("open"), "nothing has changed");
    let job = created(store, command(requirement("default", 1000), 0)).await;
    // The tick may come just after the answer.
    changes.changed().await.expect("a tick");
    assert_eq!(store.waiting().await.expect("the queue").len(), 1, "{} is there by then", job.id);
}

pub(in crate::store) async fn what_a_class_opened_is_kept_with_each_attempt(store: &dyn Store) {
    let made = |container: &str, opened: &[&str]| Step::ContainerCreated {
        container: container.to_owned(),
        image: None,
        opened: opened.iter().map(|text| (*text).to_owned()).collect(),
    };
    let opened = async |job: &JobId| -> Vec<Option<Vec<String>>> {
        let attempts = store.attempts(job).await.expect("read");
        let latest = store.job(job).await.expect("read").and_then(|job| job.attempt);
        assert_eq!(attempts.last(), latest.as_ref());
        attempts.into_iter().map(|attempt| attempt.placement.opened).collect()
    };
    let job = created(store, command(requirement("default", 1000), 0)).await.id;
    let first = claim(store, 1).await.expect("a job").runner.id;
    assert_eq!(opened(&job).await, [None], "there is no container yet");
    take(store, &first, [made("c1", &["network = \"open\"", "a; b, \u{e9}"])], 2).await;
    let open = Some(vec!["network = \"open\"".to_owned(), "a; b, \u{e9}".to_owned()]);
    assert_eq!(opened(&job).await, std::slice::from_ref(&open));
    assert_eq!(store.runner(&first).await.expect("read").expect("a runner").runner.placement.opened, open);
    let crashed = ended(Outcome::infrastructure(EndReason::StartFailed, "no"));
    take(store, &first, [crashed, Step::Exited, Step::Removed], 3).await;
    store.promote_due(t(5000)).await.expect("promoted");
    let second = claim(store, 5000).await.expect("again").runner.id;
    take(store, &second, [made("c2", &[]), Step::StartSent { engine_epoch: 1 }, Step::Started, ended(Outcome::Succeeded)], 5001).await;
    assert_eq!(opened(&job).await, [open.clone(), Some(Vec::new())], "the second attempt opened nothing");

    // The container of a runner that waits is made before any job.
    let warm = planned("warm", RunnerOrigin::Pool);
    store.plan_runner(&warm).await.expect("stored");
    take(store, &warm.id, [made("c3", &["network = \"open\"", "a; b, \u{e9}"]), Step::StartSent { engine_epoch: 1 }, Step::Reported], 5002).await;
    let job = created(store, gitlab(requirement("warm", 1000), 0, 7)).await.id;
    store.assign(&warm.id, t(5003)).await.expect("assigned").expect("a job");
    assert_eq!(opened(&job).await, [open]);
}
