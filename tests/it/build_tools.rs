//! What people build with works under the default profile and its filter of system calls: compilers, make, git, Python, an address sanitizer.

use std::process::Command;

use serde_json::json;

use crate::harness::{Setup, engine};

/// An image of this machine's own tools.
const IMAGE: &str = "rc-test/build-tools:1";
/// The packages that the tools come from, what compiling needs beside, and every library that any of it is linked to.
const MAKE_IMAGE: &str = include_str!("build_tools/image.sh");
/// What is built.
const BUILD: &str = include_str!("build_tools/build.sh");

#[tokio::test]
async fn common_build_tools_work_in_a_hardened_container() {
    let made = Command::new("bash").args(["-c", MAKE_IMAGE, IMAGE]).env("DOCKER_HOST", engine::host()).status().expect("a shell");
    assert!(made.success(), "the image could not be made");
    let classes = "[[classes]]\nname = \"default\"\ncpus = 2\nmemory = \"768MiB\"\npids = 256\npull = \"never\"\nnetwork = \"none\"";
    let daemon = Setup::new("build-tools").host("cpus = 4\nmemory = \"4GiB\"").with(classes).start().await;
    let id = daemon.submit(json!({ "image": IMAGE, "command": ["bash", "-c", BUILD] })).await;
    let job = daemon.ended(&id).await;
    let log = daemon.logs(&id).await;
    assert_eq!(job["state"], "succeeded", "{job}\n{log}");
    let done: Vec<&str> = log.lines().filter_map(|line| line.strip_prefix("done: ")).collect();
    assert_eq!(done, ["compiler", "refused", "make", "sanitizer", "git", "python", "shell"], "{log}");
    daemon.finish().await;
}
