#!/usr/bin/env bash
# Runs the tests that drive an engine against a newer one than the distribution's: its programs, from a later Debian release's packages, are
# unpacked below target/engines and not installed.
#
# usage: tests/make/engines.sh [SUITE]     default: trixie, which has 26.1; sid has 28 or later
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

readonly suite=${1:-trixie}
tests/make/setup.sh test
have patchelf || apt-get install -y --no-install-recommends patchelf >/dev/null || fail 'patchelf is missing'

directory=$(target_directory)/engines/$suite
bin=$directory/bin

# unpack: the programs, with a package index of their own, so that the machine's packages stay as they are.
unpack() {
    local mirror apt=$directory/apt interpreter
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Origin: Debian' 'Component: main' | sed -n 1p)
    [ -n "$mirror" ] || fail 'this machine knows no mirror of Debian'
    mkdir -p "$apt/state/lists/partial" "$apt/cache/archives/partial" "$directory/packages" "$bin"
    : >"$apt/state/status"
    printf 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s %s main\n' "$mirror" "$suite" >"$apt/sources.list"
    printf 'Dir::State "%s";\nDir::State::status "%s";\nDir::Cache "%s";\nDir::Etc::sourcelist "%s";\nDir::Etc::sourceparts "/dev/null";\nAPT::Sandbox::User "root";\n' \
        "$apt/state" "$apt/state/status" "$apt/cache" "$apt/sources.list" >"$apt/apt.conf"
    (
        export APT_CONFIG=$apt/apt.conf
        apt-get update -qq
        cd "$directory/packages"
        apt-get download -qq docker.io containerd runc libc6 libseccomp2
    )
    for package in "$directory"/packages/*.deb; do
        dpkg-deb --extract "$package" "$directory/root"
    done
    find "$directory/root" -type f -path '*bin/*' \( -name dockerd -o -name docker-proxy -o -name runc -o -name containerd -o -name 'containerd-shim-runc-v2' \) \
        -exec cp {} "$bin" \;
    # It wants a newer C library than the machine's, and calls itself by its own path, so no wrapper does.
    interpreter=$(find "$directory/root" -name 'ld-linux*' -type f | sed -n 1p)
    patchelf --set-interpreter "$interpreter" --set-rpath "$(dirname "$interpreter")" "$bin/runc"
    touch "$directory/whole"
}

step "Getting the engine of $suite"
[ -e "$directory/whole" ] || { rm -rf "$directory" && unpack; }
note "$("$bin/dockerd" --version), $("$bin/runc" --version | sed -n 1p)"

step 'Building the tests'
cargo test --locked --no-run
RC_RUNNER_BIN="$(target_directory)/debug/examples/stand-in-runner"
export RC_RUNNER_BIN RC_ENGINE_BIN="$bin" RC_ENGINE_DIR="$directory/engine"

step 'Running the tests that drive an engine'
tests/with-engine cargo test --locked --offline --no-fail-fast --test it -- --include-ignored docker:: gpu_container:: escape:: build_tools:: network::
