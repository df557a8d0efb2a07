//! What systemd hears of the daemon, read at a notification socket of our own. No engine is needed: the daemon waits for one.

use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::harness::{PATIENCE, free_port};

/// After this long without a sign of life systemd would kill the daemon.
const WATCHDOG: Duration = Duration::from_millis(1200);

/// A daemon that believes that systemd started it.
struct Service {
    dir: TempDir,
    port: u16,
    socket: UnixDatagram,
    child: Child,
}

impl Service {
    fn start(port: u16) -> Self {
        let dir = TempDir::with_prefix("rc-service-").expect("a directory");
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket");
        let config = dir.path().join("config.toml");
        let text = format!(
            "data_dir = \"{0}/data\"\n[http]\nlisten = \"127.0.0.1:{port}\"\n[docker]\nhost = \"unix://{0}/no-engine.sock\"\n",
            dir.path().display()
        );
        std::fs::write(&config, text).expect("a configuration");
        let child = Command::new(env!("CARGO_BIN_EXE_runner-coordinator"))
            .args(["--config".as_ref(), config.as_os_str(), "serve".as_ref()])
            .env("NOTIFY_SOCKET", &path)
            .env("WATCHDOG_USEC", WATCHDOG.as_micros().to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(dir.path().join("log")).expect("a log"))
            .spawn()
            .expect("the daemon starts");
        Self { dir, port, socket, child }
    }

    /// The next message within that time.
    fn hear(&self, patience: Duration) -> Option<String> {
        let mut buffer = [0; 4096];
        self.socket.set_read_timeout(Some(patience)).expect("a patience");
        let length = self.socket.recv(&mut buffer).ok()?;
        Some(String::from_utf8_lossy(&buffer[..length]).trim_end().to_owned())
    }

    /// Hears messages until one begins so.
    fn hear_until(&self, start: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.hear(deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))) {
                Some(message) if message.starts_with(start) => return message,
                Some(_) => {}
                None => panic!("{start} was not heard:\n{}", self.log()),
            }
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), signal).expect("signalled");
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn systemd_hears_ready_when_the_listener_is_up_then_signs_of_life_and_a_line_and_the_stop() {
    let mut service = Service::start(free_port());
    let first = service.hear(PATIENCE);
    assert_eq!(first.as_deref(), Some("READY=1"), "{}", service.log());
    std::net::TcpStream::connect(("127.0.0.1", service.port)).expect("it listens once it is ready");
    assert!(service.dir.path().join("data/coordinator.db").exists(), "the store is open once it is ready");
    service.hear_until("WATCHDOG=1");
    service.hear_until("STATUS=0 running, 0 starting, 0 queued; the engine does not answer");
    for _ in 0..2 {
        service.hear_until("WATCHDOG=1");
    }
    service.signal(rustix::process::Signal::TERM);
    service.hear_until("STOPPING=1");
    assert!(service.child.wait().expect("it ends").success(), "{}", service.log());
}

#[test]
fn a_daemon_that_cannot_listen_is_never_ready() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let mut service = Service::start(taken.local_addr().expect("an address").port());
    assert!(!service.child.wait().expect("it ends").success());
    assert_eq!(service.hear(Duration::from_millis(100)), None);
    assert!(service.log().contains("cannot be listened on"), "{}", service.log());
}

#[test]
fn a_store_that_hangs_ends_the_signs_of_life_and_one_that_comes_back_brings_them_back() {
    let service = Service::start(free_port());
    service.hear_until("WATCHDOG=1");
    let other = rusqlite::Connection::open(service.dir.path().join("data/coordinator.db")).expect("the store's file");
    other.busy_timeout(PATIENCE).expect("a patience");
    other.execute_batch("BEGIN IMMEDIATE").expect("nobody else writes now");
    // Those that were on their way.
    let locked = Instant::now();
    while locked.elapsed() < WATCHDOG / 4 {
        service.hear(Duration::from_millis(20));
    }
    let silence = Instant::now();
    while silence.elapsed() < 2 * WATCHDOG {
        let heard = service.hear(Duration::from_millis(50));
        assert_ne!(heard.as_deref(), Some("WATCHDOG=1"), "{}", service.log());
    }
    other.execute_batch("ROLLBACK").expect("given back");
    service.hear_until("WATCHDOG=1");
    assert!(service.log().contains("systemd gets no sign of life"), "{}", service.log());
}
