//! Ends one runner: stop what runs, find out how it went, write it down, take everything away.

use std::fmt::Write as _;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};

use super::conclude::conclude;
use super::deps::{OpError, Shared};
use super::follow::follow;
use super::proof::Found;
use crate::docker::{ContainerFacts, ContainerState, judge};
use crate::domain::clock::has_passed;
use crate::domain::{Aggregate, Disposition, EndReason, Failure, JobState, Outcome, RunnerState, Source, Step};
use crate::store::StoreError;
use crate::store::log::{LogStream, LogWriter};

/// How long the rest of a log may take to arrive after its container ended.
const LOG_PATIENCE: Duration = Duration::from_secs(20);

/// The same of a container that the engine says runs on, so that the log does not end.
const LOG_PATIENCE_UNNOTICED: Duration = Duration::from_secs(2);

/// Stops the container: SIGTERM, grace, SIGKILL.
pub(super) async fn stop(shared: &Arc<Shared>, aggregate: &Aggregate) -> Result<(), OpError> {
    let name = aggregate.runner.container_name();
    info!(runner.id = %aggregate.runner.id, container = name, reason = aggregate.runner.state.reason().map(EndReason::as_str), "stopping");
    if aggregate.runs_command() {
        shared.deps.proof.before_stop(&shared.deps.security, aggregate);
    }
    shared.deps.driver.stop(&name, shared.deps.config.current().limits.stop_grace).await?;
    Ok(())
}

/// Writes down how the attempt went, and takes everything away.
pub(super) async fn finish(shared: &Arc<Shared>, aggregate: &Aggregate) -> Result<(), OpError> {
    let deps = &shared.deps;
    let mut facts = deps.driver.inspect(&aggregate.runner.container_name()).await?;
    if let Some(facts) = facts.as_mut().filter(|facts| facts.exit_code == Some(137) && facts.oom_killed != Some(true)) {
        facts.oom_killed = Some(shared.observer.ran_out_of_memory(&aggregate.runner.id).await);
    }
    let receipt = if aggregate.runs_command() { deps.proof.read(&deps.security, aggregate) } else { Found::Nothing };
    if receipt.end().is_none() && facts.as_ref().is_some_and(|facts| facts.state.is_up()) {
        return Err(OpError::NotYet("the container runs after all"));
    }
    if facts.as_ref().is_some_and(|facts| facts.state == ContainerState::Created) {
        // A start that the engine has not carried out yet would begin beside the job's next attempt.
        take_container(shared, &aggregate.runner.container_name()).await?;
    }
    if aggregate.has_open_attempt() {
        let outcome = outcome(shared, aggregate, facts.as_ref(), receipt);
        let log = match aggregate.job.as_ref().map(|job| job.spec.source) {
            Some(Source::Api) => last_lines(shared, aggregate, facts.as_ref(), &outcome).await?,
            Some(Source::GitLab) | None => None,
        };
        conclude(shared, aggregate, outcome).await?;
        // Closed only now: who follows the log to its end then finds the job's end written down.
        if let Some(log) = log {
            log.close().await?;
        }
    }
    match deps.store.apply(&aggregate.runner.id, Step::Exited, deps.clock.now()).await {
        Ok(_) => remove(shared, aggregate).await,
        Err(StoreError::Refused(_)) => Err(OpError::NotYet("the job's end is not written down yet")),
        Err(error) => Err(error.into()),
    }
}

/// Takes the container away and, once the engine no longer knows it, frees what the runner held.
pub(super) async fn remove(shared: &Arc<Shared>, aggregate: &Aggregate) -> Result<(), OpError> {
    let deps = &shared.deps;
    let name = aggregate.runner.container_name();
    if let Some(follower) = shared.followers.take(&aggregate.runner.id) {
        follower.abort();
    }
    take_container(shared, &name).await?;
    deps.proof.forget(&aggregate.runner.id)?;
    deps.store.apply(&aggregate.runner.id, Step::Removed, deps.clock.now()).await?;
    deps.broker.forget_runner(&aggregate.runner.id);
    Ok(())
}

/// Takes a container away; done when the engine no longer knows it.
pub(super) async fn take_container(shared: &Shared, name: &str) -> Result<(), OpError> {
    shared.deps.driver.remove(name).await?;
    match shared.deps.driver.inspect(name).await? {
        Some(_) => Err(OpError::NotYet("the engine still has the container")),
        None => Ok(()),
    }
}

