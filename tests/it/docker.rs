//! The driver against a real engine: what the unit tests take for granted about engines is shown here.

use std::time::Duration;

use bollard::models::ContainerConfig;
use bollard::query_parameters::{CommitContainerOptionsBuilder, InspectNetworkOptions, RemoveImageOptions};
use futures_util::{StreamExt, TryStreamExt};
use runner_coordinator::docker::{ContainerFacts, ContainerPlan, ContainerState, DockerDriver, Driver, DriverError, LogRecord, LogStream, judge};
use runner_coordinator::domain::{Disposition, EndReason, HowEnded, ImageRef, Outcome, ProvenEnd, RunnerId, chain};
use runner_coordinator::security::{NetworkAccess, ProfileRequest, SecurityManager};
use tokio::io::copy_bidirectional;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

use crate::bench::{Bench, PATIENCE, bytes, profile, request};
use crate::harness::engine;

#[tokio::test]
async fn a_container_lives_and_leaves_nothing() {
    let bench = Bench::new().await;
    let plan = bench.plan("exit 0");
    let id = bench.driver.create(&plan, &profile()).await.expect("created");
    let made = bench.driver.inspect(&id).await.expect("inspected").expect("there");
    assert_eq!((made.state, made.started_at, made.exit_code), (ContainerState::Created, None, None));
    bench.driver.start(&id).await.expect("started");
    bench.driver.start(&id).await.expect("starting what runs, or ran so shortly, is fine");
    let facts = bench.ended(&id).await;
    assert_eq!(judge(Some(&facts), None).reason(), Some(EndReason::NoReceipt), "{facts:?}");
    let receipt = ProvenEnd { how: HowEnded::Exit(0), told: false };
    assert_eq!(judge(Some(&facts), Some(receipt)), Outcome::Succeeded, "{facts:?}");
    let listed = bench.driver.list().await.expect("a list");
    assert_eq!(listed.len(), 1);
    assert_eq!((&listed[0].id, &listed[0].name, &listed[0].owner), (&id, &plan.name, &Some(plan.owner.clone())));
    assert_eq!((listed[0].devices.len(), &listed[0].state), (0, &ContainerState::Exited));
    bench.driver.remove(&id).await.expect("removed");
    bench.driver.remove(&id).await.expect("removing again is fine");
    assert_eq!(bench.driver.inspect(&id).await.expect("inspected"), None);
    bench.finish().await;
}

#[tokio::test]
async fn hardening_is_felt_inside() {
    let bench = Bench::new().await;
    let script = "cat /proc/self/status; echo user=$(id -u):$(id -g); (echo x > /x) 2>&1; echo x > /tmp/y && echo tmp-ok; echo '#!/bin/sh' > /tmp/z; \
        chmod +x /tmp/z; /tmp/z 2>&1; cat /proc/cmdline | wc -c; cat /proc/1/cgroup; ls /sys/class/net; (mount -t tmpfs x /data) 2>&1; ulimit -c; \
        echo nv=$NVIDIA_VISIBLE_DEVICES; cat /proc/1/comm";
    let (facts, out) = bench.run(&bench.plan(script), &profile()).await;
    let value = |name: &str| {
        let line = out.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name} is missing in {out}"));
        line.trim().to_owned()
    };
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(u64::from_str_radix(&value(set), 16), Ok(0), "{set}");
    }
    assert_eq!((value("NoNewPrivs:"), value("Seccomp:")), ("1".to_owned(), "2".to_owned()));
    assert_eq!((value("user="), value("nv=")), ("65532:65532".to_owned(), "void".to_owned()));
    assert!(out.contains("Read-only file system") && out.contains("tmp-ok"), "{out}");
    assert!(out.contains("/tmp/z: Permission denied"), "files in /tmp cannot be executed: {out}");
    assert!(out.lines().any(|line| line == "lo") && !out.contains("eth0"), "{out}");
    assert!(out.contains("mount: ") || out.contains("permitted"), "{out}");
    assert!(!out.contains("docker/"), "the machine's control groups can be seen: {out}");
    assert!(out.lines().filter(|line| *line == "0").count() >= 2, "the kernel's command line or core dumps: {out}");
    assert_eq!(facts.exit_code, Some(0));
    bench.finish().await;
}

