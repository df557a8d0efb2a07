//! What a container is given of GPUs, read from inside on a real engine. Stand-ins: NVIDIA's hook (`tests/gpu/bin`), NVIDIA's description of
//! its devices (`tests/gpu/cdi`), and for AMD and Intel files of other devices under the names of theirs.

use std::collections::BTreeSet;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use runner_coordinator::docker::devices::{OwnedDevices, nvidia_way, owned_devices};
use runner_coordinator::docker::{ContainerFacts, ContainerPlan, ContainerState, Driver as _, judge};
use runner_coordinator::domain::{DeviceNode, EndReason, Gpu, GpuHealth, GpuId, GpuRole, GpuVendor, ImageRef, Reading};
use runner_coordinator::security::{DeviceGrant, GrantedGpu, GrantedNode, HardenedProfile, NvidiaWay, ProfileRequest, SecurityManager};

use crate::bench::{Bench, profile, request};
use crate::harness::engine;

/// The groups of the stand-in's `/dev/kfd` and render nodes; unlikely to be anybody's here.
const KFD_GROUP: u32 = 61_105;
const RENDER_GROUP: u32 = 61_044;
/// Tells what is in there: files, variables, groups, and whether anything of the hardening went.
const LOOK: &str = "find /dev ! -type d | sed 's/^/file=/'; env | sed 's/^/env=/'; echo groups=$(id -G); \
    cat /run/nvidia/gpus 2>/dev/null | sed 's/^/gpu=/'; grep -E '^(Seccomp|CapBnd|CapEff|NoNewPrivs):' /proc/self/status | tr -d '\\t'";

pub(crate) fn giving(devices: DeviceGrant) -> HardenedProfile {
    SecurityManager::harden(ProfileRequest { devices, ..request() }).expect("a profile")
}

pub(crate) fn nvidia(way: NvidiaWay, ids: &[&str]) -> DeviceGrant {
    DeviceGrant::Nvidia { way, gpus: ids.iter().map(|id| GpuId::from_trusted(*id)).collect() }
}

/// A job in an image that asks for every GPU and more.
async fn greedy(bench: &Bench, script: &str) -> ContainerPlan {
    let image = bench.driver.resolve_image(&ImageRef::from_trusted("rc-test/cuda:1")).await.expect("the engine answers");
    ContainerPlan { image: image.expect("the image rc-test/cuda:1"), ..bench.plan(script) }
}

/// The values behind `name` in the container's words.
fn told<'a>(out: &'a str, name: &str) -> BTreeSet<&'a str> {
    out.lines().filter_map(|line| line.strip_prefix(name)).collect()
}

/// The container's variables of this name; all of them, for a program sees the first and a hook the last.
fn variable<'a>(out: &'a str, name: &str) -> Vec<&'a str> {
    out.lines().filter_map(|line| line.strip_prefix("env=")?.strip_prefix(name)?.strip_prefix('=')).collect()
}

/// The files that a container without any GPU does not have.
async fn files_beyond(bench: &Bench, out: &str) -> Vec<String> {
    let (_, plain) = bench.run(&bench.plan(LOOK), &profile()).await;
    let plain = told(&plain, "file=");
    assert!(plain.contains("/dev/null"), "{plain:?}");
    told(out, "file=").into_iter().filter(|file| !plain.contains(file)).map(str::to_owned).collect()
}

fn is_hardened(out: &str) {
    for line in ["CapBnd:0000000000000000", "CapEff:0000000000000000", "NoNewPrivs:1", "Seccomp:2"] {
        assert!(out.lines().any(|found| found == line), "{line} is missing in {out}");
    }
}

/// What the stand-in for NVIDIA's hook saw of a container's environment; `None` when it was not called.
fn record(container: &str) -> Option<String> {
    let directory = std::env::vars().find(|(name, _)| name == "RC_NVIDIA_RECORDS").map(|(_, value)| value).expect("RC_NVIDIA_RECORDS");
    std::fs::read_to_string(Path::new(&directory).join(container)).ok()
}

fn agreed(facts: &ContainerFacts, machine: &[Gpu], ids: &[&str]) {
    let expected = ids.iter().map(|id| GpuId::from_trusted(*id)).collect();
    assert_eq!(owned_devices(facts, machine), OwnedDevices::Agreed(expected), "{facts:?}");
}

