#!/usr/bin/env bash
# Builds, starts three daemons that share one PostgreSQL, and shows what a fleet is for: jobs that one daemon takes in run on all machines, and
# those of a machine that is lost are tried again elsewhere. All three are on this machine and drive one engine. Leaves them running.
#
#   PORT  where the API of the first listens on loopback, the others at the next two; default 8080
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

readonly port=${PORT:-8080} boxes=(box1 box2 box3)
readonly lost_after=30
daemon_bin=

# at BOX: where its API is.
at() {
    printf 'http://127.0.0.1:%s' $((port + ${1#box} - 1))
}

build() {
    step 'Building (release)'
    cargo build --locked --release --bin runner-coordinator --example stand-in-runner
    local target
    target=$(target_directory)/release
    daemon_bin=$target/runner-coordinator
    step 'Building the small images, without a registry'
    tests/images/build "$target/examples/stand-in-runner" 2>&1 | indented
    note 'rc-test/busybox:1 is there'
}

database_answers() {
    pid_of postgres >/dev/null || died postgres 'PostgreSQL ended'
    "$1/psql" -h "$2" -U postgres -qc "$3" postgres >/dev/null 2>&1
}

# Not below .run, which the server's user need not be let into; and sockets may have short paths only.
start_database() {
    step 'Starting a PostgreSQL of its own'
    local directory programs
    programs=$(printf '%s\n' /usr/lib/postgresql/*/bin | sort -V | tail -n 1)
    directory=$(mktemp -d /var/tmp/rc-fleet.XXXXXX)
    mkdir -p "$state"
    printf '%s\n' "$directory" >"$state/postgres.dir"
    chown postgres: "$directory"
    runs_as=(setpriv --reuid=postgres --regid=postgres --init-groups env -C "$directory")
    "${runs_as[@]}" "$programs/initdb" --pgdata data --username postgres --auth trust --encoding UTF8 --locale C.UTF-8 >"$state/postgres.log" 2>&1 ||
        died postgres 'initdb failed'
    begin postgres "$programs/postgres" -D data -k "$directory" -c listen_addresses=
    runs_as=()
    until_true 60 database_answers "$programs" "$directory" 'CREATE ROLE coordinator LOGIN' || died postgres 'PostgreSQL does not answer'
    database_answers "$programs" "$directory" 'CREATE DATABASE coordinator OWNER coordinator' || died postgres 'there is no database'
    note "PostgreSQL $("$programs/psql" -h "$directory" -U coordinator -Atc 'SHOW server_version' coordinator), at a socket in $directory"
}

write_config() {
    local socket
    # A name that begins with a slash is the directory of a socket; it stands in the place of a host, where a slash is written %2F.
    socket=$(sed 's,/,%2F,g' "$state/postgres.dir")
    mkdir -p "$state/fleet/$1"
    cat >"$state/fleet/$1.toml" <<TOML
# Written by make fleet; the annotated example is config/runner-coordinator.toml.
data_dir = "$state/fleet/$1"

[host]
name = "$1"
cpus = 2
memory = "1GiB"

[http]
listen = "127.0.0.1:$((port + ${1#box} - 1))"

[store]
url = "postgres://coordinator@$socket/coordinator"

[fleet]
host_lost_after = "${lost_after}s"
url = "$(at "$1")"

[limits]
infrastructure_retries = 2
retry_backoff = "1s"

[[classes]]
name = "default"
image = "rc-test/busybox:1"
network = "none"
cpus = 1
memory = "128MiB"
tmp_size = "32MiB"
TOML
}

health_is_ok() {
    pid_of "$1" >/dev/null || died "$1" "the daemon of $1 ended"
    curl -sf --max-time 5 "$(at "$1")/health" >/dev/null
}

start_daemon() {
    begin "$1" "$daemon_bin" --config "$state/fleet/$1.toml" serve
    until_true 60 health_is_ok "$1" || died "$1" "the daemon of $1 is not healthy"
    note "$1 works: $(at "$1")"
}

start_daemons() {
    step 'Starting three daemons'
    local box
    for box in "${boxes[@]}"; do
        ! curl -s --max-time 2 "$(at "$box")/" >/dev/null 2>&1 || fail "something else listens at $(at "$box"); choose another port: make fleet PORT=9000"
    done
    for box in "${boxes[@]}"; do
        rm -f "$state/$box.log"
        write_config "$box"
        start_daemon "$box"
    done
}

# submit BOX SCRIPT: a job through the API of that machine; prints its id.
submit() {
    jq -n --arg script "$2" '{command: ["sh", "-c", $script]}' |
        curl -sS --fail-with-body -X POST "$(at "$1")/jobs" -H 'content-type: application/json' --data-binary @- | jq -r .id
}

# is BOX ID FILTER: whether the job's record, as that machine shows it, is as the filter of jq says; it is then in .run/job.json.
is() {
    curl -sf --max-time 5 "$(at "$1")/jobs/$2" >"$state/job.json" && jq -e "$3" "$state/job.json" >/dev/null
}

hosts_list() {
    note "runner-coordinator hosts list --server $(at "$1")"
    "$daemon_bin" hosts list --server "$(at "$1")" | sed 's/^/    | /'
}

shared_queue() {
    step 'Six jobs, all submitted to box1, run on all machines'
    local id ids=()
    for _ in 1 2 3 4 5 6; do
        id=$(submit box1 'echo hello; sleep 3') || died box1 'a job was refused'
        ids+=("$id")
    done
    for id in "${ids[@]}"; do
        until_true 60 is box2 "$id" '.finished_at != null' || died box1 "the job $id did not end"
    done
    note "curl -s '$(at box2)/jobs?limit=6' | jq '.jobs[] | {id, state, host}'"
    curl -sf "$(at box2)/jobs?limit=6" | jq -c '.jobs[] | {id, state, host}' | sed 's/^/    | /'
    hosts_list box3
}

# left_container ID: the container of the job's first attempt.
left_container() {
    docker ps -aq --filter "label=runner-coordinator.job=$1" --filter 'label=runner-coordinator.attempt=1'
}

no_left_container() {
    [ -z "$(left_container "$1")" ]
}

lost_machine() {
    step 'A daemon is killed while a job runs there'
    local id lost other=box1 killed
    id=$(submit box1 'echo hello; sleep 45') || died box1 'the job was refused'
    until_true 60 is box1 "$id" '.state == "running"' || died box1 "the job $id does not run"
    lost=$(jq -r .host "$state/job.json")
    [ "$lost" != box1 ] || other=box2
    kill -KILL "$(pid_of "$lost")"
    rm -f "$state/$lost.pid"
    killed=$SECONDS
    note "the job $id runs on $lost; its daemon was killed (kill -9). Its container runs on: $(left_container "$id")"
    until_true 60 is "$other" "$id" '.attempt == 2 and .state == "running"' || died "$other" "the job $id was not tried again"
    note "$((SECONDS - killed)) s later its second attempt runs on $(jq -r .host "$state/job.json"); how the first ended (GET /jobs/{id}/events):"
    curl -sf "$(at "$other")/jobs/$id/events" | jq -c '.events[] | select(.kind == "attempt_ended") | {attempt, reason, detail}' | indented
    hosts_list "$other"
    step "The daemon of $lost is started again"
    start_daemon "$lost"
    until_true 60 no_left_container "$id" || fail "the container of the first attempt is still there: docker ps -a"
    note "it has taken away the container that it had left. What it says of it (.run/$lost.log):"
    grep 'belongs to no runner' "$state/$lost.log" | indented
    until_true 120 is "$lost" "$id" '.finished_at != null' || died "$other" "the job $id did not end"
    jq -c '{id, state, exit_code, attempt, host}' "$state/job.json" | indented
    [ "$(jq -r .state "$state/job.json")" = succeeded ] || fail 'the second attempt should have succeeded'
    hosts_list "$lost"
}

[ "$(id -u)" = 0 ] || fail 'needs root, to be somebody else: PostgreSQL does not run as root'
tests/make/setup.sh fleet
step 'Ending what an earlier fleet left'
end_fleet
tests/make/engine.sh
build
start_database
start_daemons
shared_queue
lost_machine

step 'The fleet is up'
for box in "${boxes[@]}"; do
    note "page     $(at "$box")/   ($box; logs .run/$box.log, settings .run/fleet/$box.toml)"
done
note 'end it   make stop'
