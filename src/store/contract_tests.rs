//! What every store must do, written against the trait, so that each implementation runs the same tests.
//!
//! An implementation calls [`contract_suite`] with a function that opens an empty store and what keeps it alive.

pub(super) mod caps;
pub(super) mod claims;
pub(super) mod gpus;
pub(super) mod images;
pub(super) mod lists;
pub(super) mod operators;
pub(super) mod retention;
pub(super) mod shares;
pub(super) mod steps;
pub(super) mod submissions;
pub(super) mod usage;

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use super::{Candidate, NewJob, Store, Submission};
use crate::domain::requirement::Placement;
use crate::domain::*;

/// Makes one test of each rule. `$open` is a function without arguments whose future answers `(store, guard)`.
macro_rules! contract_suite {
    ($open:path: $($module:ident { $($rule:ident),* $(,)? })*) => {
        $($(
            #[tokio::test]
            async fn $rule() {
                let (store, _guard) = $open().await;
                crate::store::contract_tests::$module::$rule(&store).await;
            }
        )*)*
    };
}

/// Every rule, once: `every_rule!(open_function)`.
macro_rules! every_rule {
    ($open:path) => {
        crate::store::contract_tests::contract_suite! { $open:
            submissions { a_job_is_stored_with_its_event, a_repeated_key_gives_the_same_job, a_job_of_gitlab_is_taken_once, a_job_that_is_submitted_once_more_is_there,
                          a_full_queue_refuses_only_its_project,
                          a_whole_queue_that_is_full_refuses_everybody_but_who_was_accepted, a_job_of_gitlab_is_found_by_its_id_there,
                          deliveries_are_remembered_until_forgotten }
            claims { the_best_job_goes_first, a_claim_stores_job_runner_attempt_and_event, no_job_is_claimed_twice,
                     a_warm_runner_gets_the_best_job_of_gitlab_of_its_class,
                     a_job_that_needs_a_fresh_runner_is_claimed_and_never_assigned, waiting_shows_the_best_head_first,
                     the_jobs_ahead_are_those_that_would_be_claimed_before }
            shares { a_single_job_does_not_wait_for_a_crowd, projects_take_turns_by_weight, turns_that_were_cancelled_are_not_counted,
                     a_project_that_was_away_saved_no_turns, runners_that_wait_take_jobs_in_turns_too }
            caps { a_project_starts_no_more_jobs_than_it_may, gpus_are_limited_too, limits_that_change_move_what_waits,
                   a_runner_that_waits_takes_no_job_of_a_project_at_its_limit }
            steps { a_whole_life_is_written, a_refused_step_changes_nothing, an_unknown_runner_is_told, a_retry_keeps_its_place,
                    what_a_class_opened_is_kept_with_each_attempt, cancelling_depends_on_the_state, what_only_the_broker_needs_is_forgotten_at_the_end, notes_go_into_the_history,
                    changes_tick_after_a_change_and_only_then }
            usage { ended_attempts_are_added_to_their_project_once, the_day_forgets_and_the_sum_does_not,
                    what_an_attempt_used_is_kept_and_final_with_its_end }
            operators { a_drain_is_remembered_by_host_until_it_is_over, a_retry_knows_its_job_and_is_found_by_it,
                        the_delivery_that_rang_begins_the_history_of_its_job }
            retention { what_ended_long_ago_goes_with_all_that_belongs_to_it, of_many_jobs_the_youngest_are_kept,
                        what_repeats_a_job_outlives_it, positions_in_the_history_go_on_after_a_gap,
                        turns_are_forgotten_when_nobody_waits }
            images { images_are_remembered_by_host_and_by_their_last_use }
            gpus { gpus_are_remembered_by_host_until_forgotten }
            lists { pages_stay_the_same_while_jobs_come, filters_select, open_runners_are_of_one_host_and_not_gone, counts_count, the_queue_is_grouped,
                    classes_have_queues_of_their_own,
                    events_are_in_order, the_latest_event_of_a_job_is_found }
        }
    };
}
pub(crate) use {contract_suite, every_rule};

/// A time so many milliseconds after an arbitrary one.
pub(crate) fn t(millis: i64) -> Timestamp {
    Timestamp::from_millisecond(1_700_000_000_000 + millis).expect("a time")
}

/// A requirement that differs by its class and its processor time.
pub(crate) fn requirement(class: &str, cpus: u64) -> Requirement {
    let class = ClassName::from_trusted(class);
    Requirement::plain(class, CpuMillis(cpus), MemoryBytes(1 << 30))
}

