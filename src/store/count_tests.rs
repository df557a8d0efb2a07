//! What is counted of the lives of jobs, on the real store.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::domain::*;
use crate::metrics::Format;
use crate::store::contract_tests::{claim, command, created, ended as attempt_ended, gitlab, planned, requirement, t, take, up};
use crate::store::{SqliteStore, Store, StoreError};

struct Bench {
    store: SqliteStore,
    metrics: Arc<Metrics>,
    _dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let metrics = Arc::new(Metrics::new([&ClassName::from_trusted("default")]));
        let store = SqliteStore::open_metered(&dir.path().join("queue.db"), Arc::clone(&metrics)).expect("a store");
        Self { store, metrics, _dir: dir }
    }

    /// The samples of these metrics that are not 0, without our prefix.
    fn samples(&self, names: &[&str]) -> BTreeMap<String, f64> {
        let mut text = String::new();
        self.metrics.write(Format::Prometheus, &mut text).expect("text");
        let lines = text.lines().filter_map(|line| line.strip_prefix("runner_coordinator_")?.rsplit_once(' '));
        let read = lines.map(|(series, value)| (series.to_owned(), value.parse::<f64>().expect("a number")));
        read.filter(|(series, value)| *value != 0.0 && names.iter().any(|name| series.split('{').next() == Some(name))).collect()
    }
}

fn expected(samples: &[(&str, f64)]) -> BTreeMap<String, f64> {
    samples.iter().map(|(series, value)| ((*series).to_owned(), *value)).collect()
}

const ENDS: [&str; 3] = ["jobs_ended_total", "attempts_ended_total", "job_retries_total"];
const TIMES: [&str; 8] = [
    "job_queue_seconds_count",
    "job_queue_seconds_sum",
    "job_wait_seconds_count",
    "job_wait_seconds_sum",
    "job_run_seconds_count",
    "job_run_seconds_sum",
    "runner_start_seconds_count",
    "runner_start_seconds_sum",
];

#[tokio::test]
async fn a_life_is_counted_once_however_often_its_steps_are_repeated() {
    let bench = Bench::new();
    created(&bench.store, command(requirement("default", 1000), 0)).await;
    let runner = claim(&bench.store, 1000).await.expect("a job").runner.id;
    take(&bench.store, &runner, up(), 3000).await;
    take(&bench.store, &runner, [Step::Started], 4000).await;
    let end = || attempt_ended(Outcome::Succeeded);
    take(&bench.store, &runner, [end(), end(), Step::Exited, Step::Removed, Step::Removed], 10_000).await;
    assert_eq!(bench.samples(&["jobs_submitted_total"]), expected(&[("jobs_submitted_total{class=\"default\",source=\"api\"}", 1.0)]));
    let ends = [
        ("jobs_ended_total{class=\"default\",outcome=\"succeeded\",reason=\"\"}", 1.0),
        ("attempts_ended_total{class=\"default\",outcome=\"succeeded\",reason=\"\"}", 1.0),
    ];
    assert_eq!(bench.samples(&ENDS), expected(&ends));
    // Stored at 0, claimed at 1 s, began at 3 s, ended at 10 s; the test's runners are all planned at 0.
    let times = [
        ("job_queue_seconds_count{class=\"default\"}", 1.0),
        ("job_queue_seconds_sum{class=\"default\"}", 1.0),
        ("job_wait_seconds_count{class=\"default\"}", 1.0),
        ("job_wait_seconds_sum{class=\"default\"}", 3.0),
        ("job_run_seconds_count{class=\"default\"}", 1.0),
        ("job_run_seconds_sum{class=\"default\"}", 7.0),
        ("runner_start_seconds_count{class=\"default\"}", 1.0),
        ("runner_start_seconds_sum{class=\"default\"}", 3.0),
    ];
    assert_eq!(bench.samples(&TIMES), expected(&times));
}

