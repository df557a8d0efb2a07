//! The rules, as a pure function of what containers may reach.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

/// Addresses that are not the public internet, by IANA's registries of special-purpose addresses, and Azure's wire server, which gives out a
/// machine's secrets at a public address. The metadata services of the others are link-local or private.
const PRIVATE_V4: &str = "0.0.0.0/8, 10.0.0.0/8, 100.64.0.0/10, 127.0.0.0/8, 168.63.129.16/32, 169.254.0.0/16, 172.16.0.0/12, 192.0.0.0/24, \
                          192.0.2.0/24, 192.88.99.0/24, 192.168.0.0/16, 198.18.0.0/15, 198.51.100.0/24, 203.0.113.0/24, 224.0.0.0/3";
/// The same of IPv6: all but global unicast, and of that what stands for addresses of IPv4.
const PRIVATE_V6: &str = "::/3, 2001::/32, 2001:2::/48, 2001:db8::/32, 2002::/16, 3fff::/20, 4000::/2, 8000::/1";

/// How one who must not pass is told: at once, rather than by silence.
const REFUSE: &str = "reject with icmpx type admin-prohibited";

/// Addresses that may be reached, all ports or one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Allowed {
    /// Where.
    pub net: IpNet,
    /// Only this port.
    pub port: Option<u16>,
}

/// What the containers of a network may reach beside the broker and the name servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reach {
    /// These.
    Listed(BTreeSet<Allowed>),
    /// The public internet and these.
    Internet(BTreeSet<Allowed>),
    /// Everything, the machine itself too.
    Everything,
}

/// A network that is guarded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guarded {
    /// The machine's interface.
    pub bridge: String,
    /// The addresses on it.
    pub subnets: Vec<IpNet>,
    /// What its containers may reach.
    pub reach: Reach,
}

/// All rules of one coordinator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// The name of its tables, which no other coordinator has.
    pub table: String,
    /// Name servers.
    pub dns: BTreeSet<IpAddr>,
    /// Where the broker is.
    pub broker: BTreeSet<SocketAddr>,
    /// The networks. No container of one reaches another one's, nor another container on its own.
    pub networks: Vec<Guarded>,
}

impl Rules {
    /// The script that puts them in the place of what was there before, in one transaction.
    #[must_use]
    pub fn script(&self) -> String {
        let mut script = String::new();
        for family in ["inet", "bridge"] {
            // What is not there cannot be deleted, so it is made first.
            let _ = writeln!(script, "table {family} {0}\ndelete table {family} {0}", self.table);
        }
        if self.networks.is_empty() {
            return script;
        }
        let _ = writeln!(script, "table inet {} {{", self.table);
        let _ = writeln!(script, "set private4 {{ type ipv4_addr; flags interval; elements = {{ {PRIVATE_V4} }}; }}");
        let _ = writeln!(script, "set private6 {{ type ipv6_addr; flags interval; elements = {{ {PRIVATE_V6} }}; }}");
        for guarded in &self.networks {
            self.write_chains(&mut script, guarded);
        }
        self.write_hooks(&mut script);
        let _ = writeln!(script, "}}\ntable bridge {} {{", self.table);
        let _ = writeln!(script, "chain forward {{\ntype filter hook forward priority -200; policy accept;");
        // From container to container of one bridge, to all of them at once too, which may pass below all other rules. By the sender's address, which
        // no container can change, because not every kernel knows a bridge's name here.
        for subnet in self.networks.iter().flat_map(|guarded| &guarded.subnets) {
            let family = if matches!(subnet, IpNet::V4(_)) { "ip" } else { "ip6" };
            let _ = writeln!(script, "{family} saddr {subnet} drop");
        }
        script.push_str("}\n}\n");
        script
    }

