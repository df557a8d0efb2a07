//! Tests of reading what engines send: see `wire.rs`.

use serde_json::json;

use super::*;

fn read<T: serde::de::DeserializeOwned>(value: serde_json::Value) -> T {
    serde_json::from_value(value).expect("readable")
}

#[test]
fn a_state_we_do_not_know_hides_no_container() {
    let rows: Vec<ListedContainer> = read(json!([
        {"Id": "a", "Names": ["/rc-1"], "State": "hibernating", "Labels": {}, "HealthStatus": 7},
        {"Id": "b", "Names": null, "State": "running", "Labels": null},
    ]));
    let facts: Vec<ContainerFacts> = rows.into_iter().map(ListedContainer::into_facts).collect();
    assert_eq!(facts[0].state, ContainerState::Unknown("hibernating".to_owned()));
    assert_eq!(facts[0].name, "rc-1");
    assert_eq!(facts[1].state, ContainerState::Running { pid: None });
}

#[test]
fn times_that_have_not_come_are_none() {
    let facts = |state| read::<InspectedContainer>(json!({"Id": "a", "Name": "/x", "State": state})).into_facts();
    let created =
        facts(json!({"Status": "created", "Pid": 0, "ExitCode": 0, "StartedAt": "0001-01-01T00:00:00Z", "FinishedAt": "0001-01-01T00:00:00Z"}));
    assert_eq!((created.started_at, created.finished_at, created.exit_code), (None, None, None));
    let running = facts(json!({"Status": "running", "Pid": 42, "ExitCode": 0, "StartedAt": "2026-11-23T10:00:00.123456789Z"}));
    assert_eq!(running.state, ContainerState::Running { pid: Some(42) });
    assert_eq!(running.started_at.map(Timestamp::as_nanosecond), Some(1_795_428_000_123_456_789));
    let refused = facts(json!({"Status": "created", "ExitCode": 128, "Error": "no such device"}));
    assert_eq!((refused.exit_code, refused.error.as_str()), (Some(128), "no such device"));
}

#[test]
fn labels_make_an_owner_only_in_full() {
    let label = |name: &str, value: &str| (format!("runner-coordinator.{name}"), value.to_owned());
    let full: HashMap<String, String> = ["instance", "host", "runner", "class", "job", "nonce"]
        .iter()
        .map(|n| label(n, "x"))
        .chain([label("attempt", "2"), label("devices", "GPU-1,GPU-2")])
        .collect();
    assert_eq!(labels::owner(&full).and_then(|owner| owner.job).map(|(_, attempt)| attempt), Some(2));
    assert_eq!(labels::devices(&full).len(), 2);
    for missing in ["instance", "host", "runner", "class", "job", "nonce", "attempt"] {
        let mut part = full.clone();
        part.remove(&format!("runner-coordinator.{missing}"));
        assert_eq!(labels::owner(&part), None, "{missing}");
    }
}

#[test]
fn images_tell_what_must_be_covered() {
    let image: Image = read(json!({"Id": "sha256:1", "Os": "linux", "Architecture": "arm64", "RepoDigests": ["a@sha256:2"],
        "Config": {"User": "", "Env": ["PATH=/bin", "LD_PRELOAD=/x.so", "NVIDIA_VISIBLE_DEVICES=all", "ROCR_VISIBLE_DEVICES=0", "LD_PRELOAD=2"],
                   "Volumes": {"/data": {}, "/a": {}}}}));
    let image = image.into_resolved(&ImageRef::from_trusted("a"));
    assert_eq!(image.forced_env, ["LD_PRELOAD", "NVIDIA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"]);
    assert_eq!(image.volumes, ["/a", "/data"]);
    assert_eq!((image.arch, image.user), (Some(Arch::Arm64), None));
    let bare: Image = read(json!({"Id": "sha256:1", "Os": "windows", "Architecture": "amd64", "Config": null}));
    assert_eq!(bare.into_resolved(&ImageRef::from_trusted("a")).arch, None);
}

#[test]
fn memory_leaves_out_cache_and_ended_containers_have_none() {
    let usage = |value| read::<Stats>(value).into_usage();
    let memory = |name: &str| json!({"cpu_stats": {"cpu_usage": {"total_usage": 5}}, "memory_stats": {"usage": 100, "stats": {name: 30}}, "pids_stats": {"current": 2}});
    let expected = Some(Usage { cpu_nanos: 5, memory: MemoryBytes(70), pids: 2 });
    assert_eq!(usage(memory("total_inactive_file")), expected);
    assert_eq!(usage(memory("inactive_file")), expected);
    assert_eq!(usage(json!({"cpu_stats": {}, "memory_stats": {}, "pids_stats": {}})), None);
}

#[test]
fn the_gateway_is_read_with_and_without_its_prefix() {
    let gateway = |text: &str| {
        read::<Network>(json!({"Name": "n", "Id": "1", "IPAM": {"Config": [{"Gateway": text, "Subnet": "172.18.0.0/16"}]}}))
            .into_info()
            .map(|n| n.gateway.to_string())
    };
    assert_eq!(gateway("172.18.0.1"), Some("172.18.0.1".to_owned()));
    assert_eq!(gateway("172.18.0.1/16"), Some("172.18.0.1".to_owned()));
    assert_eq!(gateway(""), None);
}

#[test]
fn a_bridge_has_the_name_that_it_was_given_or_that_engines_give() {
    let ipam = json!({"Config": [{"Gateway": "172.18.0.1", "Subnet": "172.18.0.0/16"}]});
    let info = |more: serde_json::Value| {
        let mut network = json!({"Name": "n", "Id": "0123456789abcdef", "IPAM": ipam});
        network.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        read::<Network>(network).into_info().expect("whole")
    };
    let plain = info(json!({}));
    assert_eq!((plain.bridge.as_str(), plain.class), ("br-0123456789ab", None));
    let named = info(json!({"Options": {"com.docker.network.bridge.name": "br0"}, "Labels": {"runner-coordinator.class": "gpu"}}));
    assert_eq!((named.bridge.as_str(), named.class.map(|class| class.to_string())), ("br0", Some("gpu".to_owned())));
    assert_eq!(named.subnets, ["172.18.0.0/16".parse::<ipnet::IpNet>().expect("a network")]);
}

#[test]
fn what_an_engine_cannot_limit_is_named_and_silence_is_no_lack() {
    let info = |value| read::<Info>(value).into_info("1.41".to_owned());
    let old = info(json!({
        "MemoryLimit": true, "SwapLimit": false, "PidsLimit": false, "CpuCfsQuota": true, "IPv4Forwarding": false,
        "Warnings": ["WARNING: No swap limit support"], "SystemTime": "2026-11-23T10:00:00.5Z", "DockerRootDir": "/var/lib/docker",
    }));
    assert_eq!((old.unsupported, old.forwards), (vec!["swap", "processes"], Some(false)));
    assert_eq!((old.warnings.len(), old.data_root.as_deref()), (1, Some("/var/lib/docker")));
    assert_eq!(old.time, "2026-11-23T10:00:00.5Z".parse().ok());
    let silent = info(json!({}));
    assert_eq!((silent.unsupported.len(), silent.forwards, silent.time, silent.data_root), (0, None, None, None));
}
