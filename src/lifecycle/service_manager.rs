//! What systemd hears while the daemon runs: that it is alive, and in one line how it does.
//!
//! Systemd kills a service that it has not heard of for `WatchdogSec` and starts it anew, which mends one that hangs. So a sign of life
//! must not come from a timer alone: it is given when the manager has finished another pass since the last sign and the store has
//! written something. Passes are counted, since the wall clock may jump.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::notify;
use crate::domain::chain;
use crate::jobs::{EngineState, ManagerHandle};
use crate::store::{Counts, Store};

/// How many signs of life fall into the time after which systemd gives the daemon up: some may be late.
const SIGNS_PER_LIMIT: u32 = 6;
/// How often the line is looked at.
const LINE_INTERVAL: Duration = Duration::from_secs(2);
/// Longest text of an engine's error in the line.
const MOST_OF_AN_ERROR: usize = 120;

/// Whether the store wrote when it was asked to, in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StoreAnswer {
    Wrote,
    Failed,
}

/// Remembers up to which pass signs of life were given.
#[derive(Debug)]
struct Pulse {
    passes: u64,
}

impl Pulse {
    /// Whether a sign of life is due. What counts for one counts for no other.
    fn beats(&mut self, passes: u64, store: StoreAnswer) -> bool {
        let alive = passes != self.passes && store == StoreAnswer::Wrote;
        if alive {
            self.passes = passes;
        }
        alive
    }
}

/// Tells systemd about the daemon until it is to stop. Where no systemd listens, nothing is sent.
pub(super) async fn attend(manager: ManagerHandle, store: Arc<dyn Store>, stop: CancellationToken) {
    let signs = async {
        if let Some(limit) = sd_notify::watchdog_enabled() {
            give_signs(&manager, store.as_ref(), limit / SIGNS_PER_LIMIT).await;
        }
    };
    // Neither ends by itself where there is something to tell; dropping them loses nothing.
    tokio::select! {
        ((), ()) = async { tokio::join!(signs, tell(&manager, store.as_ref())) } => {}
        () = stop.cancelled() => {}
    }
}

/// Gives signs of life, as long as there is life.
async fn give_signs(manager: &ManagerHandle, store: &dyn Store, interval: Duration) {
    let mut pulse = Pulse { passes: manager.status().passes };
    loop {
        tokio::time::sleep(interval).await;
        let answer = ask(store, interval).await;
        if pulse.beats(manager.status().passes, answer) {
            notify(&[NotifyState::Watchdog]);
        } else {
            warn!(store = ?answer, manager.passes = pulse.passes, "systemd gets no sign of life: the manager or the store does not get on");
        }
    }
}

/// Writes the line whenever it has changed.
async fn tell(manager: &ManagerHandle, store: &dyn Store) {
    let mut said = String::new();
    loop {
        tokio::time::sleep(LINE_INTERVAL).await;
        let Ok(counts) = store.counts().await else { continue };
        let line = line(&manager.status().engine, &counts);
        if line != said {
            notify(&[NotifyState::Status(&line)]);
            said = line;
        }
    }
}

/// Has the store write.
async fn ask(store: &dyn Store, patience: Duration) -> StoreAnswer {
    match tokio::time::timeout(patience, store.ping()).await {
        Ok(Ok(())) => StoreAnswer::Wrote,
        Ok(Err(error)) => {
            warn!(error = chain(&error), "the store gives no sign of life");
            StoreAnswer::Failed
        }
        Err(_) => StoreAnswer::Failed,
    }
}

/// What `systemctl status` shows of us.
fn line(engine: &EngineState, counts: &Counts) -> String {
    let jobs = |state: &str| counts.jobs.iter().find(|(name, _)| name == state).map_or(0, |(_, jobs)| *jobs);
    let mut line = format!("{} running, {} starting, {} queued; ", jobs("running"), jobs("starting"), jobs("queued"));
    // Writing to a text cannot fail. A line is one line, whatever an error has in it.
    let _ = match engine {
        EngineState::Unknown => write!(line, "the engine has not been asked yet"),
        EngineState::Up { version, .. } => write!(line, "engine {version}"),
        EngineState::Down { error, .. } => {
            let error: String = error.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MOST_OF_AN_ERROR).collect();
            write!(line, "the engine does not answer: {error}")
        }
    };
    line
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    #[test]
    fn a_sign_of_life_needs_another_pass_and_a_store_that_writes() {
        use StoreAnswer::{Failed, Wrote};
        let mut pulse = Pulse { passes: 7 };
        assert!(!pulse.beats(7, Wrote), "a manager that hangs");
        assert!(!pulse.beats(9, Failed), "a store that hangs");
        assert!(pulse.beats(9, Wrote), "what was no sign is not used up");
        assert!(!pulse.beats(9, Wrote), "a pass counts once");
        assert!(pulse.beats(10, Wrote));
        assert!(pulse.beats(0, Wrote), "a count that began anew is a sign too");
    }

    #[test]
    fn the_line_tells_of_jobs_and_the_engine() {
        let counts = Counts { jobs: vec![("queued".to_owned(), 12), ("running".to_owned(), 3)], runners: Vec::new(), oldest_queued_at: None };
        let since = Timestamp::UNIX_EPOCH;
        let told = |engine: EngineState| line(&engine, &counts);
        assert_eq!(told(EngineState::Up { version: "20.10.24".to_owned(), since }), "3 running, 0 starting, 12 queued; engine 20.10.24");
        assert_eq!(told(EngineState::Unknown), "3 running, 0 starting, 12 queued; the engine has not been asked yet");
        let down = told(EngineState::Down { error: format!("no\nREADY=1\n{}", "x".repeat(999)), since });
        assert!(down.starts_with("3 running, 0 starting, 12 queued; the engine does not answer: no READY=1 xxx"), "{down}");
        assert!(down.len() < 250 && !down.contains('\n'), "{down}");
    }
}
