//! Everything outside of the daemon: the engine, the clock, and when the daemon dies.

use std::future::Future;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use runner_coordinator::store::StoreError;
use tokio::sync::{Notify, watch};

use crate::dials::Dials;
use crate::engine::{Death, Engine};
use crate::gitlab::Queue;
use crate::time::Time;

/// What an engine does although nobody waits for it any more.
type Late = Box<dyn FnOnce(&World, &mut Engine) + Send>;

/// What survives the daemon.
pub(crate) struct World {
    pub(crate) time: Time,
    engine: Mutex<Engine>,
    gitlab: Mutex<Queue>,
    /// When, before which death of the engine, and what.
    late: Mutex<Vec<(u64, u32, Late)>>,
    /// Ticks when something may have happened to a container.
    changed: watch::Sender<u64>,
    dead: AtomicBool,
    /// Told when the daemon dies.
    pub(crate) death: Notify,
    /// Where the daemon keeps its files.
    pub(crate) data: PathBuf,
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("World")
    }
}

impl World {
    pub(crate) fn new(engine: Engine, data: PathBuf) -> Arc<Self> {
        let engine = Mutex::new(engine);
        Arc::new(Self {
            time: Time::default(),
            engine,
            gitlab: Mutex::default(),
            late: Mutex::default(),
            changed: watch::Sender::default(),
            dead: AtomicBool::new(false),
            death: Notify::new(),
            data,
        })
    }

