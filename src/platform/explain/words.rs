//! Explanations as sentences for people.

use std::fmt::{Display, Formatter, Result};

use super::{Ahead, Explanation, Fits, HostReport, Preparing, Readiness, Standing};
use crate::domain::Outcome;
use crate::platform::Ever;

impl Display for Ahead {
    /// How many jobs go before it.
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::Exactly(0) => f.write_str("no job goes before it"),
            Self::Exactly(1) => f.write_str("1 job that wants the same goes before it"),
            Self::Exactly(jobs) => write!(f, "{jobs} jobs that want the same go before it"),
            Self::MoreThan(jobs) => write!(f, "more than {jobs} jobs that want the same go before it"),
        }
    }
}

impl Display for Readiness {
    /// Why the machine takes no work; nothing for one that does.
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::Ready => Ok(()),
            Self::Unasked => f.write_str("its engine has not been asked yet"),
            Self::EngineDown { error, since } => write!(f, "its engine has not answered since {since}: {error}"),
            Self::Stopping => f.write_str("it takes no new work, for its coordinator is about to end"),
            Self::Draining(drain) | Self::Drained(drain) => write!(f, "it takes no new work: {drain}"),
            Self::DiskFull(disk) => write!(f, "it takes no new work, for its disk is nearly full: {disk}"),
            Self::DiskUnresponsive(since) => write!(f, "it takes no new work, for a file system has not answered since {since}"),
            Self::Unguarded { why, since } => write!(f, "it starts no job with this network, for its firewall has not been set since {since}: {why}"),
        }
    }
}

impl Display for HostReport {
    /// What the machine says, without its name.
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let missing = self.missing.iter().map(|missing| &missing.unfit);
        let named = match self.fits {
            Fits::Never => join(missing.filter(|unfit| unfit.ever() == Ever::Never)),
            Fits::Now | Fits::Later => join(missing),
        };
        match (&self.readiness, self.fits) {
            (Readiness::Ready, Fits::Now) => f.write_str("it fits"),
            (Readiness::Ready, Fits::Later | Fits::Never) => f.write_str(&named),
            (readiness, Fits::Now) => readiness.fmt(f),
            (readiness, Fits::Later | Fits::Never) => write!(f, "{readiness}; {named}"),
        }
    }
}

impl Display for Preparing {
    /// What goes on.
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::Image => f.write_str("its image is looked for"),
            Self::Pull(progress) => write!(f, "its image is being fetched ({progress})"),
            Self::Container => f.write_str("its container is being made"),
            Self::Start => f.write_str("its container is being started"),
            Self::Runner => f.write_str("its container is up, and the runner in it has not asked for the job yet"),
            Self::Broker => f.write_str("the address at which its runner reaches the coordinator is not open yet"),
        }
    }
}

impl Display for Explanation {
    /// One sentence, or two.
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match &self.standing {
            Standing::Waiting => self.write_waiting(f),
            Standing::Handover(runner) => write!(f, "runner {runner} of its class waits for work and takes it"),
            Standing::BackOff(until) => {
                write!(f, "an attempt failed, and it is tried again not before {until}; ")?;
                self.write_waiting(f)
            }
            // What was claimed before its machine was drained, or its disk full, goes on.
            Standing::Starting {
                since,
                host,
                readiness: Readiness::Ready | Readiness::Draining(_) | Readiness::Drained(_) | Readiness::DiskFull(_) | Readiness::DiskUnresponsive(_),
                preparing,
            } => {
                write!(f, "it was given its share of {host} at {since}, and {preparing}")
            }
            Standing::Starting { since, host, readiness, .. } => write!(f, "it was given its share of {host} at {since}; {readiness}"),
            Standing::Running { since, timeout } => {
                write!(f, "it has been running since {since}, and its timeout is {}", humantime::format_duration(*timeout))
            }
            Standing::Ending(reason) => write!(f, "it is being ended: {reason}"),
            Standing::Ended { at, outcome: Outcome::Succeeded } => write!(f, "it succeeded at {at}"),
            Standing::Ended { at, outcome } => {
                let word = if matches!(outcome, Outcome::Canceled { .. }) { "was cancelled" } else { "failed" };
                write!(f, "it {word} at {at}")?;
                outcome.reason().map_or(Ok(()), |reason| write!(f, ": {reason}"))?;
                outcome.detail().map_or(Ok(()), |detail| write!(f, " ({detail})"))
            }
        }
    }
}

impl Explanation {
    fn write_waiting(&self, f: &mut Formatter<'_>) -> Result {
        let on_each = |hosts: &mut dyn Iterator<Item = &HostReport>| join(hosts.map(|host| format!("{}: {host}", host.host)));
        let of = |wanted: Fits| self.hosts.iter().filter(move |host| host.readiness == Readiness::Ready && host.fits == wanted);
        if self.ever == Some(Ever::Never) {
            return write!(f, "it can never run; {}", on_each(&mut self.hosts.iter()));
        }
        if let Some(reached) = &self.capped {
            return write!(f, "{reached}, and it waits for one of those to end");
        }
        if let Some(host) = of(Fits::Now).next() {
            write!(f, "there is room for it on {}", host.host)?;
        } else if of(Fits::Later).next().is_some() {
            write!(f, "it waits for room; {}", on_each(&mut of(Fits::Later)))?;
        } else {
            write!(f, "it waits for a machine; {}", on_each(&mut self.hosts.iter()))?;
        }
        self.ahead.map_or(Ok(()), |ahead| write!(f, "; {ahead}"))
    }
}

fn join<T: ToString>(parts: impl Iterator<Item = T>) -> String {
    parts.map(|part| part.to_string()).collect::<Vec<_>>().join("; ")
}