/// Two steps more, and nothing of a runner is left.
pub(crate) const OFF: [Step; 2] = [Step::Exited, Step::Removed];

/// A command for the API.
pub(crate) fn command(requirement: Requirement, priority: i32) -> NewJob {
    let work = CommandWork { image: ImageRef::from_trusted("debian"), command: vec!["true".to_owned()], env: BTreeMap::new() };
    let timeout = Duration::from_millis(3_600_500);
    let work = Work::Command(work);
    let spec = JobSpec { source: Source::Api, project: None, requirement, timeout, priority, retries: 1, work };
    NewJob {
        job: Job::new(JobId::generate(), spec, t(0)),
        gitlab: None,
        idempotency: None,
        weight: 1,
        queue_limit: 10_000,
        whole_queue_limit: u32::MAX,
    }
}

/// A job of GitLab.
pub(crate) fn gitlab(requirement: Requirement, priority: i32, job_id: u64) -> NewJob {
    let mut new = command(requirement, priority);
    let name = Some("build".to_owned());
    let reference = GitLabRef { project_id: Some(1), name, ..GitLabRef::bare("https://gitlab.example.com", job_id) };
    new.job.spec.source = Source::GitLab;
    new.job.spec.work = Work::GitLab(reference.clone());
    new.gitlab = Some(GitLabJob { reference, token: "glcbt-secret".to_owned(), payload: "{\"id\":1}".to_owned() });
    new
}

/// The same, for a project.
pub(crate) fn of_project(mut new: NewJob, project: &str) -> NewJob {
    new.job.spec.project = Some(ProjectName::from_trusted(project));
    new
}

/// Stores a job that must be new.
pub(crate) async fn created(store: &dyn Store, new: NewJob) -> Job {
    match store.submit(new).await.expect("stored") {
        Submission::Created(job) => *job,
        other => panic!("not created: {other:?}"),
    }
}

/// A planned runner on `box1`.
pub(crate) fn planned(class: &str, origin: RunnerOrigin) -> Runner {
    let placement =
        Placement { cpus: CpuMillis(1000), memory: MemoryBytes(1 << 30), devices: vec![GpuId::from_trusted("GPU-1")], share: None, opened: None };
    Runner::planned(RunnerId::generate(), ClassName::from_trusted(class), HostId::from_trusted("box1"), origin, placement, t(0))
}

/// A candidate for every requirement for which jobs wait.
pub(crate) async fn candidates(store: &dyn Store) -> Vec<Candidate> {
    let waiting = store.waiting().await.expect("the queue");
    waiting
        .into_iter()
        .map(|waiting| Candidate { requirement: waiting.id, runner: planned(waiting.requirement.class.as_str(), RunnerOrigin::Job) })
        .collect()
}

/// Claims whatever is best.
pub(crate) async fn claim(store: &dyn Store, at: i64) -> Option<Aggregate> {
    let candidates = candidates(store).await;
    store.claim(&candidates, t(at)).await.expect("a claim")
}

/// A policy that tries again twice, after a second and after two.
pub(crate) const RETRY: RetryPolicy =
    RetryPolicy { infrastructure_retries: 2, backoff: Duration::from_secs(1), backoff_max: Duration::from_secs(60) };

/// Takes steps that must all be taken.
pub(crate) async fn take(store: &dyn Store, runner: &RunnerId, steps: impl IntoIterator<Item = Step>, at: i64) -> Aggregate {
    let mut last = None;
    for step in steps {
        last = Some(store.apply(runner, step.clone(), t(at)).await.unwrap_or_else(|error| panic!("{step:?}: {error}")));
    }
    last.expect("a step")
}

/// The steps by which a command comes to run.
pub(crate) fn up() -> [Step; 3] {
    [Step::ContainerCreated { container: "c1".to_owned(), image: None, opened: Vec::new() }, Step::StartSent { engine_epoch: 7 }, Step::Started]
}

/// The attempt's end.
pub(crate) fn ended(outcome: Outcome) -> Step {
    Step::JobEnded { outcome, retry: RETRY }
}

/// The names of a job's events.
pub(super) async fn history(store: &dyn Store, job: &JobId) -> Vec<&'static str> {
    let query = super::EventQuery { job: Some(job.clone()), after: 0, limit: 1000 };
    store.events(query).await.expect("events").iter().map(|event| event.kind.name()).collect()
}