    /// The engine as it is now.
    pub(crate) fn engine(&self) -> MutexGuard<'_, Engine> {
        let now = self.time.now();
        let mut engine = self.engine.lock().unwrap_or_else(PoisonError::into_inner);
        engine.settle(now, |at| self.time.wall(at));
        let due: Vec<_> = self.late().extract_if(.., |(at, _, _)| *at <= now).collect();
        for (_, deaths, effect) in due {
            if deaths == engine.deaths {
                effect(self, &mut engine);
            }
        }
        engine
    }

    /// GitLab as it is now.
    pub(crate) fn gitlab(&self) -> MutexGuard<'_, Queue> {
        let now = self.now();
        let over = std::mem::take(&mut self.engine().over);
        let mut gitlab = self.gitlab.lock().unwrap_or_else(PoisonError::into_inner);
        for (job, at) in over {
            let executions = usize::try_from(job).ok().and_then(|job| gitlab.jobs.get_mut(job - 1)).map(|job| &mut job.executions);
            if let Some((_, ended)) = executions.and_then(|executions| executions.iter_mut().find(|(_, ended)| ended.is_none())) {
                *ended = Some(at);
            }
        }
        gitlab.sweep(now);
        gitlab
    }

    /// Something happens at `at`, unless the engine dies before.
    pub(crate) fn postpone(&self, at: u64, effect: Late) {
        let deaths = self.engine().deaths;
        self.late().push((at, deaths, effect));
        self.stir();
    }

    fn late(&self) -> MutexGuard<'_, Vec<(u64, u32, Late)>> {
        self.late.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When something happens next by itself.
    fn next(&self) -> Option<u64> {
        let late = self.late().iter().map(|(at, _, _)| *at).min();
        self.engine().next().into_iter().chain(late).min()
    }

    pub(crate) fn now(&self) -> u64 {
        self.time.now()
    }

    /// Somebody may want to look again.
    pub(crate) fn stir(&self) {
        self.changed.send_modify(|tick| *tick += 1);
    }

    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// From here on nothing goes wrong.
    pub(crate) fn calm(&self) {
        let mut engine = self.engine();
        engine.dials = Dials::calm();
        engine.down_until = 0;
        drop(engine);
        self.gitlab().down_until = 0;
    }

    /// Whether nothing goes wrong any more.
    pub(crate) fn is_calm(&self) -> bool {
        let engine = self.engine();
        engine.down_until == 0 && engine.dials.is_calm()
    }

    /// A place where the daemon may die. It never goes on from where it died.
    pub(crate) async fn point(&self) {
        if !self.dead.load(Ordering::SeqCst) {
            let mut engine = self.engine();
            if !engine.chance(|dials| dials.crash) {
                return;
            }
            let now = self.now();
            engine.story.tell(now, "the daemon dies");
            drop(engine);
            self.dead.store(true, Ordering::SeqCst);
            self.death.notify_one();
        }
        std::future::pending::<()>().await;
    }

    /// The next daemon begins.
    pub(crate) fn revive(&self) {
        self.dead.store(false, Ordering::SeqCst);
    }

    /// Things happen by themselves: ends that are due are noticed, and once in a second the world may do something.
    pub(crate) async fn turn(&self) {
        let mut second = self.now() + 1000;
        let mut changes = self.changes();
        loop {
            let now = self.now();
            let due = self.next().unwrap_or(u64::MAX).min(second);
            tokio::select! {
                biased;
                () = tokio::time::sleep(Duration::from_millis(due.saturating_sub(now))) => {
                    drop(self.engine());
                    self.stir();
                }
                _ = changes.changed() => {}
            }
            if self.now() >= second {
                second += 1000;
                self.happen();
            }
        }
    }

    /// What befalls the world in a second.
    fn happen(&self) {
        let now = self.now();
        let mut engine = self.engine();
        if engine.down_until <= now && engine.chance(|dials| dials.engine_dies) {
            let how = engine.rng.choice([Death::LiveRestore, Death::Told, Death::Killed]).unwrap_or(Death::Killed);
            let away = engine.rng.u64(200..8000);
            engine.die(how, away, now, |at| self.time.wall(at));
        }
        if engine.chance(|dials| dials.meddles) {
            let names: Vec<String> = engine.containers.keys().cloned().collect();
            if let Some(name) = engine.rng.choice(&names).cloned() {
                engine.story.tell(now, "somebody removes a container");
                engine.remove(&name, now, |at| self.time.wall(at));
            }
        }
        if engine.chance(|dials| dials.clock) {
            let skew = engine.rng.choice([-7_200_000, -60_000, -1_000, 0, 1_000, 60_000, 7_200_000]).unwrap_or(0);
            engine.story.tell(now, &format!("the clock is wrong by {skew} ms"));
            self.time.skew(skew);
        }
        let away = engine.chance(|dials| dials.gitlab_dies).then(|| engine.rng.u64(1000..20_000));
        drop(engine);
        if let Some(away) = away {
            self.gitlab().down_until = now + away;
        }
        self.stir();
    }

    /// One call of the store that changes something.
    pub(crate) async fn writes<T>(&self, doing: &'static str, call: impl Future<Output = Result<T, StoreError>> + Send) -> Result<T, StoreError> {
        self.point().await;
        self.linger(doing).await?;
        let answer = call.await;
        self.point().await;
        if answer.is_ok() && self.engine().chance(|dials| dials.commit_unknown) {
            return Err(failed(doing, "the simulated disk is slow to say so"));
        }
        answer
    }

    /// One call of the store that only looks.
    pub(crate) async fn reads<T>(&self, doing: &'static str, call: impl Future<Output = Result<T, StoreError>> + Send) -> Result<T, StoreError> {
        self.point().await;
        self.linger(doing).await?;
        call.await
    }

    /// A store takes a moment, or long, or fails.
    async fn linger(&self, doing: &'static str) -> Result<(), StoreError> {
        let millis = {
            let now = self.now();
            let mut engine = self.engine();
            engine.story.whisper(now, doing);
            if engine.chance(|dials| dials.store_fails) {
                engine.story.tell(now, &format!("the store fails to {doing}"));
                return Err(failed(doing, "the simulated disk does not write"));
            }
            if engine.chance(|dials| dials.store_slow) { engine.rng.u64(..5000) } else { engine.rng.u64(..3) }
        };
        if millis > 0 {
            tokio::time::sleep(Duration::from_millis(millis)).await;
        }
        Ok(())
    }
}

fn failed(doing: &'static str, why: &str) -> StoreError {
    StoreError::Unavailable { doing, source: why.into() }
}
