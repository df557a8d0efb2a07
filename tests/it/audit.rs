//! The audit log of a real daemon, over its restarts.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::harness::engine::UNTIL_TOLD;
use crate::harness::{Daemon, Setup};

fn lines(daemon: &Daemon) -> Vec<Value> {
    let text = std::fs::read_to_string(daemon.data().join("audit.log")).expect("a log");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// What `audit verify` says, and whether it is content.
fn verdict(daemon: &Daemon) -> (bool, Value) {
    let output = daemon.command(&["audit", "verify", "--json"]).output().expect("it runs");
    (output.status.success(), serde_json::from_slice(&output.stdout).expect("JSON"))
}

#[tokio::test]
async fn acts_are_chained_over_kills_and_restarts_and_a_changed_line_shows() {
    let mut daemon = Setup::new("audit").start().await;
    let id = daemon.sh(UNTIL_TOLD).await;
    daemon.reload(&format!("{}\n[[classes]]\nname = \"other\"\n", daemon.configuration()));
    daemon.until("the reload is written down", async |daemon| lines(daemon).iter().any(|line| line["act"] == "configuration.reload")).await;
    daemon.kill();
    daemon.start().await;
    let (status, _) = daemon.request(Method::DELETE, &format!("/jobs/{id}"), None).await;
    assert_eq!(status, StatusCode::ACCEPTED);
    daemon.ended(&id).await;
    assert!(daemon.terminate().await.success(), "{}", daemon.log());
    let acts: Vec<Value> = lines(&daemon).iter().map(|line| json!([line["act"], line["who"], line["from"], line["target"]])).collect();
    let job = format!("/jobs/{id}");
    let expected = [
        json!(["daemon.start", "daemon", null, null]),
        json!(["POST /jobs", "loopback", "127.0.0.1", job]),
        json!(["configuration.reload", "daemon", null, null]),
        json!(["daemon.start", "daemon", null, null]),
        json!(["DELETE /jobs/{id}", "loopback", "127.0.0.1", job]),
        json!(["daemon.stop", "daemon", null, null]),
    ];
    assert_eq!(acts, expected);
    let (whole, told) = verdict(&daemon);
    assert_eq!((whole, &told["lines"], &told["faults"]), (true, &json!(6), &json!([])), "{told}");

    let path = daemon.data().join("audit.log");
    let text = std::fs::read_to_string(&path).expect("a log");
    std::fs::write(&path, text.replacen("DELETE", "GET", 1)).expect("written");
    let (whole, told) = verdict(&daemon);
    assert!(!whole && told["faults"][0].as_str().is_some_and(|fault| fault.contains("audit.log:5: it is not as it was written")), "{told}");
    std::fs::write(&path, text).expect("written");
    daemon.start().await;
    daemon.until("it goes on", async |daemon| lines(daemon).len() == 7).await;
    assert!(verdict(&daemon).0);
    daemon.finish().await;
}
