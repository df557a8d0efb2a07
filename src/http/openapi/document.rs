//! Puts the document together: what the handlers say of themselves, and what holds for all of them and is said here once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use serde_json::{Map, Value, json};
use utoipa::{PartialSchema as _, ToSchema};

use crate::http::faces::{FACES, Face};
use crate::http::problem::PROBLEM_JSON;
use crate::http::wire::Wire;

/// Requests and answers of a real daemon, and a problem of every kind; written by the test that compares them.
const EXAMPLES: &str = include_str!("examples.json");

/// Schemas that are written by clients; in all others every field is always there.
pub(super) const WRITTEN_BY_CLIENTS: [&str; 6] = ["SubmitJob", "GpuRequest", "SpawnRunner", "QuarantineGpu", "DrainHost", "JobEvent"];

/// The fields of answers that are left out where they say nothing.
pub(super) const LEFT_OUT: [(&str, &str); 10] = [
    ("Job", "usage"),
    ("Job", "retried_as"),
    ("JobRequest", "image"),
    ("JobRequest", "command"),
    ("JobRequest", "env"),
    ("Check", "detail"),
    ("Check", "since"),
    ("WebhookAnswer", "reason"),
    ("Problem", "detail"),
    ("Problem", "errors"),
];

/// What stands in only some events, by kind.
pub(super) const PARTICULARS: &str = "EventParticulars";

const ABOUT: &str = "Submit jobs, follow them, and see the machine that runs them.\n\n\
    Times are RFC 3339 in UTC, ids are opaque texts. Every `GET` answers `HEAD` too. A path that is not here answers 404 `no-such-path`, a method that is not here 405 \
    `no-such-method`. Errors are `application/problem+json` (RFC 9457) with a stable `type`; `x-problem-types` names those that a status has. New fields may \
    come into answers: clients pass over what they do not know.\n\n\
    Without configured tokens a daemon serves its own machine only and asks for none. With tokens, `x-role` tells the least role that an operation needs: \
    `viewer`, `operator` (beside them `x-submitter` where a `submitter` may come too, with the jobs of its projects), `none` (no token), or `webhook` (GitLab shows its secret or signs). The listener for runners has an address of its own and is not \
    described here.";

/// The document as it is served.
pub(in crate::http) static DOCUMENT: LazyLock<String> = LazyLock::new(|| document().to_string());

/// The document.
pub(in crate::http) fn document() -> Value {
    let mut described = crate::http::described();
    let mut schemas = vec![(Wire::name().into_owned(), Wire::schema())];
    Wire::schemas(&mut schemas);
    described.components.get_or_insert_default().schemas.extend(schemas);
    let mut document = serde_json::to_value(described).unwrap_or_default();
    let examples: Value = serde_json::from_str(EXAMPLES).unwrap_or_default();
    set(&mut document, head());
    document["components"]["securitySchemes"] = security_schemes();
    document["components"]["headers"] = headers();
    document["components"]["examples"] = problem_examples(&examples["problems"]);
    document["components"]["schemas"]["ProblemType"]["x-enum-varnames"] = names_of_types();
    for (name, schema) in members(&mut document["components"]["schemas"]) {
        for (_, field) in schema.get_mut("properties").into_iter().flat_map(members) {
            simplify(field);
        }
        complete_schema(name, schema);
    }
    for (path, item) in members(&mut document["paths"]) {
        for (_, operation) in members(item) {
            complete(operation, path);
            illustrate(operation, &examples["operations"]);
        }
    }
    document
}

fn head() -> Value {
    let tag = |name: &str, description: &str| json!({ "name": name, "description": description });
    json!({
        "info": {
            "title": "Runner Coordinator",
            "version": env!("CARGO_PKG_VERSION"),
            "description": ABOUT,
            "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" },
        },
        "servers": [{ "url": "/", "description": "The daemon that serves this document." }],
        "tags": [
            tag("jobs", "Work: submitted here or taken from GitLab."),
            tag("runners", "Containers and their shares of a machine."),
            tag("machines", "What there is to run jobs on."),
            tag("daemon", "The daemon itself, and all of it at a glance."),
            tag("gitlab", "What GitLab calls."),
            tag("page", "The page for browsers, and this document."),
        ],
    })
}

