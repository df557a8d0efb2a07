//! What jobs reach over the network, with a real engine, a real packet filter, and an outside world made of a network namespace.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::sync::{Mutex, MutexGuard};

use crate::harness::engine::{self, UNTIL_TOLD};
use crate::harness::own_engine::{OwnEngine, Restart};
use crate::harness::{BUSYBOX, Daemon, Setup};

/// An address of the public internet, one of a private network, and that of clouds' metadata services, as the outside has them here.
const INTERNET: &str = "9.9.9.9";
const PRIVATE: &str = "10.77.0.2";
const METADATA: &str = "169.254.169.254";
/// The machine's own address, as the job sees it.
pub(crate) const GATEWAY: &str = "$(ip route | sed -n 's/^default via \\([0-9.]*\\).*/\\1/p')";

/// Runs these words of a shell as root of this machine.
fn sh(words: &str) -> bool {
    Command::new("sh").args(["-c", words]).env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin").stderr(Stdio::null()).status().expect("a shell").success()
}

/// Machines beyond the engine's, each of whose addresses answers at the ports 80 and 81.
struct Outside {
    namespace: String,
    servers: Vec<Child>,
    // The last to go: the next test has the same addresses.
    _turn: MutexGuard<'static, ()>,
}

/// Tests take turns to have an outside.
static TURN: Mutex<()> = Mutex::const_new(());

impl Outside {
    async fn new(name: &str) -> Self {
        let turn = TURN.lock().await;
        let namespace = format!("rc-{name}-{}", std::process::id());
        let (inside, addresses) = ("rcout0", [INTERNET, PRIVATE, METADATA]);
        let on_lo = addresses.map(|address| format!("ip -n {namespace} addr add {address}/32 dev lo")).join(" && ");
        let routes = addresses.map(|address| format!("ip route replace {address}/32 via 10.78.0.2")).join(" && ");
        let made = sh(&format!(
            "ip netns add {namespace} && ip link add {inside} type veth peer name eth0 netns {namespace} && ip addr add 10.78.0.1/30 dev {inside} && \
             ip link set {inside} up && ip -n {namespace} addr add 10.78.0.2/30 dev eth0 && ip -n {namespace} link set eth0 up && \
             ip -n {namespace} link set lo up && {on_lo} && ip -n {namespace} route add default via 10.78.0.1 && {routes}"
        ));
        assert!(made, "the outside could not be made");
        let serve = |port: &str| {
            let words = ["netns", "exec", &namespace, "busybox", "nc", "-ll", "-p", port, "-e", "cat"];
            Command::new("ip").args(words).stdin(Stdio::null()).spawn().expect("a server")
        };
        let servers = ["80", "81"].map(serve).into();
        Self { namespace, servers, _turn: turn }
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        for server in &mut self.servers {
            let _ = server.kill();
            let _ = server.wait();
        }
        // The interface may outlive the name of its namespace by a moment.
        sh(&format!("ip netns pids {0} | xargs -r kill -9; ip link delete rcout0; ip netns delete {0}", self.namespace));
    }
}

/// A service of the machine, on all its addresses. Tells its port.
pub(crate) fn service() -> u16 {
    let service = TcpListener::bind("0.0.0.0:0").expect("a service of the machine");
    let port = service.local_addr().expect("an address").port();
    std::thread::spawn(move || service.incoming().for_each(drop));
    port
}

/// A script that tells what it reaches of these: name, address, port.
pub(crate) fn probe(targets: &[(&str, &str, u16)]) -> String {
    let tries = targets.iter().map(|(name, address, port)| format!("try {name} {address} {port}")).collect::<Vec<_>>().join("\n");
    format!(
        "try() {{ echo | nc -w 3 $2 $3 > /dev/null 2>&1 && echo reached $1; }}\n{tries}\n\
         broker=${{RUNNER_COORDINATOR_URL#http://}}; [ -z \"$broker\" ] || try broker ${{broker%:*}} ${{broker##*:}}\ntrue"
    )
}

