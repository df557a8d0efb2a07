//! Outages, switched on and off while the stand-in runs: every call to `/api/v4` is refused, left without an answer, or cut off half-way.
//!
//! An answer is cut off on the wire itself: the connection is told to write half of what comes next and then to break.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

use super::GitLab;
use super::state::Shared;

/// A body that is longer than what is sent of it; it begins like a job.
const HALF_A_BODY: &str = r#"{"id":4711,"token":"glcbt-half","job_info":{"na"#;

/// What every call meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outage {
    /// 500.
    Fails,
    /// 429, with `Retry-After` or without.
    TooMany(Option<Duration>),
    /// The call is taken and never answered, not even when the outage is over: what hung then hangs for good.
    Silent,
    /// Half an answer's head, and the connection breaks. Nothing was done.
    HalfHead,
    /// A whole head and half its body, and the connection breaks. Nothing was done.
    HalfBody,
    /// What was asked is done, and the answer breaks off. A job is not given away like that: without a two-phase commit nobody could
    /// know of it, so `POST /jobs/request` meets [`Outage::HalfHead`].
    LostAnswer,
}

/// The present outage, and what ran into one.
#[derive(Debug, Default)]
pub(super) struct Misbehaviour {
    /// Nothing while all is well.
    outage: Option<Outage>,
    /// Method and path of each call that met an outage.
    met: Vec<String>,
}

impl GitLab {
    /// From now on every call meets this.
    pub(crate) fn begin_outage(&self, outage: Outage) {
        self.shared.write(|inner| inner.misbehaviour = Misbehaviour { outage: Some(outage), met: Vec::new() });
    }

    /// From now on all is well again. Answers with the calls that met the outage, as `METHOD path`.
    pub(crate) fn end_outage(&self) -> Vec<String> {
        self.shared.write(|inner| {
            inner.misbehaviour.outage = None;
            inner.misbehaviour.met.clone()
        })
    }

    /// The calls that met the outage so far.
    pub(crate) fn met_outage(&self) -> Vec<String> {
        self.shared.read(|inner| inner.misbehaviour.met.clone())
    }
}

/// Middleware: lets calls through while all is well.
pub(super) async fn misbehave(State(shared): State<Arc<Shared>>, ConnectInfo(wire): ConnectInfo<Wire>, request: Request, next: Next) -> Response {
    let called = format!("{} {}", request.method(), request.uri().path());
    let outage = shared.write(|inner| {
        let outage = inner.misbehaviour.outage;
        inner.misbehaviour.met.extend(outage.map(|_| called.clone()));
        outage
    });
    let Some(outage) = outage else { return next.run(request).await };
    match outage {
        Outage::Fails => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        Outage::TooMany(None) => StatusCode::TOO_MANY_REQUESTS.into_response(),
        Outage::TooMany(Some(wait)) => (StatusCode::TOO_MANY_REQUESTS, [(header::RETRY_AFTER, wait.as_secs().to_string())]).into_response(),
        Outage::Silent => std::future::pending().await,
        Outage::HalfBody => half_a_body(),
        Outage::LostAnswer if !called.ends_with("/jobs/request") => {
            let answer = next.run(request).await;
            wire.break_off();
            answer
        }
        Outage::HalfHead | Outage::LostAnswer => {
            wire.break_off();
            StatusCode::OK.into_response()
        }
    }
}

/// Announces more than it sends.
fn half_a_body() -> Response {
    let parts = [Ok(Bytes::from_static(HALF_A_BODY.as_bytes())), Err(io::Error::from(io::ErrorKind::ConnectionReset))];
    let headers = [(header::CONTENT_TYPE, "application/json".to_owned()), (header::CONTENT_LENGTH, (2 * HALF_A_BODY.len()).to_string())];
    (StatusCode::CREATED, headers, Body::from_stream(futures_util::stream::iter(parts))).into_response()
}

/// A connection's switch, in the hands of its calls.
#[derive(Debug, Clone, Default)]
pub(super) struct Wire(Arc<AtomicBool>);

impl Wire {
    /// Writes half of what comes next, and breaks.
    fn break_off(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Connected<IncomingStream<'_, Fragile>> for Wire {
    fn connect_info(stream: IncomingStream<'_, Fragile>) -> Self {
        stream.io().wire.clone()
    }
}

/// Listens for connections that can be broken off.
pub(super) struct Fragile(pub(super) TcpListener);

impl Listener for Fragile {
    type Io = FragileStream;
    type Addr = SocketAddr;

    fn accept(&mut self) -> impl Future<Output = (Self::Io, Self::Addr)> + Send {
        let accepted = Listener::accept(&mut self.0);
        async {
            let (stream, from) = accepted.await;
            (FragileStream { stream, wire: Wire::default(), broken: false }, from)
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.0.local_addr()
    }
}

/// A connection that can be broken off.
pub(super) struct FragileStream {
    /// The connection.
    stream: TcpStream,
    /// See [`Wire`].
    wire: Wire,
    /// Nothing more is written.
    broken: bool,
}

impl AsyncRead for FragileStream {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for FragileStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.broken {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if !self.wire.0.load(Ordering::Relaxed) {
            return Pin::new(&mut self.stream).poll_write(context, bytes);
        }
        let half = &bytes[..bytes.len().div_ceil(2).min(20)];
        let written = Pin::new(&mut self.stream).poll_write(context, half);
        self.broken = written.is_ready();
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
