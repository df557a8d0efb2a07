# Makes the image $0 of this machine's own tools, without documentation.
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin
list=$(mktemp)
trap 'rm -f "$list"' EXIT
compiler=$(basename "$(readlink -f "$(command -v gcc)")" | sed 's/.*-gcc-\([0-9]*\)$/\1/')
mapfile -t packages < <({
    for tool in sh bash cat grep sed awk tar gzip find diff make gcc git python3 perl as env; do
        dpkg -S "$(readlink -f "$(command -v "$tool")")" 2>/dev/null || dpkg -S "$(command -v "$tool" | sed 's,^/usr,,')" 2>/dev/null || true
    done | grep -v "^diversion" | cut -d: -f1
    dpkg-query -W -f '${db:Status-Abbrev} ${Package}\n' libc6 libc6-dev linux-libc-dev "gcc-$compiler*" "cpp-$compiler*" "libgcc-$compiler-dev" "libasan*" "libubsan*" \
        "binutils*" "python3*-minimal" "libpython3*-minimal" "libpython3*-stdlib" 2>/dev/null | sed -n 's/^ii  *//p'
} | sort -u)
dpkg -L "${packages[@]}" | sort -u | grep -vE '^/usr/share/(doc|man|locale|info|lintian)' | while read -r file; do
    [ ! -e "$file" ] || [ -d "$file" ] || printf '%s\n' "$(readlink -f "$(dirname "$file")")/$(basename "$file")"
done >"$list"
# Programs and what they are linked to, under the names by which they are looked for.
for name in sh bash awk python3 cc gcc make git as ld perl env; do
    program=$(command -v "$name" || true)
    while [ -n "$program" ] && [ -L "$program" ]; do
        printf '%s\n' "$(readlink -f "$(dirname "$program")")/$(basename "$program")" >>"$list"
        next=$(readlink "$program")
        case $next in /*) program=$next ;; *) program=$(dirname "$program")/$next ;; esac
    done
    [ -z "$program" ] || readlink -f "$program" >>"$list"
done
# Git may be one that no package owns.
find "$(git --exec-path)" "$(dirname "$(dirname "$(readlink -f "$(command -v git)")")")/share/git-core" ! -type d >>"$list" 2>/dev/null || true
while read -r file; do
    case $file in */bin/* | */sbin/* | *.so | *.so.* | */cc1 | */collect2 | */lto1 | */git-core/*) ldd "$file" 2>/dev/null | grep -o '/[^ ]*' || true ;; esac
done <"$list" | sort -u | while read -r library; do
    printf '%s\n%s\n' "$(readlink -f "$(dirname "$library")")/$(basename "$library")" "$(readlink -f "$library")"
done >>"$list"
printf '/tmp\n' >>"$list"
for link in /bin /lib /lib64 /sbin; do [ ! -L "$link" ] || printf '%s\n' "$link" >>"$list"; done
sort -u "$list" -o "$list"
tar -C / --no-recursion --files-from "$list" -c 2>/dev/null | docker import - "$0" >/dev/null
