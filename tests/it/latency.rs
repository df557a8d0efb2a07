//! How long it takes from GitLab's bell to the runner's first line in GitLab's trace, beside `docker run` of the same image.
//!
//! `make latency` runs it with `RC_LATENCY_RUNS` and shows the table; `make test` only shows that it still works.

#![expect(clippy::print_stdout, reason = "the table is what `--nocapture` shows")]

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use tokio::time::Instant;

use crate::harness::road::{Road, job};
use crate::harness::{PATIENCE, RUNNER, engine};

fn runs() -> usize {
    let named = std::env::vars().find(|(name, _)| name == "RC_LATENCY_RUNS");
    named.map_or(1, |(_, count)| count.parse().expect("RC_LATENCY_RUNS is a number"))
}

/// The times of one way to start.
struct Times {
    what: &'static str,
    all: Vec<Duration>,
}

impl Times {
    fn of(what: &'static str) -> Self {
        Self { what, all: Vec::new() }
    }

    /// The time below which so many of a hundred lie.
    fn percentile(&self, percent: usize) -> Duration {
        let mut sorted = self.all.clone();
        sorted.sort();
        sorted[(sorted.len() * percent).div_ceil(100).max(1) - 1]
    }

    fn row(&self) -> String {
        let cells = [0, 50, 95, 100].map(|percent| format!("{} ms", self.percentile(percent).as_millis()));
        format!("| {} | {} | {} |", self.what, self.all.len(), cells.join(" | "))
    }
}

/// How one job started.
struct Start {
    /// From the bell until its runner had it.
    handed: Duration,
    /// From the bell until GitLab had the first line of its trace.
    traced: Duration,
    /// From the claim until its container ran.
    container: Option<Duration>,
}

/// Lets one job run.
async fn one(road: &Road) -> Start {
    let id = road.gitlab.enqueue(job("latency").script(["echo first"]));
    let rung = Instant::now();
    let (delivery, (handed, traced)) = tokio::join!(road.gitlab.send_job_event(id), async {
        road.reaches(id, PATIENCE, |job| job.updates.iter().any(|update| update.state == "running")).await;
        let handed = rung.elapsed();
        road.reaches(id, PATIENCE, |job| !job.trace.is_empty()).await;
        (handed, rung.elapsed())
    });
    assert_eq!(delivery.status, Some(200));
    road.reaches(id, PATIENCE, |job| job.status.is_final()).await;
    Start { handed, traced, container: container_time(road, id).await }
}

/// How long after its claim the job's container had been started; nothing where it was not started for the job.
async fn container_time(road: &Road, id: i64) -> Option<Duration> {
    let ours = road.ended(id).await;
    let events = road.daemon.get(&format!("/jobs/{}/events", ours["id"].as_str().expect("an id"))).await;
    let at = |kind: &str| {
        let event = events["events"].as_array()?.iter().find(|event| event["kind"] == kind)?;
        event["at"].as_str()?.parse::<jiff::Timestamp>().ok()
    };
    Some(at("container_started")?.duration_since(at("submitted")?).unsigned_abs())
}

/// `docker run --rm` of the same image, in a bridge network as ours, until its first line.
async fn docker_run() -> Duration {
    let run = || {
        let began = std::time::Instant::now();
        let mut child = Command::new("docker")
            .args(["run", "--rm", "--network", "bridge", "--entrypoint", "/bin/sh", RUNNER, "-c", "echo first"])
            .env("DOCKER_HOST", engine::host())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the docker command");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("its output")).read_line(&mut line).expect("a line");
        let took = began.elapsed();
        assert_eq!((line.as_str(), child.wait().expect("it ends").success()), ("first\n", true));
        took
    };
    tokio::task::spawn_blocking(run).await.expect("it ran")
}

async fn is_quiet(road: &Road, waiting: usize) -> bool {
    let runners = road.daemon.get("/runners").await;
    let runners = runners["runners"].as_array().expect("runners");
    runners.len() == waiting && runners.iter().all(|runner| runner["state"] == "idle")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_the_bell_to_the_first_line() {
    let cold = Road::start("latency-cold", "1h", "").await;
    let warm = Road::start("latency-warm", "1h", "warm = 1").await;
    let mut table = [
        "`docker run --rm`, first line",
        "cold: claim to container started",
        "cold: handed to the runner",
        "cold: first line in GitLab's trace",
        "warm: handed to the runner",
        "warm: first line in GitLab's trace",
    ]
    .map(Times::of);
    for _ in 0..runs() {
        for (road, waiting) in [(&cold, 0), (&warm, 1)] {
            road.daemon.until("nothing else is at work", async |_| is_quiet(road, waiting).await).await;
        }
        table[0].all.push(docker_run().await);
        for (road, at) in [(&cold, 2), (&warm, 4)] {
            let start = one(road).await;
            let has_own = start.container.is_some();
            assert_eq!(has_own, at == 2, "a container was started for a job beside a runner that waited\n{}", road.daemon.log());
            table[1].all.extend(start.container);
            table[at].all.push(start.handed);
            table[at + 1].all.push(start.traced);
        }
    }
    println!("\n| what | runs | least | median | p95 | most |\n| --- | --- | --- | --- | --- | --- |");
    for times in &table {
        println!("{}", times.row());
    }
    cold.daemon.finish().await;
    warm.daemon.finish_with_pool().await;
}
