//! A job that tries to get out of its container, with the default profile: every attempt fails, and neither the machine nor the job beside it notices.

use std::collections::BTreeMap;
use std::process::Command;

use runner_coordinator::docker::{ContainerPlan, Driver as _};
use runner_coordinator::domain::ImageRef;
use runner_coordinator::security::{DeviceGrant, NvidiaWay};
use serde_json::json;

use crate::bench::Bench;
use crate::gpu_container::{Machine, giving, nvidia};
use crate::harness::engine::{self, UNTIL_TOLD};
use crate::harness::{BUSYBOX, Daemon, Setup};

/// What tries.
const PROBE: &str = include_str!("escape/probe.pl");
/// An image of this machine's Perl and nothing else.
const IMAGE: &str = "rc-test/perl:1";
const MAKE_IMAGE: &str = r#"set -e; dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; mkdir -p "$dir/usr/bin" "$dir/tmp" "$dir/etc"; cp "$(readlink -f /usr/bin/perl)" "$dir/usr/bin/perl"
    cp "$dir/usr/bin/perl" "$dir/usr/bin/perl-of-root"; chmod 6755 "$dir/usr/bin/perl-of-root"
    for library in $(ldd /usr/bin/perl | grep -o '/[^ ]*'); do mkdir -p "$dir${library%/*}"; cp "$(readlink -f "$library")" "$dir$library"; done
    tar -C "$dir" -c . | docker import - "$0" >/dev/null"#;

/// "Not permitted", "permission denied", "read-only", "no such call", and "no such file" for what is not there at all.
const REFUSALS: [&str; 5] = ["1", "13", "30", "38", "2"];

fn make_image() {
    let made = Command::new("sh").args(["-c", MAKE_IMAGE, IMAGE]).env("DOCKER_HOST", engine::host()).status().expect("a shell");
    assert!(made.success(), "the image could not be made");
}

/// A job beside the one that tries.
async fn neighbour(daemon: &Daemon) -> String {
    let id = daemon.submit(json!({ "image": BUSYBOX, "command": ["sh", "-c", format!("{UNTIL_TOLD}; echo untouched")] })).await;
    daemon.reaches(&id, &["running"]).await;
    id
}

/// It still runs, and ends well when it is told to.
async fn is_untouched(daemon: &Daemon, neighbour: &str) {
    assert_eq!(daemon.job(neighbour).await["state"], "running");
    engine::tell(neighbour);
    assert_eq!(daemon.ended(neighbour).await["state"], "succeeded");
    assert_eq!(daemon.logs(neighbour).await, "untouched\n");
}

/// What the probe told: what it tried, and what came of it.
fn told(log: &str) -> BTreeMap<&str, &str> {
    let told: BTreeMap<&str, &str> = log.lines().filter_map(|line| line.split_once(' ')).collect();
    assert!(told.len() > 80, "{log}");
    told
}

/// What was not refused.
fn got_through<'a>(told: &BTreeMap<&'a str, &str>) -> Vec<&'a str> {
    let attempts = told.iter().filter(|(name, _)| !["devices", "whoami", "root", "fork", "forked"].contains(name) && !name.starts_with("told-"));
    attempts.filter(|(_, came)| !REFUSALS.contains(came)).map(|(name, _)| *name).collect()
}

#[tokio::test]
async fn a_job_that_tries_everything_gets_nowhere_and_nobody_notices() {
    make_image();
    let classes = "[[classes]]\nname = \"default\"\ncpus = 0.5\nmemory = \"128MiB\"\npids = 64\npull = \"never\"";
    let daemon = Setup::new("escape").host("cpus = 2").with(classes).start().await;
    let neighbour = neighbour(&daemon).await;
    let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").expect("a name");
    let probe = daemon.submit(json!({ "image": IMAGE, "command": ["perl", "-e", PROBE, std::env::consts::ARCH] })).await;
    let job = daemon.ended(&probe).await;
    let log = daemon.logs(&probe).await;
    assert_eq!(job["state"], "succeeded", "{job}\n{log}");
    let told = told(&log);
    assert_eq!(got_through(&told), [""; 0], "{log}");
    assert!(told.iter().filter(|(name, _)| name.starts_with("told-")).all(|(_, came)| *came != "DONE"), "of the kernel: {log}");
    assert_eq!(told["devices"], "full,null,random,tty,urandom,zero");
    assert!(told["whoami"].starts_with("65532:65532") && told["root"].starts_with("65532:65532"), "{log}");
    // Beside it there are the first process and ours.
    let forked: u32 = told["forked"].parse().expect("a number");
    assert!(told["fork"] == "11" && (50..64).contains(&forked), "{log}");
    assert_eq!(std::fs::read_to_string("/proc/sys/kernel/hostname").expect("a name"), hostname);
    is_untouched(&daemon, &neighbour).await;
    assert!(daemon.is_healthy().await);
    daemon.finish().await;
}