#[tokio::test]
async fn ends_are_told_apart() {
    let bench = Bench::new().await;
    let verdict = |facts: &ContainerFacts| {
        let code = facts.exit_code.and_then(|code| u8::try_from(code).ok()).expect("a code");
        let outcome = judge(Some(facts), Some(ProvenEnd { how: HowEnded::Exit(code), told: false }));
        (outcome.reason(), outcome.exit_code())
    };
    let (facts, _) = bench.run(&bench.plan("exit 3"), &profile()).await;
    assert_eq!(verdict(&facts), (Some(EndReason::ExitCode), Some(3)));
    let missing = ContainerPlan { command: vec!["/no/such/program".to_owned()], ..bench.plan("") };
    let (facts, _) = bench.run(&missing, &profile()).await;
    assert_eq!(verdict(&facts), (Some(EndReason::ExitCode), Some(127)));
    let (facts, _) = bench.run(&bench.plan("exec awk 'BEGIN { x = \"x\"; while (1) x = x x }'"), &profile()).await;
    assert_eq!(verdict(&facts), (Some(EndReason::OutOfMemory), Some(137)), "{facts:?}");
    bench.finish().await;
}

#[tokio::test]
async fn what_the_engine_cannot_make_is_final() {
    let bench = Bench::new().await;
    let runtime = SecurityManager::harden(ProfileRequest { runtime: "no-such-runtime".to_owned(), ..request() }).expect("a profile");
    let refused = bench.driver.create(&bench.plan("true"), &runtime).await.expect_err("refused");
    assert_eq!(refused.disposition(), Disposition::Final, "{refused}");
    let mut plan = bench.plan("true");
    plan.image.id = format!("sha256:{}", "0".repeat(64));
    assert!(matches!(bench.driver.create(&plan, &profile()).await, Err(DriverError::NotFound { .. })));
    let absent = ImageRef::from_trusted("rc-test/absent:1");
    assert_eq!(bench.driver.resolve_image(&absent).await.expect("answered"), None);
    let (progress, _words) = mpsc::channel(1);
    let unreachable = bench.driver.pull(&ImageRef::from_trusted("127.0.0.1:9/a/b:1"), None, progress).await.expect_err("no registry there");
    assert!(matches!(unreachable, DriverError::PullFailed { .. }), "{unreachable:?}");
    bench.finish().await;
}

#[tokio::test]
async fn a_repeated_create_adopts_and_a_foreign_name_is_refused() {
    let bench = Bench::new().await;
    let (plan, profile) = (bench.plan("true"), profile());
    let (one, two) = tokio::join!(bench.driver.create(&plan, &profile), bench.driver.create(&plan, &profile));
    let id = one.expect("created");
    assert_eq!(two.expect("adopted"), id);
    assert_eq!(bench.driver.create(&plan, &profile).await.expect("adopted"), id);
    // One that was made before its class was opened, or closed, is made anew: it never ran.
    let opened = ContainerPlan { opened: vec!["network = \"open\"".to_owned()], ..plan.clone() };
    let refused = bench.driver.create(&opened, &profile).await;
    assert!(
        matches!(&refused, Err(error @ DriverError::Interrupted { .. }) if chain(error).contains("before its class default was changed")),
        "{refused:?}"
    );
    let anew = bench.driver.create(&opened, &profile).await.expect("made again");
    assert_ne!(anew, id);
    assert_eq!(bench.driver.create(&opened, &profile).await.expect("adopted"), anew);
    assert!(matches!(bench.driver.create(&plan, &profile).await, Err(DriverError::Interrupted { .. })));
    let id = bench.driver.create(&plan, &profile).await.expect("made again");
    let mut other_runner = plan.clone();
    other_runner.owner.runner = RunnerId::generate();
    assert!(matches!(bench.driver.create(&other_runner, &profile).await, Err(DriverError::Conflict { .. })));
    let stranger = Bench::new().await;
    let mut foreign = plan.clone();
    foreign.owner.instance.clone_from(&stranger.instance);
    assert!(matches!(stranger.driver.create(&foreign, &profile).await, Err(DriverError::Conflict { .. })));
    stranger.finish().await;
    assert!(bench.driver.inspect(&id).await.expect("inspected").is_some(), "a stranger's list or removal touched ours");
    bench.finish().await;
}

