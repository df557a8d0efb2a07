//! The two-phase commit: a GitLab that knows it waits for our word, and has a job back that could not be started here.

use serde_json::{Value, json};

use crate::gitlab::{GitLab, JobView, Status};
use crate::harness::road::{Plan, Road, job, records};
use crate::harness::{Daemon, PATIENCE, RUNNER, Setup};

/// A GitLab that keeps jobs for us, and a daemon whose class has this image.
async fn started(name: &str, image: &str) -> (GitLab, Daemon) {
    let Road { gitlab, daemon } = Road::build(Setup::new(name), Plan { image, ..Plan::default() }).await;
    gitlab.two_phase(true);
    (gitlab, daemon)
}

/// Every record of ours of a job of GitLab that has ended, newest first.
async fn ended(daemon: &Daemon, id: i64) -> Vec<Value> {
    records(daemon, id).await.into_iter().filter(|job| !job["finished_at"].is_null()).collect()
}

fn states(job: &JobView) -> Vec<&str> {
    job.updates.iter().map(|update| update.state.as_str()).collect()
}

#[tokio::test]
async fn gitlab_hears_that_a_job_runs_when_its_container_is_up() {
    let (gitlab, daemon) = started("two-phase", RUNNER).await;
    let id = gitlab.enqueue(job("build").script(["echo done"]));
    gitlab.send_job_event(id).await;
    let done = gitlab.wait_for(id, PATIENCE, |job| job.status.is_final()).await.unwrap_or_else(|error| panic!("{error}\n{}", daemon.log()));
    assert_eq!((done.status, done.n_assigned, states(&done)[0]), (Status::Success, 1, "running"), "{done:?}");
    assert!(done.trace.contains("done"), "{}", done.trace);
    daemon.finish().await;
}

#[tokio::test]
async fn a_job_that_cannot_start_goes_back_once_and_fails_the_second_time() {
    let (gitlab, daemon) = started("two-phase-back", "rc-test/no-such-image:1").await;
    let id = gitlab.enqueue(job("build").script(["echo done"]));
    gitlab.send_job_event(id).await;
    daemon.until("it has ended here", async |daemon| ended(daemon, id).await.len() == 1).await;
    let ours = ended(&daemon, id).await.remove(0);
    assert_eq!((&ours["state"], &ours["reason"]), (&json!("failed"), &json!("image_unavailable")), "{ours}");
    assert!(ours["detail"].as_str().is_some_and(|detail| detail.ends_with("the job was given back to GitLab")), "{ours}");
    let there = gitlab.job(id);
    assert_eq!((there.status, there.trace.as_str()), (Status::Pending, ""), "GitLab may still give it to another: {there:?}");
    assert!(!states(&there).contains(&"running"), "{there:?}");

    gitlab.lapse_unconfirmed();
    gitlab.send_job_event_as(id, uuid::Uuid::now_v7()).await;
    let failed = gitlab.wait_for(id, PATIENCE, |job| job.status.is_final()).await.unwrap_or_else(|error| panic!("{error}\n{}", daemon.log()));
    assert_eq!((failed.status, failed.failure_reason.as_deref(), failed.n_assigned), (Status::Failed, Some("runner_system_failure"), 2));
    assert!(failed.trace.contains("the image could not be had"), "{}", failed.trace);
    daemon.until("it has ended here too", async |daemon| ended(daemon, id).await.len() == 2).await;
    daemon.finish().await;
}

#[tokio::test]
async fn a_job_that_is_refused_fails_at_once_with_its_message() {
    let (gitlab, daemon) = started("two-phase-deny", RUNNER).await;
    let spec = job("build").image("debian").script(["echo done"]);
    let id = gitlab.enqueue(spec);
    gitlab.send_job_event(id).await;
    let failed = gitlab.wait_for(id, PATIENCE, |job| job.status.is_final()).await.unwrap_or_else(|error| panic!("{error}\n{}", daemon.log()));
    assert_eq!((failed.status, failed.failure_reason.as_deref(), failed.n_assigned), (Status::Failed, Some("runner_unsupported"), 1));
    assert!(failed.trace.contains("takes no images of jobs"), "{}", failed.trace);
    daemon.finish().await;
}

#[tokio::test]
async fn where_gitlab_knows_no_two_phases_a_job_that_cannot_start_fails_at_once() {
    let (gitlab, daemon) = started("one-phase", "rc-test/no-such-image:1").await;
    gitlab.two_phase(false);
    let id = gitlab.enqueue(job("build").script(["echo done"]));
    gitlab.send_job_event(id).await;
    let failed = gitlab.wait_for(id, PATIENCE, |job| job.status.is_final()).await.unwrap_or_else(|error| panic!("{error}\n{}", daemon.log()));
    assert_eq!((failed.status, failed.failure_reason.as_deref(), failed.n_assigned), (Status::Failed, Some("runner_system_failure"), 1));
    assert!(failed.trace.contains("the image could not be had"), "{}", failed.trace);
    daemon.finish().await;
}
