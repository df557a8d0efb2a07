//! The addresses of names that containers may reach. Names have several, and other ones over time, so what was told lately stays open.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tracing::warn;

use super::Netfilter;

/// How long an answer is good.
const FRESH: Duration = Duration::from_secs(60);
/// How long an address stays open after it was told last.
const KEPT: Duration = Duration::from_secs(30 * 60);
/// How long all names together may take: who asks has jobs waiting. One that is not answered in time is asked for again.
const PATIENCE: Duration = Duration::from_secs(2);

/// What names were told to be.
#[derive(Debug, Default)]
pub struct Names(Mutex<HashMap<String, Name>>);

#[derive(Debug, Default)]
struct Name {
    asked: Option<Instant>,
    known: HashMap<IpAddr, Instant>,
}

impl Names {
    /// The addresses of these names and of no others, which are forgotten. Those whose last answer is old are asked for anew, all at once. A name
    /// that nobody knows has none; that is told once.
    pub async fn addresses(&self, netfilter: &dyn Netfilter, names: &BTreeSet<String>) -> HashMap<String, Vec<IpAddr>> {
        let mut all = self.0.lock().await;
        let now = Instant::now();
        all.retain(|name, _| names.contains(name));
        let mut old = Vec::new();
        for name in names {
            let entry = all.entry(name.clone()).or_default();
            if entry.asked.is_none_or(|asked| now.duration_since(asked) >= FRESH) {
                old.push((name, entry.asked.replace(now).is_none()));
            }
        }
        let asked = old.into_iter().map(|(name, first)| async move {
            let found = tokio::time::timeout(PATIENCE, netfilter.resolve(name)).await;
            (name, first, found.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into())))
        });
        for (name, first, found) in join_all(asked).await {
            match found {
                Ok(found) => all.entry(name.clone()).or_default().known.extend(found.into_iter().map(|address| (address, now))),
                Err(error) if first => warn!(name, %error, "a name that jobs may reach has no address; it is asked for again every minute"),
                Err(_) => {}
            }
        }
        for entry in all.values_mut() {
            entry.known.retain(|_, told| now.duration_since(*told) < KEPT);
        }
        all.iter().map(|(name, entry)| (name.clone(), entry.known.keys().copied().collect())).collect()
    }
}
