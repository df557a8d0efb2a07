#!/usr/bin/env bash
# Lists what the daemon is made of, as a CycloneDX 1.5 document on standard output: every crate that is linked into it or builds it, with
# version, licence, checksum and what it needs. Read from Cargo.lock and cargo's own metadata; the same input gives the same bytes.
#
# usage: tests/make/sbom.sh TARGET     a target triple, since some crates are for some machines only
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

[ $# -eq 1 ] || fail 'usage: tests/make/sbom.sh TARGET'
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(last_change)}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# "name version" lines with their checksum.
awk -F' = ' '/^name/ { n = $2 } /^version/ { v = $2 } /^checksum/ { gsub(/"/, ""); gsub(/"/, "", n); gsub(/"/, "", v); print n "@" v, $2 }' Cargo.lock |
    jq -R 'split(" ") | {key: .[0], value: .[1]}' | jq -s from_entries >"$work/checksums"
cargo metadata --format-version 1 --locked --filter-platform "$1" >"$work/metadata"

jq --slurpfile checksums "$work/checksums" --arg time "$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y-%m-%dT%H:%M:%SZ)" --arg target "$1" '
    (.packages | map({key: .id, value: .}) | from_entries) as $packages
    | (.resolve.nodes | map({key: .id, value: [.deps[] | select(any(.dep_kinds[]; .kind != "dev")).pkg]}) | from_entries) as $needs
    | .resolve.root as $root
    # Everything that is reached from the daemon; what only its tests need is left out.
    | def reach($open; $seen):
          if $open == [] then $seen
          else ([$open[] as $id | $needs[$id][]] | unique | map(select($seen[.] | not))) as $next
          | reach($next; reduce $next[] as $id ($seen; .[$id] = true)) end;
      def purl: "pkg:cargo/\(.name)@\(.version)";
      def component: {
          type: "library", "bom-ref": purl, name, version, purl: purl, scope: "required",
          description: (.description // "" | gsub("\\s+"; " ")),
          licenses: [{expression: (.license // "" | gsub("/"; " OR "))}],
          hashes: [{alg: "SHA-256", content: $checksums[0]["\(.name)@\(.version)"]}],
          externalReferences: (if .repository then [{type: "vcs", url: .repository}] else [] end)
      };
      (reach([$root]; {($root): true}) | keys) as $all
    | $packages[$root] as $own
    | {
        bomFormat: "CycloneDX", specVersion: "1.5", version: 1,
        metadata: {
            timestamp: $time,
            component: {type: "application", "bom-ref": ($own | purl), name: $own.name, version: $own.version, purl: ($own | purl),
                description: $own.description, licenses: [{expression: $own.license}]},
            properties: [{name: "cargo:target", value: $target}]
        },
        components: [$all[] | select(. != $root) | $packages[.] | component] | sort_by(.name, .version),
        dependencies: [$all[] as $id | {ref: ($packages[$id] | purl), dependsOn: ([$needs[$id][] | $packages[.] | purl] | unique)}] | sort_by(.ref)
    }' "$work/metadata"
