#!/usr/bin/env bash
# Drains a long queue through a real engine: the tests named drain, with as many jobs as JOBS says (default 1000).
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

tests/make/setup.sh test

step 'Building the tests'
cargo test --locked --no-run --test it --examples

export RC_DRAIN_JOBS="${JOBS:-1000}"
step "Draining $RC_DRAIN_JOBS jobs beside a private engine"
RC_RUNNER_BIN="$(target_directory)/debug/examples/stand-in-runner"
export RC_RUNNER_BIN
mkdir -p "$state"
tests/with-engine cargo test --locked --offline --test it drain -- --nocapture --test-threads 1 2>&1 | tee "$state/drain.log"
grep -qE '^test result: ok\. [1-9]' "$state/drain.log" || fail 'no test named drain ran'