#[tokio::test]
async fn nvidia_cards_are_given_by_name_and_no_others() {
    let bench = Bench::new().await;
    let ids = ["GPU-aaaa-1", "MIG-bbbb-3"];
    let (facts, out) = bench.run(&greedy(&bench, LOOK).await, &giving(nvidia(NvidiaWay::DeviceRequest, &ids))).await;
    assert_eq!(facts.exit_code, Some(0), "{out}");
    assert_eq!(files_beyond(&bench, &out).await, ["/dev/nvidia1", "/dev/nvidia3"]);
    assert_eq!(told(&out, "gpu="), BTreeSet::from(["0 GPU-aaaa-1", "1 MIG-bbbb-3"]));
    assert!(variable(&out, "NVIDIA_VISIBLE_DEVICES").iter().all(|value| *value == "GPU-aaaa-1,MIG-bbbb-3"), "{out}");
    assert_eq!((variable(&out, "LD_PRELOAD"), variable(&out, "OTHER_VISIBLE_DEVICES")), (vec![""], vec![""]));
    assert_eq!((variable(&out, "CUDA_VISIBLE_DEVICES"), variable(&out, "HIP_VISIBLE_DEVICES")), (vec!["0,1"], vec!["0,1"]));
    assert_eq!(told(&out, "groups="), BTreeSet::from(["65532"]));
    is_hardened(&out);
    let seen = record(&facts.id).expect("the hook was called");
    assert!(!seen.contains("=all") && !seen.contains("evil"), "{seen}");
    assert!(seen.lines().any(|line| line == "NVIDIA_DRIVER_CAPABILITIES=compute,utility"), "{seen}");
    agreed(&facts, &[], &ids);
    bench.finish().await;
}

#[tokio::test]
async fn an_image_that_asks_for_every_gpu_gets_none() {
    let bench = Bench::new().await;
    for runtime in ["runc", "nvidia"] {
        let profile = SecurityManager::harden(ProfileRequest { runtime: runtime.to_owned(), ..request() }).expect("a profile");
        let (facts, out) = bench.run(&greedy(&bench, LOOK).await, &profile).await;
        assert_eq!((facts.exit_code, record(&facts.id)), (Some(0), None), "{out}");
        assert_eq!(files_beyond(&bench, &out).await, Vec::<String>::new());
        assert_eq!((variable(&out, "NVIDIA_VISIBLE_DEVICES"), variable(&out, "LD_PRELOAD")), (vec!["void"], vec![""]));
        assert_eq!((variable(&out, "CUDA_VISIBLE_DEVICES"), told(&out, "gpu=")), (vec![""], BTreeSet::new()));
        agreed(&facts, &[], &[]);
    }
    bench.finish().await;
}

#[tokio::test]
async fn a_card_that_is_lost_fails_the_start_with_the_hooks_words() {
    let bench = Bench::new().await;
    let id = bench.driver.create(&bench.plan("true"), &giving(nvidia(NvidiaWay::DeviceRequest, &["GPU-lost-0"]))).await.expect("created");
    let refused = bench.driver.start(&id).await.expect_err("the hook refuses");
    assert!(format!("{refused:?}").contains("GPU is lost"), "{refused:?}");
    let facts = bench.driver.inspect(&id).await.expect("inspected").expect("there");
    assert_eq!((&facts.state, judge(Some(&facts), None).reason()), (&ContainerState::Created, Some(EndReason::StartFailed)));
    agreed(&facts, &[], &["GPU-lost-0"]);
    bench.finish().await;
}