#[tokio::test]
async fn stopping_is_polite_then_firm_and_can_be_repeated() {
    let bench = Bench::new().await;
    let polite = bench.start(&bench.plan("exec sleep 600"), &profile()).await;
    let usage = bench.driver.usage(&polite).await.expect("answered").expect("it runs");
    assert!(usage.memory.0 > 0 && usage.pids >= 1, "{usage:?}");
    let facts = bench.driver.inspect(&polite).await.expect("inspected").expect("there");
    assert!(matches!(facts.state, ContainerState::Running { pid: Some(pid) } if pid > 1), "{facts:?}");
    bench.driver.stop(&polite, Duration::from_secs(30)).await.expect("stopped");
    bench.driver.stop(&polite, Duration::from_secs(30)).await.expect("stopping again is fine");
    assert_eq!(bench.ended(&polite).await.exit_code, Some(143));
    assert_eq!(bench.driver.usage(&polite).await.expect("answered"), None);
    let deaf = bench.start(&bench.plan("trap '' TERM; echo deaf; while :; do sleep 1; done"), &profile()).await;
    let heard = tokio::time::timeout(PATIENCE, bench.driver.logs(&deaf, 0).next()).await.expect("it speaks");
    heard.expect("a record").expect("readable");
    bench.driver.stop(&deaf, Duration::from_secs(1)).await.expect("stopped");
    assert_eq!(bench.ended(&deaf).await.exit_code, Some(137));
    bench.driver.stop("rc-never-made", Duration::from_secs(1)).await.expect("what is not there has stopped");
    assert_eq!(bench.driver.usage("rc-never-made").await.expect("answered"), None);
    bench.finish().await;
}

#[tokio::test]
async fn logs_are_exact_and_can_be_resumed() {
    let bench = Bench::new().await;
    let script = "printf 'one\\n'; printf '\\000\\377\\001bin\\n'; printf 'err\\n' >&2; head -c 40000 /dev/zero | tr '\\0' a; printf '\\n'; sleep 2.1; printf 'end'";
    let id = bench.start(&bench.plan(script), &profile()).await;
    let followed = bench.records(&id, 0).await;
    let facts = bench.ended(&id).await;
    let records = bench.records(&id, 0).await;
    assert!(records.starts_with(&followed) && followed.len() + 1 >= records.len(), "{} of {}", followed.len(), records.len());
    assert_eq!(bytes(&records, Some(LogStream::Stderr)), b"err\n");
    let mut expected = b"one\n\0\xff\x01bin\n".to_vec();
    expected.resize(expected.len() + 40_000, b'a');
    let mut out = bytes(&records, Some(LogStream::Stdout));
    assert!(out.starts_with(&expected), "{} bytes", out.len());
    // Engine 20.10 loses the newline that ends a line of more than 16 KiB.
    let rest = out.split_off(expected.len());
    assert!(rest == b"\nend" || rest == b"end", "{rest:?}");
    assert!(records.iter().filter(|record| record.bytes.starts_with(b"aa")).count() >= 3, "a long line comes in pieces");
    let started = facts.started_at.map(|time| u64::try_from(time.as_nanosecond()).expect("after 1970")).expect("started");
    // The engine notes the start only after it has begun to read.
    assert!(records.iter().all(|record| record.ts_ns.abs_diff(started) < 60_000_000_000), "times are the engine's");
    let last = records.last().expect("records");
    let resumed = bench.records(&id, i64::try_from(last.ts_ns / 1_000_000_000).expect("seconds")).await;
    assert_eq!(resumed.last(), Some(last));
    assert!(resumed.len() < records.len() && records.ends_with(&resumed), "{} of {}", resumed.len(), records.len());
    bench.driver.remove(&id).await.expect("removed");
    let gone: Result<Vec<LogRecord>, DriverError> = bench.driver.logs(&id, 0).try_collect().await;
    assert!(matches!(gone, Err(DriverError::NotFound { .. })), "{gone:?}");
    bench.finish().await;
}

