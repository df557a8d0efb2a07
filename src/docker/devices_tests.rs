//! Tests of devices: see `devices.rs`. What a grant becomes in the create body stands in its snapshots.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::docker::facts::ContainerState;
use crate::docker::fixture;
use crate::domain::{DeviceNode, GpuHealth, GpuRole, Reading};

fn engine(runtimes: &[&str], cdi: &[&str]) -> EngineInfo {
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    EngineInfo { runtimes: owned(runtimes), cdi_devices: owned(cdi), ..fixture::engine() }
}

fn ids(names: &[&str]) -> Vec<GpuId> {
    names.iter().map(|name| GpuId::from_trusted(*name)).collect()
}

fn set(names: &[&str]) -> BTreeSet<GpuId> {
    ids(names).into_iter().collect()
}

fn gpu(id: &str, vendor: GpuVendor, nodes: &[&str]) -> Gpu {
    let node = |path: &&str| DeviceNode { path: (*path).to_owned(), host_path: format!("/host{path}"), group: Reading::Known(105) };
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
        wiring: crate::domain::Wiring::default(),
        sharing: crate::domain::Sharing::Exclusive,
        nodes: nodes.iter().map(node).collect(),
        role: GpuRole::Card,
        health: GpuHealth::Healthy,
    }
}

fn machine() -> Vec<Gpu> {
    vec![
        gpu("GPU-1", GpuVendor::Nvidia, &[]),
        gpu("GPU-2", GpuVendor::Nvidia, &[]),
        gpu("amd-1", GpuVendor::Amd, &["/dev/kfd", "/dev/dri/renderD128"]),
        gpu("amd-2", GpuVendor::Amd, &["/dev/kfd", "/dev/dri/renderD129"]),
        gpu("intel-1", GpuVendor::Intel, &["/dev/dri/renderD1"]),
    ]
}

/// A container with this label, made with this `HostConfig`.
fn container(label: &[&str], host_config: Option<serde_json::Value>) -> ContainerFacts {
    let wire = |value| serde_json::from_value::<WireDevices>(value).expect("readable").into_given();
    ContainerFacts {
        id: "c".to_owned(),
        name: "rc-1".to_owned(),
        owner: None,
        devices: ids(label),
        given: host_config.map(wire),
        state: ContainerState::Exited,
        exit_code: None,
        oom_killed: None,
        error: String::new(),
        started_at: None,
        finished_at: None,
    }
}

fn owned(label: &[&str], host_config: serde_json::Value) -> OwnedDevices {
    owned_devices(&container(label, Some(host_config)), &machine())
}

fn nodes(paths: &[&str]) -> serde_json::Value {
    let node = |path: &&str| json!({"PathOnHost": path, "PathInContainer": "/dev/x", "CgroupPermissions": "rw"});
    json!({"Devices": paths.iter().map(node).collect::<Vec<_>>(), "DeviceRequests": null})
}

#[test]
fn cards_that_the_engine_knows_by_name_are_given_by_name() {
    let two = ["nvidia.com/gpu=GPU-1", "nvidia.com/gpu=MIG-2", "nvidia.com/gpu=all"];
    let way = |runtimes: &[&str], cdi: &[&str]| nvidia_way(&engine(runtimes, cdi), &ids(&["GPU-1", "MIG-2"]));
    assert_eq!(way(&["nvidia", "runc"], &two), Ok(NvidiaWay::Cdi));
    assert_eq!(way(&["runc"], &two), Ok(NvidiaWay::Cdi));
    assert_eq!(way(&["nvidia", "runc"], &two[..1]), Ok(NvidiaWay::DeviceRequest));
    assert_eq!(way(&["nvidia"], &["nvidia.com/gpu=0", "nvidia.com/gpu=all"]), Ok(NvidiaWay::DeviceRequest));
    let refused = way(&["runc"], &two[..1]).expect_err("no way");
    assert_eq!(refused.gpu.as_str(), "MIG-2");
    insta::assert_snapshot!(refused);
}

