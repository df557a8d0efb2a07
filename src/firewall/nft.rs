//! The kernel's packet filter by way of the program `nft`.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::process::Stdio;
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use super::{FirewallError, Netfilter};

/// How long it may take: it waits for others who change rules.
const DEADLINE: Duration = Duration::from_secs(10);
/// Where it is looked for.
const PATH: &str = "/usr/sbin:/sbin:/usr/local/sbin:/usr/bin:/bin";
/// The machine's name servers, and where systemd keeps the real ones when it stands in for them itself; the engine reads the same two.
const RESOLVERS: [&str; 2] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];

/// The program `nft`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Nft;

#[async_trait]
impl Netfilter for Nft {
    async fn run(&self, script: &str) -> Result<String, FirewallError> {
        let mut command = Command::new("nft");
        // Without counters, and with numbers for names, so that what is unchanged reads the same.
        command.args(["-s", "-n", "-f", "-"]).env_clear().env("PATH", PATH).env("LC_ALL", "C").kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => FirewallError::Absent,
            _ => FirewallError::Failed(error.to_string()),
        })?;
        let mut input = child.stdin.take().ok_or_else(|| FirewallError::Failed("it takes no input".to_owned()))?;
        let told = async {
            // One that has already ended says why below.
            let _ = input.write_all(script.as_bytes()).await;
            drop(input);
            child.wait_with_output().await
        };
        let ended = tokio::time::timeout(DEADLINE, told).await;
        let output = ended.map_err(|_| FirewallError::Failed(format!("it did not end within {} s", DEADLINE.as_secs())))?;
        let output = output.map_err(|error| FirewallError::Failed(error.to_string()))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.lines().next().unwrap_or("nothing").to_owned();
        Err(if said.contains("Operation not permitted") { FirewallError::Forbidden(said) } else { FirewallError::Failed(said) })
    }

    fn sees(&self, interface: &str) -> bool {
        let listed = std::fs::read_to_string("/proc/self/net/dev").unwrap_or_default();
        listed.lines().filter_map(|line| line.split_once(':')).any(|(name, _)| name.trim() == interface)
    }

    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        let found = tokio::time::timeout(DEADLINE, tokio::net::lookup_host((name, 0))).await;
        Ok(found.map_err(|_| io::ErrorKind::TimedOut)??.map(|address| address.ip()).collect())
    }

    fn name_servers(&self) -> Vec<IpAddr> {
        RESOLVERS.iter().filter_map(|path| std::fs::read_to_string(path).ok()).flat_map(|text| name_servers(&text)).collect()
    }
}

/// Those of a `resolv.conf` that are reached over the network; the others the engine asks itself, from outside of the container.
fn name_servers(text: &str) -> Vec<IpAddr> {
    let named = text.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        // An address of IPv6 may have a zone behind it.
        words.next().filter(|word| *word == "nameserver").and(words.next())?.split('%').next()?.parse().ok()
    });
    named.filter(|address: &IpAddr| !address.is_loopback() && *address != IpAddr::V4(Ipv4Addr::UNSPECIFIED)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_are_read_from_what_people_write() {
        let text =
            "# nameserver 1.1.1.1\nsearch a b\nnameserver 10.0.0.2\n nameserver\tfe80::1%eth0\nnameserver 127.0.0.53\nnameserver\nnameserver x\n";
        assert_eq!(name_servers(text), ["10.0.0.2", "fe80::1"].map(|text| text.parse::<IpAddr>().expect("an address")));
    }
}
