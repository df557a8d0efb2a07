//! Tests of the grant: see `grant.rs`.

use super::*;
use crate::docker::fixture;
use crate::domain::DeviceNode;
use crate::platform::devices::fixture::card;
use crate::security::NvidiaWay;

fn engine() -> EngineInfo {
    EngineInfo {
        version: "20.10.24".to_owned(),
        api: "1.41".to_owned(),
        runtimes: ["nvidia", "runc"].map(str::to_owned).to_vec(),
        ..fixture::engine()
    }
}

fn node(path: &str, group: Reading<u32>) -> DeviceNode {
    DeviceNode { path: path.to_owned(), host_path: format!("/host{path}"), group }
}

fn machine() -> Vec<Gpu> {
    let amd = |id: &str, render: &str, group| Gpu {
        vendor: GpuVendor::Amd,
        nodes: vec![node("/dev/kfd", Reading::Known(105)), node(render, group)],
        ..card(id)
    };
    vec![
        card("GPU-1"),
        card("GPU-2"),
        amd("amd-1", "/dev/dri/renderD128", Reading::Known(44)),
        amd("amd-2", "/dev/dri/renderD129", Reading::Unreadable("no such file".to_owned())),
        Gpu { vendor: GpuVendor::Intel, nodes: vec![node("/dev/dri/renderD130", Reading::Known(105))], ..card("intel-1") },
    ]
}

fn of(names: &[&str]) -> Result<DeviceGrant, CannotGrant> {
    grant(&machine(), &engine(), &names.iter().map(|name| GpuId::from_trusted(*name)).collect::<Vec<_>>())
}

#[test]
fn cards_are_given_in_the_order_of_the_placement() {
    assert_eq!(of(&[]), Ok(DeviceGrant::None));
    let gpus = ["GPU-2", "GPU-1"].map(GpuId::from_trusted).to_vec();
    assert_eq!(of(&["GPU-2", "GPU-1"]), Ok(DeviceGrant::Nvidia { way: NvidiaWay::DeviceRequest, gpus }));
    let given = |path: &str, group| GrantedNode { host_path: format!("/host{path}"), path: path.to_owned(), group };
    let amd = GrantedGpu { gpu: GpuId::from_trusted("amd-1"), nodes: vec![given("/dev/kfd", 105), given("/dev/dri/renderD128", 44)] };
    assert_eq!(of(&["amd-1"]), Ok(DeviceGrant::Nodes(vec![amd])));
    let intel = GrantedGpu { gpu: GpuId::from_trusted("intel-1"), nodes: vec![given("/dev/dri/renderD130", 105)] };
    assert_eq!(of(&["intel-1"]), Ok(DeviceGrant::Nodes(vec![intel])));
}

#[test]
fn what_cannot_be_given_is_told() {
    let why = |names: &[&str]| of(names).expect_err("refused").to_string();
    assert_eq!(why(&["GPU-1", "GPU-9"]), "the GPU GPU-9 is not on this machine any more");
    assert_eq!(why(&["GPU-1", "intel-1"]), "the GPUs GPU-1 and intel-1 are of two vendors");
    assert_eq!(why(&["amd-1", "intel-1"]), "the GPUs amd-1 and intel-1 are of two vendors");
    assert_eq!(why(&["amd-2"]), "/host/dev/dri/renderD129 of the GPU amd-2 cannot be given: no such file");
    let bare = EngineInfo { runtimes: vec!["runc".to_owned()], ..engine() };
    let refused = grant(&machine(), &bare, &[GpuId::from_trusted("GPU-1")]).expect_err("refused");
    assert!(matches!(refused, CannotGrant::Engine(_)) && refused.to_string().starts_with("this engine cannot give NVIDIA GPUs"), "{refused}");
}
