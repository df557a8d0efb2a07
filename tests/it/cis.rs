//! Containers as somebody else's list judges them: section 5, "Container Runtime", of the CIS Docker Benchmark v1.6.0 (later versions keep its
//! numbers). Read from outside: the engine's `inspect`, and what the kernel says of the container's first process.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use reqwest::Method;
use serde_json::{Value, json};

use crate::gpu_daemon::{Machine, cancel, holder, sees};
use crate::harness::engine::{self, UNTIL_TOLD};
use crate::harness::road::Road;
use crate::harness::{BUSYBOX, Daemon, Setup};

/// What is read of a container.
struct Seen {
    /// `docker inspect`.
    container: Value,
    /// `docker info`.
    engine: Value,
    /// The kernel's `status` of its first process.
    status: BTreeMap<String, String>,
    /// The kinds of name spaces that its first process has in common with this one, which has the engine's.
    shared: BTreeSet<&'static str>,
    /// Names of its processes.
    programs: Vec<String>,
}

impl Seen {
    fn of(container: &str) -> Self {
        let read = |words: &[&str]| serde_json::from_str::<Value>(&engine::docker(words)).expect("JSON");
        let inspected = read(&["inspect", container])[0].clone();
        let pid = inspected["State"]["Pid"].as_u64().filter(|pid| *pid > 0).expect("it runs");
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
        let space = |process: &str, kind: &str| std::fs::read_link(format!("/proc/{process}/ns/{kind}")).expect("a name space");
        let same = |kind: &&str| space(&pid.to_string(), kind) == space("self", kind);
        Self {
            engine: read(&["info", "--format", "{{json .}}"]),
            status: status.lines().filter_map(|line| line.split_once(':')).map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect(),
            shared: ["net", "pid", "ipc", "uts"].into_iter().filter(same).collect(),
            programs: engine::docker(&["top", container, "-eo", "pid,comm"]).lines().skip(1).map(str::to_owned).collect(),
            container: inspected,
        }
    }

    fn host(&self, key: &str) -> &Value {
        &self.container["HostConfig"][key]
    }

    fn engine_has(&self, option: &str) -> bool {
        list(&self.engine["SecurityOptions"]).iter().any(|text| text.as_str().is_some_and(|text| text.starts_with(option)))
    }

    fn option(&self, text: &str) -> bool {
        list(self.host("SecurityOpt")).contains(&json!(text))
    }

    fn mounts(&self) -> &[Value] {
        list(&self.container["Mounts"])
    }

    /// Everything that is mounted of the machine.
    fn sources(&self) -> Vec<&str> {
        self.mounts().iter().filter(|mount| mount["Type"] == "bind").filter_map(|mount| mount["Source"].as_str()).collect()
    }

    /// Where ports of the machine lead into it: address and port.
    fn ports(&self) -> Vec<(&str, u16)> {
        let bindings = [self.host("PortBindings"), &self.container["NetworkSettings"]["Ports"]];
        let all = bindings.into_iter().filter_map(Value::as_object).flat_map(serde_json::Map::values).flat_map(list);
        all.map(|one| (one["HostIp"].as_str().unwrap_or_default(), one["HostPort"].as_str().and_then(|port| port.parse().ok()).unwrap_or_default()))
            .collect()
    }

    fn positive(&self, key: &str) -> bool {
        self.host(key).as_i64().is_some_and(|value| value > 0)
    }

    fn kernel(&self, name: &str) -> &str {
        self.status.get(name).map_or("", String::as_str)
    }

