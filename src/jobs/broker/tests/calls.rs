//! Requests for work, and what passes through to GitLab while a job runs.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use proptest::prelude::*;
use tokio::time::Instant;

use super::fake::Scripted;
use super::*;
use crate::domain::RunnerState;
use crate::gitlab::Upload;
use crate::jobs::broker::trace::{Span, new_in};

/// What GitLab hears before a job is handed over.
const ACCEPTED: &str = "PUT 4711 glcbt-job running";

#[tokio::test(start_paused = true)]
async fn a_runner_gets_its_job_as_gitlab_gave_it_and_the_same_again() {
    let rig = Rig::new();
    let expected = PAYLOAD.to_owned();
    assert_eq!(rig.broker.request(&rig.token).await, Ok(WorkAnswer::Job(expected.clone())));
    assert_eq!(rig.job().state.name(), "running");
    assert_eq!(rig.contacts.last(&rig.runner), Some(now()));
    assert!(rig.nudges.load(Ordering::Relaxed) > 0);
    assert_eq!(rig.broker.request(&rig.token).await, Ok(WorkAnswer::Job(expected)), "the first answer may have been lost");
    assert_eq!(rig.gitlab.calls(), [ACCEPTED]);
}

#[tokio::test(start_paused = true)]
async fn a_runner_without_a_job_waits_and_is_woken() {
    let rig = Rig::idle();
    let start = Instant::now();
    assert!(matches!(rig.broker.request(&rig.token).await, Ok(WorkAnswer::NoJob { .. })));
    assert_eq!(start.elapsed(), LONG_POLL);
    assert_eq!(rig.store.of(&rig.runner).runner.state, RunnerState::Idle);

    let (start, bind) = (Instant::now(), async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        rig.bind();
    });
    let (answer, ()) = tokio::join!(rig.broker.request(&rig.token), bind);
    assert!(matches!(answer, Ok(WorkAnswer::Job(_))), "{answer:?}");
    assert_eq!(start.elapsed(), Duration::from_secs(3));
}

#[tokio::test(start_paused = true)]
async fn who_has_no_business_here_is_denied_and_who_must_leave_is_told_at_once() {
    let rig = Rig::new();
    assert_eq!(rig.broker.verify(&rig.token).await, Ok(()));
    assert_eq!(rig.broker.request("foreign").await, Err(BrokerError::Denied));
    assert_eq!(rig.broker.request(&rig.strangers_token()).await, Err(BrokerError::Denied));

    let start = Instant::now();
    rig.cancel(EndReason::CanceledByUser).await;
    assert!(matches!(rig.broker.request(&rig.token).await, Ok(WorkAnswer::NoJob { .. })), "a cancelled job is not handed over");
    rig.step(Step::StopOrdered { reason: EndReason::CanceledByUser }).await;
    assert!(matches!(rig.broker.request(&rig.token).await, Ok(WorkAnswer::NoJob { .. })));
    let outcome = Outcome::Canceled { reason: EndReason::CanceledByUser, detail: None };
    rig.step(Step::JobEnded { outcome, retry: (rig.broker.parts.retry)() }).await;
    rig.step(Step::Removed).await;
    assert_eq!(rig.broker.request(&rig.token).await, Err(BrokerError::Denied));
    assert_eq!(rig.broker.verify(&rig.token).await, Err(BrokerError::Denied));
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test]
async fn a_token_opens_its_own_job_only() {
    let rig = Rig::at_work().await;
    let body = serde_json::json!({ "state": "success" });
    assert_eq!(rig.broker.update(&rig.token, 4712, body.clone()).await, Err(BrokerError::Denied));
    assert_eq!(rig.broker.update("foreign", GITLAB_ID, body).await, Err(BrokerError::Denied));
    assert_eq!(rig.broker.trace(&rig.token, 4712, "0-0", "", "x".into()).await, Err(BrokerError::Denied));
    assert_eq!(rig.broker.upload(&rig.token, 4712, upload()).await, Err(BrokerError::Denied));
    assert_eq!(rig.broker.download(&rig.token, 4712, "").await.map(drop), Err(BrokerError::Denied));
    // GitLab's token of the job reports of this job, and does nothing else.
    assert_eq!(rig.broker.trace("glcbt-job", 4712, "0-0", "", "x".into()).await, Err(BrokerError::Denied));
    assert_eq!(rig.broker.trace("glcbt-dep", GITLAB_ID, "0-0", "", "x".into()).await, Err(BrokerError::Denied));
    assert_eq!(rig.broker.download("glcbt-job", 4700, "").await.map(drop), Err(BrokerError::Denied));
    assert_eq!(rig.broker.request("glcbt-job").await, Err(BrokerError::Denied));
    assert_eq!(rig.broker.progress("glcbt-job", "half", None).await, Err(BrokerError::Denied));
    assert_eq!(rig.gitlab.calls(), [ACCEPTED]);
    assert_eq!(rig.broker.trace("glcbt-job", GITLAB_ID, "0-0", "", "x".into()).await.expect("an answer").status, 202);
}

