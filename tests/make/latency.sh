#!/usr/bin/env bash
# Measures the time from GitLab's bell to a runner's first line, as often as RUNS says (default 30), beside `docker run`.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

tests/make/setup.sh test

step 'Building the tests'
cargo test --locked --no-run --test it --examples

export RC_LATENCY_RUNS="${RUNS:-30}"
step "Measuring $RC_LATENCY_RUNS starts beside a private engine"
RC_RUNNER_BIN="$(target_directory)/debug/examples/stand-in-runner"
export RC_RUNNER_BIN
mkdir -p "$state"
tests/with-engine cargo test --locked --offline --test it latency -- --nocapture --test-threads 1 2>&1 | tee "$state/latency.log"
grep -qE '^test result: ok\. [1-9]' "$state/latency.log" || fail 'no test named latency ran'
