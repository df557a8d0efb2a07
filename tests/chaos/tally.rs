//! What is counted over all rounds, and the line that tells it.

use std::fmt;
use std::time::Duration;

/// Whom a signal met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Victim {
    Daemon,
    Dockerd,
    Containerd,
    Shim,
    Job,
}

/// What may be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wrong {
    /// An accepted job that is not there or did not end.
    Lost,
    /// A job that ran or ended more often than it may.
    Doubled,
    /// A job that ended otherwise than it did.
    Outcome,
    /// A log that is not what the job wrote.
    Log,
    Container,
    Network,
    Lease,
    Row,
    /// Something of others was touched.
    Foreign,
    /// Anything else.
    Other,
}

impl Wrong {
    const ALL: [Self; 10] =
        [Self::Lost, Self::Doubled, Self::Outcome, Self::Log, Self::Container, Self::Network, Self::Lease, Self::Row, Self::Foreign, Self::Other];
}

/// The counts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tally {
    kills: [u64; 5],
    pub(crate) stops: u64,
    pub(crate) upgrades: u64,
    pub(crate) meddled: u64,
    /// How often the road to GitLab was cut.
    pub(crate) cuts: u64,
    /// Jobs of GitLab that failed for no reason of their own, as they may when they were struck.
    pub(crate) spoilt: u64,
    pub(crate) accepted: u64,
    /// Those of them that were not GitLab's.
    pub(crate) accepted_by_api: u64,
    pub(crate) finished_once: u64,
    pub(crate) attempts: u64,
    wrong: [u64; 10],
    agreed: Vec<Duration>,
}

impl Tally {
    pub(crate) fn kill(&mut self, victim: Victim) {
        self.kills[victim as usize] += 1;
    }

    pub(crate) fn wrong(&mut self, wrong: Wrong) {
        self.wrong[wrong as usize] += 1;
    }

    pub(crate) fn agreed(&mut self, after: Duration) {
        self.agreed.push(after);
    }

    pub(crate) fn kills(&self) -> u64 {
        self.kills.iter().sum()
    }

    fn count(&self, wrong: Wrong) -> u64 {
        self.wrong[wrong as usize]
    }

    /// How many things were wrong.
    pub(crate) fn faults(&self) -> u64 {
        Wrong::ALL.iter().map(|wrong| self.count(*wrong)).sum()
    }

    /// What the summary does not tell.
    pub(crate) fn more(&self) -> String {
        let mut agreed = self.agreed.clone();
        agreed.sort();
        let at = |part: usize| agreed.get((agreed.len() * part / 100).min(agreed.len().saturating_sub(1))).copied().unwrap_or_default().as_millis();
        let Self { upgrades, meddled, cuts, spoilt, attempts, .. } = self;
        format!(
            "stops and starts in order {upgrades}, spells of a meddling proxy {meddled}, cuts of the road to GitLab {cuts}, attempts {attempts}, jobs of GitLab failed by what was struck {spoilt}, wrong outcomes {}, wrong logs {}, \
             things of others touched {}, other {}; store and engine agreed after both were up in {} ms (median), {} ms (95 of 100), {} ms (most) of {} times",
            self.count(Wrong::Outcome),
            self.count(Wrong::Log),
            self.count(Wrong::Foreign),
            self.count(Wrong::Other),
            at(50),
            at(95),
            at(100),
            agreed.len(),
        )
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [daemon, dockerd, containerd, shim, job] = self.kills;
        write!(
            f,
            "kills {} (daemon {daemon}, dockerd {dockerd}, containerd {containerd}, shim {shim}, job {job}), stops {}, jobs accepted {}, \
             finished once {}, lost {}, doubled {}, containers left {}, networks left {}, leases left {}, rows left {}",
            self.kills(),
            self.stops,
            self.accepted,
            self.finished_once,
            self.count(Wrong::Lost),
            self.count(Wrong::Doubled),
            self.count(Wrong::Container),
            self.count(Wrong::Network),
            self.count(Wrong::Lease),
            self.count(Wrong::Row),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_has_its_form() {
        let mut tally = Tally { stops: 2, accepted: 9, finished_once: 8, ..Tally::default() };
        for victim in [Victim::Daemon, Victim::Daemon, Victim::Dockerd, Victim::Containerd, Victim::Shim, Victim::Job] {
            tally.kill(victim);
        }
        tally.wrong(Wrong::Lost);
        let told = "kills 6 (daemon 2, dockerd 1, containerd 1, shim 1, job 1), stops 2, jobs accepted 9, finished once 8, lost 1, doubled 0, \
                    containers left 0, networks left 0, leases left 0, rows left 0";
        assert_eq!((tally.to_string().as_str(), tally.faults()), (told, 1));
    }
}
