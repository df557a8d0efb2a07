//! What `check` says of a machine's GPUs, and NVIDIA's cards from the library to the container: the library and the engine's hook are stand-ins.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::gpu_daemon::{Machine, cancel, sees, states};
use crate::harness::{BUSYBOX, Daemon, Setup, engine};

/// A whole card, one that is divided into two parts, and one that is broken.
const NVIDIA: &str = "\
driver 570.86.15
count 3
gpu.0.uuid GPU-5c0f-0
gpu.0.name NVIDIA H100 80GB HBM3
gpu.0.pci 00000000:3B:00.0
gpu.0.minor 0
gpu.0.total 85520809984
gpu.0.compute 9.0
gpu.0.mig 0
gpu.0.ecc 0
gpu.0.temperature 34
gpu.1.uuid GPU-77aa-1
gpu.1.name NVIDIA A100-SXM4-40GB
gpu.1.pci 00000000:5E:00.0
gpu.1.minor 1
gpu.1.total 42949672960
gpu.1.compute 8.0
gpu.1.mig 1
gpu.1.ecc 0
gpu.1.temperature 41
mig.1.0.uuid MIG-1f2e-2
mig.1.0.name NVIDIA A100-SXM4-40GB MIG 3g.20gb
mig.1.0.total 20937965568
mig.1.0.ecc 0
mig.1.1.uuid MIG-93bd-3
mig.1.1.name NVIDIA A100-SXM4-40GB MIG 3g.20gb
mig.1.1.total 20937965568
mig.1.1.ecc 0
gpu.2.uuid GPU-dead-9
gpu.2.name NVIDIA A100-SXM4-40GB
gpu.2.pci 00000000:86:00.0
gpu.2.minor 2
gpu.2.total 42949672960
gpu.2.compute 8.0
gpu.2.mig 0
gpu.2.ecc 3
";

/// Puts a toolkit of a version on a machine: a program that tells it.
fn toolkit(machine: &Machine, version: &str) {
    let fresh = machine.root().join("fresh");
    std::fs::write(&fresh, format!("#!/bin/sh\necho NVIDIA Container Toolkit CLI version {version}\n")).expect("written");
    // Written by another process: what other tests start meanwhile would inherit this one's file, open for writing ("text file busy").
    let program = machine.root().join("program");
    let put = Command::new("install").args(["-m", "755"]).args([&fresh, &program]).status();
    assert!(put.expect("install is there").success(), "nvidia-ctk is not put there");
    std::fs::rename(&program, machine.root().join("nvidia-ctk")).expect("put there");
}

/// A machine whose NVIDIA library says `state`.
fn with_nvidia(state: &str) -> Machine {
    let machine = Machine::bare();
    machine.file("none.so.state", state);
    toolkit(&machine, "1.18.0");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/gpu/nvml.c");
    let built = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(machine.root().join("none.so")).arg(source).status();
    assert!(built.expect("cc is there").success(), "the stand-in for NVML does not compile");
    machine
}

fn with_intel() -> Machine {
    let machine = Machine::bare();
    for (address, device, driver, render, memory) in
        [("0000:00:02.0", "0x4680", "i915", 128, None), ("0000:03:00.0", "0x56a0", "xe", 129, Some("tile0/physical_vram_size_bytes"))]
    {
        let place = format!("sys/devices/pci0000:00/{address}");
        for (name, text) in [("vendor", "0x8086"), ("device", device), ("class", "0x030000"), ("numa_node", "0")] {
            machine.file(&format!("{place}/{name}"), &format!("{text}\n"));
        }
        if let Some(memory) = memory {
            machine.file(&format!("{place}/{memory}"), "17179869184\n");
        }
        machine.file(&format!("sys/bus/pci/drivers/{driver}/bind"), "");
        machine.link(&format!("{place}/driver"), &format!("sys/bus/pci/drivers/{driver}"));
        machine.link(&format!("sys/bus/pci/devices/{address}"), &place);
        machine.file(&format!("{place}/drm/renderD{render}/dev"), &format!("226:{render}\n"));
        machine.link(&format!("{place}/drm/renderD{render}/device"), &place);
        machine.link(&format!("sys/class/drm/renderD{render}"), &format!("{place}/drm/renderD{render}"));
        machine.node(&format!("dri/renderD{render}"), "11");
    }
    machine
}

/// The lines of `check` about devices, with the machine's own directory left out.
fn check(machine: &Machine) -> String {
    let data = tempfile::tempdir().expect("a directory");
    let file = data.path().join("config.toml");
    let config = format!("data_dir = \"{}\"\n[docker]\nhost = {:?}\n{}", data.path().display(), engine::host(), machine.settings());
    std::fs::write(&file, config).expect("a configuration");
    let output = Command::new(env!("CARGO_BIN_EXE_runner-coordinator")).arg("--config").arg(&file).arg("check").output().expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout).replace(&machine.root().display().to_string(), "");
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let before = text.find("receipts: ").and_then(|at| text[at..].find('\n').map(|end| at + end + 1)).expect("the line about receipts");
    let after = text.find("ok    class ").expect("a line about a class");
    text[before..after].to_owned()
}

