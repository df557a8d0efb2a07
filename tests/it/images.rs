//! Images make room: those that this daemon fetched, the one first that was not used for longest, and none that anybody needs.

use std::time::Duration;

use reqwest::Method;
use serde_json::json;

use crate::harness::{Daemon, NO_MARKS, Setup, engine};
use crate::pull::{PASSWORD, Registry};

/// Longest wait for what a round over the images does: after one that made no room the next comes a minute later.
const A_ROUND: Duration = Duration::from_secs(120);

fn is_here(image: &str) -> bool {
    engine::try_docker(&["image", "inspect", image]).is_some()
}

async fn run(daemon: &Daemon, image: &str) {
    let id = daemon.submit(json!({ "image": image, "command": ["true"], "cpus": 0.1, "memory": "64MiB" })).await;
    let job = daemon.ended(&id).await;
    assert_eq!(job["state"], "succeeded", "{job}");
}

/// The images that went, in order.
fn removed(daemon: &Daemon) -> Vec<String> {
    let log = daemon.log();
    let lines = log.lines().filter(|line| line.contains("an image that was not used lately was removed"));
    lines.filter_map(|line| Some(line.split("image=").nth(1)?.split_whitespace().next()?.to_owned())).collect()
}

#[tokio::test]
async fn images_go_by_their_last_use_and_none_that_is_used_pinned_configured_or_somebody_elses() {
    let registry = Registry::up().await;
    let image = |name: &str| format!("{}/{name}:1", registry.server());
    let [first, second, pinned, of_class, busy, held, foreign] =
        ["team/first", "team/second", "pinned/tool", "team/class", "team/busy", "team/held", "team/foreign"].map(image);
    for one in [&first, &second, &pinned, &of_class, &busy, &held, &foreign] {
        registry.push_as(one);
    }
    registry.fetch(&foreign);
    let settings = format!(
        "[images]\npinned = [\"{}/pinned/*\"]\n[[classes]]\nname = \"default\"\nimage = {of_class:?}\n{}",
        registry.server(),
        registry.login(PASSWORD)
    );
    let daemon = Setup::new("images").host("cpus = 2").with(&settings).start().await;
    for one in [&second, &pinned, &of_class, &held, &foreign, &first] {
        run(&daemon, one).await;
    }
    // Used again, so `first` is the one that was not used for longest, although it came last.
    run(&daemon, &second).await;
    let runs = daemon.submit(json!({ "image": busy, "command": ["sleep", "600"], "cpus": 0.1, "memory": "64MiB" })).await;
    daemon.reaches(&runs, &["running"]).await;
    // A container of somebody else, that does not even run.
    engine::docker(&["create", "--name", "images-of-others", &held, "true"]);

    daemon.reload(&daemon.configuration().replace(NO_MARKS, "disk = { low = \"1024TiB\", full = \"0%\" }"));
    daemon.within(A_ROUND, "images went", async |daemon| removed(daemon).len() >= 2).await;
    assert_eq!(removed(&daemon), [first.clone(), second.clone()]);
    assert!(!is_here(&first) && !is_here(&second));
    for (kept, why) in [(&pinned, "pinned"), (&of_class, "a class names it"), (&busy, "a job runs in it"), (&held, "a container is made of it")] {
        assert!(is_here(kept), "{why}");
    }
    assert!(is_here(&foreign), "somebody else fetched it");
    let (_, metrics) = daemon.request(Method::GET, "/metrics", None).await;
    assert!(metrics.as_str().is_some_and(|text| text.contains("\nrunner_coordinator_images_removed_total 2\n")), "{metrics}");
    assert_eq!(daemon.request(Method::GET, "/health", None).await.1["checks"]["disk"]["status"], "ok", "work goes on");

    // One that went is fetched again; one that is no longer used goes too.
    run(&daemon, &first).await;
    engine::docker(&["rm", "images-of-others"]);
    daemon.within(A_ROUND, "the held one went", async |daemon| removed(daemon).contains(&held)).await;
    daemon.request(Method::DELETE, &format!("/jobs/{runs}"), None).await;
    daemon.ended(&runs).await;
    daemon.finish().await;
    for one in [&first, &second, &pinned, &of_class, &busy, &held, &foreign] {
        let _ = engine::try_docker(&["image", "rm", one]);
    }
}
