//! The daemon is killed at every word to its engine between a job's claim and the removal of its container. Whatever was under way, each GPU is
//! then one running container's or free.

use std::collections::HashSet;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::engine_proxy::{Moment, Proxy};
use crate::gpu_daemon::{Machine, states};
use crate::harness::{BUSYBOX, Daemon, PATIENCE, Setup, engine, pause};

/// Longest wait for a request; short jobs make each within a second or two.
const REACHED: Duration = Duration::from_secs(30);
/// The last job may be past the word before the daemon is armed to die of it: so often there is another.
const ANOTHER: Duration = Duration::from_secs(1);
/// No step of a job's way: asked whether a job runs or not, or at times of its own, which jobs as short as ours can all miss.
const BY_THE_CLOCK: [&str; 7] =
    ["GET /_ping", "GET /info", "GET /version", "GET /events", "GET /containers/*/stats", "GET /images/json", "GET /system/df"];

fn short() -> Value {
    let script = "ls /dev/dri; sleep 0.3";
    json!({ "image": BUSYBOX, "command": ["sh", "-c", script], "memory": "64MiB", "cpus": 0.5, "gpus": { "count": 1, "vendor": "amd" } })
}

/// Render nodes in running containers, as the engine tells: each in one at most.
fn nobody_shares(name: &str, when: &str) {
    let filter = format!("label=runner-coordinator.host={name}");
    let running = engine::docker(&["ps", "--quiet", "--no-trunc", "--filter", &filter]);
    let mut owners = HashSet::new();
    for container in running.lines() {
        // One that goes meanwhile owns nothing.
        let Some(devices) =
            engine::try_docker(&["inspect", "--format", "{{range .HostConfig.Devices}}{{println .PathInContainer}}{{end}}", container])
        else {
            continue;
        };
        for node in devices.lines().filter(|node| node.contains("renderD")) {
            assert!(owners.insert(node.to_owned()), "{node} is in two running containers, {when}");
        }
    }
}

async fn all_end(daemon: &Daemon, jobs: &[String], when: &str) {
    let deadline = Instant::now() + PATIENCE;
    for id in jobs {
        loop {
            nobody_shares(&daemon.name, when);
            let job = daemon.job(id).await;
            match job["state"].as_str() {
                Some("succeeded") => break,
                Some("queued" | "starting" | "running") => {}
                _ => panic!("{when}: {job}\n{}", daemon.log()),
            }
            assert!(Instant::now() < deadline, "{when}: {job}\n{}", daemon.log());
            pause().await;
        }
        let log = daemon.logs(id).await;
        assert!(["renderD128\n", "renderD129\n"].contains(&log.as_str()), "{when}: it saw {log:?}");
    }
    daemon.until("both cards are free", async |daemon| states(daemon).await == ["free", "free"]).await;
    daemon.until("no container is left", async |daemon| engine::containers(&daemon.name).is_empty()).await;
}

async fn three(daemon: &Daemon) -> Vec<String> {
    let mut jobs = Vec::new();
    for _ in 0..3 {
        jobs.push(daemon.submit(short()).await);
    }
    jobs
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_at_every_step_leaves_each_gpu_to_one_container_or_free() {
    let (machine, proxy) = (Machine::new(), Proxy::start());
    let settings = format!("{}\n[limits]\nretry_backoff = \"1s\"\nretry_backoff_max = \"1s\"", machine.settings());
    let mut daemon = Setup::new("gpu-crash").docker_host(&proxy.host()).with(&settings).start().await;
    daemon.until("it is healthy", Daemon::is_healthy).await;
    // The first round makes what later ones find: the network.
    for round in ["the first round", "a round without a crash"] {
        proxy.seen();
        let jobs = three(&daemon).await;
        all_end(&daemon, &jobs, round).await;
    }
    let requests: Vec<String> = proxy.seen().into_iter().filter(|request| !BY_THE_CLOCK.contains(&request.as_str())).collect();
    for step in ["POST /containers/create", "POST /containers/*/start", "DELETE /containers/*"] {
        assert!(requests.iter().any(|request| request == step), "{step} is not among {requests:?}");
    }
    // As many as docs/gpu.md says.
    assert!(requests.len() >= 8, "{requests:?}");
    for request in &requests {
        for moment in [Moment::Before, Moment::After] {
            let when = format!("after a crash {moment:?} {request}");
            proxy.kill_at(request, moment, daemon.pid());
            let mut jobs = Vec::new();
            let deadline = Instant::now() + REACHED;
            for _ in 0..3 {
                // It may die at once, and before it answers.
                jobs.extend(daemon.try_submit(short()).await);
            }
            let mut another = Instant::now() + ANOTHER;
            while !proxy.has_killed() {
                if Instant::now() >= another {
                    jobs.extend(daemon.try_submit(short()).await);
                    another = Instant::now() + ANOTHER;
                }
                assert!(Instant::now() < deadline, "it does not say {request}\n{}", daemon.log());
                nobody_shares(&daemon.name, &when);
                pause().await;
            }
            daemon.kill();
            nobody_shares(&daemon.name, &when);
            daemon.start().await;
            all_end(&daemon, &jobs, &when).await;
        }
    }
    daemon.finish().await;
}
