//! The addresses of names that containers may reach. Names have several, and other ones over time, so what was told lately stays open.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;
use tracing::warn;

use super::Netfilter;

/// How long an answer is good.
const FRESH: Duration = Duration::from_secs(60);
/// How long an address stays open after it was told last.
const KEPT: Duration = Duration::from_secs(30 * 60);

/// What names were told to be.
#[derive(Debug, Default)]
pub struct Names(Mutex<HashMap<String, Name>>);

#[derive(Debug, Default)]
struct Name {
    asked: Option<Instant>,
    known: HashMap<IpAddr, Instant>,
}

impl Names {
    /// The addresses of a name, asked for anew when the last answer is old. None when nobody knows it; that is told once.
    pub async fn addresses(&self, netfilter: &dyn Netfilter, name: &str) -> Vec<IpAddr> {
        let mut all = self.0.lock().await;
        let entry = all.entry(name.to_owned()).or_default();
        let now = Instant::now();
        if entry.asked.is_none_or(|asked| now.duration_since(asked) >= FRESH) {
            let first = entry.asked.replace(now).is_none();
            match netfilter.resolve(name).await {
                Ok(found) => entry.known.extend(found.into_iter().map(|address| (address, now))),
                Err(error) if first => warn!(name, %error, "a name that jobs may reach has no address; it is asked for again every minute"),
                Err(_) => {}
            }
            entry.known.retain(|_, told| now.duration_since(*told) < KEPT);
        }
        entry.known.keys().copied().collect()
    }

    /// Forgets all others.
    pub async fn retain(&self, keep: impl Fn(&str) -> bool) {
        self.0.lock().await.retain(|name, _| keep(name));
    }
}
