//! Whom the client believes to be the daemon, and as whom it comes itself, where TLS asks.

use std::path::Path;

use reqwest::{Certificate, Identity};
use secrecy::ExposeSecret as _;

use crate::config::read_secret_text;

/// What TLS needs beside what this machine brings.
#[derive(Debug, Default)]
pub(super) struct Trust {
    /// Authorities that are believed.
    pub(super) authorities: Vec<Certificate>,
    /// Our own certificate and its key.
    pub(super) identity: Option<Identity>,
}

/// The authorities in a file.
pub(super) fn authorities(path: &Path) -> Result<Vec<Certificate>, String> {
    let told = |what: &str| format!("names {}, which {what}", path.display());
    let text = std::fs::read(path).map_err(|error| told(&format!("cannot be read: {error}")))?;
    match Certificate::from_pem_bundle(&text) {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) | Err(_) => Err(told("has no certificates in PEM")),
    }
}

/// The certificate and the key in a file.
pub(super) fn identity(path: &Path) -> Result<Identity, String> {
    let text = read_secret_text(path)?;
    // What the library says of a key could hold some of it.
    Identity::from_pem(text.expose_secret().as_bytes()).map_err(|_| format!("names {}, which has no certificate with its key in PEM", path.display()))
}
