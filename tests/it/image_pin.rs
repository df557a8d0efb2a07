//! A job's image is the same for all its attempts, whatever becomes of its tag, and a class may ask for images by digest only.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::harness::engine::{self, UNTIL_TOLD};
use crate::harness::{BUSYBOX, Daemon, Setup};
use crate::pull::{PASSWORD, Registry};

/// The digests of the images that a job's containers were made of.
async fn made_of(daemon: &Daemon, id: &str) -> Vec<Value> {
    let events = daemon.get(&format!("/jobs/{id}/events")).await;
    let made = events["events"].as_array().expect("events").iter().filter(|event| event["kind"] == "container_created");
    made.map(|event| event["digest"].clone()).collect()
}

/// A job each of whose attempts fails when it is told to.
fn fails(image: &str) -> Value {
    json!({ "image": image, "command": ["sh", "-c", format!("{UNTIL_TOLD}; exit 3")], "retries": 1, "memory": "64MiB" })
}

/// Ends the first attempt of a running job; the next one begins only after [`resume`].
async fn end_first_attempt(daemon: &Daemon, id: &str) -> Value {
    daemon.request(Method::POST, &format!("/hosts/{}/drain", daemon.name), None).await;
    engine::tell(id);
    let waiting = daemon.reaches(id, &["queued"]).await;
    daemon.until("its container is gone", async |daemon| engine::containers(&daemon.name).is_empty()).await;
    waiting
}

async fn resume(daemon: &Daemon) {
    daemon.request(Method::POST, &format!("/hosts/{}/resume", daemon.name), None).await;
}

#[tokio::test]
async fn a_tag_that_moves_between_two_attempts_changes_nothing() {
    let registry = Registry::up().await;
    let image = format!("{}/team/moves:1", registry.server());
    let first = registry.push_as(&image);
    let rest = format!("[[classes]]\nname = \"default\"\npull = \"always\"\nnetwork = \"none\"\n{}", registry.login(PASSWORD));
    let daemon = Setup::new("image-pin").with(&rest).start().await;
    for kept in ["the image stays", "the image goes and is fetched by its digest"] {
        let id = daemon.submit(fails(&image)).await;
        let running = daemon.reaches(&id, &["running"]).await;
        let digest = running["image_digest"].as_str().expect("a digest").to_owned();
        if kept == "the image stays" {
            assert!(digest.ends_with(&first), "{running}");
        }
        let second = registry.push_as(&image);
        assert!(!digest.ends_with(&second), "the tag has moved");
        let waiting = end_first_attempt(&daemon, &id).await;
        assert_eq!(waiting["image_digest"], json!(digest), "{waiting}");
        if kept != "the image stays" {
            engine::docker(&["image", "rm", "--force", &digest]);
        }
        resume(&daemon).await;
        daemon.runs(&id, 2).await;
        engine::tell(&id);
        let job = daemon.ended(&id).await;
        assert_eq!((&job["attempt"], &job["exit_code"], &job["image_digest"]), (&json!(2), &json!(3), &json!(digest)), "{kept}: {job}");
        assert_eq!(made_of(&daemon, &id).await, [json!(digest), json!(digest)], "{kept}");
    }
    daemon.finish().await;
}

#[tokio::test]
async fn an_image_that_came_from_nowhere_and_is_gone_ends_the_job_rather_than_be_another() {
    let image = "rc-test/comes-and-goes:1";
    let make = || {
        let container = engine::docker(&["create", BUSYBOX, "true"]);
        engine::docker(&["commit", "--message", "made here", container.trim(), image]);
        engine::docker(&["rm", container.trim()]);
    };
    make();
    let daemon = Setup::new("image-gone").with("[[classes]]\nname = \"default\"\nnetwork = \"none\"").start().await;
    let id = daemon.submit(fails(image)).await;
    let running = daemon.reaches(&id, &["running"]).await;
    let first = running["image_digest"].as_str().expect("the engine's id").to_owned();
    assert!(first.starts_with("sha256:"), "{running}");
    end_first_attempt(&daemon, &id).await;
    engine::docker(&["image", "rm", "--force", &first]);
    make();
    resume(&daemon).await;
    let job = daemon.ended(&id).await;
    assert_eq!((&job["reason"], &job["attempt"]), (&json!("image_unavailable"), &json!(2)), "{job}");
    assert!(job["detail"].as_str().is_some_and(|detail| detail.contains(&first) && detail.contains("came from no registry")), "{job}");
    engine::docker(&["image", "rm", "--force", image]);
    daemon.finish().await;
}

#[tokio::test]
async fn a_class_that_asks_for_digests_takes_no_tag() {
    let registry = Registry::up().await;
    let image = format!("{}/team/pinned", registry.server());
    let digest = registry.push_as(&format!("{image}:1"));
    let rest = format!("[[classes]]\nname = \"default\"\nrequire_digest = true\nnetwork = \"none\"\n{}", registry.login(PASSWORD));
    let daemon = Setup::new("image-digest").with(&rest).start().await;
    let of = |image: &str| json!({ "image": image, "command": ["true"], "memory": "64MiB" });
    let (status, problem) = daemon.request(Method::POST, "/jobs", Some(of(&format!("{image}:1")))).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{problem}");
    let detail = problem.to_string();
    assert!(detail.contains("\"image\"") && detail.contains("@sha256:") && detail.contains("require_digest"), "{problem}");
    let exact = format!("{image}@{digest}");
    let id = daemon.submit(of(&exact)).await;
    let job = daemon.ended(&id).await;
    assert_eq!((&job["state"], &job["image_digest"]), (&json!("succeeded"), &json!(exact)), "{job}");
    engine::docker(&["image", "rm", "--force", &exact]);
    daemon.finish().await;
}
