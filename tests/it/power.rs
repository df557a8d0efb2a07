//! The power fails: what the disk has at that moment is all that is left. The disk is a file, so what has reached it can be looked at while what
//! the kernel still keeps in memory is lost, as it would be.

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::loop_disk::LoopDisk;
use crate::harness::{BUSYBOX, Setup};

/// More than are written in one second, and few enough to lie in one write-ahead log.
const JOBS: usize = 40;

#[tokio::test]
async fn what_was_answered_before_the_power_failed_is_there_when_it_is_back() {
    let files = TempDir::with_prefix("rc-power-images-").expect("a directory");
    let (image, left) = (files.path().join("disk"), files.path().join("left"));
    let disk = LoopDisk::make(&image);
    // Nothing runs: only what is accepted counts.
    let setup = |disk: &LoopDisk| Setup::new("power").docker_host("unix:///nowhere/docker.sock").data(&disk.path("data"));
    let mut daemon = setup(&disk).start().await;
    let mut accepted = Vec::new();
    for _ in 0..JOBS {
        accepted.push(daemon.submit(json!({ "image": BUSYBOX, "command": ["true"] })).await);
    }
    // The moment of the failure: nobody writes while the copy is made.
    let pid = i32::try_from(daemon.pid()).ok().and_then(Pid::from_raw).expect("a process");
    kill_process(pid, Signal::STOP).expect("stopped");
    disk.reached(&left);
    kill_process(pid, Signal::CONT).expect("goes on");
    daemon.kill();
    let after = LoopDisk::mount(&left);
    let mut again = setup(&after).start().await;
    let listed = again.get("/jobs?limit=100").await;
    let kept: Vec<&str> = listed["jobs"].as_array().expect("jobs").iter().filter_map(|job: &Value| job["id"].as_str()).collect();
    for id in &accepted {
        assert!(kept.contains(&id.as_str()), "job {id} was accepted and is lost: {} of {JOBS} are left", kept.len());
    }
    again.terminate().await;
}
