//! A job that tries to get out of its container, with the default profile: every attempt fails, and neither the machine nor the job beside it notices.

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::json;

use crate::harness::engine::{self, UNTIL_TOLD};
use crate::harness::{BUSYBOX, Setup};

/// What tries.
const PROBE: &str = include_str!("escape/probe.pl");
/// An image of this machine's Perl and nothing else.
const IMAGE: &str = "rc-test/perl:1";
const MAKE_IMAGE: &str = r#"set -e; dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; mkdir -p "$dir/usr/bin" "$dir/tmp" "$dir/etc"; cp "$(readlink -f /usr/bin/perl)" "$dir/usr/bin/perl"
    for library in $(ldd /usr/bin/perl | grep -o '/[^ ]*'); do mkdir -p "$dir${library%/*}"; cp "$(readlink -f "$library")" "$dir$library"; done
    tar -C "$dir" -c . | docker import - "$0" >/dev/null"#;

/// "Not permitted", "permission denied", "read-only", "no such call", and "no such file" for what is not there at all.
const REFUSALS: [&str; 5] = ["1", "13", "30", "38", "2"];

fn make_image() {
    let made = Command::new("sh").args(["-c", MAKE_IMAGE, IMAGE]).env("DOCKER_HOST", engine::host()).status().expect("a shell");
    assert!(made.success(), "the image could not be made");
}

#[tokio::test]
async fn a_job_that_tries_everything_gets_nowhere_and_nobody_notices() {
    make_image();
    let classes = "[[classes]]\nname = \"default\"\ncpus = 0.5\nmemory = \"128MiB\"\npids = 64\npull = \"never\"";
    let daemon = Setup::new("escape").host("cpus = 2").with(classes).start().await;
    let neighbour = daemon.submit(json!({ "image": BUSYBOX, "command": ["sh", "-c", format!("{UNTIL_TOLD}; echo untouched")] })).await;
    daemon.reaches(&neighbour, &["running"]).await;
    let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").expect("a name");
    let probe = daemon.submit(json!({ "image": IMAGE, "command": ["perl", "-e", PROBE, std::env::consts::ARCH] })).await;
    let job = daemon.ended(&probe).await;
    let log = daemon.logs(&probe).await;
    assert_eq!(job["state"], "succeeded", "{job}\n{log}");
    let told: BTreeMap<&str, &str> = log.lines().filter_map(|line| line.split_once(' ')).collect();
    let got_through: Vec<_> = told
        .iter()
        .filter(|(name, _)| !["devices", "whoami", "fork", "forked"].contains(name) && !name.starts_with("told-"))
        .filter(|(_, came)| !REFUSALS.contains(came))
        .collect();
    assert!(got_through.is_empty() && told.len() > 70, "{got_through:?}\n{log}");
    assert!(told.iter().filter(|(name, _)| name.starts_with("told-")).all(|(_, came)| *came != "DONE"), "of the kernel: {log}");
    assert_eq!(told["devices"], "full,null,random,tty,urandom,zero");
    assert!(told["whoami"].starts_with("65532:65532"), "{log}");
    // Beside it there are the first process and ours.
    let forked: u32 = told["forked"].parse().expect("a number");
    assert!(told["fork"] == "11" && (50..64).contains(&forked), "{log}");
    assert_eq!(std::fs::read_to_string("/proc/sys/kernel/hostname").expect("a name"), hostname);
    assert_eq!(daemon.job(&neighbour).await["state"], "running");
    engine::tell(&neighbour);
    assert_eq!(daemon.ended(&neighbour).await["state"], "succeeded");
    assert_eq!(daemon.logs(&neighbour).await, "untouched\n");
    assert!(daemon.is_healthy().await);
    daemon.finish().await;
}
