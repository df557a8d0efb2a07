//! How long a daemon that is away is waited for: one that is restarted comes back in seconds, and jobs outlive it.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::ClientError;

/// First wait; it doubles.
const FIRST: Duration = Duration::from_millis(250);
/// Longest wait.
const LONGEST: Duration = Duration::from_secs(5);
/// After so long without an answer nobody is waited for any more.
const GIVE_UP: Duration = Duration::from_secs(10 * 60);

/// Waits for a daemon that has answered before; one that never did is told of at once.
#[derive(Debug, Default)]
pub(in crate::cli) struct Patience {
    met: bool,
    away: Option<Instant>,
    wait: Duration,
}

impl Patience {
    /// With a daemon that has answered.
    pub(in crate::cli) fn met() -> Self {
        Self { met: true, ..Self::default() }
    }

    /// The daemon has answered.
    pub(in crate::cli) fn meet(&mut self) {
        self.met = true;
    }

    /// All is well again.
    pub(in crate::cli) fn rest(&mut self) {
        *self = Self::met();
    }

    /// Waits a moment, and says once that it does.
    ///
    /// # Errors
    /// When the error will not pass, or has lasted for too long.
    pub(in crate::cli) async fn endure(&mut self, error: ClientError, say: impl Fn(&str)) -> Result<(), ClientError> {
        if !self.met || !error.is_passing() {
            return Err(error);
        }
        let since = *self.away.get_or_insert_with(|| {
            say(&format!("{error}; waiting for it"));
            Instant::now()
        });
        if since.elapsed() >= GIVE_UP {
            return Err(error);
        }
        self.wait = (self.wait * 2).clamp(FIRST, LONGEST);
        sleep(self.wait).await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::cli::client::Refusal;

    fn silent() -> ClientError {
        ClientError::Silent("unix:/x".parse().expect("a place"))
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_was_met_is_waited_for_and_told_of_once_and_not_for_ever() {
        let said = RefCell::new(Vec::new());
        let say = |text: &str| said.borrow_mut().push(text.to_owned());
        let begun = Instant::now();
        let mut patience = Patience::met();
        let mut tries = 0;
        while patience.endure(silent(), say).await.is_ok() {
            tries += 1;
        }
        assert!(begun.elapsed() >= GIVE_UP && begun.elapsed() < GIVE_UP + 2 * LONGEST && tries < 130, "{tries} in {:?}", begun.elapsed());
        assert_eq!(*said.borrow(), ["the daemon at unix:/x did not answer in time; waiting for it"]);
        patience.rest();
        assert!(patience.endure(silent(), say).await.is_ok());
        assert_eq!(said.borrow().len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_was_never_met_and_one_that_refuses_are_told_of_at_once() {
        assert!(Patience::default().endure(silent(), |_| {}).await.is_err());
        let refused = ClientError::Refused(Refusal { status: 404, ..Refusal::default() });
        assert!(Patience::met().endure(refused, |_| {}).await.is_err());
        let mut patience = Patience::default();
        patience.meet();
        assert!(patience.endure(silent(), |_| {}).await.is_ok());
    }
}
