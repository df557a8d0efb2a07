//! What runners report: trace, states, artifacts.

use std::time::Duration;

use axum::http::StatusCode;
use serde_json::json;

use super::super::{Checksums, JobSpec, JobView, Status};
use super::{Client, SOON, TOKEN, header, start};

#[tokio::test]
async fn a_trace_must_join_without_a_gap() {
    let gitlab = start().await;
    gitlab.add_runner(TOKEN, &[]);
    gitlab.trace_interval(Duration::from_secs(3));
    let id = gitlab.enqueue(JobSpec::new("trace"));
    let client = Client::new(&gitlab);
    client.take(json!({})).await;
    let job = gitlab.job(id);

    let first = client.trace(&job, 0, "hello ").await;
    assert_eq!((first.status(), header(&first, "range")), (StatusCode::ACCEPTED, "0-6"));
    assert_eq!((header(&first, "job-status"), header(&first, "x-gitlab-trace-update-interval")), ("running", "3"));
    let gap = client.trace(&job, 9, "lost").await;
    assert_eq!((gap.status(), header(&gap, "range")), (StatusCode::RANGE_NOT_SATISFIABLE, "0-6"));
    assert_eq!(client.trace(&job, 0, "hello ").await.status(), StatusCode::ACCEPTED);
    assert_eq!(client.trace(&job, 6, "world").await.status(), StatusCode::ACCEPTED);
    assert_eq!(gitlab.job(id).trace, "hello world");

    let stranger = JobView { job_token: "glcbt-wrong".into(), ..job };
    assert_eq!(client.trace(&stranger, 11, "!").await.status(), StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn a_job_ends_once_with_reason_and_exit_code() {
    let gitlab = start().await;
    gitlab.add_runner(TOKEN, &[]);
    let id = gitlab.enqueue(JobSpec::new("fails").allow_failure());
    let client = Client::new(&gitlab);
    client.take(json!({})).await;
    let job = gitlab.job(id);
    let failed = json!({ "state": "failed", "failure_reason": "script_failure", "exit_code": 7 });

    gitlab.delay_final_updates(1);
    assert_eq!(client.update(&job, failed.clone()).await.status(), StatusCode::ACCEPTED);
    assert_eq!(client.update(&job, failed.clone()).await.status(), StatusCode::OK);
    let again = client.update(&job, failed).await;
    assert_eq!((again.status(), header(&again, "job-status")), (StatusCode::FORBIDDEN, "failed"));

    let view = gitlab.wait_for(id, SOON, |job| job.status.is_final()).await.expect("it ended");
    assert_eq!((view.failure_reason.as_deref(), view.exit_code), (Some("script_failure"), Some(7)));
    let answers: Vec<u16> = view.updates.iter().map(|update| update.answer).collect();
    assert_eq!(answers, [202, 200]);
    assert_eq!((view.updates[0].state.as_str(), view.updates[0].exit_code), ("failed", Some(7)));
    assert_eq!(view.updates[0].failure_reason.as_deref(), Some("script_failure"));
}

#[tokio::test]
async fn a_wrong_checksum_is_sent_back() {
    let gitlab = start().await;
    gitlab.add_runner(TOKEN, &[]);
    gitlab.checksums(Checksums::Verify);
    let id = gitlab.enqueue(JobSpec::new("checked"));
    let client = Client::new(&gitlab);
    client.take(json!({})).await;
    let job = gitlab.job(id);
    client.trace(&job, 0, "123456789").await;

    let wrong = json!({ "state": "success", "output": { "checksum": "crc32:00000000" } });
    assert_eq!(client.update(&job, wrong).await.status(), StatusCode::PRECONDITION_FAILED);
    let right = json!({ "state": "success", "output": { "checksum": "crc32:cbf43926" } });
    assert_eq!(client.update(&job, right).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_cancel_is_graceful_only_for_runners_that_can() {
    let gitlab = start().await;
    gitlab.add_runner(TOKEN, &[]);
    let client = Client::new(&gitlab);
    for (features, told, status) in
        [(json!({ "cancel_gracefully": true }), "canceling", StatusCode::OK), (json!({}), "canceled", StatusCode::FORBIDDEN)]
    {
        let id = gitlab.enqueue(JobSpec::new("cancelled"));
        client.take(features).await;
        gitlab.cancel(id);
        let heard = client.update(&gitlab.job(id), json!({ "state": "running" })).await;
        assert_eq!((heard.status(), header(&heard, "job-status")), (status, told));
        client.update(&gitlab.job(id), json!({ "state": "failed" })).await;
        assert_eq!(gitlab.job(id).status, Status::Canceled);
    }
    let waiting = gitlab.enqueue(JobSpec::new("never taken"));
    gitlab.cancel(waiting);
    assert_eq!(gitlab.job(waiting).status, Status::Canceled);
}

#[tokio::test]
async fn artifacts_come_out_as_they_went_in() {
    let gitlab = start().await;
    gitlab.add_runner(TOKEN, &[]);
    let id = gitlab.enqueue(JobSpec::new("builds").artifacts(["out"]));
    let client = Client::new(&gitlab);
    let sent = client.take(json!({})).await;
    assert_eq!(sent["artifacts"][0]["paths"], json!(["out"]));
    let job = gitlab.job(id);
    let url = format!("{}/api/v4/jobs/{id}/artifacts", gitlab.url());
    let form = "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.zip\"\r\n\r\nPK\0\r\n--b--\r\n";
    let request = client.http.post(&url).header("JOB-TOKEN", &job.job_token);
    let request = request.header("Content-Type", "multipart/form-data; boundary=b").body(form);
    assert_eq!(request.send().await.expect("an answer").status(), StatusCode::CREATED);

    let kept = gitlab.job(id).artifacts.remove(0);
    assert_eq!((kept.name.as_str(), kept.size, kept.bytes.as_slice()), ("a.zip", 3, b"PK\0".as_slice()));
    client.update(&job, json!({ "state": "success" })).await;
    let got = client.http.get(&url).header("JOB-TOKEN", &job.job_token).send().await.expect("an answer");
    assert_eq!(got.bytes().await.expect("bytes").as_ref(), b"PK\0");
    gitlab.enqueue(JobSpec::new("uses").needs(id));
    let next = client.take(json!({})).await;
    assert_eq!(next["dependencies"][0]["artifacts_file"], json!({ "filename": "a.zip", "size": 3 }));
}
