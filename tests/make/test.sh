#!/usr/bin/env bash
# Runs every test. Everything is built first; the tests then run beside a private engine and a private PostgreSQL, and without a network.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

tests/make/setup.sh test

step 'Building the tests'
cargo test --locked --no-run
cargo test --locked --no-run --test chaos

step 'Running the tests beside a private engine and a private PostgreSQL'
export RUST_TEST_THREADS="${RUST_TEST_THREADS:-4}"
RC_RUNNER_BIN="$(target_directory)/debug/examples/stand-in-runner"
export RC_RUNNER_BIN
tests/with-engine tests/with-postgres cargo test --locked --offline --no-fail-fast

step 'Real faults, beside an engine of their own'
tests/with-engine cargo test --locked --offline --test chaos -- --nocapture --test-threads 1

tests/make/systemd.sh
