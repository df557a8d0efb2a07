//! Where the real daemon is met: a Unix socket of its own, and sockets that are handed over to it as systemd does. No engine is needed.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use reqwest::{Client, StatusCode};
use tempfile::TempDir;
use tokio::time::Instant;

use crate::harness::{PATIENCE, free_port, pause};

/// A digest of no token that is known here.
const TOKENS: &str =
    "[[http.tokens]]\nname = \"a\"\nrole = \"operator\"\nsha256 = \"0000000000000000000000000000000000000000000000000000000000000000\"\n";
/// Takes what stands on standard input and output as the descriptors 3 and 4, and becomes the daemon. `FOR` names another process to announce them to.
const HAND_OVER: &str = "exec 3<&0 4<&1 0</dev/null 1>/dev/null; export LISTEN_PID=${FOR:-$$}; exec \"$@\"";

struct Daemon {
    child: Child,
    dir: TempDir,
}

impl Daemon {
    fn prepare(http: &str) -> (TempDir, PathBuf) {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().display();
        let text = format!("data_dir = \"{path}/data\"\ndocker.host = \"unix://{path}/no-engine\"\nhost.name = \"listen\"\n[http]\n{http}\n");
        let file = dir.path().join("config.toml");
        std::fs::write(&file, text.replace("DIR", &path.to_string())).expect("written");
        (dir, file)
    }

    /// A daemon with these lines in its section `http`, `DIR` being its directory.
    fn start(http: &str) -> Self {
        let (dir, file) = Self::prepare(http);
        let mut command = Command::new(env!("CARGO_BIN_EXE_runner-coordinator"));
        command.args(["--config".as_ref(), file.as_os_str(), "serve".as_ref()]);
        Self::spawn(command, dir)
    }

    /// The same with sockets that are handed over.
    fn activated(http: &str, sockets: [Option<OwnedFd>; 2], environment: &[(&str, &str)]) -> Self {
        let (dir, file) = Self::prepare(http);
        let mut command = Command::new("sh");
        command.args(["-c", HAND_OVER, "sh", env!("CARGO_BIN_EXE_runner-coordinator"), "--config"]).arg(&file).arg("serve");
        let [first, second] = sockets.map(|socket| socket.map_or_else(Stdio::null, Stdio::from));
        command.stdin(first).stdout(second).envs(environment.iter().copied());
        Self::spawn(command, dir)
    }

    fn spawn(mut command: Command, dir: TempDir) -> Self {
        let log = std::fs::File::create(dir.path().join("log")).expect("a log");
        Self { child: command.stderr(log).spawn().expect("it starts"), dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// What `GET /jobs` is answered with, once somebody answers.
    async fn status(&mut self, client: &Client, base: &str) -> StatusCode {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Ok(answer) = client.get(format!("{base}/jobs")).send().await {
                return answer.status();
            }
            let ended = self.child.try_wait().expect("a process");
            assert!(ended.is_none() && Instant::now() < deadline, "nobody answers ({ended:?}):\n{}", self.log());
            pause().await;
        }
    }

    /// Waits for its end; what it said.
    async fn refused(mut self) -> String {
        let deadline = Instant::now() + PATIENCE;
        while self.child.try_wait().expect("a process").is_none() {
            assert!(Instant::now() < deadline, "it runs:\n{}", self.log());
            pause().await;
        }
        assert!(!self.child.wait().expect("a process").success());
        self.log()
    }

    /// Takes this out of the configuration and has it read again; that must be refused, and change nothing.
    async fn reload_without(&mut self, lines: &str) {
        let file = self.path("config.toml");
        let text = std::fs::read_to_string(&file).expect("a configuration");
        std::fs::write(&file, text.replace(lines, "")).expect("written");
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), rustix::process::Signal::HUP).expect("signalled");
        let deadline = Instant::now() + PATIENCE;
        while !self.log().contains("which systemd handed over: everyone could run jobs") {
            assert!(Instant::now() < deadline, "it is not refused:\n{}", self.log());
            pause().await;
        }
    }

    async fn terminate(&mut self) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), rustix::process::Signal::TERM).expect("signalled");
        let deadline = Instant::now() + PATIENCE;
        while self.child.try_wait().expect("a process").is_none() {
            assert!(Instant::now() < deadline, "it does not stop:\n{}", self.log());
            pause().await;
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn tcp() -> Client {
    crate::harness::client()
}

fn unix(path: &Path) -> Client {
    tcp();
    Client::builder().unix_socket(path).build().expect("a client")
}

#[tokio::test]
async fn the_socket_needs_no_token_and_the_network_does() {
    let port = free_port();
    let http = format!("listen = \"127.0.0.1:{port}\"\nsocket = \"DIR/api.sock\"\n{TOKENS}");
    let mut daemon = Daemon::start(&http);
    let (path, address) = (daemon.path("api.sock"), format!("http://127.0.0.1:{port}"));
    assert_eq!(daemon.status(&tcp(), &address).await, StatusCode::UNAUTHORIZED);
    // Not even the Host of a foreign page matters there.
    for base in ["http://localhost", "http://evil.example"] {
        assert_eq!(daemon.status(&unix(&path), base).await, StatusCode::OK, "{base}");
    }
    assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o7777, 0o660);
    let submitted = unix(&path).post("http://localhost/jobs").json(&serde_json::json!({ "image": "a", "command": ["true"] })).send().await;
    assert_eq!(submitted.expect("an answer").status(), StatusCode::ACCEPTED);
    daemon.terminate().await;
    assert!(!path.exists(), "it is removed at the stop:\n{}", daemon.log());
}

