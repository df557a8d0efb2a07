//! Keeps the runtime's inputs and timers alive while one of its threads hangs.
//!
//! Of the threads of a tokio runtime one waits for sockets and timers, and when that one takes up a task that then blocks (a read from a dead
//! disk), the others may sleep on, since nobody wakes them: nothing is answered, `/health` neither. So somebody from outside wakes one now and
//! then; it finds nothing to do and waits for sockets and timers in the other's place.

use std::time::Duration;

use tokio::runtime::Handle;
use tracing::warn;

use super::ticking::Ticking;

/// Time between two wakings.
const INTERVAL: Duration = Duration::from_secs(1);

/// Wakes a thread of a runtime now and then, until it is dropped.
#[derive(Debug)]
pub struct Stir {
    _ticking: Option<Ticking>,
}

impl Stir {
    /// Begins.
    #[must_use]
    pub fn begin(runtime: Handle) -> Self {
        let ticking = Ticking::begin("stir", INTERVAL, u32::MAX, move || drop(runtime.spawn(async {})));
        Self { _ticking: ticking.inspect_err(|error| warn!(%error, "a thread of the daemon that hangs may hold up the others")).ok() }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn timers_go_on_while_a_thread_hangs_that_waited_for_them() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
        let _stir = Stir::begin(runtime.handle().clone());
        let (over, never) = mpsc::channel::<()>();
        // Woken by a timer, and so by whoever waited for it.
        runtime.spawn(async move {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let _ = never.recv();
        });
        let (tell, told) = mpsc::channel();
        runtime.spawn(async move {
            tokio::time::sleep(Duration::from_millis(60)).await;
            let _ = tell.send(());
        });
        assert_eq!(told.recv_timeout(Duration::from_secs(30)), Ok(()));
        drop(over);
    }
}
