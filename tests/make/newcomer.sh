# What the README tells a newcomer, done on the machine of systemd.sh, which sources this: from the installed package to a job of GitLab.
# shellcheck shell=bash disable=SC2154

gitlab=
gitlab_url=

# to_gitlab PATH [BODY]: to the control surface of the stand-in for GitLab.
to_gitlab() {
    curl -sS --fail-with-body --max-time 20 -X POST "$gitlab_url/control/$1" -H 'content-type: application/json' --data-binary "${2:-}"
}

in_gitlab() {
    curl -sS --max-time 20 "$gitlab_url/control/jobs/$1" >"$directory/gitlab-job" && jq -e --arg status "$2" '.status == $status' "$directory/gitlab-job"
}

gitlab_answers() {
    gitlab_url=$(head -n 1 "$directory/gitlab.log" 2>/dev/null) && [[ $gitlab_url == http://* ]]
}

# configure_for_gitlab WEBHOOK TOKEN: the README's configuration, with these lines.
configure_for_gitlab() {
    configure "[gitlab]
url = \"$gitlab_url\"
$1

[[classes]]
name = \"docker\"
image = \"rc-test/runner:1\"
tags = [\"docker\"]
cpus = 0.5
memory = \"256MiB\"
$2"
}

takes_gitlabs_jobs() {
    step 'A job of GitLab, set up as the README says'
    local id
    rm -f "$directory/gitlab.log"
    "$(target_directory)/debug/examples/gitlab-stand-in" --listen 127.0.0.1:0 >"$directory/gitlab.log" 2>&1 </dev/null &
    gitlab=$!
    until_true 10 gitlab_answers || fail 'the stand-in for GitLab does not answer'
    configure_for_gitlab '' ''
    must 'gitlab setup makes runner, webhook and the files of their secrets' inside env GITLAB_TOKEN=glpat-stand-in \
        runner-coordinator gitlab setup --url "$gitlab_url" --project team/app --hook-url http://127.0.0.1:8080/webhook/job
    inside sh -c 'chown runner-coordinator /etc/runner-coordinator/gitlab-*'
    configure_for_gitlab 'webhook.signing_token_file = "gitlab-webhook-signing-token"' 'gitlab_token_file = "gitlab-runner-docker"'
    must 'the service takes them' inside systemctl restart "$unit"
    soon 'it is healthy' healthy
    id=$(to_gitlab jobs '{"name": "hello", "project": "team/app", "tags": ["docker"], "script": ["echo hello from $CI_PROJECT_PATH"]}' | jq .id)
    must 'GitLab delivers its Job event' test "$(to_gitlab "jobs/$id/event" | jq .status)" = 200
    soon 'GitLab sees its job succeed' in_gitlab "$id" success
    must 'and has what it wrote' grep -q 'hello from team/app' "$directory/gitlab-job"
    must 'gitlab teardown takes it all away again' inside env GITLAB_TOKEN=glpat-stand-in \
        runner-coordinator gitlab teardown --url "$gitlab_url" --project team/app --yes
    must 'also the files of the secrets' test -z "$(inside find /etc/runner-coordinator -name 'gitlab-*')"
    end_gitlab
    configure '# The defaults serve.'
    inside systemctl restart "$unit"
    soon 'it is healthy' healthy
}

end_gitlab() {
    [ -z "$gitlab" ] || kill -TERM "$gitlab" 2>/dev/null || true
    gitlab=
}
