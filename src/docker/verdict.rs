//! What a container's end proves about its job. Engines report `exited 0` for jobs that they lost sight of, and 143, 137 or 255 for
//! jobs that they killed themselves (measured on 20.10, 26 and 28), so a code is believed only as far as it goes.

use super::facts::{ContainerFacts, ContainerState};
use crate::domain::{Disposition, EndReason, Failure, Outcome};

/// Whether the engine was seen to work without a break from the container's start to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Continuity {
    /// It was.
    Unbroken,
    /// It went away, restarted or hung meanwhile.
    Broken,
    /// The coordinator itself was away for a while; whether the engine was too is not known.
    Unwatched,
}

/// How the job ended, from what `inspect` tells of its container, which must have ended or never have run.
#[must_use]
pub fn judge(facts: &ContainerFacts, engine: Continuity) -> Outcome {
    let never_ran = facts.state == ContainerState::Created || (facts.started_at.is_none() && facts.exit_code.is_some_and(|code| code != 0));
    if never_ran || (facts.exit_code == Some(128) && !facts.error.is_empty()) {
        return start_failed(&facts.error);
    }
    match &facts.state {
        ContainerState::Exited | ContainerState::Dead => {}
        ContainerState::Created
        | ContainerState::Running { .. }
        | ContainerState::Paused
        | ContainerState::Restarting
        | ContainerState::Removing
        | ContainerState::Unknown(_) => return lost(format!("the container's state is {:?}, which is not an end", facts.state)),
    }
    let Some(code) = facts.exit_code else { return lost("the engine tells no exit code".to_owned()) };
    if code == 137 && facts.oom_killed == Some(true) {
        return out_of_memory();
    }
    match (code, engine) {
        (0, Continuity::Unbroken | Continuity::Unwatched) if facts.error.is_empty() && facts.started_at.is_some() && facts.finished_at.is_some() => {
            Outcome::Succeeded
        }
        (0, Continuity::Unbroken | Continuity::Unwatched) => {
            lost(format!("the engine reports exit code 0 but also an unfinished run: {}", facts.error))
        }
        (0 | 137 | 143 | 255, Continuity::Broken) => {
            lost(format!("the engine broke off while the job ran, so the exit code {code} that it reports proves nothing"))
        }
        (137 | 143 | 255, Continuity::Unwatched) => {
            lost(format!("the exit code {code} is what an engine reports of jobs that it ended itself, and nobody watched it all the time"))
        }
        (_, Continuity::Unbroken | Continuity::Broken | Continuity::Unwatched) => exit_code(code, facts.oom_killed),
    }
}

fn start_failed(error: &str) -> Outcome {
    let detail = if error.is_empty() { "the container was made but never ran" } else { error };
    Outcome::infrastructure(EndReason::StartFailed, detail)
}

fn lost(detail: String) -> Outcome {
    Outcome::infrastructure(EndReason::ContainerLost, detail)
}

fn out_of_memory() -> Outcome {
    let detail = "the kernel killed the job's main process: it needed more than its memory".to_owned();
    Outcome::Failed(Failure { reason: EndReason::OutOfMemory, exit_code: Some(137), detail: Some(detail), disposition: Disposition::Job })
}

fn exit_code(code: i64, oom_killed: Option<bool>) -> Outcome {
    let detail = (oom_killed == Some(true)).then(|| "the kernel killed one of the job's processes for want of memory".to_owned());
    Outcome::Failed(Failure { reason: EndReason::ExitCode, exit_code: Some(code), detail, disposition: Disposition::Job })
}

#[cfg(test)]
#[path = "verdict_tests.rs"]
mod tests;
