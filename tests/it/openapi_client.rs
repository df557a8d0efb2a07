//! `docs/openapi.json` from the outside: it is `OpenAPI`, and a client that is generated from it in another language can work with the daemon.
//!
//! The tools come from `tests/make/setup.sh test`; without them these tests fail.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::process::Command;

use crate::harness::{BUSYBOX, Daemon, Setup};

/// Longest run of a tool; the machine is shared.
const PATIENCE: Duration = Duration::from_secs(180);
/// What `tests/openapi/client.py` does of that which the README does with curl.
const DONE_BY_CLIENT: [&str; 5] = ["DELETE /jobs/$ID", "GET /jobs/$ID", "GET /jobs/$ID/logs?follow=true", "GET /status", "POST /jobs"];

fn of_repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A program of the tests' Python, with nothing of this machine's own.
fn tool(name: &str) -> Command {
    let path = of_repository(".run/python/bin").join(name);
    assert!(path.exists(), "{} is missing; tests/make/setup.sh test gets it", path.display());
    let mut command = Command::new(path);
    command.env_remove("PYTHONPATH").env_remove("PYTHONHOME").env("PYTHONDONTWRITEBYTECODE", "1").kill_on_drop(true);
    command
}

async fn succeeds(mut command: Command) -> String {
    let output = tokio::time::timeout(PATIENCE, command.output()).await.expect("an end in time").expect("a program");
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} ended with {}:\n{text}", output.status);
    text
}

/// Method and address of every request of the README's section, in the order of their names.
fn requests_of_readme() -> BTreeSet<String> {
    let readme = std::fs::read_to_string(of_repository("README.md")).expect("a README");
    let section = readme.split("## With curl").nth(1).and_then(|rest| rest.split("\n## ").next()).expect("a section");
    let calls = section.lines().filter_map(|line| line.split_once("curl -s "));
    calls
        .map(|(_, call)| {
            let words: Vec<&str> = call.split_whitespace().map(|word| word.trim_matches(['"', '\''])).collect();
            let method = words.iter().find_map(|word| word.strip_prefix("-X")).unwrap_or("GET");
            let address = words.iter().find_map(|word| word.strip_prefix("localhost:8080")).expect("an address");
            format!("{method} {}", address.replace("$RUNNING", "$ID"))
        })
        .collect()
}

#[tokio::test]
async fn the_document_is_openapi() {
    let mut validator = tool("python");
    validator.args(["-m", "openapi_spec_validator", "--errors", "all"]).arg(of_repository("docs/openapi.json"));
    assert!(succeeds(validator).await.contains(": OK"));

    let broken = tempfile::tempdir().expect("a directory");
    let text = std::fs::read_to_string(of_repository("docs/openapi.json")).expect("a document").replace("\"in\": \"path\"", "\"in\": \"road\"");
    let file = broken.path().join("openapi.json");
    std::fs::write(&file, text).expect("written");
    let mut validator = tool("python");
    validator.args(["-m", "openapi_spec_validator"]).arg(file);
    let output = validator.output().await.expect("a program");
    assert!(!output.status.success(), "the validator can refuse");
}

#[tokio::test]
async fn a_generated_client_does_what_the_readme_does_with_curl() {
    assert_eq!(requests_of_readme(), BTreeSet::from(DONE_BY_CLIENT.map(str::to_owned)), "what the README shows, tests/openapi/client.py must do");
    let home = tempfile::tempdir().expect("a directory");
    let mut generator = tool("openapi-python-client");
    generator.args(["generate", "--meta", "none", "--fail-on-warning"]);
    generator.arg("--path").arg(of_repository("docs/openapi.json"));
    generator.arg("--config").arg(of_repository("tests/openapi/generator.yml"));
    generator.arg("--output-path").arg(home.path().join("rc_client"));
    succeeds(generator).await;

    let daemon = Setup::new("openapi-client").start().await;
    daemon.until("it is healthy", Daemon::is_healthy).await;
    let mut client = tool("python");
    client.env("PYTHONPATH", home.path()).arg(of_repository("tests/openapi/client.py"));
    client.args([&daemon.url, BUSYBOX]).arg(of_repository("docs/openapi.json"));
    let said = succeeds(client).await;
    assert!(said.contains("answers compared"), "{said}");
    daemon.finish().await;
}
