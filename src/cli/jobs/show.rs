//! Jobs as a table, and one job with its history.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::history::{Told, opened, told};
use crate::cli::now;
use crate::cli::render::{BOLD, Cell, DIM, bytes, clean, fields, list, of_state, paint, short, span, table, time, word, words};

/// Most characters of a command in the table.
const MOST_CHARS: usize = 48;

/// Jobs, one in a row.
pub(super) fn rows(jobs: &[Value]) -> Vec<String> {
    if jobs.is_empty() {
        return vec!["there are no such jobs".to_owned()];
    }
    table_of(jobs, now())
}

fn table_of(jobs: &[Value], now: Timestamp) -> Vec<String> {
    let row = |job: &Value| -> [Cell; 9] {
        [
            word(job, "id").into(),
            Cell::state(&word(job, "state")),
            ending(job).into(),
            word(job, "class").into(),
            word(job, "project").into(),
            time(&job["created_at"]).map_or(String::new(), |at| span(at, now)).into(),
            ran(job, now).into(),
            words(job, "devices").into(),
            Cell::styled(&short(&work(job), MOST_CHARS), DIM),
        ]
    };
    table(["ID", "STATE", "REASON", "CLASS", "PROJECT", "AGE", "RAN", "GPUS", "WORK"], &jobs.iter().map(row).collect::<Vec<_>>())
}

/// How it ended, where it did not end well.
pub(super) fn ending(job: &Value) -> String {
    match (job["reason"].as_str(), job["exit_code"].as_i64()) {
        (Some("exit_code"), Some(code)) => format!("exit code {code}"),
        (Some(reason), _) => clean(reason),
        (None, _) => String::new(),
    }
}

fn ran(job: &Value, now: Timestamp) -> String {
    let until = time(&job["finished_at"]).unwrap_or(now);
    time(&job["started_at"]).map_or(String::new(), |from| span(from, until))
}

/// The command as a shell would take it, or the job of GitLab.
fn work(job: &Value) -> String {
    if let Some(name) = job["gitlab"]["name"].as_str() {
        return format!("{} (GitLab job {})", clean(name), job["gitlab"]["job_id"]);
    }
    let plain = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_./=:,@%+".contains(&byte));
    let quoted = |word: &str| if plain(word) { word.to_owned() } else { format!("'{}'", word.replace('\'', "'\\''")) };
    let words = list(&job["request"], "command").iter().filter_map(Value::as_str).map(quoted);
    clean(&words.collect::<Vec<_>>().join(" "))
}

/// One job and its history, from `{"job": …, "events": […]}`.
pub(super) fn lines(answer: &Value) -> Vec<String> {
    lines_at(&answer["job"], list(answer, "events"), now())
}

fn lines_at(job: &Value, events: &[Value], now: Timestamp) -> Vec<String> {
    let at = |field: &str| time(&job[field]).map_or(String::new(), |at| format!("{at} ({} ago)", span(at, now)));
    let request = &job["request"];
    let state = word(job, "state");
    let pairs = [
        ("id", word(job, "id")),
        ("state", [paint(of_state(&state), &state), ending(job)].join(" ").trim_end().to_owned()),
        ("detail", word(job, "detail")),
        ("work", work(job)),
        ("image", word(request, "image")),
        ("class", word(job, "class")),
        ("project", word(job, "project")),
        ("asks for", wishes(request)),
        ("priority", job["priority"].as_i64().filter(|priority| *priority != 0).map_or(String::new(), |priority| priority.to_string())),
        ("attempt", job["attempt"].as_u64().filter(|attempt| *attempt > 0).map_or(String::new(), |attempt| attempt.to_string())),
        ("host", word(job, "host")),
        ("runner", word(job, "runner_id")),
        ("gpus", words(job, "devices")),
        ("gpu use", gpu_use(&job["usage"])),
        ("image", word(job, "image_digest")),
        ("opened", if job["opened"] == json!([]) { "nothing".to_owned() } else { opened(job) }),
        ("retry of", word(job, "retry_of")),
        ("created", at("created_at")),
        ("not before", word(job, "not_before")),
        ("started", at("started_at")),
        ("finished", at("finished_at")),
        ("ran", ran(job, now)),
    ];
    let mut lines = fields(&pairs);
    if !events.is_empty() {
        lines.extend([String::new(), paint(BOLD, "history")]);
        lines.extend(timeline(events));
    }
    lines
}

