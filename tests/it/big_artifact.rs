//! A large artifact goes through the broker both ways, and the coordinator's memory stays as it was.
//!
//! `RC_ARTIFACT_MB` says how large in MB (10^6 bytes); 100 unless told.

#![expect(clippy::print_stdout, reason = "the figures are what `--nocapture` shows")]

use std::time::Duration;

use futures_util::StreamExt as _;
use reqwest::{Body, StatusCode};
use tokio::time::Instant;

use crate::gitlab::big::{Sum, archive};
use crate::harness::road::{Road, job};
use crate::harness::{PATIENCE, client};

/// What the coordinator's memory may grow by.
const MOST_GROWTH: u64 = 16 << 20;
/// Between two looks at the memory.
const SAMPLE: Duration = Duration::from_millis(5);

fn megabytes() -> u64 {
    let named = std::env::vars().find(|(name, _)| name == "RC_ARTIFACT_MB");
    named.map_or(100, |(_, count)| count.parse().expect("RC_ARTIFACT_MB is a number"))
}

/// A process's own memory, in bytes: what it allocated, without the files it maps.
fn memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("RssAnon");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
}

/// Does something, and tells the most that the process's memory was meanwhile.
async fn watched<T>(pid: u32, work: impl Future<Output = T>) -> (T, u64) {
    let mut most = memory(pid);
    let mut looks = tokio::time::interval(SAMPLE);
    tokio::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return (done, most.max(memory(pid))),
            _ = looks.tick() => most = most.max(memory(pid)),
        }
    }
}

/// What a runner's process was given under a name.
fn given<'t>(trace: &'t str, name: &str) -> &'t str {
    trace.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('=')).expect("the runner's environment is in the trace")
}

#[tokio::test]
async fn a_large_artifact_takes_no_room_in_the_coordinator() {
    let size = megabytes() * 1_000_000;
    let road = Road::start("big-artifact", "1s", "").await;
    let id = road.gitlab.enqueue(job("large").script(["tr '\\0' '\\n' < /proc/1/environ", "echo ready; sleep 600"]));
    let running = road.reaches(id, PATIENCE, |job| job.trace.contains("\nready\n")).await;
    let url = format!("{}/api/v4/jobs/{id}/artifacts", given(&running.trace, "CI_SERVER_URL").trim_end_matches('/'));
    let token = running.job_token.clone();
    let pid = road.daemon.pid();
    let before = memory(pid);

    let mut sum = Sum::default();
    let mut parts = Box::pin(archive(size));
    while let Some(part) = parts.next().await {
        sum.add(&part.expect("made up"));
    }
    let hash = sum.finish();
    let form =
        [b"--edge\r\nContent-Disposition: form-data; name=\"file\"; filename=\"artifacts.zip\"\r\n\r\n".to_vec(), b"\r\n--edge--\r\n".to_vec()];
    let [head, tail] = form.map(|part| futures_util::stream::iter([Ok(axum::body::Bytes::from(part))]));
    let body = Body::wrap_stream(head.chain(archive(size)).chain(tail));
    let upload = client().post(&url).header("job-token", &token).header("content-type", "multipart/form-data; boundary=edge").body(body).send();
    let began = Instant::now();
    let (answer, most_up) = watched(pid, upload).await;
    let up = began.elapsed();
    assert_eq!(answer.expect("an answer").status(), StatusCode::CREATED, "{}", road.daemon.log());
    let kept = road.gitlab.job(id).artifacts.remove(0);
    assert_eq!((kept.size, &kept.sha256), (size, &hash), "the archive in GitLab is not the one that was sent");

    let began = Instant::now();
    let download = async {
        let answer = client().get(&url).header("job-token", &token).send().await.expect("an answer");
        assert_eq!(answer.status(), StatusCode::OK);
        let (mut sum, mut parts) = (Sum::default(), answer.bytes_stream());
        while let Some(part) = parts.next().await {
            sum.add(&part.expect("the whole archive"));
        }
        (sum.size, sum.finish())
    };
    let (got, most_down) = watched(pid, download).await;
    let down = began.elapsed();
    assert_eq!(got, (size, hash), "the archive that came back is another");
    let growth = most_up.max(most_down).saturating_sub(before);
    let mib = |bytes: u64| format!("{} KiB", bytes >> 10);
    println!(
        "{} MB: up in {up:.1?}, down in {down:.1?}; memory {} before, at most {} up and {} down",
        megabytes(),
        mib(before),
        mib(most_up),
        mib(most_down)
    );
    assert!(growth < MOST_GROWTH, "the coordinator grew by {}", mib(growth));
    road.gitlab.cancel(id);
    road.reaches(id, PATIENCE, |job| job.status.is_final()).await;
    road.daemon.finish().await;
}
