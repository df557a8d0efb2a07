#!/usr/bin/env bash
# Cross-compiles the daemon for arm64 or riscv64 on Debian, without rustup: in a base system of Debian's testing, whose Rust has the standard
# libraries of other machines as packages. Needs root. The binary lies in target/cross/out; it needs the C library of Debian 13 or newer.
#
# usage: tests/make/cross.sh arm64|riscv64
#
#   RC_CROSS_SUITE  the suite; default: testing
#   RC_CROSS_APT    options of apt-get, such as "-o Acquire::Check-Valid-Until=false" for a mirror that stands still
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

readonly suite=${RC_CROSS_SUITE:-testing} apt_options=${RC_CROSS_APT:-}
case ${1:-} in
arm64) triple=aarch64-unknown-linux-gnu tools=aarch64-linux-gnu ;;
riscv64) triple=riscv64gc-unknown-linux-gnu tools=riscv64-linux-gnu ;;
*) fail 'usage: tests/make/cross.sh arm64|riscv64' ;;
esac
[ "$(id -u)" = 0 ] || fail 'needs root, for a base system'
tests/make/setup.sh cross
directory=$(target_directory)/cross
root=$directory/root
cargo_home=${CARGO_HOME:-$HOME/.cargo}

base() {
    local mirror
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Origin: Debian' "Codename: $(. /etc/os-release && printf '%s' "${VERSION_CODENAME:-}")" 'Component: main' | sed -n 1p)
    [ -n "$mirror" ] || fail 'this machine knows no mirror of Debian'
    rm -rf "$root"
    mkdir -p "$directory"
    # Their set-up is that of every suite since many years.
    debootstrap --variant=minbase "$suite" "$root" "$mirror" sid
    chroot "$root" dpkg --add-architecture arm64
    chroot "$root" dpkg --add-architecture riscv64
    # The options are words, so they are not quoted.
    # shellcheck disable=SC2086
    chroot "$root" apt-get $apt_options update -qq
    chroot "$root" env DEBIAN_FRONTEND=noninteractive apt-get $apt_options install -y -qq --no-install-recommends cargo rustc gcc libc6-dev \
        libstd-rust-dev:arm64 libstd-rust-dev:riscv64 gcc-aarch64-linux-gnu gcc-riscv64-linux-gnu libc6-dev-arm64-cross libc6-dev-riscv64-cross
    touch "$directory/whole"
}

if ! [ -e "$directory/whole" ]; then
    # Not within a condition, where the first command that fails would not end it.
    trap 'printf "the base system could not be made: %s\n" "$(tail -n 5 "$directory.log")" >&2' EXIT
    base >"$directory.log" 2>&1
    trap - EXIT
fi
cargo fetch --locked
mkdir -p "$root/src" "$root/cargo" "$root/out" "$directory/out"
upper=$(tr a-z- A-Z_ <<<"$triple")
lower=$(tr - _ <<<"$triple")
# The mounts end with their namespace.
unshare --mount bash -euc '
    mount --bind "$1" "$2/src" && mount --bind "$3" "$2/cargo" && mount --bind "$4" "$2/out" && mount -t proc proc "$2/proc"
    shift 1
    root=$1
    shift 3
    exec chroot "$root" env --chdir=/src PATH=/usr/bin:/bin HOME=/tmp CARGO_HOME=/cargo CARGO_TARGET_DIR=/out "$@"
' bash "$top" "$root" "$cargo_home" "$directory/out" \
    "CARGO_TARGET_${upper}_LINKER=$tools-gcc" "CC_$lower=$tools-gcc" "AR_$lower=$tools-ar" \
    cargo build --locked --offline --release --bin runner-coordinator --target "$triple"
