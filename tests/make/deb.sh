#!/usr/bin/env bash
# Makes a Debian package of a binary, with dpkg-deb alone: the same input gives the same bytes.
#
# usage: tests/make/deb.sh BINARY ARCHITECTURE VERSION DIRECTORY     prints the package's path below DIRECTORY
#
#   RC_COMPLETIONS     a directory with completions and man pages (see tests/make/dist.sh); else they are asked of the binary
#   RC_SBOM            the list of what the binary is made of, to be put beside the documentation
#   RC_DEB_COMPRESSION what dpkg-deb calls -Z; default: xz
#   SOURCE_DATE_EPOCH  the time that all files have; default: that of the last commit
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

[ $# -eq 4 ] || fail 'usage: tests/make/deb.sh BINARY ARCHITECTURE VERSION DIRECTORY'
readonly binary=$1 architecture=$2 version=$3 directory=$4 name=runner-coordinator
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(last_change)}
export SOURCE_DATE_EPOCH
umask 022
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root

# put MODE SOURCE PATH: one file of the package.
put() {
    install -D -m "$1" "$2" "$root/$3"
}

packed() {
    gzip -9n <"$1" >"$work/packed"
    put 644 "$work/packed" "$2"
}

files() {
    local man page
    put 755 "$binary" usr/bin/$name
    put 644 config/systemd/$name.service usr/lib/systemd/system/$name.service
    put 644 config/systemd/$name.socket usr/lib/systemd/system/$name.socket
    put 644 config/systemd/sysusers.conf usr/lib/sysusers.d/$name.conf
    put 640 config/debian/config.toml etc/$name/config.toml
    chmod 750 "$root/etc/$name"
    put 644 config/debian/copyright usr/share/doc/$name/copyright
    packed CHANGELOG.md usr/share/doc/$name/changelog.gz
    put 644 config/runner-coordinator.toml usr/share/doc/$name/examples/config.toml
    put 644 README.md usr/share/doc/$name/README.md
    # As a tree, so that pages find each other and what they speak of.
    while read -r page; do
        put 644 "$page" "usr/share/doc/$name/$page"
    done < <(find docs -type f | LC_ALL=C sort)
    [ -z "${RC_SBOM:-}" ] || packed "$RC_SBOM" usr/share/doc/$name/$name.cdx.json.gz
    helpers "$binary" "${RC_COMPLETIONS:-}" "$work/helpers"
    put 644 "$work/helpers/$name.bash" usr/share/bash-completion/completions/$name
    put 644 "$work/helpers/_$name" usr/share/zsh/vendor-completions/_$name
    put 644 "$work/helpers/$name.fish" usr/share/fish/vendor_completions.d/$name.fish
    for man in "$work"/helpers/man/*.1; do
        packed "$man" "usr/share/man/man1/$(basename "$man").gz"
    done
}

# What the binary is linked to: the C library from the newest version on that a symbol of it asks for, and the compiler's.
dependencies() {
    local least
    least=$(newest_glibc "$binary")
    [ -n "$least" ] || fail "$binary does not tell what it needs"
    printf 'libc6 (>= %s), libgcc-s1' "$least"
}

control() {
    mkdir -p "$root/DEBIAN"
    sed -e "s/@VERSION@/$version/; s/@ARCHITECTURE@/$architecture/; s/@DEPENDS@/$(dependencies)/" \
        -e "s/@SIZE@/$(du -sk --apparent-size "$root" | cut -f1)/" config/debian/control >"$root/DEBIAN/control"
    printf '/etc/%s/config.toml\n' $name >"$root/DEBIAN/conffiles"
    for script in postinst prerm postrm; do
        put 755 config/debian/$script DEBIAN/$script
    done
    # Files that people change are not counted.
    (cd "$root" && find usr -type f | LC_ALL=C sort | xargs -d '\n' md5sum) >"$work/md5sums"
    put 644 "$work/md5sums" DEBIAN/md5sums
}

files
control
find "$root" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +
mkdir -p "$directory"
package=$directory/${name}_${version}_$architecture.deb
dpkg-deb --root-owner-group -Z"${RC_DEB_COMPRESSION:-xz}" --build "$root" "$package" >/dev/null
printf '%s\n' "$package"
