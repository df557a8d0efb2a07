//! What is taken over for what, and what becomes of what stands where the socket should be.

use std::os::unix::fs::symlink;

use super::*;
use crate::config::{ApiToken, Role, Transport};

fn http(socket: Option<PathBuf>) -> Http {
    Http { listen: ([127, 0, 0, 1], 0).into(), socket, transport: Transport::Plain, tokens: Vec::new() }
}

fn tcp(name: &str, address: &str) -> Offer {
    Offer { name: name.to_owned(), socket: Offered::Tcp(StdTcpListener::bind(address).expect("a listener")) }
}

fn unix(name: &str, directory: &Path) -> Offer {
    let path = directory.join(uuid::Uuid::new_v4().simple().to_string());
    Offer { name: name.to_owned(), socket: Offered::Unix(StdUnixListener::bind(path).expect("a listener")) }
}

#[test]
fn what_is_handed_over_is_known_by_name_or_by_being_the_only_one() {
    let directory = tempfile::tempdir().expect("a directory");
    let local = "127.0.0.1:0";
    let taken = |offers: Vec<Offer>| assign(offers).map(|taken| (taken.http.is_some(), taken.socket.is_some())).map_err(|error| error.to_string());
    let dir = directory.path();
    assert_eq!(taken(vec![]), Ok((false, false)));
    assert_eq!(taken(vec![tcp("coordinator.socket", local)]), Ok((true, false)));
    assert_eq!(taken(vec![unix("coordinator.socket", dir), tcp("coordinator.socket", local)]), Ok((true, true)));
    assert_eq!(taken(vec![tcp("http", local), unix("socket", dir)]), Ok((true, true)));
    assert!(taken(vec![tcp("socket", local)]).expect_err("wrong").contains("\"socket\" that the service manager hands over must be a Unix"));
    assert!(taken(vec![unix("http", dir)]).expect_err("wrong").contains("must be a TCP socket"));
    assert!(taken(vec![tcp("http", local), tcp("other", local)]).expect_err("two").contains("\"other\" beside another of its kind"));
    assert!(taken(vec![unix("a", dir), unix("socket", dir)]).expect_err("two").contains("FileDescriptorName=http for the TCP listener"));
}

#[tokio::test]
async fn an_address_that_others_reach_needs_tokens_also_when_it_is_handed_over() {
    let inherited = || assign(vec![tcp("http", "0.0.0.0:0")]).expect("taken");
    let error = open(&http(None), inherited()).await.expect_err("refused").to_string();
    assert!(error.contains("0.0.0.0:") && error.contains("no [[http.tokens]]"), "{error}");
    let token = ApiToken { name: "a".to_owned(), role: Role::Viewer, projects: Vec::new(), sha256: [0; 32] };
    let open = open(&Http { tokens: vec![token], ..http(None) }, inherited()).await.expect("open");
    assert!(open.address.ip().is_unspecified() && open.socket.is_none());
}

#[tokio::test]
async fn a_socket_that_everybody_may_open_is_not_taken_over() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("api");
    let handed = |mode: u32| {
        let _ = std::fs::remove_file(&path);
        let listener = StdUnixListener::bind(&path).expect("a listener");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("set");
        Inherited { http: None, socket: Some(listener) }
    };
    let error = open(&http(None), handed(0o666)).await.expect_err("refused").to_string();
    assert!(error.contains("api, to which everybody may connect") && error.contains("SocketMode=0660"), "{error}");
    let open = open(&http(None), handed(0o660)).await.expect("open");
    drop(open);
    assert!(path.exists(), "the file is the service manager's");
}

#[tokio::test]
async fn the_socket_is_for_owner_and_group_and_goes_with_the_daemon() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("api.sock");
    let open = open(&http(Some(path.clone())), Inherited::default()).await.expect("open");
    let there = std::fs::symlink_metadata(&path).expect("there");
    assert!(there.file_type().is_socket());
    assert_eq!(there.mode() & 0o7777, 0o660);
    assert!(UnixStream::connect(&path).await.is_ok());
    drop(open);
    assert_eq!(std::fs::read_dir(directory.path()).expect("read").count(), 0, "nothing is left");
}

#[tokio::test]
async fn a_dead_daemons_socket_is_replaced_and_a_living_ones_is_not() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("api.sock");
    drop(StdUnixListener::bind(&path).expect("a listener"));
    assert!(path.exists(), "its file is left");
    let first = bind(&path).await.expect("replaced");
    let error = bind(&path).await.expect_err("refused").to_string();
    assert!(error.contains("another daemon answers there"), "{error}");
    assert!(UnixStream::connect(&path).await.is_ok(), "the first one is still met");
    let LocalSocket { listener, file, .. } = first;
    drop(listener);
    let second = bind(&path).await.expect("the first one listens no more");
    drop(file);
    assert!(UnixStream::connect(&path).await.is_ok(), "the first one left the second one's file alone");
    drop(second);
    assert!(!path.exists());
}

#[tokio::test]
async fn what_is_no_socket_is_left_alone() {
    let directory = tempfile::tempdir().expect("a directory");
    let at = |name: &str| directory.path().join(name);
    std::fs::write(at("file"), "precious").expect("written");
    std::fs::create_dir(at("directory")).expect("made");
    drop(StdUnixListener::bind(at("stale")).expect("a listener"));
    symlink(at("stale"), at("link")).expect("linked");
    for name in ["file", "directory", "link"] {
        let error = bind(&at(name)).await.expect_err(name);
        assert!(matches!(error, ListenError::NoSocket(_)), "{name}: {error}");
    }
    assert_eq!(std::fs::read_to_string(at("file")).expect("read"), "precious");
    let error = bind(&at("nowhere/api.sock")).await.expect_err("no directory");
    assert!(matches!(error, ListenError::Socket { .. }), "{error}");
}
