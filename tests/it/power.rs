//! The power fails: what the disk has at that moment is all that is left. The disk is a file, so what has reached it can be looked at while what
//! the kernel still keeps in memory is lost, as it would be.

use std::fs;
use std::path::Path;
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{BUSYBOX, Setup};

/// More than are written in one second, and few enough to lie in one write-ahead log.
const JOBS: usize = 40;

/// A file system in a file.
struct Disk {
    mounted: TempDir,
    image: std::path::PathBuf,
}

impl Disk {
    /// Mounts what is in the image.
    fn mount(image: &Path) -> Self {
        let mounted = tempfile::Builder::new().prefix("rc-power.").tempdir_in("/tmp").expect("a directory");
        run("mount", &["-o", "loop", &image.display().to_string(), &mounted.path().display().to_string()]);
        Self { mounted, image: image.to_owned() }
    }

    /// What has reached it until now.
    fn reached(&self, copy: &Path) {
        fs::copy(&self.image, copy).expect("a copy");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.mounted.path()).status();
    }
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().expect("a program");
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn what_was_answered_before_the_power_failed_is_there_when_it_is_back() {
    let files = TempDir::with_prefix("rc-power-images-").expect("a directory");
    let (image, left) = (files.path().join("disk"), files.path().join("left"));
    fs::File::create(&image).and_then(|file| file.set_len(64 << 20)).expect("a file");
    run("mkfs.ext4", &["-q", &image.display().to_string()]);
    let disk = Disk::mount(&image);
    // Nothing runs: only what is accepted counts.
    let setup = |disk: &Disk| Setup::new("power").docker_host("unix:///nowhere/docker.sock").data(&disk.mounted.path().join("data"));
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
    let after = Disk::mount(&left);
    let mut again = setup(&after).start().await;
    let listed = again.get("/jobs?limit=100").await;
    let kept: Vec<&str> = listed["jobs"].as_array().expect("jobs").iter().filter_map(|job: &Value| job["id"].as_str()).collect();
    for id in &accepted {
        assert!(kept.contains(&id.as_str()), "job {id} was accepted and is lost: {} of {JOBS} are left", kept.len());
    }
    again.terminate().await;
}
