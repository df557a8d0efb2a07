//! Tests of the manager as the other rooms see it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use proptest::prelude::*;
use secrecy::{ExposeSecret as _, SecretString};
use tempfile::TempDir;

use super::*;
use crate::config::{ApiToken, GitLab, Limits, Role};
use crate::domain::MemoryBytes;

fn config() -> Config {
    // Not the file of the machine that the tests run on.
    Config::load(Some(Path::new("/dev/null")), std::iter::empty()).expect("the defaults serve")
}

fn with_secrets(secrets: &[&str]) -> Config {
    let webhook_secret_tokens = secrets.iter().map(|secret| SecretString::from(*secret)).collect();
    let gitlab = GitLab { webhook_secret_tokens, ..GitLab::at("https://gitlab.example.com") };
    Config { gitlab: Some(gitlab), ..config() }
}

fn manager(config: &Config) -> (SecurityManager, TempDir) {
    let dir = tempfile::tempdir().expect("a directory");
    (SecurityManager::open(dir.path(), config).expect("opened"), dir)
}

fn refusal(dir: &Path) -> String {
    SecurityManager::open(dir, &config()).expect_err("refused").to_string()
}

#[test]
fn the_key_is_made_once_closed_to_others_and_found_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("a/b");
    let runner = RunnerId::generate();
    let first = SecurityManager::open(&data, &config()).expect("made").runner_token(&runner);
    let about = fs::metadata(data.join(key::KEY_FILE)).expect("the file");
    assert_eq!((about.permissions().mode() & 0o777, about.len()), (0o600, 32));
    let again = SecurityManager::open(&data, &config()).expect("found");
    assert_eq!(again.verify_runner_token(first.expose_secret()), Some(runner));
    let names: Vec<_> = fs::read_dir(&data).expect("listed").map(|entry| entry.expect("an entry").file_name()).collect();
    assert_eq!(names, [key::KEY_FILE], "something was left behind");
}

#[test]
fn two_that_start_at_once_have_one_key() {
    let dir = tempfile::tempdir().expect("a directory");
    let runner = RunnerId::generate();
    let open = || SecurityManager::open(dir.path(), &config()).expect("opened").runner_token(&runner).expose_secret().to_owned();
    let tokens: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(open)).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    assert!(tokens.iter().all(|token| *token == tokens[0]));
}

#[test]
fn a_key_that_others_could_know_or_that_is_none_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join(key::KEY_FILE);
    fs::write(&path, [1; 32]).expect("written");
    for mode in [0o640, 0o604, 0o660, 0o644, 0o610] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("set");
        assert!(refusal(dir.path()).contains("open to others"), "{mode:o}");
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("set");
    for length in [0, 31, 33] {
        fs::write(&path, vec![1; length]).expect("written");
        assert!(refusal(dir.path()).contains("32 bytes"), "{length}");
    }
    fs::write(dir.path().join("other"), [1; 32]).expect("written");
    fs::remove_file(&path).expect("removed");
    symlink(dir.path().join("other"), &path).expect("linked");
    assert!(refusal(dir.path()).contains("cannot be read"));
    fs::remove_file(&path).expect("removed");
    fs::create_dir(&path).expect("made");
    assert!(refusal(dir.path()).contains("not a plain file"));
}

#[test]
fn a_token_of_another_installation_is_unknown() {
    let ((one, _a), (other, _b)) = (manager(&config()), manager(&config()));
    let runner = RunnerId::generate();
    assert_eq!(other.verify_runner_token(one.runner_token(&runner).expose_secret()), None);
}

#[test]
fn api_tokens_are_known_by_their_digest_alone() {
    let (token, digest) = SecurityManager::generate_api_token().expect("random");
    let (other, _) = SecurityManager::generate_api_token().expect("random");
    assert_ne!(token.expose_secret(), other.expose_secret());
    assert!(token.expose_secret().starts_with("rca-") && digest.len() == 64);
    let sha256 = super::sha256(token.expose_secret().as_bytes());
    assert_eq!(digest, sha256.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}")));
    let mut config = config();
    config.http.tokens.push(ApiToken { name: "first".into(), role: Role::Viewer, projects: Vec::new(), sha256: [7; 32] });
    config.http.tokens.push(ApiToken { name: "admin".into(), role: Role::Operator, projects: Vec::new(), sha256 });
    let (manager, _dir) = manager(&config);
    let known = Access::Known(Principal { name: "admin".into(), role: Role::Operator, projects: Arc::default() });
    assert_eq!(manager.access(Some(token.expose_secret())), known);
    assert_eq!(manager.access(None), Access::Unknown);
    for wrong in [other.expose_secret(), "", &digest, &token.expose_secret()[1..]] {
        assert_eq!(manager.access(Some(wrong)), Access::Unknown, "{wrong}");
    }
}

#[test]
fn without_api_tokens_nobody_has_to_show_one() {
    let (manager, _dir) = manager(&config());
    assert_eq!((manager.access(None), manager.access(Some(""))), (Access::Open, Access::Open));
}

