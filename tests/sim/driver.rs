//! The daemon's way to the simulated engine, on which answers are lost, late, false or missing.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use runner_coordinator::docker::{
    ContainerFacts, ContainerPlan, Driver, DriverError, EngineEvent, EngineInfo, ImageRemoval, LogRecord, LogStream, NetworkInfo, ResolvedImage,
    Usage,
};
use runner_coordinator::domain::{Arch, ClassName, HostFile, ImageRef, MemoryBytes, RunnerId};
use runner_coordinator::security::HardenedProfile;
use tokio::sync::mpsc;

use crate::engine::{CPUS, Engine, Listed, not_found};
use crate::world::World;

/// The simulated engine, for one daemon.
#[derive(Debug, Clone)]
pub(crate) struct SimDriver(pub(crate) Arc<World>);

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Fine,
    Refused,
    AnswerLost,
    /// It does what it is told and says that it failed.
    Denied,
    /// Nothing until the deadline; what was asked for happens after so many milliseconds.
    Hangs(Option<u64>),
    /// The connection breaks, and what was asked for happens after so many milliseconds.
    Late(u64),
}

type Effect<T> = Box<dyn FnOnce(&World, &mut Engine) -> Result<T, DriverError> + Send>;

impl SimDriver {
    /// One call with all that may go wrong with it.
    async fn call<T: Send + 'static>(&self, call: &'static str, deadline: u64, effect: Effect<T>) -> Result<T, DriverError> {
        let world = &self.0;
        world.point().await;
        let (fate, wait) = self.fate(deadline);
        world.engine().story.whisper(world.now(), call);
        let answer = match fate {
            Fate::Fine => {
                rest(wait).await;
                self.take_effect(call, effect)
            }
            Fate::Refused => {
                rest(wait).await;
                Err(DriverError::Refused { call, status: 500, message: "the simulated engine fails".to_owned() })
            }
            Fate::AnswerLost => {
                rest(wait).await;
                let done = self.take_effect(call, effect);
                done.and_then(|_| Err(interrupted(call)))
            }
            Fate::Denied => {
                rest(wait).await;
                let done = self.take_effect(call, effect);
                done.and_then(|_| Err(DriverError::Refused { call, status: 500, message: "the simulated engine says so".to_owned() }))
            }
            Fate::Hangs(None) => {
                rest(deadline).await;
                Err(DriverError::Deadline { call, after: Duration::from_millis(deadline) })
            }
            Fate::Hangs(Some(after)) => {
                self.later(call, after, effect);
                rest(deadline).await;
                Err(DriverError::Deadline { call, after: Duration::from_millis(deadline) })
            }
            Fate::Late(after) => {
                rest(wait).await;
                self.later(call, after, effect);
                Err(interrupted(call))
            }
        };
        if let Err(error) = &answer {
            world.engine().story.tell(world.now(), &format!("{call}: {error}"));
        }
        world.point().await;
        world.stir();
        answer
    }

    fn fate(&self, deadline: u64) -> (Fate, u64) {
        let mut engine = self.0.engine();
        let wait = if engine.chance(|dials| dials.slow) { engine.rng.u64(..deadline.min(3000)) } else { engine.rng.u64(1..10) };
        let fate = if engine.chance(|dials| dials.engine_refuses) {
            Fate::Refused
        } else if engine.chance(|dials| dials.answer_lost) {
            if engine.rng.bool() { Fate::AnswerLost } else { Fate::Denied }
        } else if engine.chance(|dials| dials.hangs) {
            Fate::Hangs(engine.rng.choice([None, Some(deadline / 2), Some(deadline + 3000)]).flatten())
        } else if engine.chance(|dials| dials.late) {
            Fate::Late(engine.rng.u64(..6000))
        } else {
            Fate::Fine
        };
        (fate, wait)
    }

    fn take_effect<T>(&self, call: &'static str, effect: Effect<T>) -> Result<T, DriverError> {
        let now = self.0.now();
        let mut engine = self.0.engine();
        if engine.down_until > now {
            return Err(DriverError::Unreachable { call, source: "the simulated engine is down".into() });
        }
        effect(&self.0, &mut engine)
    }

    /// What was asked for happens when nobody waits for it any more, unless the engine dies before.
    fn later<T: Send + 'static>(&self, call: &'static str, after: u64, effect: Effect<T>) {
        let at = self.0.now() + after;
        self.0.postpone(
            at,
            Box::new(move |world, engine| {
                let came = effect(world, engine).is_ok();
                engine.story.tell(at, &format!("a late {call} took effect: {came}"));
            }),
        );
    }
}

async fn rest(millis: u64) {
    tokio::time::sleep(Duration::from_millis(millis)).await;
}

fn interrupted(call: &'static str) -> DriverError {
    DriverError::Interrupted { call, source: "the simulated engine's answer is lost".into() }
}

