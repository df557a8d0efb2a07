//! How the daemon begins and ends: signals, tracked tasks, and the truth to systemd.
//!
//! The first SIGTERM or SIGINT asks everybody to finish what they are at (`stop`). A second one, or the deadline, ends the process
//! at once. Containers are left running both ways. SIGHUP asks for the configuration to be read again.

mod service_manager;
mod starting;
mod stir;
mod ticking;

use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

pub use starting::Starting;
pub use stir::Stir;

use crate::jobs::ManagerHandle;
use crate::store::Store;

/// How long tasks may take to finish after the first signal.
const STOP_DEADLINE: Duration = Duration::from_secs(20);

/// How the daemon ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Every task finished.
    Cleanly,
    /// Some had to be cut off.
    CutOff,
}

/// The tasks of the daemon and the token that tells them to finish.
#[derive(Debug, Clone, Default)]
pub struct Lifecycle {
    /// Counts the tasks.
    pub tracker: TaskTracker,
    /// Cancelled once, when the daemon is to stop.
    pub stop: CancellationToken,
}

/// SIGTERM, SIGINT and SIGHUP, caught from this moment on.
#[derive(Debug)]
pub struct Signals {
    hang_up: Signal,
    terminate: Signal,
    interrupt: Signal,
}

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Stop(&'static str),
    Reload,
}

impl Signals {
    /// Catches them.
    ///
    /// # Errors
    /// When the process may not.
    pub fn catch() -> std::io::Result<Self> {
        Ok(Self { hang_up: signal(SignalKind::hangup())?, terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> Asked {
        // All arms only wait.
        tokio::select! {
            _ = self.terminate.recv() => Asked::Stop("SIGTERM"),
            _ = self.interrupt.recv() => Asked::Stop("SIGINT"),
            _ = self.hang_up.recv() => Asked::Reload,
        }
    }

    async fn stop(&mut self) -> &'static str {
        loop {
            if let Asked::Stop(name) = self.next().await {
                return name;
            }
        }
    }
}

impl Lifecycle {
    /// Tells systemd from now on that the daemon is alive and how it does.
    pub fn attend(&self, manager: ManagerHandle, store: Arc<dyn Store>) {
        let (tasks, stop) = (manager.tasks().clone(), self.stop.clone());
        tasks.keep((&self.tracker, &self.stop), "systemd", move || service_manager::attend(manager.clone(), Arc::clone(&store), stop.clone()));
    }

    /// Tells systemd that the daemon is ready, waits for a signal to stop, and ends everything in order. At a signal to reload, `reload` is called;
    /// systemd is told what it answers.
    pub async fn run(self, mut signals: Signals, reload: impl AsyncFn() -> String) -> Ended {
        notify(&[NotifyState::Ready]);
        loop {
            // Both arms only wait.
            let asked = tokio::select! {
                asked = signals.next() => asked,
                () = self.stop.cancelled() => break,
            };
            match asked {
                Asked::Stop(name) => {
                    info!(signal = name, "stopping; running containers are left to the next start");
                    break;
                }
                Asked::Reload => {
                    info!(signal = "SIGHUP", "reading the configuration again");
                    notify_reloading();
                    // A reading that is dropped half-way has changed nothing; a file that cannot be read to its end holds nobody up.
                    tokio::select! {
                        said = reload() => notify(&[NotifyState::Ready, NotifyState::Status(&said.replace('\n', " "))]),
                        name = signals.stop() => {
                            info!(signal = name, "stopping; running containers are left to the next start");
                            break;
                        }
                    }
                }
            }
        }
        notify(&[NotifyState::Stopping]);
        self.finish(async move { signals.stop().await }).await
    }

    /// Ends everything in order; `hurry` ends the patience early.
    pub async fn finish(self, hurry: impl Future<Output = &'static str>) -> Ended {
        self.stop.cancel();
        self.tracker.close();
        // All arms only wait.
        tokio::select! {
            () = self.tracker.wait() => return Ended::Cleanly,
            name = hurry => warn!(signal = name, "stopping at once"),
            () = tokio::time::sleep(STOP_DEADLINE) => warn!(tasks = self.tracker.len(), "some tasks did not finish in time"),
        }
        Ended::CutOff
    }
}

/// systemd takes the word only with the time at which it was said.
fn notify_reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => warn!(%error, "systemd could not be told of the reload"),
    }
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        warn!(%error, "systemd could not be told");
    }
}
