#!/usr/bin/env bash
# Makes what is handed out, in target/dist: an archive and a Debian package for each machine there is a binary for, the image, the list of
# what the daemon is made of (CycloneDX), and checksums.
#
#   RC_DIST_BIN  a binary for this machine that is there already; default: the release build
#   RC_CROSS     architectures to be cross-compiled too: "arm64 riscv64"; see tests/make/cross.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

readonly name=runner-coordinator
umask 022

# triple ARCHITECTURE: what Rust calls it.
triple() {
    case $1 in
    amd64) printf x86_64-unknown-linux-gnu ;;
    arm64) printf aarch64-unknown-linux-gnu ;;
    riscv64) printf riscv64gc-unknown-linux-gnu ;;
    *) fail "no packages are made for $1" ;;
    esac
}

# stripped FROM TO: what a release build is already.
stripped() {
    install -D -m 755 "$1" "$2"
    ! readelf --sections --wide "$2" | grep '\.symtab' >/dev/null || strip --strip-all "$2"
}

# archive BINARY ARCHITECTURE: for machines without dpkg.
archive() {
    local top=$name-$version-linux-$2 root=$work/$2
    mkdir -p "$root/$top"
    install -m 755 "$1" "$root/$top/$name"
    cp -R "$work/helpers" "$root/$top/completions"
    mv "$root/$top/completions/man" "$root/$top/man"
    cp -R config/systemd "$root/$top/systemd"
    cp -R docs "$root/$top/docs"
    cp README.md CHANGELOG.md config/runner-coordinator.toml "$root/$top"
    cp "$out/$name-$version-$2.cdx.json" "$root/$top/$name.cdx.json"
    tar -C "$root" --sort=name --owner=0 --group=0 --numeric-owner --mode=go-w --mtime="@$SOURCE_DATE_EPOCH" -cf - "$top" | gzip -9n >"$out/$top.tar.gz"
}

# hand_out BINARY ARCHITECTURE: everything for one kind of machine.
hand_out() {
    step "Packing for $2"
    stripped "$1" "$work/bin-$2"
    tests/make/sbom.sh "$(triple "$2")" >"$out/$name-$version-$2.cdx.json"
    RC_COMPLETIONS=$work/helpers RC_SBOM=$out/$name-$version-$2.cdx.json tests/make/deb.sh "$work/bin-$2" "$2" "$version" "$out" >/dev/null
    archive "$work/bin-$2" "$2"
    note "$(stat -c %s "$work/bin-$2" | numfmt --to=iec-i --suffix=B), needs libc 2.$(newest_glibc "$work/bin-$2" | cut -d. -f2) or newer, and $(readelf -d "$work/bin-$2" | grep -c NEEDED) libraries of the system"
}

tests/make/setup.sh dist
binary=${RC_DIST_BIN:-}
if [ -z "$binary" ]; then
    step 'Building (release)'
    cargo build --locked --release --bin $name
    binary=$(target_directory)/release/$name
fi
version=$(our_version)
out=$(target_directory)/dist
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
rm -rf "$out"
mkdir -p "$out"
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(last_change)}
export SOURCE_DATE_EPOCH
helpers "$binary" '' "$work/helpers"

hand_out "$binary" "$(dpkg --print-architecture)"
for architecture in ${RC_CROSS:-}; do
    step "Cross-compiling for $architecture"
    tests/make/cross.sh "$architecture"
    hand_out "$(target_directory)/cross/out/$(triple "$architecture")/release/$name" "$architecture"
done

step 'The image'
if have docker && engine_answers; then
    tests/make/image.sh "$work/bin-$(dpkg --print-architecture)" "$name:$version"
    docker image save "$name:$version" | gzip -n >"$out/$name-$version-image-$(dpkg --print-architecture).tar.gz"
else
    note "no engine answers at $(engine_address): no image is made"
fi

step 'Checksums'
(cd "$out" && sha256sum -- * >"$work/SHA256SUMS" && mv "$work/SHA256SUMS" . && sha256sum --check --quiet SHA256SUMS)
ls -l "$out" | awk 'NR > 1 { print $5, $9 }' | column -t | indented
