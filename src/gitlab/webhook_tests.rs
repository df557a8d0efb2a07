//! Tests with GitLab's real forms of the event, and with everything that can go wrong with them.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const CREATED: &str = include_str!("../../tests/payloads/created_environment_child_pipeline.json");
const FAILED: &str = include_str!("../../tests/payloads/failed_retried.json");
const LEGACY: &str = include_str!("../../tests/payloads/legacy_minimal_iso_times.json");
const PENDING: &str = include_str!("../../tests/payloads/pending.json");
const RUNNING: &str = include_str!("../../tests/payloads/running.json");
const ALL: [&str; 5] = [CREATED, FAILED, LEGACY, PENDING, RUNNING];

fn job(body: &str) -> JobEvent {
    match read_event(Some("Job Hook"), body.as_bytes()) {
        Ok(Reading::Job(event)) => *event,
        other => panic!("not a job: {other:?}"),
    }
}

fn ignored(header: Option<&str>, body: &str) -> String {
    match read_event(header, body.as_bytes()) {
        Ok(Reading::Ignored(reason)) => reason,
        other => panic!("not ignored: {other:?}"),
    }
}

/// The pending event with one field replaced.
fn with(key: &str, value: Value) -> String {
    let mut event: Value = serde_json::from_str(PENDING).expect("JSON");
    event[key] = value;
    event.to_string()
}

#[test]
fn a_pending_job_is_read_whole() {
    let event = job(PENDING);
    assert_eq!((event.build_id, event.status), (473_579, BuildStatus::Pending));
    assert_eq!((event.project_id, event.project_path.as_deref()), (Some(282), Some("ml-team/trainer")));
    assert_eq!((event.name.as_deref(), event.stage.as_deref(), event.ref_name.as_deref()), (Some("train"), Some("test"), Some("main")));
    assert_eq!((event.pipeline_id, event.runner_id, event.failure_reason), (Some(53_093), None, None));
    assert_eq!((event.retries_count, event.tags), (Some(0), None));
    assert_eq!((event.created_at.as_deref(), event.started_at), (Some("2026-11-20 09:14:03 UTC"), None));
}

#[test]
fn the_other_forms_are_read() {
    assert_eq!((job(RUNNING).status, job(RUNNING).runner_id), (BuildStatus::Running, Some(205)));
    let failed = job(FAILED);
    assert_eq!((failed.status, failed.failure_reason.as_deref(), failed.retries_count), (BuildStatus::Failed, Some("script_failure"), Some(1)));
    assert_eq!(job(CREATED).status, BuildStatus::Created);
    let legacy = job(LEGACY);
    assert_eq!((legacy.project_path, legacy.project_id, legacy.retries_count), (None, Some(282), None));
    assert_eq!(legacy.created_at.as_deref(), Some("2021-02-23T02:41:37.886Z"));
}

#[test]
fn ids_beyond_what_a_float_holds_stay_exact() {
    let big = (1_u64 << 53) + 1;
    assert_eq!(job(&with("build_id", json!(big))).build_id, big);
    assert_eq!(job(&with("build_id", json!(u64::MAX))).build_id, u64::MAX);
}

#[test]
fn what_is_new_or_odd_does_not_hinder() {
    assert_eq!(job(&with("build_status", json!("waiting_for_resource"))).status, BuildStatus::Other("waiting_for_resource".into()));
    assert_eq!(job(&with("tag_list", json!(["gpu"]))).tags, Some(vec!["gpu".to_owned()]));
    assert_eq!(job(&with("tags", json!(["gpu"]))).tags, Some(vec!["gpu".to_owned()]));
    assert_eq!(job(&with("user", json!(null))).build_id, 473_579);
    assert_eq!(job(&with("something_new", json!({"a": [1]}))).build_id, 473_579);
    assert_eq!(job(&with("runner", json!("a text"))).runner_id, None);
    assert_eq!(job(&with("build_name", json!("x".repeat(5000)))).name, None);
    assert_eq!(job(&with("build_name", json!("line: [a, \"b\"] 🚀\n"))).name.as_deref(), Some("line: [a, \"b\"] 🚀\n"));
}

#[test]
fn without_the_header_the_body_decides() {
    assert!(matches!(read_event(None, PENDING.as_bytes()), Ok(Reading::Job(_))));
}

#[test]
fn what_is_not_for_us_is_ignored_with_its_reason() {
    assert_eq!(ignored(Some("Pipeline Hook"), PENDING), "not a Job event but Pipeline Hook");
    assert_eq!(ignored(Some("Job Hook"), r#"{"object_kind":"pipeline"}"#), "not a Job event but of kind pipeline");
    assert_eq!(ignored(None, "{}"), "an event without object_kind");
    assert_eq!(ignored(None, "[1]"), "not a JSON object");
    assert_eq!(ignored(None, r#"["build", 1, "pending"]"#), "not a JSON object");
    for id in [json!(null), json!("1"), json!(-1), json!(1.5), json!(1e300)] {
        assert!(ignored(None, &with("build_id", id)).contains("build_id"));
    }
    assert!(ignored(None, &with("build_status", json!(3))).contains("build_status"));
    assert!(ignored(None, r#"{"build_id":1,"build_id":2}"#).contains("twice"));
    assert!(!ignored(Some("a\nb"), "{}").contains('\n'));
}

#[test]
fn what_is_not_json_is_told_with_its_place() {
    assert_eq!(read_event(None, b"{\n \"a\": nope}"), Err(NotJson { line: 2, column: 8 }));
    for bad in ["", "   ", "{", "[1", "{}x", "{\"build_id\":1,\"build_id\":2", "\u{feff}{}"] {
        assert!(read_event(Some("Job Hook"), bad.as_bytes()).is_err(), "{bad:?}");
    }
}

proptest! {
    #[test]
    fn never_panics(header in proptest::option::of(".{0,12}"), body in proptest::collection::vec(any::<u8>(), 0..64)) {
        let _ = read_event(header.as_deref(), &body);
    }

    #[test]
    fn a_changed_payload_never_panics_and_is_json_or_told(which in 0..ALL.len(), place in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<bool>()) {
        let mut body = ALL[which].as_bytes().to_vec();
        let place = place.index(body.len());
        if cut { body.truncate(place); } else { body[place] = byte; }
        let read = read_event(Some("Job Hook"), &body);
        if serde_json::from_slice::<Value>(&body).is_ok() {
            prop_assert!(read.is_ok());
        }
        if cut {
            prop_assert!(read.is_err());
        }
    }

    #[test]
    fn any_type_in_any_field_is_borne(which in 0..ALL.len(), field in any::<prop::sample::Index>(), value in 0_usize..6) {
        let mut event: Value = serde_json::from_str(ALL[which]).expect("JSON");
        let fields = event.as_object_mut().expect("an object");
        let key = fields.keys().nth(field.index(fields.len())).expect("a field").clone();
        let odd = [json!(null), json!(-7), json!("x"), json!([[]]), json!({"id": {}}), json!(true)];
        fields.insert(key, odd[value].clone());
        prop_assert!(read_event(Some("Job Hook"), event.to_string().as_bytes()).is_ok());
    }
}
