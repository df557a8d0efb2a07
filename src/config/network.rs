//! What a class's containers can reach.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use super::Class;
use super::section::Section;
use crate::domain::FieldFault;

/// Most destinations of one class.
const MAX_DESTINATIONS: usize = 100;

/// What a container can reach. In none of these another job's container, and in none but `open` a service of the machine other than the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// `none`: nothing, not even the broker.
    None,
    /// `isolated`: the broker, GitLab and the public internet; no private address and no metadata service, unless `network_allow` names it.
    Isolated,
    /// `allowlist`: the broker, GitLab, and what `network_allow` names.
    Allowlist,
    /// `open`: whatever the machine reaches, and the machine itself. No firewall is needed for it.
    Open,
}

impl Network {
    /// Every choice, in the order in which messages list them.
    pub const ALL: [Self; 4] = [Self::None, Self::Isolated, Self::Allowlist, Self::Open];

    /// The name in the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Isolated => "isolated",
            Self::Allowlist => "allowlist",
            Self::Open => "open",
        }
    }

    /// Whether it is nothing without rules of the firewall, so that no container may start before they are set.
    #[must_use]
    pub fn is_filtered(self) -> bool {
        matches!(self, Self::Isolated | Self::Allowlist)
    }
}

/// A place outside that containers may reach.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Destination {
    /// Where.
    pub place: Place,
    /// Only this port; all of them when none is named.
    pub port: Option<u16>,
}

/// Where a destination is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// Addresses.
    Net(IpNet),
    /// Whatever addresses this name has.
    Name(String),
}

impl Destination {
    /// Reads `HOST`, `ADDRESS` or `NETWORK`, each with `:PORT` behind it or not; of IPv6 with a port in brackets: `[fd00::/8]:443`.
    ///
    /// # Errors
    /// Names `field` when the text is none of these.
    pub fn parse(field: &str, text: &str) -> Result<Self, FieldFault> {
        let fault = || {
            FieldFault::new(
                field,
                "must be host names, addresses or networks, with a port or without: such as git.example.com:443, 10.1.2.3, 10.0.0.0/8, [fd00::/8]:22",
            )
        };
        Self::read(text).ok_or_else(fault)
    }

    fn read(text: &str) -> Option<Self> {
        if let Some(net) = net(text) {
            return Some(Self { place: Place::Net(net), port: None });
        }
        let (place, port) = match text.rsplit_once(':') {
            Some(_) if text.ends_with(']') => (text, None),
            Some((place, port)) => (place, Some(port.parse().ok().filter(|port| *port > 0)?)),
            None => (text, None),
        };
        let bare = place.strip_prefix('[').and_then(|place| place.strip_suffix(']'));
        let place = match (bare, net(bare.unwrap_or(place))) {
            (Some(_), Some(net @ IpNet::V6(_))) | (None, Some(net @ IpNet::V4(_))) => Place::Net(net),
            (None, None) if is_host_name(place) => Place::Name(place.to_ascii_lowercase()),
            _ => return None,
        };
        Some(Self { place, port })
    }

    /// One that is reached at this base URL.
    #[must_use]
    pub fn of_url(url: &str) -> Option<Self> {
        let (scheme, rest) = url.split_once("://")?;
        let authority = rest.split(['/', '?', '#']).next()?.rsplit('@').next()?;
        let given = Self::read(authority)?;
        Some(Self { port: given.port.or(if scheme == "https" { Some(443) } else { Some(80) }), ..given })
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.place, self.port) {
            (Place::Net(IpNet::V6(net)), Some(port)) => write!(f, "[{net}]:{port}"),
            (Place::Net(net), None) => write!(f, "{net}"),
            (Place::Net(net), Some(port)) => write!(f, "{net}:{port}"),
            (Place::Name(name), None) => f.write_str(name),
            (Place::Name(name), Some(port)) => write!(f, "{name}:{port}"),
        }
    }
}

/// A network, or one address; what stands behind the prefix does not count.
fn net(text: &str) -> Option<IpNet> {
    text.parse::<IpNet>().map(|net| net.trunc()).ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

/// As in RFC 1123, with a letter in the last part, or it would be an address that is written wrongly.
fn is_host_name(text: &str) -> bool {
    let text = text.strip_suffix('.').unwrap_or(text);
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '-';
    let good = |part: &str| (1..=63).contains(&part.len()) && part.chars().all(legal) && !part.starts_with('-') && !part.ends_with('-');
    let lettered = text.rsplit('.').next().is_some_and(|last| last.chars().any(|c| c.is_ascii_alphabetic()));
    text.len() <= 253 && text.split('.').all(good) && lettered
}

/// Reads `network_allow`.
pub(super) fn destinations(section: &mut Section<'_>) -> Vec<Destination> {
    let texts = section.texts("network_allow");
    if texts.len() > MAX_DESTINATIONS {
        section.fault("network_allow", format!("must be at most {MAX_DESTINATIONS} destinations"));
    }
    let field = section.field("network_allow");
    texts.iter().filter_map(|text| section.note("network_allow", Destination::parse(&field, text))).collect()
}

/// Checks what only the two keys together can tell.
pub(super) fn check(section: &Section<'_>, class: &Class) {
    if section.has("network_allow") && !class.network.is_filtered() {
        section.fault("network_allow", "needs network = \"isolated\" or \"allowlist\"");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_are_read_as_they_are_written() {
        for text in ["git.example.com", "git.example.com:443", "10.0.0.0/8", "10.1.2.3/32", "10.1.2.0/24:22", "fd00::/8", "[fd00::/8]:22", "a:1"] {
            assert_eq!(Destination::parse("f", text).expect(text).to_string(), text);
        }
        let of = |text| Destination::parse("f", text).map(|found| found.to_string());
        assert_eq!(of("10.1.2.3"), Ok("10.1.2.3/32".to_owned()));
        assert_eq!(of("10.1.2.3/8:80"), Ok("10.0.0.0/8:80".to_owned()), "what stands behind the prefix does not count");
        assert_eq!(of("[fd00::1]:22"), Ok("[fd00::1/128]:22".to_owned()));
        assert_eq!(of("GIT.example.com"), Ok("git.example.com".to_owned()));
    }

    #[test]
    fn what_is_none_is_refused() {
        let long = "a".repeat(64);
        for text in [
            "",
            ":",
            "a:",
            "a:0",
            "a:65536",
            "a:x",
            "10.0.0.0/33",
            "10.0.0",
            "*.example.com",
            "-a",
            "a b",
            "[10.0.0.1]:1",
            "[a]:1",
            "http://a",
            &long,
            "a..b",
        ] {
            assert!(Destination::parse("f", text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_url_is_a_host_and_a_port() {
        let of = |url| Destination::of_url(url).map(|found| found.to_string());
        assert_eq!(of("https://git.example.com/gitlab"), Some("git.example.com:443".to_owned()));
        assert_eq!(of("http://10.0.0.1:8080"), Some("10.0.0.1/32:8080".to_owned()));
        assert_eq!(of("http://[fd00::1]"), Some("[fd00::1/128]:80".to_owned()));
        assert_eq!(of("git.example.com"), None);
    }
}
