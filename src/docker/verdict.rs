//! How a job ended, from what the engine says of its container and from the receipt that the container's first process left.
//!
//! Engines report `exited 0` for jobs that they lost sight of, and 143, 137 or 255 for jobs that they killed themselves (measured on 20.10,
//! 26 and 28). So with a receipt the job ended as it says, whatever the engine says; without one nothing that the engine says is a success.

use super::facts::{ContainerFacts, ContainerState};
use crate::domain::{Disposition, EndReason, Failure, HowEnded, Outcome, ProvenEnd};

/// How the job ended. The container is `None` when the engine no longer knows it; with a receipt it may still seem to run.
#[must_use]
pub fn judge(container: Option<&ContainerFacts>, receipt: Option<ProvenEnd>) -> Outcome {
    match (receipt, container) {
        (Some(end), container) => proven(end, container),
        (None, Some(facts)) => unproven(facts),
        (None, None) => lost("the engine no longer knows the container, and there is no receipt of the job's end".to_owned()),
    }
}

fn proven(end: ProvenEnd, container: Option<&ContainerFacts>) -> Outcome {
    let code = end.exit_code();
    let oom_killed = container.is_some_and(|facts| facts.oom_killed == Some(true));
    if end.told {
        return lost(format!(
            "somebody else than the coordinator told the job to end, as an engine that restarts does, so its exit code {code} is not its own"
        ));
    }
    match end.how {
        HowEnded::Exit(0) => Outcome::Succeeded,
        HowEnded::Exit(_) | HowEnded::Signal(_) if code == 137 && oom_killed => out_of_memory(),
        HowEnded::Exit(_) => exit_code(code, oom_killed.then(|| "the kernel killed one of the job's processes for want of memory".to_owned())),
        HowEnded::Signal(signal) => exit_code(code, Some(format!("the job's main process was ended by signal {signal}"))),
    }
}

fn unproven(facts: &ContainerFacts) -> Outcome {
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
    match facts.exit_code {
        // The kernel took the first process too.
        Some(137) if facts.oom_killed == Some(true) => out_of_memory(),
        Some(code) => no_receipt(format!("the engine reports the exit code {code}, but the job left no receipt of its end, so it proves nothing")),
        None => no_receipt("the engine tells no exit code, and the job left no receipt of its end".to_owned()),
    }
}

fn start_failed(error: &str) -> Outcome {
    let detail = if error.is_empty() { "the container was made but never ran" } else { error };
    Outcome::infrastructure(EndReason::StartFailed, detail)
}

fn lost(detail: String) -> Outcome {
    Outcome::infrastructure(EndReason::ContainerLost, detail)
}

fn no_receipt(detail: String) -> Outcome {
    Outcome::infrastructure(EndReason::NoReceipt, detail)
}

fn out_of_memory() -> Outcome {
    let detail = "the kernel killed the job's main process: it needed more than its memory".to_owned();
    Outcome::Failed(Failure { reason: EndReason::OutOfMemory, exit_code: Some(137), detail: Some(detail), disposition: Disposition::Job })
}

fn exit_code(code: i64, detail: Option<String>) -> Outcome {
    Outcome::Failed(Failure { reason: EndReason::ExitCode, exit_code: Some(code), detail, disposition: Disposition::Job })
}

#[cfg(test)]
#[path = "verdict_tests.rs"]
mod tests;