    fn joins(&self, network: &str) -> bool {
        self.container["NetworkSettings"]["Networks"].get(network).is_some()
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// Directories of the machine that the benchmark calls sensitive, and the one that holds sockets.
const SENSITIVE: [&str; 8] = ["/boot", "/dev", "/etc", "/lib", "/proc", "/sys", "/usr", "/run"];

fn is_sensitive(source: &str) -> bool {
    source == "/" || SENSITIVE.iter().any(|directory| Path::new(source).starts_with(directory)) || Path::new(source).is_dir()
}

/// One item, and whether a container is as it asks.
struct Item {
    number: &'static str,
    title: &'static str,
    holds: fn(&Seen) -> bool,
}

const fn item(number: &'static str, title: &'static str, holds: fn(&Seen) -> bool) -> Item {
    Item { number, title, holds }
}

/// All but 5.28, the latest version of an image, which no container shows: which one a job gets is said by `pull` and `require_digest`.
const ITEMS: [Item; 31] = [
    item("5.1", "no swarm mode", |seen| seen.engine["Swarm"]["LocalNodeState"] == "inactive"),
    item("5.2", "an AppArmor profile where the machine has AppArmor", |seen| {
        !seen.engine_has("name=apparmor") || seen.container["AppArmorProfile"].as_str().is_some_and(|name| !["", "unconfined"].contains(&name))
    }),
    item("5.3", "SELinux options where the engine uses SELinux", |seen| {
        !seen.engine_has("name=selinux") || seen.container["ProcessLabel"].as_str().is_some_and(|label| !label.is_empty())
    }),
    // The benchmark leaves open which; ours have none at all.
    item("5.4", "capabilities are restricted", |seen| {
        let empty = |set: &&str| u64::from_str_radix(seen.kernel(set), 16) == Ok(0);
        seen.host("CapAdd").is_null() && ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"].iter().all(empty)
    }),
    item("5.5", "not privileged", |seen| seen.host("Privileged") == &json!(false)),
    // Stricter: no directory at all.
    item("5.6", "no sensitive directories of the machine", |seen| !seen.sources().into_iter().any(is_sensitive)),
    item("5.7", "no sshd", |seen| !seen.programs.iter().any(|program| program.contains("sshd"))),
    item("5.8", "no privileged ports are mapped", |seen| !seen.ports().iter().any(|(_, port)| *port < 1024)),
    // Stricter: none is needed.
    item("5.9", "only needed ports are open", |seen| seen.ports().is_empty() && seen.host("PublishAllPorts") == &json!(false)),
    item("5.10", "not the machine's network", |seen| seen.host("NetworkMode") != "host" && !seen.shared.contains("net")),
    item("5.11", "memory is limited", |seen| seen.positive("Memory") && seen.host("MemorySwap") == seen.host("Memory")),
    // By a quota, which holds also while nobody else wants the processor.
    item("5.12", "processor time is set", |seen| seen.positive("NanoCpus")),
    item("5.13", "the root file system is read-only", |seen| seen.host("ReadonlyRootfs") == &json!(true)),
    item("5.14", "incoming traffic is bound to an interface", |seen| {
        !seen.ports().iter().any(|(address, _)| ["", "0.0.0.0", "::"].contains(address))
    }),
    item("5.15", "no restart without an end", |seen| ["no", ""].map(Value::from).contains(&seen.host("RestartPolicy")["Name"])),
    item("5.16", "not the machine's processes", |seen| seen.host("PidMode") != "host" && !seen.shared.contains("pid")),
    item("5.17", "not the machine's shared memory", |seen| seen.host("IpcMode") == "private" && !seen.shared.contains("ipc")),
    // Those of a job's own GPUs are looked at by their test.
    item("5.18", "no devices of the machine", |seen| list(seen.host("Devices")).is_empty() && list(seen.host("DeviceRequests")).is_empty()),
    item("5.19", "limits of processes are set", |seen| {
        let names: BTreeSet<_> = list(seen.host("Ulimits")).iter().filter_map(|limit| limit["Name"].as_str()).collect();
        names.is_superset(&BTreeSet::from(["core", "nofile"]))
    }),
    item("5.20", "mounts are not propagated", |seen| {
        !seen.mounts().iter().any(|mount| mount["Propagation"].as_str().is_some_and(|way| way.ends_with("shared")))
    }),
    item("5.21", "not the machine's name", |seen| seen.host("UTSMode") != "host" && !seen.shared.contains("uts")),
    item("5.22", "a seccomp profile", |seen| !seen.option("seccomp=unconfined") && seen.kernel("Seccomp") == "2"),
    // The engine does not tell what the commands were given; ours have none.
    item("5.23", "no privileged command was put into it", |seen| list(&seen.container["ExecIDs"]).is_empty()),
    item("5.24", "no command of root was put into it", |seen| list(&seen.container["ExecIDs"]).is_empty()),
    item("5.25", "the control group is the engine's", |seen| seen.host("CgroupParent") == ""),
    item("5.26", "no new privileges", |seen| seen.kernel("NoNewPrivs") == "1"),
    item("5.27", "health is checked", |seen| list(&seen.container["Config"]["Healthcheck"]["Test"]).first().is_some_and(|kind| kind != "NONE")),
    item("5.29", "processes are limited", |seen| seen.positive("PidsLimit")),
    item("5.30", "not the bridge docker0", |seen| {
        !["default", "bridge"].map(Value::from).contains(seen.host("NetworkMode")) && !seen.joins("bridge")
    }),
    item("5.31", "not the machine's users where the engine has others", |seen| seen.host("UsernsMode") != "host"),
    item("5.32", "not the engine's socket", |seen| !seen.sources().iter().any(|source| source.ends_with("docker.sock"))),
];

/// The items that a container fails.
fn fails(seen: &Seen) -> Vec<&'static str> {
    ITEMS.iter().filter(|item| !(item.holds)(seen)).map(|item| item.number).collect()
}

/// What the items are called, for a failure's words.
fn named(numbers: &[&str]) -> Vec<&'static str> {
    ITEMS.iter().filter(|item| numbers.contains(&item.number)).map(|item| item.title).collect()
}

