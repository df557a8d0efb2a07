//! Something that is done by a thread of its own at each interval, whatever the runtime's threads are at.

use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// Ticks until it is dropped, which waits for the last tick to end.
#[derive(Debug)]
pub(super) struct Ticking(Option<(Sender<()>, JoinHandle<()>)>);

impl Ticking {
    /// Begins a thread of this name, which ticks so many times at most; the first time after one interval.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub(super) fn begin(name: &str, interval: Duration, most_times: u32, tick: impl FnMut() + Send + 'static) -> io::Result<Self> {
        let (open, ended) = channel();
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || until_ended(&ended, interval, most_times, tick))?;
        Ok(Self(Some((open, thread))))
    }
}

impl Drop for Ticking {
    fn drop(&mut self) {
        if let Some((open, thread)) = self.0.take() {
            drop(open);
            let _ = thread.join();
        }
    }
}

/// Ticks at each interval, so many times at most, until the other end is gone.
pub(super) fn until_ended(ended: &Receiver<()>, interval: Duration, most_times: u32, mut tick: impl FnMut()) {
    for _ in 0..most_times {
        match ended.recv_timeout(interval) {
            Err(RecvTimeoutError::Timeout) => tick(),
            Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}
