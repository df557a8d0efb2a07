//! The doorbell as it really is: events lost, doubled, out of order, and some that are not for us at all. Every job runs exactly once.
//!
//! Each round is made from a seed, which stands in what is said when it fails; `RC_BELL_SEEDS=7,8` runs those.

#![expect(clippy::print_stdout, reason = "how long it took is what `--nocapture` shows")]

use std::collections::BTreeMap;
use std::fs::File;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use futures_util::future::join_all;
use reqwest::StatusCode;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::gitlab::Status;
use crate::harness::road::{HOOK_SECRET, Road, job};
use crate::harness::{client, engine};

/// Jobs of one round.
const JOBS: usize = 12;
/// The daemon's `gitlab.poll_interval`.
const POLL: &str = "2s";
/// The longest time between two polls, spread included.
const LONGEST_POLL: Duration = Duration::from_millis(2400);
/// What claiming a round of jobs may take on a machine that is shared; far less than it takes to look again without bell and poll.
const CLAIMING: Duration = Duration::from_secs(40);
/// Longest wait for a round.
const ROUND: Duration = Duration::from_secs(120);

/// Numbers that are the same for the same seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb) % sides
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let other = usize::try_from(self.roll(last as u64 + 1)).expect("small");
            items.swap(last, other);
        }
    }
}

/// One delivery: what it says, and under which name.
#[derive(Clone)]
struct Bell {
    event: Value,
    key: Uuid,
}

/// The events of the jobs after 30 % of them were dropped, 30 % doubled and all shuffled, with strangers' events among them.
fn bells(events: &[Value], dice: &mut Dice) -> Vec<Bell> {
    let mut all = Vec::new();
    for event in events {
        for status in ["created", "pending", "running", "success"] {
            let mut event = event.clone();
            event["build_status"] = json!(status);
            let bell = Bell { event, key: Uuid::new_v4() };
            match dice.roll(10) {
                0..3 => {}
                // The same delivery again, or the same event from a group's hook under another name.
                3 | 4 => all.extend([bell.clone(), bell]),
                5 => all.extend([bell.clone(), Bell { key: Uuid::new_v4(), ..bell }]),
                _ => all.push(bell),
            }
        }
    }
    for number in 0..JOBS as u64 {
        let mut event = events[0].clone();
        (event["build_id"], event["project_id"]) = (json!(9_000_000 + number), json!(77 + number));
        event["build_status"] = json!(["pending", "canceled", "waiting_for_resource"][usize::try_from(number % 3).expect("small")]);
        all.push(Bell { event, key: Uuid::new_v4() });
    }
    dice.shuffle(&mut all);
    all
}

/// Writes down every container that the engine starts for a machine.
struct Starts {
    child: Child,
    file: tempfile::NamedTempFile,
}

impl Starts {
    fn watch(host: &str) -> Self {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let out = File::create(file.path()).expect("a file");
        let filter = format!("label=runner-coordinator.host={host}");
        let child = Command::new("docker")
            .args(["events", "--filter", &filter, "--filter", "event=start", "--format", "{{json .Actor.Attributes}}"])
            .env("DOCKER_HOST", engine::host())
            .stdout(out)
            .stdin(Stdio::null())
            .spawn()
            .expect("the docker command");
        Self { child, file }
    }

    /// How many containers were started.
    fn count(&self) -> usize {
        std::fs::read_to_string(self.file.path()).expect("readable").lines().count()
    }
}

impl Drop for Starts {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn ring(hook: &str, instance: &str, bell: &Bell) -> StatusCode {
    let key = bell.key.to_string();
    let request = client().post(hook).header("x-gitlab-token", HOOK_SECRET).header("x-gitlab-event", "Job Hook").header("idempotency-key", key);
    let request = request.header("x-gitlab-instance", instance).header("content-type", "application/json").body(bell.event.to_string());
    request.send().await.expect("an answer").status()
}

/// One round; answers how long each job waited until it was claimed.
async fn round(road: &Road, starts: &Starts, seed: u64) -> Vec<Duration> {
    let (started, mut dice) = (starts.count(), Dice(seed));
    let ids: Vec<i64> = (0..JOBS).map(|number| road.gitlab.enqueue(job(&format!("seed {seed} job {number}")))).collect();
    let events: Vec<Value> = ids.iter().map(|id| road.gitlab.job_event(*id).expect("an event")).collect();
    let bells = bells(&events, &mut dice);
    let hook = format!("{}/webhook/job", road.daemon.url);
    let instances = [road.gitlab.url(), "https://gitlab.elsewhere.example"];
    for some in bells.chunks(8) {
        let rung = some.iter().map(|bell| ring(&hook, instances[usize::from(bell.event["project_id"] != json!(282))], bell));
        assert!(join_all(rung).await.iter().all(|status| *status == StatusCode::OK), "seed {seed}: an event was not answered with 200");
    }
    let mut waited = Vec::new();
    for id in ids {
        let done = road.reaches(id, ROUND, |job| job.status.is_final()).await;
        assert_eq!((done.status, done.n_assigned), (Status::Success, 1), "seed {seed}: {done:?}");
        let ours = road.ended(id).await;
        assert_eq!((&ours["state"], &ours["attempt"]), (&json!("succeeded"), &json!(1)), "seed {seed}: {ours}");
        waited.push(done.waited.expect("it ran"));
    }
    assert_eq!(starts.count() - started, JOBS, "seed {seed}: containers were started for nothing");
    waited
}

#[tokio::test]
async fn lost_doubled_and_shuffled_events_run_every_job_exactly_once_and_soon() {
    let named: BTreeMap<String, String> = std::env::vars().collect();
    let seeds = named.get("RC_BELL_SEEDS").map_or("1,2,3", String::as_str);
    let road = Road::start("doorbell", POLL, "").await;
    let starts = Starts::watch("doorbell");
    for seed in seeds.split(',').map(|seed| seed.parse().expect("seeds are numbers")) {
        let waited = round(&road, &starts, seed).await;
        let longest = waited.iter().max().expect("jobs");
        println!("seed {seed}: claimed after {longest:.1?} at most");
        assert!(*longest <= LONGEST_POLL + CLAIMING, "seed {seed}: a job was claimed after {longest:?}\n{}", road.daemon.log());
    }
    road.daemon.finish().await;
}

#[tokio::test]
async fn a_job_whose_every_event_is_lost_starts_within_one_poll() {
    let road = Road::start("doorbell-lost", POLL, "").await;
    for name in ["first", "second", "third"] {
        let id = road.gitlab.enqueue(job(name));
        let done = road.reaches(id, ROUND, |job| job.status.is_final()).await;
        assert_eq!((done.status, done.n_assigned), (Status::Success, 1), "{done:?}");
        let waited = done.waited.expect("it ran");
        assert!(waited <= LONGEST_POLL + CLAIMING / 2, "{name}: claimed after {waited:?}\n{}", road.daemon.log());
    }
    road.daemon.finish().await;
}
