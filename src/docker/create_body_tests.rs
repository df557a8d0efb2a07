//! Tests of the create body: see `create_body.rs`. The snapshots are the contract with the engine: review every change of them.

use proptest::prelude::*;

use super::*;
use crate::docker::plan::{Owner, ResolvedImage};
use crate::domain::{Arch, ClassName, GpuId, HostId, ImageRef, JobId, RunnerId};
use crate::security::{CallFilter, DeviceGrant, GrantedGpu, GrantedNode, NvidiaWay, ProfileRequest, ProofFiles, TmpfsMount};

fn plan() -> ContainerPlan {
    ContainerPlan {
        name: "rc-job1-1".to_owned(),
        owner: Owner {
            instance: "instance1".to_owned(),
            host: HostId::from_trusted("box1"),
            runner: RunnerId::from_trusted("runner1"),
            class: ClassName::from_trusted("default"),
            job: Some((JobId::from_trusted("job1"), 1)),
            nonce: "nonce1".to_owned(),
        },
        image: ResolvedImage {
            reference: ImageRef::from_trusted("debian:bookworm"),
            id: "sha256:0123".to_owned(),
            digest: None,
            arch: Some(Arch::Amd64),
            volumes: Vec::new(),
            forced_env: Vec::new(),
            user: None,
        },
        command: vec!["sh".to_owned(), "-c".to_owned(), "make test".to_owned()],
        entrypoint: Some(Vec::new()),
        env: BTreeMap::from([("CI".to_owned(), "1".to_owned())]),
        network: None,
        workdir: None,
        opened: Vec::new(),
    }
}

/// The profile of tests, but for what `change` does to it.
fn changed(change: impl FnOnce(&mut ProfileRequest)) -> HardenedProfile {
    let base = HardenedProfile::for_tests();
    let mut request = ProfileRequest {
        user: base.user().to_owned(),
        cpus: base.cpus(),
        memory: base.memory(),
        pids: base.pids(),
        tmpfs: base.tmpfs().to_vec(),
        network: base.network(),
        runtime: base.runtime().to_owned(),
        stop_grace: base.stop_grace(),
        devices: DeviceGrant::None,
        runner_binary: None,
        filter: CallFilter::Ours,
        proof: None,
    };
    change(&mut request);
    crate::security::SecurityManager::harden(request).expect("a profile")
}

fn isolate(request: &mut ProfileRequest) {
    request.tmpfs = vec![TmpfsMount { path: "/build".to_owned(), size: request.memory, exec: Exec::Allowed }];
    request.network = NetworkAccess::Bridge;
}

fn isolated() -> HardenedProfile {
    changed(isolate)
}

/// The same for an image that does not bring the runner.
fn lending() -> HardenedProfile {
    changed(|request| {
        isolate(request);
        request.runner_binary = Some(HostFile::parse("f", "/opt/runner/gitlab-runner").expect("a path"));
    })
}

/// The one of every command: with our first process and its receipt.
fn proven() -> HardenedProfile {
    let file = |path: &str| HostFile::from_trusted(path.to_owned());
    let proof = ProofFiles { init: file("/var/lib/rc/init-0123"), receipt: file("/var/lib/rc/receipts/runner1") };
    changed(|request| request.proof = Some(proof))
}

/// A profile without network that gives this.
fn giving(devices: DeviceGrant) -> HardenedProfile {
    changed(|request| request.devices = devices)
}

fn nvidia(way: NvidiaWay) -> DeviceGrant {
    DeviceGrant::Nvidia { way, gpus: ["GPU-1", "MIG-2"].map(GpuId::from_trusted).to_vec() }
}

/// Two of AMD's cards: their shared file, and a file each. A third group for one of them.
fn amd() -> DeviceGrant {
    let node = |path: &str, group| GrantedNode { host_path: path.to_owned(), path: path.to_owned(), group };
    let card = |id: &str, path: &str, group| GrantedGpu { gpu: GpuId::from_trusted(id), nodes: vec![node("/dev/kfd", 105), node(path, group)] };
    DeviceGrant::Nodes(vec![card("amd-0000:83:00.0", "/dev/dri/renderD129", 44), card("amd-0000:03:00.0", "/dev/dri/renderD128", 105)])
}