/// What ours fail on purpose: a health check is a command that the engine puts into the container for as long as it runs. A job is watched by its
/// end, its time limit and its output, and an image must not bring what runs beside it.
const ON_PURPOSE: [&str; 1] = ["5.27"];

fn is_as_asked(container: &str, but: &[&str]) -> Seen {
    let seen = Seen::of(container);
    let failed = fails(&seen);
    assert_eq!(failed, [but, &ON_PURPOSE].concat(), "{:?}: {}", named(&failed), seen.container);
    seen
}

fn container_of(label: &str, value: &str) -> String {
    engine::docker(&["ps", "--quiet", "--filter", &format!("label=runner-coordinator.{label}={value}")]).trim().to_owned()
}

#[test]
fn every_item_is_there_once() {
    let numbers: Vec<String> = (1..=32).filter(|number| *number != 28).map(|number| format!("5.{number}")).collect();
    assert_eq!(ITEMS.map(|item| item.number.to_owned()).to_vec(), numbers);
}

#[tokio::test]
async fn a_job_is_as_the_benchmark_asks() {
    let classes = "[[classes]]\nname = \"default\"\npull = \"never\"\n[[classes]]\nname = \"none\"\nnetwork = \"none\"\npull = \"never\"";
    let daemon = Setup::new("cis-job").host("cpus = 8\nmemory = \"16GiB\"").with(classes).start().await;
    for class in ["default", "none"] {
        let job = daemon.submit(json!({ "class": class, "image": BUSYBOX, "command": ["sh", "-c", UNTIL_TOLD] })).await;
        daemon.reaches(&job, &["running"]).await;
        let seen = is_as_asked(&container_of("job", &job), &[]);
        let data = daemon.data();
        assert!(seen.sources().iter().all(|source| Path::new(source).starts_with(&data)), "{:?}", seen.sources());
        engine::tell(&job);
        assert_eq!(daemon.ended(&job).await["state"], "succeeded");
    }
    daemon.finish().await;
}

#[tokio::test]
async fn a_runner_that_waits_for_gitlab_is_as_the_benchmark_asks() {
    let Road { daemon, .. } = Road::start("cis-runner", "1h", "").await;
    let (_, runner) = daemon.request(Method::POST, "/runners", Some(json!({ "class": "gitlab" }))).await;
    let id = runner["id"].as_str().expect("an id").to_owned();
    daemon.until("it waits", async |daemon| daemon.get(&format!("/runners/{id}")).await["state"] == "idle").await;
    let seen = is_as_asked(&container_of("runner", &id), &[]);
    assert_eq!(seen.mounts().iter().filter(|mount| mount["Type"] != "tmpfs").count(), 0, "{}", seen.container["Mounts"]);
    daemon.request(Method::DELETE, &format!("/runners/{id}"), None).await;
    daemon.finish().await;
}

