//! What is done to daemons, engine and jobs.

use std::fmt;
use std::time::Duration;

use rustix::process::Signal;

use crate::daemon::Want;
use crate::engine::Restart;
use crate::own_engine::processes;
use crate::proxy::Meddle;
use crate::rng::Rng;
use crate::tally::Victim;
use crate::world::{Part, World};

/// One thing done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// `SIGKILL` for a daemon, and the next start at once.
    KillDaemon,
    /// Several in a row, each so soon after the start that it may not have ended.
    KillDaemonAgain,
    /// The whole machine, as far as processes go: both daemons and the engine.
    KillAll,
    StopDaemon,
    /// `SIGTERM` and a new start: an upgrade in place.
    UpgradeDaemon,
    /// A life with few open files, or little memory.
    WantDaemon,
    KillDockerd,
    TerminateDockerd,
    KillContainerd,
    StopDockerd,
    StopContainerd,
    KillShim,
    /// The first process of a job's container.
    KillInit,
    /// The job's own process.
    KillJob,
    Meddle,
    /// The road to GitLab is cut.
    CutGitLab,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// Which faults a round has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Theme {
    /// Only daemons die; the engine never breaks off, so that no log may miss a line.
    Daemons,
    /// Daemons and jobs die, and so does the engine now and then.
    Everything,
    /// Somebody meddles between the daemons and the engine.
    Meddling,
    /// Many jobs, of which most are cancelled.
    Cancels,
    /// GitLab comes and goes, and daemons die.
    GitLab,
}

impl Theme {
    /// What may happen, and how often.
    pub(crate) fn faults(self) -> &'static [(u64, Fault)] {
        match self {
            Self::Daemons | Self::Cancels => {
                &[(60, Fault::KillDaemon), (14, Fault::KillDaemonAgain), (8, Fault::StopDaemon), (14, Fault::UpgradeDaemon), (4, Fault::WantDaemon)]
            }
            Self::Everything => &[
                (44, Fault::KillDaemon),
                (6, Fault::CutGitLab),
                (8, Fault::KillDaemonAgain),
                (4, Fault::KillAll),
                (4, Fault::StopDaemon),
                (6, Fault::UpgradeDaemon),
                (6, Fault::KillDockerd),
                (3, Fault::TerminateDockerd),
                (5, Fault::KillContainerd),
                (3, Fault::StopDockerd),
                (3, Fault::StopContainerd),
                (7, Fault::KillShim),
                (10, Fault::KillInit),
                (8, Fault::KillJob),
            ],
            Self::GitLab => {
                &[(40, Fault::CutGitLab), (40, Fault::KillDaemon), (10, Fault::KillDaemonAgain), (5, Fault::StopDaemon), (8, Fault::UpgradeDaemon)]
            }
            Self::Meddling => &[(50, Fault::Meddle), (40, Fault::KillDaemon), (5, Fault::UpgradeDaemon), (5, Fault::KillInit)],
        }
    }
}

/// Does one thing to the world, which is whole again afterwards; what it was, in words.
pub(crate) async fn strike(world: &mut World, fault: Fault, rng: &mut Rng) -> String {
    let at = usize::try_from(rng.between(0, 1)).unwrap_or(0);
    match fault {
        Fault::KillDaemon => {
            world.kill_daemon(at);
            tokio::time::sleep(rng.millis(0, 300)).await;
            world.daemons[at].start().await;
            format!("daemon {at} killed")
        }
        Fault::KillDaemonAgain => kill_again(world, at, rng).await,
        Fault::KillAll => kill_all(world, rng).await,
        Fault::StopDaemon => {
            let stopped = rng.millis(100, 3000);
            world.tally.stops += u64::from(world.daemons[at].signal(Signal::STOP));
            tokio::time::sleep(stopped).await;
            world.daemons[at].signal(Signal::CONT);
            format!("daemon {at} stopped for {stopped:?}")
        }
        Fault::UpgradeDaemon => {
            if let Err(words) = world.daemons[at].terminate().await {
                world.complain(crate::tally::Wrong::Other, words);
            }
            world.tally.upgrades += 1;
            world.daemons[at].start().await;
            format!("daemon {at} ended and started in order")
        }
        Fault::WantDaemon => want(world, at, rng).await,
        Fault::KillDockerd | Fault::TerminateDockerd | Fault::KillContainerd | Fault::StopDockerd | Fault::StopContainerd => {
            world.broken.insert(Part::Engine);
            strike_engine(world, fault, rng).await
        }
        Fault::KillShim | Fault::KillInit | Fault::KillJob => {
            world.broken.insert(Part::Jobs);
            if fault == Fault::KillShim {
                world.broken.insert(Part::Engine);
            }
            strike_job(world, fault, rng)
        }
        Fault::Meddle => meddle(world, at, rng).await,
        Fault::CutGitLab => {
            world.tally.cuts += 1;
            world.forge.cut(rng).await
        }
    }
}

