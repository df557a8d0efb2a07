//! The exporter alone, on a real store: what it sends, what it drops, and where it goes on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use runner_coordinator::config::Traces;
use runner_coordinator::domain::*;
use runner_coordinator::store::{NewJob, SqliteStore, Store, Submission};
use runner_coordinator::traces::cursor::Cursor;
use runner_coordinator::traces::{Collector as Receiver, Exporter, Parts};
use tokio_util::sync::CancellationToken;

use crate::harness::collector::Collector;
use crate::harness::{PATIENCE, pause};

struct Bench {
    store: Arc<SqliteStore>,
    collector: Collector,
    dir: tempfile::TempDir,
    sample: f64,
    max_backlog: i64,
}

impl Bench {
    async fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Arc::new(SqliteStore::open(&dir.path().join("a.db")).expect("a store"));
        Self { store, collector: Collector::start(0).await, dir, sample: 1.0, max_backlog: 100_000 }
    }

    /// A job that was cancelled while it waited: two entries beside its submission, and complete.
    async fn cancelled(&self) -> String {
        let command = vec!["true".to_owned()];
        let work = Work::Command(CommandWork { image: ImageRef::from_trusted("x"), command, env: BTreeMap::new() });
        let requirement = Requirement::plain(ClassName::from_trusted("default"), CpuMillis(100), MemoryBytes(1 << 24));
        let timeout = Duration::from_secs(60);
        let spec = JobSpec { source: Source::Api, project: None, requirement, timeout, priority: 0, retries: 0, work };
        let job = Job::new(JobId::generate(), spec, SystemClock.now());
        let new = NewJob { job, gitlab: None, idempotency: None, weight: 1, queue_limit: 1_000_000, whole_queue_limit: u32::MAX };
        let Ok(Submission::Created(job)) = self.store.submit(new).await else { panic!("it is stored") };
        self.store.cancel_job(&job.id, EndReason::CanceledByUser, SystemClock.now()).await.expect("cancelled");
        job.id.to_string()
    }

    /// Runs an exporter until something is so.
    async fn run_until(&self, what: &str, so: impl Fn(&Collector) -> bool) {
        let traces = Traces { endpoint: format!("http://127.0.0.1:{}", self.collector.port), headers: Vec::new(), sample: self.sample };
        let store: Arc<dyn Store> = Arc::clone(&self.store) as _;
        let cursor = Cursor::new(self.dir.path().join("traces.json"), store.instance());
        let collector = Receiver::new(&traces).expect("a collector");
        let parts = Parts { store, collector, cursor, sample: self.sample, service: Vec::new(), max_backlog: self.max_backlog };
        let exporter = Exporter::new(parts).await.expect("an exporter");
        let stop = CancellationToken::new();
        let watched = async {
            let deadline = tokio::time::Instant::now() + PATIENCE;
            while !so(&self.collector) {
                assert!(tokio::time::Instant::now() < deadline, "not so in time: {what}");
                pause().await;
            }
            stop.cancel();
        };
        tokio::join!(exporter.run(stop.clone()), watched);
    }

    async fn place(&self) -> Option<i64> {
        Cursor::new(self.dir.path().join("traces.json"), self.store.instance()).read().await
    }

    fn came(&self, job: &str) -> usize {
        self.collector.spans_of(job).iter().filter(|span| span.name == "job").count()
    }
}

#[tokio::test]
async fn the_first_run_begins_now_and_the_next_goes_on_where_it_was() {
    let bench = Bench::new().await;
    let before = bench.cancelled().await;
    bench.run_until("it has a place", |_| bench.dir.path().join("traces.json").exists()).await;
    let (first, second) = (bench.cancelled().await, bench.cancelled().await);
    // One that is told to stop before it has noted its place sends the batch again.
    let noted = || std::fs::read(bench.dir.path().join("traces.json")).expect("its place");
    let place = noted();
    bench.run_until("both came", |_| bench.came(&first) + bench.came(&second) == 2 && noted() != place).await;
    assert_eq!((bench.came(&before), bench.collector.asked()), (0, 1), "what ended before nobody asked for; the others go together");
    let third = bench.cancelled().await;
    bench.run_until("the third came", |_| bench.came(&third) == 1).await;
    assert_eq!((bench.came(&first), bench.came(&second)), (1, 1), "nothing comes twice without need");
    assert_eq!(bench.place().await, Some(bench.store.newest_event().await.expect("a position")));
}

#[tokio::test]
async fn many_jobs_come_in_many_batches_and_each_once() {
    let bench = Bench::new().await;
    bench.run_until("it has a place", |_| bench.dir.path().join("traces.json").exists()).await;
    let mut jobs = Vec::new();
    for _ in 0..600 {
        jobs.push(bench.cancelled().await);
    }
    bench.run_until("the last came", |_| bench.came(jobs.last().expect("one")) == 1).await;
    assert!(jobs.iter().all(|job| bench.came(job) == 1) && bench.collector.asked() > 3, "{} requests", bench.collector.asked());
}

#[tokio::test]
async fn what_is_refused_is_dropped_and_what_is_behind_it_comes() {
    let bench = Bench::new().await;
    bench.run_until("it has a place", |_| bench.dir.path().join("traces.json").exists()).await;
    let refused = bench.cancelled().await;
    bench.collector.answer(StatusCode::BAD_REQUEST);
    bench.run_until("it was refused", |collector| collector.asked() == 1).await;
    bench.collector.answer(StatusCode::OK);
    let next = bench.cancelled().await;
    bench.run_until("the next came", |_| bench.came(&next) == 1).await;
    assert!(bench.came(&refused) <= 1);
}

#[tokio::test]
async fn what_is_too_far_behind_is_dropped() {
    let mut bench = Bench::new().await;
    bench.run_until("it has a place", |_| bench.dir.path().join("traces.json").exists()).await;
    let mut jobs = Vec::new();
    for _ in 0..10 {
        jobs.push(bench.cancelled().await);
    }
    // Each job has three entries.
    bench.max_backlog = 6;
    bench.run_until("the last came", |_| bench.came(&jobs[9]) == 1).await;
    let came: Vec<usize> = jobs.iter().map(|job| bench.came(job)).collect();
    assert_eq!(came, [0, 0, 0, 0, 0, 0, 0, 0, 1, 1]);
}

#[tokio::test]
async fn nothing_is_sent_of_jobs_that_are_not_sampled() {
    let mut bench = Bench::new().await;
    bench.run_until("it has a place", |_| bench.dir.path().join("traces.json").exists()).await;
    bench.sample = 0.0;
    let id = bench.cancelled().await;
    let newest = bench.store.newest_event().await.expect("a position");
    let path = bench.dir.path().join("traces.json");
    let at_end = |_: &Collector| std::fs::read_to_string(&path).is_ok_and(|text| text.contains(&format!("\"after\":{newest}")));
    bench.run_until("it read to the end", at_end).await;
    assert_eq!((bench.came(&id), bench.collector.asked()), (0, 0));
}
