//! Runs one step of a job the way the shell executor does: `/bin/sh`, own environment plus the job's variables.

use std::fmt::Write as _;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use gitlab_runner::job::Job;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe::Receiver;
use tokio::process::{Child, Command};

/// How long a script may go on after SIGTERM, and a pipe after its script.
const GRACE: Duration = Duration::from_secs(5);

/// The lines as one shell script that shows each of them before it runs, as the official runner does.
fn script_text(lines: &[String]) -> String {
    lines.iter().fold(String::new(), |mut text, line| {
        let shown = format!("$ {line}").replace('\'', r"'\''");
        let _ = writeln!(text, "printf '%s\\n' '{shown}'\n{line}");
        text
    })
}

/// Runs the lines in the job's build directory until they end or `stop` does.
///
/// Nothing of the script's process group is left when this returns. `None` stands for a script that was stopped.
pub(crate) async fn run(job: &Job, lines: &[String], stop: impl Future<Output = ()>) -> io::Result<Option<ExitStatus>> {
    let file = job.build_dir().with_extension("sh");
    tokio::fs::write(&file, script_text(lines)).await?;
    let outcome = run_file(job, &file, stop).await;
    tokio::fs::remove_file(&file).await?;
    outcome
}

/// Runs a script file.
async fn run_file(job: &Job, file: &Path, stop: impl Future<Output = ()>) -> io::Result<Option<ExitStatus>> {
    let (reader, writer) = io::pipe()?;
    let mut command = Command::new("/bin/sh");
    command
        .arg("-e")
        .arg(file)
        .current_dir(job.build_dir())
        .envs(job.variables().map(|variable| (variable.key(), variable.value())))
        .env("CI_PROJECT_DIR", job.build_dir())
        .env("CI_BUILDS_DIR", job.build_dir().parent().unwrap_or_else(|| Path::new("/")))
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .process_group(0);
    let mut child = command.spawn()?;
    // The command still holds the pipe's writing ends; without this the output would never end.
    drop(command);
    let group = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
    let mut output = Receiver::from_owned_fd(OwnedFd::from(reader))?;
    let copy = copy_output(job, &mut output);
    tokio::pin!(copy, stop);
    let mut copied = false;
    let ended = loop {
        tokio::select! {
            // All three can be polled again after another one won: the copy and `stop` are pinned, `wait` is safe.
            result = &mut copy, if !copied => { result?; copied = true; }
            status = child.wait() => break Some(status?),
            () = &mut stop => { terminate(&mut child, group).await?; break None; }
        }
    };
    if let Some(group) = group {
        // Whatever the script left in the background; no such group is the usual answer.
        let _ = kill_process_group(group, Signal::KILL);
    }
    if !copied {
        // A process that left the group may hold the pipe open; its output is not worth waiting for.
        let _ = tokio::time::timeout(GRACE, copy).await;
    }
    Ok(ended)
}

/// Copies output to the trace until it ends.
async fn copy_output(job: &Job, output: &mut Receiver) -> io::Result<()> {
    let mut buffer = vec![0_u8; 16 << 10];
    loop {
        match output.read(&mut buffer).await? {
            0 => return Ok(()),
            length => job.trace(&buffer[..length]),
        }
    }
}

/// SIGTERM to the group, and SIGKILL where that is not enough.
async fn terminate(child: &mut Child, group: Option<Pid>) -> io::Result<()> {
    let Some(group) = group else { return Ok(()) };
    let _ = kill_process_group(group, Signal::TERM);
    if tokio::time::timeout(GRACE, child.wait()).await.is_err() {
        let _ = kill_process_group(group, Signal::KILL);
        child.wait().await?;
    }
    Ok(())
}