#[async_trait]
impl Driver for SimDriver {
    async fn ping(&self) -> Result<(), DriverError> {
        self.call("ping", 2000, Box::new(|_, _| Ok(()))).await
    }

    async fn info(&self) -> Result<EngineInfo, DriverError> {
        self.call("info", 10_000, Box::new(|_, _| Ok(info()))).await
    }

    async fn sees_file(&self, _file: &HostFile) -> Result<bool, DriverError> {
        self.call("sees_file", 30_000, Box::new(|_, _| Ok(true))).await
    }

    async fn ensure_network(&self, class: Option<&ClassName>) -> Result<NetworkInfo, DriverError> {
        let class = class.cloned();
        let made = move |_: &World, engine: &mut Engine| {
            engine.networks.insert(class.clone());
            Ok(network(class))
        };
        self.call("network", 10_000, Box::new(made)).await
    }

    async fn networks(&self) -> Result<Vec<NetworkInfo>, DriverError> {
        let all = |engine: &Engine| engine.networks.iter().map(|class| network(class.clone())).collect();
        self.call("networks", 10_000, Box::new(move |_, engine| Ok(all(engine)))).await
    }

    async fn remove_network(&self, _id: &str) -> Result<(), DriverError> {
        self.call("remove_network", 10_000, Box::new(|_, _| Ok(()))).await
    }

    async fn resolve_image(&self, image: &ImageRef) -> Result<Option<ResolvedImage>, DriverError> {
        let resolved = resolved(image);
        self.call("resolve", 10_000, Box::new(move |_, engine| Ok((!engine.chance(|dials| dials.no_image)).then_some(resolved)))).await
    }

    async fn pull(&self, image: &ImageRef, _platform: Option<Arch>, progress: mpsc::Sender<String>) -> Result<ResolvedImage, DriverError> {
        let (resolved, name) = (resolved(image), image.to_string());
        let _ = progress.try_send("Downloading".to_owned());
        let pulled = move |_: &World, engine: &mut Engine| {
            if engine.chance(|dials| dials.no_image) {
                Err(DriverError::PullFailed { image: name, message: "the simulated registry is away".to_owned() })
            } else {
                Ok(resolved)
            }
        };
        self.call("pull", 300_000, Box::new(pulled)).await
    }

    async fn images_in_use(&self) -> Result<Vec<String>, DriverError> {
        self.call("images_in_use", 10_000, Box::new(|_, _| Ok(Vec::new()))).await
    }

    async fn remove_image(&self, _image: &ImageRef) -> Result<ImageRemoval, DriverError> {
        self.call("remove_image", 60_000, Box::new(|_, _| Ok(ImageRemoval::Gone))).await
    }

    async fn create(&self, plan: &ContainerPlan, profile: &HardenedProfile) -> Result<String, DriverError> {
        let (plan, profile) = (plan.clone(), profile.clone());
        self.call("create", 30_000, Box::new(move |world, engine| engine.create(&plan, &profile, world.now()))).await
    }

    async fn start(&self, container: &str) -> Result<(), DriverError> {
        let container = container.to_owned();
        self.call("start", 60_000, Box::new(move |world, engine| engine.start(&container, world.now()))).await
    }

    async fn inspect(&self, container: &str) -> Result<Option<ContainerFacts>, DriverError> {
        let container = container.to_owned();
        let look = move |world: &World, engine: &mut Engine| {
            Ok(engine.name_of(&container).and_then(|name| engine.facts(&name, Listed::No, world.now(), |at| world.time.wall(at))))
        };
        self.call("inspect", 10_000, Box::new(look)).await
    }

    async fn list(&self) -> Result<Vec<ContainerFacts>, DriverError> {
        let look = |world: &World, engine: &mut Engine| {
            let facts = |name: &String| engine.facts(name, Listed::Yes, world.now(), |at| world.time.wall(at));
            Ok(engine.containers.keys().filter_map(facts).collect())
        };
        self.call("list", 10_000, Box::new(look)).await
    }

    async fn stop(&self, container: &str, grace: Duration) -> Result<(), DriverError> {
        let (container, grace) = (container.to_owned(), u64::try_from(grace.as_millis()).unwrap_or(u64::MAX));
        let told = Box::new(move |world: &World, engine: &mut Engine| Ok(engine.stop(&container, grace, world.now(), |at| world.time.wall(at))));
        let ends = self.call("stop", grace + 10_000, told).await?;
        // An engine answers when the process is gone.
        rest(ends.unwrap_or(0).saturating_sub(self.0.now())).await;
        Ok(())
    }

    async fn remove(&self, container: &str) -> Result<(), DriverError> {
        let container = container.to_owned();
        let gone = move |world: &World, engine: &mut Engine| {
            engine.remove(&container, world.now(), |at| world.time.wall(at));
            Ok(())
        };
        self.call("remove", 60_000, Box::new(gone)).await
    }

