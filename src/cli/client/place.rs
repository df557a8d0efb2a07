//! Where the daemon is: a URL or a Unix socket, as it is said or as the configuration has it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use reqwest::Url;
use rustix::fs::{Access, access};

use crate::config::{Http, Transport};

/// Where a daemon is met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) enum Place {
    /// In the network: a base URL without a slash at the end.
    Url(Url),
    /// Through a file of this machine.
    Socket(PathBuf),
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const FORMS: &str = "must be http://HOST:PORT, https://HOST or unix:/PATH";
        if let Some(path) = text.strip_prefix("unix:") {
            // `unix:///run/x` is how others write it.
            let path = path.strip_prefix("//").unwrap_or(path);
            return if path.len() > 1 && path.starts_with('/') { Ok(Self::Socket(PathBuf::from(path))) } else { Err(FORMS.to_owned()) };
        }
        let url = Url::parse(text).map_err(|_| FORMS.to_owned())?;
        let known = matches!(url.scheme(), "http" | "https") && url.has_host();
        let more = !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some();
        match (known, more) {
            (true, false) => Ok(Self::Url(url)),
            (true, true) => Err("must have no user name, query or fragment; a token is given with --token-file".to_owned()),
            (false, _) => Err(FORMS.to_owned()),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(url) => f.write_str(url.as_str().trim_end_matches('/')),
            Self::Socket(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Place {
    /// Where a daemon with this configuration is met on its own machine: through its socket, if there is one that we may open.
    pub(super) fn of(http: &Http) -> Self {
        let open = |path: &PathBuf| access(path.as_path(), Access::WRITE_OK).is_ok();
        if let Some(path) = http.socket.clone().filter(open) {
            return Self::Socket(path);
        }
        let url = match http.transport {
            Transport::Plain => format!("http://{}", reachable(http.listen)),
            // No certificate is made for an address that stands for all of them.
            Transport::Tls(_) | Transport::Sealed if http.listen.ip().is_unspecified() || http.listen.ip().is_loopback() => {
                format!("https://localhost:{}", http.listen.port())
            }
            Transport::Tls(_) | Transport::Sealed => format!("https://{}", http.listen),
        };
        // An address and a port are always a URL.
        Url::parse(&url).map_or_else(|_| Self::Socket(PathBuf::from(url)), Self::Url)
    }

    /// The URL of a path of the API.
    pub(super) fn url(&self, path: &str) -> String {
        match self {
            Self::Url(url) => format!("{}{path}", url.as_str().trim_end_matches('/')),
            Self::Socket(_) => format!("http://localhost{path}"),
        }
    }

    /// Whether certificates are needed to speak to it.
    pub(super) fn is_encrypted(&self) -> bool {
        matches!(self, Self::Url(url) if url.scheme() == "https")
    }

    /// Whether it is on this machine, where no proxy leads to it.
    pub(super) fn is_here(&self) -> bool {
        let Self::Url(url) = self else { return true };
        let host = url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }
}

/// A daemon that listens everywhere is met on this machine.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_url_or_a_socket_and_nothing_else() {
        let url = |text: &str| text.parse::<Place>().map(|place| (place.to_string(), place.url("/jobs")));
        let both = |place: &str, url: &str| Ok((place.to_owned(), url.to_owned()));
        assert_eq!(url("http://box1:8080"), both("http://box1:8080", "http://box1:8080/jobs"));
        assert_eq!(url("https://ci.example/runners/"), both("https://ci.example/runners", "https://ci.example/runners/jobs"));
        assert_eq!(url("http://[::1]:80"), both("http://[::1]", "http://[::1]/jobs"));
        assert_eq!(url("unix:/run/a.sock"), both("unix:/run/a.sock", "http://localhost/jobs"));
        assert_eq!(url("unix:///run/a.sock"), both("unix:/run/a.sock", "http://localhost/jobs"));
        for bad in
            ["", "box1", "box1:8080", "ftp://box1", "unix:", "unix:/", "unix:run", "http://", "http://a:b@box1", "http://box1/?a=b", "http://x/#y"]
        {
            assert!(url(bad).expect_err(bad).starts_with("must "), "{bad}");
        }
    }

    #[test]
    fn this_machine_is_told_from_others() {
        let here = |text: &str| text.parse::<Place>().expect("a place").is_here();
        assert!(here("http://localhost:1") && here("http://127.8.8.8") && here("https://[::1]") && here("unix:/x"));
        assert!(!here("http://localhost.example") && !here("http://10.0.0.1") && !here("https://[::2]"));
    }

    #[test]
    fn the_configuration_tells_the_socket_if_it_is_there_else_the_address() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("api.sock");
        let at = |listen: &str, transport: &Transport| {
            let (listen, transport) = (listen.parse().expect("an address"), transport.clone());
            Place::of(&Http { listen, socket: Some(path.clone()), transport, tokens: Vec::new() }).to_string()
        };
        let all = |transport| ["0.0.0.0:81", "[::]:81", "10.0.0.1:8"].map(|listen| at(listen, &transport));
        assert_eq!(all(Transport::Plain), ["http://127.0.0.1:81", "http://[::1]:81", "http://10.0.0.1:8"]);
        assert_eq!(all(Transport::Sealed), ["https://localhost:81", "https://localhost:81", "https://10.0.0.1:8"]);
        std::fs::write(&path, "").expect("written");
        assert_eq!(at("0.0.0.0:81", &Transport::Sealed), format!("unix:{}", path.display()));
    }
}
