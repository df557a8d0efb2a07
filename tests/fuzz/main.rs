//! The program that `make fuzz` runs: one target, named by `RC_FUZZ_TARGET`, between libFuzzer and the daemon's code. Built without
//! `--cfg fuzzing` it has no fuzzer, and gives the files that it is called with to the target named first.

#![cfg_attr(fuzzing, no_main)]
#![expect(clippy::expect_used, clippy::panic, reason = "a fuzzer finds what panics")]

mod targets;

/// The target of that name.
fn named(name: &str) -> fn(&[u8]) {
    let found = targets::TARGETS.iter().find(|(known, _)| *known == name);
    found.unwrap_or_else(|| panic!("no target is called {name:?}: {:?}", targets::TARGETS.map(|(known, _)| known))).1
}

/// The target of this run.
#[cfg(fuzzing)]
#[expect(clippy::disallowed_methods, reason = "libFuzzer has the command line for itself")]
static TARGET: std::sync::LazyLock<fn(&[u8])> =
    std::sync::LazyLock::new(|| named(&std::env::var("RC_FUZZ_TARGET").expect("RC_FUZZ_TARGET names a target")));

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| (*TARGET)(data));

#[cfg(not(fuzzing))]
fn main() {
    let mut words = std::env::args().skip(1);
    let run = named(&words.next().expect("usage: fuzz TARGET FILE..."));
    for file in words {
        run(&std::fs::read(&file).expect("a file"));
    }
}