fn intel() -> DeviceGrant {
    let node = GrantedNode { host_path: "/srv/dev/dri/renderD130".to_owned(), path: "/dev/dri/renderD130".to_owned(), group: 993 };
    DeviceGrant::Nodes(vec![GrantedGpu { gpu: GpuId::from_trusted("intel-0000:04:00.0"), nodes: vec![node] }])
}

/// What is baked into images that were made for whole machines.
fn greedy() -> ContainerPlan {
    let mut plan = plan();
    plan.image.forced_env = [
        "CUDA_VISIBLE_DEVICES",
        "HIP_VISIBLE_DEVICES",
        "LD_PRELOAD",
        "NVIDIA_DRIVER_CAPABILITIES",
        "NVIDIA_REQUIRE_CUDA",
        "NVIDIA_VISIBLE_DEVICES",
        "OTHER_VISIBLE_DEVICES",
        "ZE_AFFINITY_MASK",
    ]
    .map(str::to_owned)
    .to_vec();
    plan
}

/// Through a value, so that the keys of maps come in order.
fn shown(plan: &ContainerPlan, profile: &HardenedProfile) -> serde_json::Value {
    let mut value = serde_json::to_value(create_body(plan, profile)).expect("json");
    value.sort_all_objects();
    if let Some(options) = value["HostConfig"]["SecurityOpt"].as_array_mut() {
        // It has tests of its own.
        options
            .iter_mut()
            .filter(|option| option.as_str().is_some_and(|option| option.starts_with("seccomp={")))
            .for_each(|option| *option = "seccomp=OURS".into());
    }
    value
}

#[test]
fn command_without_network() {
    insta::assert_json_snapshot!(shown(&plan(), &HardenedProfile::for_tests()));
}

#[test]
fn command_whose_end_is_proved() {
    let mut plan =
        ContainerPlan { entrypoint: Some([HardenedProfile::INIT_PATH, HardenedProfile::RECEIPT_PATH].map(str::to_owned).to_vec()), ..plan() };
    // An image may not cover what is ours, nor make the engine refuse the two files.
    plan.image.volumes = ["/.runner-coordinator/init", "/.runner-coordinator/./receipt/", "/.runner-coordinator"].map(str::to_owned).to_vec();
    insta::assert_json_snapshot!(shown(&plan, &proven()));
}

#[test]
fn command_on_our_network() {
    let plan = ContainerPlan { network: Some("net1".to_owned()), workdir: Some("/build".to_owned()), ..plan() };
    insta::assert_json_snapshot!(shown(&plan, &isolated()));
}

#[test]
fn runner_in_the_image_of_its_job() {
    let mut plan = ContainerPlan {
        command: vec!["run-single".to_owned()],
        entrypoint: Some(vec![HardenedProfile::RUNNER_PATH.to_owned()]),
        network: Some("net1".to_owned()),
        ..plan()
    };
    plan.image.volumes = vec!["/data".to_owned(), "/usr/local/bin/../bin/gitlab-runner/".to_owned()];
    insta::assert_json_snapshot!(shown(&plan, &lending()));
}

#[test]
fn runner_without_a_job() {
    let mut plan = ContainerPlan { name: "rc-runner1".to_owned(), command: Vec::new(), entrypoint: None, network: Some("net1".to_owned()), ..plan() };
    plan.owner.job = None;
    plan.env.insert("RUNNER_COORDINATOR_URL".to_owned(), "http://172.18.0.1:8181".to_owned());
    insta::assert_json_snapshot!(shown(&plan, &isolated()));
}