/// The program, with this before its command.
fn cli(before: &[&str], arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_runner-coordinator"))
        .args(before)
        .args(arguments)
        .env_remove("RUNNER_COORDINATOR_API_TOKEN")
        .env_remove("RUNNER_COORDINATOR_SERVER")
        .output()
        .expect("it runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[tokio::test]
async fn the_command_line_goes_through_the_socket_or_with_a_token_and_says_what_is_missing() {
    let (token, digest) = tokens();
    let port = free_port();
    let tokens = format!("[[http.tokens]]\nname = \"looker\"\nrole = \"viewer\"\nsha256 = \"{digest}\"\n");
    let mut daemon = Daemon::start(&format!("listen = \"127.0.0.1:{port}\"\nsocket = \"DIR/api.sock\"\n{tokens}"));
    let (path, url) = (daemon.path("api.sock"), format!("http://127.0.0.1:{port}"));
    daemon.status(&unix(&path), "http://localhost").await;
    let (config, socket) = (daemon.path("config.toml").display().to_string(), format!("unix:{}", path.display()));
    let submit = ["jobs", "submit", "--image", "a:1", "--", "true"];

    // With the configuration, and without being able to read any.
    for before in [vec!["--config", &config], vec!["--config", "/nonexistent"]] {
        let server: &[&str] = if before[1] == config { &[] } else { &["--server", &socket] };
        let (code, out, err) = cli(&before, &[&["jobs", "submit"], server, &submit[2..]].concat());
        assert_eq!((code, out.lines().count(), err.as_str()), (Some(0), 1, ""));
    }
    let (code, _, err) = cli(&["--config", "/nonexistent"], &["status"]);
    assert_eq!(code, Some(1));
    assert!(err.contains("the configuration does not tell where the daemon is") && err.contains("next: say where it is with --server URL"), "{err}");

    let (code, _, err) = cli(&[], &["jobs", "list", "--server", &url]);
    assert_eq!(code, Some(1));
    assert!(err.contains("(401)") && err.contains("next: give a token with --token-file"), "{err}");
    let file = daemon.path("token");
    std::fs::write(&file, &token).expect("written");
    let with_file = ["--server", &url, "--token-file", file.to_str().expect("text")];
    let (code, _, err) = cli(&[], &[&["jobs", "list"], &with_file[..]].concat());
    assert_eq!(code, Some(1));
    assert!(err.contains("mode 0644") && err.contains("0600"), "{err}");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("set");
    assert_eq!(cli(&[], &[&["jobs", "list"], &with_file[..]].concat()).0, Some(0));
    assert_eq!(cli(&[], &["jobs", "list", "--server", &url, "--token", &token]).0, Some(0));
    let (code, _, err) = cli(&[], &[&["jobs", "submit"], &with_file[..], &submit[2..]].concat());
    assert_eq!(code, Some(1));
    assert!(err.contains("the role operator is needed (403)") && err.contains("role = \"operator\""), "{err}");

    daemon.terminate().await;
    let (code, _, err) = cli(&[], &["status", "--server", &socket]);
    assert_eq!(code, Some(1));
    assert!(err.contains("cannot be reached") && err.contains("next: is it running?"), "{err}");
    assert_eq!(cli(&[], &["jobs", "list", "--server", "box1"]).0, Some(2));
}

/// A fresh token and its digest, as the program makes them.
fn tokens() -> (String, String) {
    let (_, out, _) = cli(&[], &["token", "new"]);
    let part = |start: &str| out.lines().find_map(|line| line.strip_prefix(start)).expect(start).trim_matches('"').to_owned();
    (part("token: "), part("sha256 = "))
}

#[tokio::test]
async fn two_daemons_do_not_share_a_socket_and_a_killed_ones_is_replaced() {
    let listen = || format!("listen = \"127.0.0.1:{}\"\n", free_port());
    let mut first = Daemon::start(&format!("{}socket = \"DIR/api.sock\"", listen()));
    let path = first.path("api.sock");
    assert_eq!(first.status(&unix(&path), "http://localhost").await, StatusCode::OK);
    let second = || Daemon::start(&format!("{}socket = {path:?}", listen()));
    let said = second().refused().await;
    assert!(said.contains("another daemon answers there"), "{said}");
    first.child.kill().expect("killed");
    first.child.wait().expect("reaped");
    assert!(path.exists(), "nobody removed it");
    assert_eq!(second().status(&unix(&path), "http://localhost").await, StatusCode::OK);
}

#[tokio::test]
async fn sockets_of_the_service_manager_are_taken_over() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("handed.sock");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let address = format!("http://{}", listener.local_addr().expect("an address"));
    let socket = UnixListener::bind(&path).expect("a listener");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o660)).expect("set");
    // The configured ones would be in the way: the one port is taken, the other path is a directory's.
    let http = format!("listen = \"{}\"\nsocket = \"DIR/data/x/y\"\n{TOKENS}", listener.local_addr().expect("an address"));
    let environment = [("LISTEN_FDS", "2"), ("LISTEN_FDNAMES", "socket:http")];
    let mut daemon = Daemon::activated(&http, [Some(socket.into()), Some(listener.into())], &environment);
    assert_eq!(daemon.status(&tcp(), &address).await, StatusCode::UNAUTHORIZED);
    assert_eq!(daemon.status(&unix(&path), "http://localhost").await, StatusCode::OK);
    daemon.terminate().await;
    assert!(path.exists(), "the file is the service manager's");
}