#[tokio::test]
async fn a_job_with_a_card_of_amd_differs_by_its_nodes_alone() {
    let machine = Machine::new();
    let daemon = Setup::new("cis-gpu").with(&machine.settings()).start().await;
    daemon.until("it is healthy", Daemon::is_healthy).await;
    let job = daemon.submit(holder()).await;
    let node = sees(&daemon, &job).await;
    let seen = is_as_asked(&container_of("job", &job), &["5.18"]);
    let given: BTreeSet<_> = list(seen.host("Devices")).iter().filter_map(|device| device["PathInContainer"].as_str()).collect();
    assert_eq!(given, BTreeSet::from(["/dev/kfd", &format!("/dev/dri/{node}")]));
    assert!(list(seen.host("DeviceRequests")).is_empty() && list(seen.host("Devices")).iter().all(|device| device["CgroupPermissions"] == "rw"));
    cancel(&daemon, &job).await;
    daemon.finish().await;
}

/// A container that is none of ours, gone at the end of its test.
struct Foreign(String);

impl Foreign {
    fn run(options: &[&str], script: &str) -> Self {
        let words = [&["run", "--detach"], options, &[BUSYBOX, "sh", "-c", script]].concat();
        Self(engine::docker(&words).trim().to_owned())
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        engine::try_docker(&["rm", "--force", "--volumes", &self.0]);
    }
}

#[test]
fn a_container_as_the_engine_makes_it_fails_what_it_leaves_open() {
    let plain = Foreign::run(&[], "sleep 600");
    let seen = Seen::of(&plain.0);
    assert_eq!(fails(&seen), ["5.4", "5.11", "5.12", "5.13", "5.19", "5.26", "5.27", "5.29", "5.30"], "{}", seen.container);
}

/// A file system of its own that a container could propagate mounts to.
struct Shared(tempfile::TempDir);

impl Shared {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let words = "mount -t tmpfs rc-cis \"$0\" && mount --make-shared \"$0\"";
        let made = std::process::Command::new("sh").args(["-c", words]).arg(directory.path()).status().expect("a shell");
        assert!(made.success(), "it could not be mounted");
        Self(directory)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").args(["--lazy".as_ref(), self.0.path().as_os_str()]).status();
    }
}

/// With the former, each item is seen to fail.
#[test]
fn a_container_that_is_open_in_every_way_fails_the_rest() {
    let shared = Shared::new();
    let mount = format!("{}:/mnt:shared", shared.0.path().display());
    let socket = format!("{}:/run/docker.sock", engine::host().trim_start_matches("unix://"));
    let spaces = ["--network=host", "--pid=host", "--ipc=host", "--uts=host", "--userns=host", "--security-opt=seccomp=unconfined"];
    // The parent that the engine takes anyway, so that nothing is left of it.
    let rest =
        ["--cap-add=SYS_ADMIN", "--restart=always", "--publish=80:80", "--device=/dev/null:/dev/x", "--cgroup-parent=/docker", "--volume=/etc:/x"];
    let worst = Foreign::run(
        &[&spaces[..], &rest, &["--volume", &mount, "--volume", &socket]].concat(),
        "printf '#!/bin/sh\\nsleep 600\\ntrue\\n' > /sshd; chmod +x /sshd; /sshd; true",
    );
    let deadline = std::time::Instant::now() + crate::harness::PATIENCE;
    while !engine::docker(&["top", &worst.0, "-eo", "pid,comm"]).contains("sshd") {
        assert!(std::time::Instant::now() < deadline, "its program did not come");
    }
    engine::docker(&["exec", "--detach", "--user=root", &worst.0, "sleep", "600"]);
    let mut seen = Seen::of(&worst.0);
    // What cannot be had everywhere: engines in containers may not make privileged ones, and machines have other security modules.
    seen.container["HostConfig"]["Privileged"] = json!(true);
    seen.engine = json!({ "Swarm": { "LocalNodeState": "active" }, "SecurityOptions": ["name=apparmor", "name=selinux"] });
    seen.container["AppArmorProfile"] = json!("unconfined");
    seen.container["ProcessLabel"] = json!("");
    let failed = fails(&seen);
    // Its network is the machine's, so not the bridge.
    let expected: Vec<&str> = ITEMS.iter().map(|item| item.number).filter(|number| *number != "5.30").collect();
    assert_eq!(failed, expected, "{}", seen.container);
}