fn security_schemes() -> Value {
    json!({
        "bearer": { "type": "http", "scheme": "bearer", "description": "A token of `[[http.tokens]]`. `viewer` may look, `operator` may do everything." },
        "gitlabToken": { "type": "apiKey", "in": "header", "name": "X-Gitlab-Token", "description": "The webhook's secret token." },
        "gitlabSignature": {
            "type": "apiKey", "in": "header", "name": "webhook-signature",
            "description": "The signature of `webhook-id`, `webhook-timestamp` and the body with the webhook's signing token.",
        },
    })
}

fn headers() -> Value {
    let header = |description: &str, schema: Value| json!({ "description": description, "schema": schema });
    json!({
        "RequestId": header("The request's id in the log: the one that was sent with it, or a new one.", json!({ "type": "string" })),
        "RetryAfter": header("Seconds after which repeating the request may help.", json!({ "type": "integer", "minimum": 1 })),
        "Authenticate": header("How to show a token.", json!({ "type": "string" })),
    })
}

/// Names for generators, which would make unwieldy ones of the paths.
fn names_of_types() -> Value {
    FACES.iter().map(|face| face.slug.replace('-', "_").to_uppercase()).collect::<Vec<_>>().into()
}

fn problem_examples(problems: &Value) -> Value {
    let shown = problems.as_object().into_iter().flatten().map(|(slug, problem)| {
        let example = json!({ "summary": problem["title"], "value": problem });
        (slug.clone(), example)
    });
    Value::Object(shown.collect())
}

/// A bounded value that stands at its field is derived as one of several schemas; one that says the same is better for people and generators.
fn simplify(field: &mut Value) {
    let parts = ["allOf", "oneOf"].iter().find_map(|several| field.get(*several)).and_then(Value::as_array);
    let Some([bounded, rest]) = parts.map(Vec::as_slice) else { return };
    let Some(kind) = bounded.get("type").and_then(Value::as_str).filter(|_| bounded.get("properties").is_none()) else { return };
    let mut one = bounded.clone();
    if *rest == json!({ "type": "null" }) {
        one["type"] = json!([kind, "null"]);
    }
    for words in [rest.get("description"), field.get("description")].into_iter().flatten() {
        one["description"] = words.clone();
    }
    *field = one;
}

/// Says which fields are always there. The derived schema takes those that may be `null` for such as may be missing.
fn complete_schema(name: &str, schema: &mut Value) {
    if WRITTEN_BY_CLIENTS.contains(&name) || name == PARTICULARS {
        return;
    }
    for part in schema["allOf"].as_array_mut().into_iter().flatten() {
        complete_schema(name, part);
    }
    let Some(properties) = schema["properties"].as_object() else { return tidy(schema) };
    let always: Vec<Value> = properties.keys().filter(|field| !LEFT_OUT.contains(&(name, field.as_str()))).map(|field| json!(field)).collect();
    schema["required"] = Value::Array(always);
    tidy(schema);
}

/// Looking for a key that is not there has left a `null` in its place.
fn tidy(schema: &mut Value) {
    if let Value::Object(schema) = schema {
        schema.retain(|key, value| !(value.is_null() && matches!(key.as_str(), "allOf" | "properties")));
    }
}

/// Says of an operation who may call it and how it may be refused.
fn complete(operation: &mut Value, path: &str) {
    let role = operation["x-role"].as_str().unwrap_or_default().to_owned();
    let submitters = operation["x-submitter"] == true;
    let own: Vec<String> = serde_json::from_value(operation["x-problems"].take()).unwrap_or_default();
    let takes_body = operation.get("requestBody").is_some();
    let mut slugs: BTreeSet<&str> = own.iter().map(String::as_str).collect();
    slugs.extend(of_role(&role));
    if submitters && role == "viewer" {
        // Everybody with a token may come here.
        slugs.remove("forbidden");
    }
    if takes_body {
        slugs.extend(if role == "webhook" { &["body-too-large", "refused"][..] } else { OF_JSON_BODIES });
    }
    if path.contains('{') {
        slugs.insert("refused");
    }
    let words = operation["description"].as_str().unwrap_or_default().to_owned();
    operation["description"] = format!("{words} {}{}", who(&role), if submitters { BOUND } else { "" }).trim().into();
    operation["security"] = security(&role);
    for (status, faces) in by_status(&slugs) {
        operation["responses"][status.to_string()] = refusal(status, &faces);
    }
    for (_, response) in members(&mut operation["responses"]) {
        response["headers"]["X-Request-Id"] = json!({ "$ref": "#/components/headers/RequestId" });
    }
    if let Value::Object(operation) = operation {
        operation.remove("x-problems");
    }
}

