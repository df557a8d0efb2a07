//! The document is the one that is checked in, says the truth about roles, and names only what there is.

use std::collections::BTreeSet;

use axum::http::StatusCode;
use serde_json::Value;

use super::document::{DOCUMENT, LEFT_OUT, WRITTEN_BY_CLIENTS, document};
use crate::http::faces::FACES;
use crate::http::harness::{Harness, OPERATOR, SUBMITTER, VIEWER, request};

/// Compares with a file of the repository, or writes it where `UPDATE_OPENAPI` asks for it.
#[expect(clippy::disallowed_methods, reason = "it is asked for by whoever runs the test")]
pub(super) fn compare(file: &str, value: &Value) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    if std::env::var("UPDATE_OPENAPI").is_ok() {
        let text = serde_json::to_string_pretty(value).expect("JSON") + "\n";
        std::fs::write(&path, text).expect("written");
    }
    let kept: Value = serde_json::from_str(&std::fs::read_to_string(&path).expect("a file")).expect("JSON");
    assert!(kept == *value, "{file} is not what the code says; UPDATE_OPENAPI=1 cargo test --lib http::openapi writes it");
}

/// Every operation: method, path, and what is said of it.
fn operations(document: &Value) -> Vec<(&str, &str, &Value)> {
    let paths = document["paths"].as_object().expect("paths");
    paths
        .iter()
        .flat_map(|(path, item)| {
            item.as_object().expect("methods").iter().map(move |(method, operation)| (method.as_str(), path.as_str(), operation))
        })
        .collect()
}

#[test]
fn the_document_is_the_one_that_is_checked_in() {
    compare("docs/openapi.json", &document());
}

#[tokio::test]
async fn the_document_is_served_to_everybody() {
    let answer = Harness::guarded().get("/openapi.json").await;
    assert_eq!((answer.status, answer.header("content-type")), (StatusCode::OK, "application/json"));
    assert_eq!((answer.json(), answer.json()["openapi"].as_str()), (document(), Some("3.1.0")));
    assert_eq!(answer.text, *DOCUMENT);
}

#[tokio::test]
async fn every_operation_asks_for_the_role_that_it_says() {
    let harness = Harness::guarded();
    let document = document();
    for (method, path, operation) in operations(&document) {
        let path = path.replace("{id}", "0").replace("{name}", "app.js");
        let status = async |token: Option<&str>| {
            let bearer = token.map(|token| format!("Bearer {token}"));
            let headers: Vec<(&str, &str)> = bearer.iter().map(|bearer| ("authorization", bearer.as_str())).collect();
            // Opened only, because a stream has no end.
            harness.open(request(&method.to_uppercase(), &path, &headers, "")).await.status().as_u16()
        };
        let (nobody, viewer, operator) = (status(None).await, status(Some(VIEWER)).await, status(Some(OPERATOR)).await);
        let submitter = status(Some(SUBMITTER)).await;
        let refused = |status: u16| [401, 403].contains(&status);
        let security = &operation["security"];
        let seen = match operation["x-role"].as_str() {
            Some("none") => !refused(nobody) && *security == serde_json::json!([]),
            Some("webhook") => [nobody, viewer, operator] == [401; 3] && security[0]["gitlabToken"].is_array(),
            Some("viewer") => nobody == 401 && !refused(viewer) && !refused(operator) && security[0]["bearer"].is_array(),
            Some("operator") => nobody == 401 && viewer == 403 && !refused(operator) && security[0]["bearer"].is_array(),
            Some(_) | None => false,
        };
        let may = operation["x-submitter"] == true || operation["x-role"] == "none";
        assert!(may != refused(submitter), "{method} {path}: {submitter}");
        assert!(seen, "{method} {path}: {} {nobody} {viewer} {operator}", operation["x-role"]);
        assert_ne!(operator, 405, "{method} {path} is served");
    }
}

#[test]
fn every_operation_is_described_for_people_and_generators() {
    let document = document();
    let mut ids = BTreeSet::new();
    let tags: Vec<&Value> = document["tags"].as_array().expect("tags").iter().map(|tag| &tag["name"]).collect();
    for (method, path, operation) in operations(&document) {
        let id = operation["operationId"].as_str().expect("an id");
        assert!(ids.insert(id), "{id} is there twice");
        assert!(operation["summary"].as_str().is_some_and(|summary| !summary.is_empty() && !summary.ends_with('.')), "{method} {path}");
        assert!(tags.contains(&&operation["tags"][0]), "{method} {path}: {}", operation["tags"]);
        let in_path: Vec<&str> = path.split('/').filter(|part| part.starts_with('{')).map(|part| part.trim_matches(['{', '}'])).collect();
        let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
        let described: Vec<&str> = parameters.iter().filter(|one| one["in"] == "path").filter_map(|one| one["name"].as_str()).collect();
        assert_eq!(described, in_path, "{method} {path}");
        assert!(parameters.iter().all(|one| one["description"].is_string()), "{method} {path}");
    }
    assert_eq!(document["paths"]["/jobs"]["get"]["operationId"], "listJobs");
}