#[tokio::test]
async fn the_network_is_one_and_keeps_containers_apart() {
    let bench = Bench::new().await;
    let again = DockerDriver::new(&engine::host(), bench.instance.clone(), Vec::new()).expect("a driver");
    let (one, two) = tokio::join!(bench.driver.ensure_network(None), again.ensure_network(None));
    assert!(one.is_ok() && two.is_ok(), "{one:?} {two:?}");
    let network = bench.driver.ensure_network(None).await.expect("a network");
    assert_eq!(again.ensure_network(None).await.expect("the same"), network);
    let seen = bench.raw.inspect_network(&network.id, None::<InspectNetworkOptions>).await.expect("inspected");
    assert_eq!(seen.options.unwrap_or_default().get("com.docker.network.bridge.enable_icc").map(String::as_str), Some("false"));
    let isolated = SecurityManager::harden(ProfileRequest { network: NetworkAccess::Bridge, ..request() }).expect("a profile");
    let on = |script: &str| ContainerPlan { network: Some(network.id.clone()), ..bench.plan(script) };
    let server = bench
        .start(
            &on(
                "nc -ll -p 9000 -e cat & until echo | nc -w 1 127.0.0.1 9000 > /dev/null; do :; done 2> /dev/null; ip -4 -o addr show dev eth0; wait",
            ),
            &isolated,
        )
        .await;
    let first = tokio::time::timeout(PATIENCE, bench.driver.logs(&server, 0).next()).await.expect("it speaks").expect("a record").expect("readable");
    let line = String::from_utf8_lossy(&first.bytes).into_owned();
    let address = line.split_whitespace().find_map(|word| word.split_once('/')).expect("an address").0.to_owned();
    let (_, out) = bench.run(&on(&format!("ip route; echo | nc -w 3 {address} 9000 > /dev/null && echo connected; echo done")), &isolated).await;
    assert!(out.contains(&format!("default via {}", network.gateway)), "{out}");
    assert!(out.contains("done") && !out.contains("connected"), "containers reach each other: {out}");
    let (_, out) = bench.run(&on("ls /sys/class/net"), &profile()).await;
    assert!(!out.contains("eth0"), "a profile without network got one: {out}");
    bench.driver.remove(&server).await.expect("removed");
    bench.raw.remove_network(&network.id).await.expect("removed");
    let anew = bench.driver.ensure_network(None).await.expect("made again");
    assert_ne!(anew.id, network.id);
    assert_eq!((anew.gateway, &anew.subnets), (network.gateway, &network.subnets), "running jobs know the broker's address");
    bench.finish().await;
}

#[tokio::test]
async fn a_hostile_image_gains_nothing() {
    let bench = Bench::new().await;
    let id = bench.driver.create(&bench.plan("true"), &profile()).await.expect("created");
    let name = format!("rc-test/hostile-{}", &bench.instance[..12]);
    let changes = "VOLUME /data/\nENV LD_PRELOAD=/x.so\nENV NVIDIA_VISIBLE_DEVICES=all\nUSER root\nENTRYPOINT [\"/bin/false\"]\nHEALTHCHECK CMD true";
    let options = CommitContainerOptionsBuilder::new().container(&id).repo(&name).tag("1").changes(changes).build();
    bench.raw.commit_container(options, ContainerConfig::default()).await.expect("committed");
    let reference = ImageRef::from_trusted(format!("{name}:1"));
    let image = bench.driver.resolve_image(&reference).await.expect("answered").expect("there");
    assert_eq!((image.forced_env.len(), image.volumes.len(), image.user.as_deref()), (2, 1, Some("root")), "{image:?}");
    let script = "grep ' /data ' /proc/mounts; echo x > /data/y && echo writable; env; id -u";
    let plan = ContainerPlan { image, ..bench.plan(script) };
    let (facts, out) = bench.run(&plan, &profile()).await;
    assert_eq!(facts.exit_code, Some(0), "the image's entry point was not removed: {out}");
    assert!(out.lines().any(|line| line.starts_with("tmpfs /data tmpfs") && line.contains("noexec")), "{out}");
    assert!(!out.contains("ext4 ") && out.contains("writable"), "{out}");
    assert!(out.lines().any(|line| line == "LD_PRELOAD=") && out.lines().any(|line| line == "NVIDIA_VISIBLE_DEVICES=void"), "{out}");
    assert!(out.lines().any(|line| line == "65532"), "{out}");
    bench.driver.remove(&facts.id).await.expect("removed");
    bench.raw.remove_image(&format!("{name}:1"), None::<RemoveImageOptions>, None).await.expect("removed");
    bench.finish().await;
}

