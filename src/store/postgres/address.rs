//! Where the database is and how it is reached: `store.url` in the server's own form, with what `PostgreSQL`'s programs understand of TLS.
//!
//! ```text
//! postgres://user:password@host:5432/database?sslmode=verify-full&sslrootcert=/etc/ssl/postgres-ca.pem
//! ```

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::ConfigVerifierExt as _;
use secrecy::{ExposeSecret as _, SecretString};
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};
use tokio_postgres_rustls::MakeRustlsConnect;

/// Longest time for a connection to be made.
const CONNECTS_WITHIN: Duration = Duration::from_secs(5);
/// A peer that is silent for so long is asked whether it is there, and after as much again given up.
const SILENT_FOR: Duration = Duration::from_secs(10);

/// What is wrong with an address. Never shows the address, which may hold a password.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// It is no address of a database.
    #[error("store.url is no address of a database: {0}")]
    Malformed(String),
    /// TLS is asked for in a way that protects nobody, or that there is not.
    #[error("store.url has sslmode={0}, and only disable and verify-full are known: a connection that is encrypted for nobody knows whom is none")]
    SslMode(String),
    /// Over a network only TLS will do unless it is said otherwise.
    #[error("sslrootcert in store.url cannot be used: {0}")]
    RootCert(String),
}

/// A database's address, read.
#[derive(Clone)]
pub(super) struct Address {
    /// For the client library.
    pub(super) config: tokio_postgres::Config,
    /// What encrypts.
    pub(super) tls: MakeRustlsConnect,
}

impl std::fmt::Debug for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Address").field("hosts", &self.config.get_hosts()).field("dbname", &self.config.get_dbname()).finish_non_exhaustive()
    }
}

impl Address {
    /// Reads an address. Without `sslmode` a database on this machine is reached as it is, and any other by TLS.
    pub(super) fn read(url: &SecretString) -> Result<Self, AddressError> {
        let (plain, ssl) = Ssl::taken_from(url.expose_secret());
        let mut config: tokio_postgres::Config = plain.parse().map_err(|error| AddressError::Malformed(crate::domain::chain(&error)))?;
        if config.get_hosts().is_empty() {
            return Err(AddressError::Malformed("it names no host".to_owned()));
        }
        if config.get_user().is_none_or(str::is_empty) {
            return Err(AddressError::Malformed("it names no user".to_owned()));
        }
        let encrypts = match ssl.mode.as_deref() {
            None => !config.get_hosts().iter().all(is_here),
            Some("disable") => false,
            Some("verify-full") => true,
            Some(other) => return Err(AddressError::SslMode(other.to_owned())),
        };
        config.ssl_mode(if encrypts { SslMode::Require } else { SslMode::Disable });
        // After a failover the old primary may answer still, and only read.
        config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        config.connect_timeout(CONNECTS_WITHIN).keepalives_idle(SILENT_FOR).keepalives_interval(Duration::from_secs(2)).keepalives_retries(5);
        config.tcp_user_timeout(SILENT_FOR);
        if config.get_application_name().is_none() {
            config.application_name("runner-coordinator");
        }
        let trust = match ssl.root.as_deref() {
            Some(path) if encrypts => Trust::File(path),
            None if encrypts => Trust::Machine,
            _ => Trust::Nobody,
        };
        let tls = MakeRustlsConnect::new(tls(&trust)?);
        Ok(Self { config, tls })
    }

    /// Host and database, for people.
    pub(super) fn shown(&self) -> String {
        let host = self.config.get_hosts().iter().map(|host| match host {
            Host::Tcp(name) => name.clone(),
            Host::Unix(path) => path.display().to_string(),
        });
        let database = self.config.get_dbname().or(self.config.get_user()).unwrap_or_default();
        format!("database {database:?} on {}", host.collect::<Vec<_>>().join(", "))
    }
}

fn is_here(host: &Host) -> bool {
    match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback()),
    }
}

/// What an address says of TLS beyond what the client library reads itself.
#[derive(Debug, Default)]
struct Ssl {
    mode: Option<String>,
    root: Option<String>,
}

impl Ssl {
    /// The address without it, and it.
    fn taken_from(url: &str) -> (String, Self) {
        let mut ssl = Self::default();
        let Some((before, query)) = url.split_once('?') else { return (url.to_owned(), ssl) };
        let mut rest = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some(("sslmode", mode)) => ssl.mode = Some(mode.to_owned()),
                Some(("sslrootcert", path)) => ssl.root = Some(unescaped(path)),
                _ => rest.push(pair),
            }
        }
        (if rest.is_empty() { before.to_owned() } else { format!("{before}?{}", rest.join("&")) }, ssl)
    }
}

/// A value without its percent signs.
fn unescaped(text: &str) -> String {
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        match part.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                bytes.extend_from_slice(&part.as_bytes()[2..]);
            }
            None => bytes.extend([b"%", part.as_bytes()].concat()),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Whose certificates are believed.
#[derive(Debug)]
enum Trust<'a> {
    /// Nobody's: TLS is not spoken.
    Nobody,
    /// Those that the machine believes.
    Machine,
    /// Those that lead to one of the certificates in a file.
    File(&'a str),
}

fn tls(trust: &Trust<'_>) -> Result<ClientConfig, AddressError> {
    let fault = |what: String| AddressError::RootCert(what);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    if matches!(trust, Trust::Machine) {
        return ClientConfig::with_platform_verifier().map_err(|error| fault(format!("the machine's own certificates cannot be used: {error}")));
    }
    let mut roots = RootCertStore::empty();
    if let Trust::File(path) = trust {
        let certificates = CertificateDer::pem_file_iter(Path::new(path)).map_err(|error| fault(format!("{path}: {error}")))?;
        for certificate in certificates {
            let certificate = certificate.map_err(|error| fault(format!("{path}: {error}")))?;
            roots.add(certificate).map_err(|error| fault(format!("{path}: {error}")))?;
        }
        if roots.is_empty() {
            return Err(fault(format!("{path} holds no certificate")));
        }
    }
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    Ok(builder.map_err(|error| fault(error.to_string()))?.with_root_certificates(roots).with_no_client_auth())
}

#[cfg(test)]
#[path = "address_tests.rs"]
mod tests;
