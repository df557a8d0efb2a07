#!/usr/bin/env bash
# Asks a running daemon for everything that its description of the API allows, and for much that it does not, with Schemathesis: EXAMPLES
# requests for each operation (default 200), chosen by SEED (default: by chance). tests/openapi/schemathesis.toml says what is left out.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

tests/make/setup.sh schemathesis
step 'Building the daemon'
cargo build --locked
program=$(target_directory)/debug/runner-coordinator

place=$(mktemp -d)
daemon=
end() {
    if [ -n "$daemon" ]; then
        kill "$daemon" 2>/dev/null || true
        wait "$daemon" || true
    fi
    rm -rf "$place"
}
trap end EXIT
token=$("$program" token new)
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
cat >"$place/config.toml" <<TOML
data_dir = "$place/data"
host.name = "schemathesis"
docker.host = "unix://$place/no-engine"
disk = { low = "0%", full = "0%" }
limits = { token_requests = 100000, queue_per_project = 1000000, queue = 1000000 }
gitlab = { url = "http://127.0.0.1:9", webhook.secret_token = "the secret of nobody" }

[http]
listen = "127.0.0.1:$port"

[[http.tokens]]
name = "schemathesis"
role = "operator"
sha256 = "$(sed -nE 's/.*([0-9a-f]{64}).*/\1/p' <<<"$token" | sed -n '$p')"

[[classes]]
name = "default"

[[classes]]
name = "gitlab"
image = "debian:bookworm"
gitlab_token = "glrt-of-nobody"
TOML
"$program" --config "$place/config.toml" serve 2>"$state/schemathesis-daemon.log" &
daemon=$!
until_true 30 curl -sf -o /dev/null "http://localhost:$port/openapi.json" || fail "the daemon does not answer: $(tail -n 5 "$state/schemathesis-daemon.log")"

step 'Asking'
seed=()
[ -z "${SEED:-}" ] || seed=(--seed "$SEED")
# What Hypothesis writes down lies beside the daemon's data.
HYPOTHESIS_STORAGE_DIRECTORY=$place/hypothesis "$state/schemathesis/bin/schemathesis" --config-file tests/openapi/schemathesis.toml run "http://localhost:$port/openapi.json" \
    --header "Authorization: Bearer $(grep -oE 'rca-[A-Za-z0-9]+' <<<"$token" | sed -n 1p)" \
    --max-examples "${EXAMPLES:-200}" --continue-on-failure --request-timeout 30 "${seed[@]}"
kill -0 "$daemon" || fail 'the daemon is gone'