#[tokio::test]
async fn gitlabs_token_opens_its_job_after_a_restart_too_and_not_after_its_end() {
    let rig = Rig::at_work().await.restarted();
    assert!(rig.broker.download("glcbt-dep", 4700, "").await.is_ok());
    let rig = rig.restarted();
    let report = async |state| rig.broker.update("glcbt-job", GITLAB_ID, serde_json::json!({ "state": state })).await;
    assert_eq!(report("running").await.expect("an answer").status, 200);
    assert_eq!(report("success").await.expect("an answer").status, 200);
    assert_eq!(report("success").await.expect("an answer").status, 200, "the answer may have been lost");
    assert_eq!(rig.broker.trace("glcbt-job", GITLAB_ID, "0-0", "", "x".into()).await, Err(BrokerError::Denied));
    rig.broker.forget_runner(&rig.runner);
    assert_eq!(rig.broker.update("glcbt-job", GITLAB_ID, serde_json::json!({ "state": "success" })).await, Err(BrokerError::Denied));
}

#[tokio::test]
async fn gitlab_hears_that_a_job_runs_before_the_runner_gets_it() {
    let rig = Rig::new();
    rig.gitlab.set_status("pending");
    rig.gitlab.next(Scripted::Unreachable);
    assert!(matches!(rig.broker.request(&rig.token).await, Err(BrokerError::Unavailable { .. })));
    assert_eq!(rig.job().state.name(), "starting");
    assert!(matches!(rig.broker.request(&rig.token).await, Ok(WorkAnswer::Job(_))));
    assert_eq!(*rig.gitlab.status.lock().expect("lock"), "running");
}

#[tokio::test]
async fn a_job_that_gitlab_does_not_want_here_any_more_is_not_handed_over() {
    for (status, in_gitlab, reason) in [
        (403, "pending", EndReason::ReturnedToGitlab),
        (403, "running", EndReason::ReturnedToGitlab),
        (409, "pending", EndReason::ReturnedToGitlab),
        (403, "canceled", EndReason::CanceledInGitlab),
        (404, "", EndReason::CanceledInGitlab),
    ] {
        let rig = Rig::new();
        let mut refused = Relay::empty(status);
        if !in_gitlab.is_empty() {
            refused.headers.set("job-status", in_gitlab);
        }
        rig.gitlab.next(Scripted::Answers(refused));
        assert!(matches!(rig.broker.request(&rig.token).await, Ok(WorkAnswer::NoJob { .. })));
        assert_eq!(rig.job().cancel.map(|cancel| cancel.reason), Some(reason), "{status} {in_gitlab}");
    }
}

#[tokio::test]
async fn the_trace_is_passed_on_and_kept_once() {
    let rig = Rig::at_work().await;
    let answer = rig.send("0-4", "hello").await.expect("an answer");
    assert_eq!((answer.status, answer.headers.get("range"), answer.job_status()), (202, Some("0-5"), Some("running")));
    assert_eq!(answer.headers.get("x-secret"), None);
    assert_eq!(rig.gitlab.calls(), [ACCEPTED, "PATCH 4711 glcbt-job 0-4 debug_trace=false"]);

    rig.gitlab.next(Scripted::LosesItsAnswer);
    assert!(matches!(rig.send("5-10", " world").await, Err(BrokerError::Unavailable { .. })));
    assert_eq!(rig.log().await, "hello");
    let repeated = rig.send("5-10", " world").await.expect("an answer");
    assert_eq!((repeated.status, repeated.headers.get("range")), (416, Some("0-11")));
    rig.send("11-11", "!").await.expect("an answer");
    assert_eq!((rig.log().await, rig.gitlab.trace()), ("hello world!".into(), "hello world!".into()));
}

#[tokio::test]
async fn a_gap_in_our_log_is_filled_by_asking_the_runner_to_go_back() {
    let rig = Rig::at_work().await;
    *rig.gitlab.trace.lock().expect("lock") = b"0123".to_vec();
    let asked = rig.send("4-5", "45").await.expect("an answer");
    assert_eq!((asked.status, asked.headers.get("range")), (416, Some("0-0")));
    let known = rig.send("0-5", "012345").await.expect("an answer");
    assert_eq!((known.status, known.headers.get("range")), (416, Some("0-4")));
    rig.send("4-5", "45").await.expect("an answer");
    assert_eq!((rig.log().await, rig.gitlab.trace()), ("012345".into(), "012345".into()));
}

