//! How a job's command really ended, as the first process of its container proved it.

/// What a receipt is of: one attempt, and the one creation of its container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceiptOf<'a> {
    /// The job.
    pub job: &'a super::JobId,
    /// Its attempt.
    pub attempt: u32,
    /// The text that tells this container from another with the same name.
    pub nonce: &'a str,
}

/// How the command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HowEnded {
    /// By itself, with this exit code.
    Exit(u8),
    /// By a signal of this number.
    Signal(u8),
}

/// What a receipt proves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proven {
    /// The command was told to end (SIGTERM); that it did is not proved, since it had not, or its first process was killed with it.
    Told,
    /// It ended.
    Ended(ProvenEnd),
}

/// An end that is proved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProvenEnd {
    /// How.
    pub how: HowEnded,
    /// Whether the container was told to end (SIGTERM) before the command did: by the coordinator, by an engine that restarts, by a person.
    pub told: bool,
}

impl ProvenEnd {
    /// The exit code, and 128 with the signal for one that a signal ended, as shells and engines count.
    #[must_use]
    pub fn exit_code(self) -> i64 {
        match self.how {
            HowEnded::Exit(code) => i64::from(code),
            HowEnded::Signal(signal) => 128 + i64::from(signal),
        }
    }
}
