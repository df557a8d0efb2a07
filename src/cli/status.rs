//! `status`: machine, GPUs, queue and GitLab in one look.

use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use serde_json::Value;

use super::client::Target;
use super::render::{BAD, BOLD, Cell, WAIT, fields, list, of_state, paint, seconds, table, time, word};
use super::{gpus, hosts, now, tell_error};

/// Most groups of waiting jobs that are shown.
const MOST_GROUPS: usize = 10;

/// Where the daemon is.
#[derive(Debug, Args)]
pub(super) struct Options {
    #[command(flatten)]
    target: Target,
}

/// Asks the running daemon how it is.
pub(super) async fn run(config: Option<&Path>, options: &Options) -> ExitCode {
    let target = &options.target;
    let client = match target.client(config) {
        Ok(client) => client,
        Err(error) => return tell_error(&error),
    };
    let status = client.get("/status").await;
    if target.json {
        return target.tell(status, |_| Vec::new());
    }
    let queue = client.get("/queue").await;
    target.tell(status.and_then(|status| Ok((status, queue?))).map(|(status, queue)| serde_json::json!({ "status": status, "queue": queue })), lines)
}

fn lines(answer: &Value) -> Vec<String> {
    let (status, queue) = (&answer["status"], &answer["queue"]);
    let mut lines = fields(&overview(status));
    let mut section = |more: Vec<String>| {
        lines.push(String::new());
        lines.extend(more);
    };
    section(hosts::rows(status));
    for host in list(status, "hosts") {
        if !list(&host["gpus"], "devices").is_empty() {
            section(gpus::rows(&host["gpus"]["devices"]));
        }
        for note in list(&host["gpus"], "notes") {
            section(vec![paint(WAIT, &format!("{}: {}", word(note, "about"), word(note, "text")))]);
        }
    }
    if !list(queue, "groups").is_empty() {
        section(groups(queue));
    }
    lines
}

fn overview(status: &Value) -> [(&'static str, String); 6] {
    let uptime = status["uptime_seconds"].as_u64().map_or(String::new(), |uptime| format!(", up {}", seconds(uptime)));
    let stopping = if status["stopping"] == true { paint(WAIT, ", stopping") } else { String::new() };
    let engine = &status["engine"];
    let state = word(engine, "state");
    let more = [word(engine, "version"), word(engine, "error")].into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join(" ");
    let since = time(&engine["since"]).map_or(String::new(), |since| format!(" for {}", super::render::span(since, now())));
    let waits = status["queue"]["oldest_wait_seconds"].as_u64().map_or(String::new(), |wait| format!(", the oldest waits for {}", seconds(wait)));
    [
        ("service", format!("{} {}{uptime}{stopping}", paint(BOLD, &word(status, "service")), word(status, "version"))),
        ("engine", format!("{}{since}  {more}", paint(of_state(&state), &state)).trim_end().to_owned()),
        ("jobs", format!("{}{waits}", counts(&status["jobs"], &["running", "starting", "queued", "succeeded", "failed", "canceled"]))),
        ("runners", counts(&status["runners"], &["busy", "idle", "starting", "stopping", "lost"])),
        ("gitlab", list(status, "gitlab").iter().map(intake).collect::<Vec<_>>().join("; ")),
        ("in gitlab", gitlab_queue(&status["gitlab_queue"])),
    ]
}

/// The counts that are not zero, in this order.
fn counts(counted: &Value, order: &[&str]) -> String {
    let of = |name: &&str| counted[*name].as_u64().filter(|count| *count > 0).map(|count| paint(of_state(name), &format!("{count} {name}")));
    let told: Vec<String> = order.iter().filter_map(of).collect();
    if told.is_empty() { "none".to_owned() } else { told.join(", ") }
}

fn intake(class: &Value) -> String {
    let error = Some(word(class, "error")).filter(|error| !error.is_empty()).map_or(String::new(), |error| paint(BAD, &format!(" ({error})")));
    format!("{}: {}{error}", word(class, "class"), word(class, "state"))
}

/// How many jobs wait in GitLab, and how many it wrongly believes to be here; nothing where nobody may look.
fn gitlab_queue(queue: &Value) -> String {
    if queue.is_null() {
        return String::new();
    }
    let pending: u64 = list(queue, "projects").iter().filter_map(|project| project["pending"].as_u64()).sum();
    let stranded = list(queue, "stranded").len();
    let lost = if stranded > 0 { paint(BAD, &format!(", {stranded} wrongly believed to run here")) } else { String::new() };
    format!("{pending} waiting there{lost}")
}

fn groups(queue: &Value) -> Vec<String> {
    let all = list(queue, "groups");
    let row = |group: &Value| -> [Cell; 4] {
        [
            group["jobs"].to_string().into(),
            word(group, "class").into(),
            word(group, "project").into(),
            group["oldest_wait_seconds"].as_u64().map_or(String::new(), seconds).into(),
        ]
    };
    let mut lines = table(["WAITING", "CLASS", "PROJECT", "OLDEST"], &all.iter().take(MOST_GROUPS).map(row).collect::<Vec<_>>());
    if all.len() > MOST_GROUPS || queue["more"] == true {
        lines.push("and more: `runner-coordinator jobs list --state queued`".to_owned());
    }
    lines
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_whole_is_one_look() {
        let gpu = json!({"id": "GPU-1", "state": "in_use", "model": "NVIDIA A100", "memory_bytes": 85_899_345_920_u64, "memory_used_bytes": 1_073_741_824, "utilization_percent": 97, "temperature_celsius": 61, "reason": null});
        let status = json!({
            "service": "runner-coordinator", "version": "1.2.3", "uptime_seconds": 90_061, "stopping": false,
            "engine": {"state": "down", "since": null, "version": null, "error": "connection refused"},
            "jobs": {"running": 2, "queued": 14, "starting": 0, "failed": 1}, "runners": {"busy": 2, "idle": 0},
            "queue": {"depth": 14, "oldest_wait_seconds": 303},
            "gitlab": [{"class": "default", "state": "asking", "error": null}, {"class": "gpu", "state": "failing", "error": "403"}],
            "gitlab_queue": {"projects": [{"pending": 3}, {"pending": 4}], "stranded": [{}]},
            "hosts": [{"id": "box1", "state": "engine_down", "arch": "amd64", "cpus": {"total": 16, "free": 12},
                "memory": {"total_bytes": 68_719_476_736_u64, "free_bytes": 34_359_738_368_u64}, "gpus": {"total": 1, "free": 0, "unhealthy": 0, "devices": [gpu],
                "notes": [{"about": "nvidia-ctk", "text": "it is too old"}]}}],
        });
        let queue = json!({"groups": [{"jobs": 12, "class": "gpu", "project": "team/app", "oldest_wait_seconds": 303}, {"jobs": 2, "class": "default", "project": null, "oldest_wait_seconds": 5}], "more": true});
        let lines = lines(&json!({ "status": status, "queue": queue }));
        insta::assert_snapshot!(anstream::adapter::strip_str(&lines.join("\n")).to_string());
    }
}
