//! The processes of this machine, found by what their command lines name. They are killed by number, and only when they name our directory.

use std::fs;
use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};

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

/// Whether such a process is there and not only its number, kept for whoever began it.
pub(crate) fn is_alive(pid: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    status.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
}