#[tokio::test]
async fn what_is_announced_to_another_process_or_is_no_listener_is_not_taken_over() {
    let port = free_port();
    let http = format!("listen = \"127.0.0.1:{port}\"");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let handed = listener.local_addr().expect("an address");
    let mut daemon = Daemon::activated(&http, [Some(listener.into()), None], &[("LISTEN_FDS", "1"), ("FOR", "1")]);
    assert_eq!(daemon.status(&tcp(), &format!("http://127.0.0.1:{port}")).await, StatusCode::OK);
    assert_ne!(handed.port(), port);
    drop(daemon);

    let said = Daemon::activated(&http, [None, None], &[("LISTEN_FDS", "1")]).refused().await;
    assert!(said.contains("must be a TCP or a Unix stream socket"), "{said}");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let connection = std::net::TcpStream::connect(listener.local_addr().expect("an address")).expect("connected");
    let said = Daemon::activated(&http, [Some(connection.into()), None], &[("LISTEN_FDS", "1")]).refused().await;
    assert!(said.contains("set Accept=no"), "{said}");
    let everywhere = TcpListener::bind("0.0.0.0:0").expect("a listener");
    let said = Daemon::activated(&http, [Some(everywhere.into()), None], &[("LISTEN_FDS", "1")]).refused().await;
    assert!(said.contains("is not a loopback address, and there is no [[http.tokens]]"), "{said}");
    let everywhere = TcpListener::bind("0.0.0.0:0").expect("a listener");
    let port = everywhere.local_addr().expect("an address").port();
    let mut guarded = Daemon::activated(&format!("{http}\n{TOKENS}"), [Some(everywhere.into()), None], &[("LISTEN_FDS", "1")]);
    assert_eq!(guarded.status(&tcp(), &format!("http://127.0.0.1:{port}")).await, StatusCode::UNAUTHORIZED);
    guarded.reload_without(TOKENS).await;
    let said = Daemon::activated(&http, [None, None], &[("LISTEN_FDS", "many")]).refused().await;
    assert!(said.contains("LISTEN_FDS"), "{said}");
}
