#!/usr/bin/env bash
# Builds, starts the daemon on its embedded store beside a stand-in for GitLab, and shows the main job: a GitLab Job event that becomes
# a hardened container and whose result comes back; then a plain job through the API. Leaves the daemon running.
#
#   PORT  where the API listens on loopback; default 8080
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

readonly port=${PORT:-8080}
readonly api=http://127.0.0.1:$port
readonly token=$state/gitlab-token secret=$state/webhook-secret
gitlab=
daemon_bin=
gitlab_bin=

build() {
    step 'Building (release)'
    cargo build --locked --release --bin runner-coordinator --example gitlab-stand-in --example stand-in-runner
    local target
    target=$(target_directory)/release
    daemon_bin=$target/runner-coordinator
    gitlab_bin=$target/examples/gitlab-stand-in
    step 'Building the two small images, without a registry'
    tests/images/build "$target/examples/stand-in-runner" 2>&1 | indented
    note 'rc-test/busybox:1 and rc-test/runner:1 are there'
}

# random_secret FILE: writes one that only we can read.
random_secret() {
    (umask 077 && head -c 24 /dev/urandom | base64 | tr '+/' '-_' >"$1")
}

gitlab_is_up() {
    gitlab=$(head -n 1 "$state/gitlab.log" 2>/dev/null)
    [[ $gitlab == http://* ]]
}

start_gitlab() {
    step 'Starting the stand-in for GitLab'
    rm -f "$state/gitlab.log"
    begin gitlab "$gitlab_bin" --listen 127.0.0.1:0
    until_true 10 gitlab_is_up || died gitlab 'the stand-in for GitLab does not answer'
    random_secret "$token"
    random_secret "$secret"
    jq -n --rawfile token "$token" '{token: $token | rtrimstr("\n"), tags: ["demo"]}' | to_gitlab runners >/dev/null
    jq -n --rawfile secret "$secret" --arg url "$api/webhook/job" '{url: $url, secret_token: $secret | rtrimstr("\n")}' | to_gitlab hook
    note "$gitlab, with one runner tagged demo"
}

# to_gitlab PATH: posts the standard input to the stand-in's control surface.
to_gitlab() {
    curl -sS --fail-with-body -X POST "$gitlab/control/$1" -H 'content-type: application/json' --data-binary @-
}

write_config() {
    mkdir -p "$state/data"
    cat >"$state/config.toml" <<TOML
# Written by make run; the annotated example is config/runner-coordinator.toml.
data_dir = "$state/data"

[http]
listen = "127.0.0.1:$port"

[gitlab]
url = "$gitlab"
poll_interval = "60s"
webhook.secret_token_file = "$secret"

# Jobs of the API.
[[classes]]
name = "default"
image = "rc-test/busybox:1"
memory = "128MiB"
tmp_size = "32MiB"

# Jobs of GitLab.
[[classes]]
name = "gitlab"
image = "rc-test/runner:1"
tags = ["demo"]
memory = "256MiB"
tmp_size = "64MiB"
gitlab_token_file = "$token"
TOML
}

health_is_ok() {
    pid_of daemon >/dev/null || died daemon 'the daemon ended'
    curl -sf --max-time 5 "$api/health" >"$state/health.json" 2>/dev/null
}

start_daemon() {
    step "Starting the daemon at $api"
    ! curl -s --max-time 2 "$api/" >/dev/null 2>&1 || fail "something else listens at $api; choose another port: make run PORT=8081"
    write_config
    rm -f "$state/daemon.log"
    begin daemon "$daemon_bin" --config "$state/config.toml" serve
    until_true 60 health_is_ok || {
        curl -s --max-time 5 "$api/health" | jq . >&2 || true
        died daemon 'the daemon is not healthy'
    }
    jq -c . "$state/health.json" | indented
}

# ended_job ID: succeeds once the job of ours has ended; its record is then in .run/job.json.
ended_job() {
    curl -sf --max-time 5 "$api/jobs/$1" >"$state/job.json" && jq -e '.finished_at != null' "$state/job.json" >/dev/null
}

no_container_of() {
    [ -z "$(docker ps -aq --filter "label=runner-coordinator.job=$1")" ]
}

# show_end ID: shows how a job of ours ended, and that nothing of it is left.
show_end() {
    until_true 30 ended_job "$1" || died daemon "the job $1 did not end"
    note 'the record in the coordinator (GET /jobs/{id}):'
    jq '{id, source, state, reason, exit_code, class, attempt, started_at, finished_at, gitlab: (.gitlab // {} | .job_id)}' "$state/job.json" | indented
    until_true 15 no_container_of "$1" || fail "a container of the job $1 is still there: docker ps -a"
    note 'its container is gone (docker ps -a)'
}

# in_gitlab ID STATUS: whether the job has that status in GitLab; its record is then in .run/gitlab-job.json.
in_gitlab() {
    curl -sf --max-time 5 "$gitlab/control/jobs/$1" >"$state/gitlab-job.json" || return 1
    jq -e --arg status "$2" '.status == $status' "$state/gitlab-job.json" >/dev/null
}

main_job() {
    step 'The main job: a Job event of GitLab becomes a hardened container'
    local id delivery ours
    id=$(to_gitlab jobs <<'JSON' | jq .id
{
  "name": "hello", "project": "demo/hello", "tags": ["demo"],
  "script": ["echo \"Hello from job $CI_JOB_ID of $CI_PROJECT_PATH\"", "id", "grep -E 'CapEff|CapBnd|NoNewPrivs|Seccomp:' /proc/self/status"]
}
JSON
    )
    note "GitLab queued job $id of demo/hello"
    delivery=$(to_gitlab "jobs/$id/event" </dev/null)
    note "GitLab delivered its Job event to $api/webhook/job; the answer: $(jq -r '"\(.status) \(.body)"' <<<"$delivery")"
    [ "$(jq .status <<<"$delivery")" = 200 ] || died daemon 'the webhook was refused'
    if ! until_true 90 in_gitlab "$id" success; then
        jq . "$state/gitlab-job.json" >&2 || true
        died daemon "GitLab does not see job $id succeed"
    fi
    note "GitLab sees job $id succeed; its trace in GitLab:"
    jq -r .trace "$state/gitlab-job.json" | sed 's/\x1b\[[0-9;]*[A-Za-z]//g; s/\r/\n/g' | sed 's/^/    | /'
    ours=$(curl -sf "$api/jobs?limit=50" | jq -r --argjson id "$id" '[.jobs[] | select(.gitlab.job_id == $id)][0].id // empty')
    [ -n "$ours" ] || died daemon "the coordinator does not know job $id of GitLab"
    show_end "$ours"
}

# api_job BODY: submits a job, waits for its end, shows log and record.
api_job() {
    local id
    note "curl -s -XPOST $api/jobs -H 'content-type: application/json' -d '$1'"
    id=$(curl -sS --fail-with-body -X POST "$api/jobs" -H 'content-type: application/json' -d "$1" | jq -r .id) || died daemon 'the job was refused'
    until_true 60 ended_job "$id" || died daemon "the job $id did not end"
    note "curl -s $api/jobs/$id/logs"
    curl -sf "$api/jobs/$id/logs" | sed 's/^/    | /'
    show_end "$id"
}

plain_jobs() {
    step 'A plain job through the API: its log and exit code come back'
    api_job '{"command":["sh","-c","echo hello; exit 3"]}'
    [ "$(jq -c '[.state, .exit_code]' "$state/job.json")" = '["failed",3]' ] || fail 'that should have failed with exit code 3'
    step 'What a job may do'
    api_job '{"command":["sh","-c","id; grep -E \"CapEff|CapBnd|NoNewPrivs|Seccomp:\" /proc/self/status; touch /x || echo the root is read-only; touch /tmp/x && echo /tmp can be written"]}'
}

tests/make/setup.sh run
step 'Ending what an earlier run left'
finish daemon 30
finish gitlab 10
tests/make/engine.sh
build
start_gitlab
start_daemon
main_job
plain_jobs

step 'The daemon is up'
note "page     $api/"
note "API      $api   (curl -s $api/status | jq)"
note "logs     .run/daemon.log"
note "settings .run/config.toml"
note "end it   make stop"