/// The next start is not waited for.
async fn kill_again(world: &mut World, at: usize, rng: &mut Rng) -> String {
    let times = rng.between(2, 6);
    world.kill_daemon(at);
    for _ in 1..times {
        world.daemons[at].spawn(Want::Nothing);
        tokio::time::sleep(rng.millis(1, 400)).await;
        world.kill_daemon(at);
    }
    world.daemons[at].start().await;
    format!("daemon {at} killed {times} times in its starts")
}

async fn kill_all(world: &mut World, rng: &mut Rng) -> String {
    world.broken.insert(Part::Engine);
    for at in 0..world.daemons.len() {
        world.kill_daemon(at);
    }
    if world.engine.kill() {
        world.tally.kill(Victim::Dockerd);
    }
    let with_jobs = rng.chance(50);
    if with_jobs {
        for shim in world.engine.shims() {
            kill_children(world, shim.pid);
            if processes::signal(shim.pid, Signal::KILL) {
                world.tally.kill(Victim::Shim);
            }
        }
    }
    for daemon in &mut world.daemons {
        daemon.spawn(Want::Nothing);
    }
    tokio::time::sleep(rng.millis(0, 1000)).await;
    let restart = restart(rng);
    world.engine.resume(restart).await;
    format!("daemons and dockerd killed{}, {restart:?}", if with_jobs { ", jobs and shims too" } else { "" })
}

fn kill_children(world: &mut World, pid: i32) {
    for child in processes::children(pid) {
        if processes::signal(child, Signal::KILL) {
            world.tally.kill(Victim::Job);
        }
    }
}

fn restart(rng: &mut Rng) -> Restart {
    if rng.chance(50) { Restart::Keeps } else { Restart::Ends }
}

/// It may not even start so; the next start lacks nothing.
async fn want(world: &mut World, at: usize, rng: &mut Rng) -> String {
    let want = if rng.chance(70) { Want::Descriptors(rng.between(16, 80)) } else { Want::Memory(rng.between(60, 600)) };
    world.kill_daemon(at);
    world.daemons[at].spawn(want);
    tokio::time::sleep(rng.millis(300, 3000)).await;
    world.kill_daemon(at);
    world.daemons[at].start().await;
    format!("daemon {at} lived with {want:?}")
}

async fn strike_engine(world: &mut World, fault: Fault, rng: &mut Rng) -> String {
    match fault {
        Fault::KillDockerd => {
            if world.engine.kill() {
                world.tally.kill(Victim::Dockerd);
            }
            tokio::time::sleep(rng.millis(0, 1500)).await;
        }
        Fault::TerminateDockerd => {
            world.engine.terminate().await;
            world.tally.upgrades += 1;
        }
        Fault::KillContainerd => {
            if world.engine.signal_containerd(Signal::KILL) {
                world.tally.kill(Victim::Containerd);
            }
            return "containerd killed".to_owned();
        }
        _ => {
            let stopped = rng.millis(100, 3000);
            let one = |signal| if fault == Fault::StopDockerd { world.engine.signal(signal) } else { world.engine.signal_containerd(signal) };
            let met = one(Signal::STOP);
            tokio::time::sleep(stopped).await;
            one(Signal::CONT);
            world.tally.stops += u64::from(met);
            return format!("{fault} for {stopped:?}");
        }
    }
    let restart = restart(rng);
    world.engine.resume(restart).await;
    format!("{fault}, {restart:?}")
}

fn strike_job(world: &mut World, fault: Fault, rng: &mut Rng) -> String {
    let shims = world.engine.shims();
    let Some(shim) = rng.pick(&shims) else { return format!("{fault}: no job runs") };
    if fault == Fault::KillShim {
        if processes::signal(shim.pid, Signal::KILL) {
            world.tally.kill(Victim::Shim);
        }
        return format!("the shim of {} killed", &shim.container[..12]);
    }
    let Some(init) = processes::children(shim.pid).pop() else { return format!("{fault}: it has ended") };
    if fault == Fault::KillInit {
        if processes::signal(init, Signal::KILL) {
            world.tally.kill(Victim::Job);
        }
        return format!("the first process of {} killed", &shim.container[..12]);
    }
    let Some(job) = processes::children(init).first().copied() else { return format!("{fault}: it has not begun") };
    world.struck_jobs.insert(shim.container[..12].to_owned());
    if processes::signal(job, Signal::KILL) {
        world.tally.kill(Victim::Job);
    }
    format!("the job in {} killed", &shim.container[..12])
}

async fn meddle(world: &mut World, at: usize, rng: &mut Rng) -> String {
    world.broken.insert(Part::Engine);
    let meddles = [Meddle::Delay(Duration::from_millis(rng.between(50, 2500))), Meddle::Cut, Meddle::Refuse, Meddle::Half, Meddle::Lose];
    let meddle = *rng.pick(&meddles).expect("one of several");
    let (percent, lasting) = (rng.between(10, 70), rng.millis(500, 4000));
    world.proxies[at].meddle(meddle, percent);
    tokio::time::sleep(lasting).await;
    world.proxies[at].behave();
    world.tally.meddled += 1;
    format!("proxy {at}: {meddle:?} for {percent} of 100 requests, {lasting:?}")
}