#[test]
fn a_webhook_needs_one_of_the_secrets() {
    let (manager, _dir) = manager(&with_secrets(&["old", "new"]));
    let verify = |token| manager.verify_webhook(WebhookHeaders { token, ..WebhookHeaders::default() }, b"{}", Timestamp::UNIX_EPOCH);
    assert_eq!(verify(Some(b"old".as_slice())), Ok(()));
    assert_eq!(verify(Some(b"new")), Ok(()));
    assert_eq!(verify(Some(b"new ")), Err(WebhookDenied::WrongToken));
    assert_eq!(verify(Some(b"\xff")), Err(WebhookDenied::WrongToken));
    assert_eq!(verify(Some(b"")), Err(WebhookDenied::MissingToken));
    assert_eq!(verify(None), Err(WebhookDenied::MissingToken));
}

#[test]
fn a_webhook_is_refused_when_there_is_no_secret() {
    let headers = WebhookHeaders { token: Some(b"x"), signature: Some(b"v1,x"), ..WebhookHeaders::default() };
    let verify = |config| manager(&config).0.verify_webhook(headers, b"", Timestamp::UNIX_EPOCH);
    assert_eq!(verify(with_secrets(&[])), Err(WebhookDenied::NoSecret));
    assert_eq!(verify(config()), Err(WebhookDenied::NoGitLab));
}

#[test]
fn debug_shows_no_secret() {
    let config = with_secrets(&["hunter2"]);
    let (manager, _dir) = manager(&config);
    let headers = WebhookHeaders { token: Some(b"hunter2"), ..WebhookHeaders::default() };
    let token = manager.runner_token(&RunnerId::from_trusted("r1"));
    let shown = format!("{manager:?} {config:?} {headers:?} {token:?}");
    assert!(!shown.contains("hunter2") && !shown.contains("rct-") && !shown.contains("104, 117"), "{shown}");
}