#[tokio::test]
async fn events_wake_for_our_containers_only() {
    let bench = Bench::new().await;
    let stranger = Bench::new().await;
    let mut events = bench.driver.events();
    let plan = bench.plan("true");
    // The stream opens when it is first asked, so ask while the containers come and go.
    let lives = async {
        for _ in 0..20 {
            let foreign = stranger.driver.create(&stranger.plan("true"), &profile()).await.expect("created");
            stranger.driver.remove(&foreign).await.expect("removed");
            let id = bench.driver.create(&plan, &profile()).await.expect("created");
            bench.driver.remove(&id).await.expect("removed");
        }
    };
    let (event, ()) = tokio::join!(tokio::time::timeout(PATIENCE, events.next()), lives);
    let event = event.expect("an event comes").expect("the stream is open").expect("readable");
    assert_eq!(event.runner, Some(plan.owner.runner));
    assert!(["create", "destroy"].contains(&event.action.as_str()), "{event:?}");
    stranger.finish().await;
    bench.finish().await;
}

#[tokio::test]
async fn an_engine_that_goes_and_comes_is_found_again() {
    let host = engine::host();
    let path = host.strip_prefix("unix://").expect("the tests' engine listens on a socket file").to_owned();
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("s");
    let driver = DockerDriver::new(&format!("unix://{}", socket.display()), "none".to_owned(), Vec::new()).expect("no engine is needed yet");
    assert!(matches!(driver.ping().await, Err(DriverError::Unreachable { .. })), "no socket yet");

    let serve = |listener: UnixListener, path: String| async move {
        let connections = TaskTracker::new();
        while let Ok((mut client, _)) = listener.accept().await {
            let path = path.clone();
            connections.spawn(async move {
                let mut engine = UnixStream::connect(path).await?;
                copy_bidirectional(&mut client, &mut engine).await
            });
        }
    };
    let relays = TaskTracker::new();
    let relay = relays.spawn(serve(UnixListener::bind(&socket).expect("bound"), path.clone()));
    driver.ping().await.expect("the engine came");
    assert!(driver.info().await.expect("info").api.starts_with("1."));

    relay.abort();
    assert!(relay.await.is_err_and(|end| end.is_cancelled()));
    assert!(matches!(driver.ping().await, Err(DriverError::Unreachable { .. })), "nobody listens any more");
    assert!(matches!(driver.list().await, Err(DriverError::Unreachable { .. })));

    std::fs::remove_file(&socket).expect("removed");
    let hangs = UnixListener::bind(&socket).expect("bound");
    assert!(matches!(driver.ping().await, Err(DriverError::Deadline { call: "ping", .. })), "it takes the call and stays silent");
    drop(hangs);

    std::fs::remove_file(&socket).expect("removed");
    let relay = relays.spawn(serve(UnixListener::bind(&socket).expect("bound"), path));
    driver.ping().await.expect("the engine came back");
    assert_eq!(driver.list().await.expect("a list"), Vec::new());
    relay.abort();
}

#[tokio::test]
async fn the_engine_tells_what_it_is() {
    let bench = Bench::new().await;
    let info = bench.driver.info().await.expect("info");
    assert!(!info.id.is_empty() && info.cpus >= 1 && info.memory.0 > 0 && info.arch.is_some(), "{info:?}");
    assert!(info.runtimes.iter().any(|runtime| runtime == "runc"), "{info:?}");
    assert!(info.security_options.iter().any(|option| option.contains("seccomp")), "{info:?}");
    bench.finish().await;
}
