//! What can be wrong with certificates and keys, told by key and without a word of a secret.

use std::os::unix::fs::PermissionsExt as _;

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use tempfile::TempDir;

use super::super::layers::Layers;
use super::super::load::from_layers;
use super::super::{Config, ConfigFaults};
use super::*;

/// A directory with a certificate, its key, another key, and an authority.
fn directory() -> TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    let (key, other) = (KeyPair::generate().expect("a key"), KeyPair::generate().expect("a key"));
    let certificate = CertificateParams::new(["box.test".to_owned()]).and_then(|of| of.self_signed(&key)).expect("a certificate");
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = authority.self_signed(&other).expect("a certificate");
    for (name, text) in [
        ("cert.pem", certificate.pem()),
        ("key.pem", key.serialize_pem()),
        ("other.pem", other.serialize_pem()),
        ("ca.pem", authority.pem()),
        ("empty.pem", String::new()),
        ("broken.pem", certificate.pem().replace("MII", "???")),
        ("huge.pem", "x".repeat((1 << 20) + 1)),
    ] {
        let path = dir.path().join(name);
        std::fs::write(&path, text).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("ours");
    }
    dir
}

fn read(dir: &TempDir, tls: &str, files: SecretFiles) -> Result<Config, ConfigFaults> {
    let file = dir.path().join("c.toml");
    std::fs::write(&file, format!("data_dir = \"d\"\n[http.tls]\n{tls}")).expect("written");
    let layers = Layers::read(Some(&file), &file, std::iter::empty()).unwrap_or_else(|faults| panic!("{faults}"));
    from_layers(layers, files).0
}

fn of(certificate: &str, key: &str, client_ca: Option<&str>) -> String {
    let client_ca = client_ca.map(|name| format!("client_ca_file = \"{name}\"")).unwrap_or_default();
    format!("certificate_file = \"{certificate}\"\nkey_file = \"{key}\"\n{client_ca}")
}

#[test]
fn a_certificate_and_its_key_make_a_server() {
    let dir = directory();
    for client_ca in [None, Some("ca.pem")] {
        let config = read(&dir, &of("cert.pem", "key.pem", client_ca), SecretFiles::Needed).expect("sound");
        let Transport::Tls(tls) = &config.http.transport else { panic!("{config:?}") };
        assert_eq!((tls.client_ca.is_some(), tls.server.alpn_protocols.as_slice()), (client_ca.is_some(), &[b"http/1.1".to_vec()][..]));
        let told = format!("{config:?}");
        let key = std::fs::read_to_string(dir.path().join("key.pem")).expect("a key");
        assert!(!told.contains(key.lines().nth(1).expect("a line")) && !told.contains("PRIVATE"), "{told}");
    }
}

#[test]
fn what_is_wrong_is_told_by_its_key() {
    let dir = directory();
    let faults = |tls: &str| read(&dir, tls, SecretFiles::Needed).expect_err(tls).0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    for (tls, key, says) in [
        (of("nothing.pem", "key.pem", None), "http.tls.certificate_file", "cannot be read"),
        (of("empty.pem", "key.pem", None), "http.tls.certificate_file", "there is none in it"),
        (of("broken.pem", "key.pem", None), "http.tls.certificate_file", "PEM"),
        (of("huge.pem", "key.pem", None), "http.tls.certificate_file", "larger than"),
        (of("cert.pem", "nothing.pem", None), "http.tls.key_file", "cannot be read"),
        (of("cert.pem", "cert.pem", None), "http.tls.key_file", "private key in PEM"),
        (of("cert.pem", "other.pem", None), "http.tls.key_file", "the key of the first certificate"),
        (of("cert.pem", "key.pem", Some("key.pem")), "http.tls.client_ca_file", "there is none in it"),
        (of("cert.pem", "key.pem", Some("nothing.pem")), "http.tls.client_ca_file", "cannot be read"),
        (String::new(), "http.tls", "must have certificate_file and key_file"),
        ("key_file = \"key.pem\"".to_owned(), "http.tls.certificate_file", "must be given"),
        ("certificate_file = \"cert.pem\"".to_owned(), "http.tls.key_file", "must be given"),
        (format!("{}\ncolour = 1", of("cert.pem", "key.pem", None)), "http.tls.colour", "not a known key"),
    ] {
        let told = faults(&tls);
        assert!(told.contains(key) && told.contains(says) && !told.contains('\n'), "{tls}: {told}");
    }
    std::fs::set_permissions(dir.path().join("key.pem"), std::fs::Permissions::from_mode(0o640)).expect("ours");
    assert!(faults(&of("cert.pem", "key.pem", None)).contains("others can read"));
}

#[test]
fn whoever_may_not_read_the_key_still_learns_that_there_is_tls() {
    let dir = directory();
    let config = read(&dir, &of("cert.pem", "nothing.pem", None), SecretFiles::MayBeMissing).expect("sound");
    assert!(matches!(config.http.transport, Transport::Sealed), "{config:?}");
}
