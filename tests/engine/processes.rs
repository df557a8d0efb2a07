//! The processes of this machine, found by what their command lines name. They are killed by number, and only when they name our directory.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How long killed processes may take to be gone.
const PATIENCE: Duration = Duration::from_secs(20);

/// One process.
#[derive(Debug, Clone)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    pub(crate) command: String,
}

/// Those whose command line names a file below `directory`.
pub(crate) fn naming(directory: &Path) -> Vec<Process> {
    let mine = format!("{}/", directory.display());
    let entries = fs::read_dir("/proc").expect("processes").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let told = |pid: i32| Some(Process { pid, command: fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?.replace('\0', " ") });
    let me = i32::try_from(std::process::id()).expect("a process");
    pids.filter(|pid| *pid != me).filter_map(told).filter(|process| process.command.contains(&mine)).collect()
}

/// The processes that it began.
pub(crate) fn children(pid: i32) -> Vec<i32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<i32>>()).collect()
}

/// Whether it was there to be signalled.
pub(crate) fn signal(pid: i32, signal: Signal) -> bool {
    Pid::from_raw(pid).is_some_and(|pid| kill_process(pid, signal).is_ok())
}

/// `SIGKILL` for all of them.
pub(crate) fn kill_all(pids: &[i32]) {
    for pid in pids {
        signal(*pid, Signal::KILL);
    }
}

/// Whether such a process is there and not only its number, kept for whoever began it.
pub(crate) fn is_alive(pid: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    status.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
}

/// Between two looks, where nothing else can run meanwhile.
#[expect(clippy::disallowed_methods, reason = "a pause between two looks at a predicate that has a deadline")]
fn pause() {
    std::thread::sleep(Duration::from_millis(10));
}

/// Kills whoever names the directory, jobs before what holds them, and unmounts what lies below.
pub(crate) fn reap(directory: &Path) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut left = naming(directory);
        left.retain(|process| is_alive(process.pid));
        if left.is_empty() || Instant::now() >= deadline {
            break;
        }
        for process in left {
            if super::is_shim(&process) {
                kill_all(&children(process.pid));
            }
            signal(process.pid, Signal::KILL);
        }
        pause();
    }
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let mut below: Vec<PathBuf> = mounts.lines().filter_map(|line| line.split(' ').nth(1)).map(PathBuf::from).collect();
    below.retain(|mount| mount.starts_with(directory));
    for mount in below.iter().rev() {
        let _ = Command::new("umount").args([Path::new("--lazy"), mount]).status();
    }
}
