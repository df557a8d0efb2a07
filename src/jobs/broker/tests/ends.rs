//! Verdicts, cancels, and what GitLab is told of ends that no runner reported.

use super::fake::Scripted;
use super::*;
use crate::domain::{Disposition, JobState};

fn outcome_of(job: &Job) -> Outcome {
    match &job.state {
        JobState::Ended { outcome, .. } => outcome.clone(),
        other => panic!("it has not ended but is {}", other.name()),
    }
}

#[tokio::test]
async fn a_success_that_gitlab_took_ends_the_job_and_may_be_repeated() {
    let rig = Rig::at_work().await;
    assert_eq!(rig.report("running").await.expect("an answer").status, 200);
    assert_eq!(rig.report("success").await.expect("an answer").status, 200);
    assert_eq!(outcome_of(&rig.job()), Outcome::Succeeded);
    let calls = rig.gitlab.calls().len();
    assert_eq!(rig.report("success").await.expect("an answer").status, 200);
    assert_eq!(rig.report("running").await, Err(BrokerError::Denied));
    assert_eq!(rig.send("0-0", "x").await, Err(BrokerError::Denied));
    assert_eq!(rig.gitlab.calls().len(), calls);
}

#[tokio::test]
async fn a_failure_keeps_the_exit_code_and_is_final() {
    let rig = Rig::at_work().await;
    let body = serde_json::json!({ "state": "failed", "failure_reason": "script_failure", "exit_code": 3 });
    rig.broker.update(&rig.token, GITLAB_ID, body).await.expect("an answer");
    let Outcome::Failed(failure) = outcome_of(&rig.job()) else { panic!("it failed") };
    assert_eq!((failure.reason, failure.exit_code, failure.disposition), (EndReason::ExitCode, Some(3), Disposition::Final));
    assert_eq!(failure.detail.as_deref(), Some("GitLab Runner reported script_failure"));
}

#[tokio::test]
async fn a_verdict_whose_answer_was_lost_is_stored_when_it_is_repeated() {
    let rig = Rig::at_work().await;
    rig.gitlab.next(Scripted::LosesItsAnswer);
    assert!(matches!(rig.report("success").await, Err(BrokerError::Unavailable { .. })));
    assert_eq!(rig.job().state.name(), "running");
    assert_eq!(rig.report("success").await.expect("an answer").status, 200);
    assert_eq!(outcome_of(&rig.job()), Outcome::Succeeded);
}

#[tokio::test]
async fn what_gitlab_has_not_taken_yet_ends_nothing() {
    let rig = Rig::at_work().await;
    for status in [202, 412] {
        rig.gitlab.next(Scripted::Answers(Relay::empty(status)));
        assert_eq!(rig.report("success").await, Ok(Relay::empty(status)));
        assert_eq!(rig.job().state.name(), "running");
    }
}

#[tokio::test]
async fn a_verdict_that_gitlab_will_never_take_is_kept_here() {
    for status in [404, 403] {
        let rig = Rig::at_work().await;
        rig.gitlab.next(Scripted::Answers(Relay::empty(status)));
        assert_eq!(rig.report("success").await, Ok(Relay::empty(status)));
        assert_eq!(outcome_of(&rig.job()), Outcome::Succeeded);
    }
}

#[tokio::test]
async fn a_failure_of_gitlab_is_one_that_the_runner_repeats() {
    let rig = Rig::at_work().await;
    for (status, expected) in [(500, 502), (502, 502), (504, 502), (503, 503), (429, 429)] {
        for state in ["running", "success"] {
            rig.gitlab.next(Scripted::Answers(Relay::empty(status)));
            let answer = rig.report(state).await.expect("an answer");
            assert_eq!((answer.status, answer.headers.get("retry-after")), (expected, Some("5")));
        }
        rig.gitlab.next(Scripted::Answers(Relay::empty(status)));
        assert_eq!(rig.send("0-0", "x").await.expect("an answer").status, expected);
    }
    rig.gitlab.next(Scripted::Unreachable);
    assert!(matches!(rig.report("success").await, Err(BrokerError::Unavailable { .. })));
    assert_eq!((rig.job().state.name(), rig.log().await.as_str()), ("running", ""));
}

#[tokio::test]
async fn a_cancel_in_gitlab_is_noted_and_its_header_passed_on_as_it_is() {
    for status in ["canceling", "canceled", "failed"] {
        let rig = Rig::at_work().await;
        rig.gitlab.set_status(status);
        assert_eq!(rig.send("0-0", "x").await.expect("an answer").job_status(), Some(status));
        assert_eq!(rig.job().cancel.map(|cancel| cancel.reason), Some(EndReason::CanceledInGitlab), "{status}");
        assert_eq!(rig.send("1-1", "y").await.expect("an answer").job_status(), Some(status));
        assert_eq!(rig.job().state.name(), "running", "after_script may run");
    }
}

#[tokio::test]
async fn a_graceful_cancel_in_gitlab_ends_as_cancelled() {
    let rig = Rig::at_work().await;
    rig.gitlab.set_status("canceling");
    rig.report("running").await.expect("an answer");
    rig.report("failed").await.expect("an answer");
    assert_eq!(outcome_of(&rig.job()), Outcome::Canceled { reason: EndReason::CanceledInGitlab, detail: None });
}