fn outcome(shared: &Shared, aggregate: &Aggregate, facts: Option<&ContainerFacts>, receipt: Found) -> Outcome {
    let runner = &aggregate.runner;
    if let RunnerState::Stopping { reason: Some(reason) } | RunnerState::Lost { reason } = runner.state
        && !(reason == EndReason::TimedOut && receipt.end().is_none() && was_over_in_time(aggregate, facts))
    {
        let sentence = stop_sentence(shared, aggregate, reason);
        if reason == EndReason::TimedOut && aggregate.runs_command() && was_not_there(receipt) {
            return unseen(sentence);
        }
        return reason.outcome_when_stopped(sentence);
    }
    if aggregate.runs_command() {
        return judge(facts, receipt.end());
    }
    let Some(facts) = facts else {
        return Outcome::infrastructure(EndReason::ContainerLost, "the engine no longer knows the container");
    };
    runner_exited(aggregate, facts)
}

/// Whether the first process of a runner that was told to end did not take that word. That it was told before, as by an engine that restarts, is
/// no sign of life; a job that spoils its receipt is not better off for it.
fn was_not_there(receipt: Found) -> bool {
    match receipt {
        Found::Nothing | Found::Told { by_us: false } => true,
        Found::Spoiled | Found::Told { by_us: true } | Found::Ended(_) => false,
    }
}

/// A command whose first process never took the word to end: it was dead, and its engine had not noticed, or nothing runs there any more. Whether
/// the command ran that long nobody knows.
fn unseen(sentence: Option<String>) -> Outcome {
    let sentence = sentence.map(|sentence| format!("{sentence}, says the engine; ")).unwrap_or_default();
    Outcome::infrastructure(EndReason::NoReceipt, format!("{sentence}but its first process did not take the word to end, and left no receipt"))
}

/// Whether a command that was ended for its timeout had ended before it, which an engine that hung did not show. A container that is not there
/// was taken away by somebody else: what we stop stays until its end is written down.
fn was_over_in_time(aggregate: &Aggregate, facts: Option<&ContainerFacts>) -> bool {
    let job = aggregate.job.as_ref().filter(|_| aggregate.runs_command());
    let Some((job, started)) = job.and_then(|job| Some((job, job.attempt.as_ref()?.started_at?))) else { return false };
    let Some(facts) = facts else { return true };
    facts.finished_at.is_some_and(|finished| !has_passed(started, job.spec.timeout, finished))
}

/// A runner of GitLab ended although its job had not: what it would have told is not known.
fn runner_exited(aggregate: &Aggregate, facts: &ContainerFacts) -> Outcome {
    let code = facts.exit_code.map_or_else(|| "an unknown code".to_owned(), |code| format!("code {code}"));
    let when = if matches!(aggregate.job.as_ref().map(|job| &job.state), Some(JobState::Starting)) {
        "before it took its job"
    } else {
        "before it told how its job went"
    };
    if facts.oom_killed == Some(true) && facts.exit_code == Some(137) {
        let detail = Some("the runner or its job used more memory than it was given".to_owned());
        return Outcome::Failed(Failure { reason: EndReason::OutOfMemory, exit_code: None, detail, disposition: Disposition::Job });
    }
    Outcome::infrastructure(EndReason::RunnerExited, format!("the runner ended with {code} {when}"))
}

fn stop_sentence(shared: &Shared, aggregate: &Aggregate, reason: EndReason) -> Option<String> {
    let config = shared.deps.config.current();
    let limits = &config.limits;
    match reason {
        EndReason::TimedOut => {
            aggregate.job.as_ref().map(|job| format!("it ran longer than its timeout of {}", humantime::format_duration(job.spec.timeout)))
        }
        EndReason::RunnerUnresponsive => {
            Some(format!("the runner was not heard of for {}", humantime::format_duration(limits.runner_contact_timeout.min(limits.start_timeout))))
        }
        EndReason::StartFailed => Some("the engine never said whether it started the container".to_owned()),
        EndReason::RunnerTerminated => Some("an operator ended its runner".to_owned()),
        EndReason::NoReceipt => Some("the job wrote more than any receipt holds where only the proof of its end belongs".to_owned()),
        EndReason::ExitCode
        | EndReason::OutOfMemory
        | EndReason::ImageUnavailable
        | EndReason::ContainerLost
        | EndReason::RunnerExited
        | EndReason::HostLost
        | EndReason::GpuUnhealthy
        | EndReason::CanceledByUser
        | EndReason::CanceledInGitlab
        | EndReason::ReturnedToGitlab
        | EndReason::Unsatisfiable
        | EndReason::ClassRemoved
        | EndReason::Unsupported => None,
    }
}

/// An epoch is made of the machine's boot (upper half), the daemon's run and a count of breaks (lower half). With another boot the engine died
/// under the container; breaks that the daemon saw are noted where they happened ([`super::follow`]).
fn rebooted(then: u64, now: u64) -> bool {
    then >> 32 != now >> 32
}

