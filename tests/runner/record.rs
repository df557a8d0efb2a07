//! What the parts of the runner know together about the job in hand, and the runner's own log.

use std::io::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// What the protocol says about the job in hand and what its script made of it.
#[derive(Debug, Default, Clone)]
pub(crate) struct Facts {
    /// Job id, once there is one.
    pub(crate) job: Option<u64>,
    /// The job's token.
    pub(crate) token: String,
    /// How long it may take.
    pub(crate) timeout: Option<Duration>,
    /// Why it failed.
    pub(crate) failure_reason: Option<&'static str>,
    /// Exit code of its script.
    pub(crate) exit_code: Option<i32>,
    /// How often the server wants to hear from the job.
    pub(crate) interval: Option<Duration>,
    /// Fires when the server cancels the job, gracefully or not.
    pub(crate) canceled: CancellationToken,
}

/// The facts, shared between the bridge, the script and the loop.
#[derive(Debug, Default)]
pub(crate) struct Record(Mutex<Facts>);

impl Record {
    /// Locks the facts for one look or change.
    pub(crate) fn facts(&self) -> MutexGuard<'_, Facts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes one JSON line to the standard error, in the official runner's field names.
pub(crate) fn say(level: &str, message: &str, more: Value) {
    #[expect(clippy::disallowed_methods, reason = "a program of its own, with the machine's time")]
    let now = jiff::Timestamp::now();
    let mut line = json!({ "level": level, "msg": message, "time": now });
    if let (Some(line), Value::Object(more)) = (line.as_object_mut(), more) {
        line.extend(more);
    }
    let _ = writeln!(std::io::stderr(), "{line}");
}
