//! The daemon's scheduler, decisions and store against a world that is made up: an engine that lies and dies, a disk that fails, a clock that
//! jumps, a GitLab that is away, and a daemon that dies at any call. Everything follows from a seed, and a seed tells the same story again. With
//! a GitLab it does so but for the order of what wakes at the same moment, which the runtime decides by itself; so the story of a seed that breaks
//! a promise is printed as it happens.
//!
//! ```text
//!  users ──▶ the real store (in memory) ◀── the real JobManager ──▶ simulated engine ◀── what the processes really do
//!                         ▲                         │                                          │
//!                         └───────────── checks: what was promised, against what happened ◀────┘
//! ```
//!
//! `RC_SIM_SEED=N` tells one seed's story; `RC_SIM_SEEDS=N` runs so many, from `RC_SIM_FROM` on.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, in its helpers too, tells what it saw, and is asked for by the environment"
)]

mod checks;
mod dials;
mod driver;
mod engine;
mod firewall;
mod gitlab;
mod gpus;
mod life;
mod process;
mod runner;
mod store;
mod story;
mod time;
mod users;
mod world;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use fastrand::Rng;
use runner_coordinator::store::SqliteStore;

use crate::dials::Dials;
use crate::engine::Engine;
use crate::gitlab::Tokens;
use crate::life::{End, live};
use crate::story::Story;
use crate::users::Users;
use crate::world::World;

/// Seeds of a plain run of the tests; `make soak` runs more, and faster.
const SEEDS: u64 = 300;
/// So many are enough to say how often what may fail does.
const MANY: u64 = 100;
/// Lines of a story that are printed when it goes wrong.
const LINES: usize = 120;

/// What became of one seed.
struct Told {
    story: Story,
    lives: u64,
    jobs: u64,
    millis: u64,
    /// Jobs of GitLab whose scripts exit with 0, and how many of them succeeded there.
    good: u64,
    succeeded: u64,
}

/// Tells one seed's story.
fn tell(seed: u64) -> Told {
    let mut rng = Rng::with_seed(seed);
    let users = Arc::new(Users::new(&mut rng));
    let dials = Dials::storm(&mut rng);
    let directory = tempfile::Builder::new().prefix("rc-sim-").tempdir_in(room()).expect("a directory");
    let engine = Engine::new(rng.fork(), dials.clone(), directory.path().join("receipts"));
    let world = World::new(engine, directory.path().to_owned());
    world.gitlab().two_phase = rng.bool();
    world.gitlab().tokens = if rng.bool() { Tokens::Stay } else { Tokens::Change };
    let queue = Arc::new(SqliteStore::in_memory(Arc::default()).expect("a store"));
    let (mut lives, mut last) = (0, End::Died);
    while matches!(last, End::Died | End::Stopped) && lives < 1000 {
        lives += 1;
        last = live(&world, &queue, &users, lives);
        if last == End::Died {
            world.time.pass(rng.u64(10..3000));
        }
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(checks::check(&world, &queue, &users, &dials, (lives, last)));
    let (millis, jobs) = (world.now(), users.accepted().len() as u64);
    let (good, succeeded) = world.gitlab().good();
    let story = std::mem::take(&mut world.engine().story);
    Told { story, lives, jobs, millis, good, succeeded }
}

/// Where files cost least.
fn room() -> std::path::PathBuf {
    let memory = std::path::PathBuf::from("/dev/shm");
    if memory.is_dir() { memory } else { std::env::temp_dir() }
}

/// The last lines of a story, without what only tells two runs apart.
fn aloud(story: &Story, most: usize) -> String {
    let lines: Vec<String> = story.lines().into_iter().filter(|line| !line.contains(story::WHISPER)).collect();
    lines[lines.len().saturating_sub(most)..].join("\n")
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a number, and not {text:?}")))
}

/// Runs seeds on every processor; the first whose promises were broken, and all that they add up to.
fn run(from: u64, count: u64) {
    let (next, began) = (AtomicU64::new(from), Instant::now());
    let totals: [AtomicU64; 6] = Default::default();
    let broken = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, std::num::NonZero::get) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::SeqCst);
                    if seed >= from + count {
                        return;
                    }
                    let told = tell(seed);
                    let of_seed = [told.story.faults, told.lives, told.jobs, told.millis / 1000, told.good, told.succeeded];
                    for (total, of_seed) in totals.iter().zip(of_seed) {
                        total.fetch_add(of_seed, Ordering::SeqCst);
                    }
                    if !told.story.went_well() {
                        broken.lock().expect("no panic").push((seed, told.story));
                    }
                }
            });
        }
    });
    let [faults, lives, jobs, seconds, good, succeeded] = totals.map(AtomicU64::into_inner);
    println!(
        "simulated: {count} seeds from {from}, {jobs} jobs, {lives} lives of the daemon, {faults} faults, {seconds} s of its time in {:.0} s; \
         {succeeded} of GitLab's {good} jobs whose scripts exit with 0 succeeded",
        began.elapsed().as_secs_f64()
    );
    let broken = broken.into_inner().expect("no panic");
    for (seed, story) in broken.iter().take(20) {
        println!("seed {seed}: {:#?}", story.broken());
    }
    if let Some((seed, story)) = broken.first() {
        println!("the end of the story of seed {seed}:\n{}", aloud(story, LINES));
    }
    assert!(broken.is_empty(), "{} of {count} seeds broke a promise; RC_SIM_SEED={} tells the first one's story", broken.len(), broken[0].0);
    assert!(count < MANY || 3 * succeeded >= good, "of GitLab's {good} jobs whose scripts exit with 0 only {succeeded} succeeded");
}

#[test]
fn every_promise_is_kept_whatever_happens() {
    if let Some(seed) = number("RC_SIM_SEED") {
        let told = tell(seed);
        let whispers = std::env::var("RC_SIM_WHISPERS").is_ok();
        println!("{}", if whispers { told.story.lines().join("\n") } else { aloud(&told.story, usize::MAX) });
        assert!(told.story.went_well(), "{:#?}", told.story.broken());
        return;
    }
    run(number("RC_SIM_FROM").unwrap_or(0), number("RC_SIM_SEEDS").unwrap_or(SEEDS));
}

#[test]
fn a_seed_always_tells_the_same_story() {
    for seed in (0..60).filter(|seed| !Users::new(&mut Rng::with_seed(*seed)).gitlab) {
        let (one, other) = (tell(seed).story.lines(), tell(seed).story.lines());
        if let Some(at) = (0..one.len().max(other.len())).find(|&at| one.get(at) != other.get(at)) {
            let part = |lines: &[String]| lines[at.saturating_sub(8).min(lines.len())..(at + 3).min(lines.len())].join("\n");
            panic!("seed {seed} tells two stories:\n{}\n\n{}", part(&one), part(&other));
        }
    }
}
