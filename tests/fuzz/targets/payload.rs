//! GitLab's answer to a request for work: the description of a job.
//!
//! What must hold: what is read is what stands in it, and it is handed on byte for byte.

use runner_coordinator::gitlab::payload;

pub(crate) fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let dependencies = payload::dependencies(text);
    let Ok(claimed) = payload::parse("http://gitlab.test", text.to_owned()) else { return };
    assert_eq!(claimed.job.payload, text);
    // A number that no float holds is nothing to us, where we do not read it.
    let Ok(whole) = serde_json::from_str::<serde_json::Value>(text) else { return };
    assert_eq!(whole["id"].as_u64(), Some(claimed.job.reference.job_id));
    assert_eq!(whole["token"].as_str(), Some(claimed.job.token.as_str()));
    assert!(claimed.job.reference.job_id <= i64::MAX.unsigned_abs(), "no store holds it");
    assert!(dependencies.len() <= whole["dependencies"].as_array().map_or(0, Vec::len));
    // The store keeps it as text.
    let stored = serde_json::to_string(&claimed.job.reference).expect("JSON");
    let back: runner_coordinator::domain::GitLabRef = serde_json::from_str(&stored).expect("what was stored is read");
    assert_eq!(back, claimed.job.reference);
}
