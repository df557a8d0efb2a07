//! A packet filter in memory.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;

use super::{FirewallError, Netfilter};

/// One that does what it is told, until it is told not to.
#[derive(Debug, Default)]
pub(crate) struct Willing {
    /// What was set last; whoever empties it is somebody who flushed the rules.
    pub(crate) rules: Mutex<String>,
    /// Why it refuses, if it does.
    pub(crate) refuses: Mutex<Option<FirewallError>>,
    /// Whether nobody answers what names stand for.
    pub(crate) deaf: Mutex<bool>,
    /// What names stand for.
    pub(crate) names: Mutex<BTreeMap<String, Vec<IpAddr>>>,
}

#[async_trait]
impl Netfilter for Willing {
    async fn run(&self, script: &str) -> Result<String, FirewallError> {
        if let Some(error) = self.refuses.lock().unwrap_or_else(PoisonError::into_inner).clone() {
            return Err(error);
        }
        let mut rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        match script.starts_with("list") {
            true if rules.is_empty() => Err(FirewallError::Failed("No such file or directory".to_owned())),
            true => Ok(rules.clone()),
            false => {
                script.clone_into(&mut rules);
                Ok(String::new())
            }
        }
    }

    fn sees(&self, interface: &str) -> bool {
        interface != "br-elsewhere"
    }

    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        if *self.deaf.lock().unwrap_or_else(PoisonError::into_inner) {
            std::future::pending::<()>().await;
        }
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.get(name).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn name_servers(&self) -> Vec<IpAddr> {
        vec![[10, 0, 0, 53].into()]
    }
}
