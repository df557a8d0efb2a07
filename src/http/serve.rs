//! Accepts connections and serves the routes on them, with bounds on how many there are and how long a request's head may take: neither a
//! crowd nor a client that sends a byte now and then holds the daemon's room for ever.
//!
//! ```text
//!  a place is free ─▶ accept ─▶ served, kept alive
//!  none is         ─▶ accept ─▶ served in a spare place: `/health` and `/metrics` only, one request
//!  no spare either ─▶ not accepted; the kernel lets it wait
//! ```
//!
//! Where peers have addresses of their own, one that has its share of the places gets a spare one at most, and else is closed.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::{MatchedPath, Request};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::serve::Listener;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

use super::audit::From;
use super::problem::Problem;
use super::rations::{Bound, Traffic};
use super::tls::{Opening, Speech, handshake};
use crate::config::Live;

/// Most connections to one group of listeners.
pub(super) const MAX_CONNECTIONS: usize = 512;
/// Further ones, for those who watch the daemon.
const SPARE_CONNECTIONS: usize = 32;
/// Most of one peer, where that is bounded: a runner keeps a handful.
const MAX_PER_PEER: usize = 32;
/// Longest time from a connection's beginning, or from an answer, to a whole head of a request. Longer than proxies keep idle connections
/// (nginx: 60 s), so that they close them and not we, just when a request is on its way.
const HEAD: Duration = Duration::from_secs(75);
/// The same in a spare place.
const SPARE_HEAD: Duration = Duration::from_secs(5);
/// Largest head of a request; more is answered 431.
const MAX_HEAD_BYTES: usize = 64 << 10;
/// How long open answers may go on after the daemon was told to stop.
const GRACE: Duration = Duration::from_secs(3);

/// The connections that may be open. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Doors {
    places: Arc<Semaphore>,
    spare: Arc<Semaphore>,
    peers: Option<Peers>,
    head: Duration,
    spare_head: Duration,
    speech: Speech,
}

impl Default for Doors {
    fn default() -> Self {
        Self {
            places: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            spare: Arc::new(Semaphore::new(SPARE_CONNECTIONS)),
            peers: None,
            head: HEAD,
            spare_head: SPARE_HEAD,
            speech: Speech::default(),
        }
    }
}

/// Which kind of place a connection has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Own,
    Spare,
}

/// What a connection holds until it ends.
#[derive(Debug)]
struct Seat {
    place: Place,
    _permit: OwnedSemaphorePermit,
    _counted: Option<Counted>,
}

impl Doors {
    /// For peers with addresses of their own, none of which may take all places.
    #[must_use]
    pub fn fair() -> Self {
        Self { peers: Some(Peers::new(MAX_PER_PEER)), ..Self::default() }
    }

    /// Behind which is spoken what `http.tls` says at the time.
    #[must_use]
    pub fn speaking(self, live: Live) -> Self {
        Self { speech: Speech::of(live), ..self }
    }

    /// A place, waited for while there is none of either kind.
    async fn place(&self) -> Option<(Place, OwnedSemaphorePermit)> {
        // Both only wait.
        tokio::select! {
            biased;
            own = Arc::clone(&self.places).acquire_owned() => own.ok().map(|permit| (Place::Own, permit)),
            spare = Arc::clone(&self.spare).acquire_owned() => spare.ok().map(|permit| (Place::Spare, permit)),
        }
    }

    /// What somebody gets who came after this place was found; `None` when nothing is left for them.
    fn seat(&self, (place, permit): (Place, OwnedSemaphorePermit), peer: Option<IpAddr>) -> Option<Seat> {
        let free = |room: &Arc<Semaphore>| Arc::clone(room).try_acquire_owned().ok();
        let counted = self.peers.as_ref().zip(peer).map(|(peers, ip)| peers.count(ip));
        let welcome = counted.as_ref().is_none_or(|counted| counted.within);
        let (place, permit) = match (place, welcome) {
            (Place::Own, true) | (Place::Spare, false) => (place, permit),
            // One of its own may have come free since.
            (Place::Spare, true) => free(&self.places).map_or((Place::Spare, permit), |own| (Place::Own, own)),
            (Place::Own, false) => (Place::Spare, free(&self.spare)?),
        };
        Some(Seat { place, _permit: permit, _counted: counted })
    }
}

