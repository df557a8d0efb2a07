//! Everything that takes part: the engine, two daemons that share it under one host name, a proxy before each, the witness, and what is counted.

use std::collections::{BTreeSet, HashSet};

use tokio_util::task::TaskTracker;

use crate::clients::Desk;
use crate::daemon::{Daemon, Want};
use crate::engine::Engine;
use crate::foreign::Foreign;
use crate::forge::{Forge, RUNNER};
use crate::ledger::Ledger;
use crate::machine::Machine;
use crate::marks::{self, Witness};
use crate::place::Place;
use crate::proxy::Proxy;
use crate::rng::Rng;
use crate::say;
use crate::tally::{Tally, Victim, Wrong};

/// The API of the first daemon; of the next, one more. Below the range from which systems take ports by themselves.
const PORT: u16 = 18_100;
/// How many daemons there are.
const DAEMONS: usize = 2;

/// What may be struck besides daemons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    /// Logs may then say that lines are missing.
    Engine,
    /// Jobs, or what holds them.
    Jobs,
}

/// All of it. Fields are dropped in this order: who uses something before it.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) daemons: Vec<Daemon>,
    pub(crate) engine: Engine,
    pub(crate) proxies: Vec<Proxy>,
    pub(crate) witness: Witness,
    pub(crate) desk: Desk,
    pub(crate) foreign: Foreign,
    pub(crate) forge: Forge,
    pub(crate) tally: Tally,
    /// What was struck in this round.
    pub(crate) broken: BTreeSet<Part>,
    /// Containers whose jobs were killed in this round.
    pub(crate) struck_jobs: HashSet<String>,
    /// Two GPUs each, made of files.
    _machines: Vec<Machine>,
    _place: Place,
}

impl World {
    pub(crate) async fn make(rng: &Rng) -> Self {
        let place = Place::take();
        let tasks = TaskTracker::new();
        let engine = Engine::start(place.path()).await;
        engine.load(RUNNER);
        let (witness, forge) = (Witness::listen(&tasks).await, Forge::start().await);
        let (mut proxies, mut daemons, mut machines) = (Vec::new(), Vec::new(), Vec::new());
        for (at, port) in (0..DAEMONS).zip(PORT..) {
            let socket = place.path().join(format!("proxy-{at}.sock"));
            let proxy = Proxy::start(&tasks, &socket, &engine.socket(), rng.fork(u64::from(port)));
            let machine = Machine::new();
            let mut daemon = Daemon::new(
                place.path(),
                &format!("daemon-{at}"),
                port,
                &proxy.host(),
                &format!("{}{}\n{}", marks::REACHED, machine.settings(), forge.settings(at)),
            );
            machines.push(machine);
            daemon.start().await;
            proxies.push(proxy);
            daemons.push(daemon);
        }
        let instance = Ledger::open(&daemons[0].data()).instance();
        let foreign = Foreign::make(&engine, &instance).await;
        let desk = Desk::new(daemons.iter().map(|daemon| daemon.url.clone()).collect());
        let tally = Tally::default();
        Self {
            daemons,
            engine,
            proxies,
            witness,
            desk,
            foreign,
            forge,
            tally,
            broken: BTreeSet::new(),
            struck_jobs: HashSet::new(),
            _machines: machines,
            _place: place,
        }
    }

    pub(crate) fn kill_daemon(&mut self, at: usize) {
        if self.daemons[at].kill() {
            self.tally.kill(Victim::Daemon);
        }
    }

    /// Something that must not be.
    pub(crate) fn complain(&mut self, wrong: Wrong, words: impl AsRef<str>) {
        self.tally.wrong(wrong);
        say(&format!("WRONG ({wrong:?}): {}", words.as_ref()));
    }

    /// Keeps what daemons and engine logged in a round in which something went wrong.
    pub(crate) fn keep(&self, seed: u64, round: u64) {
        let kept = std::env::temp_dir().join(format!("rc-kept.{}.{seed}.{round}", std::process::id()));
        std::fs::create_dir_all(&kept).expect("a directory");
        for daemon in &self.daemons {
            let _ = std::fs::copy(daemon.log(), kept.join(format!("{}.log", daemon.name)));
            let _ = std::fs::copy(daemon.data().join("coordinator.db"), kept.join(format!("{}.db", daemon.name)));
            let _ = std::fs::copy(daemon.data().join("coordinator.db-wal"), kept.join(format!("{}.db-wal", daemon.name)));
        }
        let _ = std::fs::copy(self.engine.log(), kept.join("dockerd.log"));
        say(&format!("what daemons and engine logged is kept in {}", kept.display()));
    }

    /// Everybody lives and nobody meddles.
    pub(crate) fn restore(&mut self) {
        for proxy in &self.proxies {
            proxy.behave();
        }
        self.forge.restore();
        for at in 0..self.daemons.len() {
            if !self.daemons[at].is_running() {
                self.daemons[at].kill();
                self.daemons[at].spawn(Want::Nothing);
            }
        }
    }
}