    /// The scripts that show them. One for each table: nft 1.0.6 finds the first no more when it is asked for two at once.
    #[must_use]
    pub fn lists(&self) -> Vec<String> {
        let families: &[&str] = if self.networks.is_empty() { &[] } else { &["inet", "bridge"] };
        families.iter().map(|family| format!("list table {family} {}\n", self.table)).collect()
    }

    fn bridges(&self) -> String {
        self.networks.iter().map(|guarded| format!("\"{}\"", guarded.bridge)).collect::<Vec<_>>().join(", ")
    }

    fn write_chains(&self, script: &mut String, Guarded { bridge, reach, .. }: &Guarded) {
        let mut common = self.common();
        let mut here = String::new();
        if let Reach::Listed(allowed) | Reach::Internet(allowed) = reach {
            // On the machine itself too: a GitLab or a registry may be there.
            let (loopback, outside): (Vec<&Allowed>, Vec<&Allowed>) = allowed.iter().partition(|allowed| allowed.net.addr().is_loopback());
            common.extend(outside.into_iter().map(passing));
            // What is loopback to the machine is another address of it to containers.
            let ports = loopback.iter().filter_map(|allowed| allowed.port);
            here.extend(ports.map(|port| format!("meta l4proto {{ tcp, udp }} ct original proto-dst {port} accept\n")));
        }
        let _ = writeln!(script, "chain out_{bridge} {{\nct state established,related accept\noifname {{ {} }} {REFUSE}\n{common}", self.bridges());
        match reach {
            Reach::Everything => script.push_str("accept\n"),
            Reach::Listed(_) => {
                let _ = writeln!(script, "{REFUSE}");
            }
            Reach::Internet(_) => {
                let _ = writeln!(script, "ip daddr @private4 {REFUSE}\nip6 daddr @private6 {REFUSE}\naccept");
            }
        }
        let _ = writeln!(script, "}}\nchain host_{bridge} {{\nct state established,related accept\n{common}{here}");
        match reach {
            Reach::Everything => script.push_str("accept\n}\n"),
            Reach::Listed(_) | Reach::Internet(_) => {
                let _ = writeln!(script, "{REFUSE}\n}}");
            }
        }
    }

    /// What every container may reach, wherever it is.
    fn common(&self) -> String {
        let dns = self.dns.iter().map(|address| passing(&Allowed { net: IpNet::from(*address), port: Some(53) }));
        let broker = self.broker.iter().map(|address| passing(&Allowed { net: IpNet::from(address.ip()), port: Some(address.port()) }));
        dns.chain(broker).collect()
    }

    fn write_hooks(&self, script: &mut String) {
        let each = |line: &dyn Fn(&str) -> String| self.networks.iter().map(|guarded| line(&guarded.bridge)).collect::<String>();
        // Before the engine's own, which see only what is let through here. Nobody begins a conversation with a container.
        let _ = writeln!(script, "chain forward {{\ntype filter hook forward priority -10; policy accept;");
        let _ = write!(script, "{}", each(&|bridge| format!("iifname \"{bridge}\" goto out_{bridge}\n")));
        let _ = writeln!(script, "oifname {{ {} }} ct state established,related accept\noifname {{ {} }} drop\n}}", self.bridges(), self.bridges());
        let _ = writeln!(script, "chain input {{\ntype filter hook input priority -10; policy accept;");
        let _ = writeln!(script, "{}}}", each(&|bridge| format!("iifname \"{bridge}\" goto host_{bridge}\n")));
    }
}

/// By the address that was asked for, whatever the machine made of it on the way: a published port of another container is meant by the
/// machine's address.
fn passing(Allowed { net, port }: &Allowed) -> String {
    let family = if matches!(net, IpNet::V4(_)) { "ipv4 ct original ip" } else { "ipv6 ct original ip6" };
    let port = port.map_or(String::new(), |port| format!(" meta l4proto {{ tcp, udp }} ct original proto-dst {port}"));
    format!("meta nfproto {family} daddr {net}{port} accept\n")
}
