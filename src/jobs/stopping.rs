//! What becomes of work that waits for somebody when the coordinator is told to stop.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// How long such work may go on.
const AFTER_STOP: Duration = Duration::from_secs(5);

/// Work that ends early when the coordinator stops and somebody does not answer: `None`. The next start goes on with what is half done, as it does
/// after a crash.
pub(super) async fn until_stopped<T>(stop: &CancellationToken, work: impl Future<Output = T>) -> Option<T> {
    let stopped = async {
        stop.cancelled().await;
        tokio::time::sleep(AFTER_STOP).await;
    };
    tokio::select! {
        biased;
        done = work => Some(done),
        () = stopped => None,
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn work_whose_answer_does_not_come_ends_soon_after_the_stop_and_what_comes_through_is_done() {
        let stop = CancellationToken::new();
        let hangs = until_stopped(&stop, std::future::pending::<()>());
        tokio::pin!(hangs);
        assert!(tokio::time::timeout(Duration::from_secs(3600), hangs.as_mut()).await.is_err(), "nobody has told it to stop");
        stop.cancel();
        let told = Instant::now();
        assert_eq!(hangs.await, None);
        assert_eq!(told.elapsed(), AFTER_STOP);
        let late = async {
            tokio::time::sleep(AFTER_STOP / 2).await;
            7
        };
        assert_eq!(until_stopped(&stop, late).await, Some(7), "it still had time");
    }
}