    async fn usage(&self, _container: &str) -> Result<Option<Usage>, DriverError> {
        self.call("usage", 10_000, Box::new(|_, _| Ok(None))).await
    }

    fn logs(&self, container: &str, since_seconds: i64) -> BoxStream<'static, Result<LogRecord, DriverError>> {
        let (driver, container, told) = (self.clone(), container.to_owned(), 0);
        let next = move |(driver, container, mut told): (Self, String, usize)| async move {
            loop {
                let (line, more) = driver.line(&container, since_seconds, told);
                match line {
                    Some(record) => {
                        told += 1;
                        return Some((record, (driver, container, told)));
                    }
                    None if !more => return None,
                    None => rest(50).await,
                }
            }
        };
        stream::unfold((driver, container, told), next).boxed()
    }

    fn events(&self) -> BoxStream<'static, Result<EngineEvent, DriverError>> {
        let (world, from) = (Arc::clone(&self.0), self.0.engine().told);
        let changes = world.changes();
        stream::unfold((world, from, changes), |(world, mut from, mut changes)| async move {
            loop {
                let heard = hear(&world, &mut from)?;
                if let Some(event) = heard {
                    return Some((Ok(event), (world, from, changes)));
                }
                changes.changed().await.ok()?;
            }
        })
        .boxed()
    }
}

impl SimDriver {
    /// The next line of a container's output, if it is there already, and whether there will be more.
    fn line(&self, container: &str, since_seconds: i64, told: usize) -> (Option<Result<LogRecord, DriverError>>, bool) {
        let now = self.0.now();
        let mut engine = self.0.engine();
        if engine.down_until > now {
            return (Some(Err(interrupted("logs"))), false);
        }
        let Some((lines, more)) = engine.output(container, now) else { return (Some(Err(not_found("logs", container))), false) };
        if engine.chance(|dials| dials.logs_break) {
            return (Some(Err(interrupted("logs"))), false);
        }
        let record = |(at, text): (u64, String)| LogRecord {
            ts_ns: u64::try_from(self.0.time.wall(at).as_nanosecond()).unwrap_or(0),
            stream: LogStream::Stdout,
            bytes: Bytes::from(text),
        };
        let since = u64::try_from(since_seconds).unwrap_or(0).saturating_mul(1_000_000_000);
        let wanted = lines.into_iter().map(record).filter(|record| record.ts_ns >= since).nth(told);
        (wanted.map(Ok), more)
    }
}

/// The next event that reaches who listens; the outer `None` when the stream breaks.
#[expect(clippy::option_option, reason = "a stream that ends, one that is silent, and one that tells")]
fn hear(world: &World, from: &mut u64) -> Option<Option<EngineEvent>> {
    let now = world.now();
    let mut engine = world.engine();
    if engine.down_until > now {
        return None;
    }
    while *from < engine.told {
        let back = usize::try_from(engine.told - *from).unwrap_or(usize::MAX);
        *from += 1;
        let lost = engine.chance(|dials| dials.events_lost);
        let Some((_, container, action, runner)) = engine.events.len().checked_sub(back).and_then(|at| engine.events.get(at)).cloned() else {
            continue;
        };
        if !lost {
            return Some(Some(EngineEvent { container, action: action.to_owned(), runner: Some(RunnerId::from_trusted(runner)) }));
        }
        if engine.rng.u32(..8) == 0 {
            return None;
        }
    }
    Some(None)
}

fn resolved(image: &ImageRef) -> ResolvedImage {
    ResolvedImage {
        reference: image.clone(),
        id: "sha256:0".to_owned(),
        digest: Some("job@sha256:0".to_owned()),
        arch: Some(Arch::Amd64),
        volumes: Vec::new(),
        forced_env: Vec::new(),
        user: None,
    }
}

/// The bridge of a class, by whose name the engine knows it too.
fn network(class: Option<ClassName>) -> NetworkInfo {
    let name = class.as_ref().map_or_else(|| "rc".to_owned(), |class| format!("rc-{class}"));
    NetworkInfo { id: format!("br-{name}"), bridge: format!("br-{name}"), name, gateway: [172, 30, 0, 1].into(), subnets: Vec::new(), class }
}

fn info() -> EngineInfo {
    EngineInfo {
        id: "engine".to_owned(),
        version: "simulated".to_owned(),
        api: "1.41".to_owned(),
        machine: "x86_64".to_owned(),
        arch: Some(Arch::Amd64),
        cpus: u32::try_from(CPUS.0 / 1000).expect("few"),
        memory: MemoryBytes(16 << 30),
        runtimes: vec!["nvidia".to_owned(), "runc".to_owned()],
        cgroup_version: Some("2".to_owned()),
        security_options: vec!["name=seccomp,profile=default".to_owned()],
        cdi_devices: Vec::new(),
        unsupported: Vec::new(),
        forwards: None,
        warnings: Vec::new(),
        time: None,
        data_root: None,
    }
}
