//! The log in systemd's journal: a stand-in for its socket, mounted where the daemon looks for it, in a mount namespace of the daemon's own.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::harness::{PATIENCE, free_port};

/// Starts the daemon with `/run` empty but for `journal`, when there is one, as the directory of the journal's socket.
fn start(data: &Path, journal: Option<&Path>) -> Child {
    let config = data.join("config.toml");
    let port = free_port();
    let store = data.join("data");
    let text = format!(
        "data_dir = \"{}\"\nhttp.listen = \"127.0.0.1:{port}\"\ndocker.host = \"unix:///nowhere\"\nlog.format = \"journald\"",
        store.display()
    );
    std::fs::write(&config, text).expect("a configuration");
    let mount = "mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/journal";
    let bind = journal.map_or_else(String::new, |journal| format!(" && mount --bind {} /run/systemd/journal", journal.display()));
    Command::new("unshare")
        .args(["--mount", "sh", "-c", &format!("{mount}{bind} && exec \"$@\""), "sh"])
        .arg(env!("CARGO_BIN_EXE_runner-coordinator"))
        .args(["--config".as_ref(), config.as_os_str(), "serve".as_ref()])
        .env_remove("RUNNER_COORDINATOR_LOG")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("unshare starts")
}

/// The fields of one entry in the journal's own form: `NAME=value`, or the name, a length and the value.
fn fields(mut entry: &[u8]) -> Vec<(String, String)> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut found = Vec::new();
    while let Some(end) = entry.iter().position(|byte| *byte == b'\n') {
        let (line, rest) = (&entry[..end], &entry[end + 1..]);
        if let Some(equals) = line.iter().position(|byte| *byte == b'=') {
            found.push((text(&line[..equals]), text(&line[equals + 1..])));
            entry = rest;
        } else {
            let length = usize::try_from(u64::from_le_bytes(rest[..8].try_into().expect("eight bytes"))).expect("a length");
            found.push((text(line), text(&rest[8..8 + length])));
            entry = &rest[8 + length + 1..];
        }
    }
    found
}

#[test]
fn each_field_is_one_of_the_journals() {
    let (dir, journal) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let socket = UnixDatagram::bind(journal.path().join("socket")).expect("a socket");
    socket.set_read_timeout(Some(PATIENCE)).expect("a deadline");
    let mut daemon = start(dir.path(), Some(journal.path()));
    let mut buffer = vec![0; 1 << 16];
    let entry = loop {
        let length = socket.recv(&mut buffer).expect("an entry");
        let entry = fields(&buffer[..length]);
        if entry.iter().any(|(name, value)| name == "MESSAGE" && value == "listening") {
            break entry;
        }
    };
    daemon.kill().expect("killed");
    daemon.wait().expect("reaped");
    let value = |wanted: &str| entry.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str());
    assert_eq!((value("SYSLOG_IDENTIFIER"), value("PRIORITY")), (Some("runner-coordinator"), Some("6")), "{entry:?}");
    assert!(value("RC_ADDRESS").is_some_and(|address| address.starts_with("127.0.0.1:")) && value("RC_INSTANCE").is_some(), "{entry:?}");
}

#[test]
fn without_a_journal_the_start_fails_and_says_so() {
    let dir = tempfile::tempdir().expect("a directory");
    let output = start(dir.path(), None).wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("/run/systemd/journal/socket"), "{said}");
}
