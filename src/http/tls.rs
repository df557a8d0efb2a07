//! TLS before HTTP: what a listener speaks is asked for each connection, so that a renewed certificate is shown from the next one on.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::debug;

use crate::config::{Live, Transport};

/// Longest time for a handshake: what OpenSSH and nginx allow is longer, but this side waits for no person.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// What a listener speaks at the moment. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Speech(Option<Live>);

impl fmt::Debug for Speech {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Speech").field(&self.0.is_some()).finish()
    }
}

/// What one connection begins with.
#[derive(Debug)]
pub(super) enum Opening {
    /// HTTP, at once.
    Plain,
    /// A handshake.
    Handshake(Arc<ServerConfig>),
    /// Nothing that could be spoken.
    Closed,
}

impl Speech {
    /// As the settings in force say.
    pub(super) fn of(live: Live) -> Self {
        Self(Some(live))
    }

    /// For a connection that is made now.
    pub(super) fn opening(&self) -> Opening {
        let Some(live) = &self.0 else { return Opening::Plain };
        match &live.current().http.transport {
            Transport::Plain => Opening::Plain,
            Transport::Tls(tls) => Opening::Handshake(Arc::clone(&tls.server)),
            Transport::Sealed => Opening::Closed,
        }
    }
}

/// The stream inside; `None` when the client does not come to terms with us, in `within` or in [`HANDSHAKE`], whichever is shorter.
pub(super) async fn handshake<S>(stream: S, server: Arc<ServerConfig>, within: Duration) -> Option<TlsStream<S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    match tokio::time::timeout(within.min(HANDSHAKE), TlsAcceptor::from(server).accept(stream)).await {
        Ok(Ok(stream)) => Some(stream),
        Ok(Err(error)) => {
            debug!(%error, "no TLS with a client");
            None
        }
        Err(_) => {
            debug!("no TLS with a client: it took too long");
            None
        }
    }
}
