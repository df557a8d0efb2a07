use std::collections::BTreeSet;
use std::sync::Arc;

use super::fixture::Willing;
use super::*;

fn allowed(texts: &[(&str, Option<u16>)]) -> BTreeSet<Allowed> {
    texts.iter().map(|(net, port)| Allowed { net: net.parse().expect("a network"), port: *port }).collect()
}

fn rules(networks: Vec<(&str, Reach)>) -> Rules {
    Rules {
        table: "rc_0123456789ab".to_owned(),
        dns: ["10.0.0.53", "fd00::53"].iter().map(|text| text.parse().expect("an address")).collect(),
        broker: ["172.18.0.1:8093".parse().expect("an address")].into(),
        networks: networks
            .into_iter()
            .map(|(bridge, reach)| Guarded { bridge: bridge.to_owned(), subnets: vec!["172.18.0.0/16".parse().expect("a network")], reach })
            .collect(),
    }
}

fn isolated() -> Rules {
    rules(vec![("br-1", Reach::Internet(BTreeSet::new()))])
}

#[test]
fn the_rules_of_each_reach() {
    let all = rules(vec![
        ("br-internet", Reach::Internet(allowed(&[("10.1.2.0/24", Some(443)), ("192.168.7.7/32", None)]))),
        ("br-listed", Reach::Listed(allowed(&[("fd00::/8", Some(22))]))),
        ("br-open", Reach::Everything),
    ]);
    insta::assert_snapshot!(all.script());
}

#[test]
fn without_networks_there_are_no_tables() {
    let none = rules(Vec::new());
    assert_eq!(
        none.script(),
        "table inet rc_0123456789ab\ndelete table inet rc_0123456789ab\ntable bridge rc_0123456789ab\ndelete table bridge rc_0123456789ab\n"
    );
    assert_eq!(none.lists(), [""; 0]);
}

#[tokio::test]
async fn rules_that_somebody_took_away_or_changed_are_set_again() {
    let kernel = Arc::new(Willing::default());
    let firewall = Firewall::new(kernel.clone());
    firewall.hold(&isolated()).await.expect("set");
    let script = isolated().script();
    for meanwhile in [String::new(), script.replace("br-1", "br-2"), script.clone()] {
        kernel.rules.lock().expect("a lock").clone_from(&meanwhile);
        firewall.hold(&isolated()).await.expect("set again");
        assert_eq!(*kernel.rules.lock().expect("a lock"), script, "after {meanwhile:?}");
    }
    let more = rules(vec![("br-1", Reach::Everything)]);
    firewall.hold(&more).await.expect("others");
    assert_eq!(*kernel.rules.lock().expect("a lock"), more.script());
}

#[tokio::test]
async fn what_cannot_be_set_is_told_and_tried_again() {
    let kernel = Arc::new(Willing::default());
    let firewall = Firewall::new(kernel.clone());
    for error in [FirewallError::Absent, FirewallError::Forbidden("no".to_owned()), FirewallError::Failed("no".to_owned())] {
        firewall.hold(&isolated()).await.expect("set");
        *kernel.refuses.lock().expect("a lock") = Some(error.clone());
        assert_eq!(firewall.hold(&isolated()).await, Err(error));
        *kernel.refuses.lock().expect("a lock") = None;
    }
    let elsewhere = rules(vec![("br-elsewhere", Reach::Everything)]);
    assert_eq!(firewall.hold(&elsewhere).await, Err(FirewallError::Elsewhere("br-elsewhere".to_owned())));
    let both = rules(vec![("br-1", Reach::Everything), ("br-elsewhere", Reach::Everything)]);
    assert_eq!(firewall.hold(&both).await, Ok(()), "one that has just gone keeps the others from nothing");
}

#[test]
fn a_service_of_this_machine_that_has_a_loopback_address_is_opened_by_its_port_and_nowhere_else() {
    let script = rules(vec![("br-1", Reach::Internet(allowed(&[("127.0.1.1/32", Some(443)), ("127.0.1.2/32", None)])))]).script();
    assert!(!script.contains("127.0.1."), "{script}");
    let port = "meta l4proto { tcp, udp } ct original proto-dst 443 accept";
    let (outward, host) = script.split_once("chain host_br-1").expect("two chains");
    assert!(!outward.contains("proto-dst 443") && host.lines().any(|line| line == port), "{script}");
}

#[tokio::test(start_paused = true)]
async fn a_name_server_that_never_answers_costs_a_moment_whatever_is_asked() {
    let kernel = Willing::default();
    *kernel.deaf.lock().expect("a lock") = true;
    let (names, begun) = (Names::default(), tokio::time::Instant::now());
    let many: BTreeSet<String> = (0..100).map(|number| format!("{number}.example")).collect();
    assert!(names.addresses(&kernel, &many).await.values().all(Vec::is_empty));
    assert!(begun.elapsed() <= std::time::Duration::from_secs(2), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn addresses_of_a_name_stay_for_a_while_after_it_has_others() {
    let kernel = Willing::default();
    let names = Names::default();
    let is = |addresses: &[&str]| addresses.iter().map(|text| text.parse().expect("an address")).collect::<Vec<IpAddr>>();
    let known = async || {
        let mut known = names.addresses(&kernel, &["a.example".to_owned()].into()).await.remove("a.example").expect("asked for");
        known.sort();
        known
    };
    assert_eq!(known().await, is(&[]));
    kernel.names.lock().expect("a lock").insert("a.example".to_owned(), is(&["1.1.1.1"]));
    assert_eq!(known().await, is(&[]), "it is not asked for at every look");
    tokio::time::advance(std::time::Duration::from_secs(60)).await;
    assert_eq!(known().await, is(&["1.1.1.1"]));
    kernel.names.lock().expect("a lock").insert("a.example".to_owned(), is(&["2.2.2.2"]));
    tokio::time::advance(std::time::Duration::from_secs(60)).await;
    assert_eq!(known().await, is(&["1.1.1.1", "2.2.2.2"]));
    tokio::time::advance(std::time::Duration::from_secs(1800)).await;
    assert_eq!(known().await, is(&["2.2.2.2"]));
    kernel.names.lock().expect("a lock").clear();
    tokio::time::advance(std::time::Duration::from_secs(60)).await;
    assert_eq!(known().await, is(&["2.2.2.2"]), "a name server that is down for a while closes nothing");
}
