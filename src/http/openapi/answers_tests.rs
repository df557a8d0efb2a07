//! Holds every answer that a test of this room sees against the document: its status, its headers, its content and, for a problem, its type.
//! What a client may rely on is taken strictly: a field that is not described is a fault too.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use axum::http::{HeaderMap, StatusCode};
use jsonschema::Validator;
use serde_json::{Value, json};

use super::document::{PARTICULARS, WRITTEN_BY_CLIENTS, document};
use crate::http::problem::PROBLEM_JSON;

static DOCUMENT: LazyLock<Value> = LazyLock::new(document);
static STRICT: LazyLock<Value> = LazyLock::new(|| strict(&DOCUMENT["components"]));
static VALIDATORS: LazyLock<Mutex<HashMap<String, Arc<Validator>>>> = LazyLock::new(Mutex::default);

/// The request that was answered.
pub(in crate::http) struct Sent {
    method: String,
    path: String,
    query: String,
    has_json: bool,
}

impl Sent {
    pub(in crate::http) fn of<B>(request: &axum::http::Request<B>) -> Self {
        let kind = request.headers().get("content-type").and_then(|kind| kind.to_str().ok());
        Self {
            method: request.method().as_str().to_lowercase(),
            path: request.uri().path().to_owned(),
            query: request.uri().query().unwrap_or_default().to_owned(),
            has_json: kind == Some("application/json"),
        }
    }

    fn operation(&self) -> Option<&'static Value> {
        let method = if self.method == "head" { "get" } else { &self.method };
        let paths = DOCUMENT["paths"].as_object().expect("paths");
        paths.iter().find(|(template, _)| matches(template, &self.path)).and_then(|(_, item)| item.get(method))
    }
}

/// An answer, whole.
pub(in crate::http) struct Got<'a> {
    pub(in crate::http) status: StatusCode,
    pub(in crate::http) headers: &'a HeaderMap,
    pub(in crate::http) text: &'a str,
}

fn matches(template: &str, path: &str) -> bool {
    let (wanted, given): (Vec<&str>, Vec<&str>) = (template.split('/').collect(), path.split('/').collect());
    let one = |(wanted, given): (&&str, &&str)| if wanted.starts_with('{') { !given.is_empty() } else { wanted == given };
    wanted.len() == given.len() && wanted.iter().zip(&given).all(one)
}

/// All schemas, with no room for fields that they do not name.
fn strict(components: &Value) -> Value {
    let mut components = components.clone();
    for (name, schema) in components["schemas"].as_object_mut().expect("schemas") {
        if WRITTEN_BY_CLIENTS.contains(&name.as_str()) || name == PARTICULARS {
            continue;
        }
        if schema.get("allOf").is_some() || schema.get("properties").is_some() {
            schema["unevaluatedProperties"] = json!(false);
        }
    }
    components
}

fn validator(schema: &Value) -> Arc<Validator> {
    let mut validators = VALIDATORS.lock().unwrap_or_else(PoisonError::into_inner);
    let build = || {
        let mut whole = schema.clone();
        whole["components"] = STRICT.clone();
        let built = jsonschema::options().should_validate_formats(true).build(&whole);
        Arc::new(built.unwrap_or_else(|error| panic!("{error}: {schema}")))
    };
    Arc::clone(validators.entry(schema.to_string()).or_insert_with(build))
}

fn faults(schema: &Value, value: &Value) -> Vec<String> {
    validator(schema).iter_errors(value).map(|error| format!("{error} at {}", error.instance_path())).collect()
}

/// What of an answer's head the document does not say.
pub(in crate::http) fn faults_of_head(sent: &Sent, status: StatusCode, headers: &HeaderMap) -> Vec<String> {
    let Some(operation) = sent.operation() else {
        let known = matches!(status, StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED);
        return if known { Vec::new() } else { vec![format!("{} {} is not described", sent.method, sent.path)] };
    };
    let Some(response) = operation["responses"].get(status.as_str()) else { return vec![format!("the status {status} is not described")] };
    let mut faults = Vec::new();
    for name in response["headers"].as_object().expect("headers").keys() {
        if !headers.contains_key(name) {
            faults.push(format!("the header {name} is missing"));
        }
    }
    let kind = headers.get("content-type").and_then(|kind| kind.to_str().ok());
    let described = response.get("content").and_then(Value::as_object);
    match (kind, described) {
        (Some(kind), Some(content)) if content.contains_key(kind) => {}
        (_, None) => {}
        (kind, Some(_)) => faults.push(format!("the content type {kind:?} is not described")),
    }
    if status.is_success() {
        faults.extend(faults_of_query(operation, &sent.query));
    }
    faults
}

/// Parameters that were taken although they are not described so.
fn faults_of_query(operation: &Value, query: &str) -> Vec<String> {
    let parameters: Vec<&Value> = operation["parameters"].as_array().into_iter().flatten().filter(|one| one["in"] == "query").collect();
    let mut found = Vec::new();
    for (name, text) in query.split('&').filter_map(|pair| pair.split_once('=')) {
        let Some(parameter) = parameters.iter().find(|one| one["name"] == name) else {
            found.push(format!("the parameter {name} is not described"));
            continue;
        };
        let text = text.replace("%2C", ",").replace("%2F", "/");
        let value = match parameter["schema"]["type"].as_str() {
            Some("array") => json!(text.split(',').collect::<Vec<_>>()),
            Some("string") => json!(text),
            Some(_) | None => serde_json::from_str(&text).unwrap_or_else(|_| json!(text)),
        };
        found.extend(faults(&parameter["schema"], &value));
    }
    found
}

