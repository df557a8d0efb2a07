//! How badly things go in one simulation. Each seed has some faults often and others never, so that each is also met alone.

use fastrand::Rng;

/// Chances in thousandths per call, unless said otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Dials {
    /// A call of the engine fails before it does anything.
    pub(crate) engine_refuses: u32,
    /// The engine does what it is told and its answer is lost.
    pub(crate) answer_lost: u32,
    /// The engine does not answer until the deadline; it may do what it was told before, later or never.
    pub(crate) hangs: u32,
    /// The answer is lost, and the engine does what it was told only later.
    pub(crate) late: u32,
    /// The engine is slow.
    pub(crate) slow: u32,
    /// The packet filter does not take rules.
    pub(crate) firewall_fails: u32,
    /// Per second: the engine dies, with its containers or without.
    pub(crate) engine_dies: u32,
    /// Per second: somebody removes a container.
    pub(crate) meddles: u32,
    /// An end is reported with another exit code, or not at all.
    pub(crate) misreports: u32,
    /// A list shows an end, or a new container, only later.
    pub(crate) stale: u32,
    /// An event is lost; or the stream breaks.
    pub(crate) events_lost: u32,
    /// A log's stream breaks at a line.
    pub(crate) logs_break: u32,
    /// An image is not there.
    pub(crate) no_image: u32,
    /// A call of the store fails before it does anything.
    pub(crate) store_fails: u32,
    /// The store commits and says that it failed.
    pub(crate) commit_unknown: u32,
    /// The store takes seconds.
    pub(crate) store_slow: u32,
    /// A call of GitLab fails before it does anything.
    pub(crate) gitlab_fails: u32,
    /// GitLab does what it is told and its answer is lost.
    pub(crate) gitlab_lost: u32,
    /// Per second: GitLab is away for a while.
    pub(crate) gitlab_dies: u32,
    /// A bell is lost.
    pub(crate) bells_lost: u32,
    /// The daemon dies at a call, before or after its effect.
    pub(crate) crash: u32,
    /// Per second: the daemon is told to stop, and is started again.
    pub(crate) stop: u32,
    /// Per second: the wall clock jumps.
    pub(crate) clock: u32,
}

impl Dials {
    /// Nothing goes wrong.
    pub(crate) fn calm() -> Self {
        Self::default()
    }

    pub(crate) fn is_calm(&self) -> bool {
        *self == Self::default()
    }

    /// Some faults of this seed's.
    pub(crate) fn storm(rng: &mut Rng) -> Self {
        let mut dials = Self::default();
        let knobs = [
            (&mut dials.engine_refuses, 200),
            (&mut dials.answer_lost, 200),
            (&mut dials.hangs, 50),
            (&mut dials.late, 150),
            (&mut dials.slow, 300),
            (&mut dials.firewall_fails, 300),
            (&mut dials.engine_dies, 120),
            (&mut dials.meddles, 120),
            (&mut dials.misreports, 500),
            (&mut dials.stale, 500),
            (&mut dials.events_lost, 600),
            (&mut dials.logs_break, 300),
            (&mut dials.no_image, 200),
            (&mut dials.store_fails, 80),
            (&mut dials.commit_unknown, 80),
            (&mut dials.store_slow, 30),
            (&mut dials.gitlab_fails, 150),
            (&mut dials.gitlab_lost, 150),
            (&mut dials.gitlab_dies, 100),
            (&mut dials.bells_lost, 1000),
            (&mut dials.crash, 25),
            (&mut dials.stop, 80),
            (&mut dials.clock, 80),
        ];
        for (knob, most) in knobs {
            if rng.u32(..5) < 2 {
                *knob = rng.u32(1..=most);
            }
        }
        dials
    }
}