#[tokio::test]
async fn a_cancel_here_makes_the_runner_abort_even_when_gitlab_is_away() {
    let rig = Rig::at_work().await;
    rig.cancel(EndReason::CanceledByUser).await;
    assert_eq!(rig.report("running").await.expect("an answer").job_status(), Some("canceled"));
    assert_eq!(rig.send("0-0", "x").await.expect("an answer").job_status(), Some("canceled"));
    rig.gitlab.next(Scripted::Unreachable);
    let answer = rig.report("running").await.expect("an answer");
    assert_eq!((answer.status, answer.job_status()), (200, Some("canceled")));
    rig.report("failed").await.expect("an answer");
    assert_eq!(outcome_of(&rig.job()), Outcome::Canceled { reason: EndReason::CanceledByUser, detail: None });
}

#[tokio::test]
async fn an_unknown_state_is_refused() {
    let rig = Rig::at_work().await;
    let before = rig.gitlab.calls();
    assert!(matches!(rig.report("done").await, Err(BrokerError::Malformed(_))));
    assert_eq!(rig.gitlab.calls(), before);
}

#[tokio::test]
async fn gitlab_hears_in_words_of_an_end_that_no_runner_reported() {
    let rig = Rig::at_work().await;
    rig.send("0-4", "hello").await.expect("an answer");
    // GitLab got something of which we do not know.
    rig.gitlab.trace.lock().expect("lock").extend_from_slice(b" world");
    let outcome = EndReason::TimedOut.outcome_when_stopped(Some("1h\u{1b}".into()));
    rig.gitlab.next(Scripted::Answers({
        let mut answer = Relay::empty(416);
        answer.headers.set("range", "0-11");
        answer
    }));
    assert_eq!(rig.broker.report_end(&rig.job(), &outcome).await, ReportResult::Told);
    let line = "\n\u{1b}[31;1mERROR: Runner Coordinator: the job ran longer than it may: 1h \u{1b}[0;m\n";
    assert_eq!(rig.gitlab.trace(), format!("hello world{line}"));
    assert_eq!(rig.log().await, format!("hello{line}"));
    let last = rig.gitlab.bodies.lock().expect("lock").last().cloned().expect("a body");
    assert_eq!(last, serde_json::json!({ "state": "failed", "failure_reason": "job_execution_timeout" }));
    assert_eq!(rig.broker.report_end(&rig.job(), &outcome).await, ReportResult::GitLabAlreadyKnew(KnownEnd::Failed));
    assert_eq!(rig.gitlab.trace(), format!("hello world{line}"), "the line is written once");
}

#[tokio::test]
async fn an_end_that_gitlab_could_not_hear_is_told_again_without_a_second_line() {
    let rig = Rig::at_work().await;
    let outcome = Outcome::infrastructure(EndReason::ContainerLost, "gone");
    rig.gitlab.next(Scripted::LosesItsAnswer);
    rig.gitlab.next(Scripted::Unreachable);
    assert_eq!(rig.broker.report_end(&rig.job(), &outcome).await, ReportResult::NotReachable);
    assert_eq!(rig.broker.report_end(&rig.job(), &outcome).await, ReportResult::Told);
    assert_eq!(rig.gitlab.trace().matches("ERROR").count(), 1);
    assert_eq!(rig.log().await, rig.gitlab.trace());
}

#[tokio::test]
async fn a_job_that_waits_is_kept_alive_until_gitlab_does_not_want_it() {
    let rig = Rig::new();
    assert_eq!(rig.broker.keep_alive(&rig.job()).await, Claim::Taken);
    assert_eq!(rig.gitlab.calls(), ["PUT 4711 glcbt-job pending", "PUT 4711 glcbt-job running"], "an older GitLab knows no pending");
    rig.gitlab.next(Scripted::Unreachable);
    assert_eq!(rig.broker.keep_alive(&rig.job()).await, Claim::NotReachable);
    rig.gitlab.set_status("canceling");
    assert_eq!(rig.broker.keep_alive(&rig.job()).await, Claim::Gone(EndReason::CanceledInGitlab));
    assert_eq!(*rig.gitlab.status.lock().expect("lock"), "canceled", "nobody else would complete the cancel");
    assert_eq!(rig.broker.keep_alive(&rig.job()).await, Claim::Gone(EndReason::CanceledInGitlab));
}

#[tokio::test]
async fn a_job_that_gitlab_keeps_for_us_stays_reserved_until_it_lapses() {
    let rig = Rig::new();
    rig.gitlab.set_status("pending");
    assert_eq!(rig.broker.keep_alive(&rig.job()).await, Claim::Reserved);
    assert_eq!(rig.gitlab.calls(), ["PUT 4711 glcbt-job pending"]);
    let mut lapsed = Relay::empty(403);
    lapsed.headers.set("job-status", "pending");
    rig.gitlab.next(Scripted::Answers(lapsed));
    assert_eq!(rig.broker.keep_alive(&rig.job()).await, Claim::Gone(EndReason::ReturnedToGitlab));
}

#[tokio::test]
async fn a_job_that_never_began_is_accepted_before_its_end_is_told() {
    let rig = Rig::new();
    rig.gitlab.set_status("pending");
    let (job, gitlab) = gitlab_job();
    let outcome = Outcome::Canceled { reason: EndReason::CanceledByUser, detail: None };
    rig.gitlab.next(Scripted::Unreachable);
    assert_eq!(rig.broker.report_unstarted(&job, gitlab.clone(), &outcome).await, ReportResult::NotReachable);
    assert_eq!(rig.broker.report_unstarted(&job, gitlab, &outcome).await, ReportResult::Told);
    let states: Vec<String> = rig.gitlab.calls().iter().map(|call| call.split(' ').next_back().unwrap_or_default().to_owned()).collect();
    assert_eq!((states[1].as_str(), states.last().map(String::as_str)), ("running", Some("failed")));
    assert!(rig.gitlab.trace().contains("cancelled at the coordinator"));
}
