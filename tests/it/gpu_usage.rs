//! What a job used of its GPU, from the driver's numbers to the job's record and its project's sums, also over a restart.

use reqwest::Method;
use serde_json::{Value, json};

use crate::gpu_daemon::{Machine, cancel, holder};
use crate::harness::{Daemon, Setup};

/// The first card's directory; what the driver tells stands there.
const CARD: &str = "sys/devices/pci0000:00/0000:03:00.0";

fn tells(machine: &Machine, memory: u64, percent: u32) {
    machine.file(&format!("{CARD}/mem_info_vram_used"), &format!("{memory}\n"));
    machine.file(&format!("{CARD}/gpu_busy_percent"), &format!("{percent}\n"));
}

async fn usage(daemon: &Daemon, id: &str) -> Value {
    daemon.job(id).await["usage"].clone()
}

#[tokio::test]
async fn what_a_job_used_stands_in_its_record_and_in_its_projects_sum() {
    let machine = Machine::new();
    tells(&machine, 3 << 20, 50);
    let mut daemon = Setup::new("gpu-usage").with(&machine.settings()).start().await;
    daemon.until("it is healthy", Daemon::is_healthy).await;
    let mut body = holder();
    body["project"] = json!("team/app");
    let id = daemon.submit(body).await;
    daemon.reaches(&id, &["running"]).await;
    assert_eq!(daemon.job(&id).await["devices"], json!(["amd-0000:03:00.0"]));
    daemon.until("its memory was read", async |daemon| usage(daemon, &id).await["gpu_memory_peak_bytes"] == json!(3 << 20)).await;

    // What was read before a crash still counts after it.
    daemon.kill();
    tells(&machine, 1 << 20, 50);
    daemon.start().await;
    daemon.until("its utilisation is known", async |daemon| usage(daemon, &id).await["gpu_utilisation_mean"] == json!(50.0)).await;
    assert_eq!(daemon.get("/status").await["projects"], json!([]), "only what has ended is summed up");
    cancel(&daemon, &id).await;

    let job = daemon.ended(&id).await;
    let (used, seconds) = (&job["usage"], time(&job["finished_at"]).duration_since(time(&job["started_at"])).as_secs_f64());
    assert_eq!((&used["gpu_memory_peak_bytes"], &used["gpu_energy_joules"]), (&json!(3 << 20), &Value::Null), "{job}");
    assert!((used["gpu_seconds"].as_f64().expect("a number") - seconds).abs() < 0.01, "{job}");
    daemon.kill();
    daemon.start().await;
    let projects = daemon.get("/status").await["projects"].clone();
    assert_eq!((&projects[0]["project"], &projects[0]["gpu_attempts"]), (&json!("team/app"), &json!(1)), "{projects}");
    assert_eq!((&projects[0]["gpu_seconds"], &projects[0]["gpu_seconds_24h"]), (&used["gpu_seconds"], &used["gpu_seconds"]), "{projects}");

    let plain = daemon.submit(json!({ "image": crate::harness::BUSYBOX, "command": ["true"], "memory": "64MiB" })).await;
    assert_eq!(daemon.ended(&plain).await["usage"], Value::Null);
    let (_, list) = daemon.request(Method::GET, "/jobs", None).await;
    assert_eq!(list["jobs"][0]["usage"], Value::Null);
    daemon.finish().await;
}

fn time(value: &Value) -> jiff::Timestamp {
    value.as_str().and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("{value} is no time"))
}
