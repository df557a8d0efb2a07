# What the scripts of the Makefile share. Sourced, from the top of the repository on.
# shellcheck shell=bash
set -euo pipefail

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$top"
# Debian keeps dockerd and iptables where only root looks.
PATH=$PATH:/usr/sbin:/sbin
readonly state=$top/.run

step() {
    printf '\n==> %s\n' "$*"
}

note() {
    printf '    %s\n' "$*"
}

indented() {
    sed 's/^/    /'
}

fail() {
    printf '\nerror: %s\n' "$*" >&2
    exit 1
}

have() {
    command -v "$1" >/dev/null 2>&1
}

# until_true SECONDS COMMAND...: waits until the command succeeds; fails after that many seconds.
until_true() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@"; do
        [ "$SECONDS" -lt "$deadline" ] || return 1
        sleep 0.2
    done
}

# Where cargo puts what it builds.
target_directory() {
    cargo metadata --format-version 1 --no-deps --locked | jq -r .target_directory
}

# --- packages ---------------------------------------------------------------------------------------------------

# The version in Cargo.toml.
our_version() {
    cargo metadata --format-version 1 --no-deps --locked | jq -r '.packages[] | select(.name == "runner-coordinator").version'
}

# When the last commit was made, in seconds; without a repository, when the newest entry of the change log was.
last_change() {
    git log -1 --format=%ct 2>/dev/null || stat -c %Y CHANGELOG.md
}

# newest_glibc BINARY: the newest version of the C library that a symbol of it asks for.
newest_glibc() {
    LC_ALL=C readelf --wide --dyn-syms "$1" | grep -o 'GLIBC_[0-9.]*' | sed 's/GLIBC_//' | sort -Vu | tail -n 1
}

# helpers BINARY FROM TO: completions and man pages, copied from the directory FROM, or asked of the binary.
helpers() {
    mkdir -p "$3/man"
    if [ -n "$2" ]; then
        cp -R "$2/." "$3"
        return
    fi
    "$1" completions bash >"$3/runner-coordinator.bash"
    "$1" completions zsh >"$3/_runner-coordinator"
    "$1" completions fish >"$3/runner-coordinator.fish"
    "$1" man --out "$3/man" >/dev/null
}

# measure NAME WHAT: runs the tests named NAME one by one beside a private engine, and keeps what they print in .run/NAME.log.
measure() {
    tests/make/setup.sh test
    step 'Building the tests'
    cargo test --locked --no-run --test it --examples
    step "$2"
    RC_RUNNER_BIN="$(target_directory)/debug/examples/stand-in-runner"
    export RC_RUNNER_BIN
    mkdir -p "$state"
    tests/with-engine cargo test --locked --offline --test it "$1" -- --nocapture --test-threads 1 2>&1 | tee "$state/$1.log"
    grep -qE '^test result: ok\. [1-9]' "$state/$1.log" || fail "no test named $1 ran"
}

# --- the engine -------------------------------------------------------------------------------------------------

engine_answers() {
    timeout 10 docker version --format '{{.Server.Version}}' >/dev/null 2>&1
}

engine_address() {
    printf '%s' "${DOCKER_HOST:-unix:///var/run/docker.sock}"
}

# forget_networks: removes the networks of daemons that are gone, whose log lines stand on the standard input.
forget_networks() {
    local instance
    for instance in $(sed -n 's/.*listening.*instance="\([0-9a-f-]*\)".*/\1/p' | sort -u); do
        docker network ls --quiet --filter "label=runner-coordinator.instance=$instance" | xargs -r docker network rm >/dev/null
    done
}

# forget_containers: removes the containers of daemons that are gone, whose log lines stand on the standard input.
forget_containers() {
    local instance
    for instance in $(sed -n 's/.*listening.*instance="\([0-9a-f-]*\)".*/\1/p' | sort -u); do
        docker ps --all --quiet --filter "label=runner-coordinator.instance=$instance" | xargs -r docker rm --force >/dev/null
    done
}

# --- programs in the background, each with NAME.pid and NAME.log below .run ------------------------------------

# pid_of NAME: prints the process id, if that process is still the program that was started.
pid_of() {
    local pid program
    [ -f "$state/$1.pid" ] || return 1
    read -r pid program <"$state/$1.pid" || return 1
    [ "$(basename -- "$(tr '\0' '\n' <"/proc/$pid/cmdline" 2>/dev/null | sed -n 1p)")" = "$program" ] || return 1
    printf '%s' "$pid"
}

# What goes before a program that is not to run as ourselves.
runs_as=()

# begin NAME PROGRAM ARGUMENT...: starts a program that outlives this script.
begin() {
    local name=$1
    shift
    mkdir -p "$state"
    setsid "${runs_as[@]}" "$@" >>"$state/$name.log" 2>&1 </dev/null &
    printf '%s %s\n' "$!" "$(basename -- "$1")" >"$state/$name.pid"
    disown
    # Until then the process is still this shell, and later looks would not know it.
    until_true 2 pid_of "$name" >/dev/null || died "$name" "$1 ended at once"
}

# finish NAME SECONDS: ends a program that `begin` started, by its process id.
finish() {
    local pid
    if pid=$(pid_of "$1"); then
        kill -TERM "$pid" 2>/dev/null || true
        if ! until_true "$2" ended "$pid"; then
            note "$1 (process $pid) did not end within $2 s: killed"
            kill -KILL "$pid" 2>/dev/null || true
        fi
        note "$1 ended"
    fi
    rm -f "$state/$1.pid"
}

# end_fleet: ends what `make fleet` started, and takes away what it has left.
end_fleet() {
    local box
    for box in box1 box2 box3; do
        finish "$box" 30
        [ -f "$state/$box.log" ] && engine_answers || continue
        forget_containers <"$state/$box.log"
        forget_networks <"$state/$box.log"
    done
    finish postgres 60
    [ ! -f "$state/postgres.dir" ] || rm -rf "$(cat "$state/postgres.dir")"
    rm -rf "$state/postgres.dir" "$state/fleet"
}

# A process that nobody has waited for yet has ended too.
ended() {
    ! [ -e "/proc/$1" ] || grep -q '^State:[[:space:]]*Z' "/proc/$1/status" 2>/dev/null
}

# died NAME WHY: fails with the end of the program's log.
died() {
    printf '\n--- the end of .run/%s.log\n' "$1" >&2
    tail -n 30 "$state/$1.log" >&2 || true
    fail "$2"
}