#[tokio::test]
async fn retries_are_told_apart_from_ends_and_the_wait_counts_to_the_first_beginning() {
    let bench = Bench::new();
    created(&bench.store, command(requirement("default", 1000), 0)).await;
    let lost = || attempt_ended(Outcome::infrastructure(EndReason::StartFailed, "no"));
    // The first attempt never begins, the second and the third do.
    for at in [1000, 10_000, 20_000] {
        bench.store.promote_due(t(at)).await.expect("promoted");
        let runner = claim(&bench.store, at).await.expect("a job").runner.id;
        if at > 1000 {
            take(&bench.store, &runner, up(), at + 1000).await;
        }
        take(&bench.store, &runner, [lost(), Step::Exited, Step::Removed], at + 3000).await;
    }
    let ends = [
        ("jobs_ended_total{class=\"default\",outcome=\"failed\",reason=\"start_failed\"}", 1.0),
        ("attempts_ended_total{class=\"default\",outcome=\"failed\",reason=\"start_failed\"}", 3.0),
        ("job_retries_total{class=\"default\"}", 2.0),
    ];
    assert_eq!(bench.samples(&ENDS), expected(&ends));
    let times = [
        ("job_queue_seconds_count{class=\"default\"}", 1.0),
        ("job_wait_seconds_count{class=\"default\"}", 1.0),
        ("job_wait_seconds_sum{class=\"default\"}", 11.0),
        ("job_run_seconds_count{class=\"default\"}", 2.0),
        ("job_run_seconds_sum{class=\"default\"}", 4.0),
    ];
    let shown = ["job_queue_seconds_count", "job_wait_seconds_count", "job_wait_seconds_sum", "job_run_seconds_count", "job_run_seconds_sum"];
    assert_eq!(bench.samples(&shown), expected(&times));
}

#[tokio::test]
async fn what_is_refused_repeated_or_of_no_configured_class_makes_no_series_of_its_own() {
    let bench = Bench::new();
    let twice = gitlab(requirement("gone", 1000), 0, 7);
    created(&bench.store, twice.clone()).await;
    bench.store.submit(crate::store::NewJob { job: Job { id: JobId::generate(), ..twice.job.clone() }, ..twice }).await.expect("the same job");
    let job = created(&bench.store, command(requirement("gone too", 1000), 0)).await.id;
    for _ in 0..2 {
        bench.store.cancel_job(&job, EndReason::CanceledByUser, t(5)).await.expect("cancelled");
    }
    let runner = planned("default", RunnerOrigin::Request);
    bench.store.plan_runner(&runner).await.expect("stored");
    assert!(matches!(bench.store.apply(&runner.id, Step::Started, t(6)).await, Err(StoreError::Refused(_))));
    bench.store.note(&runner.id, EventKind::ContainerStarted, t(250)).await.expect("noted");
    bench.store.assign(&runner.id, t(7)).await.expect("none of its class");
    let all = [
        ("jobs_submitted_total{class=\"unconfigured\",source=\"gitlab\"}", 1.0),
        ("jobs_submitted_total{class=\"unconfigured\",source=\"api\"}", 1.0),
        ("jobs_ended_total{class=\"unconfigured\",outcome=\"canceled\",reason=\"canceled_by_user\"}", 1.0),
        ("runner_start_seconds_sum{class=\"default\"}", 0.25),
        ("store_operation_errors_total{operation=\"take_a_step\",kind=\"refused\"}", 1.0),
        ("store_operation_seconds_count{operation=\"cancel_a_job\"}", 2.0),
        ("store_operation_seconds_count{operation=\"store_a_job\"}", 3.0),
        ("store_operation_seconds_count{operation=\"take_a_step\"}", 1.0),
    ];
    let names = ["jobs_submitted_total", "jobs_ended_total", "attempts_ended_total", "runner_start_seconds_sum", "job_wait_seconds_count"];
    let shown = bench.samples(&[&names[..], &["store_operation_errors_total"]].concat());
    let operations = bench.samples(&["store_operation_seconds_count"]);
    for (series, value) in all {
        assert_eq!(shown.get(series).or_else(|| operations.get(series)), Some(&value), "{series}: {shown:?} {operations:?}");
    }
    assert_eq!(shown.len(), 5, "{shown:?}");
}

#[tokio::test]
async fn a_caller_who_went_away_is_counted_all_the_same() {
    let bench = Bench::new();
    let submitted = || bench.samples(&["jobs_submitted_total"]).values().sum::<f64>();
    {
        let mut asked = bench.store.submit(command(requirement("default", 1000), 0));
        let polled = futures_util::poll!(asked.as_mut());
        assert!(polled.is_pending(), "it was answered before its commit");
    }
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while submitted() < 1.0 {
        assert!(tokio::time::Instant::now() < deadline, "the job was stored and not counted");
        bench.store.ping().await.expect("the writer goes on");
    }
    assert_eq!(bench.store.counts().await.expect("counts").jobs, [("queued".to_owned(), 1)]);
}

#[test]
fn a_clock_that_was_set_back_makes_no_negative_times() {
    assert_eq!(between(t(1000), t(0)), Duration::ZERO);
    assert_eq!(between(t(0), t(1500)), Duration::from_millis(1500));
}
