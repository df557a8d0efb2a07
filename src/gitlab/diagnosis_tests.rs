use serde_json::{Value, json};

use super::*;

fn hook(change: &Value) -> HookRecord {
    let mut hook = json!({
        "id": 7, "url": "https://ci.test/webhook/job", "description": null, "job_events": true, "signing_token_present": true,
        "token_present": false, "alert_status": "executable", "disabled_until": null
    });
    for (key, value) in change.as_object().expect("an object") {
        hook[key] = value.clone();
    }
    serde_json::from_value(hook).expect("a webhook")
}

fn event(change: &Value) -> HookEvent {
    let mut event = json!({ "id": 1, "response_status": "200", "internal_error_message": null });
    for (key, value) in change.as_object().expect("an object") {
        event[key] = value.clone();
    }
    serde_json::from_value(event).expect("an event")
}

fn picture(tags: &[&str], change: impl FnOnce(&mut RunnerRecord)) -> RunnerPicture {
    let wanted = RunnerBody {
        description: "runner-coordinator box/a".into(),
        tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
        run_untagged: tags.is_empty(),
        maximum_timeout: 600,
    };
    let mut runner = RunnerRecord {
        id: 5,
        description: Some(wanted.description.clone()),
        paused: false,
        tag_list: wanted.tags.clone(),
        run_untagged: wanted.run_untagged,
        maximum_timeout: Some(600),
    };
    change(&mut runner);
    RunnerPicture { class: ClassName::from_trusted("a"), wanted, runner }
}

/// The kind of a finding, and its words.
fn told(finding: &Finding) -> (&'static str, &str) {
    match finding {
        Finding::Good(text) => ("good", text),
        Finding::Odd(text) => ("odd", text),
        Finding::Bad(text) => ("bad", text),
    }
}

#[test]
fn each_fault_of_a_webhook_is_told_with_its_cause() {
    let fine = json!({});
    let cases = [
        (json!({}), &fine, Proof::Signature, "good", "sends Job events"),
        (json!({ "signing_token_present": null, "token_present": null, "alert_status": null }), &fine, Proof::Secret, "good", "sends"),
        (json!({ "job_events": false }), &fine, Proof::Signature, "bad", "Job events are off"),
        (json!({ "signing_token_present": false }), &fine, Proof::Secret, "bad", "neither signing nor secret"),
        (json!({}), &fine, Proof::Secret, "bad", "no gitlab.webhook.signing_token"),
        (json!({}), &fine, Proof::None, "bad", "no gitlab.webhook.signing_token"),
        (json!({ "alert_status": "disabled" }), &fine, Proof::Signature, "bad", "for good"),
        (json!({ "alert_status": "temporarily_disabled", "disabled_until": "2026-01-01" }), &fine, Proof::Signature, "bad", "until 2026-01-01"),
        (json!({}), &json!({ "response_status": "401" }), Proof::Signature, "bad", "the tokens differ"),
        (json!({}), &json!({ "response_status": 401 }), Proof::Signature, "bad", "the tokens differ"),
        (json!({}), &json!({ "response_status": "502" }), Proof::Signature, "bad", "answered 502"),
        (
            json!({}),
            &json!({ "response_status": "internal error", "internal_error_message": "URL is blocked: Requests to the local network" }),
            Proof::Signature,
            "bad",
            "Outbound requests",
        ),
        (json!({}), &json!({ "response_status": "internal error" }), Proof::Signature, "bad", "private address that GitLab blocks"),
        (
            json!({}),
            &json!({ "response_status": "internal error", "internal_error_message": "execution expired" }),
            Proof::Signature,
            "bad",
            "expired",
        ),
        (json!({ "alert_status": "disabled" }), &json!({ "response_status": "401" }), Proof::Signature, "bad", "the tokens differ"),
    ];
    for (of_hook, of_event, proof, kind, words) in cases {
        let findings = of_hooks(&[(hook(&of_hook), vec![event(of_event)])], proof);
        let (found, text) = told(&findings[0]);
        assert!(found == kind && text.contains(words) && !text.contains('\n'), "{of_hook} {of_event}: {findings:?}");
    }
    assert_eq!(told(&of_hooks(&[], Proof::Signature)[0]).0, "bad", "no webhook at all");
    assert_eq!(told(&of_hooks(&[(hook(&json!({})), vec![])], Proof::Signature)[0]).0, "good", "no event yet proves nothing");
}

#[test]
fn the_latest_event_counts() {
    let events = |first: &str| vec![event(&json!({ "id": 2, "response_status": first })), event(&json!({ "id": 1, "response_status": "401" }))];
    let kind = |first| told(&of_hooks(&[(hook(&json!({})), events(first))], Proof::Signature)[0]).0;
    assert_eq!((kind("200"), kind("500")), ("good", "bad"));
}

#[test]
fn a_coordinators_webhook_is_known_by_its_path_or_our_mark() {
    let is = |url: &str, mark: Value| is_candidate(&hook(&json!({ "url": url, "description": mark })), "runner-coordinator box");
    assert!(is("https://x/webhook/job", Value::Null) && is("https://x/webhook/job/", Value::Null));
    assert!(is("https://x/behind/a/proxy", json!("runner-coordinator box")));
    assert!(!is("https://chat.test/hook", json!("runner-coordinator other")));
}

#[test]
fn runners_that_get_no_jobs_are_told() {
    let kind = |picture| told(&of_runners(&[picture])[0]).0;
    assert_eq!(kind(picture(&["x"], |_| ())), "good");
    assert_eq!(kind(picture(&["x"], |runner| runner.paused = true)), "bad");
    assert_eq!(kind(picture(&["x"], |runner| runner.tag_list.clear())), "bad");
    let by_hand = |runner: &mut RunnerRecord| runner.description = Some("by hand".into());
    assert_eq!(kind(picture(&["x"], by_hand)), "good");
    assert_eq!(kind(picture(&["y"], |runner| (runner.description, runner.tag_list) = (None, BTreeSet::from(["x".to_owned()])))), "odd");
}

#[test]
fn waiting_jobs_that_no_class_takes_are_told_once_for_each_set_of_tags() {
    let job = |id: i64, tags: &[&str]| PendingJob { id, name: format!("job\n{id}"), tag_list: tags.iter().map(|tag| (*tag).to_owned()).collect() };
    let tagged = [picture(&["x", "y"], |_| ())];
    let found =
        |jobs: &[PendingJob], runners: &[RunnerPicture]| of_pending(jobs, runners).iter().map(|one| told(one).1.to_owned()).collect::<Vec<_>>();
    assert_eq!(found(&[job(1, &["x"]), job(2, &["y", "x"])], &tagged), Vec::<String>::new());
    let told = found(&[job(1, &["z"]), job(2, &["z"]), job(3, &["x", "z"]), job(4, &[])], &tagged);
    assert!(told.len() == 3 && told.iter().any(|text| text.contains("2 job(s) wait, such as \"job1\", with the tags z")), "{told:?}");
    assert_eq!(found(&[job(4, &[])], &[picture(&[], |_| ())]), Vec::<String>::new());
}