/// What of a whole answer, and of the request that it answers, the document does not say.
pub(in crate::http) fn faults_of_answer(sent: &Sent, body: Option<&[u8]>, got: &Got<'_>) -> Vec<String> {
    let Some(operation) = sent.operation() else { return Vec::new() };
    let response = &operation["responses"][got.status.as_str()];
    let kind = got.headers.get("content-type").and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let mut found = Vec::new();
    if kind.ends_with("json") && !got.text.is_empty() {
        let value: Value = serde_json::from_str(got.text).expect("JSON");
        found.extend(faults(&response["content"][kind]["schema"], &value));
        if kind == PROBLEM_JSON && !response["x-problem-types"].as_array().is_some_and(|kinds| kinds.contains(&value["type"])) {
            found.push(format!("the problem {} is not described for {}", value["type"], got.status));
        }
    }
    // What GitLab sends is passed over where it is not as it should be, and never refused.
    let taken = body.filter(|_| got.status.is_success() && sent.has_json && operation["x-role"] != "webhook");
    if let (Some(body), Some(described)) = (taken, operation.get("requestBody")) {
        let value = serde_json::from_slice(body).expect("JSON that was taken");
        found.extend(faults(&described["content"]["application/json"]["schema"], &value).into_iter().map(|fault| format!("the request: {fault}")));
    }
    found
}

fn sent(method: &str, path: &str) -> Sent {
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    Sent { method: method.to_owned(), path: path.to_owned(), query: query.to_owned(), has_json: true }
}

fn head(kind: &'static str) -> HeaderMap {
    let header = |name: &'static str, value: &'static str| (name.parse().expect("a name"), value.parse().expect("a value"));
    HeaderMap::from_iter([header("x-request-id", "1"), header("content-type", kind)])
}

#[test]
fn what_is_not_described_is_found() {
    let headers = head("application/json");
    assert_eq!(faults_of_head(&sent("get", "/jobs?limit=2&state=queued,running"), StatusCode::OK, &headers), Vec::<String>::new());
    assert_eq!(faults_of_head(&sent("get", "/jobs?limit=501"), StatusCode::OK, &headers).len(), 1);
    assert_eq!(faults_of_head(&sent("get", "/jobs?state=done"), StatusCode::OK, &headers).len(), 1);
    assert_eq!(faults_of_head(&sent("get", "/jobs?colour=red"), StatusCode::OK, &headers).len(), 1);
    assert_eq!(faults_of_head(&sent("get", "/jobs"), StatusCode::IM_A_TEAPOT, &headers).len(), 1);
    assert_eq!(faults_of_head(&sent("get", "/jobs"), StatusCode::OK, &head("text/html")).len(), 1);
    assert_eq!(faults_of_head(&sent("get", "/jobs"), StatusCode::OK, &HeaderMap::new()).len(), 2);
    assert_eq!(faults_of_head(&sent("get", "/nowhere"), StatusCode::OK, &headers).len(), 1);
    assert_eq!(faults_of_head(&sent("get", "/nowhere"), StatusCode::NOT_FOUND, &headers), Vec::<String>::new());

    let answer = |path: &str, status: StatusCode, kind: &'static str, text: &str| {
        faults_of_answer(&sent("get", path), None, &Got { status, headers: &head(kind), text }).len()
    };
    assert_eq!(answer("/jobs", StatusCode::OK, "application/json", r#"{"jobs":[],"next_cursor":null}"#), 0);
    assert_eq!(answer("/jobs", StatusCode::OK, "application/json", r#"{"jobs":[]}"#), 1, "a field is missing");
    assert_eq!(answer("/jobs", StatusCode::OK, "application/json", r#"{"jobs":[],"next_cursor":null,"more":1}"#), 1, "a field is too much");
    let problem = |slug: &str| format!(r#"{{"type":"/problems/{slug}","title":"t","status":400}}"#);
    assert_eq!(answer("/jobs", StatusCode::BAD_REQUEST, PROBLEM_JSON, &problem("invalid-parameter")), 0);
    assert_eq!(answer("/jobs", StatusCode::BAD_REQUEST, PROBLEM_JSON, &problem("not-json")), 1, "a problem of others");
    assert_eq!(answer("/jobs", StatusCode::BAD_REQUEST, PROBLEM_JSON, &problem("new")), 2, "a problem that nobody knows");

    let (post, headers) = (sent("post", "/runners"), head("application/json"));
    let refused = |body: &str| {
        let got = Got { status: StatusCode::ACCEPTED, headers: &headers, text: "" };
        faults_of_answer(&post, Some(body.as_bytes()), &got).len()
    };
    assert_eq!((refused(r#"{"class":"a"}"#), refused("{}"), refused(r#"{"class":"a","n":1}"#)), (0, 1, 1));
}

#[test]
fn an_event_has_no_room_for_more_than_its_particulars() {
    let event = |more: &str| {
        let text = format!(
            r#"{{"events":[{{"seq":1,"at":"2026-11-18T11:06:40Z","kind":"ended","job_id":null,"runner_id":null,"attempt":null{more}}}],"next_after":null}}"#
        );
        faults_of_answer(&sent("get", "/jobs/0/events"), None, &Got { status: StatusCode::OK, headers: &head("application/json"), text: &text }).len()
    };
    assert_eq!((event(""), event(r#","reason":"timed_out""#)), (0, 0));
    assert!(event(r#","reason":"boredom""#) > 0 && event(r#","colour":"red""#) > 0);
}