#[test]
fn a_container_holds_what_its_label_and_its_devices_agree_on() {
    let request =
        |driver: &str, ids: &[&str]| json!({"DeviceRequests": [{"Driver": driver, "Count": 0, "DeviceIDs": ids, "Capabilities": [["gpu"]]}]});
    assert_eq!(owned(&[], json!({"Devices": [], "DeviceRequests": null})), OwnedDevices::Agreed(set(&[])));
    assert_eq!(owned(&["GPU-2", "GPU-1"], request("nvidia", &["GPU-1", "GPU-2"])), OwnedDevices::Agreed(set(&["GPU-1", "GPU-2"])));
    assert_eq!(owned(&["MIG-3"], request("cdi", &["nvidia.com/gpu=MIG-3"])), OwnedDevices::Agreed(set(&["MIG-3"])));
    assert_eq!(owned(&["amd-2"], nodes(&["/host/dev/kfd", "/host/dev/dri/renderD129"])), OwnedDevices::Agreed(set(&["amd-2"])));
    assert_eq!(owned(&["intel-1"], nodes(&["/host/dev/dri/renderD1"])), OwnedDevices::Agreed(set(&["intel-1"])));
    // A list tells only labels.
    assert_eq!(owned_devices(&container(&["GPU-1"], None), &machine()), OwnedDevices::Agreed(set(&["GPU-1"])));
}

#[test]
fn a_container_that_was_given_other_than_its_label_says_is_told() {
    let differ = |label: &[&str], host_config| match owned(label, host_config) {
        OwnedDevices::Agreed(gpus) => panic!("agreed on {gpus:?}"),
        OwnedDevices::Differ { given, strange, .. } => (given, strange.len()),
    };
    let request =
        |driver: &str, count: i64, ids: serde_json::Value| json!({"DeviceRequests": [{"Driver": driver, "Count": count, "DeviceIDs": ids}]});
    assert_eq!(differ(&["GPU-1"], json!({})), (set(&[]), 0));
    assert_eq!(differ(&[], request("nvidia", 0, json!(["GPU-1"]))), (set(&["GPU-1"]), 0));
    // What names no card may be any of them.
    assert_eq!(differ(&["GPU-1"], request("nvidia", -1, json!(null))), (set(&["GPU-1", "GPU-2"]), 1));
    assert_eq!(differ(&["GPU-1"], request("", 1, json!([]))), (set(&["GPU-1", "GPU-2"]), 1));
    assert_eq!(differ(&["GPU-1"], request("cdi", 0, json!(["nvidia.com/gpu=all"]))), (set(&["GPU-1", "GPU-2"]), 1));
    assert_eq!(differ(&["GPU-1"], request("cdi", 0, json!(["nvidia.com/gpu=0", "nvidia.com/gpu=GPU-1"]))), (set(&["GPU-1", "GPU-2"]), 1));
    // A directory gives every file below it; a file that is no GPU's is told too.
    assert_eq!(differ(&["amd-1"], nodes(&["/host/dev/dri"])), (set(&["amd-1", "amd-2", "intel-1"]), 0));
    assert_eq!(differ(&["amd-1"], nodes(&["/host/dev/dri/renderD128", "/dev/sda"])), (set(&["amd-1"]), 1));
    assert_eq!(differ(&["amd-1"], nodes(&["/host/dev/kfd"])), (set(&[]), 0));
    let held = owned(&["amd-1"], nodes(&["/host/dev/dri/renderD129"])).held();
    assert_eq!(held, set(&["amd-1", "amd-2"]));
}

proptest! {
    /// Whatever a grant gives is read back from the body that it became.
    #[test]
    fn what_is_given_is_read_back(way in prop_oneof![Just(Some(NvidiaWay::Cdi)), Just(Some(NvidiaWay::DeviceRequest)), Just(None)], chosen in proptest::sample::subsequence(vec![0_usize, 1], 0..=2)) {
        let machine = machine();
        let picked: Vec<&Gpu> = chosen.iter().map(|n| &machine[n + if way.is_some() { 0 } else { 2 }]).collect();
        let label: Vec<GpuId> = picked.iter().map(|gpu| gpu.id.clone()).collect();
        let node = |node: &DeviceNode| GrantedNode { host_path: node.host_path.clone(), path: node.path.clone(), group: 1 };
        let card = |gpu: &&Gpu| crate::security::GrantedGpu { gpu: gpu.id.clone(), nodes: gpu.nodes.iter().map(node).collect() };
        let grant = match way {
            _ if picked.is_empty() => DeviceGrant::None,
            Some(way) => DeviceGrant::Nvidia { way, gpus: label.clone() },
            None => DeviceGrant::Nodes(picked.iter().map(card).collect()),
        };
        let Openings { requests, nodes, .. } = openings(&grant);
        let host_config = json!({ "Devices": nodes, "DeviceRequests": requests });
        let facts = ContainerFacts { devices: label.clone(), ..container(&[], Some(host_config)) };
        prop_assert_eq!(owned_devices(&facts, &machine), OwnedDevices::Agreed(label.into_iter().collect()));
    }
}
