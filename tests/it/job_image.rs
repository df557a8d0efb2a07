//! `image:` and `services:` of a job: the real engine runs the job in its own image with the runner lent to it, or says why not.

use serde_json::{Value, json};

use crate::gitlab::{JobSpec, JobView, Status};
use crate::harness::road::{Road, job};
use crate::harness::{Daemon, PATIENCE, engine};

/// An image that has what the runner needs, but no runner.
const LIBS: &str = "rc-test/libs:1";

/// The keys of a class that lends its runner to these images.
fn allowing(patterns: &str) -> String {
    let runner = engine::runner_binary();
    format!("job_image = \"allow\"\njob_images = [{patterns}]\nrunner_binary = {runner:?}")
}

async fn run(road: &Road, spec: JobSpec) -> (JobView, Value) {
    let id = road.gitlab.enqueue(spec);
    road.gitlab.send_job_event(id).await;
    let done = road.reaches(id, PATIENCE, |job| job.status.is_final()).await;
    (done, road.ended(id).await)
}

#[tokio::test]
async fn a_job_runs_in_the_image_that_it_names_with_a_runner_that_it_cannot_change() {
    let road = Road::start("image-allow", "1h", &format!("warm = 1\n{}", allowing("\"rc-test/*\""))).await;
    let daemon = &road.daemon;
    let idle = async |daemon: &Daemon| daemon.get("/status").await["runners"]["idle"] == json!(1);
    daemon.until("a warm runner waits", async |daemon| idle(daemon).await).await;
    let warm = road.containers();
    let look = [
        "test -e /usr/bin/gitlab-runner || echo not the class image",
        "grep ' /usr/local/bin/gitlab-runner ' /proc/mounts",
        "echo x > /usr/local/bin/gitlab-runner || echo cannot write",
    ];
    let (done, ours) = run(&road, job("own").image(LIBS).script(look)).await;
    assert_eq!(done.status, Status::Success, "{done:?}\n{}", daemon.log());
    assert!(done.trace.contains("not the class image") && done.trace.contains("cannot write"), "{}", done.trace);
    assert!(done.trace.lines().any(|line| line.contains("/usr/local/bin/gitlab-runner") && line.contains("ro,")), "{}", done.trace);
    let opened = format!("job_image = \"allow\": jobs choose 1 pattern(s) of images, and see {} read-only", engine::runner_binary());
    assert_eq!((&ours["state"], &ours["opened"]), (&json!("succeeded"), &json!([opened])), "{ours}");
    let warm_after = road.containers();
    assert!(warm.iter().all(|name| warm_after.contains(name)), "the warm runner was not used: {warm:?} {warm_after:?}");

    let (done, ours) = run(&road, job("plain").script(["test -e /usr/bin/gitlab-runner && echo the class image"])).await;
    assert!(done.trace.contains("the class image"), "{}", done.trace);
    assert_eq!((&ours["state"], &ours["opened"]), (&json!("succeeded"), &json!([])), "{ours}");
    road.daemon.finish_with_pool().await;
}

#[tokio::test]
async fn what_a_class_does_not_offer_fails_with_a_message_and_makes_no_container() {
    let deny = Road::start("image-deny", "1h", "").await;
    let strict = Road::start("image-pattern", "1h", &allowing("\"registry.example.com/*\"")).await;
    for (road, spec, words) in [
        (&deny, job("denied").image(LIBS), "takes no images of jobs"),
        (&deny, job("services").services(["postgres:16"]), "does not offer yet"),
        (&strict, job("other").image(LIBS), "takes only registry.example.com/*"),
    ] {
        let (done, ours) = run(road, spec.script(["echo ran"])).await;
        assert_eq!((done.status, done.failure_reason.as_deref()), (Status::Failed, Some("runner_unsupported")), "{done:?}");
        assert!(done.trace.contains(words) && !done.trace.contains("\nran"), "{}", done.trace);
        assert_eq!((&ours["state"], &ours["reason"], &ours["attempt"]), (&json!("failed"), &json!("unsupported"), &json!(1)), "{ours}");
        let events = road.daemon.get(&format!("/jobs/{}/events", ours["id"].as_str().expect("an id"))).await;
        assert!(!events.to_string().contains("container_created"), "{events}");
    }
    deny.daemon.finish().await;
    strict.daemon.finish().await;
}