#[test]
fn hostile_image() {
    let mut plan = plan();
    plan.image.volumes = ["/data/", "/a/../srv//x", "/tmp", "relative", "/", "/.."].map(str::to_owned).to_vec();
    plan.image.forced_env = ["LD_PRELOAD", "NVIDIA_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES", "RUNNER_COORDINATOR_URL"].map(str::to_owned).to_vec();
    plan.image.user = Some("root".to_owned());
    plan.env.insert("LD_AUDIT".to_owned(), "/tmp/x.so".to_owned());
    plan.env.insert("NVIDIA_VISIBLE_DEVICES".to_owned(), "all".to_owned());
    plan.network = Some("host".to_owned());
    insta::assert_json_snapshot!(shown(&plan, &HardenedProfile::for_tests()));
}

#[test]
fn nvidia_by_a_device_request() {
    insta::assert_json_snapshot!(shown(&greedy(), &giving(nvidia(NvidiaWay::DeviceRequest))));
}

#[test]
fn nvidia_by_cdi() {
    insta::assert_json_snapshot!(shown(&greedy(), &giving(nvidia(NvidiaWay::Cdi))));
}

#[test]
fn two_cards_of_amd() {
    insta::assert_json_snapshot!(shown(&greedy(), &giving(amd())));
}

#[test]
fn one_card_of_intel() {
    insta::assert_json_snapshot!(shown(&greedy(), &giving(intel())));
}

#[test]
fn secrets_are_not_shown() {
    let mut plan = plan();
    plan.env.insert("TOKEN".to_owned(), "s3cret-value".to_owned());
    assert!(!format!("{plan:?}").contains("s3cret-value"));
    assert!(format!("{plan:?}").contains("TOKEN"));
}

prop_compose! {
    fn any_plan()(
        texts in proptest::collection::vec("[ -~]{0,12}", 8),
        volumes in proptest::collection::vec("[/a-z.]{0,10}", 0..4),
        env in proptest::collection::btree_map("(LD_|NVIDIA_|CI|RUNNER_COORDINATOR_|X)[A-Z_]{0,8}", "[ -~]{0,8}", 0..6),
        network in proptest::option::of(prop_oneof![Just("host".to_owned()), Just("container:x".to_owned()), "[a-f0-9]{4}"]),
    ) -> ContainerPlan {
        let mut plan = plan();
        plan.name.clone_from(&texts[0]);
        plan.owner.nonce.clone_from(&texts[1]);
        plan.command = texts[2..4].to_vec();
        plan.entrypoint = Some(texts[4..6].to_vec());
        plan.workdir = Some(texts[6].clone());
        plan.image.user = Some(texts[7].clone());
        plan.image.forced_env = env.keys().filter(|name| must_be_forced(name)).cloned().collect();
        plan.image.volumes = volumes;
        plan.env = env;
        plan.network = network;
        plan
    }
}

