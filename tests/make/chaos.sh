#!/usr/bin/env bash
# Breaks real daemons, a real engine and real jobs at random moments, beside a private engine. MODE says what:
#
#   rounds     ROUNDS rounds (default 20) from SEED (default: another each time): what was killed, and what was lost, doubled or left
#   agreement  how soon a daemon that comes back agrees with an engine that has CONTAINERS containers (default 1000)
#   soak       jobs for MINUTES minutes (default 30), and what of the daemon grows; CONFIG, of the environment, is more of its
#              configuration, such as how long things are kept
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

case ${MODE:-rounds} in
rounds)
    name=chaos_
    export RC_CHAOS_ROUNDS="${ROUNDS:-20}" RC_CHAOS_SEED="${SEED:-$((RANDOM * 32768 + RANDOM))}"
    what="$RC_CHAOS_ROUNDS rounds of real faults, seed $RC_CHAOS_SEED"
    ;;
agreement)
    name=agreement_
    export RC_CHAOS_CONTAINERS="${CONTAINERS:-1000}"
    what="Agreement with $RC_CHAOS_CONTAINERS containers"
    ;;
soak)
    name=soaked_
    export RC_CHAOS_MINUTES="${MINUTES:-30}" RC_CHAOS_CONFIG="${CONFIG:-}"
    what="$RC_CHAOS_MINUTES minutes of jobs"
    ;;
*) fail "MODE is rounds, agreement or soak, and not $MODE" ;;
esac

tests/make/setup.sh test
step 'Building the tests'
cargo build --locked --examples
cargo test --locked --no-run --test chaos
step "$what"
RC_RUNNER_BIN="$(target_directory)/debug/examples/stand-in-runner"
export RC_RUNNER_BIN
mkdir -p "$state"
tests/with-engine cargo test --locked --offline --test chaos "$name" -- --nocapture --test-threads 1 2>&1 | tee "$state/chaos.log"
grep -qE '^test result: ok\. [1-9]' "$state/chaos.log" || fail "no test named $name ran"