/// Run by `make test-engines`: the engine of `make test` knows no devices by name.
#[tokio::test]
#[ignore = "needs an engine from version 25 on: make test-engines"]
async fn nvidia_cards_are_given_by_cdi_and_no_others() {
    let bench = Bench::new().await;
    let engine = bench.driver.info().await.expect("answered");
    // Engines before 28 know devices by name and do not tell which.
    let told = engine.version.split('.').next().and_then(|major| major.parse::<u32>().ok()).is_some_and(|major| major >= 28);
    let expected = if told { NvidiaWay::Cdi } else { NvidiaWay::DeviceRequest };
    assert_eq!(nvidia_way(&engine, &[GpuId::from_trusted("GPU-cdi-1")]), Ok(expected), "{engine:?}");
    let grant = nvidia(NvidiaWay::Cdi, &["GPU-cdi-1"]);
    let (facts, out) = bench.run(&greedy(&bench, LOOK).await, &giving(grant)).await;
    assert_eq!(facts.exit_code, Some(0), "{out}");
    assert_eq!(files_beyond(&bench, &out).await, ["/dev/nvidia1"]);
    assert_eq!((variable(&out, "STAND_IN_GPU_1"), variable(&out, "STAND_IN_GPU_0")), (vec!["GPU-cdi-1"], vec![]));
    assert!(variable(&out, "NVIDIA_VISIBLE_DEVICES").iter().all(|value| *value == "void"), "{out}");
    assert_eq!((variable(&out, "LD_PRELOAD"), variable(&out, "CUDA_VISIBLE_DEVICES")), (vec![""], vec!["0"]));
    is_hardened(&out);
    assert_eq!(record(&facts.id), None, "the hook gave it again");
    agreed(&facts, &[], &["GPU-cdi-1"]);
    let id = bench.driver.create(&bench.plan("true"), &giving(nvidia(NvidiaWay::Cdi, &["GPU-cdi-9"]))).await.expect("created");
    let refused = bench.driver.start(&id).await.expect_err("there is none such");
    assert!(format!("{refused:?}").contains("GPU-cdi-9"), "{refused:?}");
    bench.finish().await;
}

/// A `/dev` with two of AMD's cards and one of Intel's. The render nodes are other names for the kernel's log, which a container may open
/// only when it was given it, and for writing only.
pub(crate) struct Machine {
    _directory: tempfile::TempDir,
    dev: PathBuf,
}

impl Machine {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let dev = directory.path().join("dev");
        std::fs::create_dir_all(dev.join("dri")).expect("directories");
        let machine = Self { _directory: directory, dev };
        machine.node("kfd", "5", KFD_GROUP);
        for name in ["dri/renderD128", "dri/renderD129", "dri/renderD130", "dri/card0", "dri/card1"] {
            machine.node(name, "11", RENDER_GROUP);
        }
        machine
    }

    fn node(&self, name: &str, minor: &str, group: u32) {
        let path = self.dev.join(name);
        let made = Command::new("mknod").arg(&path).args(["c", "1", minor]).status().expect("mknod");
        assert!(made.success(), "mknod needs root");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o660)).expect("a mode");
        chown(&path, Some(0), Some(group)).expect("a group");
    }

    fn gpu(&self, id: &str, vendor: GpuVendor, nodes: &[(&str, u32)]) -> Gpu {
        let node = |(name, group): &(&str, u32)| DeviceNode {
            path: format!("/dev/{name}"),
            host_path: self.dev.join(name).display().to_string(),
            group: Reading::Known(*group),
        };
        Gpu {
            id: GpuId::from_trusted(id),
            vendor,
            index: 0,
            pci: Reading::NotSupported,
            model: Reading::NotSupported,
            memory: Reading::NotSupported,
            compute: Reading::NotSupported,
            driver: Reading::NotSupported,
            numa_node: Reading::NotSupported,
            wiring: runner_coordinator::domain::Wiring::default(),
            sharing: runner_coordinator::domain::Sharing::Exclusive,
            nodes: nodes.iter().map(node).collect(),
            role: GpuRole::Card,
            health: GpuHealth::Healthy,
        }
    }

    fn gpus(&self) -> Vec<Gpu> {
        let amd = |id, render| self.gpu(id, GpuVendor::Amd, &[("kfd", KFD_GROUP), (render, RENDER_GROUP)]);
        let intel = self.gpu("intel-0000:04:00.0", GpuVendor::Intel, &[("dri/renderD130", RENDER_GROUP)]);
        vec![amd("amd-0000:03:00.0", "dri/renderD128"), amd("amd-0000:83:00.0", "dri/renderD129"), intel]
    }

    pub(crate) fn grant(&self, ids: &[&str]) -> DeviceGrant {
        let node = |node: &DeviceNode| GrantedNode {
            host_path: node.host_path.clone(),
            path: node.path.clone(),
            group: node.group.known().copied().expect("a group"),
        };
        let of = |id: &&str| {
            let gpu = self.gpus().into_iter().find(|gpu| gpu.id.as_str() == *id).expect("one of ours");
            GrantedGpu { gpu: gpu.id, nodes: gpu.nodes.iter().map(node).collect() }
        };
        DeviceGrant::Nodes(ids.iter().map(of).collect())
    }
}

