use serde_json::json;

use super::*;
use crate::jobs::broker::tests::gitlab_job;

#[test]
fn every_failure_reason_of_a_runner_has_a_meaning() {
    let (job, _) = gitlab_job();
    let reason = |name: &str| {
        let report = StateReport::read(&json!({ "state": "failed", "failure_reason": name, "exit_code": 1 })).expect("a report");
        report.outcome(&job, Some("failed")).reason()
    };
    assert_eq!(reason("script_failure"), Some(EndReason::ExitCode));
    assert_eq!(reason("a_later_reason"), Some(EndReason::ExitCode));
    assert_eq!(reason("runner_system_failure"), Some(EndReason::StartFailed));
    assert_eq!(reason("runner_unsupported"), Some(EndReason::Unsupported));
    assert_eq!(reason("job_execution_timeout"), Some(EndReason::TimedOut));
    assert_eq!(reason("job_canceled"), Some(EndReason::CanceledInGitlab));
    assert_eq!(reason("image_pull_failure"), Some(EndReason::ImageUnavailable));
}

#[test]
fn a_success_that_gitlab_did_not_take_is_none() {
    let (job, _) = gitlab_job();
    let report = StateReport::read(&json!({ "state": "success" })).expect("a report");
    assert_eq!(report.outcome(&job, Some("success")), Outcome::Succeeded);
    assert_eq!(report.outcome(&job, None), Outcome::Succeeded);
    assert_eq!(report.outcome(&job, Some("canceled")).reason(), Some(EndReason::CanceledInGitlab));
    assert_eq!(report.outcome(&job, Some("failed")).reason(), Some(EndReason::RunnerUnresponsive));
}

#[test]
fn the_words_for_every_end() {
    let all: Vec<String> = EndReason::ALL
        .into_iter()
        .map(|reason| {
            let outcome = reason.outcome_when_stopped(None);
            format!("{reason}: {} {}", failure_reason(&outcome), words(&outcome).trim().replace('\u{1b}', "ESC"))
        })
        .collect();
    insta::assert_snapshot!(all.join("\n"));
}