#[tokio::test]
async fn a_gpu_of_any_vendor_is_no_way_out() {
    make_image();
    let (bench, machine) = (Bench::new().await, Machine::new());
    let image = bench.driver.resolve_image(&ImageRef::from_trusted(IMAGE)).await.expect("answered").expect("there");
    let ways = [
        ("nvidia", nvidia(NvidiaWay::DeviceRequest, &["GPU-aaaa-1"]), "nvidia1"),
        ("amd", machine.grant(&["amd-0000:83:00.0"]), "kfd"),
        ("intel", machine.grant(&["intel-0000:04:00.0"]), ""),
        ("none", DeviceGrant::None, ""),
    ];
    for (way, grant, more) in ways {
        let command = ["perl", "-e", PROBE, std::env::consts::ARCH].map(str::to_owned).to_vec();
        let plan = ContainerPlan { image: image.clone(), command, ..bench.plan("") };
        let (facts, log) = bench.run(&plan, &giving(grant)).await;
        assert_eq!(facts.exit_code, Some(0), "{way}: {log}");
        let told = told(&log);
        // The engine's own first process is one of the same user in the same container; ours, which commands have, cannot be looked into.
        let own = [
            "read-/proc/1/root/etc/hostname",
            "ptrace-first",
            "read-first",
            "read-/proc/1/environ",
            "read-/proc/1/mem",
            "write-/proc/1/mem",
            "write-/proc/1/oom_score_adj",
        ];
        let beyond: Vec<&str> = got_through(&told).into_iter().filter(|name| !own.contains(name)).collect();
        assert_eq!(beyond, [""; 0], "{way}: {log}");
        let devices: Vec<&str> =
            told["devices"].split(',').filter(|name| !["full", "null", "random", "tty", "urandom", "zero"].contains(name)).collect();
        assert_eq!(devices.concat(), more, "{way}: {log}");
    }
    bench.finish().await;
}

/// Each eats what it can get of one thing.
const GLUTTONS: [(&str, &str, &str); 4] = [
    ("memory", "perl", "my $all = ''; $all .= 'x' x 1048576 while 1"),
    (
        "memory of files",
        "perl",
        "my $n = 0; while (1) { open(my $f, '>', '/tmp/' . $n++) or exit 7; print $f 'x' x 1048576 or exit 7; close $f or exit 7 }",
    ),
    ("output", "perl", "print 'x' x 1023, qq(\n) for 1 .. 65536"),
    ("processes", "perl", "while (1) { defined(fork) or exit 8 }"),
];

#[tokio::test]
async fn a_job_that_takes_all_it_can_get_gets_its_share_and_nobody_notices() {
    make_image();
    let classes = "[limits]\nlog_size = \"1MiB\"\n[[classes]]\nname = \"default\"\ncpus = 0.5\nmemory = \"96MiB\"\ntmp_size = \"32MiB\"\npids = 64\npull = \"never\"\nnetwork = \"none\"\ntimeout = \"60s\"";
    let daemon = Setup::new("escape-gluttons").host("cpus = 4").with(classes).start().await;
    let neighbour = neighbour(&daemon).await;
    let mut ends = Vec::new();
    for (what, program, script) in GLUTTONS {
        let id = daemon.submit(json!({ "image": IMAGE, "command": [program, "-e", script] })).await;
        ends.push((what, id));
    }
    let mut came = Vec::new();
    for (what, id) in &ends {
        let job = daemon.ended(id).await;
        came.push((*what, job["state"].clone(), job["reason"].clone(), job["exit_code"].clone()));
        let kept = daemon.logs(id).await.len();
        assert!(kept < 2 << 20, "{what}: {kept} bytes of its log are kept");
    }
    assert_eq!((&came[0].2, &came[1].3, &came[2].1), (&json!("out_of_memory"), &json!(7), &json!("succeeded")), "{came:?}");
    assert!(came[3].3 == json!(8) || came[3].2 == json!("out_of_memory"), "{came:?}");
    is_untouched(&daemon, &neighbour).await;
    daemon.until("it is well", Daemon::is_healthy).await;
    daemon.finish().await;
}
