//! `image:` and `services:` of a job: the real engine runs the job in its own image with the runner lent to it, or says why not.

use std::net::{Ipv4Addr, SocketAddr};

use serde_json::{Value, json};

use crate::gitlab::{GitLab, JobSpec, JobView, Status};
use crate::harness::{Daemon, PATIENCE, RUNNER, Setup, engine};

/// An image that has what the runner needs, but no runner.
const LIBS: &str = "rc-test/libs:1";
const SECRET: &str = "hook-secret-of-the-tests";
const TOKEN: &str = "glrt-class-token-of-the-tests";

/// The keys of a class that lends its runner to these images.
fn allowing(patterns: &str) -> String {
    let runner = engine::runner_binary();
    format!("job_image = \"allow\"\njob_images = [{patterns}]\nrunner_binary = {runner:?}")
}

async fn started(name: &str, class: &str) -> (GitLab, Daemon) {
    let gitlab = GitLab::start(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))).await.expect("a GitLab");
    gitlab.add_runner(TOKEN, &["docker"]);
    let daemon = Setup::new(name)
        .with(&format!("[gitlab]\nurl = {:?}\npoll_interval = \"1h\"\n[gitlab.webhook]\nsecret_token = {SECRET:?}", gitlab.url()))
        .with(&format!(
            "[[classes]]\nname = \"gitlab\"\nimage = {RUNNER:?}\npull = \"never\"\ngitlab_token = {TOKEN:?}\ncpus = 0.5\nmemory = \"512MiB\"\n{class}"
        ))
        .start()
        .await;
    gitlab.set_hook(&format!("{}/webhook/job", daemon.url), Some(SECRET));
    daemon.until("GitLab was asked", async |_| gitlab.count_requests("POST", "/jobs/request") > 0).await;
    (gitlab, daemon)
}

fn job(name: &str) -> JobSpec {
    JobSpec::new(name).project("team/app", 282).tags(["docker"])
}

async fn run(gitlab: &GitLab, daemon: &Daemon, spec: JobSpec) -> (JobView, Value) {
    let id = gitlab.enqueue(spec);
    gitlab.send_job_event(id).await;
    let done = gitlab.wait_for(id, PATIENCE, |job| job.status.is_final()).await.unwrap_or_else(|error| panic!("{error}\n{}", daemon.log()));
    let jobs = daemon.get("/jobs?limit=100").await;
    let ours = jobs["jobs"].as_array().expect("jobs").iter().find(|job| job["gitlab"]["job_id"] == json!(id)).expect("a record").clone();
    (done, daemon.ended(ours["id"].as_str().expect("an id")).await)
}

#[tokio::test]
async fn a_job_runs_in_the_image_that_it_names_with_a_runner_that_it_cannot_change() {
    let (gitlab, daemon) = started("image-allow", &format!("warm = 1\n{}", allowing("\"rc-test/*\""))).await;
    let idle = async |daemon: &Daemon| daemon.get("/status").await["runners"]["idle"] == json!(1);
    daemon.until("a warm runner waits", async |daemon| idle(daemon).await).await;
    let warm = engine::containers("image-allow");
    let look = [
        "test -e /usr/bin/gitlab-runner || echo not the class image",
        "grep ' /usr/local/bin/gitlab-runner ' /proc/mounts",
        "echo x > /usr/local/bin/gitlab-runner || echo cannot write",
    ];
    let (done, ours) = run(&gitlab, &daemon, job("own").image(LIBS).script(look)).await;
    assert_eq!(done.status, Status::Success, "{done:?}\n{}", daemon.log());
    assert!(done.trace.contains("not the class image") && done.trace.contains("cannot write"), "{}", done.trace);
    assert!(done.trace.lines().any(|line| line.contains("/usr/local/bin/gitlab-runner") && line.contains("ro,")), "{}", done.trace);
    assert_eq!(ours["state"], json!("succeeded"), "{ours}");
    let warm_after = engine::containers("image-allow");
    assert!(warm.iter().all(|name| warm_after.contains(name)), "the warm runner was not used: {warm:?} {warm_after:?}");

    let (done, ours) = run(&gitlab, &daemon, job("plain").script(["test -e /usr/bin/gitlab-runner && echo the class image"])).await;
    assert!(done.trace.contains("the class image"), "{}", done.trace);
    assert_eq!(ours["state"], json!("succeeded"), "{ours}");
    daemon.finish_with_pool().await;
}

#[tokio::test]
async fn what_a_class_does_not_offer_fails_with_a_message_and_makes_no_container() {
    let (gitlab, daemon) = started("image-deny", "").await;
    let (strict_gitlab, strict) = started("image-pattern", &allowing("\"registry.example.com/*\"")).await;
    for (gitlab, daemon, spec, words) in [
        (&gitlab, &daemon, job("denied").image(LIBS), "takes no images of jobs"),
        (&gitlab, &daemon, job("services").services(["postgres:16"]), "does not offer yet"),
        (&strict_gitlab, &strict, job("other").image(LIBS), "takes only registry.example.com/*"),
    ] {
        let (done, ours) = run(gitlab, daemon, spec.script(["echo ran"])).await;
        assert_eq!((done.status, done.failure_reason.as_deref()), (Status::Failed, Some("runner_unsupported")), "{done:?}");
        assert!(done.trace.contains(words) && !done.trace.contains("\nran"), "{}", done.trace);
        assert_eq!((&ours["state"], &ours["reason"], &ours["attempt"]), (&json!("failed"), &json!("unsupported"), &json!(1)), "{ours}");
        let events = daemon.get(&format!("/jobs/{}/events", ours["id"].as_str().expect("an id"))).await;
        assert!(!events.to_string().contains("container_created"), "{events}");
    }
    daemon.finish().await;
    strict.finish().await;
}
