//! `jobs explain`: why a job is where it is.

use serde_json::Value;

use crate::cli::render::{list, word};

/// The sentence, and below it what each machine lacks and who holds that.
pub(super) fn lines(answer: &Value) -> Vec<String> {
    let mut lines = vec![format!("{} is {}: {}", word(answer, "job_id"), word(answer, "state"), word(answer, "summary"))];
    if let Some(start) = answer["estimated_start"].as_str() {
        lines.push(format!("starts at the latest {start}, if those that run use their timeouts up"));
    }
    for host in list(answer, "hosts") {
        for missing in list(host, "missing") {
            lines.push(format!("{}  {}: {}", word(host, "host"), word(missing, "field"), word(missing, "message")));
            for holder in list(missing, "holders") {
                lines.push(format!("  held by {}", self::holder(holder)));
            }
            match missing["more_holders"].as_u64() {
                Some(0) | None => {}
                Some(more) => lines.push(format!("  and {more} more")),
            }
            for gpu in list(missing, "unusable") {
                lines.push(format!("  {} cannot be used: {}", word(gpu, "device"), word(gpu, "reason")));
            }
        }
    }
    lines
}

/// `job 01a2… of team/app (2 CPUs, 64GiB, GPU-1), until 2026-11-24T04:09:09Z`
fn holder(holder: &Value) -> String {
    let who =
        holder["job_id"].as_str().map_or_else(|| format!("runner {}", holder["runner_id"].as_str().unwrap_or_default()), |job| format!("job {job}"));
    let of = holder["project"].as_str().map_or(String::new(), |project| format!(" of {project}"));
    let devices = holder["devices"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let memory = holder["memory"].as_str().unwrap_or_default();
    let parts: Vec<String> = [format!("{} CPU", holder["cpus"]), memory.to_owned()].into_iter().chain(devices.map(str::to_owned)).collect();
    let until = holder["ends_by"].as_str().map_or(String::new(), |until| format!(", until {until} at the latest"));
    format!("{who}{of} ({}){until}", parts.join(", "))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_explanation_is_a_sentence_and_who_holds_what() {
        let answer = json!({
            "job_id": "j1", "state": "queued", "summary": "it waits for room", "estimated_start": "2026-11-24T04:09:09Z",
            "hosts": [{ "host": "box1", "missing": [
                { "field": "gpus", "message": "needs 1 nvidia GPU, 0 of 2 such are free", "more_holders": 3,
                  "holders": [
                      { "job_id": "j0", "runner_id": "r0", "project": "team/app", "cpus": 2, "memory": "1GiB", "devices": ["GPU-1"], "ends_by": "2026-11-24T04:09:09Z" },
                      { "job_id": null, "runner_id": "r1", "project": null, "cpus": 0.5, "memory": "1GiB", "devices": [], "ends_by": null },
                  ],
                  "unusable": [{ "device": "GPU-2", "reason": "Xid 79" }] },
            ]}],
        });
        assert_eq!(
            lines(&answer),
            [
                "j1 is queued: it waits for room",
                "starts at the latest 2026-11-24T04:09:09Z, if those that run use their timeouts up",
                "box1  gpus: needs 1 nvidia GPU, 0 of 2 such are free",
                "  held by job j0 of team/app (2 CPU, 1GiB, GPU-1), until 2026-11-24T04:09:09Z at the latest",
                "  held by runner r1 (0.5 CPU, 1GiB)",
                "  and 3 more",
                "  GPU-2 cannot be used: Xid 79",
            ]
        );
        assert_eq!(lines(&json!({ "job_id": "j", "state": "running", "summary": "it runs" })), ["j is running: it runs"]);
    }
}