#[test]
fn only_slugs_that_there_are_can_be_named() {
    // A slug that is misspelt at a handler would vanish silently.
    let described = serde_json::to_value(crate::http::described()).expect("JSON");
    for (method, path, operation) in operations(&described) {
        for slug in operation["x-problems"].as_array().unwrap_or_else(|| panic!("{method} {path} names its problems")) {
            assert!(FACES.iter().any(|face| slug == face.slug), "{method} {path}: {slug}");
        }
    }
    let document = document();
    let used: BTreeSet<&str> = operations(&document)
        .into_iter()
        .flat_map(|(_, _, operation)| operation["responses"].as_object().expect("responses").values())
        .flat_map(|response| response["x-problem-types"].as_array().into_iter().flatten())
        .filter_map(Value::as_str)
        .collect();
    let unused: Vec<&str> = FACES.iter().map(|face| face.slug).filter(|slug| !used.contains(format!("/problems/{slug}").as_str())).collect();
    assert_eq!(unused, ["no-such-method"], "what no operation can answer with");
}

#[test]
fn what_is_said_of_single_fields_is_of_fields_that_there_are() {
    let schemas = document()["components"]["schemas"].clone();
    for name in WRITTEN_BY_CLIENTS {
        assert!(schemas.get(name).is_some(), "{name}");
    }
    for (name, field) in LEFT_OUT {
        assert!(schemas[name]["properties"].get(field).is_some(), "{name}.{field}");
    }
}

#[test]
fn words_and_bounds_are_those_of_the_daemon() {
    let schemas = document()["components"]["schemas"].clone();
    assert_eq!(schemas["JobState"]["enum"], serde_json::json!(crate::domain::JobState::NAMES));
    assert_eq!(schemas["EndReason"]["enum"].as_array().map(Vec::len), Some(crate::domain::EndReason::ALL.len()));
    assert_eq!(schemas["ProblemType"]["enum"].as_array().map(Vec::len), Some(FACES.len()));
    assert_eq!(
        schemas["GpuState"]["enum"],
        serde_json::json!(["free", "in_use", "checking", "quarantined", "unhealthy", "lost", "divided", "unused"])
    );
    assert_eq!((&schemas["SubmitJob"]["additionalProperties"], &schemas["SubmitJob"]["required"]), (&false.into(), &serde_json::json!(["command"])));
    assert_eq!(schemas["Job"]["required"].as_array().map(Vec::len), schemas["Job"]["properties"].as_object().map(|all| all.len() - 2));
}

#[test]
fn the_patterns_of_images_and_amounts_are_those_of_the_daemon() {
    use crate::domain::{ComputeCapability, ImageRef, MemoryBytes, ModelPattern, ProjectName, read_duration};
    let properties = |schema: &str| document()["components"]["schemas"][schema]["properties"].clone();
    let (job, gpus) = (properties("SubmitJob"), properties("GpuRequest"));
    let agree = |schema: &Value, text: &str, accepted: bool| {
        let fits = jsonschema::validator_for(schema).expect("a schema").is_valid(&Value::from(text));
        assert_eq!(fits, accepted, "{text:?}: {schema}");
    };
    let named = |length: usize, version: &str| format!("r.example.com:5/{}{version}", "a".repeat(length - 16));
    let tagged = format!(":1@sha256:{}", "0".repeat(64));
    let lengths: Vec<String> = [255, 256].iter().flat_map(|length| ["", ":latest", &tagged].map(|version| named(*length, version))).collect();
    assert_eq!(lengths.iter().filter(|text| ImageRef::parse("image", text).is_ok()).count(), 3);
    for text in &lengths {
        agree(&job["image"], text, ImageRef::parse("image", text).is_ok());
    }
    let digest = format!("app:1@sha256:{}", "a".repeat(64));
    for text in [
        "debian",
        "debian:bookworm",
        "localhost",
        "localhost:5000",
        "localhost:5000/a/b:1",
        "localhost/a",
        "a.b/c.d",
        "a.b",
        "A.b/c",
        "A/b",
        "a__b/c-d.e",
        "a_.b/c",
        "a:5/b",
        "a:65535/b",
        "a:65536/b",
        "a:00080/b",
        "a:+80/b",
        "a:/b",
        "a.b:/c",
        "a-/b",
        "-a",
        "a--b/c",
        "a...b",
        "x/",
        "/x",
        "",
        "A",
        "a b",
        "a:-x",
        "a:b:c",
        "a@sha256:1",
        "a\n",
        &digest,
        &format!("a:{}", "t".repeat(129)),
    ] {
        agree(&job["image"], text, ImageRef::parse("image", text).is_ok());
    }
    for text in ["4GiB", " 1.5 GiB ", "0", "0.0", "00GiB", "0.5GiB", "00.50 GiB", "1", "GiB", "1.GiB", "1.1234567GiB", "4GIB", "4 G", "-1", "1e9"] {
        agree(&gpus["min_memory"], text, MemoryBytes::parse("memory", text).is_ok());
    }
    for text in ["90s", "1h 30m", " 1 h ", "1.5h", "1h30m", "soon", "90", "s", "-1s", "1h,30m", ""] {
        agree(&job["timeout"], text, read_duration(text).is_some());
    }
    for text in ["8.0", "255.255", "256.0", "8", "8.", ".0", "008.0000", "8.x", "+8.0", "999.1"] {
        agree(&gpus["compute_capability"], text, ComputeCapability::parse("compute", text).is_ok());
    }
    for text in ["*A100*", " ", " a ", "ä", "a\n"] {
        agree(&gpus["model"], text, ModelPattern::parse("model", text).is_ok());
    }
    for text in ["team/app", " ", "ä", &"ä".repeat(512), &"ä".repeat(513), "a\nb", "a\u{85}", "\u{a0}", ""] {
        agree(&job["project"], text, ProjectName::parse("project", text).is_ok());
    }
}