pub(crate) async fn told(daemon: &Daemon, class: &str, script: &str) -> Vec<String> {
    let id = daemon.submit(json!({ "class": class, "image": BUSYBOX, "command": ["sh", "-c", script] })).await;
    let job = daemon.ended(&id).await;
    let log = daemon.logs(&id).await;
    assert_eq!(job["state"], "succeeded", "{job}\n{log}");
    log.lines().filter_map(|line| line.strip_prefix("reached ")).map(str::to_owned).collect()
}

const CLASSES: &str = r#"
[[classes]]
name = "isolated"
[[classes]]
name = "listed"
network = "allowlist"
network_allow = ["10.77.0.2:80"]
[[classes]]
name = "open"
network = "open"
[[classes]]
name = "none"
network = "none"
"#;

/// The machine's address on a class's bridge, and that of a container there.
fn addresses(container: &str) -> (String, String) {
    let format = "{{range .NetworkSettings.Networks}}{{.Gateway}} {{.IPAddress}}{{end}}";
    let told = engine::docker(&["inspect", "--format", format, container]);
    let (gateway, own) = told.trim().split_once(' ').expect("two addresses");
    (gateway.to_owned(), own.to_owned())
}

#[tokio::test]
async fn each_class_reaches_what_it_says_and_no_more() {
    let _outside = Outside::new("reach").await;
    let daemon = Setup::new("network-reach").host("cpus = 8\nmemory = \"16GiB\"").with(CLASSES).start().await;
    daemon.until("it is healthy", Daemon::is_healthy).await;
    let port = service();
    for (class, reached) in [
        ("isolated", vec!["internet", "broker"]),
        ("listed", vec!["private", "broker"]),
        ("open", vec!["internet", "private", "other-port", "metadata", "machine", "broker"]),
        ("none", vec![]),
    ] {
        let server = format!("nc -ll -p 9000 -e cat & {UNTIL_TOLD}");
        let neighbour = daemon.submit(json!({ "class": class, "image": BUSYBOX, "command": ["sh", "-c", server] })).await;
        daemon.reaches(&neighbour, &["running"]).await;
        let container = engine::docker(&["ps", "--quiet", "--filter", &format!("label=runner-coordinator.job={neighbour}")]);
        let (machine, neighbours) = if class == "none" { (INTERNET.to_owned(), INTERNET.to_owned()) } else { addresses(container.trim()) };
        let targets = [
            ("internet", INTERNET, 80),
            ("private", PRIVATE, 80),
            ("other-port", PRIVATE, 81),
            ("metadata", METADATA, 80),
            ("machine", machine.as_str(), port),
            ("neighbour", neighbours.as_str(), 9000),
        ];
        assert_eq!(told(&daemon, class, &probe(&targets)).await, reached, "{class}");
        engine::tell(&neighbour);
        assert_eq!(daemon.ended(&neighbour).await["state"], "succeeded");
    }
    // The neighbour did listen: the machine reaches it.
    let server = daemon.submit(json!({ "class": "open", "image": BUSYBOX, "command": ["sh", "-c", "nc -ll -p 9000 -e cat & sleep 60"] })).await;
    daemon.reaches(&server, &["running"]).await;
    let container = engine::docker(&["ps", "--quiet", "--filter", &format!("label=runner-coordinator.job={server}")]);
    let (_, address) = addresses(container.trim());
    daemon.until("the machine reaches the job", async |_| std::net::TcpStream::connect((address.as_str(), 9000)).is_ok()).await;
    let listed = daemon.submit(json!({ "class": "isolated", "image": BUSYBOX, "command": ["sh", "-c", probe(&[("other", &address, 9000)])] })).await;
    daemon.ended(&listed).await;
    assert!(!daemon.logs(&listed).await.contains("other"), "the job of another class is reached");
    daemon.request(reqwest::Method::DELETE, &format!("/jobs/{server}"), None).await;
    daemon.ended(&server).await;
    daemon.finish().await;
}

fn table(daemon: &Daemon) -> String {
    let instance = engine::instance(&daemon.data()).expect("its id").replace('-', "");
    format!("rc_{}", &instance[instance.len() - 12..])
}

fn held(table: &str) -> bool {
    sh(&format!("nft list table inet {table} > /dev/null && nft list table bridge {table} > /dev/null"))
}

