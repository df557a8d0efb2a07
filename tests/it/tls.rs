//! The real daemon behind TLS: who believes it, whom it believes, and certificates that are renewed under way. No engine is needed.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use reqwest::{Certificate, Client, Identity, StatusCode};
use tempfile::TempDir;
use tokio::io::AsyncReadExt as _;

use crate::harness::{Daemon, Setup};

/// An authority of our own.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new(name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// A certificate for this machine and its key.
    fn issue(&self, usage: ExtendedKeyUsagePurpose) -> (String, String) {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(["localhost".to_owned()]).expect("a name");
        params.subject_alt_names.push(SanType::IpAddress([127, 0, 0, 1].into()));
        params.extended_key_usages = vec![usage];
        (params.signed_by(&key, &self.issuer).expect("a certificate").pem(), key.serialize_pem())
    }

    fn server(&self) -> (String, String) {
        self.issue(ExtendedKeyUsagePurpose::ServerAuth)
    }

    fn believed(&self) -> Certificate {
        Certificate::from_pem(self.pem.as_bytes()).expect("a certificate")
    }
}

/// The files that the daemon is told of.
struct Files(TempDir);

impl Files {
    fn new((certificate, key): (String, String)) -> Self {
        let files = Self(tempfile::tempdir().expect("a directory"));
        files.put("tls.crt", &certificate);
        files.put("tls.key", &key);
        files
    }

    fn put(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).expect("written");
        std::fs::set_permissions(self.path(name), std::fs::Permissions::from_mode(0o600)).expect("ours");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn settings(&self) -> String {
        format!("certificate_file = \"{}\"\nkey_file = \"{}\"\n", self.path("tls.crt").display(), self.path("tls.key").display())
    }
}

fn client(believed: &Authority, identity: Option<&(String, String)>) -> Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = Client::builder().no_proxy().tls_certs_only([believed.believed()]);
    let builder = match identity {
        Some((certificate, key)) => builder.identity(Identity::from_pem(format!("{certificate}{key}").as_bytes()).expect("an identity")),
        None => builder,
    };
    builder.build().expect("a client")
}

/// Whether the daemon answers a client that has not met it before.
async fn answers(daemon: &Daemon, client: &Client) -> bool {
    let answer = client.get(format!("{}/health", daemon.url)).send().await;
    answer.is_ok_and(|answer| [StatusCode::OK, StatusCode::SERVICE_UNAVAILABLE].contains(&answer.status()))
}

async fn reload(daemon: &Daemon, says: &str) {
    daemon.reload(&daemon.configuration());
    daemon.until(says, async |daemon| daemon.log().contains(says)).await;
}

#[tokio::test]
async fn a_certificate_is_renewed_without_a_restart_and_open_connections_go_on() {
    let (first, second) = (Authority::new("first"), Authority::new("second"));
    let files = Files::new(first.server());
    let mut daemon = Setup::new("tls-renewed").tls(&files.settings(), client(&first, None)).start().await;
    let kept = client(&first, None);
    assert!(answers(&daemon, &kept).await && !answers(&daemon, &client(&second, None)).await, "who believes another does not come to it");
    let plain = daemon.url.replace("https://", "http://");
    assert!(crate::harness::client().get(&plain).send().await.is_err(), "plain HTTP is not spoken");
    let mut stream = kept.get(format!("{}/events", daemon.url)).send().await.expect("an answer");
    assert_eq!(stream.status(), StatusCode::OK);
    assert!(stream.chunk().await.expect("open").is_some());

    // A key of another certificate changes nothing.
    let (renewed, key) = second.server();
    files.put("tls.crt", &renewed);
    reload(&daemon, "must name the key of the first certificate in certificate_file").await;
    assert!(answers(&daemon, &client(&first, None)).await);
    files.put("tls.key", &key);
    reload(&daemon, "configuration reloaded: changed http.tls.certificate_file, http.tls.key_file").await;
    assert!(answers(&daemon, &client(&second, None)).await && !answers(&daemon, &client(&first, None)).await);
    // A connection that is open goes on.
    let drained = client(&second, None).post(format!("{}/hosts/{}/drain", daemon.url, daemon.name)).send().await.expect("an answer");
    assert!(drained.status().is_success(), "{drained:?}");
    let heard = tokio::time::timeout(Duration::from_secs(40), stream.chunk()).await.expect("in time");
    assert!(heard.expect("open").is_some());
    let said = daemon.log();
    assert!(!said.contains("PRIVATE") && !said.contains(key.lines().nth(1).expect("a line")));
    daemon.terminate().await;
}

#[tokio::test]
async fn where_clients_need_a_certificate_nobody_comes_without() {
    let (ours, theirs, other) = (Authority::new("ours"), Authority::new("theirs"), Authority::new("other"));
    let files = Files::new(ours.server());
    files.put("clients.crt", &theirs.pem);
    let settings = format!("{}client_ca_file = \"{}\"\n", files.settings(), files.path("clients.crt").display());
    let good = theirs.issue(ExtendedKeyUsagePurpose::ClientAuth);
    let harness = client(&ours, Some(&good));
    let mut daemon = Setup::new("tls-clients").tls(&settings, harness).start().await;
    assert!(!answers(&daemon, &client(&ours, None)).await, "without one");
    let others = other.issue(ExtendedKeyUsagePurpose::ClientAuth);
    assert!(!answers(&daemon, &client(&ours, Some(&others))).await, "one of another authority");
    let servers = theirs.server();
    assert!(!answers(&daemon, &client(&ours, Some(&servers))).await, "one that is for servers");
    assert!(answers(&daemon, &client(&ours, Some(&good))).await);

    // The command line, with the files and without.
    files.put("ca.pem", &ours.pem);
    files.put("me.pem", &format!("{}{}", good.0, good.1));
    let run = |more: &[PathBuf]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_runner-coordinator"));
        command.args(["status", "--json", "--server", &daemon.url]).env_clear();
        for (flag, file) in ["--ca-file", "--client-cert-file"].iter().zip(more) {
            command.arg(flag).arg(file);
        }
        let output = command.output().expect("it runs");
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (done, said) = run(&[files.path("ca.pem"), files.path("me.pem")]);
    assert!(done, "{said}");
    for without in [&[][..], &[files.path("ca.pem")]] {
        let (done, said) = run(without);
        assert!(!done && said.contains("--client-cert-file"), "{said}");
    }
    files.put("empty.pem", "");
    let (done, said) = run(&[files.path("empty.pem")]);
    assert!(!done && said.contains("has no certificates in PEM"), "{said}");

    // Who says nothing is not waited for.
    let address = daemon.url.trim_start_matches("https://").to_owned();
    let mut silent = tokio::net::TcpStream::connect(address).await.expect("connected");
    let ended = tokio::time::timeout(Duration::from_secs(40), silent.read(&mut [0; 8])).await.expect("in time");
    assert_eq!(ended.unwrap_or(0), 0, "it is closed");
    // Taking the authority away lets the others in, from the next connection on.
    let configuration = daemon.configuration();
    daemon.reload(&configuration.lines().filter(|line| !line.starts_with("client_ca_file")).collect::<Vec<_>>().join("\n"));
    daemon.until("anybody may come", async |daemon| answers(daemon, &client(&ours, None)).await).await;
    daemon.terminate().await;
}
