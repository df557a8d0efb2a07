//! What systemd hears while the daemon starts: that it is not done yet.
//!
//! Bringing a large store up to date may take longer than `TimeoutStartSec`; without a word systemd would kill the daemon in the middle of it,
//! and begin it again for ever. The start blocks its thread, so the word comes from another.

use std::time::Duration;

use sd_notify::NotifyState;
use tracing::warn;

use super::notify;
use super::ticking::Ticking;

/// How often more time is asked for.
const INTERVAL: Duration = Duration::from_secs(10);
/// How much from then on, in microseconds: some words may be late.
const MORE_USEC: u32 = 60_000_000;
/// How often at most: for an hour. A start that hangs is killed some time.
const MOST_TIMES: u32 = 360;

/// Asks systemd for more time until it is dropped, and no more after that. Where no systemd listens, nothing is sent.
#[derive(Debug)]
pub struct Starting {
    _ticking: Option<Ticking>,
}

impl Starting {
    /// The start begins.
    #[must_use]
    pub fn begin() -> Self {
        Self::asking(INTERVAL)
    }

    fn asking(interval: Duration) -> Self {
        let ticking = Ticking::begin("starting", interval, MOST_TIMES, || notify(&[NotifyState::ExtendTimeoutUsec(MORE_USEC)]));
        Self { _ticking: ticking.inspect_err(|error| warn!(%error, "systemd cannot be asked for more time")).ok() }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::unix::net::UnixDatagram;
    use std::process::{Command, Stdio};

    use super::*;

    /// Marks the process that plays the daemon.
    const DAEMON: &str = "RC_TEST_STARTING";
    /// The test that it runs.
    const ITSELF: &str = "lifecycle::starting::tests::systemd_is_asked_for_more_time_while_the_start_blocks_its_thread_and_not_after";

    #[test]
    fn systemd_is_asked_for_more_time_while_the_start_blocks_its_thread_and_not_after() {
        if std::env::var_os(DAEMON).is_some() {
            return start();
        }
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket");
        socket.set_read_timeout(Some(Duration::from_secs(20))).expect("a patience");
        // What systemd listens at is told by a variable, and those of this process are shared with other tests.
        let mut daemon = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", ITSELF])
            .env("NOTIFY_SOCKET", &path)
            .env(DAEMON, "")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("it runs");
        let hear = || {
            let mut buffer = [0; 256];
            let length = socket.recv(&mut buffer).expect("a word");
            String::from_utf8_lossy(&buffer[..length]).trim_end().to_owned()
        };
        for _ in 0..2 {
            assert_eq!(hear(), "EXTEND_TIMEOUT_USEC=60000000");
        }
        drop(daemon.stdin.take());
        while hear() != "READY=1" {}
        assert!(daemon.wait().expect("it ends").success());
        socket.set_nonblocking(true).expect("set");
        assert!(socket.recv(&mut [0; 256]).is_err(), "once it is ready nothing more is asked for");
    }

    /// A start that blocks until its input ends.
    fn start() {
        let starting = Starting::asking(Duration::from_millis(1));
        std::io::stdin().read_to_end(&mut Vec::new()).expect("an end");
        drop(starting);
        notify(&[NotifyState::Ready]);
    }

    #[test]
    fn a_start_that_hangs_is_not_excused_for_ever() {
        let (_open, ended) = std::sync::mpsc::channel();
        let mut said = 0;
        super::super::ticking::until_ended(&ended, Duration::ZERO, 3, || said += 1);
        assert_eq!(said, 3);
    }
}
