#!/usr/bin/env bash
# Builds the image of a binary that is there already, with the engine at DOCKER_HOST, and shows that it starts with nothing but what it needs:
# read-only, without capabilities, as a user of its own.
#
# usage: tests/make/image.sh BINARY TAG
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

[ $# -eq 2 ] || fail 'usage: tests/make/image.sh BINARY TAG'
readonly tag=$2
engine=$(engine_address)
readonly engine=${engine#unix://}
container=
context=$(mktemp -d)

clean_up() {
    [ -z "$container" ] || docker rm --force --volumes "$container" >/dev/null
    rm -rf "$context"
}
trap clean_up EXIT

config/image/root "$1" "$context/of-image"
# Not every builder leaves out a stage that nobody needs, so the one that compiles is taken out.
sed '/^FROM rust:/,/^$/d' Dockerfile >"$context/Dockerfile"
docker build --quiet --build-arg BINARY=prebuilt --tag "$tag" "$context" >/dev/null
note "$tag, $(docker image inspect --format '{{.Size}}' "$tag" | numfmt --to=iec-i --suffix=B)"

# The engine's socket lets its group in.
container=$(docker run --detach --network host --read-only --cap-drop ALL --security-opt no-new-privileges --user "65532:$(stat -c %g "$engine")" \
    --volume "$engine:/var/run/docker.sock" --env RUNNER_COORDINATOR__HTTP__LISTEN=127.0.0.1:0 "$tag")
said() {
    docker logs "$container" 2>&1 | grep -- "$1" >/dev/null
}
listens_and_sees() {
    ended_early && { docker logs "$container" >&2 || true; } && fail 'the daemon ended'
    said 'listening address=' && said 'the engine answers'
}
ended_early() {
    [ "$(docker inspect --format '{{.State.Running}}' "$container")" = false ]
}
until_true 30 listens_and_sees || { docker logs "$container" >&2 && fail 'the daemon in the image does not come up'; }
note 'it starts read-only, without capabilities, as user 65532, and sees the engine'
docker stop --time 30 "$container" >/dev/null
[ "$(docker inspect --format '{{.State.ExitCode}}' "$container")" = 0 ] || fail 'the daemon in the image does not stop in order'
docker logs "$container" 2>&1 | sed 's/\x1b\[[0-9;]*m//g' | forget_networks
note 'and stops in order'