/// Opens what is there: render nodes for writing only, as the kernel's log wants it.
fn opening() -> String {
    format!("{LOOK}; for node in /dev/dri/*; do (: >$node) 2>&1 && echo opened=${{node##*/}}; done; head -c 3 /dev/kfd | wc -c | sed 's/^/kfd=/'")
}

#[tokio::test]
async fn a_card_of_amd_is_its_render_node_the_shared_file_and_their_groups() {
    let (bench, machine) = (Bench::new().await, Machine::new());
    let ids = ["amd-0000:83:00.0"];
    let (facts, out) = bench.run(&greedy(&bench, &opening()).await, &giving(machine.grant(&ids))).await;
    assert_eq!(facts.exit_code, Some(0), "{out}");
    assert_eq!(files_beyond(&bench, &out).await, ["/dev/dri/renderD129", "/dev/kfd"]);
    assert_eq!((told(&out, "opened="), told(&out, "kfd=")), (BTreeSet::from(["renderD129"]), BTreeSet::from(["3"])), "{out}");
    assert_eq!(told(&out, "groups="), BTreeSet::from(["65532 61044 61105"]));
    assert_eq!((variable(&out, "HIP_VISIBLE_DEVICES"), variable(&out, "NVIDIA_VISIBLE_DEVICES")), (vec!["0"], vec!["void"]));
    is_hardened(&out);
    agreed(&facts, &machine.gpus(), &ids);
    let both = ["amd-0000:83:00.0", "amd-0000:03:00.0"];
    let (facts, out) = bench.run(&bench.plan(&opening()), &giving(machine.grant(&both))).await;
    assert_eq!(files_beyond(&bench, &out).await, ["/dev/dri/renderD128", "/dev/dri/renderD129", "/dev/kfd"]);
    assert_eq!(told(&out, "opened="), BTreeSet::from(["renderD128", "renderD129"]), "{out}");
    agreed(&facts, &machine.gpus(), &both);
    bench.finish().await;
}

#[tokio::test]
async fn a_card_of_intel_is_its_render_node_and_its_group() {
    let (bench, machine) = (Bench::new().await, Machine::new());
    let ids = ["intel-0000:04:00.0"];
    let (facts, out) = bench.run(&bench.plan(&opening()), &giving(machine.grant(&ids))).await;
    assert_eq!(files_beyond(&bench, &out).await, ["/dev/dri/renderD130"]);
    assert_eq!((told(&out, "opened="), told(&out, "groups=")), (BTreeSet::from(["renderD130"]), BTreeSet::from(["65532 61044"])), "{out}");
    is_hardened(&out);
    agreed(&facts, &machine.gpus(), &ids);
    bench.finish().await;
}

#[tokio::test]
async fn the_group_is_what_opens_a_node() {
    let (bench, machine) = (Bench::new().await, Machine::new());
    let DeviceGrant::Nodes(mut gpus) = machine.grant(&["intel-0000:04:00.0"]) else { panic!("nodes") };
    gpus[0].nodes[0].group = RENDER_GROUP + 1;
    let (_, out) = bench.run(&bench.plan(&opening()), &giving(DeviceGrant::Nodes(gpus))).await;
    assert_eq!(told(&out, "opened="), BTreeSet::new(), "{out}");
    assert!(out.contains("Permission denied"), "{out}");
    bench.finish().await;
}

#[tokio::test]
async fn a_container_with_other_devices_than_its_label_says_is_told() {
    let (bench, machine) = (Bench::new().await, Machine::new());
    let instance = format!("runner-coordinator.instance={}", bench.instance);
    let device = format!("{}:/dev/dri/renderD128", machine.dev.join("dri/renderD128").display());
    let label = "runner-coordinator.devices=amd-0000:83:00.0";
    let id = engine::docker(&["create", "--label", &instance, "--label", label, "--device", &device, "--device", "/dev/full", "rc-test/busybox:1"]);
    let facts = bench.driver.inspect(id.trim()).await.expect("inspected").expect("there");
    let one = |id: &str| BTreeSet::from([GpuId::from_trusted(id)]);
    let (label, given) = (one("amd-0000:83:00.0"), one("amd-0000:03:00.0"));
    let differ = OwnedDevices::Differ { label: label.clone(), given: given.clone(), strange: vec!["/dev/full".to_owned()] };
    assert_eq!(owned_devices(&facts, &machine.gpus()), differ);
    assert_eq!(differ.held(), &label | &given);
    bench.finish().await;
}