#[test]
fn check_tells_of_each_machine_what_a_person_wants_to_know() {
    for (name, machine) in
        [("no_gpu", Machine::bare()), ("nvidia_with_mig", with_nvidia(NVIDIA)), ("amd_two_cards", Machine::new()), ("intel", with_intel())]
    {
        insta::assert_snapshot!(name, check(&machine));
    }
}

fn job(gpus: &Value) -> Value {
    let script = "ls /dev; cat /run/nvidia/gpus; while true; do sleep 0.1; done";
    json!({ "image": BUSYBOX, "command": ["sh", "-c", script], "memory": "64MiB", "cpus": 0.5, "gpus": gpus })
}

/// What the engine's hook was told to make visible in the only container of this daemon.
fn hook_saw(name: &str) -> String {
    let filter = format!("label=runner-coordinator.host={name}");
    let container = engine::docker(&["ps", "--quiet", "--no-trunc", "--filter", &filter]);
    let records = std::env::vars().find(|(name, _)| name == "RC_NVIDIA_RECORDS").map(|(_, value)| value).expect("RC_NVIDIA_RECORDS");
    let record = std::fs::read_to_string(Path::new(&records).join(container.trim())).expect("the hook was called");
    let visible: Vec<&str> = record.lines().filter_map(|line| line.strip_prefix("NVIDIA_VISIBLE_DEVICES=")).collect();
    assert!(!visible.is_empty() && visible.iter().all(|value| *value == visible[0]), "{record}");
    visible[0].to_owned()
}

#[tokio::test]
async fn nvidia_cards_go_from_the_library_to_the_container_by_name() {
    let machine = with_nvidia(NVIDIA);
    let daemon = Setup::new("gpu-nvidia").with(&machine.settings()).start().await;
    daemon.until("it is healthy", Daemon::is_healthy).await;
    let hosts = daemon.get("/hosts").await;
    let devices = hosts["hosts"][0]["gpus"]["devices"].as_array().expect("devices").clone();
    let shown: Vec<(&str, &str)> = devices.iter().map(|gpu| (gpu["id"].as_str().expect("an id"), gpu["state"].as_str().expect("a state"))).collect();
    insta::assert_debug_snapshot!("nvidia_on_the_host", shown);
    for (gpus, granted) in [
        (json!({ "count": 1, "vendor": "nvidia" }), vec!["GPU-5c0f-0"]),
        (json!({ "count": 2, "vendor": "nvidia", "mig_profile": "3g.20gb" }), vec!["MIG-1f2e-2", "MIG-93bd-3"]),
    ] {
        let id = daemon.submit(job(&gpus)).await;
        let inside = sees(&daemon, &id).await;
        assert_eq!(hook_saw("gpu-nvidia"), granted.join(","), "{inside}");
        let numbered: Vec<String> = granted.iter().enumerate().map(|(number, uuid)| format!("{number} {uuid}")).collect();
        assert!(inside.ends_with(&numbered.join("\n")), "{inside}");
        assert_eq!(daemon.job(&id).await["devices"], json!(granted));
        assert_eq!(states(&daemon).await.iter().filter(|state| *state == "in_use").count(), granted.len());
        cancel(&daemon, &id).await;
    }
    daemon.finish().await;
}

#[tokio::test]
async fn no_card_is_given_through_a_toolkit_with_known_faults_until_it_is_updated() {
    let machine = with_nvidia(NVIDIA);
    toolkit(&machine, "1.17.7");
    insta::assert_snapshot!("nvidia_with_an_old_toolkit", check(&machine));
    let daemon = Setup::new("gpu-toolkit").with(&machine.settings()).start().await;
    daemon.until("it is healthy", Daemon::is_healthy).await;
    let gpus = daemon.get("/health").await["checks"]["gpus"].clone();
    assert!(gpus["detail"].as_str().is_some_and(|detail| detail.contains("container toolkit: 1.17.7 is older than 1.17.8")), "{gpus}");
    let id = daemon.submit(job(&json!({ "count": 1, "vendor": "nvidia" }))).await;
    let said = daemon.get(&format!("/jobs/{id}/explain")).await;
    assert_eq!((&said["state"], &said["waits_for"]), (&json!("queued"), &json!("no_room")), "{said}");
    let unusable = said["hosts"][0]["missing"][0]["unusable"].to_string();
    assert!(unusable.contains("CVE-2025-23266"), "{said}");
    toolkit(&machine, "1.17.8");
    sees(&daemon, &id).await;
    cancel(&daemon, &id).await;
    daemon.finish().await;
}
