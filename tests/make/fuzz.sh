#!/usr/bin/env bash
# Fuzzes what comes from outside, guided by coverage: each target for SECONDS_EACH seconds (default 600), AT_ONCE of them at a time (default 1).
# TARGETS names some (default all); SEED is what chance begins with (default by chance).
#
# It begins with the inputs of tests/fuzz/corpus, where nothing is written, and keeps what it finds in .run/fuzz/TARGET, so that the next run
# goes on from there. An input that breaks a promise lies in .run/fuzz/TARGET/crash-*: mended, it goes into tests/fuzz/corpus/TARGET, and
# `cargo test --test fuzz` gives it to its target ever after.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

readonly seconds=${SECONDS_EACH:-600}
[[ $seconds =~ ^[1-9][0-9]*$ ]] || fail "SECONDS_EACH is '$seconds', not a number of seconds"
readonly at_once=${AT_ONCE:-1}
[[ $at_once =~ ^[1-9][0-9]*$ ]] || fail "AT_ONCE is '$at_once', not a number of targets"
known=$(cd tests/fuzz/corpus && printf '%s ' *)
targets=${TARGETS:-$known}
for target in $targets; do
    [[ " $known" == *" $target "* ]] || fail "no target is called '$target'; there are: $known"
done

tests/make/setup.sh fuzz

# What cargo-fuzz gives the compiler for coverage; all of it is known to the stable one. No sanitizer: the code has no unsafe of its own.
coverage() {
    local flag
    printf -- '-Cpasses=sancov-module\037'
    for flag in level=4 inline-8bit-counters pc-table trace-compares; do
        printf -- '-Cllvm-args=-sanitizer-coverage-%s\037' "$flag"
    done
    printf -- '-Ccodegen-units=1\037--cfg\037fuzzing'
}

step 'Building the targets'
triple=$(rustc -vV | sed -n 's/^host: //p')
# A directory of its own, so that nothing else waits for its lock. A triple keeps the flags from build scripts.
directory=$(target_directory)/fuzz
CARGO_ENCODED_RUSTFLAGS=$(coverage) cargo build --locked --profile fuzz --target "$triple" --target-dir "$directory" --package runner-coordinator-fuzz
readonly program=$directory/$triple/fuzz/fuzz

# What the targets write is small and short-lived.
if [ -z "${TMPDIR:-}" ] && [ -w /dev/shm ]; then
    export TMPDIR=/dev/shm
fi

# told LOG EXPRESSION: the first group of the last line that the expression matches, or -.
told() {
    local found
    found=$(sed -nE "s/$2/\\1/p" "$1" | tail -n 1)
    printf '%s' "${found:--}"
}

# fuzz TARGET: writes everything to .run/fuzz/TARGET.log, and to the output one line at its end, so that those at once are not mixed.
fuzz() {
    local target=$1 place=$state/fuzz/$1 log=$state/fuzz/$1.log status=0 more=()
    mkdir -p "$place/corpus"
    [ ! -e "tests/fuzz/dictionaries/$target" ] || more+=("-dict=tests/fuzz/dictionaries/$target")
    [ -z "${SEED:-}" ] || more+=("-seed=$SEED")
    RC_FUZZ_TARGET=$target "$program" -max_total_time="$seconds" -max_len=8192 -timeout=20 -rss_limit_mb=4096 -print_final_stats=1 \
        "${more[@]}" -artifact_prefix="$place/" "$place/corpus" "tests/fuzz/corpus/$target" >"$log" 2>&1 </dev/null || status=$?
    printf '%s\n' "$status" >"$place/status"
    note "$target: $(told "$log" '^(#[0-9]+[[:space:]].*)$')"
}

step "Fuzzing each target for $seconds s, $at_once at a time"
running=0
for target in $targets; do
    if [ "$running" -ge "$at_once" ]; then
        wait -n
        running=$((running - 1))
    fi
    fuzz "$target" &
    running=$((running + 1))
done
wait

broken=()
rows=(target 'inputs a second' inputs 'reached at first' 'reached at last' 'new inputs')
for target in $targets; do
    log=$state/fuzz/$target.log
    rows+=(
        "$target"
        "$(told "$log" '^stat::average_exec_per_sec: *([0-9]+)$')"
        "$(told "$log" '^stat::number_of_executed_units: *([0-9]+)$')"
        "$(told "$log" '^#[0-9]+[[:space:]]INITED cov: ([0-9]+) .*')"
        "$(told "$log" '^#[0-9]+[[:space:]].* cov: ([0-9]+) .*')"
        "$(told "$log" '^stat::new_units_added: *([0-9]+)$')"
    )
    if [ "$(cat "$state/fuzz/$target/status")" != 0 ]; then
        broken+=("$target")
        printf -- '--- the end of .run/fuzz/%s.log\n' "$target" >&2
        tail -n 30 "$log" >&2
    fi
done

step 'What was seen'
printf '%-10s %16s %10s %16s %16s %11s\n' "${rows[@]}" | indented
[ ${#broken[@]} -eq 0 ] || fail "a promise is broken: ${broken[*]} (the inputs lie in .run/fuzz/*/crash-*, timeout-* or oom-*)"
note 'no promise broken'
