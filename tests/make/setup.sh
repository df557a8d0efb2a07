#!/usr/bin/env bash
# Gets what is missing on a Debian or Ubuntu machine from the distribution's packages. Where nothing is missing it
# changes nothing and needs neither root nor a package index.
#
# usage: tests/make/setup.sh run|fleet|test|dist|cross|systemd|fuzz|schemathesis
#
#   run           what `make run` needs; an engine only if none answers
#   fleet         what `make fleet` needs: the same, and PostgreSQL
#   test          what `make test` needs; always an engine's programs, since the tests start a private one
#   dist          what `make dist` needs
#   cross         what tests/make/cross.sh needs
#   systemd       what `make test-systemd` needs: an engine's programs, and what makes a machine with a systemd of its own
#   fuzz          what `make fuzz` needs: a compiler for libFuzzer
#   schemathesis  what `make schemathesis` needs: Schemathesis itself
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

[ $# -eq 1 ] || fail 'usage: tests/make/setup.sh run|fleet|test|dist|cross|systemd|fuzz|schemathesis'
missing=()

# need PACKAGE CHECK...: notes the package if the check fails.
need() {
    local package=$1
    shift
    "$@" >/dev/null 2>&1 || missing+=("$package")
}

static_busybox() {
    have busybox && ! ldd "$(command -v busybox)" >/dev/null 2>&1
}

python_with_environments() {
    have python3 && python3 -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))'
}

c_compiler() {
    have cc && printf '#include <stdio.h>\nint main(void) { return 0; }\n' | cc -x c -o /dev/null -
}

cpp_compiler() {
    have c++ && printf '#include <vector>\nint main() { return 0; }\n' | c++ -x c++ -o /dev/null -
}

postgres_server() {
    local program
    for program in /usr/lib/postgresql/*/bin/postgres; do
        [ -x "$program" ] && return
    done
    false
}

look() {
    missing=()
    need gcc have cc
    need libc6-dev c_compiler
    need curl have curl
    need jq have jq
    need busybox-static static_busybox
    # What containers reach is held in by rules of nftables.
    need nftables have nft
    need ca-certificates test -e /etc/ssl/certs/ca-certificates.crt
    case $1 in
    run) engine_unless_there ;;
    fleet)
        engine_unless_there
        need postgresql postgres_server
        ;;
    test)
        engine
        need iproute2 have ip
        # What jobs are shown to build with, beside a compiler.
        need git have git
        need make have make
        need docker-registry have docker-registry
        # A runtime with a kernel of its own.
        need runsc have runsc
        # What a fleet shares, and what stands before it in places.
        need postgresql postgres_server
        need pgbouncer have pgbouncer
        need e2fsprogs have mkfs.ext4
        need mount have mount
        # The page is tested in a real browser; without a font it would draw boxes.
        need chromium have chromium
        # A client in another language is generated from the API's document.
        need python3-venv python_with_environments
        need fonts-dejavu-core test -e /usr/share/fonts/truetype/dejavu/DejaVuSans.ttf
        ;;
    dist) packages ;;
    cross) need debootstrap have debootstrap ;;
    systemd)
        engine
        packages
        need iproute2 have ip
        need debootstrap have debootstrap
        need systemd-container have systemd-nspawn
        ;;
    fuzz) need g++ cpp_compiler ;;
    schemathesis) need python3-venv python_with_environments ;;
    *) fail "setup.sh: what is '$1'?" ;;
    esac
}

# python_tools NAME LIST: what tests/openapi/LIST names, in an environment of its own, made anew when that or Python has changed.
python_tools() {
    local home=$state/$1 list=tests/openapi/$2 made_of
    made_of=$(python3 --version && cat "$list")
    [ "$(cat "$home/made-of" 2>/dev/null)" != "$made_of" ] || return 0
    note "the tools of $list are missing; installing them with pip"
    rm -rf "$home"
    mkdir -p "$state"
    if ! { python3 -m venv "$home" && "$home/bin/pip" install --disable-pip-version-check --no-input -r "$list"; } \
        >"$state/pip.log" 2>&1 </dev/null; then
        died pip "pip could not install the tools of $list"
    fi
    printf '%s\n' "$made_of" >"$home/made-of"
}

engine() {
    need docker.io have dockerd
    need iptables have iptables
}

engine_unless_there() {
    { have docker && engine_answers; } || engine
}

packages() {
    need binutils have objdump
    need dpkg have dpkg-deb
    need xz-utils have xz
}

install() {
    export DEBIAN_FRONTEND=noninteractive
    note "missing: $*; installing them with apt-get"
    have apt-get || fail "this machine has no apt-get; please install what provides: $*"
    [ "$(id -u)" = 0 ] || fail "installing needs root; as root: apt-get install $*"
    mkdir -p "$state"
    if ! { apt-get -o DPkg::Lock::Timeout=300 update && apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "$@"; } \
        >"$state/apt.log" 2>&1 </dev/null; then
        died apt "apt-get could not install: $*"
    fi
}

step 'Getting what is missing'
have cargo || fail 'cargo is missing: this is built with Rust 1.90 or newer'
look "$1"
[ ${#missing[@]} -eq 0 ] || install "${missing[@]}"
# Newer distributions keep the client in a package of its own.
case $1 in
run | test | systemd) have docker || install docker-cli ;;
esac
look "$1"
[ ${#missing[@]} -eq 0 ] || fail "still missing after the installation: ${missing[*]}"
case $1 in
test) python_tools python requirements.txt ;;
schemathesis) python_tools schemathesis schemathesis.txt ;;
esac
note 'everything is there'
