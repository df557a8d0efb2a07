//! What jobs do, and how they may end.

use serde_json::{Value, json};

use crate::BUSYBOX;
use crate::marks;
use crate::rng::Rng;

/// What a job does between its first and its last word to the witness.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Nothing.
    Quick,
    /// Fails.
    Fails,
    /// Lives for so many fifths of a second and says so.
    Lives(u64),
    /// Prints so many numbered lines.
    Prints(u64),
    /// Kills itself.
    Dies,
    /// Leaves a process behind that goes on.
    Leaves,
    /// Holds a GPU for so many fifths of a second.
    Holds(u64),
}

/// How a job's script ends when nobody meddles with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Own {
    Success,
    Code(i64),
}

impl Kind {
    /// One of all kinds.
    pub(crate) fn any(rng: &mut Rng) -> Self {
        match rng.between(0, 11) {
            0 | 1 => Self::Quick,
            10 | 11 => Self::Holds(rng.between(1, 10)),
            2 => Self::Fails,
            3..=5 => Self::Lives(rng.between(2, 20)),
            6 | 7 => Self::Prints(rng.between(20, 3000)),
            8 => Self::Dies,
            _ => Self::Leaves,
        }
    }

    /// One that needs no GPU and takes little time.
    pub(crate) fn plain(rng: &mut Rng) -> Self {
        match rng.between(0, 9) {
            0..=3 => Self::Quick,
            4 | 5 => Self::Fails,
            6 | 7 => Self::Lives(rng.between(1, 5)),
            _ => Self::Prints(rng.between(20, 1000)),
        }
    }

    /// How it ends by itself.
    pub(crate) fn own(self) -> Own {
        match self {
            Self::Quick | Self::Lives(_) | Self::Prints(_) | Self::Leaves | Self::Holds(_) => Own::Success,
            Self::Fails => Own::Code(3),
            Self::Dies => Own::Code(137),
        }
    }

    fn body(self) -> String {
        let (body, end) = match self {
            Self::Quick => (String::new(), "exit 0"),
            Self::Fails => (String::new(), "exit 3"),
            Self::Lives(fifths) | Self::Holds(fifths) => {
                (format!("i=0; while [ $i -lt {fifths} ]; do m alive; usleep 200000; i=$((i+1)); done"), "exit 0")
            }
            // In pieces, so that moments come between them.
            Self::Prints(lines) => (
                format!(
                    "i=0; while [ $i -lt {lines} ]; do i=$((i+1)); echo \"line $i\"; [ $((i % 100)) != 0 ] || {{ m alive; usleep 50000; }}; done"
                ),
                "exit 0",
            ),
            Self::Dies => (String::new(), "kill -9 $$"),
            Self::Leaves => ("(while :; do m alive; usleep 200000; done) & usleep 300000".to_owned(), "exit 0"),
        };
        format!("{body}\nm end\n{end}")
    }

    /// The whole script; `job` is how the shell gets the job's name. A word is repeated until the witness has heard it; it names the machine's GPU, where there is one.
    pub(crate) fn script(self, daemon: usize, job: &str) -> String {
        let port = marks::PORT;
        format!(
            "set +e; d={daemon}:$(ls /dev/dri 2>/dev/null); g=$(ip route | sed -n 's/^default via \\([^ ]*\\).*/\\1/p'); n=$(cat /proc/sys/kernel/random/uuid); h=$(hostname)\n\
             m() {{ until [ \"$(echo \"$1 $n $h {job} $d\" | timeout 3 nc -w 2 $g {port} 2>/dev/null)\" = ok ]; do usleep 100000; done; }}\n\
             m begin\n{}",
            self.body()
        )
    }

    /// The request that submits it.
    pub(crate) fn request(self, daemon: usize) -> Value {
        let mut request = json!({ "image": BUSYBOX, "command": ["sh", "-c", self.script(daemon, "$RUNNER_COORDINATOR_JOB_ID")] });
        if let Self::Holds(_) = self {
            request["gpus"] = json!({ "count": 1, "vendor": "amd" });
        }
        request
    }
}

/// Whether somebody wished a job to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish {
    No,
    /// It was cancelled, or its runner ended.
    Made,
    /// It was cancelled, and the cancel was answered with "accepted".
    Heard,
}

/// A job that a daemon accepted, and what was done to it on purpose.
#[derive(Debug, Clone)]
pub(crate) struct Accepted {
    /// Which daemon's.
    pub(crate) daemon: usize,
    pub(crate) id: String,
    pub(crate) kind: Kind,
    pub(crate) wish: Wish,
}
