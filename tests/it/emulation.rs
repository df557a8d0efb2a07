//! Programs for another architecture: the kernel's own mechanism and the real engine; only the emulator is a stand-in that tells what it was
//! to run.

use std::fs;
use std::path::Path;
use std::process::Command;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::harness::{Daemon, Setup};

const HANDLERS: &str = "/proc/sys/fs/binfmt_misc";
const NAME: &str = "runner-coordinator-test-arm64";
/// Image for arm64 with one program, `/hello`.
pub(crate) const IMAGE: &str = "rc-test/arm64:1";

/// A handler of the kernel's for arm64, whose emulator is `echo`.
struct Handler {
    _directory: tempfile::TempDir,
}

impl Handler {
    fn register() -> Self {
        if !Path::new(HANDLERS).join("register").exists() {
            let mounted = Command::new("mount").args(["-t", "binfmt_misc", "binfmt_misc", HANDLERS]).status().expect("mount");
            assert!(mounted.success(), "the kernel has no binfmt_misc, which this test needs");
        }
        forget();
        let directory = tempfile::tempdir().expect("a directory");
        // Busybox does what it is called.
        let emulator = directory.path().join("echo");
        let busybox = ["/usr/bin/busybox", "/bin/busybox"].into_iter().find(|path| Path::new(path).exists()).expect("busybox");
        // By another process: what other tests start meanwhile would inherit this one's file, open for writing ("text file busy").
        assert!(Command::new("cp").args([busybox.as_ref(), emulator.as_path()]).status().expect("cp").success(), "busybox cannot be copied");
        let (magic, mask) = (r"\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00", r"\xff".repeat(20));
        let line = format!(":{NAME}:M::{magic}:{mask}:{}:F", emulator.display());
        fs::write(Path::new(HANDLERS).join("register"), line).expect("registered");
        Self { _directory: directory }
    }
}

impl Drop for Handler {
    fn drop(&mut self) {
        forget();
    }
}

/// Takes the handler away, that of a run that was killed too.
fn forget() {
    let handler = Path::new(HANDLERS).join(NAME);
    if handler.exists() {
        fs::write(handler, "-1").expect("removed");
    }
}

fn hello(emulation: Option<&str>) -> Value {
    let mut body = json!({ "image": IMAGE, "command": ["/hello", "from", "arm64"], "memory": "64MiB", "arch": "arm64" });
    if let Some(emulation) = emulation {
        body["emulation"] = json!(emulation);
    }
    body
}

#[tokio::test]
async fn another_architecture_runs_on_an_emulator_where_that_is_allowed() {
    assert_eq!(std::env::consts::ARCH, "x86_64", "this test is of an amd64 machine that emulates arm64");
    let handler = Handler::register();
    let classes = "[[classes]]\nname = \"default\"\npull = \"never\"\n[[classes]]\nname = \"any\"\npull = \"never\"\nemulation = \"allow\"";
    let daemon = Setup::new("emulation").with("[gpu]\nprobe_interval = \"1s\"").with(classes).start().await;
    daemon.until("it is healthy", Daemon::is_healthy).await;
    assert_eq!(daemon.get("/hosts").await["hosts"][0]["emulated"], json!(["arm64"]));

    let (status, problem) = daemon.request(Method::POST, "/jobs", Some(hello(None))).await;
    assert_eq!((status, &problem["errors"][0]["field"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!("arch")), "{problem}");
    assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("which neither the job nor its class allows")), "{problem}");

    let mut of_class = hello(None);
    of_class["class"] = json!("any");
    for body in [hello(Some("allow")), of_class.clone()] {
        let id = daemon.submit(body).await;
        let ended = daemon.ended(&id).await;
        assert_eq!(ended["state"], "succeeded", "{ended}");
        assert_eq!(daemon.logs(&id).await, "/hello from arm64\n");
    }
    of_class["emulation"] = json!("deny");
    let (status, _) = daemon.request(Method::POST, "/jobs", Some(of_class)).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "the job's own word counts");

    // Natively the image is of no use, also on a machine that could emulate it.
    let native = json!({ "image": IMAGE, "command": ["/hello"], "memory": "64MiB" });
    let ended = daemon.ended(&daemon.submit(native).await).await;
    assert_eq!(ended["reason"], "image_unavailable", "{ended}");
    assert!(ended["detail"].as_str().is_some_and(|detail| detail.contains("is for arm64, and amd64 is needed")), "{ended}");

    drop(handler);
    daemon.until("it is seen that nothing is emulated", async |daemon| daemon.get("/hosts").await["hosts"][0]["emulated"] == json!([])).await;
    let (status, problem) = daemon.request(Method::POST, "/jobs", Some(hello(Some("allow")))).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{problem}");
    daemon.finish().await;
}
