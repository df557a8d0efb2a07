//! TLS of the API: certificate, key and the authorities of clients, read and checked together, so that what is in force always works.

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use secrecy::{ExposeSecret as _, SecretString};

use super::section::{SecretFiles, Section};

/// Largest file of certificates, in bytes: that of all public authorities has a quarter of it.
const MAX_BYTES: u64 = 1 << 20;
/// What is spoken inside (RFC 7301).
const PROTOCOL: &[u8] = b"http/1.1";

/// How `http.listen` speaks TLS (1.2 and 1.3).
#[derive(Clone)]
pub struct Tls {
    /// `http.tls.certificate_file`, needed: what it holds, the server's certificate first and then those that lead to its authority. PEM.
    pub certificate: Vec<u8>,
    /// `http.tls.key_file`, needed: what it holds, the first certificate's private key. PEM.
    pub key: SecretString,
    /// `http.tls.client_ca_file`, default none: what it holds, the authorities of which every client needs a certificate. PEM.
    pub client_ca: Option<Vec<u8>>,
    /// What is made of the three.
    pub server: Arc<ServerConfig>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("client_ca", &self.client_ca.is_some()).finish_non_exhaustive()
    }
}

/// What a listener of the API speaks.
#[derive(Debug, Clone, Default)]
pub enum Transport {
    /// Plain HTTP.
    #[default]
    Plain,
    /// HTTP in TLS.
    Tls(Tls),
    /// HTTP in TLS, whose key cannot be read by whoever asks: never in a daemon's configuration.
    Sealed,
}

/// Reads `http.tls`; `None` of one at fault.
pub(super) fn read(section: &mut Section<'_>) -> Option<Transport> {
    let certificate = file(section, "certificate_file");
    let client_ca = file(section, "client_ca_file");
    let key = key(section);
    if ["certificate_file", "key_file", "client_ca_file"].iter().all(|key| !section.has(key)) {
        return Some(Transport::Plain);
    }
    for needed in ["certificate_file", "key_file"] {
        if !section.has(needed) {
            section.fault(needed, "must be given: http.tls needs a certificate and its key");
        }
    }
    let Key::Read(key) = key else { return matches!(key, Key::Sealed).then_some(Transport::Sealed) };
    // A file that could not be read was told already.
    if section.has("client_ca_file") && client_ca.is_none() {
        return None;
    }
    let certificate = certificate?;
    let server = server(&certificate, &key, client_ca.as_deref()).map_err(|(at, message)| section.fault(at, message)).ok()?;
    Some(Transport::Tls(Tls { certificate, key, client_ca, server: Arc::new(server) }))
}

enum Key {
    Read(SecretString),
    Sealed,
    Faulty,
}

fn key(section: &mut Section<'_>) -> Key {
    let Some(name) = section.text("key_file") else { return Key::Faulty };
    match (section.reading().secret_file_of_lines(&name), section.reading().files) {
        (Ok(key), _) => Key::Read(key),
        (Err(_), SecretFiles::MayBeMissing) => Key::Sealed,
        (Err(message), SecretFiles::Needed) => {
            section.fault("key_file", message);
            Key::Faulty
        }
    }
}

/// What is in the file that `key` names.
fn file(section: &mut Section<'_>, key: &str) -> Option<Vec<u8>> {
    let path = section.reading().secret_path(&section.text(key)?);
    contents(&path).map_err(|what| section.fault(key, format!("names {}, which {what}", path.display()))).ok()
}

fn contents(path: &Path) -> Result<Vec<u8>, String> {
    let unreadable = |error: std::io::Error| format!("cannot be read: {error}");
    let (mut bytes, file) = (Vec::new(), File::open(path).map_err(unreadable)?);
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(format!("is larger than {MAX_BYTES} bytes"));
    }
    Ok(bytes)
}

type Fault = (&'static str, String);

/// Puts the three together.
fn server(certificate: &[u8], key: &SecretString, client_ca: Option<&[u8]>) -> Result<ServerConfig, Fault> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let chain = certificates("certificate_file", certificate)?;
    // What the library says of a key could hold some of it.
    let key = PrivateKeyDer::from_pem_slice(key.expose_secret().as_bytes())
        .map_err(|_| ("key_file", "must name a file with a private key in PEM, not encrypted".to_owned()))?;
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| ("certificate_file", format!("cannot be used: {error}")))?;
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(text) => {
            let at = "client_ca_file";
            let mut roots = RootCertStore::empty();
            for authority in certificates(at, text)? {
                roots.add(authority).map_err(|error| (at, format!("names a certificate that is none of an authority: {error}")))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.map_err(|error| (at, format!("cannot be used: {error}")))?)
        }
    };
    let mut made = builder.with_single_cert(chain, key).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => ("key_file", "must name the key of the first certificate in certificate_file".to_owned()),
        rustls::Error::InvalidCertificate(_) => ("certificate_file", format!("cannot be used: {error}")),
        other => ("key_file", format!("cannot be used: {other}")),
    })?;
    made.alpn_protocols = vec![PROTOCOL.to_vec()];
    Ok(made)
}

fn certificates(at: &'static str, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, Fault> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    let found = found.map_err(|error| (at, format!("must name a file of certificates in PEM: {error}")))?;
    if found.is_empty() { Err((at, "must name a file of certificates in PEM; there is none in it".to_owned())) } else { Ok(found) }
}

#[cfg(test)]
#[path = "tls_tests.rs"]
mod tests;
