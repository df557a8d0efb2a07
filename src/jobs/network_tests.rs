use std::path::Path;

use super::super::deps::fixture::{FakeEngine, deps_of};
use super::*;
use crate::domain::ClassName;
use crate::firewall::fixture::Willing;

fn network(class: Option<&str>) -> NetworkInfo {
    let bridge = format!("br-{}", class.unwrap_or("broker"));
    NetworkInfo {
        name: format!("rc-{bridge}"),
        id: format!("id-{bridge}"),
        gateway: [172, 18, 0, 1].into(),
        subnets: vec!["172.18.0.0/16".parse().expect("a network")],
        bridge,
        class: class.map(ClassName::from_trusted),
    }
}

fn networks(classes: &[&str]) -> Vec<NetworkInfo> {
    [None].into_iter().chain(classes.iter().copied().map(Some)).map(network).collect()
}

struct Bench {
    shared: Shared,
    engine: Arc<FakeEngine>,
    kernel: Arc<Willing>,
    _directory: tempfile::TempDir,
}

impl Bench {
    fn new(config: &str, classes: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let engine = Arc::new(FakeEngine::default());
        *engine.networks.lock().expect("a lock") = networks(classes);
        let kernel = Arc::new(Willing::default());
        let mut deps = deps_of(directory.path(), Arc::clone(&engine), config).0;
        deps.seams.netfilter = Arc::<Willing>::clone(&kernel);
        Self { shared: Shared::new(deps, 1 << 32), engine, kernel, _directory: directory }
    }

    fn class(&self, name: &str) -> Class {
        class_named(&self.shared.deps.config.current(), &ClassName::from_trusted(name)).expect("configured").clone()
    }

    fn rules(&self) -> String {
        self.kernel.rules.lock().expect("a lock").clone()
    }

    /// What is written about going out of a class's bridge.
    fn outward(&self, class: &str) -> String {
        let rules = self.rules();
        let chain = rules.split(&format!("chain out_br-{class} {{\n")).nth(1).expect("a chain");
        chain[..chain.find("\n}\n").expect("its end")].to_owned()
    }

    fn refuse(&self, with: Option<FirewallError>) {
        *self.kernel.refuses.lock().expect("a lock") = with;
    }
}

const CLASSES: &str = r#"
[gitlab]
url = "https://git.example.com"
[[classes]]
name = "plain"
[[classes]]
name = "ci"
image = "runner:1"
gitlab_token = "t"
network_allow = ["10.9.0.0/16:5000"]
[[classes]]
name = "listed"
network = "allowlist"
network_allow = ["cache.example.com:8080"]
[[classes]]
name = "open"
network = "open"
[[classes]]
name = "none"
network = "none"
"#;

#[tokio::test(start_paused = true)]
async fn each_class_is_held_to_what_it_says() {
    let bench = Bench::new(CLASSES, &["plain", "ci", "listed", "open"]);
    let names = [("git.example.com", "10.0.0.7"), ("cache.example.com", "10.0.0.8")];
    *bench.kernel.names.lock().expect("a lock") = names.map(|(name, address)| (name.to_owned(), vec![address.parse().expect("an address")])).into();
    for class in ["plain", "ci", "listed", "open"] {
        let ready = ready(&bench.shared, &bench.class(class)).await.expect("ready");
        assert_eq!(ready.as_deref(), Some(format!("id-br-{class}").as_str()));
    }
    assert_eq!(ready(&bench.shared, &bench.class("none")).await.expect("ready"), None);
    let [gitlab, allowed, cache] = ["daddr 10.0.0.7/32", "daddr 10.9.0.0/16", "daddr 10.0.0.8/32"];
    let has = |class: &str| [gitlab, allowed, cache, "@private4", "proto-dst 53"].map(|part| bench.outward(class).contains(part));
    assert_eq!(has("plain"), [false, false, false, true, true]);
    assert_eq!(has("ci"), [true, true, false, true, true]);
    assert_eq!(has("listed"), [false, false, true, false, true]);
    assert_eq!(has("open"), [false, false, false, false, true]);
}

#[tokio::test(start_paused = true)]
async fn without_rules_only_what_needs_none_starts() {
    let bench = Bench::new(CLASSES, &["plain", "open"]);
    bench.refuse(Some(FirewallError::Forbidden("Operation not permitted".to_owned())));
    let [plain, open, none] = ["plain", "open", "none"].map(|class| bench.class(class));
    assert!(bench.shared.networks.closes(&plain) && !bench.shared.networks.closes(&open), "nothing is known yet");
    assert!(matches!(ready(&bench.shared, &plain).await, Err(OpError::Firewall(FirewallError::Forbidden(_)))));
    assert_eq!([&plain, &open, &none].map(|class| bench.shared.networks.closes(class)), [true, false, false]);
    assert!(bench.shared.networks.unguarded().is_some_and(|fault| fault.why.contains("CAP_NET_ADMIN")));
    assert!(ready(&bench.shared, &open).await.is_ok() && ready(&bench.shared, &none).await.is_ok());
    bench.refuse(None);
    ready(&bench.shared, &plain).await.expect("ready again");
    assert!(!bench.shared.networks.closes(&plain) && bench.shared.networks.unguarded().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_look_is_good_for_a_moment_and_for_the_networks_it_saw() {
    let bench = Bench::new(CLASSES, &["plain"]);
    ready(&bench.shared, &bench.class("plain")).await.expect("ready");
    bench.refuse(Some(FirewallError::Absent));
    ready(&bench.shared, &bench.class("plain")).await.expect("it was looked at just now");
    *bench.engine.networks.lock().expect("a lock") = networks(&["plain", "listed"]);
    assert!(ready(&bench.shared, &bench.class("listed")).await.is_err(), "of this one nothing is known");
    bench.refuse(None);
    ready(&bench.shared, &bench.class("listed")).await.expect("ready");
    tokio::time::advance(FRESH).await;
    bench.refuse(Some(FirewallError::Absent));
    assert!(ready(&bench.shared, &bench.class("plain")).await.is_err(), "that was long ago");
}

#[tokio::test(start_paused = true)]
async fn the_network_of_a_class_that_is_gone_goes_and_what_still_runs_there_reaches_no_more_than_the_broker() {
    let bench = Bench::new("[[classes]]\nname = \"plain\"", &["plain", "gone"]);
    bench.engine.keeps_networks.store(true, std::sync::atomic::Ordering::SeqCst);
    ready(&bench.shared, &bench.class("plain")).await.expect("ready");
    assert!(!bench.outward("gone").contains("@private4") && bench.outward("gone").contains("reject"), "{}", bench.rules());
    bench.engine.keeps_networks.store(false, std::sync::atomic::Ordering::SeqCst);
    tokio::time::advance(FRESH).await;
    ready(&bench.shared, &bench.class("plain")).await.expect("ready");
    assert!(!bench.rules().contains("br-gone") && bench.rules().contains("br-plain"));
    assert_eq!(bench.engine.networks.lock().expect("a lock").len(), 2);
}

#[test]
fn the_table_is_named_by_the_end_of_the_id_as_networks_are() {
    assert_eq!(table("0199aaaa-bbbb-cccc-dddd-0123456789ab"), "rc_0123456789ab");
    assert_eq!(table("short"), "rc_short");
    assert!(!Path::new("/").join(table("../x")).to_string_lossy().contains(".."));
}