fn env(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn faulty(limits: &Limits, pairs: &[(&str, &str)]) -> Vec<String> {
    SecurityManager::sanitise_env("env", env(pairs), limits)
        .map_or_else(|faults| faults.into_iter().map(|fault| fault.field).collect(), |_| Vec::new())
}

#[test]
fn a_job_may_not_set_what_changes_its_devices_or_runs_before_it() {
    let limits = Limits::default();
    let refused = [
        "BASH_ENV",
        "CUDA_DEVICE_ORDER",
        "CUDA_MPS_PIPE_DIRECTORY",
        "CUDA_VISIBLE_DEVICES",
        "DOCKER_HOST",
        "GCONV_PATH",
        "GLIBC_TUNABLES",
        "GPU_DEVICE_ORDINAL",
        "HIP_VISIBLE_DEVICES",
        "LD_PRELOAD",
        "NVIDIA_VISIBLE_DEVICES",
        "ROCR_VISIBLE_DEVICES",
        "RUNNER_COORDINATOR_TOKEN",
        "ZE_AFFINITY_MASK",
    ];
    let all: Vec<_> = refused.iter().map(|name| (*name, "x")).collect();
    assert_eq!(faulty(&limits, &all), refused.map(|name| format!("env.{name}")), "every one is named, in order");
    let allowed = [("CI", "1"), ("ENV", "production"), ("MALLOC_ARENA_MAX", "2"), ("_x9", ""), ("OLD_PATH", "a"), ("ld_x", "é\n")];
    assert_eq!(SecurityManager::sanitise_env("env", env(&allowed), &limits), Ok(env(&allowed)));
}

#[test]
fn names_and_values_that_no_process_can_have_are_refused() {
    let limits = Limits::default();
    assert_eq!(faulty(&limits, &[("", "x")]), ["env."]);
    assert_eq!(faulty(&limits, &[("A=B", ""), ("A\nB", ""), ("9A", ""), ("É", "")]).len(), 4);
    assert_eq!(faulty(&limits, &[("A\nB", "")]), ["env.A\\nB"]);
    assert_eq!(faulty(&limits, &[("A", "x\0")]), ["env.A"]);
    assert!(faulty(&limits, &[(&"~".repeat(9000), "")])[0].len() < 100);
}

#[test]
fn the_environment_is_bounded() {
    let small = Limits { env_vars: 2, command_bytes: MemoryBytes(20), ..Limits::default() };
    assert_eq!(faulty(&small, &[("A", ""), ("B", ""), ("C", "")]), ["env"]);
    assert!(faulty(&small, &[("A", "1234567"), ("B", "1234567")]).is_empty(), "exactly the limit");
    assert_eq!(faulty(&small, &[("A", "1234567"), ("B", "12345678")]), ["env"]);
    let large = Limits { command_bytes: MemoryBytes(1 << 20), ..Limits::default() };
    assert!(faulty(&large, &[("A", &"x".repeat(128 * 1024 - 3))]).is_empty());
    assert_eq!(faulty(&large, &[("A", &"x".repeat(128 * 1024 - 2))]), ["env.A"]);
}

#[test]
fn the_page_justifies_exactly_the_refused_names() {
    let page = include_str!("../../docs/configuration.md").split_once("may not set").expect("the part").1;
    let mut listed: Vec<String> = page.lines().filter_map(|line| Some(line.strip_prefix("| `")?.split('`').next()?.to_owned())).collect();
    let prefixes = env::REFUSED_PREFIXES.iter().map(|name| format!("{name}*"));
    let suffixes = env::REFUSED_SUFFIXES.iter().map(|name| format!("*{name}"));
    let mut refused: Vec<String> = prefixes.chain(suffixes).chain(env::REFUSED_NAMES.iter().map(ToString::to_string)).collect();
    listed.sort();
    refused.sort();
    assert_eq!(listed, refused);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn a_runner_token_is_good_for_its_runner_only(id in "[a-z0-9-]{1,40}", at in any::<prop::sample::Index>(), byte in 0x20_u8..0x7f) {
        let (manager, _dir) = manager(&config());
        let runner = RunnerId::from_trusted(id);
        let token = manager.runner_token(&runner).expose_secret().to_owned();
        prop_assert_eq!(manager.verify_runner_token(&token), Some(runner));
        let mut changed = token.clone().into_bytes();
        changed[at.index(token.len())] = byte;
        let changed = String::from_utf8(changed).expect("ASCII");
        prop_assert_eq!(manager.verify_runner_token(&changed).is_some(), changed == token);
        prop_assert_eq!(manager.verify_runner_token(&token[..at.index(token.len())]), None);
        prop_assert_eq!(manager.verify_runner_token(&format!("{token}0")), None);
        prop_assert_eq!(manager.verify_runner_token(&token.to_uppercase()), None);
    }

    #[test]
    fn strangers_text_is_no_token(text in ".{0,80}", tail in "rct-[a-z0-9-]{0,60}") {
        let mut config = config();
        config.http.tokens.push(ApiToken { name: "admin".into(), role: Role::Operator, projects: Vec::new(), sha256: [7; 32] });
        let (manager, _dir) = manager(&config);
        prop_assert_eq!(manager.verify_runner_token(&text), None);
        prop_assert_eq!(manager.verify_runner_token(&tail), None);
        prop_assert_eq!(manager.access(Some(&text)), Access::Unknown);
    }

    #[test]
    fn a_webhook_passes_exactly_with_a_secret(secrets in proptest::collection::vec("[a-c]{1,3}", 1..4), token in "[a-c]{0,3}") {
        let given: Vec<&str> = secrets.iter().map(String::as_str).collect();
        let (manager, _dir) = manager(&with_secrets(&given));
        let headers = WebhookHeaders { token: Some(token.as_bytes()), ..WebhookHeaders::default() };
        let verified = manager.verify_webhook(headers, b"", Timestamp::UNIX_EPOCH);
        prop_assert_eq!(verified.is_ok(), secrets.contains(&token));
    }

    #[test]
    fn what_is_let_through_is_unchanged_and_safe(env in proptest::collection::btree_map("(LD_|NVIDIA_|A)?[A-Z=0-9_]{0,4}(_VISIBLE_DEVICES)?", "[a\\x00]{0,2}", 0..4)) {
        let bad = |name: &str, value: &str| {
            name.is_empty() || name.contains('=') || name.starts_with(|c: char| c.is_ascii_digit()) || value.contains('\0')
                || name.starts_with("LD_") || name.starts_with("NVIDIA_") || name.ends_with("_VISIBLE_DEVICES")
        };
        let faults = env.iter().filter(|(name, value)| bad(name, value)).count();
        match SecurityManager::sanitise_env("env", env.clone(), &Limits::default()) {
            Ok(same) => { prop_assert_eq!(same, env); prop_assert_eq!(faults, 0); }
            Err(found) => prop_assert_eq!(found.len(), faults),
        }
    }
}

#[test]
fn tokens_and_secrets_of_webhooks_are_those_in_force() {
    let live = Live::from(&with_secrets(&["old"]));
    let dir = tempfile::tempdir().expect("a directory");
    let manager = SecurityManager::open(dir.path(), live.clone()).expect("opened");
    let proves = |secret: &'static str| {
        let headers = WebhookHeaders { token: Some(secret.as_bytes()), ..WebhookHeaders::default() };
        manager.verify_webhook(headers, b"{}", Timestamp::UNIX_EPOCH).is_ok()
    };
    assert_eq!((manager.access(None), proves("old"), proves("new")), (Access::Open, true, false));
    let (token, digest) = SecurityManager::generate_api_token().expect("random");
    let sha256 = super::sha256(token.expose_secret().as_bytes());
    assert_eq!(digest.len(), 64);
    let mut next = with_secrets(&["new"]);
    next.http.tokens.push(ApiToken { name: "ci".into(), role: Role::Viewer, projects: Vec::new(), sha256 });
    live.replace(next, &crate::config::Changes::default(), Timestamp::UNIX_EPOCH);
    assert_eq!((manager.access(None), proves("old"), proves("new")), (Access::Unknown, false, true));
    assert_eq!(
        manager.access(Some(token.expose_secret())),
        Access::Known(Principal { name: "ci".into(), role: Role::Viewer, projects: Arc::default() })
    );
}
