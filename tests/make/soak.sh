#!/usr/bin/env bash
# Runs the simulation on many seeds, as fast as it goes: SEEDS seeds (default 1000000), from FROM on (default 0).
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

tests/make/setup.sh test
step 'Building the simulation'
cargo test --locked --release --no-run --test sim
export RC_SIM_SEEDS="${SEEDS:-1000000}" RC_SIM_FROM="${FROM:-0}"
step "Simulating $RC_SIM_SEEDS seeds from $RC_SIM_FROM"
mkdir -p "$state"
cargo test --locked --offline --release --test sim every_promise -- --nocapture 2>&1 | tee "$state/soak.log"
grep -qE '^test result: ok\. 1 passed' "$state/soak.log" || fail 'the simulation did not run'
