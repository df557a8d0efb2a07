//! Transfers without a length limit need another kind of deadline: they may be long, but must not stand still.

use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use tokio::time::Instant;

/// When something last moved.
#[derive(Debug)]
pub(super) struct Progress(Mutex<Instant>);

impl Default for Progress {
    fn default() -> Self {
        Self(Mutex::new(Instant::now()))
    }
}

impl Progress {
    /// Something moved.
    pub(super) fn mark(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn last(&self) -> Instant {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Comes back when nothing has moved for `limit`.
    pub(super) async fn stalled(&self, limit: Duration) {
        let mut last = self.last();
        loop {
            tokio::time::sleep_until(last + limit).await;
            let latest = self.last();
            if latest == last {
                return;
            }
            last = latest;
        }
    }
}

/// Ends a stream with an error when its next part takes longer than `limit`.
pub(super) fn stalling_is_an_error(body: BoxStream<'static, io::Result<Bytes>>, limit: Duration) -> BoxStream<'static, io::Result<Bytes>> {
    stream::unfold(Some(body), move |body| async move {
        let mut body = body?;
        match tokio::time::timeout(limit, body.next()).await {
            Ok(Some(Ok(bytes))) => Some((Ok(bytes), Some(body))),
            Ok(Some(Err(error))) => Some((Err(error), None)),
            Ok(None) => None,
            Err(_) => Some((Err(io::ErrorKind::TimedOut.into()), None)),
        }
    })
    .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_stands_still_ends_with_an_error() {
        let limit = Duration::from_secs(300);
        let parts = stream::iter([Ok(Bytes::from_static(b"a"))]).chain(stream::pending());
        let seen: Vec<_> = stalling_is_an_error(parts.boxed(), limit).collect().await;
        assert_eq!(seen.len(), 2);
        assert_eq!(seen[1].as_ref().map_err(io::Error::kind), Err(io::ErrorKind::TimedOut));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_transfer_is_not_a_stalled_one() {
        let (progress, limit, start) = (Progress::default(), Duration::from_secs(300), Instant::now());
        let moving = async {
            for _ in 0..10 {
                tokio::time::sleep(Duration::from_secs(200)).await;
                progress.mark();
            }
        };
        tokio::join!(moving, progress.stalled(limit));
        assert_eq!(start.elapsed(), Duration::from_secs(2300));
    }
}
