//! Every input that is kept below `tests/fuzz/corpus`, given to its target by an ordinary test: what once made a target panic stays found.

#![expect(clippy::expect_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

mod targets;

use std::path::{Path, PathBuf};

use targets::TARGETS;

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus")
}

/// The names in a directory, in order.
fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut names: Vec<String> = entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("a name")).collect();
    names.sort();
    names
}

#[test]
fn every_target_has_a_corpus_and_every_corpus_a_target() {
    assert_eq!(names(&corpus()), TARGETS.map(|(name, _)| name));
}

#[test]
fn every_input_that_is_kept_keeps_every_promise() {
    for (name, run) in TARGETS {
        let directory = corpus().join(name);
        let inputs = names(&directory);
        assert!(inputs.len() > 1, "{name} has no corpus");
        for input in inputs {
            let bytes = std::fs::read(directory.join(&input)).expect("an input");
            let outcome = std::panic::catch_unwind(|| run(&bytes));
            assert!(outcome.is_ok(), "tests/fuzz/corpus/{name}/{input} breaks a promise, see above");
        }
    }
}