#[tokio::test]
async fn a_part_whose_length_is_not_its_range_is_refused() {
    let rig = Rig::at_work().await;
    for range in ["0-5", "0-3", "5-0", "x", "", "0", "0-18446744073709551615", "-1-3"] {
        assert!(matches!(rig.send(range, "hello").await, Err(BrokerError::Malformed(_))), "{range}");
    }
    assert_eq!(rig.gitlab.calls(), [ACCEPTED]);
}

#[tokio::test]
async fn artifacts_pass_both_ways_and_those_of_needed_jobs_too() {
    let rig = Rig::at_work().await;
    assert_eq!(rig.broker.upload(&rig.token, GITLAB_ID, upload()).await.expect("an answer").status, 201);
    let down = rig.broker.download(&rig.token, 4700, "direct_download=false").await.expect("an answer");
    let parts: Vec<Bytes> = down.body.try_collect().await.expect("whole");
    assert_eq!(parts.concat(), b"abcdef");
    assert_eq!(
        rig.gitlab.calls(),
        [ACCEPTED, "POST 4711 glcbt-job artifact_type=archive multipart/form-data; boundary=x Some(6)", "GET 4700 glcbt-dep direct_download=false"]
    );
}

fn upload() -> Upload {
    Upload {
        query: "artifact_type=archive".into(),
        content_type: "multipart/form-data; boundary=x".into(),
        content_length: Some(6),
        body: stream::iter([Ok(Bytes::from_static(b"abc")), Ok(Bytes::from_static(b"def"))]).boxed(),
    }
}

#[tokio::test]
async fn a_store_that_fails_does_not_stop_the_trace() {
    let rig = Rig::at_work().await;
    rig.send("0-0", "a").await.expect("an answer");
    rig.store.fails.store(true, Ordering::Relaxed);
    assert_eq!(rig.send("1-1", "b").await.expect("an answer").status, 202);
    assert!(matches!(rig.broker.request(&rig.token).await, Err(BrokerError::Unavailable { .. })));
    assert!(matches!(rig.report("success").await, Err(BrokerError::Unavailable { .. })));
    rig.store.fails.store(false, Ordering::Relaxed);
    assert_eq!(rig.job().state.name(), "running");
    assert_eq!(rig.report("success").await.expect("an answer").status, 200, "GitLab's 403 means that it has the verdict");
    assert_eq!(rig.job().state.name(), "succeeded");
    assert_eq!(rig.log().await, "ab");
}

#[tokio::test]
async fn progress_is_noted_but_not_too_often() {
    let rig = Rig::at_work().await;
    assert_eq!(rig.broker.progress(&rig.token, "half", Some(50)).await, Ok(()));
    assert!(matches!(rig.broker.progress(&rig.token, "more", None).await, Err(BrokerError::TooOften { .. })));
    assert!(matches!(rig.broker.progress(&rig.token, "", None).await, Err(BrokerError::Malformed(_))));
    assert!(matches!(rig.broker.progress(&rig.token, &"x".repeat(501), None).await, Err(BrokerError::Malformed(_))));
    assert!(matches!(rig.broker.progress(&rig.token, "x", Some(101)).await, Err(BrokerError::Malformed(_))));
    assert_eq!(*rig.store.notes.lock().expect("lock"), [crate::domain::EventKind::Progress { message: "half".into(), percent: Some(50) }]);
    assert_eq!(rig.broker.record(&rig.token).await.expect("its job").id, rig.job().id);
}

proptest! {
    /// Whatever is lost on the way, a runner that follows the protocol leaves the same trace in GitLab and here.
    #[test]
    fn the_log_is_the_trace(text in proptest::collection::vec(any::<u8>(), 1..60), cuts in proptest::collection::vec((1_usize..9, 0_u8..4), 1..80)) {
        let (mut gitlab, mut ours, mut sent) = (Vec::new(), Vec::<u8>::new(), 0_usize);
        for (length, fate) in cuts {
            let end = (sent + length).min(text.len());
            if sent == end {
                break;
            }
            let span = Span { start: sent as u64, end: end as u64 };
            let taken = gitlab.len() == sent && fate != 0;
            if taken {
                gitlab.extend_from_slice(&text[sent..end]);
            }
            // 0: nothing arrived. 1: GitLab took it and we died before we wrote it down.
            if fate > 1 {
                let held = if taken { span.end } else { gitlab.len() as u64 };
                if let Some(range) = new_in(span, held, ours.len() as u64) {
                    ours.extend_from_slice(&text[sent..end][range]);
                }
                sent = gitlab.len();
            }
            prop_assert!(gitlab.starts_with(&ours));
            prop_assert_eq!(&ours[..sent.min(ours.len())], &text[..sent.min(ours.len())]);
        }
    }
}
