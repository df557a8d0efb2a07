//! Connections as strangers make them.

use std::net::SocketAddr;

use axum::routing::{get, post};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;

/// A listener with so many places; answers its address.
async fn open(places: usize, spare: usize, head: Duration) -> (SocketAddr, CancellationToken, TaskTracker) {
    behind(doors(places, spare, head)).await
}

fn doors(places: usize, spare: usize, head: Duration) -> Doors {
    Doors {
        places: Arc::new(Semaphore::new(places)),
        spare: Arc::new(Semaphore::new(spare)),
        peers: None,
        head,
        spare_head: head,
        speech: Speech::default(),
    }
}

async fn behind(doors: Doors) -> (SocketAddr, CancellationToken, TaskTracker) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let routes = Router::new()
        .route("/health", get(async || "well"))
        .route("/jobs", get(async || "jobs"))
        .route("/slow", get(async || tokio::time::sleep(Duration::from_millis(300)).await))
        .route("/body", post(async |body: String| body));
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    tasks.spawn(serve(listener, routes, doors, stop.clone()));
    tasks.close();
    (address, stop, tasks)
}

async fn send(address: SocketAddr, text: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.expect("connected");
    stream.write_all(text.as_bytes()).await.expect("sent");
    stream
}

/// All that comes until the connection ends.
async fn rest(mut stream: TcpStream) -> String {
    let mut bytes = Vec::new();
    let whole = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut bytes)).await;
    // Whoever is cut off in the middle of sending sees that as a reset.
    assert!(whole.is_ok(), "the connection stays open after {:?}", String::from_utf8_lossy(&bytes));
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Until the daemon has noticed.
async fn until(so: impl Fn() -> bool) {
    let all = async {
        while !so() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), all).await.expect("it becomes so");
}

const KEPT: &str = "GET /jobs HTTP/1.1\r\nhost: x\r\n\r\n";

/// A connection that was answered once and stays open.
async fn kept(address: SocketAddr) -> TcpStream {
    let mut stream = send(address, KEPT).await;
    let mut bytes = [0; 512];
    let read = stream.read(&mut bytes).await.expect("an answer");
    assert!(String::from_utf8_lossy(&bytes[..read]).starts_with("HTTP/1.1 200"));
    stream
}

#[tokio::test]
async fn a_head_that_never_ends_and_a_silent_connection_are_closed() {
    let (address, ..) = open(8, 1, Duration::from_millis(200)).await;
    for text in ["", "GET /jobs HTTP/1.1\r\nhost: x\r\nx-slow: ", "G"] {
        let answer = rest(send(address, text).await).await;
        assert!(!answer.starts_with("HTTP/1.1 200"), "{text:?}: {answer}");
    }
    let answer = rest(kept(address).await).await;
    assert_eq!(answer, "", "one that was served before is closed too when it stays silent");
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let (address, ..) = open(8, 1, Duration::from_secs(10)).await;
    let answer = rest(send(address, &format!("GET /jobs HTTP/1.1\r\nhost: x\r\nx-large: {}", "x".repeat(MAX_HEAD_BYTES + 1))).await).await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
}

#[tokio::test]
async fn without_a_place_only_those_who_watch_are_served_and_one_that_comes_free_is_taken() {
    let (address, ..) = open(2, 1, Duration::from_secs(60)).await;
    let held = [kept(address).await, kept(address).await];
    let refused = rest(send(address, KEPT).await).await;
    assert!(refused.starts_with("HTTP/1.1 503") && refused.contains("retry-after: ") && refused.contains("/problems/overloaded"), "{refused}");
    let well = rest(send(address, "GET /health HTTP/1.1\r\nhost: x\r\n\r\n").await).await;
    assert!(well.starts_with("HTTP/1.1 200") && well.ends_with("well"), "{well}");
    drop(held);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    loop {
        let answer = rest(send(address, "GET /jobs HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await).await;
        if answer.starts_with("HTTP/1.1 200") {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "{answer}");
    }
}

#[tokio::test]
async fn who_comes_after_a_crowd_has_left_is_served_at_once() {
    let doors = doors(1, 1, Duration::from_secs(60));
    let (address, ..) = behind(doors.clone()).await;
    drop(kept(address).await);
    until(|| doors.places.available_permits() == 1).await;
    // The spare place was found while there was no other.
    assert_eq!(doors.spare.available_permits(), 0);
    kept(address).await;
}

#[tokio::test]
async fn one_peer_does_not_take_the_places_of_others_and_is_forgotten_when_it_has_gone() {
    let (peers, doors) = (Peers::new(2), doors(8, 1, Duration::from_secs(60)));
    let (address, ..) = behind(Doors { peers: Some(peers.clone()), ..doors.clone() }).await;
    let held = [kept(address).await, kept(address).await];
    let refused = rest(send(address, KEPT).await).await;
    assert!(refused.starts_with("HTTP/1.1 503"), "{refused}");
    until(|| doors.spare.available_permits() == 1).await;
    let silent = send(address, "").await;
    until(|| peers.open().values().sum::<usize>() == 3).await;
    assert_eq!(rest(send(address, KEPT).await).await, "", "without a spare place it is closed");
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.bind("127.0.0.2:0".parse().expect("an address")).expect("bound");
    let mut other = socket.connect(address).await.expect("connected");
    other.write_all(b"GET /jobs HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.expect("sent");
    let answer = rest(other).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    drop((held, silent));
    until(|| peers.open().is_empty()).await;
    kept(address).await;
}

#[tokio::test]
async fn what_is_being_answered_at_the_stop_is_answered_and_the_rest_is_closed() {
    let (address, stop, tasks) = open(8, 1, Duration::from_secs(60)).await;
    let idle = kept(address).await;
    let slow = send(address, "GET /slow HTTP/1.1\r\nhost: x\r\n\r\n").await;
    // Accepted in their order: when this one is answered, the slow one is served.
    drop(kept(address).await);
    stop.cancel();
    assert!(rest(slow).await.starts_with("HTTP/1.1 200"));
    assert_eq!(rest(idle).await, "");
    tasks.wait().await;
    assert!(TcpStream::connect(address).await.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn a_body_that_never_ends_holds_nothing_up_at_the_stop() {
    let (address, stop, tasks) = open(8, 1, Duration::from_secs(60)).await;
    let held = send(address, "POST /body HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nabc").await;
    drop(kept(address).await);
    stop.cancel();
    tokio::time::timeout(GRACE * 3, tasks.wait()).await.expect("it stops");
    rest(held).await;
}