/// How many connections each peer has; those who have none are not in it. Cheap to clone.
#[derive(Debug, Clone)]
struct Peers {
    most: usize,
    open: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// A connection of a peer, counted until this is dropped.
#[derive(Debug)]
struct Counted {
    peers: Peers,
    ip: IpAddr,
    within: bool,
}

impl Peers {
    fn new(most: usize) -> Self {
        Self { most, open: Arc::default() }
    }

    fn open(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, ip: IpAddr) -> Counted {
        let mut open = self.open();
        let connections = open.entry(ip).or_default();
        *connections += 1;
        Counted { peers: self.clone(), ip, within: *connections <= self.most }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut open = self.peers.open();
        if let Some(connections) = open.get_mut(&self.ip) {
            *connections -= 1;
            if *connections == 0 {
                open.remove(&self.ip);
            }
        }
    }
}

/// Who connects.
pub trait Peer {
    /// By which they are told apart, where they are.
    fn ip(&self) -> Option<IpAddr> {
        None
    }
}

impl Peer for SocketAddr {
    fn ip(&self) -> Option<IpAddr> {
        Some(SocketAddr::ip(self).to_canonical())
    }
}

impl Peer for tokio::net::unix::SocketAddr {}

/// Serves until told to stop; answers that are open then get a moment to end.
pub async fn serve<L: Listener<Addr: Peer>>(mut listener: L, routes: Router, doors: Doors, stop: CancellationToken) {
    let spare_routes = routes.clone().layer(middleware::from_fn(only_vitals));
    let (connections, cut) = (TaskTracker::new(), CancellationToken::new());
    let _cut = cut.clone().drop_guard();
    while let Some(Some(found)) = stop.run_until_cancelled(doors.place()).await {
        let Some((stream, peer)) = stop.run_until_cancelled(listener.accept()).await else { break };
        let Some(seat) = doors.seat(found, peer.ip()) else { continue };
        let mut protocol = http1::Builder::new();
        protocol.timer(TokioTimer::new()).max_buf_size(MAX_HEAD_BYTES);
        let (head, routes) = match seat.place {
            Place::Own => (doors.head, routes.clone()),
            Place::Spare => {
                protocol.keep_alive(false);
                (doors.spare_head, spare_routes.clone())
            }
        };
        protocol.header_read_timeout(head);
        let (ip, ends) = (peer.ip(), (stop.clone(), cut.clone()));
        match doors.speech.opening() {
            Opening::Plain => drop(connections.spawn(attend(protocol, (stream, ip), routes, seat, ends))),
            Opening::Handshake(server) => drop(connections.spawn(async move {
                let opened = ends.0.run_until_cancelled(handshake(stream, server, head)).await;
                if let Some(Some(stream)) = opened {
                    attend(protocol, (stream, ip), routes, seat, ends).await;
                }
            })),
            Opening::Closed => {}
        }
    }
    drop(listener);
    connections.close();
    if tokio::time::timeout(GRACE, connections.wait()).await.is_err() {
        debug!(connections = connections.len(), "answers that were still open are cut off");
    }
}

/// One connection, to its end.
async fn attend<S>(
    protocol: http1::Builder,
    (stream, ip): (S, Option<IpAddr>),
    routes: Router,
    seat: Seat,
    (stop, cut): (CancellationToken, CancellationToken),
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let routes = TowerToHyperService::new(routes);
    let served = service_fn(move |mut request: hyper::Request<Incoming>| {
        if let Some(ip) = ip {
            request.extensions_mut().insert(From(ip));
        }
        routes.call(request)
    });
    let mut connection = pin!(protocol.serve_connection(TokioIo::new(stream), served));
    let served = async {
        // The first arm is polled again below, where it is left off.
        tokio::select! {
            served = connection.as_mut() => return served,
            () = stop.cancelled() => {}
        }
        connection.as_mut().graceful_shutdown();
        connection.await
    };
    if let Some(Err(error)) = cut.run_until_cancelled(served).await {
        debug!(%error, "a connection broke off");
    }
    drop(seat);
}

/// In a spare place nobody is served but who asks how the daemon does.
async fn only_vitals(request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    if Traffic::of(request.method(), route) == Traffic::Vital {
        next.run(request).await
    } else {
        Problem::Overloaded(Bound::Connections).into_response()
    }
}

#[cfg(test)]
#[path = "serve_tests.rs"]
mod tests;
