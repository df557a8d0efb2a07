//! The part of `check` that is about what containers can reach: whether the firewall can hold them to it, and what classes open.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::config::{Class, Config};
use crate::docker::{DockerDriver, Driver};
use crate::domain::chain;
use crate::firewall::{Firewall, Guarded, Nft, Reach, Rules};
use crate::gitlab::diagnosis::Finding;

/// Sets rules on a network of its own, and takes both away.
pub(super) async fn firewall(config: &Config) -> Option<Finding> {
    let needs: Vec<&str> = config.classes.iter().filter(|class| class.network.is_filtered()).map(|class| class.name.as_str()).collect();
    if needs.is_empty() {
        return None;
    }
    let advice = "classes with `network = \"none\"` or `\"open\"` need no firewall";
    Some(match tried(config).await {
        Ok(()) => Finding::Good("firewall: rules of nftables can be set on the networks of jobs".to_owned()),
        Err(why) => Finding::Bad(format!("firewall: no job of class {} will start: {why}; {advice}", needs.join(", "))),
    })
}

async fn tried(config: &Config) -> Result<(), String> {
    // An owner of its own, so that no daemon takes the network for one of its own.
    let instance = uuid::Uuid::now_v7().simple().to_string();
    let driver = DockerDriver::new(&config.docker.host, instance.clone(), Vec::new()).map_err(|error| chain(&error))?;
    let network = driver.ensure_network(None).await.map_err(|error| chain(&error))?;
    let none = Rules { table: format!("rc_check_{instance}"), dns: BTreeSet::new(), broker: BTreeSet::new(), networks: Vec::new() };
    let guarded = Guarded { bridge: network.bridge.clone(), subnets: network.subnets.clone(), reach: Reach::Internet(BTreeSet::new()) };
    let firewall = Firewall::new(Arc::new(Nft));
    let held = firewall.hold(&Rules { networks: vec![guarded], ..none.clone() }).await;
    // Also after a failure, which may have come when they were set already.
    let cleared = firewall.hold(&none).await;
    let removed = driver.remove_network(&network.id).await;
    held.and(cleared).map_err(|error| error.to_string())?;
    removed.map_err(|error| format!("its network {} is left: {}", network.name, chain(&error)))
}

/// What classes open beyond the strictest that there is.
pub(super) fn openings(config: &Config) -> Vec<Finding> {
    let of = |class: &Class| {
        let opened: Vec<String> = class.openings().iter().map(ToString::to_string).collect();
        (!opened.is_empty()).then(|| Finding::Odd(format!("opened: class {}: {}", class.name, opened.join("; "))))
    };
    config.classes.iter().filter_map(of).collect()
}
