//! What happens to a job, event by event, in words.

use serde_json::Value;

use crate::cli::render::{clean, list, short, word};

/// Most characters of an event's words.
const MOST_CHARS: usize = 300;

/// How an event is told while a job is watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Told {
    /// It stays on the screen.
    Line(String),
    /// The next of its kind takes its place.
    Passing(String),
}

/// An event in words.
pub(super) fn told(event: &Value) -> Told {
    let particular = |field: &str| word(event, field);
    let with = |text: &str, more: String| if more.is_empty() { text.to_owned() } else { format!("{text}: {more}") };
    let text = match event["kind"].as_str().unwrap_or_default() {
        "submitted" => "it waits in the queue".to_owned(),
        "claimed" => format!("attempt {} begins", event["attempt"].as_u64().unwrap_or(1)),
        "assigned" => "a waiting runner takes it".to_owned(),
        "image_pull" => return Told::Passing(short(&with("image", particular("progress")), MOST_CHARS)),
        "image_ready" => "the image is there".to_owned(),
        "container_created" => container_created(event),
        "container_started" => "it runs".to_owned(),
        "handed_over" => "GitLab Runner has it".to_owned(),
        "adopted" => "the daemon was restarted and goes on with it".to_owned(),
        "progress" => return Told::Passing(short(&progress(event), MOST_CHARS)),
        "cancel_requested" => with("it is to be cancelled", particular("reason")),
        "stop_ordered" => with("it is being stopped", particular("reason")),
        "attempt_ended" => attempt_ended(event),
        "retry_scheduled" => with("it is tried again, not before", particular("not_before")),
        "ended" => "it has ended".to_owned(),
        "runner_removed" => "its container is gone".to_owned(),
        other => clean(other).replace('_', " "),
    };
    Told::Line(short(&text, MOST_CHARS))
}

fn container_created(event: &Value) -> String {
    let opened = opened(event);
    if opened.is_empty() { "its container is made".to_owned() } else { format!("its container is made, with this opened: {opened}") }
}

/// What its class opened beyond the default for the container; empty for nothing, and where it is not known.
pub(super) fn opened(value: &Value) -> String {
    clean(&list(value, "opened").iter().filter_map(Value::as_str).collect::<Vec<_>>().join("; "))
}

/// What the job itself says of how far it is.
fn progress(event: &Value) -> String {
    let percent = event["percent"].as_f64().map(|percent| format!("{percent:.0} %"));
    let message = Some(word(event, "message")).filter(|message| !message.is_empty());
    [percent, message].into_iter().flatten().collect::<Vec<_>>().join("  ")
}

fn attempt_ended(event: &Value) -> String {
    let attempt = event["attempt"].as_u64().unwrap_or(1);
    let how = match (event["reason"].as_str(), event["exit_code"].as_i64()) {
        (None | Some("exit_code"), Some(code)) => format!("with exit code {code}"),
        (Some(reason), _) => format!("with {}", clean(reason)),
        (None, None) => "well".to_owned(),
    };
    let detail = Some(word(event, "detail")).filter(|detail| !detail.is_empty()).map_or(String::new(), |detail| format!(": {detail}"));
    format!("attempt {attempt} ended {how}{detail}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_kind_of_event_has_its_words() {
        let events = [
            json!({"kind": "submitted"}),
            json!({"kind": "claimed", "attempt": 2}),
            json!({"kind": "assigned"}),
            json!({"kind": "image_pull", "progress": "Downloading 1MB of 2MB"}),
            json!({"kind": "image_ready", "digest": "sha256:1"}),
            json!({"kind": "container_created", "container": "c1"}),
            json!({"kind": "container_created", "container": "c1", "opened": []}),
            json!({"kind": "container_created", "container": "c1", "opened": ["runtime = \"runsc\"", "network_allow: jobs reach a, b"]}),
            json!({"kind": "container_started"}),
            json!({"kind": "handed_over"}),
            json!({"kind": "adopted"}),
            json!({"kind": "progress", "message": "half\u{1b}[2J", "percent": 50}),
            json!({"kind": "progress", "message": null, "percent": 12.6}),
            json!({"kind": "progress", "message": "warm", "percent": null}),
            json!({"kind": "cancel_requested", "reason": "canceled_by_user"}),
            json!({"kind": "stop_ordered", "reason": "timed_out"}),
            json!({"kind": "attempt_ended", "attempt": 1, "reason": "exit_code", "exit_code": 3, "detail": null}),
            json!({"kind": "attempt_ended", "attempt": 1, "reason": "image_unavailable", "exit_code": null, "detail": "no such image"}),
            json!({"kind": "attempt_ended", "attempt": 1, "reason": null, "exit_code": 0, "detail": null}),
            json!({"kind": "retry_scheduled", "not_before": "2026-11-18T11:07:40Z"}),
            json!({"kind": "ended"}),
            json!({"kind": "runner_removed"}),
            json!({"kind": "of_a_later_daemon"}),
        ];
        let lines: Vec<String> = events.iter().map(|event| format!("{:?}", told(event))).collect();
        insta::assert_snapshot!(lines.join("\n"));
    }
}
