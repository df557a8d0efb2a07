//! Real faults: real daemons, a real engine and real stores, killed and broken at random moments, and jobs whose runs are counted by somebody
//! else. `make chaos` runs the long form; what `make test` runs is short and has a fixed seed.
//!
//! Beside it stand two measurements on an engine of their own: how soon a daemon agrees with an engine full of containers, and what of it grows
//! with thousands of jobs.
//!
//! `RC_CHAOS_ROUNDS`, `RC_CHAOS_SEED` and `RC_CHAOS_SECONDS` choose how much and what; `RC_CHAOS_CONTAINERS` and `RC_CHAOS_MINUTES` do so for the
//! measurements; `RC_CHAOS_DAEMON` names another program to break.

#![expect(clippy::expect_used, reason = "a test fails by panicking, in its helpers too")]

mod agreement;
mod clients;
mod daemon;
mod engine;
mod faults;
mod foreign;
mod forge;
#[expect(dead_code, unused_imports, reason = "other tests use the rest of the stand-in")]
#[path = "../gitlab/mod.rs"]
mod gitlab;
mod ledger;
#[path = "../gpu/machine.rs"]
mod machine;
mod marks;
mod oracle;
#[path = "../engine/mod.rs"]
mod own_engine;
mod place;
mod proxy;
mod quiet;
mod rng;
mod round;
mod soak;
mod tally;
mod work;
mod world;

use std::io::Write as _;
use std::time::Duration;

use crate::rng::Rng;
use crate::round::round;
use crate::world::World;

/// The image that jobs run in.
const BUSYBOX: &str = "rc-test/busybox:1";

/// These tests use ports and an engine that others of them would use too.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// What the environment says.
fn setting_text(name: &str) -> Option<String> {
    std::env::vars().find(|(known, value)| known == name && !value.is_empty()).map(|(_, value)| value)
}

/// A number from the environment.
fn setting(name: &str) -> Option<u64> {
    setting_text(name).map(|value| value.parse().expect("a number"))
}

/// Says something at once, whatever becomes of the test.
fn say(words: &str) {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs();
    let _ = writeln!(std::io::stderr(), "{:02}:{:02}:{:02} {words}", now / 3600 % 24, now / 60 % 60, now % 60);
}

/// Between two looks at a predicate.
async fn pause() {
    tokio::time::sleep(Duration::from_millis(20)).await;
}

/// A client for plain HTTP.
fn client() -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    // Connections of a daemon that is gone are not worth keeping.
    reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).build().expect("a client")
}

/// These tests kill what they need themselves, and take their image from the engine of all tests.
async fn alone() -> tokio::sync::MutexGuard<'static, ()> {
    assert!(setting_text("RC_TEST_ENGINE").is_some(), "these tests need an engine to take their image from: run them with `make test`");
    ALONE.lock().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chaos_loses_nothing_doubles_nothing_and_leaves_nothing() {
    let _alone = alone().await;
    let seed = setting("RC_CHAOS_SEED").unwrap_or(6);
    let rounds = setting("RC_CHAOS_ROUNDS").unwrap_or(1);
    let rng = Rng::new(seed);
    let mut world = World::make(&rng).await;
    for number in 1..=rounds {
        let before = world.tally.faults();
        round(&mut world, number, &mut rng.fork(number)).await;
        if world.tally.faults() > before {
            world.keep(seed, number);
        }
        say(&format!("seed {seed}, after round {number} of {rounds}: {}", world.tally.more()));
        say(&world.tally.to_string());
    }
    assert_eq!(world.tally.faults(), 0, "something went wrong: see above; seed {seed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agreement_of_store_and_engine_comes_soon_after_both_are_up() {
    let _alone = alone().await;
    agreement::measure().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn soaked_in_jobs_the_daemon_does_not_grow() {
    let _alone = alone().await;
    soak::soak().await;
}
