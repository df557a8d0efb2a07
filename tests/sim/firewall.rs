//! A packet filter that sometimes refuses, and remembers what it was told for as long as the machine is up.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use runner_coordinator::firewall::{FirewallError, Netfilter};

use crate::world::World;

#[derive(Debug)]
pub(crate) struct SimNetfilter(pub(crate) Arc<World>);

#[async_trait]
impl Netfilter for SimNetfilter {
    async fn run(&self, script: &str) -> Result<String, FirewallError> {
        tokio::time::sleep(std::time::Duration::from_millis(3)).await;
        let mut engine = self.0.engine();
        if engine.chance(|dials| dials.firewall_fails) {
            return Err(FirewallError::Failed("simulated".to_owned()));
        }
        if script.starts_with("list") {
            return Ok(engine.rules.clone());
        }
        script.clone_into(&mut engine.rules);
        Ok(String::new())
    }

    fn sees(&self, _interface: &str) -> bool {
        true
    }

    async fn resolve(&self, _name: &str) -> io::Result<Vec<IpAddr>> {
        Err(io::ErrorKind::NotFound.into())
    }

    fn name_servers(&self) -> Vec<IpAddr> {
        Vec::new()
    }
}
