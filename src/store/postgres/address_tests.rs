//! Addresses as people write them.

use super::*;

fn read(url: &str) -> Result<Address, String> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    Address::read(&SecretString::from(url)).map_err(|error| error.to_string())
}

#[test]
fn a_database_here_is_reached_as_it_is_and_any_other_by_tls() {
    for (url, mode) in [
        ("postgres://u@localhost/q", SslMode::Disable),
        ("postgresql://u:p@127.0.0.1:5433/q", SslMode::Disable),
        ("postgres://u@[::1]/q", SslMode::Disable),
        ("postgres://u@/q?host=/run/postgresql", SslMode::Disable),
        ("postgres://u@db.example.com/q", SslMode::Require),
        ("postgres://u@localhost,db.example.com/q", SslMode::Require),
        ("postgres://u@db.example.com/q?sslmode=disable", SslMode::Disable),
        ("postgres://u@localhost/q?sslmode=verify-full&connect_timeout=3", SslMode::Require),
    ] {
        assert_eq!(read(url).expect(url).config.get_ssl_mode(), mode, "{url}");
    }
}

#[test]
fn what_cannot_be_used_is_told_without_the_password() {
    let dir = tempfile::tempdir().expect("a directory");
    let empty = dir.path().join("empty.pem");
    std::fs::write(&empty, "").expect("written");
    let empty = format!("postgres://u:hunter2@db/q?sslmode=verify-full&sslrootcert={}", empty.display());
    for (url, told) in [
        ("postgres://u:hunter2@db/q?sslmode=prefer", "sslmode=prefer"),
        ("postgres://u:hunter2@db/q?sslmode=require", "only disable and verify-full"),
        ("postgres://u:hunter2@db:port/q", "no address"),
        ("postgres://u:hunter2@db/q?colour=red", "colour"),
        ("postgres://:hunter2@db/q", "no user"),
        ("postgres://u:hunter2@/q", "no host"),
        ("postgres://u:hunter2@db/q?sslmode=verify-full&sslrootcert=/no/such%20file", "/no/such file"),
        (&empty, "holds no certificate"),
    ] {
        let error = read(url).expect_err(url);
        assert!(error.contains(told) && !error.contains("hunter2"), "{url}: {error}");
    }
}

#[test]
fn an_address_is_shown_without_its_password() {
    let address = read("postgres://u:hunter2@localhost,/queue").expect("an address");
    let shown = format!("{} {address:?}", address.shown());
    assert!(shown.contains("localhost") && shown.contains("queue") && !shown.contains("hunter2"), "{shown}");
}