fn wishes(request: &Value) -> String {
    let gpus = &request["gpus"];
    let share = gpus["memory"].as_str().map(|memory| format!("{} of a GPU", clean(memory)));
    let vendor = gpus["vendor"].as_str().map_or(String::new(), |vendor| format!("{} ", clean(vendor)));
    let whole = gpus["count"].as_u64().map(|count| format!("{count} {vendor}GPU{}", if count == 1 { "" } else { "s" }));
    let cpus = request["cpus"].is_number().then(|| format!("{} CPU{}", request["cpus"], if request["cpus"] == 1 { "" } else { "s" }));
    let timeout = request["timeout"].as_str().map(|timeout| format!("at most {}", clean(timeout)));
    let text = |field: &str| request[field].as_str().map(clean);
    [cpus, text("memory"), share.or(whole), text("arch"), timeout].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn gpu_use(usage: &Value) -> String {
    let time = usage["gpu_seconds"].as_f64().map(|seconds| format!("{seconds:.0} GPU seconds"));
    let memory = usage["gpu_memory_peak_bytes"].as_u64().map(|peak| format!("{} at most", bytes(peak)));
    let busy = usage["gpu_utilisation_mean"].as_f64().map(|percent| format!("{percent:.0} % busy"));
    let energy = usage["gpu_energy_joules"].as_f64().map(|joules| format!("{joules:.0} J"));
    [time, memory, busy, energy].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// The history, each line with the time since the one before. Of what passes only the last of a run is shown.
fn timeline(events: &[Value]) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let (mut before, mut passing) = (None, false);
    for event in events {
        let (text, passes) = match told(event) {
            Told::Line(text) => (text, false),
            Told::Passing(text) => (text, true),
        };
        if passing && passes {
            lines.pop();
        }
        let at = time(&event["at"]);
        let since = at.zip(before).map_or(String::new(), |(at, before)| format!("+{}", span(before, at)));
        lines.push(format!("  {}  {}  {text}", paint(DIM, &word(event, "at")), paint(DIM, &format!("{since:>8}"))));
        (before, passing) = (at.or(before), passes);
    }
    lines
}

#[cfg(test)]
mod tests {

    use super::*;

    fn plain(lines: &[String]) -> String {
        anstream::adapter::strip_str(&lines.join("\n")).to_string()
    }

    fn jobs() -> [Value; 3] {
        [
            json!({"id": "01a", "state": "running", "class": "gpu", "project": "team/app", "attempt": 1, "host": "box1", "runner_id": "r1",
                "devices": ["GPU-1", "GPU-2"], "opened": ["runtime = \"runsc\"", "network_allow: jobs reach a, b"], "created_at": "2026-11-18T11:00:00Z", "started_at": "2026-11-18T11:00:05Z", "finished_at": null, "priority": 3,
                "request": {"image": "debian:bookworm", "command": ["sh", "-c", "echo 'a b'; make test"], "cpus": 2, "memory": "4GiB", "arch": null,
                    "timeout": "1h", "gpus": {"count": 2, "vendor": "nvidia", "memory": null}},
                "usage": {"gpu_seconds": 120.4, "gpu_memory_peak_bytes": 3_221_225_472_u64, "gpu_utilisation_mean": 33.3, "gpu_energy_joules": null}}),
            json!({"id": "01b", "state": "failed", "reason": "exit_code", "exit_code": 3, "class": "default", "project": null, "attempt": 1,
                "created_at": "2026-11-18T10:00:00Z", "started_at": "2026-11-18T10:00:01Z", "finished_at": "2026-11-18T10:01:01Z",
                "request": {"command": ["true"], "cpus": 1}}),
            json!({"id": "01c", "state": "canceled", "reason": "canceled_in_gitlab", "class": "default", "created_at": "2026-11-18T09:00:00Z",
                "gitlab": {"name": "build", "job_id": 7}, "request": {}}),
        ]
    }

    fn at() -> Timestamp {
        "2026-11-18T11:02:00Z".parse().expect("a time")
    }

    #[test]
    fn jobs_are_rows() {
        insta::assert_snapshot!(plain(&table_of(&jobs(), at())), @r"
        ID   STATE     REASON              CLASS    PROJECT   AGE    RAN     GPUS          WORK
        01a  running                       gpu      team/app  2m     1m 55s  GPU-1, GPU-2  sh -c 'echo '\''a b'\''; make test'
        01b  failed    exit code 3         default            1h 2m  1m                    true
        01c  canceled  canceled_in_gitlab  default            2h 2m                        build (GitLab job 7)
        ");
        assert_eq!(rows(&[]), ["there are no such jobs"]);
    }

    #[test]
    fn a_job_is_shown_with_its_history() {
        let event = |at: &str, more: Value| {
            let mut event = more;
            event["at"] = json!(at);
            event
        };
        let events = [
            event("2026-11-18T11:00:00Z", json!({"kind": "submitted"})),
            event("2026-11-18T11:00:01Z", json!({"kind": "image_pull", "progress": "1 of 9"})),
            event("2026-11-18T11:00:03Z", json!({"kind": "image_pull", "progress": "9 of 9"})),
            event("2026-11-18T11:00:05Z", json!({"kind": "container_started"})),
            event("2026-11-18T11:01:45Z", json!({"kind": "progress", "percent": 50, "message": "half"})),
        ];
        insta::assert_snapshot!(plain(&lines_at(&jobs()[0], &events, at())));
    }
}
