//! Tests of what single values may be.

use proptest::prelude::*;

use super::*;
use crate::domain::GpuRequest;

fn split<T>(read: impl Fn(&str, &str) -> Result<T, FieldFault>, good: &[&str], bad: &[&str]) {
    for text in good {
        assert!(read("k", text).is_ok(), "{text:?} was refused");
    }
    for text in bad {
        assert!(read("k", text).is_err(), "{text:?} was taken");
    }
}

#[test]
fn each_kind_of_value_has_its_form() {
    let urls = ["http://g", "https://g.example.com:8443/a/b/", "https://[::1]:3000", "http://10.0.0.1"];
    let no_urls = [
        "",
        "g",
        "ftp://g",
        "https://",
        "https:///x",
        "https://u:p@g",
        "https://g?x",
        "https://g#x",
        "https://g /",
        "http://g:0",
        "http://g:x",
        "http://[::1",
        "http://é",
    ];
    split(base_url, &urls, &no_urls);
    split(docker_host, &["unix:///run/d.sock", "tcp://h:2375", "http://h:1/"], &["", "unix://rel", "ssh://h", "tcp://", "tcp://u@h", "/run/d.sock"]);
    split(broker_listen, &["gateway", "gateway:1", "10.0.0.1:80", "[::]:80"], &["", "gateway:", "gateway:0", "gateway:70000", "host:80", "80"]);
    split(user, &["65532:65532", "1:1"], &["", "0:1", "1:0", "00:1", "root:root", "1", "1:1:1", "+1:1", "4294967295:1", "1:-1", " 1:1"]);
    split(sha256, &[&"a".repeat(64), &"A0".repeat(32)], &["", &"a".repeat(63), &"a".repeat(65), &"g".repeat(64), &"é".repeat(32), &"+a".repeat(32)]);
    split(host_name, &["box1", "a.b-c_d"], &["", ".a", "a b", "é", &"a".repeat(254)]);
    split(
        store_url(std::path::Path::new("/d")),
        &["sqlite:a.db", "sqlite:/x/a.db", "sqlite:///x", "postgres://u:p@db:5432/queue", "postgresql://u@/q?host=/run/postgresql"],
        &["", "sqlite:", "sqlite::memory:", "mysql://x", "postgres://x", "postgres://@x", "postgres://u@", "sqlite:a?mode=ro"],
    );
    split(duration(SECOND..=HOUR), &["1s", "1h", "1m 5s"], &["", "0s", "61m", "5", "-1s", "1 fortnight"]);
    split(registry, &["docker.io", "r:5000", "localhost:1"], &["", "https://r", "r/x", "u@r"]);
    split(GpuRequest::checked_mig_profile, &["1g.10gb", "1g.10gb+me"], &["", "1G", "a b"]);
    split(runtime, &["runc", "io.containerd.runsc.v1"], &["", "a/b", "a b"]);
}

#[test]
fn paths_of_the_store_count_from_the_data_directory() {
    let read = |text| store_url(std::path::Path::new("/d"))("k", text);
    assert_eq!(read("sqlite:a.db"), Ok(StoreUrl::Sqlite("/d/a.db".into())));
    assert_eq!(read("sqlite:///x/a.db"), Ok(StoreUrl::Sqlite("/x/a.db".into())));
}

proptest! {
    #[test]
    fn no_text_is_read_as_root(text in "[0-9+:a ]{0,8}") {
        if let Ok(user) = user("k", &text) {
            let (user, group) = user.split_once(':').expect("two");
            prop_assert!(user.parse::<u32>().expect("a number") > 0 && group.parse::<u32>().expect("a number") > 0);
        }
    }

    #[test]
    fn any_socket_that_is_taken_fits_the_kernel(text in "[ -~]{0,120}") {
        if let Ok(path) = socket("k", &format!("/{text}")) {
            let made = format!("{}.4194304/s", path.display());
            prop_assert!(std::os::unix::net::SocketAddr::from_pathname(made).is_ok() && path.file_name().is_some());
        }
        let relative = format!("a{text}");
        prop_assert!(socket("k", &relative).is_err());
    }

    #[test]
    fn no_reader_panics_or_repeats_what_it_refuses(text in ".{6,40}") {
        let readers: [fn(&str, &str) -> Option<FieldFault>; 6] = [
            |k, t| base_url(k, t).err(),
            |k, t| docker_host(k, t).err(),
            |k, t| broker_listen(k, t).err(),
            |k, t| sha256(k, t).err(),
            |k, t| user(k, t).err(),
            |k, t| store_url(std::path::Path::new("/d"))(k, t).err(),
        ];
        for fault in readers.iter().filter_map(|read| read("k", &text)) {
            prop_assert!(!fault.message.contains(&text));
        }
    }

    #[test]
    fn a_digest_reads_back(digest in any::<[u8; 32]>()) {
        let text: String = digest.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
        prop_assert_eq!(sha256("k", &text), Ok(digest));
    }
}
