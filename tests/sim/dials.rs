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
            (&mut dials.engine_refuses, 100),
            (&mut dials.answer_lost, 100),
            (&mut dials.hangs, 30),
            (&mut dials.late, 80),
            (&mut dials.slow, 200),
            (&mut dials.engine_dies, 80),
            (&mut dials.meddles, 60),
            (&mut dials.misreports, 400),
            (&mut dials.stale, 400),
            (&mut dials.events_lost, 500),
            (&mut dials.logs_break, 200),
            (&mut dials.no_image, 100),
            (&mut dials.store_fails, 40),
            (&mut dials.commit_unknown, 40),
            (&mut dials.store_slow, 20),
            (&mut dials.crash, 15),
            (&mut dials.stop, 40),
            (&mut dials.clock, 40),
        ];
        for (knob, most) in knobs {
            if rng.u32(..3) == 0 {
                *knob = rng.u32(1..=most);
            }
        }
        dials
    }
}