proptest! {
    #[test]
    fn no_plan_loosens_anything(plan in any_plan(), alone: bool, lends: bool, given in 0_usize..5) {
        let grants = [DeviceGrant::None, nvidia(NvidiaWay::DeviceRequest), nvidia(NvidiaWay::Cdi), amd(), intel()];
        let grant = if alone && !lends { grants[given].clone() } else { DeviceGrant::None };
        let profile = if lends { lending() } else if alone { giving(grant.clone()) } else { isolated() };
        let body = create_body(&plan, &profile);
        let host = body.host_config.as_ref().expect("a host configuration");
        prop_assert_eq!(host.privileged, Some(false));
        prop_assert_eq!(host.readonly_rootfs, Some(true));
        prop_assert_eq!(&host.cap_drop, &Some(vec!["ALL".to_owned()]));
        prop_assert_eq!(&host.security_opt, &Some(profile.security_opt()));
        prop_assert_eq!(&host.ipc_mode, &Some("private".to_owned()));
        prop_assert_eq!(body.user.as_deref(), Some(profile.user()));
        let nothing = [
            host.binds.is_none(), host.mounts.is_none() != lends, host.volumes_from.is_none(), host.cap_add.is_none(), host.device_cgroup_rules.is_none(), host.pid_mode.is_none(), host.uts_mode.is_none(),
            host.userns_mode.is_none(), host.cgroup.is_none(), host.cgroup_parent.is_none(), host.links.is_none(),
            host.sysctls.is_none(), host.port_bindings.is_none(), host.extra_hosts.is_none(), body.volumes.is_none(),
        ];
        prop_assert!(nothing.iter().all(|absent| *absent), "{host:?}");
        // Devices come from the grant alone, and never without a name.
        prop_assert_eq!(host.device_requests.is_some(), matches!(grant, DeviceGrant::Nvidia { .. }));
        prop_assert_eq!((host.devices.is_some(), host.group_add.is_some()), (matches!(grant, DeviceGrant::Nodes(_)), matches!(grant, DeviceGrant::Nodes(_))));
        for request in host.device_requests.iter().flatten() {
            prop_assert!(request.count.is_none() && request.device_ids.as_ref().is_some_and(|ids| ids.len() == grant.gpus().len()));
        }
        for node in host.devices.iter().flatten() {
            prop_assert_eq!(node.cgroup_permissions.as_deref(), Some("rw"));
        }
        for mount in host.mounts.iter().flatten() {
            prop_assert_eq!((mount.read_only, mount.source.as_deref()), (Some(true), Some("/opt/runner/gitlab-runner")));
            prop_assert!(!host.tmpfs.as_ref().expect("tmpfs").contains_key(HardenedProfile::RUNNER_PATH));
        }
        if alone && !lends {
            prop_assert_eq!((host.network_mode.as_deref(), body.network_disabled), (Some("none"), Some(true)));
        }
        let env = body.env.as_ref().expect("an environment");
        for entry in env {
            let (name, value) = entry.split_once('=').expect("a value");
            if let Some((_, forced)) = devices::forced_env(&grant).into_iter().find(|(forced, _)| *forced == name) {
                prop_assert_eq!(value, forced);
            } else if must_be_forced(name) && !name.starts_with("RUNNER_COORDINATOR_") {
                prop_assert_eq!(value, devices::value_instead(&grant, name), "{}", name);
            }
        }
        let forced = |name: &String| env.iter().any(|entry| entry.split_once('=').is_some_and(|(given, _)| given == name));
        prop_assert!(plan.image.forced_env.iter().all(forced));
    }

    #[test]
    fn every_volume_is_covered_however_it_is_spelled(parts in proptest::collection::vec("[a-z]{1,3}", 1..4), dots in proptest::collection::vec(0_usize..4, 4)) {
        let noise = ["", "/", "/.", "/x/.."];
        let spelled: String = parts.iter().zip(&dots).flat_map(|(part, n)| [noise[*n], "/", part]).collect();
        let mut plan = plan();
        plan.image.volumes = vec![format!("{spelled}/")];
        let tmpfs = create_body(&plan, &HardenedProfile::for_tests()).host_config.and_then(|h| h.tmpfs).expect("tmpfs");
        let expected = format!("/{}", parts.join("/"));
        prop_assert!(tmpfs.contains_key(&expected), "{tmpfs:?} {expected}");
    }
}

#[test]
fn a_container_tells_what_was_opened_for_it_and_one_without_the_label_is_not_as_planned() {
    let labels = |plan: &ContainerPlan| create_body(plan, &HardenedProfile::for_tests()).labels.unwrap_or_default();
    let open = ContainerPlan { opened: vec!["network = \"open\"".to_owned(), "runtime = \"runsc\"".to_owned()], ..plan() };
    assert_eq!(labels(&open)["runner-coordinator.opened"], "network = \"open\"; runtime = \"runsc\"");
    for (made, planned) in [(&open, &plan()), (&plan(), &open)] {
        assert!(labels::opens_as_planned(&labels(made), made) && !labels::opens_as_planned(&labels(made), planned));
    }
    assert!(!labels::opens_as_planned(&std::collections::HashMap::new(), &plan()), "an earlier version's may have been made with anything");
}