/// What a token that is bound to projects may do besides its own.
const BOUND: &str = " A `submitter` may do it with the jobs of its projects.";

/// What may be wrong with any JSON body. A connection that breaks off within it is refused by the framework.
const OF_JSON_BODIES: &[&str] = &["not-json", "wrong-content-type", "body-too-large", "invalid-field", "refused"];

fn of_role(role: &str) -> &'static [&'static str] {
    match role {
        "viewer" | "operator" => &["unauthorized", "forbidden", "too-fast", "foreign-host", "overloaded", "too-slow", "internal"],
        "webhook" => &["webhook-unverified", "overloaded", "too-slow", "internal"],
        _ => &[],
    }
}

fn who(role: &str) -> &'static str {
    match role {
        "viewer" => "Needs the role `viewer`.",
        "operator" => "Needs the role `operator`.",
        _ => "",
    }
}

fn security(role: &str) -> Value {
    match role {
        "viewer" | "operator" => json!([{ "bearer": [] }]),
        "webhook" => json!([{ "gitlabToken": [] }, { "gitlabSignature": [] }]),
        _ => json!([]),
    }
}

fn by_status(slugs: &BTreeSet<&str>) -> BTreeMap<u16, Vec<Face>> {
    let mut grouped: BTreeMap<u16, Vec<Face>> = BTreeMap::new();
    for face in FACES.into_iter().filter(|face| slugs.contains(face.slug)) {
        grouped.entry(face.status.as_u16()).or_default().push(face);
    }
    grouped
}

fn refusal(status: u16, faces: &[Face]) -> Value {
    let titles: Vec<&str> = faces.iter().map(|face| face.title).collect();
    let kinds: Vec<String> = faces.iter().map(Face::kind).collect();
    let examples = faces.iter().map(|face| (face.slug.to_owned(), json!({ "$ref": format!("#/components/examples/{}", face.slug) })));
    let mut headers = Map::new();
    if matches!(status, 429 | 503) {
        headers.insert("Retry-After".to_owned(), json!({ "$ref": "#/components/headers/RetryAfter" }));
    }
    if faces.iter().any(|face| face.slug == "unauthorized") {
        headers.insert("WWW-Authenticate".to_owned(), json!({ "$ref": "#/components/headers/Authenticate" }));
    }
    json!({
        "description": format!("{}.", titles.join(". ")),
        "headers": headers,
        "content": { PROBLEM_JSON: { "schema": { "$ref": "#/components/schemas/Problem" }, "examples": Value::Object(examples.collect()) } },
        "x-problem-types": kinds,
    })
}

/// Puts the examples of an operation to its request and its answers.
fn illustrate(operation: &mut Value, examples: &Value) {
    let Some(of_it) = operation["operationId"].as_str().and_then(|id| examples.get(id)).and_then(Value::as_object) else { return };
    for (part, example) in of_it {
        let content = if part == "request" { &mut operation["requestBody"]["content"] } else { &mut operation["responses"][part]["content"] };
        for (_, media) in members(content) {
            media["example"] = example.clone();
        }
    }
}

fn members(value: &mut Value) -> impl Iterator<Item = (&String, &mut Value)> {
    value.as_object_mut().into_iter().flat_map(Map::iter_mut)
}

fn set(document: &mut Value, parts: Value) {
    if let (Value::Object(document), Value::Object(parts)) = (document, parts) {
        document.extend(parts);
    }
}
