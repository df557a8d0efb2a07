//! Tests of what is made of what was seen: see `machine.rs`.

use super::*;
use crate::docker::fixture;

fn engine() -> EngineInfo {
    EngineInfo { forwards: Some(true), ..fixture::engine() }
}

fn is_bad(finding: &Finding) -> bool {
    matches!(finding, Finding::Bad(_))
}

#[test]
fn clocks_are_equal_or_off_or_broken() {
    let at = |seconds: i64| Timestamp::from_second(1_700_000_000 + seconds).expect("a time");
    let judged = |off: i64| clock_finding("GitLab", at(0), at(off));
    for off in [0, 3, -3] {
        assert_eq!(judged(off), Finding::Good("clock: as GitLab's".to_owned()), "{off}");
    }
    for off in [4, -4, 60, -60] {
        assert!(matches!(judged(off), Finding::Odd(_)), "{off}");
    }
    assert!(matches!(judged(61), Finding::Bad(text) if text.contains("61 s ahead of GitLab's") && text.contains("set-ntp")));
    assert!(matches!(judged(-7200), Finding::Bad(text) if text.contains("7200 s behind GitLab's")));
}

#[test]
fn a_limit_that_the_engine_lacks_is_named() {
    assert!(!limits(&engine()).iter().any(is_bad));
    let lacking = limits(&EngineInfo { unsupported: vec!["swap", "processes"], ..engine() });
    assert!(matches!(&lacking[0], Finding::Bad(text) if text.contains("cannot limit swap, processes") && text.contains("swapaccount=1")));
    let still = limits(&EngineInfo { forwards: Some(false), ..engine() });
    assert!(matches!(&still[1], Finding::Bad(text) if text.contains("ip_forward=1")));
    assert!(!limits(&EngineInfo { forwards: None, ..engine() }).iter().any(is_bad), "an engine that does not say so is believed");
    let warned = limits(&EngineInfo { warnings: vec!["WARNING: No io.max support\n".to_owned(), String::new()], ..engine() });
    assert_eq!(warned[2..], [Finding::Odd("engine: No io.max support".to_owned())]);
}

#[test]
fn who_may_not_reach_the_engine_is_told_what_to_do() {
    assert!(matches!(socket_finding("/s", Some(false)), Finding::Bad(text) if text.contains("usermod -aG docker")));
    assert!(matches!(socket_finding("/s", None), Finding::Bad(text) if text.contains("systemctl start docker")));
    assert!(!is_bad(&socket_finding("/s", Some(true))));
}

#[test]
fn a_data_directory_is_ones_own() {
    let judged = |mode, owner, own| data_dir_finding(Path::new("/d"), mode, owner, own);
    assert_eq!((judged(0o700, 5, 5), judged(0o755, 5, 5), judged(0o700, 5, 0)), (None, None, None));
    assert!(judged(0o777, 5, 5).is_some_and(|finding| is_bad(&finding)) && judged(0o720, 5, 0).is_some_and(|finding| is_bad(&finding)));
    assert!(matches!(judged(0o755, 5, 6), Some(Finding::Odd(_))));
}

#[test]
fn a_clock_that_nobody_keeps_is_told_and_one_that_nobody_knows_is_not() {
    assert!(matches!(kept_right(Some("yes")), Some(Finding::Good(_))) && matches!(kept_right(Some("no")), Some(Finding::Odd(_))));
    assert_eq!((kept_right(Some("")), kept_right(None)), (None, None));
}

#[test]
fn only_a_daemon_is_a_daemon() {
    assert!(is_our_health("HTTP/1.0 503 Service Unavailable\r\n\r\n{\"status\":\"failing\",\"checks\":{}}"));
    for other in ["", "HTTP/1.0 200 OK\r\n\r\nok", "HTTP/1.0 200 OK\r\n\r\n{\"status\":\"ok\"}", "SSH-2.0"] {
        assert!(!is_our_health(other), "{other}");
    }
    let address = "127.0.0.1:1".parse().expect("an address");
    let of = |holder| listener_finding("http.listen", address, &holder);
    assert!(!is_bad(&of(Holder::Free)) && !is_bad(&of(Holder::Daemon)));
    assert!(is_bad(&of(Holder::Other)) && is_bad(&of(Holder::Unusable("x".to_owned()))));
}