#[tokio::test]
async fn rules_that_somebody_takes_away_come_back_and_hold_while_the_daemon_is_dead() {
    let _outside = Outside::new("flush").await;
    let mut daemon = Setup::new("network-flush").with("[[classes]]\nname = \"default\"").start().await;
    let targets = [("internet", INTERNET, 80), ("private", PRIVATE, 80), ("metadata", METADATA, 80)];
    let script = format!("{UNTIL_TOLD}\n{}", probe(&targets).replace("broker=", "broker=;false && unused="));
    let job = daemon.submit(json!({ "image": BUSYBOX, "command": ["sh", "-c", script] })).await;
    daemon.reaches(&job, &["running"]).await;
    let table = table(&daemon);
    assert!(held(&table));
    for family in ["inet", "bridge"] {
        assert!(sh(&format!("nft delete table {family} {table}")) && !held(&table));
        daemon.until("the rules are back", async |_| held(&table)).await;
    }
    daemon.kill();
    engine::tell(&job);
    let container = daemon.name.clone();
    let over =
        async |_: &Daemon| engine::docker(&["ps", "--quiet", "--filter", &format!("label=runner-coordinator.host={container}")]).trim().is_empty();
    daemon.until("the job is over", over).await;
    assert!(held(&table));
    daemon.start().await;
    assert_eq!(daemon.ended(&job).await["state"], "succeeded");
    assert_eq!(daemon.logs(&job).await, "reached internet\n");
    daemon.finish().await;
}

#[tokio::test]
async fn an_engine_that_was_restarted_holds_its_jobs_as_before() {
    let mut engine = OwnEngine::start_beside(Restart::Ends).await;
    let daemon = Setup::new("network-engine").docker_host(&engine.host()).with(CLASSES).start().await;
    daemon.until("it is healthy", Daemon::is_healthy).await;
    let script = probe(&[("machine", GATEWAY, service())]);
    for _ in 0..2 {
        assert_eq!(told(&daemon, "isolated", &script).await, ["broker"]);
        assert_eq!(told(&daemon, "open", &script).await, ["machine", "broker"]);
        engine.kill();
        engine.resume().await;
        daemon.until("it is healthy", Daemon::is_healthy).await;
    }
    daemon.finish().await;
}

#[tokio::test]
async fn without_the_right_to_set_rules_no_job_starts_that_needs_them() {
    let drop = "exec setpriv --bounding-set=-net_admin --inh-caps=-net_admin \"$0\" \"$@\"";
    let daemon = Setup::new("network-rights").host("cpus = 4").with(CLASSES).limits(drop).start().await;
    let sleepy = |class: &str| json!({ "class": class, "image": BUSYBOX, "command": ["true"] });
    let held_back = daemon.submit(sleepy("isolated")).await;
    let explain = async || daemon.get(&format!("/jobs/{held_back}/explain")).await;
    daemon.until("it is told why", async |_| explain().await["hosts"][0]["state"] == "network_unguarded").await;
    assert!(explain().await["summary"].as_str().is_some_and(|summary| summary.contains("CAP_NET_ADMIN")), "{}", explain().await);
    assert_eq!(daemon.job(&held_back).await["attempt"], 0, "it waits, and no attempt is used up");
    for class in ["open", "none"] {
        let id = daemon.submit(sleepy(class)).await;
        assert_eq!(daemon.ended(&id).await["state"], "succeeded", "{class}");
    }
    let (status, health) = daemon.request(reqwest::Method::GET, "/health", None).await;
    let network: &Value = &health["checks"]["network"];
    assert_eq!((status, &network["status"]), (StatusCode::SERVICE_UNAVAILABLE, &json!("failing")), "{health}");
    assert_eq!(daemon.job(&held_back).await["state"], "queued");
    let metrics = daemon.get("/metrics").await;
    assert!(metrics.as_str().is_some_and(|text| text.contains("\nrunner_coordinator_host_network_unguarded 1")), "{metrics}");
    daemon.request(reqwest::Method::DELETE, &format!("/jobs/{held_back}"), None).await;
    assert_eq!(daemon.ended(&held_back).await["state"], "canceled");
    daemon.finish().await;
}