/// Waits for a log that is followed to end; the writer, and whether it did not end as it should: the stream hangs, or the log could not be written.
async fn followed(shared: &Shared, aggregate: &Aggregate, patience: Duration) -> (Option<LogWriter>, bool) {
    let Some(mut follower) = shared.followers.take(&aggregate.runner.id) else { return (None, false) };
    if let Ok(writer) = tokio::time::timeout(patience, &mut follower).await {
        let writer = writer.ok().flatten();
        let late = writer.is_none();
        return (writer, late);
    }
    follower.abort();
    let _ = follower.await;
    (None, true)
}

/// Waits for the rest of the log and, where the job did not end by its own exit code, adds the reason in words.
async fn last_lines(
    shared: &Arc<Shared>,
    aggregate: &Aggregate,
    facts: Option<&ContainerFacts>,
    outcome: &Outcome,
) -> Result<Option<LogWriter>, OpError> {
    let Some((job, attempt)) = aggregate.runner.job.as_ref() else { return Ok(None) };
    let started = facts.is_some_and(|facts| facts.started_at.is_some());
    let up = facts.is_some_and(|facts| facts.state.is_up());
    if started {
        shared.followers.ensure(&aggregate.runner.id, || follow(shared, aggregate, aggregate.runner.container_name()));
    }
    let (mut writer, mut late) = followed(shared, aggregate, if up { LOG_PATIENCE_UNNOTICED } else { LOG_PATIENCE }).await;
    if late && started && !up && !shared.deps.stop.is_cancelled() {
        // The engine may have the rest: a new one goes on where it was.
        shared.followers.ensure(&aggregate.runner.id, || follow(shared, aggregate, aggregate.runner.container_name()));
        (writer, late) = followed(shared, aggregate, LOG_PATIENCE).await;
    }
    if late && shared.deps.stop.is_cancelled() {
        return Err(OpError::NotYet("the daemon is stopping; the next start reads the rest of the log"));
    }
    let writer = match writer {
        Some(writer) => Ok(writer),
        None => shared.deps.logs.writer(job, *attempt).await,
    };
    let mut writer = match writer {
        Ok(writer) => writer,
        Err(error) => {
            warn!(job.id = %job, %error, "the job's log cannot be opened");
            return Ok(None);
        }
    };
    let mut note = String::new();
    if late || facts.is_none() || rebooted(aggregate.runner.engine_epoch, shared.observer.epoch()) {
        note.push_str("runner-coordinator: lines may be missing here: the engine did not give the whole log\n");
    }
    if let Some(reason) = outcome.reason().filter(|reason| *reason != EndReason::ExitCode) {
        let detail = outcome.detail().map(|detail| format!(": {detail}")).unwrap_or_default();
        let _ = writeln!(note, "runner-coordinator: {reason}{detail}");
    }
    if !note.is_empty() {
        let now = u64::try_from(shared.deps.clock.now().as_nanosecond()).unwrap_or(0);
        if let Err(error) = note_once(&mut writer, now, &note).await {
            warn!(job.id = %job, %error, "the reason of the end could not be added to the job's log");
        }
    }
    Ok(Some(writer))
}

/// Adds a note. One that the log ends with is there already: the end could not be written down then, and this is another try.
async fn note_once(writer: &mut LogWriter, now: u64, note: &str) -> io::Result<()> {
    if writer.ends_with(note.as_bytes()).await? {
        return Ok(());
    }
    writer.append(now, LogStream::Note, note.as_bytes()).await?;
    writer.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::JobId;
    use crate::store::log::LogStore;

    #[tokio::test]
    async fn an_end_that_is_tried_again_is_noted_once() {
        let dir = tempfile::tempdir().expect("a directory");
        let (store, job) = (LogStore::in_caller(dir.path().to_owned(), 1 << 20), JobId::from_trusted("0190abcdef"));
        for now in 1..4 {
            let mut writer = store.writer(&job, 1).await.expect("a writer");
            note_once(&mut writer, now, "missing\nit timed out\n").await.expect("noted");
        }
        let mut writer = store.writer(&job, 1).await.expect("a writer");
        note_once(&mut writer, 4, "it timed out\n").await.expect("noted");
        note_once(&mut writer, 5, "another\n").await.expect("noted");
        writer.close().await.expect("closed");
        let file = std::fs::read(dir.path().join("ef/0190abcdef/1.log")).expect("a file");
        let said = String::from_utf8_lossy(&file).into_owned();
        assert_eq!((said.matches("timed out").count(), said.matches("another").count()), (1, 1), "{said}");
    }

    #[test]
    fn another_boot_is_told_from_breaks_and_runs() {
        let epoch = |boot: u64, run: u64, breaks: u64| boot << 32 | run << 16 | breaks;
        assert!(!rebooted(epoch(1, 1, 0), epoch(1, 1, 1)) && !rebooted(epoch(1, 1, 3), epoch(1, 2, 0)));
        assert!(rebooted(epoch(1, 1, 0), epoch(2, 1, 0)));
    }
}
